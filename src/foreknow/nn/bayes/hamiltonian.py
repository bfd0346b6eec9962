"""Hamiltonian Monte Carlo, all chains at once: one gradient call a leapfrog step, whatever the number of chains.

Step sizes by dual averaging (Hoffman and Gelman 2014, algorithm 5), masses from the variances of the burn-in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConvergenceError, InputError
from foreknow.common.progress import Reporter
from foreknow.common.validate import check_int, check_real

LogProb = Callable[[Tensor], Tensor]
"""Log density, up to a constant, of coordinates (chains, d): shape (chains,)."""


@dataclass(frozen=True)
class Chains:
    """What a sampler found.

    Args:
        samples: shape (chains, draws, d).
        log_prob: of each, shape (chains, draws).
        accept: mean acceptance probability after burn-in, shape (chains,).
        step: final step size of each chain, shape (chains,); the same for all.
        divergent: share of proposals whose energy grew beyond 1000, shape (chains,).
    """

    samples: Tensor
    log_prob: Tensor
    accept: Tensor
    step: Tensor
    divergent: Tensor


def value_and_grad(log_prob: LogProb, z: Tensor) -> tuple[Tensor, Tensor]:
    """Log densities (chains,) and their gradients (chains, d), non-finite ones as -inf and 0."""
    with torch.enable_grad():
        point = z.detach().requires_grad_(True)
        value = log_prob(point)
        (slope,) = torch.autograd.grad(value.sum(), point)
    value = value.detach()
    finite = value.isfinite() & slope.isfinite().all(-1)
    slope = torch.where(finite.unsqueeze(-1), slope, torch.zeros_like(slope))
    return torch.where(finite, value, torch.full_like(value, -math.inf)), slope


def leapfrog(
    log_prob: LogProb, z: Tensor, momentum: Tensor, slope: Tensor, step: Tensor, n_steps: int, inverse_mass: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`n_steps` leapfrog steps of every chain; reversible and volume preserving.

    Args:
        log_prob: the density.
        z, momentum: shape (chains, d).
        slope: gradient of `log_prob` at z.
        step: shape (chains, 1).
        n_steps: number of steps.
        inverse_mass: shape (chains, d) or (d,).

    Returns:
        Coordinates, momentum, log density and gradient at the end.
    """
    momentum = momentum + 0.5 * step * slope
    value = torch.zeros(z.shape[0]).to(z)
    for number in range(n_steps):
        z = z + step * inverse_mass * momentum
        value, slope = value_and_grad(log_prob, z)
        momentum = momentum + (1.0 if number < n_steps - 1 else 0.5) * step * slope
    return z, momentum, value, slope


class _DualAveraging:
    """Moves log(step), one for all chains, until their mean acceptance is `target`."""

    def __init__(self, step: Tensor, target: float) -> None:
        self.target = target
        self.restart(step)

    def restart(self, step: Tensor) -> None:
        self.mu, self.count = (10 * step).log(), 0
        self.error, self.averaged = torch.zeros_like(step), step.log()
        self.step = step

    def update(self, accept: Tensor) -> None:
        self.count += 1
        share = 1 / (self.count + 10)
        self.error = (1 - share) * self.error + share * (self.target - accept.mean())
        log_step = self.mu - math.sqrt(self.count) / 0.05 * self.error
        weight = self.count**-0.75
        self.averaged = weight * log_step + (1 - weight) * self.averaged
        self.step = log_step.exp()

    def final(self) -> Tensor:
        return self.averaged.exp() if self.count else self.step


