"""SVI and NUTS of pyro on a few tasks, with the network on the same tasks beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from foreknow.common.deps import available
from foreknow.common.rng import seed_of
from foreknow.common.timing import Stopwatch
from foreknow.core.predictive import Empirical, MultivariateMixture
from foreknow.tasks.distribution_transformer.baselines import (
    LogDensity,
    ProgramBudget,
    matched_normal,
    nuts,
    svi,
    with_prior,
)
from foreknow.tasks.distribution_transformer.proof.common import Record

WHAT = "the tasks of SVI and NUTS"


@dataclass(frozen=True)
class Question:
    """A task for SVI and NUTS; all scores are of T(x)'s first number.

    Args:
        log_density: of T(x), unnormalised.
        start: T(x) that both start from, shape (d,).
        t, weights, log_exact: points, weights that sum to 1, and the exact log density there, shape (n,): draws from
            the exact posterior, or a grid.
        truth: shape ().
        log_prior: of the first number, which is mixed with the kernels on NUTS's draws.
        slope: what is added to log densities at the truth, so that they are those of x.
    """

    log_density: LogDensity
    start: Tensor
    t: Tensor
    weights: Tensor
    log_exact: Tensor
    truth: Tensor
    log_prior: LogDensity
    slope: float = 0.0


def beside(
    proof: str,
    seed: int,
    questions: Sequence[Question],
    ours: MultivariateMixture,
    ours_ms: float,
    budget: ProgramBudget,
) -> list[Record]:
    """Records of divergence, log density of the truth and milliseconds, for the network's answers too."""
    if not available("pyro") or not questions:
        return []
    scores: dict[str, list[tuple[float, float, float]]] = {}

    def score(name: str, question: Question, density: Callable[[Tensor], Tensor], ms: float) -> None:
        kl = float((question.weights * (question.log_exact - density(question.t))).sum())
        there = float(density(question.truth.reshape(1))) + question.slope
        scores.setdefault(name, []).append((kl, there, ms))

    for i, question in enumerate(questions):
        score("ours", question, ours[i].marginal(0).log_prob, ours_ms)
        with Stopwatch() as watch:
            mean, sd = svi(question.log_density, question.start, budget=budget, seed=seed_of(seed, "svi", str(i)))
        score("SVI", question, matched_normal(mean[0], sd[0].square()).log_prob, 1000 * watch.seconds)
        with Stopwatch() as watch:
            draws = nuts(question.log_density, question.start, budget=budget, seed=seed_of(seed, "nuts", str(i)))
        score("NUTS", question, partial(_with_kernels, Empirical(draws[:, 0]), question), 1000 * watch.seconds)
    records: list[Record] = []
    for name, found in scores.items():
        kl, there, ms = (list(part) for part in zip(*found))
        records.append(
            {
                "proof": proof, "arm": name, "what": WHAT, "seed": seed, "n_tasks": len(found),
                "kl": float(np.mean(kl)), "log_density": float(np.mean(there)), "ms_a_task": float(np.median(ms)),
            }
        )  # fmt: skip
    return records


def _with_kernels(kernels: Empirical, question: Question, t: Tensor) -> Tensor:
    return with_prior(kernels.log_prob(t), question.log_prior(t))
