"""Activations as priors: the three regimes, and the design of an activation for a wanted singularity.

With Hermite coefficients c_k of an activation of E phi(u)^2 = 1, and A = c_0, A' = c_1, B' = sum k c_k^2, the
infinitely deep tangent kernel classifies
    A = 0, A' = 0   as the nearest neighbour ("nearest");
    A != 0          as the majority ("majority");
    A = 0, A' != 0  as sign sum y_i |x - x_i|^-alpha with alpha = -4 ln A' / ln B' ("singular"),
which is consistent for every distribution on the sphere of dimension d if alpha = d. The theorem is about the positive
orthant: between rows at more than a right angle the kernel may be negative, or as large as for close ones (even duals).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from scipy import optimize
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.records import record
from foreknow.core.registry import register
from foreknow.functions.wide_deep_optimality.card import CARD
from foreknow.nn.infinite import (
    ACTIVATIONS,
    Activation,
    Hermite,
    PolynomialDual,
    SphereDual,
    as_activation,
    deep_kernels,
    dual_on_sphere,
)
from foreknow.nn.linalg import jittered_cholesky

REGIMES = ("singular", "nearest", "majority")
N_GRID, DEPTH_SHOWN = 60, 4
_ZERO = 1e-12


class ActivationPrior(Prior):
    """An activation, known once the dimension of the sphere is."""

    card = CARD

    @abstractmethod
    def at(self, dim: int) -> DesignedActivation:
        """The activation for data on the sphere of dimension `dim`."""

    def off(self) -> Prior:
        """ReLU, the same for every dimension."""
        return NamedActivation("relu")

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """Outputs of `n` wide networks of four layers around a great circle, shape (n, 60)."""
        check_int(type(self).__name__, "n", n, low=1)
        angle = torch.arange(N_GRID, dtype=torch.float64) * (2 * math.pi / N_GRID)
        dual = self.at(getattr(self, "dim", None) or 2).dual
        found = deep_kernels(dual, 1 - (angle[:, None] - angle).cos(), DEPTH_SHOWN)
        factor = jittered_cholesky(found.sign_nngp * found.log_nngp.exp())
        z = torch.randn(N_GRID, n, generator=generator, dtype=torch.float64, device=generator.device).cpu()
        return Draw((factor @ z).T.to(device=device or generator.device, dtype=dtype or torch.float32))

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """`n` drawn networks around a great circle."""
        angle = torch.arange(N_GRID, dtype=torch.float64) * (360 / N_GRID)
        drawn = self.sample(n, generator=generator, dtype=torch.float64).value.cpu().numpy()
        lines = {f"network {i + 1}": f for i, f in enumerate(drawn)}
        return Lines(angle.numpy(), lines, "angle in degrees", "output", title=f"{DEPTH_SHOWN} layers, {self!r}")


class DesignedActivation(ActivationPrior):
    """An activation that does not depend on the dimension."""

    def at(self, dim: int) -> DesignedActivation:
        return self

    @property
    @abstractmethod
    def function(self) -> Activation:
        """The function, up to a factor."""

    @property
    def dual(self) -> SphereDual:
        """Its dual on the sphere, after division by the root of E phi(u)^2."""
        return dual_on_sphere(self.function)

    @property
    def A(self) -> float:
        """E phi(u)."""
        return self.dual.mean

    @property
    def A1(self) -> float:
        """E phi'(u), up to its sign."""
        return math.sqrt(self.dual.slope_at_zero)

    @property
    def B1(self) -> float:
        """E phi'(u)^2."""
        return self.dual.slope_at_one

    @property
    def alpha(self) -> float:
        """Exponent of the singular kernel; infinite for the nearest neighbour, 0 for the majority."""
        kind = self.regime()
        if kind == "singular":
            return -4 * math.log(self.A1) / math.log(self.B1)
        return math.inf if kind == "nearest" else 0.0

    @property
    def even(self) -> bool:
        """Whether a row and its opposite are the same to the kernel."""
        dual = self.dual
        return isinstance(dual, PolynomialDual) and not any(dual.weights[1::2])

    def regime(self) -> str:
        """One of `REGIMES`."""
        if abs(self.A) > 1e-7:
            return "majority"
        if self.A1 < 1e-7:
            return "nearest"
        if self.B1 - 1 < _ZERO:
            raise ConfigError("a linear activation has no regime: its kernel stays the inner product at any depth.")
        return "singular"


@register(CARD)
@dataclass(frozen=True)
class HermiteActivation(DesignedActivation):
    """phi = sum_k coefficients_k h_k in orthonormal Hermite polynomials; divided by its size.

    Args:
        coefficients: c_0, c_1, ...; not all 0.
    """

    coefficients: tuple[float, ...] = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", Hermite(tuple(self.coefficients)).coefficients)
        if not any(self.coefficients[1:]):
            raise ConfigError("HermiteActivation: the activation must not be constant.")

    @property
    def function(self) -> Activation:
        size = math.sqrt(sum(c * c for c in self.coefficients))
        return Hermite(tuple(c / size for c in self.coefficients))

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls((0.0, 0.6, 0.5, 0.6)), cls((0.5, 0.5, 0.5))]


