"""From finished cells to a price: which blocks count, what the units are, and what follows from them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.audit.inductive_bias.bits import MIN_DRAWS
from foreknow.audit.inductive_bias.ladder import median_matched_bits
from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream
from foreknow.core.evidence import environment
from foreknow.pricing import codes, curves, effects, ratio
from foreknow.pricing.arms import Arm
from foreknow.pricing.records import ArmSummary, Cell, Comparison, Estimate, Loss, Price, Trial
from foreknow.pricing.scoring import GRID
from foreknow.pricing.sources import Source

RECALIBRATED = "log_loss"
AS_IS = "log_loss_as_is"
"""The log-loss after recalibration on past data, and as the arm stated it."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Cells:
    """The trials of whole blocks, by (source, seed, size, arm)."""

    trials: Mapping[tuple[str, int, int, str], Trial]
    sources: tuple[str, ...]
    seeds: tuple[int, ...]
    sizes: tuple[int, ...]

    def of(self, arm: str, source: str, seed: int) -> list[Trial]:
        """One trial a size."""
        return [self.trials[source, seed, size, arm] for size in self.sizes]

    def per_unit(self, rows: Mapping[tuple[str, int], Sequence[float]]) -> Array:
        """One row a unit: the seeds where there is one source, else the sources, averaged over seeds."""
        if len(self.sources) == 1:
            return np.array([rows[self.sources[0], seed] for seed in self.seeds], dtype=np.float64)
        return np.array(
            [np.mean([rows[source, seed] for seed in self.seeds], axis=0) for source in self.sources], dtype=np.float64
        )

    def table(self, arm: str, value: Any) -> Array:
        """`value(trial)` of every trial of an arm, shape (units, sizes)."""
        return self.per_unit(
            {(a, b): [value(trial) for trial in self.of(arm, a, b)] for a in self.sources for b in self.seeds}
        )


def analyse(
    study: str,
    arms: Sequence[Arm],
    sources: Sequence[Source],
    sizes: Sequence[int],
    blocks: Sequence[Sequence[Cell]],
    trials: Mapping[str, Trial],
    *,
    title: str,
    measure: str | None = None,
    margin: float | None = None,
    stopped: str = "",
    seconds: float = 0.0,
    command: str = "",
) -> Price:
    """The price that follows from finished cells.

    Args:
        study: name of the study.
        arms: its arms, "on" first.
        sources: its data.
        sizes: training sizes, increasing.
        blocks: the cells that were asked for, one list a seed.
        trials: key -> trial, as far as they were run.
        title: for people.
        measure: the main loss; by default the recalibrated log-loss where all arms have one.
        margin: of equivalence.
        stopped: why not all blocks were run.
        seconds: of this run.
        command: that regenerates the price.

    Raises:
        InputError: fewer than two blocks are whole.
        ConfigError: no such measure.
    """
    whole, failed = _whole_blocks(blocks, trials)
    if len(whole) < 2:
        first = next((trial for trial in trials.values() if trial.status == "failed"), None)
        why = f" The first failure: {first.cell.arm} at {first.cell.size}: {first.error}" if first else ""
        raise InputError(
            f"price: {len(whole)} of {len(blocks)} blocks are whole; at least two are needed.{why}",
            hint="Leave out the arm that fails (arms=[...]), give it more time (budget), or run again.",
        )
    cells = _Cells(
        {(t.cell.source, t.cell.seed, t.cell.size, t.cell.arm): t for block in whole for t in block},
        tuple(source.name for source in sources),
        tuple(block[0].cell.seed for block in whole),
        tuple(sizes),
    )
    values = {arm.name: _measures(cells, arm.name) for arm in arms}
    shared = [name for name in values[arms[0].name] if all(name in found for found in values.values())]
    main = measure or (RECALIBRATED if RECALIBRATED in shared else shared[0] if shared else "")
    if main not in shared:
        raise ConfigError(f"price: measure must be one that all arms have, {shared}, got {main!r}.")
    compared = [_compare(cells, values, arms[0], other, main, margin) for other in arms[1:]]
    coded = cells.of(arms[0].name, cells.sources[0], cells.seeds[0])
    return Price(
        study=study,
        title=title,
        task=sources[0].task,
        measure=main,
        unit="nats" if main in (RECALIBRATED, AS_IS) else "",
        unit_of_data=sources[0].unit,
        sources=tuple(source.describe() for source in sources),
        sizes=tuple(sizes),
        seeds=cells.seeds,
        n_planned=len(blocks),
        arms=tuple(_summary(cells, arm, values[arm.name], failed[arm.name]) for arm in arms),
        comparisons=tuple(compared),
        losses=_losses(cells, arms, values, shared),
        n_labels=sum(int(trial.detail.get("n_block", 0)) for trial in coded),
        seconds=seconds,
        command=command,
        environment=environment(),
        date=max((trial.finished for trial in cells.trials.values()), default="")[:10] or _today(),
        notes=_notes(cells, stopped, failed),
    )


