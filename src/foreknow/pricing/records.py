"""The records of a price: what is to be run, what came back, and what follows from it.

A `Cell` is the full address of one run; its key is a hash of everything that decides the outcome. A `Trial` is a
finished cell. A `Price` is what the report, the terminal and JSON show; it holds plain numbers only.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from foreknow.common.errors import ConfigError
from foreknow.common.files import hash_bytes
from foreknow.common.validate import check_int, check_known, check_option

ROLES = ("on", "off", "wrong", "plain", "reference")
"""What an arm is to the price: the system, its prior removed, a placebo prior, the field's simple methods, and any
other that is shown beside them and never enters the price."""

RUNGS = ("prequential", "counting", "parametric", "saddlepoint", "splitting")
"""Ways a number of bits was found; see `foreknow.audit.inductive_bias`."""


# What is run -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """The full address of one run.

    Args:
        study: slug of the system, or the name the caller gave.
        source: name of the data.
        data_hash: of the data's contents.
        arm: its name.
        size: training units (rows, images, episodes) the arm may learn from.
        seed: of the split and of the arm's own randomness.
        settings: whatever else decides the outcome, as JSON types: the arm's settings and budget, the test rows.
        versions: of the packages that computed it.
    """

    study: str
    source: str
    data_hash: str
    arm: str
    size: int
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_int("Cell", "size", self.size, low=1)
        check_int("Cell", "seed", self.seed, low=0)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the contents, as 64 hexadecimal digits: the same on every machine."""
        return hash_bytes(_canonical(self.to_dict()).encode())

    def to_dict(self) -> dict[str, Any]:
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        check_known("Cell", dict(stored), [f.name for f in dataclasses.fields(cls)], what="field")
        return cls(**stored)


@dataclass(frozen=True)
class Outcome:
    """What an arm's run returns.

    Args:
        metrics: measure -> value on the test data; a lower loss is better.
        detail: JSON types for the statistics beyond, see `foreknow.pricing.scoring`.
        seconds: wall-clock time of learning and predicting, without reading the data.
    """

    metrics: Mapping[str, float]
    detail: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Trial:
    """A finished cell.

    Args:
        cell: what was run.
        status: "done" or "failed".
        metrics, detail, seconds: of the outcome; empty where it failed.
        peak_mb: memory the run took at its peak beyond what the process held before, in MiB.
        error: one line, where it failed.
        finished: UTC time, ISO 8601.
        worker: host and process that ran it.
        wall_s: wall-clock time of the whole cell, with reading and scoring; for plans and budgets.
    """

    cell: Cell
    status: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    peak_mb: float = 0.0
    error: str = ""
    finished: str = ""
    worker: str = ""
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        check_option("Trial", "status", self.status, ("done", "failed"))


# What follows ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A number with the interval that holds it at a confidence `level`, and how it was found.

    Args:
        value: the number; NaN where it could not be found, with `note` saying why.
        low, high: ends of the interval; NaN where none was estimated.
        sign: "=", or ">=" or "<=" where the number is only known to be at least or at most `value` (censored).
        level: confidence of the interval.
        n_units: independent units behind it (seeds, tables, patients).
        rung: for bits, one of `RUNGS`.
        extrapolated: whether it rests on a fitted law beyond what was sampled.
        equivalent: for differences, whether |difference| < `margin` was shown at 95% (two one-sided tests); None where
            it was not asked.
        margin: the largest difference that counts as none.
        note: what a reader must know besides.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    sign: str = "="
    level: float = 0.95
    n_units: int = 0
    rung: str = ""
    extrapolated: bool = False
    equivalent: bool | None = None
    margin: float = math.nan
    note: str = ""

    def __post_init__(self) -> None:
        check_option("Estimate", "sign", self.sign, ("=", ">=", "<="))
        if self.rung:
            check_option("Estimate", "rung", self.rung, RUNGS)


