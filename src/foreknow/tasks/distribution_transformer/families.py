"""Families of priors: what a vector of parameters says of a state, in closed form.

Every density here is that of T(x), the state on the real line (`supports`); `Belief.log_prob` turns it into that of x.
Parameters travel as one vector, so that a batch of priors is a matrix.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foreknow.common.errors import InputError
from foreknow.common.validate import check_int
from foreknow.core.predictive import MultivariateMixture
from foreknow.core.records import record

_LEAST_WEIGHT = 1e-6
_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class Family(ABC):
    """A family of priors over a state of d numbers, each with p parameters."""

    name: str

    @property
    @abstractmethod
    def supports(self) -> tuple[str, ...]:
        """Of the d numbers of the state."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the p parameters."""

    @abstractmethod
    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        """T(x) of one state from each prior (n, p): shape (n, d), double precision."""

    @abstractmethod
    def log_prob(self, params: Tensor, t: Tensor) -> Tensor:
        """Log density of T(x) = t, (..., d), under priors (..., p): shape (...)."""

    @abstractmethod
    def features(self, params: Tensor) -> Tensor:
        """Parameters as real numbers of moderate size, shape (..., p): logarithms where they are positive."""

    @abstractmethod
    def project(self, mean: Tensor, cov: Tensor) -> Tensor:
        """Parameters of the member with (nearly) the moments of T(x) given: means (..., d), covariances (..., d, d)."""

    def check(self, params: Tensor) -> None:
        """Refuse parameters that name no member of the family."""
        if params.shape[-1] != len(self.parameters):
            raise InputError(
                f"{self.name}: a prior has {len(self.parameters)} parameters ({', '.join(self.parameters[:6])}), "
                f"got shape {tuple(params.shape)}."
            )
        if not bool(params.isfinite().all()):
            raise InputError(f"{self.name}: parameters must be finite, got NaN or infinity in shape {params.shape}.")

    @property
    def n_dims(self) -> int:
        return len(self.supports)


def _check_positive(family: Family, params: Tensor, columns: tuple[int, ...]) -> None:
    for i in columns:
        low = params[..., i].min() if params.numel() else torch.ones(())
        if not bool(low > 0):
            raise InputError(f"{family.name}: {family.parameters[i]} must be greater than 0, got {float(low):g}.")


def log_gamma_draw(concentration: Tensor, generator: Generator) -> Tensor:
    """Logarithms of gamma draws of rate 1, exact and finite for concentrations near 0 too."""
    base: Tensor = torch._standard_gamma(concentration + 1, generator=generator)
    u = torch.rand(concentration.shape, generator=generator, device=generator.device, dtype=concentration.dtype)
    return base.log() + (1 - u).log() / concentration


@record
@dataclass(frozen=True)
class InverseGammaFamily(Family):
    """A positive number x with 1 / x ~ Gamma(concentration, rate)."""

    name = "inverse-gamma"
    supports = ("positive",)
    parameters = ("concentration", "rate")

    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        return (params[..., 1].log() - log_gamma_draw(params[..., 0], generator)).unsqueeze(-1)

    def log_prob(self, params: Tensor, t: Tensor) -> Tensor:
        a, b, t = params[..., 0], params[..., 1], t[..., 0]
        return a * b.log() - torch.lgamma(a) - a * t - (b.log() - t).exp()

    def features(self, params: Tensor) -> Tensor:
        return params.log()

    def check(self, params: Tensor) -> None:
        super().check(params)
        _check_positive(self, params, (0, 1))

    def project(self, mean: Tensor, cov: Tensor) -> Tensor:
        a = inverse_trigamma(cov[..., 0, 0])
        return torch.stack([a, (mean[..., 0] + torch.digamma(a)).exp()], -1)


