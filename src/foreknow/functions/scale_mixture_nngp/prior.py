"""Priors of the variance of the last layer's weights, s2.

Given s2, outputs y at n rows are N(0, s2 C). With q = y' C^-1 y the marginal likelihood of `InverseGamma(a, b)` is that
of a multivariate Student t with 2a degrees of freedom and scale matrix (b/a) C (equation 5 of the paper), that of
`FixedScale` a normal. Others are integrated by importance sampling with the inverse gamma that the likelihood itself
is in s2 (section 4.1): weights H(s2) N(y; 0, s2 C) / proposal(s2).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import ClassVar, Self

import numpy as np
import torch
from scipy import special
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.core.pictures import Lines
from foreknow.core.predictive import Gaussian, GaussianMixture, Predictive, StudentT
from foreknow.core.prior import Draw, Prior
from foreknow.core.records import record
from foreknow.core.registry import register
from foreknow.functions.scale_mixture_nngp.card import CARD
from foreknow.nn.infinite import FullyConnected
from foreknow.nn.linalg import jittered_cholesky

GRID = torch.linspace(-3, 3, 60, dtype=torch.float64)
"""Where drawn functions are shown."""
_A0 = _B0 = 0.5
"""Added to shape and rate of the proposal, so that one row is enough."""


class ScalePrior(Prior):
    """A distribution of the variance of the last layer's weights; a frozen dataclass of its parameters and `known`."""

    card = CARD
    known: bool
    closed_form: ClassVar[bool] = False

    @property
    def parameters(self) -> dict[str, float]:
        """Its numbers by name; all of them greater than 0."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self) if f.name != "known"}  # type: ignore[arg-type]

    def with_parameters(self, values: dict[str, float]) -> Self:
        """The same kind with other numbers."""
        return replace(self, **values)  # type: ignore[type-var]

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in self.parameters:
            check_real(owner, name, getattr(self, name), low=0, open_low=True)
        check_bool(owner, "known", self.known)

    @abstractmethod
    def off(self) -> FixedScale:
        """One value for certain."""

    @abstractmethod
    def log_density(self, s2: Tensor, *parameters: Tensor | float) -> Tensor:
        """Log density at s2 > 0; of these parameters, or of its own if none are given."""

    @abstractmethod
    def _quantile(self, u: Tensor) -> Tensor:
        """Quantiles of s2."""

    def sample_scales(self, n: int, *, generator: Generator) -> Tensor:
        """`n` variances, shape (n,), float64."""
        check_int(type(self).__name__, "n", n, low=1)
        u = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device)
        return self._quantile(u.clamp(1e-12, 1 - 1e-12).cpu())

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` functions of one number at `GRID`, drawn from a wide network of four layers, shape (n, 60).

        `info["scale"]` holds the variance of each one's last layer.
        """
        s2 = self.sample_scales(n, generator=generator)
        k = FullyConnected(4, "relu", 2.0, 0.1, readout_w_var=1.0, readout_b_var=0.0)(GRID[:, None])
        z = torch.randn(len(GRID), n, generator=generator, dtype=torch.float64, device=generator.device).cpu()
        f = s2.sqrt()[:, None] * (jittered_cholesky(k) @ z).T
        place, kind = device or generator.device, dtype or torch.float32
        return Draw(f.to(device=place, dtype=kind), {"scale": s2.to(device=place, dtype=kind)})

    def log_marginal(self, q: Tensor, log_det: Tensor, n: int, *parameters: Tensor | float, n_draws: int) -> Tensor:
        """Log of the integral of H(s2) N(y; 0, s2 C) over s2, in closed form where there is one.

        Args:
            q: y' C^-1 y.
            log_det: log determinant of C.
            n: rows.
            parameters: of the prior, or its own if none are given.
            n_draws: of importance sampling, where it is needed.
        """
        return self.sampled_log_marginal(q, log_det, n, *parameters, n_draws=n_draws)

    def sampled_log_marginal(
        self, q: Tensor, log_det: Tensor, n: int, *parameters: Tensor | float, n_draws: int
    ) -> Tensor:
        """`log_marginal` by importance sampling."""
        _, log_weights = self._weighted(q, log_det, n, *parameters, n_draws=n_draws)
        return torch.logsumexp(log_weights, -1) - math.log(n_draws)

    def predictive(
        self, mean: Tensor, variance: Tensor, q: Tensor, log_det: Tensor, n: int, *, n_draws: int
    ) -> Predictive:
        """What is known of targets with this mean and variance under s2 = 1, given n rows."""
        return self.sampled_predictive(mean, variance, q, log_det, n, n_draws=n_draws)

    def sampled_predictive(
        self, mean: Tensor, variance: Tensor, q: Tensor, log_det: Tensor, n: int, *, n_draws: int
    ) -> Predictive:
        """`predictive` by importance sampling."""
        s2, log_weights = self._weighted(q, log_det, n, n_draws=n_draws)
        return GaussianMixture(log_weights, mean[:, None], (variance[:, None] * s2).sqrt())

    def prior_predictive(self, mean: Tensor, variance: Tensor, *, n_draws: int = 500) -> Predictive:
        """The mixture over the prior itself, nothing learnt of s2: the law of an ensemble of trained networks."""
        u = (torch.arange(n_draws, dtype=torch.float64) + 0.5) / n_draws
        s2 = self._quantile(u).to(mean)
        return GaussianMixture(torch.zeros_like(s2), mean[:, None], (variance[:, None] * s2).sqrt())

    def effective_draws(self, q: Tensor, log_det: Tensor, n: int, *, n_draws: int) -> float:
        """Effective number of importance draws: 1 / sum of squared normalised weights."""
        _, log_weights = self._weighted(q, log_det, n, n_draws=n_draws)
        return float(1 / log_weights.softmax(-1).square().sum())

    def _weighted(
        self, q: Tensor, log_det: Tensor, n: int, *parameters: Tensor | float, n_draws: int
    ) -> tuple[Tensor, Tensor]:
        """Draws of s2 and their log importance weights, shape (n_draws,)."""
        shape, rate = 0.5 * n + _A0, 0.5 * q + _B0
        s2 = rate / _gamma_midpoints(shape, n_draws).to(q)
        log_likelihood = -0.5 * n * (2 * math.pi * s2).log() - 0.5 * log_det - 0.5 * q / s2
        return s2, self.log_density(s2, *parameters) + log_likelihood - _log_inverse_gamma(s2, shape, rate)

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """`n` functions of one number, each with its own variance: most are small, some are very large."""
        drawn = self.sample(n, generator=generator, dtype=torch.float64)
        scales = drawn.info["scale"].tolist()
        lines = {f"s2 = {s2:.2g} ({i + 1})": f.cpu().numpy() for i, (s2, f) in enumerate(zip(scales, drawn.value))}
        return Lines(GRID.numpy(), lines, "x", "f(x)", title=f"Functions of {self!r}")