def hmc(
    log_prob: LogProb,
    start: Tensor,
    *,
    n_samples: int,
    n_burn: int,
    n_leapfrog: int = 20,
    step: float = 0.01,
    target: float | None = 0.8,
    adapt_mass: bool = False,
    thin: int = 1,
    generator: Generator,
    reporter: Reporter | None = None,
) -> Chains:
    """Draw from a density by Hamiltonian Monte Carlo, every chain of `start` in the same pass.

    The number of leapfrog steps of a proposal is uniform on 1..`n_leapfrog`, the same for all chains, which breaks
    periodic orbits.

    Args:
        log_prob: the density.
        start: shape (chains, d).
        n_samples: draws kept of each chain.
        n_burn: proposals before the first is kept; step sizes (and masses) adapt in these only.
        n_leapfrog: most steps of a proposal.
        step: first step size.
        target: acceptance that dual averaging aims at; None keeps the step size.
        adapt_mass: set the masses to the inverse variances over chains and the middle of the burn-in.
        thin: keep every `thin`-th draw.
        generator: source of randomness.
        reporter: told after every proposal.

    Raises:
        ConvergenceError: a chain starts where the density is zero or not finite.
    """
    if start.ndim != 2:
        raise InputError(f"hmc: start must have shape (chains, d), got {tuple(start.shape)}.")
    for name, number, low in (("n_samples", n_samples, 1), ("n_burn", n_burn, 0), ("n_leapfrog", n_leapfrog, 1), ("thin", thin, 1)):  # fmt: skip # noqa: E501
        check_int("hmc", name, number, low=low)
    check_real("hmc", "step", step, low=0, open_low=True)
    z = start.detach().clone()
    value, slope = value_and_grad(log_prob, z)
    if not bool(value.isfinite().all()):
        raise ConvergenceError(
            f"hmc: {int((~value.isfinite()).sum())} of {len(z)} chains start where the density is zero or not finite.",
            hint="Start elsewhere, for instance at draws from the prior.",
        )
    n_chains, size = z.shape
    steps = torch.full((n_chains,), float(step)).to(z)
    averaging = _DualAveraging(
        steps, 0.8 if target is None else check_real("hmc", "target", target, low=0.1, high=0.99)
    )
    inverse_mass = torch.ones(size).to(z)
    window: list[Tensor] = []
    kept, logs = [], []
    accepted, divergent = torch.zeros(n_chains).to(z), torch.zeros(n_chains).to(z)
    total = n_burn + n_samples * thin
    for number in range(total):
        burning = number < n_burn
        if number == n_burn and target is not None:
            steps = averaging.final()
        scale = (averaging.step if burning and target is not None else steps).unsqueeze(-1)
        noise = torch.randn(z.shape, generator=generator, device=generator.device, dtype=z.dtype).to(z.device)
        momentum = noise / inverse_mass.sqrt()
        length = int(torch.randint(1, n_leapfrog + 1, (1,), generator=generator, device=generator.device))
        new, end, new_value, new_slope = leapfrog(log_prob, z, momentum, slope, scale, length, inverse_mass)
        before = value - 0.5 * (inverse_mass * momentum.square()).sum(-1)
        change = new_value - 0.5 * (inverse_mass * end.square()).sum(-1) - before
        change = torch.where(change.isnan(), torch.full_like(change, -math.inf), change)
        probability = change.clamp(max=0).exp()
        u = torch.rand(n_chains, generator=generator, device=generator.device, dtype=z.dtype).to(z.device)
        take = u < probability
        z = torch.where(take.unsqueeze(-1), new, z)
        slope = torch.where(take.unsqueeze(-1), new_slope, slope)
        value = torch.where(take, new_value, value)
        if burning:
            averaging.update(probability)
            if adapt_mass and n_burn // 4 <= number < n_burn // 2:
                window.append(z)
            if adapt_mass and number == n_burn // 2 and len(window) > 1:
                inverse_mass = _variances(torch.stack(window))
                averaging.restart(averaging.final())
        else:
            accepted += probability
            divergent += change < -1000
            if (number - n_burn) % thin == thin - 1:
                kept.append(z)
                logs.append(value)
        if reporter is not None:
            reporter.advance(number + 1, "sampling")
    n_kept = n_samples * thin
    return Chains(torch.stack(kept, 1), torch.stack(logs, 1), accepted / n_kept, steps, divergent / n_kept)


def _variances(window: Tensor) -> Tensor:
    """Regularised variances of each coordinate over draws and chains, as Stan does."""
    draws = window.reshape(-1, window.shape[-1])
    n = len(draws)
    found = draws.var(0) * n / (n + 5) + 1e-3 * 5 / (n + 5)
    return found.clamp_min(torch.finfo(found.dtype).tiny ** 0.5)
