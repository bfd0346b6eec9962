"""Scale-adapted stochastic-gradient Hamiltonian Monte Carlo (Springenberg et al. 2016), all chains at once.

With g the gradient of the potential divided by n, every coordinate keeps tau, m, v. During burn-in
    tau += 1 - tau m^2 / v;   m += (g - m) / (tau + 1);   v += (g^2 - v) / (tau + 1);   then M = 1 / sqrt(v).
    momentum += -e^2 M n g - a momentum + N(0, max(2 e^2 a M - e^4, 1e-16));   z += momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConvergenceError
from foreknow.common.progress import Reporter
from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.core.records import record

Gradient = Callable[[Tensor], Tensor]
"""Stochastic gradient of the potential divided by n, (chains, d) -> (chains, d)."""


@record
@dataclass(frozen=True)
class SGHMCSettings:
    """How long and with what steps chains move.

    Args:
        lr: step size e.
        mdecay: friction a.
        n_burn: steps of burn-in, in which scales adapt.
        keep_every: steps between two kept draws.
        n_samples: draws kept of each chain.
        n_drop: further draws before these that are thrown away.
        batch_size: rows of a mini-batch.
        n_chains: chains.
        gibbs_every: steps between two draws of the variances of a hierarchical prior.
        scale_lr: divide e by sqrt(n), as the sampler's original code does, so that one `lr` serves every n.
    """

    lr: float = 0.01
    mdecay: float = 0.01
    n_burn: int = 2000
    keep_every: int = 200
    n_samples: int = 30
    n_drop: int = 10
    batch_size: int = 32
    n_chains: int = 4
    gibbs_every: int = 100
    scale_lr: bool = True

    def __post_init__(self) -> None:
        check_real("SGHMCSettings", "lr", self.lr, low=0, open_low=True)
        check_real("SGHMCSettings", "mdecay", self.mdecay, low=0, high=1, open_low=True)
        for name, low in (("n_burn", 0), ("n_drop", 0), ("keep_every", 1), ("n_samples", 1), ("batch_size", 1),
                          ("n_chains", 1), ("gibbs_every", 1)):  # fmt: skip
            check_int("SGHMCSettings", name, getattr(self, name), low=low)
        check_bool("SGHMCSettings", "scale_lr", self.scale_lr)

    @property
    def n_steps(self) -> int:
        """Steps of each chain in all."""
        return self.n_burn + (self.n_drop + self.n_samples) * self.keep_every


def sghmc(
    gradient: Gradient,
    start: Tensor,
    settings: SGHMCSettings,
    *,
    n_rows: int,
    generator: Generator,
    between: Callable[[int, Tensor], None] | None = None,
    reporter: Reporter | None = None,
) -> Tensor:
    """Draws of every chain, shape (chains, n_samples, d).

    Args:
        gradient: of the potential divided by `n_rows`, for all chains.
        start: shape (chains, d).
        settings: steps and sizes.
        n_rows: n, the number of training rows.
        generator: source of randomness.
        between: called with the number of the step and the coordinates after every step.
        reporter: told now and then.

    Raises:
        ConvergenceError: a chain left the range of finite numbers.
    """
    z = start.detach().clone()
    tau, mean, square = torch.ones_like(z), torch.ones_like(z), torch.ones_like(z)
    momentum = torch.zeros_like(z)
    lr = settings.lr / math.sqrt(n_rows) if settings.scale_lr else settings.lr
    minv, noise_sd = torch.ones_like(z), torch.ones_like(z)
    kept = []
    tell = max(1, settings.n_steps // 100)
    for number in range(settings.n_steps):
        slope = gradient(z)
        if number < settings.n_burn or number == 0:
            tau += 1 - tau * mean.square() / square
            mean += (slope - mean) / (tau + 1)
            square += (slope.square() - square) / (tau + 1)
            minv = (square.clamp_min(1e-16)).rsqrt()
            noise_sd = (2 * lr**2 * settings.mdecay * minv - lr**4).clamp_min(1e-16).sqrt()
        noise = torch.randn(z.shape, generator=generator, device=generator.device, dtype=z.dtype).to(z.device)
        momentum.mul_(1 - settings.mdecay).addcmul_(minv, slope, value=-(lr**2) * n_rows).addcmul_(noise_sd, noise)
        z = z + momentum
        if between is not None:
            between(number + 1, z)
        past = number + 1 - settings.n_burn
        if past > 0 and past % settings.keep_every == 0 and past // settings.keep_every > settings.n_drop:
            kept.append(z.clone())
        if (number + 1) % tell == 0 or number + 1 == settings.n_steps:
            if not bool(z.isfinite().all()):
                raise ConvergenceError(
                    f"sghmc: a chain left the range of finite numbers by step {number + 1}.",
                    hint="Lower lr, or standardise inputs and targets.",
                    statistics={"step": float(number + 1)},
                )
            if reporter is not None:
                reporter.advance(number + 1, "sampling")
    return torch.stack(kept, 1)
