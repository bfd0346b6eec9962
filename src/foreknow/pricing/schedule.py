"""How long a run will take and how much memory it needs, said before it begins."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foreknow.common.validate import check_int
from foreknow.pricing.records import Cell, Trial
from foreknow.pricing.store import Store

_STEEPEST = 3.0  # no arm is taken to cost more than the cube of its size


@dataclass(frozen=True)
class Plan:
    """What is left of a run.

    Args:
        n_cells: cells asked for.
        n_left: those without a row in the store.
        seconds: wall-clock time for them; NaN while nothing is known.
        memory_mb: beyond what an idle process holds, with all workers at their largest cells; NaN likewise.
        known_share: share of the cells left whose arm was measured before; the others are taken for average ones.
    """

    n_cells: int
    n_left: int
    seconds: float
    memory_mb: float
    known_share: float

    def text(self) -> str:
        """One or two lines for people."""
        if not self.n_left:
            return f"All {self.n_cells} cells are in the store."
        left = f"{self.n_left} of {self.n_cells} cells are left"
        if math.isnan(self.seconds):
            return f"{left}; how long they take is known after the first block."
        line = f"{left}: about {_duration(self.seconds)}, {_memory(self.memory_mb)} of memory."
        if self.known_share < 1:
            line += (
                f"\nOnly {self.known_share:.0%} of them are of an arm that was measured before; the rest is a guess."
            )
        return line


def estimate(cells: Sequence[Cell], store: Store, *, n_workers: int = 1) -> Plan:
    """What is left of `cells`, and what it will cost by the finished cells of the same study and arm.

    For each arm seconds and memory follow a power of the size: a line through the logarithms of the median at each
    size, by the median of slopes, so that a few odd cells do not matter. An arm known at one size only is taken to
    grow in proportion to it. Where the store knows nothing, run the first block and ask again.
    """
    check_int("estimate", "n_workers", n_workers, low=1)
    asked = {cell.key: cell for cell in cells}
    stored = store.outcomes(asked)
    left = [cell for key, cell in asked.items() if key not in stored]
    laws = {study: _laws(store.trials(study, status="done")) for study in {cell.study for cell in left}}
    costs = [laws[cell.study][cell.arm](cell.size) for cell in left if cell.arm in laws[cell.study]]
    if not left or not costs:
        nothing = math.nan if left else 0.0
        return Plan(len(asked), len(left), nothing, nothing, 0.0 if left else 1.0)
    seconds = np.array([cost[0] for cost in costs])
    memory = np.sort([cost[1] for cost in costs])
    return Plan(
        n_cells=len(asked),
        n_left=len(left),
        seconds=float(max(seconds.mean() * len(left) / n_workers, seconds.max())),
        memory_mb=float(memory[-n_workers:].sum()),
        known_share=len(costs) / len(left),
    )


def _laws(trials: Sequence[Trial]) -> dict[str, Callable[[int], tuple[float, float]]]:
    """Arm -> size -> seconds and MiB."""
    by_arm: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        by_arm[trial.cell.arm].append(trial)

    def law(found: list[Trial]) -> Callable[[int], tuple[float, float]]:
        sizes = [trial.cell.size for trial in found]
        seconds = _power(sizes, [trial.wall_s for trial in found], floor=1e-3)
        memory = _power(sizes, [trial.peak_mb for trial in found], floor=1.0)
        return lambda size: (seconds(size), memory(size))

    return {arm: law(found) for arm, found in by_arm.items()}


def _power(sizes: Sequence[int], values: Sequence[float], *, floor: float) -> Callable[[int], float]:
    """The law a * size ** b through the medians at each size."""
    from scipy.stats import theilslopes

    x = np.log(np.unique(sizes))
    groups = [[v for s, v in zip(sizes, values) if s == size] for size in np.unique(sizes)]
    y = np.log([max(float(np.median(group)), floor) for group in groups])
    slope = float(np.clip(theilslopes(y, x)[0], 0.0, _STEEPEST)) if len(x) > 1 else 1.0
    level = float(np.median(y - slope * x))
    return lambda size: math.exp(level + slope * math.log(size))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _memory(mb: float) -> str:
    return f"{max(1, round(mb))} MB" if mb < 1000 else f"{mb / 1024:.1f} GB"
