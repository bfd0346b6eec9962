"""What is believed of a state: before the observations a member of a family, after them a mixture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from foreknow.common.errors import CapabilityError, InputError
from foreknow.core.predictive import MultivariateMixture, Predictive, Transformed
from foreknow.core.predictive._numerics import as_tensor
from foreknow.tasks.distribution_transformer.families import (
    BetaFamily,
    Family,
    GammaFamily,
    GaussianGammaFamily,
    InverseGammaFamily,
    MixtureFamily,
)
from foreknow.tasks.distribution_transformer.supports import from_real, log_slope, to_real, transform_of


class Belief:
    """A prior over a state, one or a batch, as `DistributionTransformer.update` takes it.

    Args:
        family: which kind of distribution.
        params: parameters, shape (*batch, p).

    Raises:
        InputError: parameters that name no member of the family.
    """

    def __init__(self, family: Family, params: ArrayLike | Tensor) -> None:
        self.family = family
        self.params = as_tensor("Belief", "params", params).double()
        family.check(self.params)

    @classmethod
    def inverse_gamma(cls, concentration: ArrayLike, rate: ArrayLike) -> Belief:
        """A positive number whose inverse is gamma distributed; its density falls as x^-(concentration + 1)."""
        return cls(InverseGammaFamily(), _columns(concentration, rate))

    @classmethod
    def gamma(cls, concentration: ArrayLike, rate: ArrayLike) -> Belief:
        """A positive number with mean concentration / rate."""
        return cls(GammaFamily(), _columns(concentration, rate))

    @classmethod
    def beta(cls, a: ArrayLike, b: ArrayLike) -> Belief:
        """A number between 0 and 1 with mean a / (a + b)."""
        return cls(BetaFamily(), _columns(a, b))

    @classmethod
    def gaussian_gamma(cls, mean: ArrayLike, sd: ArrayLike, concentration: ArrayLike, rate: ArrayLike) -> Belief:
        """A normal number and, independently of it, a gamma distributed one."""
        return cls(GaussianGammaFamily(), _columns(mean, sd, concentration, rate))

    @classmethod
    def normal(cls, mean: ArrayLike, covariance: ArrayLike, *, supports: Sequence[str] | None = None) -> Belief:
        """A normal distribution of T(x).

        Args:
            mean: shape (d,), or a number.
            covariance: shape (d, d), or a variance.
            supports: of the numbers of the state; all "real" if None.
        """
        return cls.mixture([1.0], [_array(mean).reshape(-1).tolist()], [_matrix(covariance)], supports=supports)

    @classmethod
    def mixture(
        cls,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        *,
        supports: Sequence[str] | None = None,
    ) -> Belief:
        """A Gaussian mixture of T(x).

        Args:
            weights: at least 0 with a positive sum, shape (K,).
            means: shape (K, d), or (K,) for one number.
            covariances: positive definite, shape (K, d, d); or variances (K,) for one number.
            supports: of the numbers of the state; all "real" if None.

        Raises:
            InputError: weights that are negative or all 0, covariances that are not positive definite.
        """
        w, m, c = (_array(v) for v in (weights, means, covariances))
        if bool((w < 0).any()) or not bool(w.sum() > 0) or not bool(w.isfinite().all()):
            raise InputError(f"Belief.mixture: weights must be at least 0 with a positive sum, got {w.tolist()!r:.80}.")
        m = m.unsqueeze(-1) if m.ndim == 1 else m
        c = c[..., None, None] if c.ndim == 1 else c
        return cls.of(MultivariateMixture.from_covariances(w.log(), m, c), supports=supports)

    @classmethod
    def of(cls, mix: MultivariateMixture, *, supports: Sequence[str] | None = None) -> Belief:
        """A mixture of T(x) as a belief."""
        family = MixtureFamily(mix.n_components, tuple(supports or ("real",) * mix.n_dims))
        return cls(family, family.pack(mix.to(dtype=torch.float64)))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return tuple(self.params.shape[:-1])

    def as_mixture(self) -> MultivariateMixture:
        """The mixture of T(x), for beliefs that are one."""
        if not isinstance(self.family, MixtureFamily):
            raise CapabilityError(f"a belief of the family {self.family.name!r} is no Gaussian mixture.")
        return self.family.mixture(self.params)

    def log_prob(self, x: ArrayLike | Tensor) -> Tensor:
        """Log density of states (*samples, *batch, d), or of numbers (*samples, *batch) where d is 1."""
        t = to_real(_states(x, self.family.n_dims, len(self.batch_shape)), self.family.supports)
        params = self.params.expand(*t.shape[:-1], -1)
        return self.family.log_prob(params, t) + log_slope(t, self.family.supports)

    def sample(self, n: int, *, generator: Generator) -> Tensor:
        """`n` states of each, shape (n, *batch, d)."""
        params = self.params.expand(n, *self.params.shape)
        t = self.family.sample(params.reshape(-1, params.shape[-1]), generator)
        return from_real(t, self.family.supports).reshape(*params.shape[:-1], self.family.n_dims)

    def __getitem__(self, index: object) -> Belief:
        """Those at `index` of the batch axes."""
        return Belief(self.family, self.params[index])  # type: ignore[index]

    def __repr__(self) -> str:
        return f"Belief({self.family.name}, batch_shape={self.batch_shape})"


class MixturePosterior:
    """A posterior: a Gaussian mixture of T(x), one or a batch.

    Args:
        mixture: of T(x).
        supports: of the numbers of the state x.
        family: that the network's priors are of, for `as_prior`.
    """

    def __init__(self, mixture: MultivariateMixture, supports: tuple[str, ...], family: Family) -> None:
        self.mixture_ = mixture
        self.supports = supports
        self.family = family

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.mixture_.batch_shape

    @property
    def n_dims(self) -> int:
        return self.mixture_.n_dims

    def as_mixture(self) -> MultivariateMixture:
        """The mixture of T(x)."""
        return self.mixture_

    def log_prob(self, x: ArrayLike | Tensor) -> Tensor:
        """Log density of states x, with the Jacobian of T; shapes as in `Belief.log_prob`."""
        t = to_real(_states(x, self.n_dims, len(self.batch_shape)), self.supports)
        return self.mixture_.log_prob(t) + log_slope(t, self.supports).to(self.mixture_.dtype)

    def sample(self, n: int, *, generator: Generator) -> Tensor:
        """`n` states of each, shape (n, *batch, d)."""
        return from_real(self.mixture_.sample(n, generator=generator), self.supports)

    def marginal(self, index: int = 0) -> Predictive:
        """The distribution of one number of the state: mean, quantiles, cdf, density."""
        base = self.mixture_.marginal(index)
        transform = transform_of(self.supports[index])
        return base if transform is None else Transformed(base, transform)

    def as_prior(self) -> Belief:
        """This posterior as the next prior.

        Mixtures stay what they are. For a network of another family it is the member with the same moments of T(x):
        an approximation, which loses more the further the posterior is from that family.
        """
        if isinstance(self.family, MixtureFamily):
            return Belief(self.family, self.family.pack(self.mixture_.to(dtype=torch.float64)))
        mix = self.mixture_.to(dtype=torch.float64)
        return Belief(self.family, self.family.project(mix.mean(), mix.covariance()))

    def __getitem__(self, index: object) -> MixturePosterior:
        """Those at `index` of the batch axes."""
        return MixturePosterior(self.mixture_[index], self.supports, self.family)

    def __repr__(self) -> str:
        return f"MixturePosterior(batch_shape={self.batch_shape}, n_dims={self.n_dims}, supports={self.supports})"


def _columns(*values: ArrayLike) -> Tensor:
    try:
        parts = torch.broadcast_tensors(*(_array(v) for v in values))  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise InputError(f"Belief: the parameters do not fit together: {error}.") from None
    return torch.stack(list(parts), -1)


def _array(value: object) -> Tensor:
    return as_tensor("Belief", "the parameters", value).double()


def _matrix(value: ArrayLike) -> list[list[float]]:
    found = _array(value)
    size = round(found.numel() ** 0.5)
    if size * size != found.numel():
        raise InputError(f"Belief.normal: covariance must have shape (d, d), got {tuple(found.shape)}.")
    rows: list[list[float]] = found.reshape(size, size).tolist()
    return rows


def _states(x: ArrayLike | Tensor, n_dims: int, n_batch: int) -> Tensor:
    """States with their last axis of length d, which plain numbers of one-dimensional states lack."""
    values = as_tensor("log_prob", "x", x).double()
    if n_dims == 1 and (values.ndim <= n_batch or values.shape[-1] != 1 or values.ndim == 0):
        values = values.unsqueeze(-1)
    if values.shape[-1] != n_dims:
        raise InputError(f"log_prob: states have {n_dims} numbers, got shape {tuple(values.shape)}.")
    if bool(values.isnan().any()):
        raise InputError("log_prob: x contains NaN.")
    return values
