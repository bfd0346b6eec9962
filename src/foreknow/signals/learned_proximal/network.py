"""Networks that are gradients of convex functions, and hence proximal maps.

psi is an input-convex network with softplus: y_1 = s(W_0 x + b_0), y_{k+1} = s(W_k y_k + H_k x + b_k),
psi(x) = w'y + h'x + alpha ||x||^2, with W_k (k >= 1) and w nowhere negative. `forward` is f(x) = grad psi(x), which is
the proximal map of some function R (Gribonval and Nikolova 2020). `project` puts the weights back where psi is convex.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreknow.common.errors import InputError
from foreknow.core.records import record


@record
@dataclass(frozen=True)
class Architecture:
    """Sizes of a network.

    Args:
        kind: "mlp" for vectors, "conv" for images.
        shape: of one row, (d,) or (C, H, W).
        hidden: units or channels of the hidden layers.
        strides: of the convolutions; for vectors one layer each.
        valid_head: whether a convolution over the whole map, instead of a linear layer, follows the last one.
        beta: sharpness of softplus.
        alpha: weight of ||x||^2 in psi.
    """

    kind: str
    shape: tuple[int, ...]
    hidden: int
    strides: tuple[int, ...]
    valid_head: bool
    beta: float
    alpha: float


SMALL: dict[str, Any] = {"hidden": 64, "strides": (1, 2, 1, 2), "valid_head": False, "beta": 10.0, "alpha": 0.01}
"""Published for 28 x 28 pixels."""
LARGE: dict[str, Any] = {"hidden": 256, "strides": (1, 2, 1, 2, 1, 2), "valid_head": True, "beta": 100.0, "alpha": 1e-6}
"""Published for 128 x 128 pixels."""
VECTOR: dict[str, Any] = {"hidden": 50, "strides": (1, 1, 1, 1), "valid_head": False, "beta": 10.0, "alpha": 1e-4}
"""For vectors."""
LARGEST_SMALL = 48
"""Pixels a side up to which images get the small network unless the caller says otherwise."""
_HEAD = 64


class GradientOfConvex(nn.Module):
    """f = grad psi; a subclass has `psi` and lists the weights that must not be negative."""

    architecture: Architecture

    def psi(self, x: Tensor) -> Tensor:
        """The potential of each row, shape (b,); convex once `project` was called."""
        raise NotImplementedError

    def constrained(self) -> Sequence[Tensor]:
        """The weights that must not be negative."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Grad psi at each row, shape kept; differentiable in the weights and, while gradients are on, in x."""
        tracked = torch.is_grad_enabled()
        with torch.enable_grad():
            given = x if x.requires_grad else x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.psi(given).sum(), given, create_graph=tracked)
        return slope

    @torch.no_grad()
    def project(self) -> None:
        """Set negative weights to 0 where psi needs them not to be."""
        for weight in self.constrained():
            weight.clamp_(min=0)

    @torch.no_grad()
    def start_convex(self) -> None:
        """First weights for training: the constrained ones exp(u) / fan_in, so that rows sum to about one.

        u is uniform with a standard deviation of 0.1: the weights that are there, scaled, which torch draws uniformly
        with variance 1 / (3 fan_in).
        """
        for weight in self.constrained():
            fan_in = weight[0].numel()
            weight.copy_((0.1 * math.sqrt(3 * fan_in) * weight).exp() / fan_in)

    def _act(self, x: Tensor) -> Tensor:
        return F.softplus(x, beta=self.architecture.beta)


class ConvexMLP(GradientOfConvex):
    """For vectors, shape (b, d).

    Args:
        architecture: of kind "mlp".
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        (d,), hidden, n_layers = architecture.shape, architecture.hidden, len(architecture.strides)
        self.first = nn.Linear(d, hidden)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(n_layers))
        self.skips = nn.ModuleList(nn.Linear(d, hidden) for _ in range(n_layers))
        self.last, self.last_skip = nn.Linear(hidden, 1, bias=False), nn.Linear(d, 1, bias=False)

    def psi(self, x: Tensor) -> Tensor:
        y = self._act(self.first(x))
        for inner, skip in zip(self.inner, self.skips, strict=True):
            y = self._act(inner(y) + skip(x))
        linear: Tensor = self.last(y) + self.last_skip(x)
        return linear[:, 0] + self.architecture.alpha * (x * x).sum(1)

    def constrained(self) -> list[Tensor]:
        return [*(cast(Tensor, layer.weight) for layer in self.inner), self.last.weight]


class ConvexConv(GradientOfConvex):
    """For images of one size, shape (b, C, H, W); skip branches see the image resized to the size of their layer.

    Args:
        architecture: of kind "conv".
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        (channels, *size), hidden = architecture.shape, architecture.hidden
        first, *rest = architecture.strides
        self.first = nn.Conv2d(channels, hidden, 3, stride=first, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(hidden, hidden, 3, stride=s, padding=1, bias=False) for s in rest)
        self.skips = nn.ModuleList(nn.Conv2d(channels, hidden, 3, stride=s, padding=1) for s in rest)
        self.sizes = [_after(size, first)]  # of the map that each layer reads
        for stride in rest:
            self.sizes.append(_after(self.sizes[-1], stride))
        area = self.sizes[-1][0] * self.sizes[-1][1]
        if architecture.valid_head:
            self.head: nn.Module = nn.Conv2d(hidden, _HEAD, self.sizes[-1], bias=False)
            self.head_skip: nn.Module = nn.Conv2d(channels, _HEAD, self.sizes[-1])
        else:
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(hidden * area, _HEAD, bias=False))
            self.head_skip = nn.Sequential(nn.Flatten(), nn.Linear(channels * area, _HEAD))
        self.last = nn.Linear(_HEAD, 1, bias=False)

    def psi(self, x: Tensor) -> Tensor:
        shape = self.architecture.shape
        if tuple(x.shape[1:]) != shape:
            raise InputError(
                f"this network is for images of shape {shape}, got {tuple(x.shape[1:])}.",
                hint="Average its results over patches (foreknow.nn.inverse.PatchAverage), or train another.",
            )
        y = self._act(self.first(x))
        for size, inner, skip in zip(self.sizes, self.inner, self.skips, strict=False):
            y = self._act(inner(y) + skip(_resized(x, size)))
        y = self._act(self.head(y) + self.head_skip(_resized(x, self.sizes[-1])))
        if y.ndim == 4:
            y = y.mean((2, 3))
        linear: Tensor = self.last(y)
        return linear[:, 0] + self.architecture.alpha * (x * x).flatten(1).sum(1)

    def constrained(self) -> list[Tensor]:
        head = self.head[1] if isinstance(self.head, nn.Sequential) else self.head
        return [*(cast(Tensor, layer.weight) for layer in self.inner), cast(Tensor, head.weight), self.last.weight]


def build_network(architecture: Architecture) -> GradientOfConvex:
    """The network of these sizes, with torch's usual first weights."""
    return ConvexMLP(architecture) if architecture.kind == "mlp" else ConvexConv(architecture)


def _after(size: Sequence[int], stride: int) -> tuple[int, int]:
    height, width = (math.ceil(length / stride) for length in size)
    return height, width


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x if tuple(x.shape[2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
