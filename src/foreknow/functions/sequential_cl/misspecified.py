"""Forgetting without any approximation: exact Bayesian inference with one parameter for tasks that have two.

y ~ N(theta, s2), theta ~ N(mu0, v0): one update multiplies precisions, so sequence and batch agree exactly; and the
posterior mean of tasks with means theta_1, theta_2 lies between them, good at neither, nearer to the larger task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from foreknow.common.validate import as_vector, check_real


@dataclass(frozen=True)
class NormalMean:
    """A normal belief about a mean.

    Args:
        mean, variance: of the belief.
        noise: variance of one observation.
    """

    mean: float = 0.0
    variance: float = 1.0
    noise: float = 1.0

    def __post_init__(self) -> None:
        check_real("NormalMean", "mean", self.mean)
        for name in ("variance", "noise"):
            check_real("NormalMean", name, getattr(self, name), low=0, open_low=True)

    def update(self, y: ArrayLike) -> NormalMean:
        """The belief after observations."""
        values = as_vector("NormalMean.update", y)
        precision = 1 / self.variance + len(values) / self.noise
        mean = (self.mean / self.variance + float(values.sum()) / self.noise) / precision
        return NormalMean(mean, 1 / precision, self.noise)

    def sequence(self, tasks: Sequence[ArrayLike]) -> list[NormalMean]:
        """The belief after every task."""
        found, belief = [], self
        for y in tasks:
            belief = belief.update(y)
            found.append(belief)
        return found


def logistic_modes(tasks: Sequence[tuple[ArrayLike, ArrayLike]], *, tau: float = 1.0) -> NDArray[np.float64]:
    """Modes of exact posteriors over (slope, offset) of a logistic regression on one column, after every task.

    Args:
        tasks: x (n,) and labels 0 or 1 of each.
        tau: prior precision of both.
    """
    check_real("logistic_modes", "tau", tau, low=0, open_low=True)
    modes, xs, ys = [], np.zeros(0), np.zeros(0)
    for x, y in tasks:
        xs, ys = (
            np.concatenate([xs, as_vector("logistic_modes", x)]),
            np.concatenate([ys, as_vector("logistic_modes", y)]),
        )

        def objective(w: NDArray[np.float64], xs: NDArray[np.float64] = xs, ys: NDArray[np.float64] = ys) -> float:
            logit = w[0] * xs + w[1]
            return float(np.logaddexp(0, logit).sum() - (ys * logit).sum() + 0.5 * tau * w @ w)

        modes.append(optimize.minimize(objective, np.zeros(2), method="BFGS").x)
    return np.array(modes)
