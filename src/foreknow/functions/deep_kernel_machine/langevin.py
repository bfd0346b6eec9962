"""Finite deep Gaussian processes by Langevin dynamics: do their Gram matrices come to those of the machine?

Layer l has N features, F_l = L_l Z_l with Z_l standard normal and L_l L_l' = K(F_{l-1} F_{l-1}' / N). The target is
seen N times, so that prior and likelihood grow together. `optimal_grams` is the limit, `sample_grams` a chain at some
width N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foreknow.functions.deep_kernel_machine.kernels import apply_kernel
from foreknow.functions.deep_kernel_machine.machine import GramChain, input_blocks
from foreknow.nn.inducing import collapsed_bound, stable_cholesky
from foreknow.nn.infinite.dense import Gram

JITTER = 1e-6


@dataclass(frozen=True)
class LangevinSettings:
    """Underdamped Langevin dynamics with one gradient a step.

    Args:
        n_steps: of a chain; the first `burn_in` are left out.
        step: of the integrator, in units of the prior's standard deviation.
        friction: per unit of time.
        thin: every so many-th state is kept.
    """

    n_steps: int = 1500
    burn_in: int = 500
    step: float = 0.15
    friction: float = 1.0
    thin: int = 20


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
) -> Tensor:
    """Gram matrices of a deep Gaussian process of finite width given the data, shape (samples, layers, P, P).

    Args:
        x: rows, shape (P, D).
        y: one target, shape (P,), seen `width` times.
        width: N.
        layers: hidden layers.
        kernel: of every layer.
        noise: variance of the noise.
        settings: of the dynamics.
        generator: of starts and noise.
    """
    s = settings or LangevinSettings()
    p = len(x)
    shape = (layers, p, width)
    z = torch.randn(shape, generator=generator, dtype=torch.float64)
    momentum = torch.randn(shape, generator=generator, dtype=torch.float64)
    eye = noise * torch.eye(p, dtype=torch.float64)
    first = x @ x.T / x.shape[1]

    def grams_of(z: Tensor) -> tuple[list[Tensor], Tensor]:
        gram, found = first, []
        for layer in z:
            factor, _ = stable_cholesky(apply_kernel(kernel, Gram.square(gram)).cross, JITTER)
            features = factor @ layer
            gram = features @ features.T / width
            found.append(gram)
        factor = torch.linalg.cholesky(apply_kernel(kernel, Gram.square(gram)).cross + eye)
        white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
        return found, -0.5 * white.square().sum() - factor.diagonal().log().sum()

    def force(z: Tensor) -> Tensor:
        """Gradient of the log posterior."""
        z = z.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(width * grams_of(z)[1], z)
        return gradient - z.detach()

    keep = math.exp(-0.5 * s.friction * s.step)
    kick = math.sqrt(1 - keep * keep)
    pull, samples = force(z), []
    for step in range(s.n_steps):
        momentum = keep * momentum + kick * torch.randn(shape, generator=generator, dtype=torch.float64)
        momentum = momentum + 0.5 * s.step * pull
        z = z + s.step * momentum
        pull = force(z)
        momentum = momentum + 0.5 * s.step * pull
        momentum = keep * momentum + kick * torch.randn(shape, generator=generator, dtype=torch.float64)
        if step >= s.burn_in and step % s.thin == 0:
            with torch.no_grad():
                samples.append(torch.stack(grams_of(z)[0]))
    return torch.stack(samples)