@record
@dataclass(frozen=True)
class NamedActivation(DesignedActivation):
    """An activation of common use.

    Args:
        name: "relu" (majority, the control arm), "gelu" (majority), "erf" or "tanh" (singular, alpha below 1).
    """

    name: str = "relu"

    def __post_init__(self) -> None:
        check_option("NamedActivation", "name", self.name, tuple(set(ACTIVATIONS) - {"linear"}))

    @property
    def function(self) -> Activation:
        return as_activation("NamedActivation", self.name)


@register(CARD)
@dataclass(frozen=True)
class SingularActivation(ActivationPrior):
    """The activation whose limit is |x - x'|^-alpha with alpha in keeping with the dimension.

    Args:
        factor: alpha is so many times the dimension; 1 is consistent, less smooths too widely, more tends to the
            nearest neighbour.
        dim: dimension of the sphere; None takes that of the data.
    """

    factor: float = 1.0
    dim: int | None = None

    def __post_init__(self) -> None:
        check_real("SingularActivation", "factor", self.factor, low=0, open_low=True)
        if self.dim is not None:
            check_int("SingularActivation", "dim", self.dim, low=1)

    def at(self, dim: int) -> DesignedActivation:
        dim = self.dim or dim
        return singular_activation(dim) if self.factor == 1 else design_activation(self.factor * dim)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(0.5, 3), cls(4.0, 1)]


def singular_activation(dim: int) -> HermiteActivation:
    """The activation whose deep limit is consistent on the sphere of dimension `dim`: alpha = dim.

    For dim >= 2 the published cubic, A' = 2^(-dim/4), B' = 2; for dim = 1 a design of two terms.
    """
    check_int("singular_activation", "dim", dim, low=1)
    if dim == 1:
        return design_activation(1.0)
    edge = 2 ** (-dim / 4)
    return HermiteActivation((0.0, edge, math.sqrt(max(0.0, 1 - 2 ** (1 - dim / 2))), edge))


def design_activation(alpha: float, *, power: int | None = None) -> HermiteActivation:
    """An activation with the dual a xi + (1 - a) xi^power and the singularity `alpha`.

    Args:
        alpha: wanted exponent, above 2 / (power - 1).
        power: of the second term, at least 2; the least that allows alpha with room if None.

    Raises:
        ConfigError: this power cannot give this exponent.
    """
    check_real("design_activation", "alpha", alpha, low=0, open_low=True)
    if power is None:
        power = max(2, math.ceil(1 + 2 / (0.8 * alpha)))
    check_int("design_activation", "power", power, low=2)
    if alpha <= 2 / (power - 1):
        raise ConfigError(
            f"design_activation: with power {power} alpha must be above {2 / (power - 1):g}, got {alpha:g}.",
            hint="Raise the power.",
        )

    def excess(log_a: float) -> float:
        rest = -math.expm1(log_a)  # 1 - a
        return -2 * log_a / math.log1p((power - 1) * rest) - alpha

    log_a = optimize.brentq(excess, -alpha * math.log(power) - 1, -1e-9, xtol=1e-14, rtol=1e-14)
    a = math.exp(log_a)
    return HermiteActivation((0.0, math.sqrt(a), *[0.0] * (power - 2), math.sqrt(-math.expm1(log_a))))


def hilbert_scores(distance: Tensor, votes: Tensor, alpha: float) -> Tensor:
    """Logarithms of sum_i votes_i |x - x_i|^-alpha, shape (m, n_classes), up to one number a row.

    Rows at distance 0 alone decide; at alpha infinity the nearest ones do, at 0 all count alike.

    Args:
        distance: shape (m, n).
        votes: of the n rows for each class, at least 0, shape (n, n_classes).
        alpha: exponent, 0 to infinity.
    """
    nearest = distance.amin(1, keepdim=True)
    if alpha == math.inf:
        log_weight = torch.where(distance <= nearest * (1 + 1e-12) + 1e-12, 0.0, -math.inf).to(votes)
    else:
        # Relative to the nearest, so that nothing overflows; identical rows outvote all others.
        apart = distance.clamp_min(1e-12).log() - nearest.clamp_min(1e-12).log()
        log_weight = -alpha * apart
        touching = nearest < 1e-12
        log_weight = torch.where(touching & (distance >= 1e-12) & (alpha > 0), -math.inf, log_weight)
    return (log_weight.exp() @ votes).clamp_min(1e-300).log()
