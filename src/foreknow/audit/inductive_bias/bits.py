"""The record of a number of bits, and what every estimator asks of a sample of losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import InputError
from foreknow.common.validate import check_option

RUNGS = ("counting", "parametric", "saddlepoint", "splitting", "prequential", "evidence")
SIGNS = ("=", ">=", "<=")
MIN_DRAWS = 20
"""Fewer losses than this are only counted: a law fitted to them says more about itself than about them."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bits:
    """A number of bits, -log2 of a probability, with how it was found.

    Args:
        value: the bits.
        low, high: ends of the 95% interval; NaN where there is none.
        rung: the estimator, one of `RUNGS`.
        extrapolated: whether it rests on a fitted law below the smallest loss that was sampled.
        sign: "=", or ">=" ("<=") where the number is only known to be at least (at most) `value`.
        note: what a reader must know besides.
        spread: the same number by each fitted law, or of each order of a prequential code; inf where a law rules the
            event out.
    """

    value: float
    low: float
    high: float
    rung: str
    extrapolated: bool = False
    sign: str = "="
    note: str = ""
    spread: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_option("Bits", "rung", self.rung, RUNGS)
        check_option("Bits", "sign", self.sign, SIGNS)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON types; numbers that are not finite become None."""
        plain = {name: value for name, value in vars(self).items() if not isinstance(value, float | Mapping)}
        numbers = {name: _finite(getattr(self, name)) for name in ("value", "low", "high")}
        return {**numbers, **plain, "spread": {name: _finite(value) for name, value in self.spread.items()}}


@dataclass(frozen=True)
class BitsCurve:
    """Bits against the error that is asked for."""

    eps: tuple[float, ...]
    bits: tuple[Bits, ...]

    @property
    def values(self) -> Array:
        """The bits as an array, shape (n_eps,)."""
        return np.array([item.value for item in self.bits])


def check_losses(owner: str, losses: ArrayLike, *, name: str = "losses") -> Array:
    """A sample of losses, shape (S,), one per hypothesis.

    Raises:
        InputError: not one axis, none at all, a loss that is no finite number (by draw), or all the same.
    """
    try:
        sample = np.asarray(losses, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{owner}: {name} must be numbers, one per hypothesis: {error}") from error
    if sample.ndim != 1 or not len(sample):
        raise InputError(f"{owner}: {name} must have shape (n_draws,), n_draws >= 1, got {sample.shape}.")
    bad = np.flatnonzero(~np.isfinite(sample))
    if len(bad):
        raise InputError(
            f"{owner}: {name} must be finite, draw {bad[0]} is {sample[bad[0]]} ({len(bad)} in all).",
            hint="A training that diverged is no hypothesis that fits the data; find out why before leaving it out.",
        )
    if sample.min() == sample.max():
        raise InputError(
            f"{owner}: all {len(sample)} {name} are {sample[0]:g}, so they say nothing about how rare a loss is.",
            hint="Draw from more than one hypothesis, and score them on more test rows.",
        )
    return sample


def check_eps(owner: str, eps: float, *, noise: float = 0.0) -> float:
    """A target loss that some hypothesis could reach.

    Raises:
        InputError: not a finite number, or not above the irreducible `noise`.
    """
    number = float(eps) if np.ndim(eps) == 0 else math.nan
    if not math.isfinite(number):
        raise InputError(f"{owner}: eps must be one finite number, the loss to reach, got {eps!r:.80}.")
    if number <= noise:
        raise InputError(
            f"{owner}: eps={number:g} is not above the loss {noise:g} that no hypothesis can go below, "
            "so every arm needs infinitely many bits.",
            hint="Ask for a larger eps.",
        )
    return number


def is_discrete(losses: Array) -> bool:
    """Whether most losses are tied (error rates), so that no continuous law fits them."""
    return len(np.unique(losses)) <= len(losses) / 2


def above_median(losses: Array, eps: float) -> str:
    """The note for a target that most hypotheses reach, else nothing."""
    if (losses <= eps).mean() > 0.5:
        return "eps is above the median loss: less than one bit, uninformative"
    return ""


def join(*notes: str) -> str:
    """The notes that say something, as one line."""
    return "; ".join(note for note in notes if note)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
