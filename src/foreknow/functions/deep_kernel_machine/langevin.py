"""Finite deep Gaussian processes by Langevin dynamics: do their Gram matrices come to those of the machine?

Layer l has N features, F_l = L_l Z_l with Z_l standard normal and L_l L_l' = K(F_{l-1} F_{l-1}' / N). The target is
seen N times, so that prior and likelihood grow together. `optimal_grams` is the limit, `sample_grams` a chain at some
width N. Steps that are too long do not blow up but settle at a wrong law, so each one after the burn-in is accepted or
turned back (Horowitz 1991), and a chain that turns back too many is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConvergenceError
from foreknow.functions.deep_kernel_machine.kernels import apply_kernel
from foreknow.functions.deep_kernel_machine.machine import GramChain, input_blocks
from foreknow.nn.inducing import collapsed_bound, stable_cholesky
from foreknow.nn.infinite.dense import Gram

JITTER = 1e-6
LEAST_ACCEPTANCE = 0.5
"""Share of accepted steps below which a chain is refused."""


@dataclass(frozen=True)
class LangevinSettings:
    """Underdamped Langevin dynamics with one gradient a step.

    Args:
        n_steps: of a chain; the first `burn_in` are left out, and only in them all steps are accepted.
        step: of the integrator, in units of the prior's standard deviation.
        friction: per unit of time.
        thin: every so many-th state is kept.
    """

    n_steps: int = 1500
    burn_in: int = 500
    step: float = 0.03
    friction: float = 1.0
    thin: int = 20


@dataclass(frozen=True)
class Chain:
    """States of the dynamics.

    Args:
        grams: shape (samples, layers, P, P).
        acceptance: share of the steps after the burn-in that were accepted.
    """

    grams: Tensor
    acceptance: float


def optimal_grams(
    x: Tensor, y: Tensor, *, layers: int, kernel: str, noise: float, nu: float = 1.0, n_steps: int = 200
) -> list[Tensor]:
    """Gram matrices G_1..G_L, (P, P) each, that maximise the objective on rows (P, D) and targets (P, C), by L-BFGS."""
    chain = GramChain(len(x), layers=layers, kernel=kernel, nu=nu, normalize=False, jitter=JITTER, learn_scales=False)
    variance = torch.tensor(noise, dtype=torch.float64)
    if not math.isinf(nu):
        optimiser = torch.optim.LBFGS(
            chain.roots.parameters(), max_iter=n_steps, tolerance_grad=1e-9, tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimiser.zero_grad()
            passed = chain(input_blocks(x, x))
            loss = chain.penalty(passed, y.shape[1]) - collapsed_bound(passed.a, passed.tt, y, variance)
            torch.autograd.backward(loss)
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        grams: list[Tensor] = chain(input_blocks(x, x)).grams
    return grams


def sample_grams(
    x: Tensor,
    y: Tensor,
    width: int,
    *,
    layers: int,
    kernel: str,
    noise: float,
    settings: LangevinSettings | None = None,
    generator: Generator,
) -> Chain:
    """Gram matrices of a deep Gaussian process of finite width given the data.

    Args:
        x: rows, shape (P, D).
        y: one target, shape (P,), seen `width` times.
        width: N.
        layers: hidden layers.
        kernel: of every layer.
        noise: variance of the noise.
        settings: of the dynamics.
        generator: of starts, which are draws from the prior, and of noise.

    Raises:
        ConvergenceError: too many steps were turned back.
    """
    s = settings or LangevinSettings()
    p = len(x)
    shape = (layers, p, width)
    eye = noise * torch.eye(p, dtype=torch.float64)
    first = x @ x.T / x.shape[1]

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def look(z: Tensor) -> tuple[Tensor, float, Tensor]:
        """Gradient of the log posterior, its value, and the Gram matrices."""
        z = z.requires_grad_(True)
        gram, found = first, []
        for layer in z:
            factor, _ = stable_cholesky(apply_kernel(kernel, Gram.square(gram)).cross, JITTER)
            features = factor @ layer
            gram = features @ features.T / width
            found.append(gram.detach())
        factor = torch.linalg.cholesky(apply_kernel(kernel, Gram.square(gram)).cross + eye)
        white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
        fit = -width * (0.5 * white.square().sum() + factor.diagonal().log().sum())
        (gradient,) = torch.autograd.grad(fit, z)
        z = z.detach()
        return gradient - z, float(fit.detach() - 0.5 * z.square().sum()), torch.stack(found)

    keep = math.exp(-s.friction * s.step)
    kick = math.sqrt(1 - keep * keep)
    z, momentum = normal(), normal()
    pull, density, grams = look(z)
    samples, accepted = [], []
    for step in range(s.n_steps):
        momentum = keep * momentum + kick * normal()
        half = momentum + 0.5 * s.step * pull
        there = z + s.step * half
        pull_there, density_there, grams_there = look(there)
        after = half + 0.5 * s.step * pull_there
        gain = density_there - density - 0.5 * float(after.square().sum() - momentum.square().sum())
        chance = math.exp(min(0.0, gain))
        if step < s.burn_in or float(torch.rand((), generator=generator)) < chance:
            z, momentum, pull, density, grams = there.detach(), after, pull_there, density_there, grams_there
        else:
            momentum = -momentum
        if step >= s.burn_in:
            accepted.append(chance)
            if step % s.thin == 0:
                samples.append(grams)
    acceptance = sum(accepted) / max(1, len(accepted))
    if not acceptance >= LEAST_ACCEPTANCE:
        raise ConvergenceError(
            f"the integrator's steps of {s.step:g} are too long: {acceptance:.0%} of them were accepted.",
            hint="Take a smaller step, and more of them.",
            statistics={"acceptance": acceptance},
        )
    return Chain(torch.stack(samples), acceptance)
