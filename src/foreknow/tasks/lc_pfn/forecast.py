"""`CurveForecast`: what a run will measure at later epochs, as a distribution for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_real
from foreknow.core.predictive import Predictive
from foreknow.data.curves.curve import Curve

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CurveForecast:
    """Predictive distributions of one run, one per epoch.

    They are marginals: each epoch has its own distribution and no path through them is claimed. So the largest of
    `prob_beats(best)` is a lower bound of the probability that the run beats `best` at any of these epochs.

    Args:
        curve: what was known.
        epochs: that are predicted, shape (h,).
        distribution: of the values at these epochs, in the user's units, batch shape (h,).
        minimize: whether smaller values are better.
    """

    curve: Curve
    epochs: Floats
    distribution: Predictive
    minimize: bool = False

    def __post_init__(self) -> None:
        if self.distribution.batch_shape != self.epochs.shape:
            raise InputError(
                f"CurveForecast: {len(self.epochs)} epochs, but distributions of shape {self.distribution.batch_shape}."
            )

    def __len__(self) -> int:
        return len(self.epochs)

    @property
    def mean(self) -> Floats:
        """Expected value at each epoch, shape (h,)."""
        return _numbers(self.distribution.mean())

    def quantile(self, q: float | Sequence[float]) -> Floats:
        """Quantiles of each epoch: shape (h,) for one level, (len(q), h) for several.

        Raises:
            ConfigError: a level is not between 0 and 1.
        """
        many = np.ndim(q) > 0
        levels = [check_real("CurveForecast", "q", level) for level in np.atleast_1d(np.asarray(q)).tolist()]
        if not levels or min(levels) <= 0 or max(levels) >= 1:
            raise ConfigError(f"CurveForecast: q must be numbers between 0 and 1, got {q!r}.")
        found = _numbers(self.distribution.quantile(torch.tensor(levels, dtype=torch.float64)))  # (h, len(q))
        return found.T if many else found[:, 0]

    def log_prob(self, values: ArrayLike) -> Floats:
        """Log density, in nats, of what was measured at `epochs`, shape (h,)."""
        given = np.asarray(values, dtype=np.float64)
        if given.shape != self.epochs.shape:
            raise InputError(f"CurveForecast: {len(self.epochs)} epochs, but values of shape {given.shape}.")
        return _numbers(self.distribution.log_prob(torch.as_tensor(given)))

    def prob_beats(self, best: float) -> Floats:
        """Probability that the value at each epoch is better than `best`, shape (h,)."""
        level = check_real("CurveForecast", "best", best)
        below = _numbers(self.distribution.cdf(torch.full((len(self.epochs),), level, dtype=torch.float64)))
        return below if self.minimize else 1.0 - below


def _numbers(values: torch.Tensor) -> Floats:
    return np.asarray(values.detach().cpu().numpy(), dtype=np.float64)
