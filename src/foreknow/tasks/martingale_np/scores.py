"""What is measured of a network on held-out tasks: likelihoods, coverage, spread over draws, the martingale gap.

Two likelihoods are told apart everywhere, per target row and in nats:

- marginal: log-mean-exp over draws for every row, then the mean over rows (the easier number);
- joint: log-mean-exp over draws of the sum over all rows of a task, divided by their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.rng import torch_stream
from foreknow.core.batch import Batch
from foreknow.tasks.martingale_np.network import ConditionalNP, Normals

Array = NDArray[np.float64]
DRAWS = 50
"""Draws of every arm that has some, K."""
_NODES, _REACH = 201, 6.0
_TASKS_AT_ONCE = 100


@dataclass(frozen=True)
class Scores:
    """One number a task, shape (tasks,).

    Args:
        marginal, joint: log-likelihoods a target row, of context rows none.
        amortised: log-likelihood without pseudo data (one draw), the same for networks without randomness.
        squared: squared error of the mixture's mean.
        covered: share of the targets inside the central 90% interval of the mixture.
        spread: standard deviation over draws of their means, averaged over rows.
        sd: standard deviation of the mixture.
    """

    marginal: Array
    joint: Array
    amortised: Array
    squared: Array
    covered: Array
    spread: Array
    sd: Array

    @classmethod
    def joined(cls, parts: list[Scores]) -> Scores:
        """All tasks of several parts."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def score(network: ConditionalNP, batch: Batch, *, draws: int = DRAWS, seed: int = 0) -> Scores:
    """Scores of every task of a batch; `draws` is K, and with networks without randomness has no effect."""
    parts = []
    for start in range(0, batch.n_tasks, _TASKS_AT_ONCE):
        some = slice(start, start + _TASKS_AT_ONCE)
        assert batch.query_y is not None  # simulators know their targets
        x, y, query, target = batch.context_x[some], batch.context_y[some], batch.query_x[some], batch.query_y[some]
        noise = network.noise(len(x), x.shape[1], draws, torch_stream(seed, "martingale-np", "scores", str(start)))
        with torch.inference_mode():
            donor = (x.roll(1, 0), y.roll(1, 0)) if network.rule == "shuffled" else None
            found = network.predict(network.thetas(x, y, noise, donor), query)
            alone = network(x, y, query)
        parts.append(_scores(found, alone, target))
    return Scores.joined(parts)


def _scores(found: Normals, alone: Normals, target: Tensor) -> Scores:
    m = target.shape[1]
    mean = found.mean.mean(dim=1)
    variance = (found.sd.square() + found.mean.square()).mean(dim=1) - mean.square()
    pit = mixture_cdf(found, target)
    parts = (
        found.marginal(target).mean(dim=1),
        found.joint(target) / m,
        alone.joint(target) / m,
        (mean - target).square().mean(dim=1),
        ((pit > 0.05) & (pit < 0.95)).float().mean(dim=1),
        found.mean.std(dim=1, correction=0).mean(dim=1),
        variance.clamp_min(0).sqrt().mean(dim=1),
    )
    return Scores(*(part.double().numpy() for part in parts))


def mixture_cdf(normals: Normals, y: Tensor) -> Tensor:
    """P(Y <= y) under the equal mixture over draws, shape (b, m)."""
    z = (y[:, None] - normals.mean) / normals.sd
    found: Tensor = torch.special.ndtr(z).mean(dim=1)
    return found


@dataclass(frozen=True)
class Gap:
    """How far a rule is from a martingale: the predictive averaged over pseudo data against the one without any.

    Args:
        mean: |difference of the means| in standard deviations of the one without, averaged over rows and tasks.
        variation: total variation distance of the two predictives, between 0 and 1.
        sd_ratio: standard deviation of the averaged predictive over that of the one without.
    """

    mean: Array
    variation: Array
    sd_ratio: Array


def martingale_gap(network: ConditionalNP, batch: Batch, *, draws: int = DRAWS, seed: int = 0) -> Gap:
    """The gap on the next rows of every task; zero for all pseudo data of a Bayesian with the right model."""
    x, y, query = batch.context_x, batch.context_y, batch.query_x
    noise = network.noise(len(x), x.shape[1], draws, torch_stream(seed, "martingale-np", "gap"))
    with torch.inference_mode():
        found, alone = network(x, y, query, noise), network(x, y, query)
        centre, sd = alone.mean[:, 0], alone.sd[:, 0]
        mean = (found.mean.mean(dim=1) - centre).abs() / sd
        variance = (found.sd.square() + found.mean.square()).mean(dim=1) - found.mean.mean(dim=1).square()
        variation = torch.zeros_like(centre)
        step = 2 * _REACH / (_NODES - 1)
        for z in torch.linspace(-_REACH, _REACH, _NODES):
            at = centre + z * sd
            one = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
            other = found.log_prob(at).exp().mean(dim=1) * sd
            variation += 0.5 * step * (one - other).abs()
    ratio = variance.clamp_min(0).sqrt() / sd
    return Gap(*(part.mean(dim=1).double().numpy() for part in (mean, variation, ratio)))


def slope(sizes: Array, spread: Array) -> float:
    """Slope of ln variance over draws against ln number of context rows (least squares)."""
    return float(np.polyfit(np.log(sizes), 2 * np.log(np.maximum(spread, 1e-12)), 1)[0])
