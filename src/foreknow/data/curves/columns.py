"""From named columns of cells to curves: which column is the epoch, which the run, which the metric.

The rules are few and stated in `curves_of`; where they leave a choice, an error names the option that makes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import suggest
from foreknow.data.curves.curve import Curve

EPOCHS = ("epoch", "epochs", "training_iteration", "iteration", "iter", "global_step", "trainer/global_step", "step",
          "_step", "train/epoch", "train/global_step")  # fmt: skip
"""Names of the column of epochs, the first present is taken."""
RUNS = ("run", "run_id", "run_name", "trial", "trial_id", "trial_name", "experiment", "experiment_id", "config_id")
"""Names of the column of runs."""
LAYOUTS = ("long", "metrics", "runs", "rows")

_ASIDE = ("_runtime", "_timestamp", "wall time", "relative time (process)", "relative time (wall)", "timestamp", "date",
          "time_this_iter_s", "time_total_s", "pid", "learning_rate", "lr")  # fmt: skip
_METRIC = re.compile(
    r"loss|err|acc|auc|f1|score|rmse|mse|mae|r2|perplexity|ppl|nll|bleu|rouge|iou|dice|precision|recall|metric|value"
    r"|reward|return|wer|cer|\bmap\b|top.?[15]",
    re.IGNORECASE,
)
_HELD_OUT = re.compile(r"^(val|valid|validation|eval|evaluation|dev|test)([_/. -]|$)", re.IGNORECASE)
_NUMBERED = re.compile(r"(epoch|step|iter(?:ation)?|e|t)?[ _.-]?(\d+)", re.IGNORECASE)
_WANDB = re.compile(r"(.+) - (.+?)(__MIN|__MAX)?")

Cells = NDArray[np.float64] | NDArray[np.object_]


@dataclass
class Columns:
    """A table, or a log of events, by column.

    Args:
        name: of the run if there is but one.
        source: the file, for messages.
        cells: column -> numbers (NaN where missing), or text (None where missing).
        notes: what was understood; added to.
    """

    name: str
    source: str
    cells: dict[str, Cells]
    notes: list[str] = field(default_factory=list)

    @property
    def numeric(self) -> list[str]:
        """Columns of numbers that hold one at least."""
        return [name for name, cells in self.cells.items() if cells.dtype != object and np.isfinite(cells).any()]


@dataclass(frozen=True)
class Wanted:
    """What the caller decided: names of columns, and the layout; None leaves it to the rules."""

    metric: str | None = None
    epoch: str | None = None
    run: str | None = None
    layout: str | None = None


def curves_of(columns: Columns, wanted: Wanted) -> list[Curve]:
    """The curves in a table.

    1. The epoch is the column the caller named, or the first of `EPOCHS` that is there; else rows are counted.
    2. Columns "RUN - METRIC" are an export of Weights & Biases: a column a run ("runs").
    3. With a column of runs, rows are (run, epoch, metric): "long".
    4. Without a column of epochs, columns named 1, 2, 3 (or epoch_1, ...) make a row a run: "rows".
    5. Else the numeric columns are metrics of one run ("metrics") if all their names look like metrics, or one is
       called loss or accuracy or begins with val, eval or test; runs ("runs") if no name looks like a metric. Any
       other mixture is refused.
    6. Of several metrics, the caller's, or the only one, or the only one whose name begins with val, eval or test.
    """
    found = _exported(columns, wanted) if wanted.layout in (None, "runs") else None
    if found is not None:
        return found
    epoch, run = _epoch(columns, wanted), _run(columns, wanted)
    layout = wanted.layout or _layout(columns, wanted, epoch, run)
    if layout == "rows":
        return _rows(columns, run)
    rest = [name for name in columns.numeric if name not in (epoch, run) and not _aside(name)]
    if not rest:
        raise InputError(f"{columns.source}: no column of numbers is left to be a metric; {_listed(columns)}.")
    if layout == "runs":
        columns.notes.append(f"{columns.source}: {len(rest)} columns, one a run; {_when(epoch)}.")
        metric = wanted.metric or "value"
        return [c for name in rest for c in _split(columns, name, epoch, None, name, metric)]
    metric = _metric(columns, wanted, rest)
    if layout == "long" and run is None:
        raise ConfigError(f"{columns.source}: no column names the runs.", hint="Name it with run=... (--run).")
    others = [name for name in rest if name != metric]
    aside = f"; left out: {', '.join(others)}" if others else ""
    columns.notes.append(
        f"{columns.source}: metric {metric!r}, {_when(epoch)}, " + (f"run {run!r}" if run else "one run") + aside + "."
    )
    return list(_split(columns, metric, epoch, run if layout == "long" else None, columns.name, metric))


def _exported(columns: Columns, wanted: Wanted) -> list[Curve] | None:
    """Curves of an export of Weights & Biases, or None if it is none."""
    parts = {name: match for name in columns.numeric if (match := _WANDB.fullmatch(name))}
    if not parts:
        return None
    metrics = list(dict.fromkeys(match[2] for match in parts.values() if not match[3] and match[2] not in EPOCHS))
    chosen = _choose(columns, wanted.metric, metrics)
    taken = [name for name, match in parts.items() if match[2] == chosen and not match[3]]
    first = next((name for name in columns.cells if name not in parts and not _aside(name)), None)
    epoch = _epoch(columns, wanted) or (first if first in columns.numeric else None)
    n_left = sum(_WANDB.fullmatch(name) is not None for name in columns.cells) - len(taken)
    columns.notes.append(
        f"{columns.source}: columns 'run - metric', {len(taken)} runs of {chosen!r}, {_when(epoch)}; {n_left} other "
        "columns (smallest and largest values, other metrics, text) are left out."
    )
    return [c for name in taken for c in _split(columns, name, epoch, None, parts[name][1], chosen)]


def _epoch(columns: Columns, wanted: Wanted) -> str | None:
    if wanted.epoch is not None:
        return _named(columns, wanted.epoch, "epoch")
    low = {name.lower(): name for name in reversed(columns.cells)}
    present = [low[name] for name in EPOCHS if name in low and low[name] in columns.numeric]
    for name in present:
        whole = columns.cells[name].astype(np.float64)
        known = whole[np.isfinite(whole)]
        if len(present) > 1 and (known != np.rint(known)).any():
            columns.notes.append(f"{columns.source}: {name!r} has parts of epochs, so another column counts.")
            continue
        return name
    return None


def _run(columns: Columns, wanted: Wanted) -> str | None:
    if wanted.run is not None:
        return _named(columns, wanted.run, "run")
    present = [name for name in columns.cells if name.lower() in RUNS]
    if len(present) > 1:
        raise ConfigError(
            f"{columns.source}: the columns {', '.join(map(repr, present))} may all name the runs.",
            hint="Say which one with run=... (--run).",
        )
    return present[0] if present else None


def _layout(columns: Columns, wanted: Wanted, epoch: str | None, run: str | None) -> str:
    numbered = [name for name in columns.numeric if _NUMBERED.fullmatch(name)]
    if epoch is None and len(numbered) > 1:
        return "rows"
    if run is not None:
        return "long"
    if wanted.metric is not None:
        return "metrics"
    rest = [name for name in columns.numeric if name != epoch and not _aside(name)]
    if rest and all(_is_number(name) for name in rest):
        raise InputError(
            f"{columns.source}: the first line holds numbers ({', '.join(rest[:4])}), not names of columns.",
            hint="Put a line of names above it.",
        )
    metrics = [name for name in rest if _METRIC.search(name)]
    if metrics and len(metrics) < len(rest):
        others = [name for name in rest if name not in metrics]
        if any(_HELD_OUT.match(name) or name.lower() in ("loss", "acc", "accuracy") for name in metrics):
            return "metrics"
        raise ConfigError(
            f"{columns.source}: the columns {', '.join(map(repr, metrics[:4]))} look like metrics, "
            f"{', '.join(map(repr, others[:4]))} do not, so it is open whether a column is a run.",
            hint="Name the metric with metric=... (--metric), or say layout='runs' (--layout runs).",
        )
    return "metrics" if metrics else "runs"


def _metric(columns: Columns, wanted: Wanted, rest: Sequence[str]) -> str:
    if wanted.metric is not None and wanted.metric not in rest and wanted.metric in columns.cells:
        raise InputError(f"{columns.source}: the column {wanted.metric!r} holds no numbers to continue.")
    likely = [name for name in rest if _METRIC.search(name)] or list(rest)
    return _choose(columns, wanted.metric, rest if wanted.metric is not None else likely)


def _choose(columns: Columns, wanted: str | None, metrics: Sequence[str]) -> str:
    if wanted is not None:
        if wanted not in metrics:
            raise ConfigError(
                f"{columns.source}: there is no metric {wanted!r}; there are {', '.join(map(repr, metrics))}.",
                hint=suggest(wanted, metrics),
            )
        return wanted
    held_out = [name for name in metrics if _HELD_OUT.match(name.rpartition("/")[0] or name)] or list(metrics)
    if len(held_out) != 1:
        raise ConfigError(
            f"{columns.source}: there are several metrics: {', '.join(map(repr, held_out))}.",
            hint="Say which one with metric=... (--metric).",
        )
    return held_out[0]


def _rows(columns: Columns, run: str | None) -> list[Curve]:
    numbered = {name: int(match[2]) for name in columns.cells if (match := _NUMBERED.fullmatch(name))}
    numbered = {name: at for name, at in numbered.items() if columns.cells[name].dtype != object}
    if len(set(numbered.values())) < max(2, len(numbered)):
        raise InputError(f"{columns.source}: a row a run needs columns named 1, 2, 3, ...; {_listed(columns)}.")
    texts = [name for name in columns.cells if columns.cells[name].dtype == object]
    label = run or (texts[0] if len(texts) == 1 else None)
    if label is None and len(texts) > 1:
        raise ConfigError(
            f"{columns.source}: {', '.join(map(repr, texts))} may all name the runs.",
            hint="Say which one with run=... (--run).",
        )
    order = sorted(numbered, key=lambda name: numbered[name])
    epochs = np.array([float(numbered[name]) for name in order])
    matrix = np.stack([columns.cells[name].astype(np.float64) for name in order], axis=1)
    names = [f"{columns.name}/{i + 1}" for i in range(len(matrix))]
    if label is not None:
        names = [_text(cell) or name for cell, name in zip(columns.cells[label], names)]
    columns.notes.append(f"{columns.source}: {len(matrix)} rows, one a run; {len(order)} columns of epochs.")
    return [_curve(columns, values, epochs, name, "value") for name, values in zip(names, matrix)]


def _split(columns: Columns, value: str, epoch: str | None, run: str | None, name: str, metric: str) -> Iterable[Curve]:
    """Curves of one column: one, or one a run."""
    values = columns.cells[value].astype(np.float64)
    if run is None:
        groups = {name: np.arange(len(values))}
    else:
        labels = [_text(cell) for cell in columns.cells[run]]
        lost = sum(label == "" and bool(np.isfinite(v)) for label, v in zip(labels, values))
        if lost:
            columns.notes.append(f"{columns.source}: {lost} values without a run are left out.")
        order: dict[str, list[int]] = {}
        for i, label in enumerate(labels):
            if label:
                order.setdefault(label, []).append(i)
        groups = {label: np.array(rows) for label, rows in order.items()}
    for label, rows in groups.items():
        part = values[rows]
        if epoch is None:
            yield _curve(columns, part, np.arange(1.0, len(part) + 1), label, metric)
        else:
            yield _curve(columns, part, columns.cells[epoch].astype(np.float64)[rows], label, metric)


def _curve(columns: Columns, values: NDArray[np.float64], epochs: NDArray[np.float64], name: str, metric: str) -> Curve:
    """One curve: sorted by epoch, with the last value of each; what is left out is said."""
    here = np.isfinite(values)
    if (bad := int(np.isinf(values).sum())) > 0:
        columns.notes.append(f"{columns.source}: run {name!r}: {bad} infinite values count as not measured.")
    if (lost := int((here & ~np.isfinite(epochs)).sum())) > 0:
        columns.notes.append(f"{columns.source}: run {name!r}: {lost} values without an epoch are left out.")
    here &= np.isfinite(epochs)
    values, epochs = values[here], epochs[here]
    order = np.argsort(epochs, kind="stable")
    values, epochs = values[order], epochs[order]
    last = np.append(epochs[1:] != epochs[:-1], True) if len(epochs) else np.zeros(0, dtype=bool)
    if (twice := int((~last).sum())) > 0:
        columns.notes.append(
            f"{columns.source}: run {name!r}: {twice} values at an epoch that has a later one are left out."
        )
    values, epochs = values[last], epochs[last]
    if len(epochs) and epochs[0] < 0:
        raise InputError(f"{columns.source}: run {name!r} has the negative epoch {epochs[0]:g}.")
    # Epochs from 0 are moved for all curves of a reading together, by who calls.
    return Curve(values, epochs + 1, name=name, metric=metric)


def _named(columns: Columns, name: str, what: str) -> str:
    if name not in columns.cells:
        raise ConfigError(
            f"{columns.source}: there is no column {name!r} ({what}); {_listed(columns)}.",
            hint=suggest(name, columns.cells),
        )
    if what == "epoch" and name not in columns.numeric:
        raise InputError(f"{columns.source}: the column {name!r} holds no numbers to be epochs.")
    return name


def _aside(name: str) -> bool:
    return name.lower() in (*EPOCHS, *_ASIDE)


def _is_number(name: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.\d*|\.\d+|\d+(\.\d*)?e[+-]?\d+)", name, re.IGNORECASE) is not None


def _text(cell: object) -> str:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)):
        return ""
    return f"{cell:g}" if isinstance(cell, float) else str(cell).strip()


def _when(epoch: str | None) -> str:
    return f"epoch {epoch!r}" if epoch else "rows counted as epochs"


def _listed(columns: Columns | Mapping[str, object]) -> str:
    names = columns.cells if isinstance(columns, Columns) else columns
    return f"the columns are {', '.join(map(repr, list(names)[:20]))}"
