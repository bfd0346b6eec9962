"""A file of numbers with a column to predict, for systems that take matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError
from foreknow.common.validate import check_known
from foreknow.core.source import Sample
from foreknow.data.readers import read_table
from foreknow.data.table import Table

OPTIONS = {"target": "the column to predict", "drop": "columns to leave out, with commas"}


@dataclass(frozen=True, eq=False)
class NamedMatrix:
    """Numbers with names of their columns: `System.fit` notes the names, and reads the rest as an array.

    Args:
        columns: names, d of them.
        values: shape (n, d).
    """

    columns: tuple[str, ...]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=True if copy is None else copy)


def read_numeric(owner: str, paths: Sequence[Path], options: Mapping[str, str], *, classes: bool = False) -> Sample:
    """Rows and targets of one csv or parquet file. Rows with a missing target are left out.

    Args:
        owner: who asks.
        paths: the file, exactly one.
        options: "target", and "drop" where columns are to be left out.
        classes: whether the target holds labels (read as text) instead of numbers.

    Raises:
        ConfigError: an unknown option.
        InputError: not one file, no such column, a column of text, or a missing cell.
    """
    check_known(owner, options, OPTIONS, what="option")
    if len(paths) != 1:
        raise InputError(f"{owner}: name one file of rows, got {len(paths)}.")
    table = read_table(paths[0])
    if "target" not in options:
        raise InputError(
            f"{owner}: which column of {paths[0].name} is to be predicted? It has {', '.join(table.names[:12])}.",
            hint="Add --with target=NAME.",
        )
    target = table.column(options["target"])
    if not classes and target.kind == "categorical":
        raise InputError(f"{owner}: the target {target.name!r} holds text, and numbers are predicted here.")
    dropped = [word.strip() for word in options.get("drop", "").split(",") if word.strip()]
    known = np.flatnonzero(~target.missing)
    labels = target.as_kind("categorical")[0] if classes else target
    X = _matrix(owner, table.drop(list({target.name, *dropped})), known)
    return Sample(X, np.array(labels.values[known].tolist()))


def _matrix(owner: str, features: Table, rows: NDArray[np.intp]) -> NamedMatrix:
    text = [column.name for column in features.columns if column.kind == "categorical"]
    if text:
        raise InputError(
            f"{owner}: the column {text[0]!r} holds text ({len(text)} such column(s)), and numbers are needed.",
            hint=f"Leave them out with --with drop={','.join(text[:5])}, or use foreknow predict.",
        )
    values = np.column_stack([column.values for column in features.columns])[rows]
    if np.isnan(values).any():
        row, column = (int(i) for i in np.argwhere(np.isnan(values))[0])
        raise InputError(
            f"{owner}: the cell of {features.names[column]!r} in row {int(rows[row]) + 1} is missing "
            f"({int(np.isnan(values).sum())} in all).",
            hint="Fill these cells, leave out their rows, or use foreknow predict.",
        )
    return NamedMatrix(features.names, values)
