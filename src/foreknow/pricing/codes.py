"""Prequential code lengths, and calibration, with temperatures that past data chose.

A block is coded by the model that learned from all labels before it. Its probabilities are first recalibrated by the
temperature that would have coded the blocks before it best; the block itself and those after it have no say. The first
labels of all, which the smallest model learns from, are not coded: both arms would pay the same for them. How the
temperature is found is said in `foreknow.core.calibration.past_temperatures`.

References: Grünwald, The Minimum Description Length Principle (2007), chapter 6; Guo et al., On Calibration of Modern
Neural Networks (2017).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import InputError
from foreknow.core.calibration import past_temperatures
from foreknow.pricing.effects import check_level, paired_effect
from foreknow.pricing.records import Calibration, Estimate
from foreknow.pricing.scoring import GRID, UNCHANGED

_BINS = 15
"""Bins of confidence that reliabilities of several units are pooled in."""


@dataclass(frozen=True)
class CodeLength:
    """What the labels of all blocks cost to send.

    Args:
        bits: with the temperatures that past blocks chose.
        bits_uncalibrated: at temperature 1.
        temperatures: one a block.
        n_labels: labels coded.
    """

    bits: float
    bits_uncalibrated: float
    temperatures: tuple[float, ...]
    n_labels: int


def temperature_of(past: ArrayLike) -> int:
    """Index into `GRID` of the temperature that past blocks ask for; that of 1 if there are none.

    Args:
        past: losses in nats of the blocks seen so far, shape (blocks, G).
    """
    return int(past_temperatures(_losses("temperature_of", past))[-1])


def code_length(block_losses: ArrayLike, n_block: ArrayLike) -> CodeLength:
    """Prequential code length of one unit's labels.

    Args:
        block_losses: total loss in nats of each block at each temperature, in the order of coding, shape (blocks, G).
        n_block: labels of each block, shape (blocks,).
    """
    owner = "code_length"
    losses, counts = _losses(owner, block_losses), np.asarray(n_block, dtype=np.float64)
    if counts.shape != losses.shape[:1] or not (np.isfinite(counts) & (counts >= 1) & (counts % 1 == 0)).all():
        raise InputError(f"{owner}: n_block must be {len(losses)} whole numbers >= 1, got {n_block!r:.80}.")
    index = past_temperatures(losses)[:-1]
    nats = losses[np.arange(len(losses)), index].sum(), losses[:, UNCHANGED].sum()
    bits = [float(value) / math.log(2) for value in nats]
    return CodeLength(bits[0], bits[1], tuple(GRID[index].tolist()), int(counts.sum()))


def code_difference(
    on: ArrayLike,
    other: ArrayLike,
    n_block: ArrayLike,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    rng: np.random.Generator,
) -> Estimate:
    """Bits that on saves over all coded labels: the other arm's code length minus that of on, paired over units.

    Args:
        on, other: total loss in nats of each block, in the order of coding, shape (units, blocks, G), or (units,
            repeats, blocks, G) where a unit (a table) was coded in several orders: its bits are their mean.
        n_block: labels of each block, shape (blocks,): both arms code the same labels.
        level, n_boot, rng: as in `foreknow.pricing.effects.paired_effect`.

    Returns:
        The mean over units; NaN if no block was coded, as with one size only.
    """
    owner = "code_difference"
    check_level(owner, level)
    mine, theirs = np.asarray(on, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if mine.shape != theirs.shape or mine.ndim not in (3, 4) or 0 in mine.shape[:-2]:
        raise InputError(
            f"{owner}: on and other must have one shape (units, blocks, {len(GRID)}), got {mine.shape}, {theirs.shape}."
        )
    if not mine.shape[-2]:
        return Estimate(math.nan, level=level, n_units=len(mine), rung="prequential", note="no block was coded")
    bits = [
        [code_length(blocks, n_block).bits for blocks in arm.reshape(-1, *arm.shape[-2:])] for arm in (mine, theirs)
    ]
    saved = np.reshape(np.subtract(bits[1], bits[0]), (len(mine), -1)).mean(axis=1)
    found = paired_effect(saved, level=level, n_boot=n_boot, rng=rng)
    labels = int(np.asarray(n_block).sum())
    note = "; ".join(part for part in (f"over {labels} labels a unit", found.note) if part)
    return replace(found, rung="prequential", note=note)


def calibration(details: Sequence[Sequence[Mapping[str, Any]]], size: int) -> Calibration:
    """Calibration of one arm at its largest size, before (temperature 1) and after the one that past blocks ask for.

    Args:
        details: unit by unit, the `detail` of the arm's trials from the smallest to the largest size, as
            `foreknow.pricing.scoring` describes it. The test rows of the last are measured; the blocks of those
            before it choose the temperature.
        size: the largest.
    """
    owner = "calibration"
    if not len(details) or not all(len(unit) for unit in details):
        raise InputError(f"{owner}: at least one unit with at least one size is required.")
    blocks = [[detail["block_loss"] for detail in unit[:-1]] for unit in details]
    chosen = [temperature_of(np.reshape(unit, (len(unit), len(GRID)))) for unit in blocks]
    last = [unit[-1] for unit in details]
    keys = {"test_loss": "log_loss", "ece_15": "ece_15", "brier": "brier", "coverage_90": "coverage_90"}
    at = ([UNCHANGED] * len(last), chosen)
    before, after = (
        {
            name: float(np.mean([detail[key][i] for detail, i in zip(last, index, strict=True)]))
            for key, name in keys.items()
            if key in last[0]
        }
        for index in at
    )
    pool = _pool_stated if "coverage_90" in last[0] else _pool_confidence
    reliable = [
        pool([detail["reliability"][i] for detail, i in zip(last, index, strict=True)])
        if "reliability" in last[0]
        else ()
        for index in at
    ]
    return Calibration(size, float(GRID[chosen].mean()), before, after, reliable[0], reliable[1])


def _losses(owner: str, losses: ArrayLike) -> NDArray[np.float64]:
    """Checked losses (blocks, G); blocks may be 0."""
    array = np.asarray(losses, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(GRID):
        raise InputError(f"{owner}: losses must have shape (blocks, {len(GRID)}), got {array.shape}.")
    if not np.isfinite(array).all():
        block, i = (int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise InputError(
            f"{owner}: the loss of block {block} at temperature {GRID[i]:.3g} is {array[block, i]}.",
            hint="A label of probability 0 costs infinitely many bits: clip probabilities before they are scored.",
        )
    return array


def _pool_confidence(units: Sequence[Any]) -> tuple[tuple[float, float, float], ...]:
    """One reliability for all units: (mean confidence, share right, share of the rows) in bins of equal width."""
    rows = np.array([row for unit in units for row in unit if row[2]], dtype=np.float64).reshape(-1, 3)
    bins = np.maximum(np.ceil(rows[:, 0] * _BINS), 1)
    pooled = []
    for b in np.unique(bins):
        confidence, right, share = rows[bins == b].T
        pooled.append((*(float(np.average(value, weights=share)) for value in (confidence, right)), float(share.sum())))
    return tuple((confidence, right, share / len(units)) for confidence, right, share in pooled)


def _pool_stated(units: Sequence[Any]) -> tuple[tuple[float, float, float], ...]:
    """One reliability for all units: (stated share, mean measured share, NaN)."""
    rows = np.array([row[:2] for unit in units for row in unit], dtype=np.float64).reshape(-1, 2)
    stated = np.unique(rows[:, 0])
    return tuple((float(s), float(rows[rows[:, 0] == s, 1].mean()), math.nan) for s in stated)
