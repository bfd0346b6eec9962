"""Distributions seen through an increasing map of the target: other units, logarithms."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.core.predictive._numerics import broadcast, check_finite, check_positive, ndtr, together
from foreknow.core.predictive.base import Predictive
from foreknow.core.predictive.categorical import Categorical
from foreknow.core.predictive.student_t import StudentT

_NODES, _REACH = 2001, 8.0
"""Points of the quadrature, spread evenly over +-8 standard deviations of a normal score."""


class Transform(ABC):
    """A strictly increasing, smooth map z -> y from the real line onto ]lower, upper[."""

    lower: float = -math.inf
    upper: float = math.inf

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """The value y of z."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """The z of y, for lower < y < upper."""

    @abstractmethod
    def log_abs_det(self, z: Tensor) -> Tensor:
        """Logarithm of |dy/dz| at z."""

    def _tensors(self) -> list[Tensor]:
        """Parameters, which broadcast over the batch."""
        return []

    def _with(self, tensors: list[Tensor]) -> Self:
        """The same transform with other parameters."""
        return self


class Affine(Transform):
    """y = shift + scale z: from standardised targets back to the units of the table.

    Args:
        shift: finite, broadcasts over the batch.
        scale: greater than 0, broadcasts over the batch.
    """

    def __init__(self, shift: Tensor | float, scale: Tensor | float) -> None:
        values = together("Affine", {"shift": shift, "scale": scale})
        self.shift, self.scale = broadcast("Affine", "shift and scale", values)
        check_finite("Affine", "shift", self.shift)
        check_positive("Affine", "scale", self.scale)

    def _tensors(self) -> list[Tensor]:
        return [self.shift, self.scale]

    def _with(self, tensors: list[Tensor]) -> Self:
        return type(self)(*tensors)

    def forward(self, z: Tensor) -> Tensor:
        return self.shift + self.scale * z

    def inverse(self, y: Tensor) -> Tensor:
        return (y - self.shift) / self.scale

    def log_abs_det(self, z: Tensor) -> Tensor:
        return self.scale.log().expand(z.shape)


class Log(Transform):
    """y = exp(z): the base distribution is that of log y."""

    lower = 0.0

    def forward(self, z: Tensor) -> Tensor:
        return z.exp()

    def inverse(self, y: Tensor) -> Tensor:
        return y.log()

    def log_abs_det(self, z: Tensor) -> Tensor:
        return z


class Logistic(Transform):
    """y = 1 / (1 + exp(-z)): the base distribution is that of the log odds of y."""

    lower, upper = 0.0, 1.0

    def forward(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def inverse(self, y: Tensor) -> Tensor:
        return y.log() - (-y).log1p()

    def log_abs_det(self, z: Tensor) -> Tensor:
        return -torch.nn.functional.softplus(z) - torch.nn.functional.softplus(-z)


class Transformed(Predictive):
    """The distribution of `transform(Z)` for Z ~ `base`; densities carry the Jacobian.

    Through `Affine` everything is exact. Through other maps log_prob, cdf, quantile and sample are exact; mean,
    variance and expected improvement are a trapezoid rule with 2001 points over the normal scores of the base's
    quantiles. Its relative error is below 1e-5 where the base is smooth (normal, mixture) and of moderate spread,
    below 1e-3 for bars and draws; what lies beyond 8 standard scores is left out. Student's t through `Log` has
    no mean, and says infinity.

    Args:
        base: any distribution over numbers.
        transform: an increasing map whose parameters broadcast over the batch of `base`.
    """

    def __init__(self, base: Predictive, transform: Transform) -> None:
        if not isinstance(base, Predictive) or isinstance(base, Categorical):
            raise ConfigError(f"Transformed: base must be a distribution over numbers, got {type(base).__name__}.")
        if not isinstance(transform, Transform):
            raise ConfigError(
                f"Transformed: transform must be a Transform, got {type(transform).__name__}.",
                hint="Use Affine(shift, scale) or Log().",
            )
        self.base = base
        given = transform._tensors()
        try:
            fitted = [t.to(device=base.device, dtype=base.dtype).expand(base.batch_shape) for t in given]
        except RuntimeError:
            raise InputError(
                f"Transformed: parameters of {type(transform).__name__} {[tuple(t.shape) for t in given]} must "
                f"broadcast over the batch shape {base.batch_shape}."
            ) from None
        self.transform = transform._with(fitted)

    def _tensors(self) -> list[Tensor]:
        return [*self.base._tensors(), *self.transform._tensors()]

    def _with(self, tensors: list[Tensor]) -> Self:
        n_base = len(self.base._tensors())
        return type(self)(self.base._with(tensors[:n_base]), self.transform._with(tensors[n_base:]))

    def _matches(self, other: Predictive) -> bool:
        return (
            isinstance(other, Transformed)
            and type(self.transform) is type(other.transform)
            and self.base._matches(other.base)
        )

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.base.batch_shape

    def mean(self) -> Tensor:
        if isinstance(self.transform, Affine):
            return self.transform.forward(self.base.mean())
        values, weights = self._quadrature()
        return self._unless_endless((weights * values).sum(0))

    def variance(self) -> Tensor:
        if isinstance(self.transform, Affine):
            return self.transform.scale.square() * self.base.variance()
        values, weights = self._quadrature()
        mean = (weights * values).sum(0)
        return self._unless_endless((weights * (values - mean).square()).sum(0))

    def _log_prob(self, y: Tensor) -> Tensor:
        inside, z = self._pull(y)
        density = self.base._log_prob(z) - self.transform.log_abs_det(z)
        return torch.where(inside & y.isfinite(), density, -math.inf)

    def _cdf(self, y: Tensor) -> Tensor:
        inside, z = self._pull(y)
        return torch.where(inside, self.base._cdf(z), (y >= self.transform.upper).to(z))

    def _upper(self, y: Tensor) -> Tensor:
        inside, z = self._pull(y)
        return torch.where(inside, self.base._upper(z), (y <= self.transform.lower).to(z))

    def _lower(self, y: Tensor) -> Tensor:
        inside, z = self._pull(y)
        return torch.where(inside, self.base._lower(z), (y >= self.transform.upper).to(z))

    def _icdf(self, u: Tensor) -> Tensor:
        return self.transform.forward(self.base._icdf(u).movedim(-1, 0)).movedim(0, -1)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        return self.transform.forward(self.base._sample(n, generator))

    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        if isinstance(self.transform, Affine):
            return self.transform.scale * self.base._ei(self.transform.inverse(best), maximize)
        values, weights = self._quadrature()
        lead = best.ndim - len(self.batch_shape)
        shape = (len(values), *[1] * lead, *self.batch_shape)  # nodes, samples, batch
        gain = values.reshape(shape) - best if maximize else best - values.reshape(shape)
        total = (weights.reshape(-1, *[1] * best.ndim) * gain.clamp(min=0)).sum(0)
        return self._unless_endless(total) if maximize else total

    def _pull(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Whether y lies in the range of the transform, and the z of y (of some inner value elsewhere)."""
        inside = (y > self.transform.lower) & (y < self.transform.upper)
        middle = self.transform.forward(torch.zeros_like(y))
        return inside, self.transform.inverse(torch.where(inside, y, middle))

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        """Values of y at even steps of the normal score, (nodes, *batch), and weights (nodes, *1s) that sum to 1."""
        score = torch.linspace(-_REACH, _REACH, _NODES, dtype=torch.float64, device=self.device)
        weights = (-0.5 * score.square()).exp()
        u = ndtr(score).expand(*self.batch_shape, _NODES)
        weights = (weights / weights.sum()).to(self.dtype).reshape(-1, *[1] * len(self.batch_shape))
        return self._icdf(u).movedim(-1, 0), weights

    def _unless_endless(self, value: Tensor) -> Tensor:
        """Infinity in place of the finite sum when the tails are too heavy for any moment."""
        root = self.base
        while isinstance(root, Transformed):
            root = root.base
        endless = isinstance(root, StudentT) and isinstance(self.transform, Log)
        return torch.full_like(value, math.inf) if endless else value
