"""A price in words."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from foreknow.common import wording
from foreknow.common.wording import figure as figure

if TYPE_CHECKING:
    from foreknow.pricing.records import Estimate, Price


def price_line(price: Price) -> str:
    """The price in one sentence, for instance "the prior is worth 6.2x the data [4.1, 9.0], ..."."""
    if not price.comparisons:
        return "no arm to compare with, so no price."
    first = price.comparisons[0]
    parts = [f"{number(first.sample_ratio, suffix='x')} the data"]
    if math.isfinite(first.code_bits.value):
        parts.append(f"{number(first.code_bits)} bits")
    unit = f" {price.unit}" if price.unit else f" {price.measure}"
    parts.append(f"{number(first.difference, signed=True)}{unit}")
    line = f"the prior is worth {', '.join(parts)}, at {number(first.time_ratio, suffix='x')} the time"
    return f"{line} (against {first.arm})" if first.role != "off" else line


def number(estimate: Estimate, *, suffix: str = "", signed: bool = False) -> str:
    """An estimate as people read it: value, censoring, interval; "unknown" where there is none."""
    return wording.number(dataclasses.asdict(estimate), suffix=suffix, signed=signed)
