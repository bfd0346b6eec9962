"""Iterations that reconstruct x from y = A x + noise, with a learnt or classical proximal map as their prior.

`admm`, `pgd` and `hqs` take any physics with `A`, `A_adjoint` and `prox_l2`, and any denoiser `f(x)`. They return the
image and a `Certificate`: how far the iterates moved, step by step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.validate import check_int, check_real

Denoiser = Callable[[Tensor], Tensor]
"""x -> the proximal map, or whatever stands for it, at x; shape kept."""


@dataclass(frozen=True)
class Certificate:
    """How an iteration went.

    Args:
        solver: its name.
        changes: ||x_{k+1} - x_k|| after each iteration, the norm over a whole image, the largest of the batch.
        tolerance: what it was to fall below.
        misfit: ||A x - y|| / ||y|| of the result, the largest of the batch.
        lipschitz: estimate of the Lipschitz constant of the denoiser at the result, None if not asked for.
    """

    solver: str
    changes: tuple[float, ...]
    tolerance: float
    misfit: float
    lipschitz: float | None = None

    @property
    def converged(self) -> bool:
        """Whether the last change is below the tolerance."""
        return self.changes[-1] < self.tolerance

    @property
    def decreasing(self) -> bool:
        """Whether the changes fall, but for a hundredth of the tolerance, over the second half of the iterations."""
        later = self.changes[len(self.changes) // 2 :]
        slack = 0.01 * self.tolerance
        return all(after <= before + slack for before, after in itertools.pairwise(later))


def admm(
    y: Tensor,
    physics: Any,
    denoiser: Denoiser,
    *,
    rho: float = 0.1,
    scale: float = 1.0,
    n_iterations: int = 20,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, Certificate]:
    """Alternating directions: x from the data, u += x - z, z = f(x + u), in this order.

    Args:
        y: measurements.
        physics: the operator, with `A`, `A_adjoint` and `prox_l2`.
        denoiser: f.
        rho: weight of the coupling in the x-step, argmin scale/2 ||A x - y||^2 + rho/2 ||x - z + u||^2.
        scale: weight of the data.
        n_iterations: at the most.
        tolerance: of the change of z in an iteration, at which it stops.
        start: first image, A* y by default.
        on_step: told the number of finished iterations.

    Returns:
        The last z, which lies in the range of f, and the certificate.
    """
    gamma = _positive("admm", scale=scale) / _positive("admm", rho=rho)
    z = physics.A_adjoint(y) if start is None else start
    u = torch.zeros_like(z)

    def step(z: Tensor) -> Tensor:
        nonlocal u
        x = physics.prox_l2(z - u, y, gamma)
        u = u + x - z
        return denoiser(x + u)

    return _iterate("admm", step, z, y, physics, n_iterations, tolerance, on_step)


def pgd(
    y: Tensor,
    physics: Any,
    denoiser: Denoiser,
    *,
    step_size: float | None = None,
    n_iterations: int = 100,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, Certificate]:
    """Proximal gradient descent: x <- f(x - eta A*(A x - y)); arguments as in `admm`.

    Args:
        step_size: eta, less than 1 / ||A||^2; by default 0.99 of that.
    """
    x = physics.A_adjoint(y) if start is None else start
    if step_size is None:
        size = physics.norm(tuple(x.shape[1:])) if hasattr(physics, "norm") else _norm(physics, x)
        step_size = 0.99 / max(size, 1e-12)
    eta = _positive("pgd", step_size=step_size)

    def step(x: Tensor) -> Tensor:
        return denoiser(x - eta * physics.A_adjoint(physics.A(x) - y))

    return _iterate("pgd", step, x, y, physics, n_iterations, tolerance, on_step)


def hqs(
    y: Tensor,
    physics: Any,
    denoiser: Denoiser,
    *,
    rho: float = 0.1,
    scale: float = 1.0,
    n_iterations: int = 20,
    tolerance: float = 1e-4,
    start: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Tensor, Certificate]:
    """Half-quadratic splitting: `admm` without u, so z = f(x) with x from the data and the last z."""
    gamma = _positive("hqs", scale=scale) / _positive("hqs", rho=rho)

    def step(z: Tensor) -> Tensor:
        return denoiser(physics.prox_l2(z, y, gamma))

    z = physics.A_adjoint(y) if start is None else start
    return _iterate("hqs", step, z, y, physics, n_iterations, tolerance, on_step)


SOLVERS = {"admm": admm, "hqs": hqs, "pgd": pgd}


def as_denoiser(model: Any, sigma: float) -> Denoiser:
    """The map of a denoiser called with (x, sigma), or of a prior with `prox(x, sigma, gamma=1)`, as deepinv has them.

    Raises:
        ConfigError: it is neither.
    """
    if hasattr(model, "prox"):
        return lambda x: model.prox(x, sigma, gamma=1.0)
    if callable(model):
        return lambda x: model(x, sigma)
    raise ConfigError(
        f"a denoiser called with (x, sigma), or a prior with prox, is needed, got {type(model).__name__}."
    )


def largest_slope(denoiser: Denoiser, x: Tensor, *, n_iterations: int = 20) -> float:
    """Largest eigenvalue of the derivative of `denoiser` at each x, by power iteration; the largest of the batch."""
    with torch.enable_grad():
        given = x.detach().requires_grad_(True)
        image = denoiser(given)
        way = torch.ones_like(x) + 0.1 * torch.sin(torch.arange(x.numel(), device=x.device)).reshape(x.shape).to(x)
        size = torch.zeros(len(x))
        for _ in range(n_iterations):
            way = way / way.flatten(1).norm(dim=1).clamp_min(1e-30).reshape(-1, *[1] * (x.ndim - 1))
            (way,) = torch.autograd.grad(image, given, way, retain_graph=True)
            size = way.flatten(1).norm(dim=1)
    return float(size.max())


@torch.no_grad()
def _iterate(
    solver: str,
    step: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    physics: Any,
    n_iterations: int,
    tolerance: float,
    on_step: Callable[[int], None] | None,
) -> tuple[Tensor, Certificate]:
    check_int(solver, "n_iterations", n_iterations, low=1)
    check_real(solver, "tolerance", tolerance, low=0.0)
    if not bool(y.isfinite().all()):
        raise InputError(f"{solver}: the measurements must be finite numbers.")
    changes: list[float] = []
    for number in range(n_iterations):
        new = step(x)
        changes.append(float((new - x).flatten(1).norm(dim=1).max()))
        x = new
        if not changes[-1] < float("inf"):
            raise ConvergenceError(
                f"{solver}: the iterates are no numbers after {number + 1} iterations.",
                hint="Use a larger rho, a smaller scale or step_size, or a denoiser that is a proximal map.",
                statistics={"iteration": float(number + 1)},
            )
        if on_step is not None:
            on_step(number + 1)
        if changes[-1] < tolerance:
            break
    gap = (physics.A(x) - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1).clamp_min(1e-12)
    return x, Certificate(solver, tuple(changes), tolerance, float(gap.max()))


def _positive(owner: str, **named: float) -> float:
    ((name, value),) = named.items()
    return check_real(owner, name, value, low=0.0, open_low=True)


def _norm(physics: Any, x: Tensor, n_iterations: int = 30) -> float:
    way = torch.ones_like(x[:1])
    for _ in range(n_iterations):
        way = physics.A_adjoint(physics.A(way / way.norm()))
    return float(way.norm())
