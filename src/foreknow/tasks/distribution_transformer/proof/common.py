"""Sizes, records and intervals that the parts of the proof share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.rng import numpy_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.evidence import Claim
from foreknow.core.measures import paired_interval
from foreknow.tasks.distribution_transformer.baselines import ProgramBudget

Floats = NDArray[np.float64]
Record = dict[str, Any]
Part = tuple[list[Claim], list[Record], list[str]]


@dataclass(frozen=True)
class Sizes:
    """How much a preset spends, a seed: tasks, draws for a divergence, tasks for SVI and NUTS, series and their steps.

    Args:
        n_programs: tasks of V for SVI and NUTS; a third as many of Q and G.
        n_particles: of the particle filters.
        n_returns: of the real series.
    """

    n_tasks: int
    n_draws: int
    n_programs: int
    programs: ProgramBudget
    n_series: int
    n_steps: int
    n_particles: tuple[int, ...]
    n_returns: int


SIZES = {
    "quick": Sizes(24, 200, 1, ProgramBudget(20, 0.05, 10, 20), 4, 6, (50, 100), 40),
    "small": Sizes(1000, 10_000, 3, ProgramBudget(), 100, 100, (100, 1000, 10_000), 500),
    "paper": Sizes(
        1000, 10_000, 50, ProgramBudget(2000, 0.02, 500, 1000), 200, 100, (100, 1000, 10_000, 100_000), 5030
    ),
}


def mean_claim(name: str, parts: Sequence[Floats], **bounds: Any) -> Claim:
    """A claim on the mean of independent values, those of every seed apart, with a bootstrap interval.

    One that holds though its interval reaches beyond the bound says so in its note.
    """
    values = np.concatenate(parts)
    if len(values) < 2:
        return Claim(name, float(values.mean()), **bounds)
    found = paired_interval(values, rng=numpy_stream(0, "bootstrap", "distribution-transformer", name))
    claim = Claim(name, found.mean, interval=(found.low, found.high), **bounds)
    at_ends = [Claim(name, end, **bounds).verdict for end in (found.low, found.high)]
    if claim.verdict == "failed" or "failed" not in at_ends:
        return claim
    by_seed = [Claim(name, float(part.mean()), **bounds).verdict for part in parts]
    seeds = f", and {by_seed.count('held')} of {len(parts)} seeds meet it" if len(parts) > 1 else ""
    return replace(claim, note=f"Not settled: the interval reaches beyond the bound{seeds}.")


def median_ms(work: Callable[[], object], repeats: int = 15) -> float:
    """Median milliseconds of `work`, after one warm-up."""
    work()
    spent = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            work()
        spent.append(1000 * watch.seconds)
    return float(np.median(spent))
