"""Reading the prior out of a proximal network: R(x) = <x, y> - ||x||^2 / 2 - psi(y), where f(y) = x.

The inverse y = f^-1(x) minimises psi(y) - <x, y>, a convex problem. With it come grad R(x) = y - x, and the proximal
map of t R for 0 < t <= 1: f(y) where y minimises (1 - t) psi(y) + t ||y||^2 / 2 - <v, y>.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foreknow.nn.inverse.physics import conjugate_gradients
from foreknow.signals.learned_proximal.network import GradientOfConvex


@dataclass(frozen=True)
class Inverse:
    """Where the network takes its values.

    Args:
        y: with f(y) = x, shape (b, ...).
        residual: ||f(y) - x|| / (1 + ||x||), shape (b,).
        penalty: R(x), shape (b,).
        n_iterations: Newton steps.
    """

    y: Tensor
    residual: Tensor
    penalty: Tensor
    n_iterations: int


def invert(
    network: GradientOfConvex, x: Tensor, *, tolerance: float = 1e-6, n_iterations: int = 60, step: float = 1.0
) -> Inverse:
    """Solve (1 - t) y + t f(y) = x with t = 1, or for another `step` t the problem of its proximal map.

    Args:
        network: f.
        x: shape (b, ...); the work is done in double precision.
        tolerance: of the residual.
        n_iterations: Newton steps at the most.
        step: t; 1 inverts f, less mixes (1 - t) f(y) + t y.
    """
    net = copy.deepcopy(network).double().requires_grad_(False)
    goal = x.detach().double()
    share = 1.0 if step == 1.0 else 1.0 - step  # of psi in the convex function that is minimised
    ridge = 0.0 if step == 1.0 else step

    def parts(y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            value = share * net.psi(y) + (0.5 * ridge * y * y - goal * y).flatten(1).sum(1)
        return value, share * net(y).detach() + ridge * y - goal

    y = goal.clone()
    value, slope = parts(y)
    enough = tolerance * (1 + goal.flatten(1).norm(dim=1))
    taken = 0
    with torch.no_grad():
        for _ in range(n_iterations):
            size = slope.flatten(1).norm(dim=1)
            if bool((size <= enough).all()):
                break
            taken += 1
            with torch.enable_grad():
                given = y.clone().requires_grad_(True)
                image = net(given)

                def curvature(v: Tensor, image: Tensor = image, given: Tensor = given) -> Tensor:
                    (moved,) = torch.autograd.grad(image, given, v, retain_graph=True)  # the derivative is symmetric
                    return share * moved + (ridge + 1e-9) * v

                way = conjugate_gradients(curvature, -slope, n_iterations=100, tolerance=1e-3)
            y, value, slope = _line_search(y, way, value, slope, parts)
    residual = slope.flatten(1).norm(dim=1) / (1 + goal.flatten(1).norm(dim=1))
    with torch.no_grad():
        penalty = (goal * y - 0.5 * goal * goal).flatten(1).sum(1) - net.psi(y)
    return Inverse(y, residual, penalty, taken)


def _line_search(
    y: Tensor, way: Tensor, value: Tensor, slope: Tensor, parts: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor, Tensor]:
    """The first of the steps 1, 1/2, 1/4, ... that lowers the function enough, for each row; else none."""
    length = torch.ones_like(value)
    fall = (slope * way).flatten(1).sum(1)
    best = (y, value, slope)
    open_ = torch.ones_like(value, dtype=torch.bool)
    for _ in range(25):
        tried = y + length.reshape(-1, *[1] * (y.ndim - 1)) * way
        new_value, new_slope = parts(tried)
        # near the minimum the values are equal to rounding; a smaller slope is progress there
        close = new_slope.flatten(1).norm(dim=1) < slope.flatten(1).norm(dim=1)
        near = (new_value - value).abs() <= 1e-12 * (1 + value.abs())
        good = open_ & ((new_value <= value + 1e-4 * length * fall) | (near & close))
        keep = good.reshape(-1, *[1] * (y.ndim - 1))
        best = (torch.where(keep, tried, best[0]), torch.where(good, new_value, best[1]),
                torch.where(keep, new_slope, best[2]))  # fmt: skip
        open_ = open_ & ~good
        if not bool(open_.any()):
            break
        length = torch.where(open_, length / 2, length)
    return best
