"""Training: three Adam optimisers with rates of their own on one lower bound, and how it went.

The library's loop has one rate for all weights; here behaviour, neural encoder and the rest have three, so this is a
loop of its own. Batch k of epoch e depends on the seed, k and e alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from foreknow.common.errors import ConvergenceError, ForeknowWarning
from foreknow.common.rng import torch_stream
from foreknow.functions.mm_gpvae.network import GPVAE

_BAD_STEPS = 10


@dataclass(frozen=True)
class Fitting:
    """How it is trained.

    Args:
        epochs: passes over the trials.
        batch_size: trials a step.
        lr_behavior: rate of encoder and decoder of behaviour.
        lr_neural: rate of the neural encoder.
        lr_decoder: rate of the neural decoder, the lengthscales and the variances.
        p_alone: share of the trials of a batch whose shared latents are taken from one recording alone, by chance.
        warmup: share of the epochs, the first ones, in which shared latents are taken from neurons alone.
        clip_norm: largest norm of the gradient.
    """

    epochs: int
    batch_size: int
    lr_behavior: float
    lr_neural: float
    lr_decoder: float
    p_alone: float = 0.0
    warmup: float = 0.0
    clip_norm: float = 1.0

    @property
    def rates(self) -> dict[str, float]:
        """Rate of each group of `GPVAE.groups`."""
        return {"behavior": self.lr_behavior, "neural": self.lr_neural, "decoder": self.lr_decoder}


@dataclass(frozen=True)
class Course:
    """How a training went, one entry an epoch.

    Args:
        bounds: lower bound in nats a trial.
        kls: divergence in it.
        lengthscales: of every latent, in bins.
        n_steps: steps of the optimisers.
    """

    bounds: tuple[float, ...]
    kls: tuple[float, ...]
    lengthscales: tuple[tuple[float, ...], ...]
    n_steps: int


def fit_network(
    network: GPVAE,
    spikes: Tensor | None,
    behavior: Tensor | None,
    seen: Tensor,
    fitting: Fitting,
    *,
    seed: int,
    device: torch.device,
    tell: Callable[[float, float, str], None] = lambda done, total, note: None,
) -> Course:
    """Train a network in place.

    Args:
        network: on any device; it is moved.
        spikes, behavior: shape (n, t, k) each, or None.
        seen: 1 inside trials, shape (n, t).
        fitting: the settings.
        seed: of batches and draws.
        device: where to train.
        tell: told of finished epochs.

    Raises:
        ConvergenceError: ten steps in a row without a finite bound and gradient.
    """
    network.to(device).train()
    spikes, behavior = (None if part is None else part.to(device) for part in (spikes, behavior))
    seen = seen.to(device)
    groups = {name: parameters for name, parameters in network.groups().items() if parameters}
    parameters = [p for group in groups.values() for p in group]
    optimisers = [torch.optim.Adam(group, lr=fitting.rates[name], fused=True) for name, group in groups.items()]
    draws = torch_stream(seed, "draws", device=device)
    bounds, kls, lengthscales = [], [], []
    n_steps = bad = 0
    for epoch in range(fitting.epochs):
        shuffle = torch_stream(seed, "epoch", str(epoch))
        order = torch.randperm(len(seen), generator=shuffle).to(device)
        total = divergence = 0.0
        first = epoch < fitting.warmup * fitting.epochs
        for index in torch.split(order, fitting.batch_size):
            source = _sources(len(index), fitting.p_alone, first, shuffle).to(device)
            bound = network.bound(
                None if spikes is None else spikes[index],
                None if behavior is None else behavior[index],
                seen[index],
                generator=draws,
                shared_from=source if spikes is not None and behavior is not None else None,
            )
            loss = -bound.total.mean()
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(torch.nn.utils.clip_grad_norm_(parameters, fitting.clip_norm))
            value = float(loss.detach())
            n_steps += 1
            if not (math.isfinite(value) and math.isfinite(norm)):
                bad += 1
                if bad >= _BAD_STEPS:
                    raise ConvergenceError(
                        f"MMGPVAE: {bad} steps in a row had a bound or gradient that is not finite (step {n_steps}).",
                        hint="Lower lr_decoder and lr_behavior, or look for outliers in the data.",
                        statistics={"step": float(n_steps), "loss": value},
                    )
                continue
            bad = 0
            for optimiser in optimisers:
                optimiser.step()
            total -= value * len(index) / len(seen)
            divergence += float(bound.kl.detach().sum()) / len(seen)
        bounds.append(total)
        kls.append(divergence)
        lengthscales.append(tuple(network.lengthscales.detach().cpu().tolist()))
        tell(epoch + 1, fitting.epochs, f"bound {total:.4g} nats a trial")
    network.eval()
    limit = max(2 * network.n_bins, 1.5 * network.prior.lengthscale)
    if network.prior.domain != "white" and max(lengthscales[-1]) > limit:
        warnings.warn(
            f"MMGPVAE: a lengthscale grew to {max(lengthscales[-1]):.0f} bins in trials of {network.n_bins}: this "
            "latent is nearly constant in a trial.",
            ForeknowWarning,
            stacklevel=5,
        )
    return Course(tuple(bounds), tuple(kls), tuple(lengthscales), n_steps)


def _sources(n: int, p_alone: float, first: bool, generator: torch.Generator) -> Tensor:
    """Whether shared latents of `n` trials come from neurons and whether from behaviour, (2, n); never neither."""
    sources = torch.ones(2, n, dtype=torch.bool)
    if first:
        sources[1] = False
    elif p_alone > 0:
        alone = torch.rand(n, generator=generator) < p_alone
        which = torch.rand(n, generator=generator) < 0.5
        sources[0] = ~(alone & which)
        sources[1] = ~(alone & ~which)
    return sources