@register(CARD)
@dataclass(frozen=True)
class InverseGamma(ScalePrior):
    """s2 ~ InverseGamma(a, b): outputs are a Student t process with 2a degrees of freedom.

    Args:
        a: shape; the tail of s2 is a power law with this exponent.
        b: scale.
        known: whether a, b and the size of the last layer are taken as given instead of fitted to the data.
    """

    a: float = 2.0
    b: float = 2.0
    known: bool = False

    closed_form: ClassVar[bool] = True

    def off(self) -> FixedScale:
        """The variance is b/a for certain: the limit of a, b -> infinity at that ratio."""
        return FixedScale(self.b / self.a, known=self.known)

    def log_density(self, s2: Tensor, *parameters: Tensor | float) -> Tensor:
        a, b = parameters or (self.a, self.b)
        return _log_inverse_gamma(s2, a, b)

    def _quantile(self, u: Tensor) -> Tensor:
        return torch.from_numpy(self.b / special.gammainccinv(self.a, u.numpy()))

    def log_marginal(self, q: Tensor, log_det: Tensor, n: int, *parameters: Tensor | float, n_draws: int = 0) -> Tensor:
        a, b = (torch.as_tensor(value, dtype=q.dtype, device=q.device) for value in parameters or (self.a, self.b))
        gain = torch.lgamma(a + 0.5 * n) - torch.lgamma(a)
        # (a + n/2) log(b + q/2) - a log b = a log1p(q / 2b) + n/2 log(b + q/2), which stays exact for huge a and b.
        power = a * torch.log1p(0.5 * q / b) + 0.5 * n * (b + 0.5 * q).log()
        return gain - power - 0.5 * log_det - 0.5 * n * math.log(2 * math.pi)

    def predictive(
        self, mean: Tensor, variance: Tensor, q: Tensor, log_det: Tensor, n: int, *, n_draws: int = 0
    ) -> Predictive:
        df = 2 * self.a + n
        return StudentT(df, mean, ((2 * self.b + q) / df * variance).sqrt())

    def prior_predictive(self, mean: Tensor, variance: Tensor, *, n_draws: int = 0) -> Predictive:
        return StudentT(2 * self.a, mean, (self.b / self.a * variance).sqrt())

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(0.5, 3.0), cls(50.0, 1250.0, known=True)]


