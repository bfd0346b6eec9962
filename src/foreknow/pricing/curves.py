"""Curves of a measure against size, and the places where on loses."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import InputError
from foreknow.pricing.effects import check_level, mean_bounds
from foreknow.pricing.records import Curve, Estimate, Loss


def curve(values: ArrayLike, *, level: float = 0.95, n_boot: int = 2000, rng: np.random.Generator) -> Curve:
    """A measure against size, with an interval of the mean at every size.

    The intervals say how sure one arm's mean is. They do not compare two arms: paired arms can differ for certain where
    these overlap.

    Args:
        values: shape (units, sizes); a size with NaN in all units was not measured, and stays NaN.
        level, n_boot, rng: as in `foreknow.pricing.effects.paired_effect`.
    """
    check_level("curve", level)
    array = _measured("curve", "values", values)
    mean, low, high = _intervals(array, level, n_boot, rng)
    rows = tuple(tuple(unit) for unit in array.tolist())
    return Curve(tuple(mean.tolist()), tuple(low.tolist()), tuple(high.tolist()), rows)


def loses(
    on: Mapping[str, ArrayLike],
    others: Mapping[str, Mapping[str, ArrayLike]],
    sizes: ArrayLike,
    *,
    higher: Collection[str] = (),
    source: str = "",
    level: float = 0.95,
    n_boot: int = 2000,
    rng: np.random.Generator,
) -> tuple[Loss, ...]:
    """Every (arm, size, measure) where the interval of on minus the other lies wholly on the bad side.

    Nothing is corrected for the number of comparisons, since that would hide losses; every loss states how many were
    made and how many would show by chance.

    Args:
        on: measure -> values, shape (units, sizes).
        others: arm -> measure -> values of the same shape; measures that only one of the arms has are left out.
        sizes: shape (sizes,).
        higher: measures of which more is better; of the others less is.
        source: name of the data, copied into every loss.
        level, n_boot, rng: as in `foreknow.pricing.effects.paired_effect`.
    """
    owner = "loses"
    check_level(owner, level)
    n = [int(size) for size in np.asarray(sizes).tolist()]
    found: list[tuple[str, int, str, float, float, float, int]] = []
    n_comparisons = 0
    for arm, measures in others.items():
        for measure in (name for name in on if name in measures):
            mine, theirs = (_measured(owner, f"{measure} of {who}", values) for who, values in
                            (("on", on[measure]), (arm, measures[measure])))  # fmt: skip
            if mine.shape != theirs.shape or mine.shape[1] != len(n):
                raise InputError(
                    f"{owner}: {measure} must have shape (units, {len(n)}) for both arms, got {mine.shape} for on and "
                    f"{theirs.shape} for {arm}."
                )
            mean, low, high = _intervals(mine - theirs, level, n_boot, rng)
            n_comparisons += int(np.isfinite(low).sum())
            bad = high < 0 if measure in higher else low > 0
            found += [(arm, n[i], measure, mean[i], low[i], high[i], len(mine)) for i in np.flatnonzero(bad)]
    note = (
        f"one of {n_comparisons} comparisons, not corrected for their number; about "
        f"{n_comparisons * (1 - level) / 2:.2g} would show by chance"
    )
    return tuple(
        Loss(
            arm,
            size,
            measure,
            Estimate(float(mean), float(low), float(high), level=level, n_units=units, note=note),
            source,
        )
        for arm, size, measure, mean, low, high, units in found
    )


def _intervals(values: NDArray[np.float64], level: float, n_boot: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean, low and high at every size, shape (3, sizes); NaN where nothing was measured."""
    ends = np.full((3, values.shape[1]), np.nan)
    seen = ~np.isnan(values[0])
    rows = values[:, seen].T
    if len(rows):
        ends[:, seen] = rows.mean(1), *mean_bounds(rows, level, n_boot=n_boot, rng=rng)
    return ends


def _measured(owner: str, name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Values (units, sizes) whose columns are finite throughout or NaN throughout."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not len(array):
        raise InputError(f"{owner}: {name} must have shape (units, sizes) with at least one unit, got {array.shape}.")
    bad = ~np.isfinite(array) & ~np.isnan(array).all(0)
    if bad.any():
        unit, size = (int(index) for index in np.argwhere(bad)[0])
        raise InputError(
            f"{owner}: {name} is {array[unit, size]} in unit {unit} at size number {size}, but not in all units.",
            hint="Leave out the whole block of a unit that failed.",
        )
    return array
