"""Parquet files as a source of tables (needs pyarrow)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foreknow.common.deps import require
from foreknow.common.errors import ForeknowError, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.data._source import BLOCK_CELL_BYTES, BLOCK_CELLS, NUMBER_CELL_BYTES, TEXT_CELL_BYTES, Source, UnfitCells
from foreknow.data.cells import Kind
from foreknow.data.table import Table, as_table, refuse_duplicates


class ParquetFile(Source):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrow = require("pyarrow", "Reading parquet files")
        self._parquet = require("pyarrow.parquet", "Reading parquet files")
        with self._guarded(), self._parquet.ParquetFile(path) as file:
            self._n_rows = file.metadata.num_rows
            self.names = list(file.schema_arrow.names)
            self._types = list(file.schema_arrow.types)
        refuse_duplicates(repr(str(path)), self.names)
        if not self.names or not self._n_rows:
            raise InputError(f"{str(path)!r} holds no {'rows' if self.names else 'columns'}.")

    def need_bytes(self) -> float:
        per_row = sum(TEXT_CELL_BYTES if kind == "categorical" else NUMBER_CELL_BYTES for kind in self._kinds())
        block = min(self._n_rows * len(self.names), BLOCK_CELLS)
        return float(self._n_rows * per_row + block * BLOCK_CELL_BYTES)

    def infer(self, given: Sequence[Kind | None]) -> list[Kind]:
        return [kind or own for kind, own in zip(given, self._kinds())]

    def tables(
        self, n_rows: int | None, kinds: Sequence[Kind], on_progress: ProgressCallback | None
    ) -> Iterator[Table]:
        reporter = Reporter(on_progress, self._n_rows)
        unfit = UnfitCells(self.path)
        done = 0
        for batch in self._batches(n_rows or max(1, BLOCK_CELLS // len(self.names))):
            columns = []
            for kind, column in zip(kinds, as_table(batch, owner=repr(str(self.path))).columns):
                turned, bad = column.as_kind(kind)
                unfit.count(column.name, kind, bad, column.values)
                columns.append(turned)
            done += batch.num_rows
            reporter.advance(done)
            yield Table(tuple(columns))
        unfit.warn()

    def _batches(self, n_rows: int) -> Iterator[Any]:
        with self._guarded(), self._parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=n_rows):
                if batch.num_rows:
                    yield self._arrow.Table.from_batches([batch])

    def _kinds(self) -> list[Kind]:
        types = self._arrow.types
        kinds: list[Kind] = []
        for kind in self._types:
            if types.is_boolean(kind):
                kinds.append("boolean")
            elif types.is_date(kind) or types.is_timestamp(kind):
                kinds.append("date")
            elif types.is_dictionary(kind) or "string" in str(kind):
                kinds.append("categorical")
            else:
                kinds.append("numeric")
        return kinds

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except ForeknowError:
            raise
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            raise InputError(
                f"{str(self.path)!r} cannot be read as parquet: {str(error).strip().splitlines()[0]:.200}",
                hint="Is the file complete, and is it parquet? Write it again, or convert it to CSV.",
            ) from error