@record
@dataclass(frozen=True)
class GammaFamily(Family):
    """A positive number x ~ Gamma(concentration, rate)."""

    name = "gamma"
    supports = ("positive",)
    parameters = ("concentration", "rate")

    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        return (log_gamma_draw(params[..., 0], generator) - params[..., 1].log()).unsqueeze(-1)

    def log_prob(self, params: Tensor, t: Tensor) -> Tensor:
        a, b, t = params[..., 0], params[..., 1], t[..., 0]
        return a * b.log() - torch.lgamma(a) + a * t - (b.log() + t).exp()

    def features(self, params: Tensor) -> Tensor:
        return params.log()

    def check(self, params: Tensor) -> None:
        super().check(params)
        _check_positive(self, params, (0, 1))

    def project(self, mean: Tensor, cov: Tensor) -> Tensor:
        a = inverse_trigamma(cov[..., 0, 0])
        return torch.stack([a, (torch.digamma(a) - mean[..., 0]).exp()], -1)


@record
@dataclass(frozen=True)
class BetaFamily(Family):
    """A number x between 0 and 1, x ~ Beta(a, b)."""

    name = "beta"
    supports = ("unit",)
    parameters = ("a", "b")

    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        return (log_gamma_draw(params[..., 0], generator) - log_gamma_draw(params[..., 1], generator)).unsqueeze(-1)

    def log_prob(self, params: Tensor, t: Tensor) -> Tensor:
        a, b, t = params[..., 0], params[..., 1], t[..., 0]
        beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        return -a * torch.nn.functional.softplus(-t) - b * torch.nn.functional.softplus(t) - beta

    def features(self, params: Tensor) -> Tensor:
        return params.log()

    def check(self, params: Tensor) -> None:
        super().check(params)
        _check_positive(self, params, (0, 1))

    def project(self, mean: Tensor, cov: Tensor) -> Tensor:
        m, v = mean[..., 0], cov[..., 0, 0]
        log_a, log_b = (2 / v).log() + 0.5 * m, (2 / v).log() - 0.5 * m  # the limit of small variances
        log_a, log_b = log_a.clamp(-6, 20), log_b.clamp(-6, 20)
        for _ in range(60):  # Newton on digamma(a) - digamma(b) = m, trigamma(a) + trigamma(b) = v
            a, b = log_a.exp(), log_b.exp()
            f, g = torch.digamma(a) - torch.digamma(b) - m, torch.polygamma(1, a) + torch.polygamma(1, b) - v
            fa, fb = a * torch.polygamma(1, a), -b * torch.polygamma(1, b)
            ga, gb = a * torch.polygamma(2, a), b * torch.polygamma(2, b)
            det = fa * gb - fb * ga
            log_a = log_a - ((f * gb - fb * g) / det).clamp(-1, 1)
            log_b = log_b - ((fa * g - f * ga) / det).clamp(-1, 1)
        return torch.stack([log_a.exp(), log_b.exp()], -1)


@record
@dataclass(frozen=True)
class GaussianGammaFamily(Family):
    """A pair: y ~ N(mean, sd^2) and, independently, a positive number ~ Gamma(concentration, rate)."""

    name = "gaussian-gamma"
    supports = ("real", "positive")
    parameters = ("mean", "sd", "concentration", "rate")

    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        z = torch.randn(params.shape[:-1], generator=generator, device=generator.device, dtype=params.dtype)
        second = log_gamma_draw(params[..., 2], generator) - params[..., 3].log()
        return torch.stack([params[..., 0] + params[..., 1] * z, second], -1)

    def log_prob(self, params: Tensor, t: Tensor) -> Tensor:
        z = (t[..., 0] - params[..., 0]) / params[..., 1]
        normal = -0.5 * z.square() - params[..., 1].log() - _LOG_SQRT_2PI
        return normal + GammaFamily().log_prob(params[..., 2:], t[..., 1:])

    def features(self, params: Tensor) -> Tensor:
        return torch.cat([params[..., :1], params[..., 1:].log()], -1)

    def check(self, params: Tensor) -> None:
        super().check(params)
        _check_positive(self, params, (1, 2, 3))

    def project(self, mean: Tensor, cov: Tensor) -> Tensor:
        normal = torch.stack([mean[..., 0], cov[..., 0, 0].sqrt()], -1)
        return torch.cat([normal, GammaFamily().project(mean[..., 1:], cov[..., 1:, 1:])], -1)