@dataclass(frozen=True)
class Curve:
    """A measure against size: the mean over units with its interval; NaN where nothing was measured.

    Args:
        mean, low, high: one number a size.
        units: one row a unit, one number a size.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    units: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Calibration:
    """Probabilities of one arm at the largest size, before and after recalibration on past data.

    Args:
        size: of the training data.
        temperature: mean over units of the temperature (classes: logits are divided by it; numbers: widths of the
            predictive distribution are multiplied by it); 1 is "nothing to mend".
        before, after: measure -> mean over units; classes have "log_loss", "ece_15", "brier"; numbers "log_loss",
            "coverage_90".
        reliability_before, reliability_after: bins of (mean confidence, share that was right, share of the rows);
            for numbers (stated share, measured share, NaN).
    """

    size: int
    temperature: float
    before: Mapping[str, float]
    after: Mapping[str, float]
    reliability_before: tuple[tuple[float, float, float], ...] = ()
    reliability_after: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class ArmSummary:
    """One arm over all sizes.

    Args:
        name: as in the cells.
        role: one of `ROLES`.
        what: one sentence: what this arm is.
        settings: its settings and budget, as JSON types.
        curves: measure -> curve.
        seconds, peak_mb: one mean a size.
        calibration: None for arms without probabilities.
        n_failed: cells that failed; their whole block of seeds is left out.
    """

    name: str
    role: str
    what: str
    settings: Mapping[str, Any]
    curves: Mapping[str, Curve]
    seconds: tuple[float, ...]
    peak_mb: tuple[float, ...]
    calibration: Calibration | None = None
    n_failed: int = 0


@dataclass(frozen=True)
class Comparison:
    """What "on" is worth against one other arm. Negative prices are legal and printed.

    Args:
        arm: the other arm.
        role: its role.
        difference: of the main loss at the largest size, on minus the other: negative is better.
        sample_ratio: times the data that the other arm needs to reach the same loss.
        code_bits: difference of prequential code lengths in bits over all coded labels, the other minus on.
        matched_bits: median-matched bits of the other arm minus one (see `inductive-bias`).
        time_ratio: seconds of on divided by the other's, at the largest size.
        memory_ratio: likewise for the peak memory.
        verdict: "held" if on is shown to be the better arm (the interval of the difference lies below 0; false in 2.5%
            of priors that buy nothing), "failed" if the other one is, else "open".
    """

    arm: str
    role: str
    difference: Estimate
    sample_ratio: Estimate
    code_bits: Estimate
    matched_bits: Estimate
    time_ratio: Estimate
    memory_ratio: Estimate
    verdict: str = "open"

    def __post_init__(self) -> None:
        check_option("Comparison", "verdict", self.verdict, ("held", "failed", "open"))


@dataclass(frozen=True)
class Loss:
    """One place where "on" loses: the interval of the difference lies wholly on the wrong side."""

    arm: str
    size: int
    measure: str
    difference: Estimate
    source: str = ""


@dataclass(frozen=True)
class Price:
    """Everything that was measured, as the report shows it.

    Args:
        study: slug of the system or the caller's name for the study.
        title: what was priced, for people.
        task: "classification", "regression" or "none".
        measure: the main loss, a key of the curves; lower is better.
        unit: of the main loss ("nats", "" where there is none).
        unit_of_data: what sizes count: "rows", "images".
        sources: one record per data source: "name", "n_rows", "hash" and what else is known.
        sizes: training sizes, increasing.
        seeds: the seeds of complete blocks, which alone were counted.
        n_planned: blocks of seeds that were asked for.
        arms: the arms, "on" first.
        comparisons: on against every other arm, "off" first; the first is the price.
        losses: where on loses.
        n_labels: labels coded by the prequential code, per unit.
        seconds: of the run that computed it.
        command: that regenerates it.
        environment: machine and versions.
        date: of the last cell.
        notes: what a reader must know besides.
    """

    study: str
    title: str
    task: str
    measure: str
    unit: str
    unit_of_data: str
    sources: tuple[Mapping[str, Any], ...]
    sizes: tuple[int, ...]
    seeds: tuple[int, ...]
    n_planned: int
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    losses: tuple[Loss, ...]
    n_labels: int
    seconds: float
    command: str
    environment: Mapping[str, Any]
    date: str
    notes: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether all planned blocks were counted."""
        return len(self.seeds) == self.n_planned

    def to_dict(self) -> dict[str, Any]:
        """The price as JSON types; numbers that are not finite become None."""
        plain = _plain(dataclasses.asdict(self))
        assert isinstance(plain, dict)
        return {**plain, "line": self.line}

    def report(self, path: str | Path) -> Path:
        """Write the price as one self-contained HTML page and return its path."""
        from foreknow.report.priced import write_price_page

        return write_price_page(self.to_dict(), path)

    @property
    def line(self) -> str:
        """The price in one sentence."""
        from foreknow.pricing.words import price_line

        return price_line(self)


def _plain(value: object) -> Any:
    """`value` as JSON types, with None for numbers that are not finite."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    raise ConfigError(f"a record of a price cannot hold a {type(value).__name__}: {value!r:.80}.")


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
