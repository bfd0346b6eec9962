"""The network of the paper: frozen neurons, a bottleneck of width one, a skip connection, and an outer layer.

g_u(x) = u . sigma_2(V x + s)                       `NeuronFeature`, or with infinitely many neurons `KernelFeature`
h(x)   = mean + g_u(x) + c . relu(a g_u(x) / scale + b)     `ThreeLayerNetwork`
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from foreknow.functions.hierarchical_polynomials.hermite import degree_kernel, hermite, n_polynomials

INNER = ("relu", "softplus", "polynomial", "hermite")
KERNELS = ("relu", "polynomial", "hermite")
"""Inner activations whose kernel has a closed form."""
_CHUNK = 4_000_000  # numbers of a basis held at once when predicting


class Feature(nn.Module, ABC):
    """A linear function of a frozen basis: `basis(x)` has shape (n, m), `forward(x)` is basis(x) @ weights."""

    weights: nn.Parameter

    @abstractmethod
    def basis(self, x: Tensor) -> Tensor:
        """What the weights multiply, shape (n, m)."""

    def forward(self, x: Tensor) -> Tensor:
        """The bottleneck, shape (n,)."""
        size = max(1, _CHUNK // len(self.weights))
        parts = [self.basis(rows) @ self.weights for rows in torch.split(x, size)]
        return torch.cat(parts) if parts else x.new_zeros(0)


class NeuronFeature(Feature):
    """u . sigma(V x + s) / sqrt(m) with V uniform on the sphere and s standard normal, both frozen.

    Args:
        n_features: d.
        width: number of neurons, m.
        inner: "relu", "softplus", "polynomial" (h_0 + ... + h_k) or "hermite" (h_k alone, without shift).
        degree: k of the last two.
        generator: of directions and shifts.
    """

    directions: Tensor
    shifts: Tensor

    def __init__(self, n_features: int, width: int, inner: str, degree: int, generator: Generator) -> None:
        super().__init__()
        self.inner, self.degree = inner, degree
        v = torch.randn(n_features, width, generator=generator, dtype=torch.float64)
        self.register_buffer("directions", v / v.norm(dim=0).clamp_min(1e-12))
        self.register_buffer("shifts", torch.randn(width, generator=generator, dtype=torch.float64))
        self.weights = nn.Parameter(torch.zeros(width, dtype=torch.float64))

    def basis(self, x: Tensor) -> Tensor:
        z = x @ self.directions
        if self.inner == "hermite":
            values = hermite(z, self.degree)[self.degree]
        elif self.inner == "polynomial":
            values = torch.stack(hermite(z, self.degree)).sum(dim=0) / math.sqrt(self.degree + 1)
        else:
            values = getattr(torch.nn.functional, self.inner)(z + self.shifts)
        return values / math.sqrt(len(self.weights))


class KernelFeature(Feature):
    """The same with infinitely many neurons: weights on the training rows.

    Args:
        rows: training rows, shape (n, d).
        inner: one of `KERNELS`.
        degree: k of the polynomial ones.
    """

    rows: Tensor

    def __init__(self, rows: Tensor, inner: str, degree: int) -> None:
        super().__init__()
        self.inner, self.degree = inner, degree
        self.register_buffer("rows", rows.clone())
        self.weights = nn.Parameter(torch.zeros(len(rows), dtype=torch.float64))

    def basis(self, x: Tensor) -> Tensor:
        return kernel(x, self.rows, self.inner, self.degree)


def kernel(x: Tensor, other: Tensor, inner: str, degree: int) -> Tensor:
    """The kernel of infinitely many frozen neurons, shape (n, m); its mean over equal rows is about one.

    "relu" is the arc-cosine kernel of first order on (x / sqrt(d), 1); "hermite" the polynomials of degree exactly k;
    "polynomial" degrees 0 to k with equal shares.
    """
    d = x.shape[1]
    if inner == "relu":
        return arc_cosine(x / math.sqrt(d), other / math.sqrt(d))
    left, right = x.square().sum(dim=1, keepdim=True), other.square().sum(dim=1)[None]
    parts = degree_kernel(x @ other.T, left, right, d, degree)
    sized = [part / n_polynomials(d, j) for j, part in enumerate(parts)]
    return sized[degree] if inner == "hermite" else torch.stack(sized).mean(dim=0)


def arc_cosine(x: Tensor, other: Tensor) -> Tensor:
    """(1 / pi) |x| |x'| (sin t + (pi - t) cos t) for rows with a one appended; equal rows give |x|^2."""
    left, right = (1 + x.square().sum(dim=1)).sqrt()[:, None], (1 + other.square().sum(dim=1)).sqrt()[None]
    size = left * right
    cosine = ((1 + x @ other.T) / size).clamp(-1.0, 1.0)
    return size / math.pi * ((1 - cosine.square()).clamp_min(0).sqrt() + (math.pi - cosine.arccos()) * cosine)


class ThreeLayerNetwork(nn.Module):
    """mean + g(x) + c . relu(a g(x) / scale + b): the bottleneck, its skip connection, and the outer layer.

    Args:
        feature: the bottleneck.
        width: number of outer neurons.
        generator: of signs and thresholds.
    """

    signs: Tensor
    thresholds: Tensor
    scale: Tensor
    mean: Tensor

    def __init__(self, feature: Feature, width: int, generator: Generator) -> None:
        super().__init__()
        self.feature = feature
        sign = (torch.rand(width, generator=generator) < 0.5).double() * 2 - 1
        self.register_buffer("signs", sign)
        self.register_buffer("thresholds", 6 * torch.rand(width, generator=generator, dtype=torch.float64) - 3)
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.outer = nn.Parameter(torch.zeros(width, dtype=torch.float64))

    def outer_basis(self, g: Tensor) -> Tensor:
        """relu(a g / scale + b) / sqrt(m_1), shape (n, m_1)."""
        z = (g / self.scale)[:, None] * self.signs + self.thresholds
        return torch.relu(z) / math.sqrt(len(self.outer))

    def link(self, g: Tensor) -> Tensor:
        """The output for values of the bottleneck, shape (n,)."""
        return self.mean + g + self.outer_basis(g) @ self.outer

    def slope(self, g: Tensor) -> Tensor:
        """Derivative of the link at values of the bottleneck, shape (n,)."""
        above = ((g / self.scale)[:, None] * self.signs + self.thresholds > 0).to(g)
        return 1 + (above * self.signs) @ self.outer / (self.scale * math.sqrt(len(self.outer)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs, shape (n,), for rows (n, d)."""
        return self.link(self.feature(x))
