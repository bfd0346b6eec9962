"""Modes of a posterior from several starts, trained side by side: deep ensembles and maxima a posteriori."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from foreknow.common.validate import check_int, check_real
from foreknow.nn.bayes.flat import FlatNetwork
from foreknow.nn.bayes.layers import WeightPrior
from foreknow.nn.bayes.likelihoods import Likelihood


def find_modes(
    network: FlatNetwork,
    likelihood: Likelihood,
    x: Tensor,
    y: Tensor,
    *,
    start: Tensor,
    prior: WeightPrior | None = None,
    n_steps: int = 1000,
    lr: float = 1e-2,
    batch_size: int | None = None,
    subset: float = 1.0,
    generator: Generator,
    between: Callable[[int], None] | None = None,
) -> Tensor:
    """Weights (members, n_weights) that Adam finds from every row of `start`.

    Args:
        network: the architecture.
        likelihood: of the targets.
        x, y: training rows and targets.
        start: shape (members, n_weights).
        prior: added to the objective; None trains by maximum likelihood, as plain deep ensembles do.
        n_steps: of Adam, with a cosine schedule to zero.
        lr: first rate.
        batch_size: rows a step, drawn for every member; None takes all.
        subset: share of the rows that each member sees.
        generator: source of randomness.
        between: called with the number of the step.
    """
    check_int("find_modes", "n_steps", n_steps, low=1)
    check_real("find_modes", "subset", subset, low=0, high=1, open_low=True)
    n, members = len(x), len(start)
    n_own = max(1, round(subset * n))
    own = torch.rand(members, n, generator=generator, device=generator.device).argsort(1)[:, :n_own].to(x.device)
    weights = start.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([weights], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, n_steps)
    size = n_own if batch_size is None else min(batch_size, n_own)
    for number in range(n_steps):
        rows = own
        if size < n_own:
            place = torch.randint(n_own, (members, size), generator=generator, device=generator.device).to(x.device)
            rows = own.gather(1, place)
        loss = -likelihood.log_prob(network.per_chain(weights, x[rows]), y[rows]).mean(1)
        if prior is not None:
            loss = loss - prior.log_prob(weights) / n
        optimiser.zero_grad()
        loss.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if between is not None:
            between(number + 1)
    return weights.detach()
