"""The sample ratio: how many times the data the other arm needs to reach the same loss.

Both mean curves are made non-increasing (isotonic regression) and read off linearly in log n. The arm that is worse
at the largest size n_max sets the target; the ratio is n_max over the size at which the better arm is there, and its
inverse where the better arm is the other. So swapping the arms inverts the ratio.

The interval inverts the paired test: a ratio r stays in it if on with n_max / r data and the other with n_max (below 1:
on with n_max, the other with r n_max) are not told apart by `mean_bounds` over the units, whose resamples take both
curves together. So the interval leaves out 1 exactly where the paired difference of the (isotonic) curves leaves out 0.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import isotonic_regression

from foreknow.common.errors import InputError
from foreknow.common.validate import as_matrix, as_vector
from foreknow.pricing.effects import check_level, mean_bounds
from foreknow.pricing.records import Estimate

_STEPS = 16
"""Ratios looked at between two neighbouring sizes."""

_ROUNDING = 1e-12
"""Gaps below this share of the largest loss are rounding."""


def sample_ratio(
    sizes: ArrayLike,
    losses_on: ArrayLike,
    losses_other: ArrayLike,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    rng: np.random.Generator,
) -> Estimate:
    """Times the data that the other arm needs; above 1 where on is the better at the largest size.

    Args:
        sizes: training sizes, positive and increasing, shape (s,).
        losses_on, losses_other: lower is better, shape (units, s); the units are paired.
        level: confidence of the interval, inside ]0, 1[.
        n_boot: resamples.
        rng: source of randomness, for instance `numpy_stream(seed, "bootstrap")`.

    Returns:
        The ratio; ">=" where on is there at the smallest size already, "<=" where the other arm is. The note says where
        an end of the interval is the edge of the sizes. NaN if there is one size only.
    """
    owner = "sample_ratio"
    check_level(owner, level)
    n = as_vector(owner, sizes, name="sizes")
    on = as_matrix(owner, losses_on, name="losses_on")
    other = as_matrix(owner, losses_other, name="losses_other")
    if not len(n) or (n <= 0).any() or (np.diff(n) <= 0).any():
        raise InputError(f"{owner}: sizes must be positive and increasing, got {n.tolist()!s:.80}.")
    if on.shape != other.shape or on.shape[1] != len(n):
        raise InputError(
            f"{owner}: losses must have shape (units, {len(n)}) for both arms, got {on.shape} and {other.shape}."
        )
    if len(n) == 1:
        return Estimate(math.nan, level=level, n_units=len(on), note="one size: there is no curve to read a ratio from")
    grid = np.log(n) - math.log(n[-1])
    on, other = _monotone(on), _monotone(other)
    at, gaps = _gaps(grid, on, other)
    mean = gaps.mean(1)
    value, sign = _crossing(at, np.where(np.abs(mean) > _ROUNDING * np.abs(on).max(), mean, 0.0))
    low, high = mean_bounds(gaps, level, n_boot=n_boot, rng=rng)
    found = Estimate(math.exp(value), sign=sign, level=level, n_units=len(on), note="one unit: no interval")
    if len(on) == 1:
        return found
    ends = _before(at, -high, value), -_before(-at[::-1], low[::-1], -value)
    edges = [name for name, end, edge in zip(("lower", "upper"), ends, at[[0, -1]], strict=True) if end == edge]
    said = f"the sizes reach no further than the {' and '.join(edges)} end of the interval" if edges else ""
    return replace(found, low=math.exp(ends[0]), high=math.exp(ends[1]), note=said)


def _monotone(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every unit's curve averaged over the flat parts of the isotonic mean curve, so that their mean is that curve."""
    fitted = isotonic_regression(losses.mean(0), increasing=False)
    starts = np.flatnonzero(np.diff(fitted, prepend=math.inf))
    lengths = np.diff(starts, append=len(fitted))
    averaged: NDArray[np.float64] = np.repeat(np.add.reduceat(losses, starts, axis=1) / lengths, lengths, axis=1)
    return averaged


def _gaps(
    grid: NDArray[np.float64], on: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log ratios from edge to edge, and at each the loss of on minus that of the other, shape (ratios, units)."""
    knots = np.arange(len(grid))
    fine = np.interp(np.linspace(0, len(grid) - 1, _STEPS * (len(grid) - 1) + 1), knots, grid)  # rises to 0
    on_curve, other_curve = (np.array([np.interp(fine, grid, unit) for unit in arm]).T for arm in (on, other))
    worth_less = on[:, -1] - other_curve[:-1]
    worth_more = on_curve[::-1] - other[:, -1]
    return np.concatenate([fine[:-1], -fine[::-1]]), np.concatenate([worth_less, worth_more])


def _crossing(at: NDArray[np.float64], gap: NDArray[np.float64]) -> tuple[float, str]:
    """Where the rising mean gap is zero: nearest to no effect where it is zero on a stretch; and the censoring."""
    if gap[0] > 0:
        return float(at[0]), "<="
    if gap[-1] < 0:
        return float(at[-1]), ">="
    left, right = np.searchsorted(gap, 0.0, side="left"), np.searchsorted(gap, 0.0, side="right") - 1
    if left <= right:  # met exactly
        return float(np.clip(0.0, at[left], at[right])), "="
    return float(np.interp(0.0, gap[[right, left]], at[[right, left]])), "="


def _before(at: NDArray[np.float64], score: NDArray[np.float64], value: float) -> float:
    """The last place before `value` where the score, positive where a ratio is ruled out, falls to zero."""
    ruled_out = np.flatnonzero((score > 0) & (at < value))
    if not len(ruled_out):
        return float(at[0])
    i = ruled_out[-1]
    if i + 1 == len(at) or score[i + 1] > 0:
        return value
    return float(min(np.interp(0.0, [-score[i], -score[i + 1]], [at[i], at[i + 1]]), value))
