"""What a surrogate is: settings that can be fitted, and a posterior over functions that fitting gives.

Inputs x lie in the unit cube, float64, shape (n, d). Outcomes y are standardised, shape (n, m), larger is better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreknow.core.predictive import Gaussian, GaussianMixture, Predictive
from foreknow.core.prior import Prior

LEAST_VAR = 1e-10


@dataclass(frozen=True)
class Surrogate(ABC):
    """Settings of a surrogate; a frozen dataclass that can be written to files."""

    @abstractmethod
    def prior(self) -> Prior:
        """What it believes before the data."""

    @abstractmethod
    def with_prior(self, prior: Prior) -> Surrogate:
        """The same surrogate with other beliefs.

        Raises:
            ConfigError: it cannot hold these.
        """

    @abstractmethod
    def fit(self, x: Tensor, y: Tensor, *, seed: int) -> Fitted:
        """The posterior given rows x (n, d) of the unit cube and standardised outcomes y (n, m)."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Fitted:
        """What `Fitted.state` described."""


class Fitted(ABC):
    """A posterior over functions, as joint draws or as a Gaussian process.

    Attributes:
        noise: variance of the observations' noise, shape (m,).
        diagnostics: what is known of the fit, such as acceptance and R-hat of chains.
    """

    noise: Tensor
    diagnostics: dict[str, float]

    @property
    def n_outputs(self) -> int:
        return len(self.noise)

    @abstractmethod
    def predictive(self, x: Tensor, output: int = 0) -> Predictive:
        """The distribution of a new observation at each row of x (n, d)."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON values that `Surrogate.restore` needs."""


class Draws(Fitted):
    """Functions drawn from the posterior."""

    @abstractmethod
    def functions(self, x: Tensor, limit: int | None = None) -> Tensor:
        """Values (s, *b, q, m) of the drawn functions at x (*b, q, d); at most `limit` of them, spread evenly."""

    def predictive(self, x: Tensor, output: int = 0) -> Predictive:
        with torch.no_grad():
            means = self.functions(x)[..., output].T  # (n, s)
        sds = self.noise[output].clamp_min(LEAST_VAR).sqrt().expand(means.shape)
        return GaussianMixture(torch.zeros_like(means), means, sds)


class Process(Fitted):
    """A Gaussian process, independent over the outputs."""

    @abstractmethod
    def joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (*b, q, m) and covariance (*b, m, q, q) of the functions at x (*b, q, d)."""

    def predictive(self, x: Tensor, output: int = 0) -> Predictive:
        with torch.no_grad():
            mean, covariance = self.joint(x[:, None, :])  # each row alone: (n, 1, m), (n, m, 1, 1)
        variance = covariance[:, output, 0, 0] + self.noise[output]
        return Gaussian(mean[:, 0, output], variance.clamp_min(LEAST_VAR).sqrt())


def evenly(n: int, limit: int | None) -> Tensor:
    """At most `limit` of the numbers 0..n-1, spread evenly."""
    if limit is None or n <= limit:
        return torch.arange(n)
    return torch.linspace(0, n - 1, limit).round().long()
