"""What the readers of all formats share: kinds from a schema, whole reads, counts of unfit cells."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import check_option, suggest
from foreknow.data.cells import KINDS, Kind
from foreknow.data.table import Table

BLOCK_CELLS = 2**18
"""Cells of a block whose number of rows the caller leaves open."""

NUMBER_CELL_BYTES, TEXT_CELL_BYTES, BLOCK_CELL_BYTES = 20, 100, 150
"""Memory that reading takes per cell: of the table (a text counts as a number where texts repeat, because
equal texts are held once), and of the block that exists as text.

Measured on 100 000 and 500 000 rows of 10 columns, CPython 3.11, growth of the resident peak: 15-18 bytes a
cell for numbers and for text of few levels (the value, and its copy while blocks are joined), 64-100 for
distinct texts of 6 characters, ASCII to CJK; a block adds 60-110 a cell.
"""


class Source(ABC):
    """A file with named columns that can be read more than once, whole or in blocks."""

    path: Path
    names: list[str]

    def complete(self, schema: Mapping[str, Kind] | None) -> list[Kind | None]:
        """The kind that `schema` gives each column, None where it gives none."""
        schema = schema or {}
        for name, kind in schema.items():
            if name not in self.names:
                raise InputError(
                    f"{str(self.path)!r} has no column {name!r}, which the schema names.",
                    hint=suggest(name, self.names),
                )
            check_option("schema", name, kind, KINDS)
        return [schema.get(name) for name in self.names]

    @abstractmethod
    def need_bytes(self) -> float:
        """Estimate of the memory that reading the file whole takes."""

    @abstractmethod
    def infer(self, given: Sequence[Kind | None]) -> list[Kind]:
        """`given` with every None replaced by the kind that all cells of the column have."""

    @abstractmethod
    def tables(
        self, n_rows: int | None, kinds: Sequence[Kind], on_progress: ProgressCallback | None
    ) -> Iterator[Table]:
        """The rows in tables of at most `n_rows` (None: of a convenient size), columns of these `kinds`."""

    def read(self, given: Sequence[Kind | None], on_progress: ProgressCallback | None) -> Table:
        """The whole table."""
        tables = list(self.tables(None, self.infer(given), on_progress))
        return tables[0].concat_rows(*tables[1:]) if len(tables) > 1 else tables[0]


class UnfitCells:
    """Counts cells that do not fit the kind of their column."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, tuple[Kind, int, object]] = {}

    def count(self, name: str, kind: Kind, bad: NDArray[np.bool_], cells: Sequence[object] | NDArray[Any]) -> None:
        if bad.any():
            _, n, first = self._found.get(name, (kind, 0, cells[int(np.argmax(bad))]))
            self._found[name] = (kind, n + int(bad.sum()), first)

    def warn(self) -> None:
        if self._found:
            lines = [
                f"{n} cell(s) of {name!r} are not {kind} (the first is {first!r:.40})"
                for name, (kind, n, first) in self._found.items()
            ]
            warnings.warn(f"{str(self._path)!r}: {'; '.join(lines)}; read as missing.", ForeknowWarning, stacklevel=3)
