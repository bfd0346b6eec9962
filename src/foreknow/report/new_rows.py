"""The rows of a file that is to be predicted: checked against the columns learnt from, read in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from foreknow.common.errors import InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import suggest
from foreknow.data.cells import Kind
from foreknow.data.readers import column_names, iter_table
from foreknow.data.table import Column, Table

CHUNK_ROWS = 8192
"""Rows that are read and predicted at a time."""
HEAD_ROWS = 1000
"""Rows whose cells are checked before any work."""


class NewRows:
    """A file with the columns of a schema, and perhaps the target and others, which are not read as features.

    Args:
        path: a .csv, .tsv or .parquet file.
        schema: the feature columns and their kinds, in the order in which they are wanted.
        target: name of the target column, which the file may have.
        target_kind: how to read it.

    Attributes:
        head: features of the first rows, at most `HEAD_ROWS`.

    Raises:
        InputError: the file cannot be read, lacks a column, or a column holds cells of another kind than it should in
            most of the first rows.
    """

    def __init__(
        self, path: Path, schema: Mapping[str, Kind], target: str | None = None, target_kind: Kind = "categorical"
    ) -> None:
        self.path = path
        self._names = tuple(schema)
        self._target = target
        names = column_names(path)
        lacking = [name for name in schema if name not in names]
        if lacking:
            shown = ", ".join(map(repr, lacking[:10])) + (", ..." if len(lacking) > 10 else "")
            raise InputError(
                f"{path.name} lacks {len(lacking)} of the {len(schema)} feature column(s) of the table: {shown}.",
                hint=suggest(lacking[0], names) or "It must have the columns learnt from; the target may be left out.",
            )
        # Other columns are read as text, which needs no pass over the file to find their kind.
        self._kinds: dict[str, Kind] = {name: schema.get(name, "categorical") for name in names}
        if target in names:
            self._kinds[target] = target_kind
        text: dict[str, Kind] = dict.fromkeys(names, "categorical")
        head = next(iter_table(path, chunk_rows=HEAD_ROWS, schema=text))
        self.head = Table(tuple(self._checked(head.column(name), schema[name]) for name in schema))

    def chunks(self, progress: ProgressCallback | None = None) -> Iterator[tuple[Table, Column | None]]:
        """Features of at most `CHUNK_ROWS` rows at a time, and their targets if the file has them."""
        for table in iter_table(self.path, chunk_rows=CHUNK_ROWS, schema=self._kinds, on_progress=progress):
            yield table.select(self._names), table.column(self._target) if self._target in self._kinds else None

    def _checked(self, column: Column, kind: Kind) -> Column:
        turned, bad = column.as_kind(kind)
        n_present = int((~column.missing).sum())
        if 2 * bad.sum() > n_present:
            row = int(bad.argmax())
            raise InputError(
                f"{self.path.name}: column {column.name!r} was {kind} where it was learnt from, but {int(bad.sum())} "
                f"of the first {n_present} cells are not; the first is {column.values[row]!r:.60} in row {row + 1}.",
                hint="Write the column as it was there; an empty cell means that the value is missing.",
            )
        return turned
