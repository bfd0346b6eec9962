"""Tables from files (CSV and parquet), whole or in chunks, and CSV out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from foreknow.common.errors import InputError, ResourceError
from foreknow.common.files import atomic_path
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import check_int, suggest
from foreknow.data._csv_file import DELIMITERS, CsvFile
from foreknow.data._parquet_file import ParquetFile
from foreknow.data._source import Source
from foreknow.data.cells import Kind
from foreknow.data.table import Table

_PARQUET_SUFFIXES = (".parquet", ".pq")
_SUFFIXES = (*DELIMITERS, *_PARQUET_SUFFIXES)


def read_table(
    path: str | Path,
    *,
    max_bytes: int | None = None,
    on_progress: ProgressCallback | None = None,
    schema: Mapping[str, Kind] | None = None,
) -> Table:
    """The table in a .csv, .tsv, .txt, .parquet or .pq file.

    The kind of a CSV column is decided by all its cells: numbers, or true/false/yes/no, or ISO dates, else
    text. Empty cells, NA, N/A, NaN, nan, null, None and ? are missing. Blank lines are skipped.

    Args:
        path: the file; its suffix says the format.
        max_bytes: memory the reading may need; default what the system has available.
        on_progress: receives `Progress` records.
        schema: kinds by column name, as for `iter_table`.

    Raises:
        InputError: the file is missing, empty, malformed or not of a known format.
        ResourceError: the table would not fit in memory; this is found before it is read.
        MissingExtraError: a parquet file without pyarrow.
    """
    source = _open(path)
    available = _available_bytes() if max_bytes is None else max_bytes
    need = source.need_bytes()
    if available is not None and need > available:
        raise ResourceError(
            f"reading {str(path)!r} ({_size(Path(path).stat().st_size)}) may need {_size(need)} of memory, "
            f"but {_size(available)} may be used.",
            hint="Take fewer rows or columns, or stream it with foreknow.data.iter_table.",
        )
    return source.read(source.complete(schema), on_progress)


def iter_table(
    path: str | Path,
    *,
    chunk_rows: int = 65536,
    schema: Mapping[str, Kind] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Iterator[Table]:
    """The table in a file as a stream of tables of at most `chunk_rows` rows, in bounded memory.

    All chunks have the same columns and kinds. The kinds of CSV columns that `schema` does not name are
    found in a first pass over the file.

    Args:
        path: as for `read_table`.
        chunk_rows: rows of a chunk, at least 1.
        schema: kinds by column name. A cell that does not fit becomes missing; how many did is said in a
            `ForeknowWarning` at the end.
        on_progress: receives a `Progress` record before each chunk.

    Raises:
        InputError: as `read_table`, or `schema` names a column that is not in the file.
    """
    n_rows = check_int("iter_table", "chunk_rows", chunk_rows, low=1)
    source = _open(path)
    return source.tables(n_rows, source.infer(source.complete(schema)), on_progress)


def column_names(path: str | Path) -> tuple[str, ...]:
    """Names of the columns of a table file, without reading its rows.

    Raises:
        InputError: as `read_table`.
    """
    return tuple(_open(path).names)


def write_csv(path: str | Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length as UTF-8 CSV that `read_table` gives back (tab-separated if `path` ends in .tsv).

    Numbers keep all their digits; None, NaN and NaT become empty cells, and so does empty text.

    Raises:
        InputError: no columns, unequal lengths, or a cell that is not text, a number, a boolean or a date.
    """
    lengths = {str(name): len(values) for name, values in columns.items()}
    if not columns or len(set(lengths.values())) > 1:
        raise InputError(f"write_csv: one or more columns of equal length are needed, got {lengths!r:.300}.")
    delimiter = "\t" if Path(path).suffix.lower() == ".tsv" else ","
    alone = len(columns) == 1  # an empty cell alone on its line would be a blank line, which readers skip
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            for row in (list(columns), *zip(*columns.values())):
                cells = [_cell_text(cell) for cell in row]
                file.write('""\n' if alone and not cells[0] else delimiter.join(map(_quoted, cells)) + "\n")
    except UnicodeEncodeError as error:
        raise InputError(f"write_csv: {error.object!r:.60} cannot be written as UTF-8 ({error.reason}).") from error


def _open(path: str | Path) -> Source:
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{str(path)!r} is a folder, not a file.", hint="Name a file in it.")
        if not path.exists():
            folder = path.parent
            near = [item.name for item in folder.iterdir()] if folder.is_dir() else []
            reason = "there is no such file" if folder.is_dir() else f"the folder {str(folder)!r} does not exist"
            raise InputError(f"cannot read {str(path)!r}: {reason}.", hint=suggest(path.name, near))
        if not path.is_file():
            raise InputError(f"{str(path)!r} is not an ordinary file.", hint="Save the data to a file first.")
        if path.suffix.lower() not in _SUFFIXES:
            raise InputError(
                f"{str(path)!r} has the suffix {path.suffix!r}; tables are read from {', '.join(_SUFFIXES)}.",
                hint="Export a spreadsheet as CSV UTF-8, unpack a compressed file, or rename a file that is CSV.",
            )
        if path.stat().st_size == 0:
            raise InputError(f"{str(path)!r} is empty.", hint="A table needs a header line and rows.")
        return CsvFile(path) if path.suffix.lower() in DELIMITERS else ParquetFile(path)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}.") from error


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def _size(n_bytes: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def _cell_text(cell: Any) -> str:
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(cell, str):
        if "\0" in cell:
            raise InputError(f"write_csv: {cell!r:.60} holds a NUL character, which CSV readers refuse.")
        return cell
    if isinstance(cell, bool | np.bool_):
        return "true" if cell else "false"
    if isinstance(cell, Integral):
        return str(int(cell))
    if isinstance(cell, Real | Decimal):
        return "" if cell != cell else repr(float(cell))
    if isinstance(cell, np.datetime64):
        return "" if np.isnat(cell) else str(cell)
    if isinstance(cell, date):
        return cell.isoformat()
    raise InputError(f"write_csv: a cell must be text, a number, a boolean or a date, got {type(cell).__name__}.")


def _quoted(text: str) -> str:
    # The reader's delimiters are quoted as well, so that it cannot take another one for ours.
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',;\t|"\r\n\ufeff') else text
