"""Trials as a table for other programs: csv, JSON or parquet, by the ending of the file.

One row a trial. Metrics become columns `metric_<name>`, empty where a trial has none. In csv and parquet the nested
fields (settings, versions, detail) are JSON text; in JSON they stay nested. In JSON, numbers that are not finite are
null.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foreknow.common.deps import require
from foreknow.common.errors import InputError
from foreknow.common.files import atomic_path
from foreknow.pricing.records import Trial

_TEXTS = ("key", "study", "source", "data_hash", "arm", "status", "error", "finished", "worker")
_COLUMNS = (*_TEXTS[:5], "size", "seed", "status", "seconds", "wall_s", "peak_mb", *_TEXTS[6:])
_NESTED = ("settings", "versions", "detail")


def export_trials(trials: Sequence[Trial], path: str | Path) -> None:
    """Write `trials` to `path` in one step: a file that was there stays until the new one is whole.

    Raises:
        InputError: if the ending is none of .csv, .json and .parquet, or the file cannot be written.
        MissingExtraError: for parquet without the extra `frames`.
    """
    writers: dict[str, Callable[[list[dict[str, Any]], list[str], Path], None]] = {
        ".csv": _write_csv,
        ".json": _write_json,
        ".parquet": _write_parquet,
    }
    ending = Path(path).suffix.lower()
    if ending not in writers:
        raise InputError(
            f"cannot export to {str(path)!r}: the ending {ending!r} is unknown.", hint=f"Use {', '.join(writers)}."
        )
    metrics = sorted({f"metric_{name}" for trial in trials for name in trial.metrics})
    rows = [_row(trial) for trial in trials]
    with atomic_path(path) as temporary:
        writers[ending](rows, metrics, temporary)


def _row(trial: Trial) -> dict[str, Any]:
    row = {"key": trial.cell.key, **trial.cell.to_dict()}
    names = ("status", "seconds", "wall_s", "peak_mb", "error", "finished", "worker")
    row |= {name: getattr(trial, name) for name in names}
    return row | {"detail": dict(trial.detail)} | {f"metric_{name}": value for name, value in trial.metrics.items()}


def _write_csv(rows: list[dict[str, Any]], metrics: list[str], path: Path) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*_COLUMNS, *metrics, *_NESTED])
        writer.writeheader()
        writer.writerows(row | {name: json.dumps(_finite(row[name])) for name in _NESTED} for row in rows)


def _write_json(rows: list[dict[str, Any]], metrics: list[str], path: Path) -> None:
    names = [*_COLUMNS, *metrics, *_NESTED]
    records = [{name: _finite(row.get(name)) for name in names} for row in rows]
    path.write_text(json.dumps(records, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_parquet(rows: list[dict[str, Any]], metrics: list[str], path: Path) -> None:
    arrow = require("pyarrow", "Writing parquet files")
    parquet = require("pyarrow.parquet", "Writing parquet files")
    columns = {name: [row[name] for row in rows] for name in _COLUMNS}
    columns |= {name: [row.get(name) for row in rows] for name in metrics}
    columns |= {name: [json.dumps(_finite(row[name])) for row in rows] for name in _NESTED}
    kinds = dict.fromkeys((*_TEXTS, *_NESTED), arrow.string()) | dict.fromkeys(("size", "seed"), arrow.int64())
    table = {name: arrow.array(values, kinds.get(name, arrow.float64())) for name, values in columns.items()}
    parquet.write_table(arrow.table(table), path)


def _finite(value: Any) -> Any:
    """`value` with None for numbers that are not finite, at any depth."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
