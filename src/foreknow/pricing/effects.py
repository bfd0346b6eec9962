"""Effects over paired units: differences, ratios, and the one-sided test behind a verdict.

A unit is what was drawn independently: a seed, a data set, a patient. Both arms met every unit, so the units carry the
uncertainty and nothing inside a unit does. With 5 to 20 of them the plain percentile bootstrap is too narrow (95%
covers 84% at 5), Student's t misses on the long side of skewed differences, and the studentised bootstrap is too short
for heavy tails. The interval here takes at each end the wider of Student's t and a damped studentised bootstrap;
`benchmarks/price_statistics.py` measures what it covers, docs/price-statistics.md says what that is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import as_vector, check_int, check_option, check_real
from foreknow.pricing.records import Estimate

_DAMPING = 0.1
"""Share of the sample's variance in that of every resample: a resample of ties has none of its own to divide by."""

_CHUNK = 4_000_000
"""Numbers held at once by the bootstrap."""


def paired_effect(
    differences: ArrayLike,
    *,
    level: float = 0.95,
    margin: float | None = None,
    n_boot: int = 2000,
    rng: np.random.Generator,
) -> Estimate:
    """Mean paired difference with an interval that covers with few units.

    Args:
        differences: one number a unit, shape (n,); on minus the other arm.
        level: confidence of the interval, inside ]0, 1[.
        margin: the largest difference that counts as none; two one-sided tests at 5% each then say whether |mean| is
            smaller, in `equivalent`. "False" is "not shown", not "different".
        n_boot: resamples.
        rng: source of randomness, for instance `numpy_stream(seed, "bootstrap")`.

    Returns:
        The mean. One unit has no interval: its ends are NaN and nothing is shown to be equivalent.
    """
    owner = "paired_effect"
    check_level(owner, level)
    d = _units(owner, "differences", differences)
    if margin is not None:
        check_real(owner, "margin", margin, low=0, open_low=True)
    low, high = (float(end[0]) for end in mean_bounds(d[None], level, n_boot=n_boot, rng=rng))
    note = ""
    if len(d) == 1:
        note = "one unit: no interval"
    elif not np.ptp(d):
        note = f"all {len(d)} units agree to the last digit: the interval has no width and says little"
    found = Estimate(float(d.mean()), low, high, level=level, n_units=len(d), note=note)
    if margin is None:
        return found
    inner_low, inner_high = mean_bounds(d[None], 0.9, n_boot=n_boot, rng=rng)
    return replace(found, equivalent=bool(inner_low[0] > -margin and inner_high[0] < margin), margin=float(margin))


def ratio_effect(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    rng: np.random.Generator,
) -> Estimate:
    """Ratio of geometric means over paired units, for seconds and memory.

    Args:
        numerator, denominator: one number >= 0 a unit, shape (n,).
        level, n_boot, rng: as in `paired_effect`.

    Returns:
        The ratio; NaN with a note where a unit has a zero, for then there is none.
    """
    owner = "ratio_effect"
    check_level(owner, level)
    top, bottom = _units(owner, "numerator", numerator), _units(owner, "denominator", denominator)
    if len(top) != len(bottom):
        raise InputError(f"{owner}: numerator has {len(top)} units and denominator {len(bottom)}; they must be paired.")
    if min(top.min(), bottom.min()) < 0:
        raise InputError(f"{owner}: numerator and denominator must be >= 0, got {min(top.min(), bottom.min()):g}.")
    zeros = int(((top == 0) | (bottom == 0)).sum())
    if zeros:
        return Estimate(math.nan, level=level, n_units=len(top), note=f"{zeros} of {len(top)} units measured zero")
    found = paired_effect(np.log(top) - np.log(bottom), level=level, n_boot=n_boot, rng=rng)
    value, low, high = (math.exp(log) for log in (found.value, found.low, found.high))
    return replace(found, value=value, low=low, high=high)


def holds(
    differences: ArrayLike,
    *,
    bound: float,
    side: str,
    alpha: float = 0.05,
    n_boot: int = 2000,
    rng: np.random.Generator,
) -> bool:
    """Whether the mean difference is shown to lie beyond `bound`: the test behind the word "held".

    Args:
        differences: one number a unit, shape (n,). One unit shows nothing.
        bound: the claim's bound.
        side: "below" (the mean is smaller than the bound) or "above".
        alpha: chance of "held" where the mean lies on the bound, inside ]0, 0.5[. With skewed differences and few
            units it is more than that; docs/price-statistics.md has the numbers.
        n_boot, rng: as in `paired_effect`.
    """
    owner = "holds"
    check_option(owner, "side", side, ("below", "above"))
    check_real(owner, "bound", bound)
    if check_real(owner, "alpha", alpha, low=0, high=0.5, open_low=True) >= 0.5:
        raise ConfigError(f"{owner}: alpha must be less than 0.5, got {alpha}.")
    d = _units(owner, "differences", differences)
    low, high = mean_bounds(d[None], 1 - 2 * alpha, n_boot=n_boot, rng=rng)
    return bool(high[0] < bound if side == "below" else low[0] > bound)


def mean_bounds(
    rows: NDArray[np.float64], level: float, *, n_boot: int = 2000, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the interval of every row's mean; each misses on its own side with about (1 - level) / 2.

    Args:
        rows: finite numbers, shape (m, n); the columns are the units, and all rows meet the same resamples.
        level, n_boot, rng: as in `paired_effect`.

    Returns:
        Lower and upper ends, each of shape (m,); NaN if n is 1.
    """
    check_int("mean_bounds", "n_boot", n_boot, low=1)
    n = rows.shape[1]
    if n == 1:
        nothing = np.full(len(rows), math.nan)
        return nothing, nothing.copy()
    mean, sd = rows.mean(1, keepdims=True), rows.std(1, ddof=1, keepdims=True)
    z = (rows - mean) / np.where(sd > 0, sd, 1.0)
    studentised = np.empty((len(rows), n_boot))
    step = max(1, _CHUNK // n)
    for start in range(0, n_boot, step):
        weights = _resamples(min(step, n_boot - start), n, rng).T / n
        means = z @ weights
        variance = np.maximum(z**2 @ weights - means**2, 0.0) * n / (n - 1)
        studentised[:, start : start + step] = means / np.sqrt((1 - _DAMPING) * variance + _DAMPING)
    tail = (1 - level) / 2
    lower, upper = np.quantile(studentised, [tail, 1 - tail], axis=1)
    student = stats.t.isf(tail, n - 1) / math.sqrt(n)
    centre, scale = mean[:, 0], sd[:, 0]
    return centre - scale * np.maximum(student, upper), centre + scale * np.maximum(student, -lower)


def check_level(owner: str, level: float) -> None:
    """Refuse a confidence level that is not inside ]0, 1[."""
    if check_real(owner, "level", level, low=0, high=1, open_low=True) >= 1:
        raise ConfigError(f"{owner}: level must be less than 1, got {level}.")


def _resamples(n_boot: int, n: int, rng: np.random.Generator) -> NDArray[Any]:
    """How often each of n units is in each resample, shape (n_boot, n)."""
    drawn = rng.integers(0, n, (n_boot, n)) + n * np.arange(n_boot)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_boot * n).reshape(n_boot, n)


def _units(owner: str, name: str, values: ArrayLike) -> NDArray[np.float64]:
    d = as_vector(owner, values, name=name)
    if not len(d):
        raise InputError(f"{owner}: {name} is empty; at least one unit is required.")
    return d
