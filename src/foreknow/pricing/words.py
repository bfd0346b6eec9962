"""A price in words."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from foreknow.common import wording
from foreknow.common.wording import figure as figure
from foreknow.viz.priced import measure_name

if TYPE_CHECKING:
    from foreknow.pricing.records import Estimate, Price


def price_line(price: Price) -> str:
    """The price in one sentence, for instance "the prior is worth 6.2x the data [4.1, 9.0], ..."."""
    if not price.comparisons:
        return "no arm to compare with, so no price."
    first = price.comparisons[0]
    unit = price.unit or f"of {measure_name(price.measure)}"
    parts = (
        (first.sample_ratio, f"{number(first.sample_ratio, suffix='x')} the data"),
        (first.code_bits, f"{number(first.code_bits)} bits"),
        (first.difference, f"{number(first.difference, signed=True)} {unit}"),
    )
    worth = ", ".join(text for estimate, text in parts if math.isfinite(estimate.value))
    line = f"the prior is worth {worth}" if worth else "what the prior is worth is not known"
    if math.isfinite(first.time_ratio.value):
        line += f", at {number(first.time_ratio, suffix='x')} the time"
    return f"{line} (against {first.arm})" if first.role != "off" else line


def number(estimate: Estimate, *, suffix: str = "", signed: bool = False) -> str:
    """An estimate as people read it: value, censoring, interval; "unknown" where there is none."""
    return wording.number(dataclasses.asdict(estimate), suffix=suffix, signed=signed)
