"""Activation functions and their duals: second moments of phi(u) and phi(v) for Gaussian u and v.

For (u, v) ~ N(0, [[a, c], [c, b]]) the dual is E phi(u) phi(v) and its derivative by c is E phi'(u) phi'(v) (Price).
ReLU: Cho and Saul (2009), arc-cosine kernels of order 1 and 0. Erf: Williams (1997). GELU: by parts, see `GELU.dual`.
Tanh: a mixture of erfs.
Any other function goes through its Hermite coefficients at each variance, found by Gauss-Hermite quadrature
(Daniely, Frostig and Singer 2016): phi(sqrt(a) z) = sum_k A_k(a) h_k(z) gives sum_k A_k(a) A_k(b) rho^k.

All functions broadcast, keep dtype and device, and have finite gradients by a, b and c also for rows of norm 0 and for
parallel rows. Use float64: the matrices are ill-conditioned.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.records import record


class Activation(ABC):
    """A function of one number, applied to every unit, with its duals."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """The function itself, for finite networks."""

    @abstractmethod
    def dual(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """E phi(u) phi(v) for variances a, b and covariance c; shapes broadcast."""

    @abstractmethod
    def dual_derivative(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """E phi'(u) phi'(v), which is the derivative of `dual` by c."""

    def second_moment(self, a: Tensor) -> Tensor:
        """E phi(u)^2 for variance a."""
        return self.dual(a, a, a)


@record
@dataclass(frozen=True)
class Identity(Activation):
    """phi(u) = u: the network is linear in each layer's weights."""

    def __call__(self, u: Tensor) -> Tensor:
        return u

    def dual(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return c + 0 * (a + b)  # the shape of all three

    def dual_derivative(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return 1 + 0 * (a + b + c)


@record
@dataclass(frozen=True)
class ReLU(Activation):
    """phi(u) = max(u, 0); without a bias the kernel is homogeneous, and rows of norm 0 get a kernel of 0."""

    def __call__(self, u: Tensor) -> Tensor:
        return u.relu()

    def dual(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        norm, cosine = _polar(a, b, c)
        return 0.5 * norm * _arc_cosine_1(cosine)

    def dual_derivative(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return 0.5 * _arc_cosine_0(_polar(a, b, c)[1])  # a row of norm 0 is orthogonal to all


@record
@dataclass(frozen=True)
class Erf(Activation):
    """phi(u) = erf(u)."""

    def __call__(self, u: Tensor) -> Tensor:
        return torch.erf(u)

    def dual(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan2(2 * c, _det(2 * a, 2 * b, 2 * c)[0].sqrt())

    def dual_derivative(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return 4 / math.pi * _det(2 * a, 2 * b, 2 * c)[0].rsqrt()


@record
@dataclass(frozen=True)
class GELU(Activation):
    """phi(u) = u Phi(u), with the exact distribution function Phi of the standard normal."""

    def __call__(self, u: Tensor) -> Tensor:
        return torch.nn.functional.gelu(u)

    def dual(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        # By parts: E u v Phi Phi = a E v f(u) Phi(v) + c E Phi Phi + c E v Phi(u) f(v), f the normal density, with
        # E f(u) f(v) = D^-1/2 / 2 pi, E u f(u) Phi(v) = c / (1 + a) E f f, and D = (1 + a)(1 + b) - c^2.
        det, minor, orthant = self._parts(a, b, c)
        return c * orthant + (minor + self._inverses(a, b) * c.square()) / (2 * math.pi * det.sqrt())

    def dual_derivative(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        det, minor, orthant = self._parts(a, b, c)
        inverses = self._inverses(a, b)
        rest = 2 * inverses - (1 + b / (1 + a) + a / (1 + b) + minor * inverses) / det
        return orthant + c * rest / (2 * math.pi * det.sqrt())

    @staticmethod
    def _inverses(a: Tensor, b: Tensor) -> Tensor:
        return 1 / (1 + a) + 1 / (1 + b)

    @staticmethod
    def _parts(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """det(I + covariance), det(covariance), and E Phi(u) Phi(v)."""
        det, minor = _det(a, b, c)
        return det, minor, 0.25 + torch.atan2(c, det.sqrt()) / (2 * math.pi)


class _Expanded(Activation):
    """Duals from Hermite coefficients at each variance."""

    _n_terms: int
    _n_nodes: int

    @abstractmethod
    def _slope(self, u: Tensor) -> Tensor:
        """The derivative of the function."""

    def dual(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self._series(self, a, b, c)

    def dual_derivative(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self._series(self._slope, a, b, c)

    def second_moment(self, a: Tensor) -> Tensor:
        x, weights, _ = _quadrature(self._n_nodes, self._n_terms, a.dtype, a.device)
        return (self(_sqrt(a)[..., None] * x).square() * weights).sum(-1)

    def _series(self, function: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        _, cosine = _polar(a, b, c)
        left, right = self._coefficients(function, a), self._coefficients(function, b)  # (..., n_terms)
        total: Tensor = torch.zeros_like(cosine)
        for k in reversed(range(self._n_terms)):  # Horner
            total = total * cosine + left[..., k] * right[..., k]
        return total

    def _coefficients(self, function: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
        """E function(sqrt(a) z) h_k(z), shape (..., n_terms)."""
        x, _, basis = _quadrature(self._n_nodes, self._n_terms, a.dtype, a.device)
        return function(_sqrt(a)[..., None] * x) @ basis


@record
@dataclass(frozen=True)
class Hermite(_Expanded):
    """phi(u) = sum_k c_k h_k(u) with the orthonormal Hermite polynomials h_0 = 1, h_1 = u, h_2 = (u^2 - 1)/sqrt(2), ...

    At variance 1 the dual is sum_k c_k^2 rho^k. Exact at every variance, since quadrature is exact for polynomials.

    Args:
        coefficients: c_0, c_1, ...; the last not 0.
    """

    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.coefficients:
            raise ConfigError("Hermite: coefficients must not be empty.")
        for value in self.coefficients:
            check_real("Hermite", "coefficients", value)
        object.__setattr__(self, "coefficients", tuple(float(value) for value in self.coefficients))

    @property
    def _n_terms(self) -> int:  # type: ignore[override]
        return len(self.coefficients)

    @property
    def _n_nodes(self) -> int:  # type: ignore[override]
        return len(self.coefficients)

    def __call__(self, u: Tensor) -> Tensor:
        return _hermite_sum(self.coefficients, u)

    def _slope(self, u: Tensor) -> Tensor:
        return _hermite_sum([math.sqrt(k) * c for k, c in enumerate(self.coefficients)][1:] or [0.0], u)

    @property
    def moment(self) -> float:
        """E phi(u)^2 for u ~ N(0, 1)."""
        return sum(c * c for c in self.coefficients)

    def dual_coefficients(self) -> tuple[float, ...]:
        """c_k^2, the coefficients of the dual at variance 1."""
        return tuple(c * c for c in self.coefficients)


class Elementwise(_Expanded):
    """Any function of one number, its duals by Hermite coefficients.

    The error falls quickly for smooth functions of moderate slope and small variances (sine and softplus: below 1e-6 at
    variances up to 10 with the defaults) and slowly for steep functions, kinks and steps.

    Args:
        function: elementwise, differentiable by torch.
        n_terms: Hermite coefficients.
        n_nodes: of the quadrature, at least `n_terms`.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], *, n_terms: int = 64, n_nodes: int = 160) -> None:
        if not callable(function):
            raise ConfigError(f"Elementwise: function must be callable, got {function!r:.80}.")
        self.function = function
        self._n_terms = check_int("Elementwise", "n_terms", n_terms, low=1)
        self._n_nodes = check_int("Elementwise", "n_nodes", n_nodes, low=n_terms, high=180)

    def __repr__(self) -> str:
        return f"Elementwise({getattr(self.function, '__name__', type(self.function).__name__)})"

    def __call__(self, u: Tensor) -> Tensor:
        return self.function(u)

    def _slope(self, u: Tensor) -> Tensor:
        tracked = u.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            point = u if tracked else u.detach().requires_grad_()
            slope: Tensor = torch.autograd.grad(self.function(point).sum(), point, create_graph=tracked)[0]
        return slope


@record
@dataclass(frozen=True)
class Tanh(Activation):
    """phi(u) = tanh(u), its duals those of a mean of erf(s u) over six scales s: to 1e-7 at any variance.

    The logistic distribution is a mixture of normals with standard deviations 2 K, K of Kolmogorov's law (Andrews and
    Mallows 1974), so tanh(u) = E erf(u / (sqrt(2) K)). The scales are Gauss nodes of log K.
    """

    def __call__(self, u: Tensor) -> Tensor:
        return torch.tanh(u)

    def dual(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        total: Tensor = torch.zeros_like(c)
        for (s, p), (t, q) in product(_TANH_SCALES, repeat=2):
            total = total + p * q * Erf().dual(s * s * a, t * t * b, s * t * c)
        return total

    def dual_derivative(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        total: Tensor = torch.zeros_like(c)
        for (s, p), (t, q) in product(_TANH_SCALES, repeat=2):
            total = total + p * q * s * t * Erf().dual_derivative(s * s * a, t * t * b, s * t * c)
        return total


_TANH_SCALES = (
    (1.842592433238922, 0.007484715142298009),
    (1.352245532129257, 0.1313028297351513),
    (0.982493343884775, 0.397856723794251),
    (0.7030727578023729, 0.35767481797947975),
    (0.5039320509773709, 0.1004208702232055),
    (0.3638149616041264, 0.005260043125614439),
)
"""Scales s and their weights."""

ACTIVATIONS: dict[str, type[Activation]] = {
    "erf": Erf,
    "gelu": GELU,
    "linear": Identity,
    "relu": ReLU,
    "tanh": Tanh,
}


def as_activation(owner: str, value: Activation | str) -> Activation:
    """An activation from itself or its name.

    Raises:
        ConfigError: neither.
    """
    if isinstance(value, Activation):
        return value
    return ACTIVATIONS[check_option(owner, "activation", value, tuple(ACTIVATIONS))]()


# Pieces ---------------------------------------------------------------------------------------------------------


def _det(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """det(I + covariance) and det(covariance), neither below what no rounding can take: 1 + a + b, and 0.

    Gradients are those of the formula without the bounds, so that they hold for parallel rows too.
    """
    minor = a * b - c.square()
    minor = minor - minor.detach().clamp_max(0)
    return 1 + a + b + minor, minor


def _sqrt(a: Tensor) -> Tensor:
    """Square root, 0 and without gradient at 0 and below."""
    ok = a > 0
    return torch.where(ok, torch.where(ok, a, 1.0).sqrt(), 0.0)


def _polar(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(ab), and the cosine c / sqrt(ab) within [-1, 1]; both 0 for rows of norm 0."""
    # Row by row first: only the last two products are as large as c.
    one, other = _sqrt(a), _sqrt(b)
    left, right = (torch.where(root > 0, 1 / torch.where(root > 0, root, 1.0), 0.0) for root in (one, other))
    return one * other, (c * left * right).clamp(-1, 1)


class _ArcCosine1(torch.autograd.Function):
    """(sin t + (pi - t) cos t) / pi as a function of cos t; its derivative is the kernel of order 0, also at +-1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cosine: Tensor) -> Tensor:
        sine = ((1 - cosine) * (1 + cosine)).clamp_min(0).sqrt()
        return (sine + (math.pi - torch.acos(cosine)) * cosine) / math.pi

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (cosine,) = ctx.saved_tensors
        return grad[0] * _arc_cosine_0(cosine)


class _ArcCosine0(torch.autograd.Function):
    """(pi - t) / pi as a function of cos t; its derivative, endless at +-1, is cut off there."""

    generate_vmap_rule = True

    @staticmethod
    def forward(cosine: Tensor) -> Tensor:
        return 1 - torch.acos(cosine) / math.pi

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        (cosine,) = ctx.saved_tensors
        sine = ((1 - cosine) * (1 + cosine)).clamp_min(torch.finfo(cosine.dtype).eps).sqrt()
        result: Tensor = grad[0] / (math.pi * sine)
        return result


def _arc_cosine_1(cosine: Tensor) -> Tensor:
    result: Tensor = _ArcCosine1.apply(cosine)  # type: ignore[no-untyped-call]
    return result


def _arc_cosine_0(cosine: Tensor) -> Tensor:
    result: Tensor = _ArcCosine0.apply(cosine)  # type: ignore[no-untyped-call]
    return result


@lru_cache(maxsize=16)
def _nodes(n_nodes: int, n_terms: int) -> tuple[Any, Any, Any]:
    """Nodes, weights of N(0, 1), and weights times orthonormal Hermite polynomials at the nodes, (n_nodes, n_terms)."""
    x, weights = np.polynomial.hermite_e.hermegauss(n_nodes)
    basis = np.ones((n_nodes, n_terms))
    for k in range(1, n_terms):
        below = basis[:, k - 2] * math.sqrt(k - 1) if k > 1 else 0.0
        basis[:, k] = (x * basis[:, k - 1] - below) / math.sqrt(k)
    weights = weights / weights.sum()
    return x, weights, weights[:, None] * basis


def _quadrature(n_nodes: int, n_terms: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    x, weights, basis = (torch.as_tensor(part, dtype=dtype, device=device) for part in _nodes(n_nodes, n_terms))
    return x, weights, basis


def _hermite_sum(coefficients: Any, u: Tensor) -> Tensor:
    """sum_k c_k h_k(u), by the recurrence h_{k+1} = (u h_k - sqrt(k) h_{k-1}) / sqrt(k + 1)."""
    before, now = torch.zeros_like(u), torch.ones_like(u)
    total: Tensor = coefficients[0] * now
    for k in range(1, len(coefficients)):
        before, now = now, (u * now - math.sqrt(k - 1) * before) / math.sqrt(k)
        total = total + coefficients[k] * now
    return total
