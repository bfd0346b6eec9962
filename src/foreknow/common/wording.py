"""Numbers and names as people read them, for the terminal, pages and pictures alike."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import Any

_UNSEEN = frozenset({"Cc", "Cs", "Cn"})
_REORDERING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def figure(value: float) -> str:
    """Two or three digits that matter."""
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def three_digits(value: float) -> str:
    """Three digits that matter, zeros at the end kept: for columns of numbers that may lie close together."""
    return figure(value) if value == 0 or abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def known(value: float | None) -> bool:
    """Whether `value` is a finite number: records hold NaN, their JSON None, where there is none."""
    return value is not None and math.isfinite(value)


def number(estimate: Mapping[str, Any], *, suffix: str = "", signed: bool = False) -> str:
    """An estimate as people read it: value, censoring, interval; "unknown" where there is none.

    Args:
        estimate: the fields of a `foreknow.pricing.records.Estimate`.
        suffix: stands right after the value.
        signed: whether a positive value gets a plus sign.
    """
    if not known(estimate["value"]):
        return "unknown"
    sign = "" if estimate["sign"] == "=" else f"{estimate['sign']} "
    plus = "+" if signed and estimate["value"] > 0 else ""
    text = f"{sign}{plus}{figure(estimate['value'])}{suffix}{interval(estimate['low'], estimate['high'])}"
    return text + (" (extrapolated)" if estimate["extrapolated"] else "")


def interval(low: float | None, high: float | None) -> str:
    """The interval in brackets after a space, or nothing where an end is not known."""
    if low is None or high is None or not (known(low) and known(high)):
        return ""
    return f" [{figure(low)}, {figure(high)}]"


def printable(text: str) -> str:
    """`text` on one line, with a replacement character for whatever a page or a terminal must not be given.

    Control characters, halves of characters and marks that reorder what follows are replaced.
    """
    line = " ".join(text.split())
    if line.isascii() and line.isprintable():
        return line
    return "".join("\ufffd" if unicodedata.category(c) in _UNSEEN or c in _REORDERING else c for c in line)
