"""CSV files as a source of tables.

CSV means: UTF-8, one header line, one of `, ; tab |` between the fields, double quotes around fields
that need them. A file is read in blocks, so that only one block at a time exists as text.
"""

from __future__ import annotations

import codecs
import csv
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.data._source import BLOCK_CELL_BYTES, BLOCK_CELLS, NUMBER_CELL_BYTES, TEXT_CELL_BYTES, Source, UnfitCells
from foreknow.data.cells import Kind, interpret, object_array, parse
from foreknow.data.table import Column, Table, refuse_duplicates

_SAMPLE_CHARACTERS = 2**16
_SAMPLE_ROWS = 200
_MAX_FIELD = 2**20  # characters; the default of the csv module, 2**17, is too few for some free text
_MAX_LINE = 2**26  # characters; a file with longer lines is not a table
DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".txt": "\t,;|"}
"""Suffix -> the delimiters that are tried, the usual one first."""


class CsvFile(Source):
    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = path.stat().st_size
        with self._text() as file:
            self._delimiter = _sniff(_lines(file, path), DELIMITERS[path.suffix.lower()])
        with self._text() as file, _field_limit():
            records = self._records(file)
            _, header = next(records, (1, None))
            if header is None:
                raise InputError(f"{str(path)!r} is empty.", hint="A table needs a header line and rows.")
            sample = [row for _, row in islice(records, _SAMPLE_ROWS)]
            if not sample:
                raise InputError(
                    f"{str(path)!r} has a header but no rows.",
                    hint="The first line is taken as the names of the columns; add the rows below it.",
                )
        self.names = self._column_names([name.strip() for name in header])
        self._header, self._sample = header, sample

    def need_bytes(self) -> float:
        row_bytes = sum(len(self._delimiter.join(row).encode()) + 1 for row in self._sample) / len(self._sample)
        n_rows = self._size / row_bytes
        per_row = 0
        for column in zip(*self._sample):
            distinct = interpret(column)[0] == "categorical" and len(set(column)) > len(column) / 2
            per_row += TEXT_CELL_BYTES if distinct else NUMBER_CELL_BYTES
        return n_rows * per_row + min(n_rows * len(self.names), BLOCK_CELLS) * BLOCK_CELL_BYTES

    def infer(self, given: Sequence[Kind | None]) -> list[Kind]:
        seen: list[set[Kind | None]] = [set() for _ in given]
        for cells, first_row, _ in self._blocks(None) if None in given else ():
            for j, column in enumerate(cells):
                if given[j] is None and _joined(seen[j]) != "categorical":
                    seen[j].add(self._interpret(j, column, first_row)[0])
        return [kind or _joined(found) for kind, found in zip(given, seen)]

    def tables(
        self, n_rows: int | None, kinds: Sequence[Kind], on_progress: ProgressCallback | None
    ) -> Iterator[Table]:
        reporter = Reporter(on_progress, self._size)
        unfit = UnfitCells(self.path)
        for cells, _, position in self._blocks(n_rows):
            columns = []
            for name, kind, column in zip(self.names, kinds, cells):
                values, bad = parse(column, kind)
                unfit.count(name, kind, bad, column)
                columns.append(Column(name, kind, values))
            del cells, column
            reporter.advance(position)
            yield Table(tuple(columns))
        unfit.warn()

    def read(self, given: Sequence[Kind | None], on_progress: ProgressCallback | None) -> Table:
        if any(given):
            return super().read(given, on_progress)
        reporter = Reporter(on_progress, self._size)
        blocks = []
        for cells, first_row, position in self._blocks(None):
            blocks.append([self._interpret(j, column, first_row) for j, column in enumerate(cells)])
            del cells
            reporter.advance(position)
        columns = []
        for j, name in enumerate(self.names):
            kind = _joined({block[j][0] for block in blocks})
            if not all(block[j][0] in (kind, None) for block in blocks):
                # Numbers in one block and text in another: the column is text, which is no longer held.
                return super().read(
                    [_joined({block[i][0] for block in blocks}) for i in range(len(given))], on_progress
                )
            parts = [
                object_array([None] * len(values)) if found is None and kind == "categorical" else values
                for found, values in (block[j] for block in blocks)
            ]
            columns.append(Column(name, kind, np.concatenate(parts)))
        return Table(tuple(columns))

    def _interpret(self, j: int, cells: Sequence[str], first_row: int) -> tuple[Kind | None, NDArray[Any]]:
        kind, values = interpret(cells)
        if kind == "numeric" and np.isinf(values).any():
            row = int(np.argmax(np.isinf(values)))
            raise InputError(
                f"{str(self.path)!r}: column {self.names[j]!r} contains infinity ({cells[row]!r:.40}), first in "
                f"row {first_row + row + 1} below the header.",
                hint="Correct the cell or leave it empty.",
            )
        return kind, values

    def _blocks(self, n_rows: int | None) -> Iterator[tuple[list[tuple[str, ...]], int, int]]:
        """Columns of text, the number of rows before them, and the bytes read so far."""
        width = len(self.names)
        n_rows = n_rows or max(1, BLOCK_CELLS // width)
        first_row = 0
        with self._text() as file:
            records = self._records(file)
            with _field_limit():
                _, header = next(records, (1, None))
            if header != self._header:
                self._refuse_changed()
            while True:
                rows = []
                with _field_limit():
                    for line, row in islice(records, n_rows):
                        if len(row) != width:
                            self._refuse_ragged(line, len(row))
                        rows.append(row)
                if not rows:
                    if not first_row:
                        self._refuse_changed()
                    return
                n_read, cells = len(rows), list(zip(*rows))
                rows.clear()  # only one block is to exist as text, here and in the caller's loop
                yield cells, first_row, file.buffer.tell()
                del cells
                first_row += n_read

    def _text(self) -> Any:
        return open(self.path, encoding="utf-8-sig", newline="")

    def _records(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        """The line each record begins on, and its fields; blank lines are skipped."""
        reader = csv.reader(_lines(file, self.path), delimiter=self._delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InputError(
                    f"{str(self.path)!r}: the record that begins on line {line} is malformed: {error}.",
                    hint="Look for a double quote that is not closed, or not doubled inside a quoted field.",
                ) from None
            if row:
                yield line, row

    def _column_names(self, names: list[str]) -> list[str]:
        empty = [j for j, name in enumerate(names) if not name]
        for j in empty:
            names[j] = f"column_{j + 1}"
            while names.count(names[j]) > 1:
                names[j] += "_"
        refuse_duplicates(repr(str(self.path)), names)
        if empty:
            warnings.warn(
                f"{str(self.path)!r}: {len(empty)} column(s) without a name are called "
                f"{', '.join(repr(names[j]) for j in empty[:5])}{', ...' if len(empty) > 5 else ''}.",
                ForeknowWarning,
                stacklevel=2,
            )
        return names

    def _refuse_changed(self) -> NoReturn:
        raise InputError(
            f"{str(self.path)!r} was changed while it was read.",
            hint="Read it again when nothing writes to it, or read a copy.",
        )

    def _refuse_ragged(self, line: int, found: int) -> NoReturn:
        shown = {"\t": "tab"}.get(self._delimiter, repr(self._delimiter))
        raise InputError(
            f"{str(self.path)!r}: line {line} has {found} field(s), the header has {len(self.names)} "
            f"(separated by {shown}).",
            hint="Correct the line; a field that holds the separator must stand in double quotes.",
        )


def _sniff(lines: Iterator[str], candidates: str) -> str:
    """The delimiter that splits most records of the first lines as it splits the header; the first one in a draw."""
    sample: list[str] = []
    length, whole = 0, True
    for line in lines:
        sample.append(line)
        length += len(line)
        if length > _SAMPLE_CHARACTERS:
            whole = False
            break
    best, best_share = candidates[0], 0.0
    for delimiter in candidates:
        with _field_limit():
            try:
                widths = [len(row) for row in csv.reader(sample, delimiter=delimiter) if row]
            except csv.Error:  # a field beyond the limit; the reading proper says where
                continue
        if not whole and len(widths) > 1:
            widths.pop()
        if widths and widths[0] > 1:
            share = widths.count(widths[0]) / len(widths)
            if share > best_share:
                best, best_share = delimiter, share
    return best


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    try:
        while line := file.readline(_MAX_LINE):
            number += 1
            if "\0" in line:
                raise InputError(
                    f"{str(path)!r}: line {number} holds a NUL byte; the file is binary or UTF-16, not UTF-8 text.",
                    hint=_convert_hint(path, "UTF-16"),
                )
            if len(line) >= _MAX_LINE:
                raise InputError(f"{str(path)!r}: line {number} has more than {_MAX_LINE} characters; not a table.")
            yield line
    except UnicodeDecodeError:
        raise _not_utf8(path) from None


def _not_utf8(path: Path) -> InputError:
    decoder = codecs.getincrementaldecoder("utf-8")()
    before = 0
    with open(path, "rb") as file:
        begin = file.read(2)
        file.seek(0)
        while chunk := file.read(_SAMPLE_CHARACTERS):
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                before += error.start - held
                break
            before += len(chunk)
        else:  # the file ends within a character
            before -= len(decoder.getstate()[0])
    encoding = "UTF-16" if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "ISO-8859-1"
    return InputError(f"{str(path)!r} is not UTF-8 text: invalid at byte {before}.", hint=_convert_hint(path, encoding))


def _convert_hint(path: Path, encoding: str) -> str:
    return f"If it is text in another encoding, convert it: iconv -f {encoding} -t UTF-8 '{path}' > utf8{path.suffix}"


@contextmanager
def _field_limit() -> Iterator[None]:
    # The limit belongs to the whole process, so it is raised only while a block is parsed.
    before = csv.field_size_limit(_MAX_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _joined(kinds: set[Kind | None]) -> Kind:
    """The kind of a column whose parts have these kinds (None: nothing but missing cells)."""
    present = kinds - {None}
    if len(present) > 1:
        return "categorical"
    return next(iter(present), None) or "numeric"
