"""`read_curves`: learning curves from the files that trainings write."""

from __future__ import annotations

import json
import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.validate import check_option
from foreknow.data.curves.columns import LAYOUTS, Columns, Wanted, curves_of
from foreknow.data.curves.curve import Curve
from foreknow.data.readers import read_table

_TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
_LOGS = (".jsonl", ".ndjson", ".json")
_EVENTS = "tfevents"
_GENERIC = ("metrics", "trainer_state", "log", "logs", "history", "progress", "result", "results", "training", "events")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_MAX_LOG_BYTES = 2**28


class CurveList(list[Curve]):
    """Curves that were read, and what was understood.

    Attributes:
        notes: sentences for people: which column is what, what was left out.
    """

    def __init__(self, curves: Sequence[Curve] = (), notes: Sequence[str] = ()) -> None:
        super().__init__(curves)
        self.notes = tuple(dict.fromkeys(notes))


def read_curves(
    paths: str | Path | Sequence[str | Path],
    *,
    metric: str | None = None,
    epoch: str | None = None,
    run: str | None = None,
    layout: str | None = None,
    growing: bool = False,
) -> CurveList:
    """Learning curves from files of any of these kinds.

    Tables (.csv, .tsv, .txt, .parquet): a row per run and epoch, a column or a row a run, exports of Weights & Biases,
    logs of Lightning's and Keras' CSVLogger. Logs of events: JSON lines, a JSON list of records,
    `trainer_state.json` of Hugging Face, TensorBoard's event files or folders that hold some. How columns are told
    apart says `foreknow.data.curves.columns.curves_of`; what the rules leave open is an error, never a guess.

    Epochs that begin at 0 are counted from 1, in all curves of a file. Of several values at an epoch the last counts.

    Args:
        paths: one or several files; their runs are put together.
        metric: the column, key or tag with the values.
        epoch: the column or key with the epochs.
        run: the column or key with the names of the runs.
        layout: of tables: "long" (a row per run and epoch), "metrics" (a column a metric of one run), "runs" (a
            column a run) or "rows" (a row a run).
        growing: leave out a last line that is not yet complete.

    Raises:
        InputError: a file is missing, malformed or holds no curve.
        ConfigError: what is asked for is not there, or a choice must be made.
        MissingExtraError: event files without TensorBoard, parquet without pyarrow.
    """
    if layout is not None:
        check_option("read_curves", "layout", layout, LAYOUTS)
    files = _expand([paths] if isinstance(paths, str | Path) else list(paths))
    if not files:
        raise InputError("read_curves: no file was given.")
    wanted, notes, parts = Wanted(metric, epoch, run, layout), list[str](), list[tuple[Path, list[Curve]]]()
    for path in files:
        columns = _read(path, wanted, growing)
        found = _from_one(curves_of(columns, wanted), columns)
        notes += columns.notes
        empty = [curve.name for curve in found if not len(curve)]
        if empty:
            notes.append(f"{columns.source}: {len(empty)} runs without a value are left out: {', '.join(empty[:5])}.")
        parts.append((path, [curve for curve in found if len(curve)]))
    curves = _with_own_names(parts)
    if not curves:
        raise InputError(f"read_curves: there is no value in {', '.join(map(str, files[:5]))}.")
    metrics = list(dict.fromkeys(curve.metric for curve in curves))
    if len(metrics) > 1:
        raise ConfigError(
            f"read_curves: the files hold different metrics: {', '.join(map(repr, metrics))}.",
            hint="Name one that all have with metric=... (--metric), or read the files apart.",
        )
    return CurveList(curves, notes)


def _expand(paths: Sequence[str | Path]) -> list[Path]:
    """Folders are replaced by the event files in them."""
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted({item.parent for item in path.rglob(f"*{_EVENTS}*") if item.is_file()})
        if not inside:
            raise InputError(
                f"{str(path)!r} is a folder without event files of TensorBoard.", hint="Name the files in it."
            )
        files += inside
    return files


def _read(path: Path, wanted: Wanted, growing: bool) -> Columns:
    suffix = path.suffix.lower()
    if path.is_dir() or _EVENTS in path.name:
        return _events(path, wanted)
    if suffix in _LOGS:
        return _log(path, growing)
    if suffix in _TABLES or not path.is_file():
        return _table(path, growing)
    raise InputError(
        f"{str(path)!r} has the suffix {path.suffix!r}; curves are read from {', '.join((*_TABLES, *_LOGS))} and event "
        "files of TensorBoard.",
        hint="Export the log as csv or JSON lines, or rename the file.",
    )


