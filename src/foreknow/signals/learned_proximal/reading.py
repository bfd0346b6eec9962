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

from foreknow.signals.learned_proximal.network import GradientOfConvex

_MEMORY = 20
"""Pairs of steps and changes of slope that a direction is made of."""


@dataclass(frozen=True)
class Inverse:
    """Where the network takes its values.

    Args:
        y: with f(y) = x, shape (b, ...).
        residual: ||f(y) - x|| / (1 + ||x||), shape (b,).
        penalty: R(x), shape (b,).
        n_iterations: quasi-Newton steps.
    """

    y: Tensor
    residual: Tensor
    penalty: Tensor
    n_iterations: int


def invert(
    network: GradientOfConvex, x: Tensor, *, tolerance: float = 1e-6, n_iterations: int = 1000, step: float = 1.0
) -> Inverse:
    """Solve (1 - t) y + t f(y) = x with t = 1, or for another `step` t the problem of its proximal map.

    Args:
        network: f.
        x: shape (b, ...); the work is done in double precision.
        tolerance: of the residual.
        n_iterations: quasi-Newton steps at the most.
        step: t; 1 inverts f, less mixes (1 - t) f(y) + t y.
    """
    net = copy.deepcopy(network).double().requires_grad_(False)
    goal = x.detach().double()
    share = 1.0 if step == 1.0 else 1.0 - step  # of psi in the convex function that is minimised
    ridge = 0.0 if step == 1.0 else step

    def parts(y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            given = y.detach().requires_grad_(True)
            psi = net.psi(given)
            (slope,) = torch.autograd.grad(psi.sum(), given)
        value = share * psi.detach() + (0.5 * ridge * y * y - goal * y).flatten(1).sum(1)
        return value, share * slope + ridge * y - goal

    y = goal.clone()
    value, slope = parts(y)
    enough = tolerance * (1 + goal.flatten(1).norm(dim=1))
    memory: list[tuple[Tensor, Tensor, Tensor]] = []
    taken = 0
    while taken < n_iterations and bool((slope.flatten(1).norm(dim=1) > enough).any()):
        taken += 1
        new_y, new_value, new_slope = _line_search(y, _direction(slope, memory), value, slope, parts)
        moved, bent = new_y - y, new_slope - slope
        product = _dot(moved, bent)
        # a row that did not move, or whose curvature drowns in rounding, gets no pair
        useful = product > 1e-12 * _dot(bent, bent)
        memory.append((moved, bent, torch.where(useful, 1 / product.where(useful, torch.ones_like(product)), 0.0)))
        memory = memory[-_MEMORY:]
        y, value, slope = new_y, new_value, new_slope
    residual = slope.flatten(1).norm(dim=1) / (1 + goal.flatten(1).norm(dim=1))
    with torch.no_grad():
        penalty = (goal * y - 0.5 * goal * goal).flatten(1).sum(1) - net.psi(y)
    return Inverse(y, residual, penalty, taken)


def _direction(slope: Tensor, memory: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The quasi-Newton direction of each row (L-BFGS, Nocedal 1980)."""
    way, shares = -slope, []
    for moved, bent, inverse in reversed(memory):
        shares.append(inverse * _dot(moved, way))
        way = way - shares[-1] * bent
    if memory:
        moved, bent, inverse = memory[-1]
        scale = torch.where(inverse > 0, _dot(moved, bent) / _dot(bent, bent).clamp_min(1e-300), 1.0)
        way = scale * way
    for (moved, bent, inverse), share in zip(memory, reversed(shares), strict=True):
        way = way + (share - inverse * _dot(bent, way)) * moved
    return way


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner product of each row, shape (b, 1, ...)."""
    return (one * other).flatten(1).sum(1).reshape(-1, *[1] * (one.ndim - 1))


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
