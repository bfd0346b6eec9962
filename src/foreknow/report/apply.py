"""A saved system applied to a file of new rows, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import CapabilityError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.timing import Stopwatch
from foreknow.core.system import System, load
from foreknow.data.cells import Kind
from foreknow.data.encoder import TableEncoder
from foreknow.data.readers import column_names
from foreknow.data.table import Table
from foreknow.report.forecast import forecast
from foreknow.report.new_rows import NewRows
from foreknow.report.predictions import Predictions, open_predictions

SOURCE = "saved model"


@dataclass(frozen=True)
class Applied:
    """What `apply_model` did.

    Args:
        system: class of the saved system.
        card: its slug.
        classes: names of the classes; none for numbers.
        file: name of the file of new rows.
        path: the predictions.
        predictions: what is known of them.
        seconds: wall-clock time.
    """

    system: str
    card: str
    classes: tuple[str, ...]
    file: str
    path: Path
    predictions: Predictions
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The record in JSON types."""
        means = self.predictions.means
        return {
            "system": self.system,
            "card": self.card,
            "task": "classification" if self.classes else "regression",
            "file": self.file,
            "path": str(self.path),
            "n_rows": self.predictions.n_rows,
            "classes": {name: int(n) for name, n in zip(self.classes, self.predictions.class_counts, strict=True)},
            "range": [float(means.min()), float(means.max())] if len(means) else None,
            "seconds": round(self.seconds, 3),
        }


def apply_model(
    model: str | Path,
    file: str | Path,
    out: str | Path = "predictions.csv",
    *,
    device: str = "auto",
    progress: ProgressCallback | None = None,
) -> Applied:
    """Predict the rows of `file` by the saved system in `model`, and write them to `out` as `predict_table` does.

    Columns are found by name if the system was fitted to a table with names, and others are ignored; else by
    position. The file is read, predicted and written in pieces; `out` appears when it is complete.

    Args:
        model: written by `System.save` or by `predict_table(..., save=...)`; nothing in it is executed.
        file: new rows: .csv, .tsv or .parquet.
        out: the file to write.
        device: see `foreknow.load`.
        progress: receives a record before each piece.

    Raises:
        CheckpointError: `model` is no saved system.
        CapabilityError: the system predicts neither classes nor numbers.
        InputError: `file` cannot be read or lacks columns, a cell cannot be used, or `out` cannot be written.
    """
    with Stopwatch() as watch:
        system, path, out = load(model, device=device), Path(file), Path(out)
        for other in (Path(model), path):
            if out.exists() and other.exists() and out.samefile(other):
                raise InputError(f"the predictions would replace {str(other)!r}.", hint="Choose another file with -o.")
        classes = tuple(str(label) for label in system.classes_) if hasattr(system, "predict_proba") else ()
        rows = NewRows(path, _schema(system, path))
        done = 0
        with open_predictions(out, classes) as writer:
            for table in _pieces(rows, progress):
                numbers = np.arange(done, done + table.n_rows) + 1
                features = table if _reads_tables(system) else _matrix(system, table, done, path)
                output = system.predict_proba(features) if classes else forecast(system, features)
                writer.add(numbers, output, SOURCE)
                done += table.n_rows
            predictions = writer.finish()
    return Applied(type(system).__name__, system.card.slug, classes, path.name, out, predictions, watch.seconds)


def _pieces(rows: NewRows, progress: ProgressCallback | None) -> Iterator[Table]:
    return (features for features, _ in rows.chunks(progress))


def _reads_tables(system: System) -> bool:
    return isinstance(getattr(system, "encoder_", None), TableEncoder)


def _schema(system: System, path: Path) -> dict[str, Kind]:
    """The columns of the file that the system wants, in its order, and their kinds.

    Raises:
        CapabilityError: it wants no table.
        InputError: it knows no names, and the file has another number of columns.
    """
    n = getattr(system, "n_features_in_", None)
    if n is None:
        raise CapabilityError(f"{type(system).__name__} is not applied to the rows of a table.")
    encoder = getattr(system, "encoder_", None)
    kinds: list[Kind] = list(encoder.schema.values()) if isinstance(encoder, TableEncoder) else ["numeric"] * n
    if isinstance(encoder, TableEncoder) and encoder.named:
        return encoder.schema
    if hasattr(system, "feature_names_in_"):
        return dict(zip(system.feature_names_in_.tolist(), kinds, strict=True))
    names = column_names(path)
    if len(names) != n:
        raise InputError(
            f"{path.name} has {len(names)} column(s), but the {type(system).__name__} was fitted to {n} without names: "
            "they can only be matched by position.",
            hint="Leave the columns of its training table, in the same order, and no others.",
        )
    return dict(zip(names, kinds, strict=True))


def _matrix(system: System, table: Table, done: int, path: Path) -> NDArray[np.float64]:
    """The rows as numbers for a system that takes nothing else.

    Raises:
        InputError: a cell is missing, and the system cannot do without.
    """
    matrix = np.column_stack([column.values for column in table.columns])
    if not system.tags.missing_values and np.isnan(matrix).any():
        row, column = (int(index) for index in np.argwhere(np.isnan(matrix))[0])
        raise InputError(
            f"{path.name}: the cell of {table.names[column]!r} in row {done + row + 1} is missing or not a number, "
            f"which {type(system).__name__} cannot use ({int(np.isnan(matrix).sum())} such cell(s) by then).",
            hint="Fill these cells or leave out their rows.",
        )
    return matrix