# Tables ------------------------------------------------------------------------------------------------------------


def _table(path: Path, growing: bool) -> Columns:
    columns = Columns(_label(path), str(path), {})
    plain = path.suffix.lower() in (".csv", ".tsv", ".txt") and path.is_file()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # columns without a name: said below
        cleaned = _cleaned(path, growing, columns) if plain else None
        if cleaned is None:
            table = read_table(path)
        else:
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(folder) / path.name
                copy.write_bytes(cleaned)
                try:
                    table = read_table(copy)
                except InputError as error:
                    message = error.message.replace(repr(str(copy)), repr(str(path)))
                    lines = " (lines are counted without comments)" if columns.notes else ""
                    raise InputError(f"{message}{lines}", hint=error.hint) from None
    for column in table.columns:
        if column.kind == "numeric":
            columns.cells[column.name] = column.values
        else:
            texts = column.as_kind("categorical")[0].values
            columns.cells[column.name] = _decimal_commas(column.name, texts, columns)
    first = next(iter(columns.cells))
    cells = columns.cells[first]
    if first == "column_1" and len(columns.cells) > 1 and cells.dtype != object:
        counted = cells.astype(np.float64)
        if np.array_equal(counted, np.arange(len(cells)) + counted[0]) and counted[0] in (0, 1):
            del columns.cells[first]
            columns.notes.append(f"{path}: the first column has no name and counts the rows; it is left out.")
    return columns


