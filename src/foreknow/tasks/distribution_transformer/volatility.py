"""Stochastic volatility of a series of returns: parameters by quasi-likelihood, then the filter.

r_t = mean + exp(h_t / 2) e_t,   h_t = level + persistence (h_{t-1} - level) + sd u_t,   e, u ~ N(0, 1)
log (r_t - mean)^2 = h_t + log e_t^2, the last with mean -1.2704 and variance pi^2 / 2 (Harvey, Ruiz, Shephard 1994)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foreknow.common.errors import InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.validate import as_array, check_real
from foreknow.core.predictive import GaussianMixture, MultivariateMixture
from foreknow.tasks.distribution_transformer.beliefs import Belief
from foreknow.tasks.distribution_transformer.filtering import DTFilter, LinearMotion
from foreknow.tasks.distribution_transformer.system import DistributionTransformer

Floats = NDArray[np.float64]
_LOG_CHI2_MEAN, _LOG_CHI2_VARIANCE = -1.2703628454614782, math.pi**2 / 2
_LEAST_RETURNS = 30
_NODES = 21


@dataclass(frozen=True)
class StochasticVolatility:
    """A log variance that wanders around a level.

    Args:
        mean: of the returns.
        level: of the log variance.
        persistence: of its departures from the level, between 0 and 1.
        sd: of its innovations.
    """

    mean: float = 0.0
    level: float = 0.0
    persistence: float = 0.98
    sd: float = 0.15

    def __post_init__(self) -> None:
        owner = "StochasticVolatility"
        check_real(owner, "mean", self.mean)
        check_real(owner, "level", self.level)
        check_real(owner, "persistence", self.persistence, low=0.0, high=0.9999)
        check_real(owner, "sd", self.sd, low=0.0, open_low=True)

    @property
    def stationary_variance(self) -> float:
        """Of the log variance."""
        return self.sd**2 / (1 - self.persistence**2)

    def motion(self) -> LinearMotion:
        """Of h - level."""
        return LinearMotion([[self.persistence]], [[self.sd**2]])

    def start(self) -> Belief:
        """The stationary distribution of h - level."""
        return Belief.normal(0.0, self.stationary_variance)

    def standardised(self, returns: Floats) -> Floats:
        """Returns in units of the level's standard deviation."""
        return np.asarray((returns - self.mean) / math.exp(0.5 * self.level))

    @classmethod
    def estimate(cls, returns: ArrayLike) -> StochasticVolatility:
        """Parameters by Gaussian quasi-likelihood of the log squares: consistent, though not efficient.

        Args:
            returns: shape (n,), NaN where there is none; at least 30.

        Raises:
            InputError: too few returns, or all the same.
        """
        from scipy.optimize import minimize

        values = _returns(returns)
        seen = values[np.isfinite(values)]
        mean = float(seen.mean())
        spread = float(seen.std())
        if not spread > 0:
            raise InputError("StochasticVolatility.estimate: all returns are the same.")
        # a return of exactly the mean says little more than that it was small
        y = np.log(np.maximum(np.square(values - mean), (1e-3 * spread) ** 2)) - _LOG_CHI2_MEAN
        level = float(np.nanmean(y))

        def loss(theta: Floats) -> float:
            persistence, sd = _bounded(theta)
            return -kalman_log_likelihood(y - level, persistence, sd)

        best = min(
            (minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-2, "fatol": 1e-2, "maxiter": 200})
             for start in (np.array([3.0, -1.5]), np.array([1.5, -1.0]))),
            key=lambda found: float(found.fun),
        )  # fmt: skip
        persistence, sd = _bounded(best.x)
        return cls(mean, level, persistence, sd)


@dataclass(frozen=True)
class FilteredVolatility:
    """Volatility of each day given the returns up to it, in the units of the returns.

    Args:
        median, low, high: quantiles 0.5, 0.05 and 0.95 of exp(h / 2), shape (n,).
        log_density: of each return given those before it, in nats; NaN where there was none.
        beliefs: of h - level after each return.
    """

    median: Floats
    low: Floats
    high: Floats
    log_density: Floats
    beliefs: list[MultivariateMixture]