def _whole_blocks(
    blocks: Sequence[Sequence[Cell]], trials: Mapping[str, Trial]
) -> tuple[list[list[Trial]], dict[str, int]]:
    """Trials of the blocks in which every cell succeeded, and the failures of every arm."""
    whole, failed = [], {cell.arm: 0 for block in blocks for cell in block}
    for block in blocks:
        found = [trials.get(cell.key) for cell in block]
        for trial in found:
            if trial is not None and trial.status == "failed":
                failed[trial.cell.arm] += 1
        done = [trial for trial in found if trial is not None and trial.status == "done"]
        if len(done) == len(block):
            whole.append(done)
    return whole, failed


def _measures(cells: _Cells, arm: str) -> dict[str, Array]:
    """Measure -> losses of an arm, shape (units, sizes); first the recalibrated log-loss where there is one."""
    trials = [trial for (_, _, _, name), trial in cells.trials.items() if name == arm]
    found: dict[str, Array] = {}
    if all(trial.detail.get("test_loss") for trial in trials):
        rows = {}
        for source in cells.sources:
            for seed in cells.seeds:
                line = cells.of(arm, source, seed)
                rows[source, seed] = [
                    trial.detail["test_loss"][index] for trial, index in zip(line, temperatures(line))
                ]
        found[RECALIBRATED] = cells.per_unit(rows)
    for name in trials[0].metrics:
        if all(name in trial.metrics for trial in trials):
            key = AS_IS if name == RECALIBRATED and RECALIBRATED in found else name
            found[key] = cells.table(arm, lambda trial, name=name: trial.metrics[name])
    return {name: table for name, table in found.items() if np.isfinite(table).all()}


def temperatures(line: Sequence[Trial]) -> list[int]:
    """Index into `GRID` for every size of one arm and seed, from the blocks that were coded before."""
    blocks = np.reshape([trial.detail["block_loss"] for trial in line[:-1]], (len(line) - 1, len(GRID)))
    return [codes.temperature_of(blocks[:index]) for index in range(len(line))]


def _compare(
    cells: _Cells, values: Mapping[str, Mapping[str, Array]], on: Arm, other: Arm, main: str, margin: float | None
) -> Comparison:
    rng = numpy_stream(0, "price", "bootstrap", other.name)
    ours, theirs = values[on.name][main], values[other.name][main]
    last_ours, last_theirs = ours[:, -1], theirs[:, -1]
    return Comparison(
        arm=other.name,
        role=other.role,
        difference=effects.paired_effect(last_ours - last_theirs, margin=margin, rng=rng),
        sample_ratio=ratio.sample_ratio(cells.sizes, ours, theirs, rng=rng),
        code_bits=_code_bits(cells, on.name, other.name, rng),
        matched_bits=_matched_bits(cells, last_ours, last_theirs, rng),
        time_ratio=effects.ratio_effect(*(_last(cells, arm, "seconds", 1e-6) for arm in (on, other)), rng=rng),
        memory_ratio=effects.ratio_effect(*(_last(cells, arm, "peak_mb", 1.0) for arm in (on, other)), rng=rng),
        verdict=_verdict(last_ours - last_theirs, other.name),
    )


def _verdict(differences: Array, other: str) -> str:
    """What the interval of the difference says: its resamples, and its error of 2.5% on either side."""
    for verdict, side in (("held", "below"), ("failed", "above")):
        rng = numpy_stream(0, "price", "bootstrap", other)
        if effects.holds(differences, bound=0.0, side=side, alpha=0.025, rng=rng):
            return verdict
    return "open"


def _last(cells: _Cells, arm: Arm, name: str, least: float) -> Array:
    """What a trial at the largest size took, never below `least`, shape (units,)."""
    last: Array = cells.table(arm.name, lambda trial: max(getattr(trial, name), least))[:, -1]
    return last


