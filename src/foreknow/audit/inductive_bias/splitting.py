"""Bits by subset simulation, for any loss of a standard normal latent.

A rare event is reached through a row of nested ones, each of which about a share `p_level` of the particles of the last
one reach (Au and Beck 2001). Between levels the survivors are copied and moved by preconditioned Crank-Nicolson steps
z' = sqrt(1 - b^2) z + b xi, accepted if the loss stays below the level; b follows an acceptance of a quarter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from foreknow.audit.inductive_bias.bits import Bits, check_eps
from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.validate import check_int, check_real

LatentLoss = Callable[[Tensor], Tensor]
_ACCEPT = 0.25
_MAX_LEVELS = 5000


def splitting_bits(
    loss: LatentLoss,
    n_latent: int,
    eps: float,
    *,
    n_particles: int = 500,
    p0: float = 0.2,
    n_moves: int = 30,
    generator: Generator,
    n_runs: int = 5,
) -> Bits:
    """-log2 Pr[loss(z) <= eps] for z ~ N(0, I), where counting would never see the event.

    Args:
        loss: latents (n, n_latent) in float64 -> losses (n,).
        n_latent: numbers in a latent.
        eps: the loss to reach.
        n_particles: latents that move side by side.
        p0: share of them that survives a level, between 0 and 1.
        n_moves: steps of each latent between two levels.
        generator: source of all randomness; latents live on its device.
        n_runs: independent repetitions; their spread gives the interval, with Student's t.

    Raises:
        InputError: the loss is not finite, or not one number per latent.
        ConvergenceError: the particles stopped improving above eps.
    """
    owner = "splitting_bits"
    eps = check_eps(owner, eps, noise=-math.inf)
    for name, count, least in (("n_latent", n_latent, 1), ("n_particles", n_particles, 10), ("n_moves", n_moves, 1)):
        check_int(owner, name, count, low=least)
    check_int(owner, "n_runs", n_runs, low=1)
    if check_real(owner, "p0", p0, low=0, high=0.9, open_low=True) * n_particles < 2:
        raise ConfigError(f"{owner}: p0 * n_particles must be at least 2, got {p0 * n_particles:g}.")
    runs = [_run(loss, n_latent, eps, n_particles, p0, n_moves, generator) for _ in range(n_runs)]
    value = math.fsum(runs) / n_runs
    low = high = math.nan
    if n_runs > 1:
        from scipy.stats import t

        sd = math.sqrt(sum((run - value) ** 2 for run in runs) / (n_runs - 1))
        half = float(t.ppf(0.975, n_runs - 1)) * sd / math.sqrt(n_runs)
        low, high = max(0.0, value - half), value + half
    note = "eps is above the median loss: less than one bit, uninformative" if value < 1 else ""
    return Bits(value, low, high, "splitting", note=note)


def _run(loss: LatentLoss, n_latent: int, eps: float, n: int, p0: float, n_moves: int, generator: Generator) -> float:
    """One pass down to eps; its bits."""

    def normal(*shape: int) -> Tensor:  # drawn in single precision, five times as quick on a processor
        return torch.randn(*shape, generator=generator, device=generator.device).double()

    z = normal(n, n_latent)
    values, bits, step, last = _losses(loss, z), 0.0, 0.5, math.inf
    n_keep = math.ceil(p0 * n)
    for _ in range(_MAX_LEVELS):
        level = max(float(values.kthvalue(n_keep).values), eps)
        reached = values <= level
        bits -= math.log2(int(reached.sum()) / n)
        if level == eps:
            return bits + 0.0
        if level >= last:
            raise ConvergenceError(
                f"splitting_bits: the particles do not get below a loss of {level:g}, eps is {eps:g}.",
                hint="Perhaps no hypothesis reaches eps, or the loss is discrete; try more particles and moves.",
                statistics={"level": level, "bits": bits},
            )
        last = level
        z = z[reached].repeat(-(-n // int(reached.sum())), 1)[:n]
        values = values[reached].repeat(-(-n // int(reached.sum())))[:n]
        for _ in range(n_moves):
            moved = math.sqrt(1 - step * step) * z + step * normal(n, n_latent)
            found = _losses(loss, moved)
            accept = found <= level
            z, values = torch.where(accept[:, None], moved, z), torch.where(accept, found, values)
            step = min(0.99, step * math.exp(0.5 * (float(accept.double().mean()) - _ACCEPT)))
    raise ConvergenceError(
        f"splitting_bits: {_MAX_LEVELS} levels did not reach eps={eps:g}.", statistics={"level": last, "bits": bits}
    )


def _losses(loss: LatentLoss, z: Tensor) -> Tensor:
    with torch.no_grad():
        values = loss(z).double()
    if values.shape != z.shape[:1] or not bool(values.isfinite().all()):
        raise InputError(
            f"splitting_bits: loss must give one finite number per latent, shape ({len(z)},), got shape "
            f"{tuple(values.shape)}, {int((~values.isfinite()).sum())} of them not finite."
        )
    return values