def _cleaned(path: Path, growing: bool, columns: Columns) -> bytes | None:
    """The file without comments; None if it can be read as it stands.

    A growing file is read once, here, without an unfinished last line: another look at it may find half a number.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}.") from error
    lines = data.removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    kept = [line for line in lines if not line.lstrip().startswith(b"#")]
    if len(kept) < len(lines):
        columns.notes.append(f"{path}: {len(lines) - len(kept)} lines of comments (#) are left out.")
    elif not growing:
        return None
    if growing and kept and not kept[-1].endswith((b"\n", b"\r")):
        kept.pop()
    return b"".join(kept)


def _decimal_commas(name: str, texts: Any, columns: Columns) -> Any:
    """Numbers, if every cell is one with a comma for the decimal point; else the texts."""
    present = [text.strip() for text in texts if text is not None]
    if not present or not all(_NUMBER.fullmatch(text) for text in present):
        return texts
    columns.notes.append(f"{columns.source}: the commas in column {name!r} are read as decimal points.")
    return np.array([np.nan if text is None else float(text.strip().replace(",", ".")) for text in texts])


# Logs of events ----------------------------------------------------------------------------------------------------


def _log(path: Path, growing: bool) -> Columns:
    columns = Columns(_label(path), str(path), {})
    try:
        if path.stat().st_size > _MAX_LOG_BYTES:
            raise InputError(f"{str(path)!r} is larger than {_MAX_LOG_BYTES} bytes.", hint="Keep the metrics only.")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text.") from error
    records = _records(path, text, growing, columns)
    flat = [_flat(record) for record in records]
    names = list(dict.fromkeys(name for record in flat for name in record))
    for name in names:
        cells = [record.get(name) for record in flat]
        numeric = all(cell is None or isinstance(cell, float) for cell in cells)
        columns.cells[name] = (
            np.array([np.nan if cell is None else cell for cell in cells], dtype=np.float64)
            if numeric
            else np.array([None if cell is None else _word(cell) for cell in cells], dtype=object)
        )
    if not columns.cells:
        raise InputError(f"{str(path)!r} holds no records with numbers.")
    return columns


def _records(path: Path, text: str, growing: bool, columns: Columns) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".json":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            whole = None  # one object a line, perhaps
        if isinstance(whole, dict) and isinstance(whole.get("log_history"), list):
            columns.notes.append(f"{path}: a trainer_state.json of Hugging Face.")
            whole = whole["log_history"]
        if isinstance(whole, dict) and whole and all(_is_numbers(values) for values in whole.values()):
            if len({len(values) for values in whole.values()}) > 1 or not any(len(v) for v in whole.values()):
                return [
                    {"run": name, "epoch": float(i + 1), "value": value}
                    for name, values in whole.items()
                    for i, value in enumerate(values)
                ]
            return [dict(zip(whole, row)) for row in zip(*whole.values())]
        if isinstance(whole, list):
            if not all(isinstance(record, dict) for record in whole):
                raise InputError(f"{str(path)!r}: a JSON list must hold records (objects) only.")
            return whole
        if whole is not None and not isinstance(whole, dict):
            raise InputError(f"{str(path)!r} holds no records.")
    records, bad = [], 0
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines) and (growing or not text.endswith("\n")):
                columns.notes.append(f"{path}: the last line is not complete and left out.")
                break
            raise InputError(f"{str(path)!r}: line {number} is no JSON: {line!r:.80} ({error}).") from None
        if isinstance(record, dict):
            records.append(record)
        else:
            bad += 1
    if bad:
        columns.notes.append(f"{path}: {bad} lines that are no objects are left out.")
    return records


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(v is None or (isinstance(v, int | float)) for v in values)


def _flat(record: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested objects as "outer/inner"; numbers as float; lists are left out, what is None too."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            if before.count("/") < 4:
                found |= _flat(value, f"{before}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[before + key] = float(value) if abs(value) < 1e300 else float("nan")
        elif isinstance(value, str):
            low = value.strip().lower()
            found[before + key] = float("nan") if low in ("nan", "inf", "-inf", "infinity", "-infinity") else value
    return found


def _word(cell: Any) -> str | None:
    if isinstance(cell, float):
        return None if np.isnan(cell) else f"{cell:g}"
    return str(cell)


def _events(path: Path, wanted: Wanted) -> Columns:
    """One folder or file of TensorBoard's as a log of one run."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    reader = require(module, "Reading event files of TensorBoard")
    if not path.exists():
        raise InputError(f"cannot read {str(path)!r}: there is no such file.")
    log = reader.EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    log.Reload()
    tags = log.Tags()
    points: dict[str, list[tuple[float, float]]] = {
        tag: [(float(event.step), float(event.value)) for event in log.Scalars(tag)] for tag in tags["scalars"]
    }
    util = require("tensorboard.util.tensor_util", "Reading event files of TensorBoard")
    for tag in tags["tensors"]:
        arrays = [(float(event.step), util.make_ndarray(event.tensor_proto)) for event in log.Tensors(tag)]
        if all(array.size == 1 and array.dtype.kind in "fiu" for _, array in arrays):
            points[tag] = [(step, float(array.reshape(-1)[0])) for step, array in arrays]
    if not points:
        raise InputError(f"{str(path)!r} holds no scalars.")
    columns = Columns(_label(path), str(path), {})
    n_rows = sum(map(len, points.values()))
    columns.cells["step"] = np.array([step for rows in points.values() for step, _ in rows])
    start = 0
    for tag, rows in points.items():
        cells = np.full(n_rows, np.nan)
        cells[start : start + len(rows)] = [value for _, value in rows]
        start += len(rows)
        # Lightning logs the epoch as a scalar of its own; steps stay the axis.
        columns.cells[tag if tag != "step" else "step (scalar)"] = cells
    if wanted.epoch is None:
        columns.cells.pop("epoch", None)
    elif wanted.epoch != "step":
        raise ConfigError(f"{path}: event files count steps only, got epoch={wanted.epoch!r}.")
    return columns


# Names and epochs of the curves ------------------------------------------------------------------------------------


def _from_one(curves: Sequence[Curve], columns: Columns) -> list[Curve]:
    """Epochs as they were written (`curves_of` adds 1), or from 1 on where the file counts from 0."""
    if any(len(curve) and curve.epochs[0] < 2 for curve in curves):
        columns.notes.append(f"{columns.source}: epochs are counted from 0; 1 is added.")
        return list(curves)
    return [Curve(c.values, c.epochs - 1, name=c.name, metric=c.metric) for c in curves]


def _label(path: Path) -> str:
    """A name for the only run of a file: that of the file, or of its folder where the file's says nothing."""
    here = path if path.exists() else path.absolute()
    if path.is_dir():
        return here.resolve().name
    stem = path.stem
    return here.resolve().parent.name if stem.lower() in _GENERIC or _EVENTS in path.name else stem


def _with_own_names(parts: Sequence[tuple[Path, list[Curve]]]) -> list[Curve]:
    """Runs of different files that share a name get the file's before it."""
    seen: dict[str, int] = {}
    for _, curves in parts:
        for name in {curve.name for curve in curves}:
            seen[name] = seen.get(name, 0) + 1
    found = []
    for path, curves in parts:
        for curve in curves:
            name = curve.name if seen[curve.name] == 1 else f"{path}:{curve.name}"
            found.append(Curve(curve.values, curve.epochs, name=name, metric=curve.metric))
    return found