def _code_bits(cells: _Cells, on: str, other: str, rng: np.random.Generator) -> Estimate:
    """Bits by which the prequential code of `other` is longer, per unit."""
    units = [[(source, seed)] for source in cells.sources for seed in cells.seeds]
    if len(cells.sources) > 1:
        units = [[(source, seed) for seed in cells.seeds] for source in cells.sources]
    lines = [[[cells.of(arm, *place)[:-1] for place in unit] for unit in units] for arm in (on, other)]
    trials = [trial for arm in lines for unit in arm for line in unit for trial in line]
    if not trials or not all(trial.detail.get("block_loss") for trial in trials):
        return Estimate(math.nan, note="needs probabilities in both arms and at least two sizes")
    counts = [int(trial.detail["n_block"]) for trial in lines[0][0][0]]
    ours, theirs = ([[[t.detail["block_loss"] for t in line] for line in unit] for unit in arm] for arm in lines)
    return codes.code_difference(ours, theirs, counts, rng=rng)


def _matched_bits(cells: _Cells, ours: Array, theirs: Array, rng: np.random.Generator) -> Estimate:
    """Median-matched bits: how many bits it takes the other arm to be as good as the middle draw of "on"."""
    if len(cells.sources) > 1:
        return Estimate(math.nan, note="defined for one task; here the units are several")
    if not (np.ptp(ours) and np.ptp(theirs)):
        return Estimate(math.nan, note="an arm has the same loss at every seed, so nothing is said of how rare it is")
    bits = median_matched_bits(ours, theirs, noise=-math.inf, rng=rng)  # a log-loss of numbers may be negative
    if (bits.sign == ">=" and bits.value <= 0) or (bits.sign == "<=" and bits.value >= 0):
        return Estimate(math.nan, note=f"{len(theirs)} seeds are too few to count with; {MIN_DRAWS} or more are wanted")
    note = f"{bits.note}; " if bits.note else ""
    return Estimate(
        bits.value, bits.low, bits.high, sign=bits.sign, n_units=len(theirs), rung=bits.rung,
        extrapolated=bits.extrapolated, note=f"{note}draws are over training rows and seeds",
    )  # fmt: skip


def _summary(cells: _Cells, arm: Arm, values: Mapping[str, Array], n_failed: int) -> ArmSummary:
    rng = numpy_stream(0, "price", "curves", arm.name)
    details = [
        [trial.detail for trial in cells.of(arm.name, source, seed)] for source in cells.sources for seed in cells.seeds
    ]
    calibrated = all(detail.get("reliability") for line in details for detail in line)
    return ArmSummary(
        name=arm.name,
        role=arm.role,
        what=arm.what,
        settings=dict(arm.settings),
        curves={name: curves.curve(table, rng=rng) for name, table in values.items()},
        seconds=tuple(cells.table(arm.name, lambda trial: trial.seconds).mean(axis=0).tolist()),
        peak_mb=tuple(cells.table(arm.name, lambda trial: trial.peak_mb).mean(axis=0).tolist()),
        calibration=codes.calibration(details, cells.sizes[-1]) if calibrated else None,
        n_failed=n_failed,
    )


def _losses(
    cells: _Cells, arms: Sequence[Arm], values: Mapping[str, Mapping[str, Array]], shared: Sequence[str]
) -> tuple[Loss, ...]:
    others = {arm.name: {name: values[arm.name][name] for name in shared} for arm in arms[1:]}
    ours = {name: values[arms[0].name][name] for name in shared}
    return curves.loses(ours, others, cells.sizes, rng=numpy_stream(0, "price", "losses"))


def _notes(cells: _Cells, stopped: str, failed: Mapping[str, int]) -> tuple[str, ...]:
    unit = "shuffles of the data" if len(cells.sources) == 1 else "tables, each averaged over its shuffles"
    notes = [f"Intervals are over {len(cells.seeds if len(cells.sources) == 1 else cells.sources)} {unit}."]
    if len(cells.sources) == 1:
        notes.append("All shuffles draw from the same rows: the intervals speak of this table, not of others like it.")
    elif len(cells.sources) < 5:
        notes.append(f"{len(cells.sources)} tables are few units: bring five or more, or price each alone.")
    notes += [f"{arm}: {n} cells failed, and their whole blocks are left out." for arm, n in failed.items() if n]
    why = "the next block was not expected to end within the budget" if stopped == "budget" else stopped
    return (*notes, *([f"Stopped early: {why}."] if stopped else []))


def _today() -> str:
    return datetime.date.today().isoformat()