@register(CARD)
@dataclass(frozen=True)
class BurrXII(ScalePrior):
    """s2 ~ Burr XII: density c k s2^(c-1) / (1 + s2^c)^(k+1).

    Args:
        c, k: shapes; the tail of s2 is a power law with exponent c k.
        known: whether they and the size of the last layer are taken as given instead of fitted to the data.
    """

    c: float = 2.0
    k: float = 1.0
    known: bool = False

    def off(self) -> FixedScale:
        """The variance is the median for certain."""
        return FixedScale((2 ** (1 / self.k) - 1) ** (1 / self.c), known=self.known)

    def log_density(self, s2: Tensor, *parameters: Tensor | float) -> Tensor:
        c, k = (torch.as_tensor(value, dtype=s2.dtype, device=s2.device) for value in parameters or (self.c, self.k))
        log_s2 = s2.log()
        return (c * k).log() + (c - 1) * log_s2 - (k + 1) * torch.nn.functional.softplus(c * log_s2)

    def _quantile(self, u: Tensor) -> Tensor:
        return torch.expm1(-torch.log1p(-u) / self.k) ** (1 / self.c)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(3.0, 0.5)]


@register(CARD)
@dataclass(frozen=True)
class LogNormal(ScalePrior):
    """The logarithm of s2 is normal.

    Args:
        median: of s2.
        sd: of log s2.
        known: whether they and the size of the last layer are taken as given instead of fitted to the data.
    """

    median: float = 1.0
    sd: float = 1.0
    known: bool = False

    def off(self) -> FixedScale:
        """The variance is the median for certain."""
        return FixedScale(self.median, known=self.known)

    def log_density(self, s2: Tensor, *parameters: Tensor | float) -> Tensor:
        median, sd = (
            torch.as_tensor(value, dtype=s2.dtype, device=s2.device) for value in parameters or (self.median, self.sd)
        )
        z = (s2.log() - median.log()) / sd
        return -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - sd.log() - s2.log()

    def _quantile(self, u: Tensor) -> Tensor:
        return torch.from_numpy(self.median * np.exp(self.sd * special.ndtri(u.numpy())))

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(4.0, 0.3)]


@record
@dataclass(frozen=True)
class FixedScale(ScalePrior):
    """s2 is one value for certain: the plain Gaussian process of the network, and the control arm of the others.

    Args:
        value: the variance.
        known: False lets the size of the last layer be fitted to the data (a tuned scale); True does not.
    """

    value: float = 1.0
    known: bool = False

    closed_form: ClassVar[bool] = True

    def off(self) -> FixedScale:
        return self

    def log_density(self, s2: Tensor, *parameters: Tensor | float) -> Tensor:
        raise ConfigError("FixedScale: a single value has no density.")

    def _quantile(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.value)

    def log_marginal(self, q: Tensor, log_det: Tensor, n: int, *parameters: Tensor | float, n_draws: int = 0) -> Tensor:
        (value,) = (torch.as_tensor(v, dtype=q.dtype, device=q.device) for v in parameters or (self.value,))
        return -0.5 * (n * (2 * math.pi * value).log() + log_det + q / value)

    def predictive(
        self, mean: Tensor, variance: Tensor, q: Tensor, log_det: Tensor, n: int, *, n_draws: int = 0
    ) -> Predictive:
        return self.prior_predictive(mean, variance)

    def prior_predictive(self, mean: Tensor, variance: Tensor, *, n_draws: int = 0) -> Predictive:
        return Gaussian(mean, (self.value * variance).sqrt())


def _log_inverse_gamma(s2: Tensor, a: Tensor | float, b: Tensor | float) -> Tensor:
    a, b = torch.as_tensor(a, dtype=s2.dtype, device=s2.device), torch.as_tensor(b, dtype=s2.dtype, device=s2.device)
    return a * b.log() - torch.lgamma(a) - (a + 1) * s2.log() - b / s2


@lru_cache(maxsize=64)
def _gamma_midpoints(shape: float, n: int) -> Tensor:
    """Gamma(shape, 1) at the midpoints of `n` parts of equal probability."""
    return torch.from_numpy(special.gammaincinv(shape, (np.arange(n) + 0.5) / n))
