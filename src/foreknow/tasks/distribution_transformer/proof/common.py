"""Sizes, records and intervals that the parts of the proof share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        n_particles: of the particle filters.
        n_kalman: series that filterpy's filters run on, one after the other.
        n_returns: of the real series.
    """

    n_tasks: int
    n_draws: int
    n_programs: int
    programs: ProgramBudget
    n_series: int
    n_steps: int
    n_particles: tuple[int, ...]
    n_kalman: int
    n_returns: int


SIZES = {
    "quick": Sizes(24, 200, 1, ProgramBudget(20, 0.05, 10, 20), 4, 6, (50, 100), 2, 40),
    "small": Sizes(1000, 10_000, 1, ProgramBudget(), 100, 100, (100, 1000, 10_000), 10, 500),
    "paper": Sizes(
        1000, 10_000, 50, ProgramBudget(2000, 0.02, 500, 1000), 200, 100, (100, 1000, 10_000, 100_000), 200, 5030
    ),
}


def mean_claim(name: str, values: Floats, **bounds: Any) -> Claim:
    """A claim on the mean of independent values, with a bootstrap interval."""
    if len(values) < 2:
        return Claim(name, float(values.mean()), **bounds)
    found = paired_interval(values, rng=numpy_stream(0, "bootstrap", "distribution-transformer", name))
    return Claim(name, found.mean, interval=(found.low, found.high), **bounds)


def median_ms(work: Callable[[], object], repeats: int = 15) -> float:
    """Median milliseconds of `work`, after one warm-up."""
    work()
    spent = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            work()
        spent.append(1000 * watch.seconds)
    return float(np.median(spent))
