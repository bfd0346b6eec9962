"""How many samples each learner needs as the dimension grows, with slopes, intervals and ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from foreknow.common.errors import ConfigError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_real
from foreknow.functions.hierarchical_polynomials.prior import HierarchicalPolynomial

Floats = NDArray[np.float64]
LEAST_DIMENSIONS = 3
"""Dimensions below which no exponent is given."""


@dataclass(frozen=True)
class Slope:
    """Exponent of the samples in the dimension, n* ~ d^value, with a 95% interval over draws.

    NaN where fewer than three dimensions reached the target in every draw.
    """

    value: float
    low: float
    high: float
    n_dimensions: int


@dataclass(frozen=True)
class SampleComplexity:
    """Samples that learners need to bring the loss to a target.

    Args:
        target: loss (mean squared error over the variance of the target).
        n_features: dimensions, D of them.
        samples: learner -> n*, shape (n_draws, D); infinite where the largest size did not reach the target.
        largest: largest size tried, for each learner shape (D,).
    """

    target: float
    n_features: tuple[int, ...]
    samples: Mapping[str, Floats]
    largest: Mapping[str, Floats]

    def slope(self, name: str) -> Slope:
        """The exponent of one learner."""
        return slope_of(np.array(self.n_features, dtype=float), self.samples[name])

    def ratio(self, name: str, to: str) -> list[tuple[float, bool]]:
        """For each dimension n*(name) / n*(to) by medians, and whether that is a lower bound (a censored value)."""
        found = []
        for i in range(len(self.n_features)):
            above, below = (float(np.median(self.samples[arm][:, i])) for arm in (name, to))
            censored = math.isinf(above)
            above = float(self.largest[name][i]) if censored else above
            found.append((math.nan if math.isinf(below) else above / below, censored))
        return found

    def table(self) -> list[list[str]]:
        """Rows of learner, n* for each dimension (">= x" where censored), and slope, for people."""
        rows = []
        for name, values in self.samples.items():
            cells = []
            for i, median in enumerate(np.median(values, axis=0)):
                cells.append(f">= {self.largest[name][i]:.0f}" if math.isinf(median) else f"{median:.0f}")
            slope = self.slope(name)
            words = "-" if math.isnan(slope.value) else f"{slope.value:.2f} ({slope.low:.2f} to {slope.high:.2f})"
            rows.append([name, *cells, words])
        return rows


def crossing(sizes: ArrayLike, values: ArrayLike, target: float) -> float:
    """The size at which falling values reach `target`, interpolated in the logarithm of the size; else infinity.

    Args:
        sizes: increasing.
        values: losses; a value that rises again counts as the least so far.
        target: loss to reach.
    """
    n = np.log(np.asarray(sizes, dtype=np.float64))
    best = np.minimum.accumulate(np.asarray(values, dtype=np.float64))
    reached = np.flatnonzero(best <= target)
    if not len(reached):
        return math.inf
    i = int(reached[0])
    if i == 0 or best[i - 1] == best[i]:
        return float(math.exp(n[i]))
    share = (best[i - 1] - target) / (best[i - 1] - best[i])
    return float(math.exp(n[i - 1] + share * (n[i] - n[i - 1])))


def slope_of(d: Floats, samples: Floats, *, n_boot: int = 2000) -> Slope:
    """Exponent of samples (n_draws, D) in dimensions (D,); draws are resampled for each dimension on its own."""
    use = np.isfinite(samples).all(axis=0)
    if use.sum() < LEAST_DIMENSIONS:
        return Slope(math.nan, math.nan, math.nan, int(use.sum()))
    x, y = np.log(d[use]), np.log(samples[:, use])
    x = x - x.mean()
    fit = (y.mean(axis=0) @ x) / (x @ x)
    rng = numpy_stream(0, "hierarchical-polynomials", "slope")
    index = rng.integers(0, len(y), (n_boot, *y.shape))
    again = np.take_along_axis(y[None].repeat(n_boot, axis=0), index, axis=1).mean(axis=1) @ x / (x @ x)
    low, high = np.quantile(again, [0.025, 0.975])
    return Slope(float(fit), float(low), float(high), int(use.sum()))


def sample_complexity(
    learners: Mapping[str, Any] | Sequence[Any],
    family: HierarchicalPolynomial,
    *,
    n_features: Sequence[int] = (8, 12, 16),
    target: float = 0.3,
    ratios: Sequence[float] = (1, 2, 4, 8, 16, 32),
    max_samples: int = 16_384,
    n_draws: int = 3,
    n_test: int = 4000,
    progress: ProgressCallback | None = None,
) -> SampleComplexity:
    """Samples that each learner needs to bring mean squared error / variance down to `target`.

    Args:
        learners: estimators with `fit` and `predict`, by name or in a list; each is cloned, with the draw as its
            `random_state`.
        family: what targets are drawn from, in other dimensions.
        n_features: dimensions d.
        target: loss to reach.
        ratios: sizes in units of d^k.
        max_samples: no size is larger.
        n_draws: targets a dimension.
        n_test: rows the loss is measured on.
        progress: told after every fit.

    Raises:
        ConfigError: no learner, or settings that are not allowed.
    """
    owner = "sample_complexity"
    named = dict(learners) if isinstance(learners, Mapping) else _named(learners)
    if not named or not len(n_features) or not len(ratios):
        raise ConfigError(f"{owner}: give at least one learner, one dimension and one ratio.")
    check_real(owner, "target", target, low=0, open_low=True)
    check_int(owner, "n_draws", n_draws, low=1)
    dims = sorted({check_int(owner, "n_features", d, low=family.k) for d in n_features})
    grids = {d: sorted({min(max_samples, max(2, round(r * d**family.k))) for r in ratios}) for d in dims}
    reporter = Reporter(progress, len(named) * n_draws * sum(map(len, grids.values())))
    samples = {name: np.full((n_draws, len(dims)), math.inf) for name in named}
    done = 0
    for column, d in enumerate(dims):
        for draw in range(n_draws):
            task = replace(family, n_features=d).task(draw)
            X_test, y_test = task.sample(n_test, part="test")
            X, y = task.sample(grids[d][-1])
            for name, learner in named.items():
                losses: list[float] = []
                for n in grids[d]:
                    fitted = _reseeded(learner, draw).fit(X[:n], y[:n])
                    losses.append(float(np.mean((fitted.predict(X_test) - y_test) ** 2) / y_test.var()))
                    done += 1
                    reporter.advance(done, f"{name}, d = {d}, n = {n}: {losses[-1]:.3f}")
                    if losses[-1] <= target:  # the larger sizes can only confirm it
                        break
                samples[name][draw, column] = crossing(grids[d][: len(losses)], losses, target)
    largest = {name: np.array([grids[d][-1] for d in dims], dtype=float) for name in named}
    return SampleComplexity(target, tuple(dims), samples, largest)


def _named(learners: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for learner in learners:
        name = type(learner).__name__
        found[name if name not in found else f"{name} {len(found) + 1}"] = learner
    return found


def _reseeded(learner: Any, seed: int) -> Any:
    fresh = clone(learner)
    return fresh.set_params(random_state=seed) if "random_state" in fresh.get_params(deep=False) else fresh