def filter_returns(
    transformer: DistributionTransformer,
    returns: ArrayLike,
    model: StochasticVolatility,
    *,
    progress: ProgressCallback | None = None,
) -> FilteredVolatility:
    """Run a filter over returns, one update a day.

    Args:
        transformer: with a network of the task "volatility".
        returns: shape (n,), NaN where there is none.
        model: see `StochasticVolatility.estimate`.
        progress: told after every tenth day.
    """
    z = model.standardised(_returns(returns))
    flt = DTFilter(transformer, model.motion(), start=model.start())
    reporter = Reporter(progress, len(z))
    beliefs, ahead = [], []
    for i, value in enumerate(z):
        before = flt.predict()
        ahead.append(before)
        beliefs.append(flt.update(None if np.isnan(value) else value))
        if i % 10 == 0:
            reporter.advance(i)
    reporter.advance(len(z))
    whole = join(beliefs).marginal(0)
    levels = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    low, median, high = np.exp(0.5 * (whole.quantile(levels).numpy() + model.level)).T
    density = predictive_log_density(join(ahead).marginal(0), torch.as_tensor(z)).numpy() - 0.5 * model.level
    return FilteredVolatility(median, low, high, density, beliefs)


def join(mixtures: list[MultivariateMixture]) -> MultivariateMixture:
    """Single mixtures as a batch."""
    return MultivariateMixture(*(torch.stack(parts) for parts in zip(*(mix._tensors() for mix in mixtures))))


def predictive_log_density(belief: GaussianMixture, z: Tensor) -> Tensor:
    """Log of E_h N(z; 0, exp h) by Gauss-Hermite quadrature of every component; NaN where z is."""
    nodes, weights = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(_NODES))
    h = belief.means.double().unsqueeze(-1) + belief.sds.double().unsqueeze(-1) * nodes  # (n, K, q)
    log_weight = belief.logits.double().log_softmax(-1).unsqueeze(-1) + (weights / weights.sum()).log()
    density = -0.5 * (h + z.double().square()[:, None, None] * (-h).exp() + math.log(2 * math.pi))
    return torch.logsumexp((log_weight + density).flatten(1), -1)


def kalman_log_likelihood(y: Floats, persistence: float, sd: float) -> float:
    """Gaussian log likelihood of log squares around their level; NaN where there was no return."""
    return float(kalman_beliefs(y, persistence, sd)[2].sum())


def kalman_beliefs(y: Floats, persistence: float, sd: float) -> tuple[Floats, Floats, Floats]:
    """Mean and variance of h - level before each log square, and that log square's log density (0 where NaN)."""
    m, p = 0.0, sd**2 / (1 - persistence**2)
    means, variances, density = np.empty(len(y)), np.empty(len(y)), np.zeros(len(y))
    for t, value in enumerate(y.tolist()):
        if t:
            m, p = persistence * m, persistence**2 * p + sd**2
        means[t], variances[t] = m, p
        if value == value:
            s = p + _LOG_CHI2_VARIANCE
            gap = value - m
            density[t] = -0.5 * (math.log(2 * math.pi * s) + gap * gap / s)
            gain = p / s
            m, p = m + gain * gap, (1 - gain) * p
    return means, variances, density


def _bounded(theta: Floats) -> tuple[float, float]:
    """Persistence and sd of two free numbers."""
    persistence = 0.999 / (1 + math.exp(-float(np.clip(theta[0], -30, 30))))
    return persistence, math.exp(float(np.clip(theta[1], -8, 2)))


def _returns(returns: ArrayLike) -> Floats:
    values = np.asarray(as_array("volatility", returns, name="returns", axes=(1,), allow_nan=True), dtype=np.float64)
    if np.isfinite(values).sum() < _LEAST_RETURNS:
        raise InputError(
            f"volatility: {int(np.isfinite(values).sum())} returns are too few; {_LEAST_RETURNS} are needed."
        )
    return values
