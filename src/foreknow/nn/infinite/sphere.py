"""Very deep kernels on the unit sphere, in logarithms: thousands of layers without underflow or cancellation.

For rows of norm 1 and an activation with E phi(u)^2 = 1 the dual is a function of the cosine xi alone, and without
biases
    S_0 = K_0 = xi        S_l = dual(S_{l-1})        K_l = S_l + K_{l-1} dual'(S_{l-1}).
Two things break plain arithmetic. Near xi = 1 the difference 1 - S is lost: delta = 1 - S is iterated there. Far from
it S falls below the smallest number: log |S| is carried. With t = K / S the tangent kernel obeys
    t_l = 1 + t_{l-1} e(S_{l-1}),        e(S) = S dual'(S) / dual(S),
whose terms stay moderate, so that log |K| = log |S| + log |t| is exact at any depth.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int
from foreknow.nn.infinite.activations import Activation, Erf, Hermite, ReLU, as_activation


class SphereDual(ABC):
    """The dual of an activation with E phi(u)^2 = 1, as a function of a cosine; 1 at 1.

    With m = `order`, the power of its lowest term, dual(S) = S^m `quotient(S)`.
    """

    order: int

    @property
    @abstractmethod
    def mean(self) -> float:
        """A = E phi(u)."""

    @property
    @abstractmethod
    def slope_at_zero(self) -> float:
        """(E phi'(u))^2, the derivative at 0."""

    @property
    @abstractmethod
    def slope_at_one(self) -> float:
        """B = E phi'(u)^2, the derivative at 1."""

    @abstractmethod
    def quotient(self, s: Tensor) -> Tensor:
        """dual(s) / s^order."""

    @abstractmethod
    def slope(self, s: Tensor) -> Tensor:
        """dual'(s)."""

    @abstractmethod
    def elasticity(self, s: Tensor) -> Tensor:
        """The logarithmic slope, s dual'(s) / dual(s)."""

    @abstractmethod
    def complement(self, delta: Tensor) -> Tensor:
        """1 - dual(1 - delta), without cancellation for small delta."""


@dataclass(frozen=True)
class PolynomialDual(SphereDual):
    """sum_k weights_k xi^k, weights that are not negative and sum to 1."""

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if min(self.weights, default=-1.0) < 0 or not math.isclose(sum(self.weights), 1.0, rel_tol=1e-9):
            raise ConfigError("PolynomialDual: weights must be at least 0 and sum to 1.")

    @property
    def order(self) -> int:  # type: ignore[override]
        return next(k for k, weight in enumerate(self.weights) if weight > 0)

    @property
    def mean(self) -> float:
        return math.sqrt(self.weights[0])

    @property
    def slope_at_zero(self) -> float:
        return self.weights[1] if len(self.weights) > 1 else 0.0

    @property
    def slope_at_one(self) -> float:
        return sum(k * weight for k, weight in enumerate(self.weights))

    def quotient(self, s: Tensor) -> Tensor:
        return _polynomial(self.weights[self.order :], s)

    def slope(self, s: Tensor) -> Tensor:
        return _polynomial([k * weight for k, weight in enumerate(self.weights)][1:] or [0.0], s)

    def elasticity(self, s: Tensor) -> Tensor:
        scaled = [k * weight for k, weight in enumerate(self.weights)]
        return _polynomial(scaled[self.order :], s) / self.quotient(s)

    def complement(self, delta: Tensor) -> Tensor:
        # 1 - (1 - delta)^k = -expm1(k log1p(-delta)) for delta < 1; only there is it asked for.
        log = torch.log1p(-delta.clamp(max=0.75))
        total = torch.zeros_like(delta)
        for k, weight in enumerate(self.weights):
            if k and weight:
                total = total - weight * torch.expm1(k * log)
        return total


@dataclass(frozen=True)
class ReLUDual(SphereDual):
    """The dual of sqrt(2) relu."""

    order: int = 0
    mean: float = 1 / math.sqrt(math.pi)
    slope_at_zero: float = 0.5
    slope_at_one: float = 1.0

    def quotient(self, s: Tensor) -> Tensor:
        angle = torch.acos(s.clamp(-1, 1))
        return (angle.sin() + (math.pi - angle) * s) / math.pi

    def slope(self, s: Tensor) -> Tensor:
        return 1 - torch.acos(s.clamp(-1, 1)) / math.pi

    def elasticity(self, s: Tensor) -> Tensor:
        return s * self.slope(s) / self.quotient(s)

    def complement(self, delta: Tensor) -> Tensor:
        # (1 - cos t) - (sin t - t cos t) / pi; the second bracket is t^3/3 - t^5/30 + t^7/840 - ... for small t.
        angle = 2 * torch.asin((0.5 * delta).clamp(0, 1).sqrt())
        series = angle**3 / 3 - angle**5 / 30 + angle**7 / 840 - angle**9 / 45360
        return delta - torch.where(angle < 0.1, series, angle.sin() - angle * angle.cos()) / math.pi


@dataclass(frozen=True)
class ErfDual(SphereDual):
    """The dual of erf, divided by its size."""

    order: int = 1
    mean: float = 0.0
    slope_at_zero: float = 2 / 3 / math.asin(2 / 3)
    slope_at_one: float = 2 / 3 / math.sqrt(5 / 9) / math.asin(2 / 3)

    def quotient(self, s: Tensor) -> Tensor:
        small = s.abs() < 1e-6
        safe = s.where(~small, 1.0)
        return torch.where(small, self.slope_at_zero, torch.asin(2 / 3 * safe) / safe / math.asin(2 / 3))

    def slope(self, s: Tensor) -> Tensor:
        return 2 / 3 / (1 - 4 / 9 * s.square()).sqrt() / math.asin(2 / 3)

    def elasticity(self, s: Tensor) -> Tensor:
        return self.slope(s) / self.quotient(s)

    def complement(self, delta: Tensor) -> Tensor:
        # asin x - asin y = asin(x sqrt(1 - y^2) - y sqrt(1 - x^2)), the difference as (x^2 - y^2) / sum.
        x, y = 2 / 3, 2 / 3 * (1 - delta)
        one, other = x * (1 - y.square()).sqrt(), y * math.sqrt(1 - x**2)
        return torch.asin(2 / 3 * delta * (x + y) / (one + other)) / math.asin(2 / 3)


def dual_on_sphere(activation: Activation | str, *, n_terms: int = 64) -> SphereDual:
    """The dual of an activation, which is divided by the root of E phi(u)^2 first.

    Hermite polynomials, ReLU and erf are exact; others go through `n_terms` Hermite coefficients.
    """
    phi = as_activation("dual_on_sphere", activation)
    if isinstance(phi, ReLU):
        return ReLUDual()
    if isinstance(phi, Erf):
        return ErfDual()
    if isinstance(phi, Hermite):
        squares = phi.dual_coefficients()
    else:
        from foreknow.nn.infinite.activations import Elementwise

        one = torch.ones((), dtype=torch.float64)
        found = Elementwise(phi, n_terms=n_terms)._coefficients(phi, one).square()
        squares = tuple(found.where(found > 1e-14 * found.sum(), 0.0).tolist())  # what is 0 but for rounding
    total = sum(squares)
    if total <= 0:
        raise ConfigError("dual_on_sphere: the activation is 0.")
    return PolynomialDual(tuple(value / total for value in squares))


@dataclass(frozen=True)
class DeepKernels:
    """NNGP and NTK after some layers, as logarithms of absolute values and signs; the NNGP is 1 on the diagonal.

    Args:
        log_nngp, sign_nngp: of S.
        log_ntk, sign_ntk: of K.
        log_ntk_diagonal: of K at cosine 1.
    """

    log_nngp: Tensor
    sign_nngp: Tensor
    log_ntk: Tensor
    sign_ntk: Tensor
    log_ntk_diagonal: float


def deep_kernels(dual: SphereDual, delta: Tensor, depth: int) -> DeepKernels:
    """The kernels after `depth` layers of pairs of rows with cosine 1 - `delta`.

    Args:
        dual: of the activation.
        delta: 1 - cosine = |x - x'|^2 / 2, in [0, 2], float64, any shape.
        depth: layers, at least 0.
    """
    check_int("deep_kernels", "depth", depth, low=0)
    delta = delta.double()
    s = 1 - delta
    sign = torch.where(s < 0, -1.0, 1.0).to(s)
    log_s, ratio = s.abs().log(), torch.ones_like(s)  # ratio is K / S
    tiny = torch.finfo(s.dtype).tiny
    m = dual.order
    floor = -1e300 if m > 1 else -math.inf  # of log S, which then falls by a factor m each layer
    # A row itself stays at cosine 1, and of an odd or even dual its opposite at -1 or 1: closed forms serve these.
    end = float(dual.quotient(torch.tensor(-1.0, dtype=torch.float64))) * (-1) ** m
    opposite = (delta == 2) & (m > 0) & math.isclose(abs(end), 1.0, rel_tol=1e-12) & (depth > 0)
    moving = (delta > 0) & ~opposite
    for done in range(depth):
        if m == 1 and not bool((moving & (s.abs() > 1e-18)).any()):  # only the lowest power is left
            log_s = log_s + (depth - done) * math.log(dual.slope_at_zero)
            ratio = ratio + (depth - done)
            break
        near = delta < 0.5
        quotient = dual.quotient(s)
        if m:
            ratio = (1 + ratio * dual.elasticity(s)).clamp(max=1e300)  # endless only where S is 0 for all purposes
            log_s = (m * log_s + quotient.abs().clamp_min(tiny).log()).clamp_min(floor)
            sign = (sign if m % 2 else torch.ones_like(sign)) * torch.where(quotient < 0, -1.0, 1.0)
            below = dual.complement(delta)
            log_s = torch.where(near, torch.log1p(-below.clamp(max=0.99)), log_s)
            s = torch.where(near, 1 - below, sign * log_s.exp())
        else:  # S stays away from 0, and K = ratio is carried itself
            ratio = (ratio if done else s) * dual.slope(s)
            below = dual.complement(delta)
            s = torch.where(near, 1 - below, quotient)
            ratio = ratio + s
        delta = torch.where(near, below, 1 - s)
    if m or not depth:
        log_k, sign_k = log_s + ratio.abs().clamp_min(tiny).log(), sign * torch.where(ratio < 0, -1.0, 1.0)
    else:
        log_s, sign = s.abs().clamp_min(tiny).log(), torch.where(s < 0, -1.0, 1.0).to(s)
        log_k, sign_k = ratio.abs().clamp_min(tiny).log(), torch.where(ratio < 0, -1.0, 1.0).to(s)
    top = log_diagonal(dual, depth)
    log_s, log_k = log_s.where(moving, 0.0), log_k.where(moving, top)
    sign, sign_k = (v.where(moving, 1.0).where(~opposite, math.copysign(1.0, end)) for v in (sign, sign_k))
    return DeepKernels(log_s, sign, log_k, sign_k, top)


def log_diagonal(dual: SphereDual, depth: int) -> float:
    """Logarithm of the tangent kernel of a row with itself: of 1 + B + ... + B^depth."""
    b = dual.slope_at_one
    if math.isclose(b, 1.0, rel_tol=1e-12):
        return math.log(depth + 1)
    if b < 1:
        return math.log((1 - b ** (depth + 1)) / (1 - b))
    return depth * math.log(b) + math.log1p(-math.exp(-(depth + 1) * math.log(b))) - math.log1p(-1 / b)


_STEEP = 6.0  # in four points; below, powers up to the third of the cosine are kept exactly


class DeepKernelTable:
    """The deep tangent kernel as a function of the cosine, tabulated once and interpolated by cubics.

    The table is uniform in x = log(delta / (2 - delta)), so that it is fine at both poles and smooth at right angles,
    where the kernel changes its sign. The cubics go through signed values, and where these fall steeply through
    logarithms. The error is about 1e-8 of the diagonal.

    Args:
        dual: of the activation.
        depth: layers.
        n_points: of the table.
    """

    def __init__(self, dual: SphereDual, depth: int, *, n_points: int = 4000) -> None:
        check_int("DeepKernelTable", "n_points", n_points, low=100)
        low, high = math.log(0.5e-18), 24.0
        self._step = (high - low) / (n_points - 1)
        # Right angles, where the kernel may be exactly 0 and its logarithm endless, lie between two points.
        self._first = (math.floor(low / self._step) + 0.5) * self._step
        x = self._first + self._step * torch.arange(n_points, dtype=torch.float64)
        ends = torch.tensor([2.0], dtype=torch.float64)
        found = deep_kernels(dual, torch.cat([2 * torch.sigmoid(x), ends]), depth)
        log_k = found.log_ntk.clamp_min(-1e300)
        self.log_k_diagonal = found.log_ntk_diagonal
        self._opposite = float(log_k[-1]), float(found.sign_ntk[-1])
        logs, signs = (part[:-1].unfold(0, 4, 1) for part in (log_k, found.sign_ntk))  # four neighbours a row
        top = logs.amax(1)
        steep = (signs == signs[:, :1]).all(1) & (top - logs.amin(1) > _STEEP)
        values = torch.where(steep[:, None], logs, signs * (logs - top[:, None]).exp())
        first, one, two, three = values[:, 0], *(values.diff(n=k)[:, 0] for k in (1, 2, 3))
        self._pieces = torch.stack([first, one, two / 2, three / 6], 1)  # Newton's form at the points 0, 1, 2, 3
        self._top, self._steep, self._sign = top, steep, signs[:, 1]

    def __call__(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Log |K| and sign of K at 1 - cosine = `delta`; at 0 the diagonal."""
        x = delta.clamp_min(1e-300).log() - (2 - delta).clamp_min(1e-300).log()
        place = ((x - self._first) / self._step).clamp(0, len(self._top) + 2)
        piece = (place.long() - 1).clamp(0, len(self._top) - 1)
        t = place - piece
        a, b, c, d = self._pieces.to(delta.device)[piece].unbind(-1)
        value = a + t * (b + (t - 1) * (c + (t - 2) * d))
        steep, top, same_sign = (part.to(delta.device)[piece] for part in (self._steep, self._top, self._sign))
        log_k = torch.where(steep, value, top + value.abs().clamp_min(torch.finfo(value.dtype).tiny).log())
        sign = torch.where(steep, same_sign, torch.where(value < 0, -1.0, 1.0).to(value))
        same, opposite = delta < 1e-18, 2 - delta < 1e-15
        log_k = log_k.where(~same, self.log_k_diagonal).where(~opposite, self._opposite[0])
        return log_k, sign.where(~same, 1.0).where(~opposite, self._opposite[1])


def _polynomial(coefficients: Sequence[float], s: Tensor) -> Tensor:
    """Horner's scheme, lowest power first."""
    total = torch.zeros_like(s)
    for value in reversed(coefficients):
        total = total * s + value
    return total