@record
@dataclass(frozen=True)
class MixtureFamily(Family):
    """Gaussian mixtures over T(x) with a fixed number of components, of any dimension.

    A parameter vector holds K log weights, K means, and the lower triangles of K Cholesky factors, row by row.

    Args:
        n_components: K.
        supports: of the numbers of the state; the mixture is over their images on the real line.
    """

    n_components: int = 4
    supports: tuple[str, ...] = ("real",)
    name = "gaussian-mixture"

    def __post_init__(self) -> None:
        check_int("MixtureFamily", "n_components", self.n_components, low=1)

    @property
    def parameters(self) -> tuple[str, ...]:
        d = self.n_dims
        low = [(i, j) for i in range(d) for j in range(i + 1)]
        names = [f"log_weight_{k}" for k in range(self.n_components)]
        names += [f"mean_{k}_{i}" for k in range(self.n_components) for i in range(d)]
        return (*names, *(f"factor_{k}_{i}{j}" for k in range(self.n_components) for i, j in low))

    def mixture(self, params: Tensor) -> MultivariateMixture:
        """The mixture that the parameters (..., p) name."""
        k, d = self.n_components, self.n_dims
        low = torch.tril_indices(d, d)
        logits, means, packed = torch.split(params, [k, k * d, params.shape[-1] - k - k * d], -1)
        factor = torch.zeros(*params.shape[:-1], k, d, d, dtype=params.dtype, device=params.device)
        factor[..., low[0], low[1]] = packed.reshape(*params.shape[:-1], k, -1)
        return MultivariateMixture(logits, means.reshape(*params.shape[:-1], k, d), factor)

    def pack(self, mix: MultivariateMixture) -> Tensor:
        """The parameters of a mixture, which is given K components where it has more or fewer."""
        if mix.n_dims != self.n_dims:
            raise InputError(f"{self.name}: the prior must be over {self.n_dims} number(s), got {mix.n_dims}.")
        mix = mix.with_components(self.n_components)
        low = torch.tril_indices(self.n_dims, self.n_dims)
        packed = mix.scale_tril[..., low[0], low[1]]
        log_weights = mix.log_weights.clamp(min=math.log(_LEAST_WEIGHT))
        return torch.cat([log_weights.log_softmax(-1), mix.means.flatten(-2), packed.flatten(-2)], -1)

    def sample(self, params: Tensor, generator: Generator) -> Tensor:
        return self.mixture(params).sample(1, generator=generator)[0]

    def log_prob(self, params: Tensor, t: Tensor) -> Tensor:
        return self.mixture(params).log_prob(t)

    def features(self, params: Tensor) -> Tensor:
        return params

    def check(self, params: Tensor) -> None:
        super().check(params)
        self.mixture(params)

    def project(self, mean: Tensor, cov: Tensor) -> Tensor:
        logits = torch.zeros(*mean.shape[:-1], 1, dtype=mean.dtype, device=mean.device)
        one = MultivariateMixture.from_covariances(logits, mean.unsqueeze(-2), cov.unsqueeze(-3))
        return self.pack(one)


FAMILIES: dict[str, Family] = {
    family.name: family for family in (InverseGammaFamily(), GammaFamily(), BetaFamily(), GaussianGammaFamily())
}
"""The parametric families by name; mixtures have sizes, so each is made by itself."""


def inverse_trigamma(value: Tensor) -> Tensor:
    """The x > 0 with trigamma(x) = value, by Newton's method on log x."""
    value = value.double().clamp(1e-12, 1e12)
    x = torch.where(value > 1e7, value.rsqrt(), torch.where(value < 1e-6, 1 / value, 0.5 + 1 / value))
    for _ in range(30):
        trigamma = torch.polygamma(1, x)
        step = (trigamma * (1 - trigamma / value) / torch.polygamma(2, x)).clamp(-0.5 * x, 2 * x)
        x = x + step
    return x
