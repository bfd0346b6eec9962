"""A small table in memory, and `as_table`, which makes one of every kind of input.

Kinds of columns: "numeric" (float64), "boolean" (float64 0 and 1) and "date" (float64 seconds since
1970-01-01 UTC, whole to the microsecond for some centuries around now) hold NaN where a value is
missing; "categorical" holds an object array of str, None where a value is missing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from numbers import Complex, Integral, Real
from typing import Any, cast

import narwhals as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_option, suggest
from foreknow.data.cells import KINDS, Kind, interpret, number_text, object_array, parse, seconds, seconds_text


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a table.

    Args:
        name: what the column is called.
        kind: "numeric", "categorical", "boolean" or "date"; the module says what each holds.
        values: shape (n_rows,), float64, or object for categories. Infinity is refused.

    Raises:
        ConfigError: unknown kind.
        InputError: values of another type or with more than one axis, or infinite.
    """

    name: str
    kind: Kind
    values: NDArray[Any]

    def __post_init__(self) -> None:
        check_option("Column", "kind", self.kind, KINDS)
        expected = np.dtype(object) if self.kind == "categorical" else np.dtype(np.float64)
        if self.values.dtype != expected or self.values.ndim != 1:
            raise InputError(
                f"Column {self.name!r}: the values of a {self.kind} column must be {expected} of shape (n_rows,), "
                f"got {self.values.dtype} of shape {self.values.shape}."
            )
        if self.kind != "categorical":
            _refuse_infinity("Column", f"column {self.name!r}", self.values)

    @property
    def missing(self) -> NDArray[np.bool_]:
        """True at the missing cells, shape (n_rows,)."""
        if self.kind == "categorical":
            return np.array([value is None for value in self.values], dtype=bool)
        return np.asarray(np.isnan(self.values))

    def as_kind(self, kind: Kind) -> tuple[Column, NDArray[np.bool_]]:
        """The column as another kind, and where a cell could not be turned (it is missing in the result).

        Any kind becomes text; text becomes what it reads as; booleans are numbers; 0 and 1 are booleans.
        """
        missing = self.missing
        if kind == self.kind:
            return self, np.zeros(len(missing), dtype=bool)
        if self.kind == "categorical":
            values, bad = parse(["" if value is None else value for value in self.values], kind)
            return Column(self.name, kind, values), bad
        if kind == "categorical":
            write = {"numeric": number_text, "boolean": _boolean_text, "date": seconds_text}[self.kind]
            texts = [None if np.isnan(value) else write(value) for value in self.values.tolist()]
            return Column(self.name, kind, object_array(texts)), np.zeros(len(missing), dtype=bool)
        fits = missing.copy()
        if (self.kind, kind) == ("boolean", "numeric"):
            fits[:] = True
        elif (self.kind, kind) == ("numeric", "boolean"):
            fits |= np.isin(self.values, (0.0, 1.0))
        return Column(self.name, kind, np.where(fits, self.values, np.nan)), ~fits

    def __eq__(self, other: object) -> bool:
        """Same name, kind and values; missing cells are equal to each other."""
        if not isinstance(other, Column):
            return NotImplemented
        same = (self.name, self.kind, self.values.shape) == (other.name, other.kind, other.values.shape)
        return same and bool(np.array_equal(self.values, other.values, equal_nan=self.kind != "categorical"))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Table:
    """A table in memory: ordered columns of equal length with distinct names.

    Args:
        columns: one or more columns.
        named: whether the names are the user's own; False for arrays, whose columns are called
            `x0`, `x1`, ... and are matched by position.

    Raises:
        InputError: no columns, unequal lengths, or a name that occurs twice.
    """

    columns: tuple[Column, ...]
    named: bool = True

    def __post_init__(self) -> None:
        if not self.columns:
            raise InputError("Table: a table needs at least one column, got none.")
        refuse_duplicates("Table", self.names)
        lengths = {column.name: len(column.values) for column in self.columns}
        if len(set(lengths.values())) > 1:
            raise InputError(f"Table: all columns must have the same number of rows, got {lengths!r:.300}.")

    @property
    def n_rows(self) -> int:
        return len(self.columns[0].values)

    @property
    def n_columns(self) -> int:
        return len(self.columns)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_columns), as arrays and frames have it: `System` reads it off whatever it is given."""
        return self.n_rows, self.n_columns

    def __len__(self) -> int:
        return self.n_rows

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def schema(self) -> dict[str, Kind]:
        """Name -> kind, in the order of the columns."""
        return {column.name: column.kind for column in self.columns}

    def column(self, name: str) -> Column:
        """The column called `name`.

        Raises:
            InputError: if there is none; the nearest names are suggested.
        """
        for column in self.columns:
            if column.name == name:
                return column
        shown = ", ".join(map(repr, self.names[:20])) + (", ..." if self.n_columns > 20 else "")
        raise InputError(
            f"there is no column {name!r}; the table has {self.n_columns}: {shown}.", hint=suggest(name, self.names)
        )

    def select(self, names: Sequence[str]) -> Table:
        """The table of the columns `names`, in that order."""
        return Table(tuple(self.column(name) for name in names), self.named)

    def drop(self, names: Collection[str]) -> Table:
        """The table without the columns `names`, each of which must be there."""
        gone = {self.column(name).name for name in names}
        return Table(tuple(column for column in self.columns if column.name not in gone), self.named)

    def rows(self, index: ArrayLike | slice) -> Table:
        """The table of the rows `index` (integers, booleans or a slice), in that order."""
        where = index if isinstance(index, slice) else np.asarray(index)
        if isinstance(where, np.ndarray) and where.size == 0:
            where = where.astype(np.intp)
        return Table(tuple(Column(c.name, c.kind, c.values[where]) for c in self.columns), self.named)

    def concat_rows(self, *others: Table) -> Table:
        """The rows of this table, then those of the others.

        Raises:
            InputError: if names, their order, or kinds differ.
        """
        for other in others:
            if other.schema != self.schema or other.names != self.names:
                differing = [pair for pair in zip(self.schema.items(), other.schema.items()) if pair[0] != pair[1]]
                detail = f"first difference: {differing[0][0]} and {differing[0][1]}" if differing else "unequal counts"
                raise InputError(
                    f"concat_rows: tables of {self.n_columns} and {other.n_columns} columns must agree in "
                    f"names, order and kinds ({detail})."
                )
        tables = (self, *others)
        stacked = (
            Column(c.name, c.kind, np.concatenate([table.columns[j].values for table in tables]))
            for j, c in enumerate(self.columns)
        )
        return Table(tuple(stacked), self.named)


def as_table(X: object, *, owner: str, names: Sequence[str] | None = None) -> Table:
    """`X` as a `Table`: a frame, an array, a list of rows, or a table already.

    Frames of pandas, polars, pyarrow and whatever else narwhals reads keep their names and types: text and
    categories are categorical, whatever they spell. An array of numpy text holds what was typed, as a CSV file
    does, so its columns are read by the same rules. A column of Python objects is numeric if every
    non-missing cell is a number, boolean, date or text likewise, and text where these are mixed.
    Durations become seconds.

    Args:
        X: shape (n_rows, n_columns), at least one of each; missing values are allowed, infinity is not.
        owner: who asks, for the messages.
        names: names of the columns; default the frame's own, or `x0`, `x1`, ... for arrays.

    Raises:
        InputError: wrong axes, no rows or columns, ragged, sparse, complex, infinite, nested columns, duplicate names.
        ConfigError: a cell that is neither text nor a number (also a TypeError).
    """
    if isinstance(X, Table):
        table = X
    elif hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise InputError(
            f"{owner}: X is a sparse matrix; sparse data is not supported, a dense array is required.",
            hint="Use X.toarray().",
        )
    else:
        from_frame = _from_frame(owner, X)
        table = _from_array(owner, X) if from_frame is None else from_frame
    if names is not None:
        if len(names) != table.n_columns:
            raise InputError(f"{owner}: got {len(names)} name(s) for {table.n_columns} column(s).")
        refuse_duplicates(owner, names)
        table = Table(tuple(Column(str(n), c.kind, c.values) for n, c in zip(names, table.columns)))
    _refuse_empty(owner, (table.n_rows, table.n_columns))
    return table


def refuse_duplicates(owner: str, names: Sequence[object]) -> None:
    """Raise InputError if a name occurs twice."""
    twice = sorted({str(name) for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise InputError(
            f"{owner}: column names must be distinct, got more than one of {', '.join(map(repr, twice))}.",
            hint="Rename or remove the repeated columns.",
        )


def _from_frame(owner: str, X: object) -> Table | None:
    try:
        frame: Any = nw.from_native(cast(Any, X), allow_series=True, pass_through=True)
        if isinstance(frame, nw.LazyFrame):
            frame = frame.collect()
    except nw.exceptions.DuplicateError as error:
        raise InputError(
            f"{owner}: column names must be distinct. {error}", hint="Rename or remove the repeated columns."
        ) from error
    if isinstance(frame, nw.Series):
        raise InputError(
            f"{owner}: X must be a table, got a single series. Reshape your data.", hint="Pass a frame of one column."
        )
    if not isinstance(frame, nw.DataFrame):
        return None
    names: list[Any] = list(frame.columns)
    _refuse_empty(owner, frame.shape)
    named = names != list(range(len(names)))  # pandas numbers the columns of an array it was given
    texts = [str(name) for name in names] if named else _default_names(len(names))
    refuse_duplicates(owner, texts)
    return Table(tuple(_from_series(owner, text, frame[:, j]) for j, text in enumerate(texts)), named)


def _from_series(owner: str, name: str, series: nw.Series[Any]) -> Column:
    array = None if series.dtype.is_nested() else series.to_numpy()
    if array is None or (
        array.dtype == object and any(isinstance(cell, list | tuple | set | dict | np.ndarray) for cell in array)
    ):
        raise InputError(
            f"{owner}: column {name!r} holds nested values ({series.dtype}); a cell must be a single value.",
            hint="Unnest or explode the column first.",
        )
    text = series.dtype == nw.String or series.dtype == nw.Categorical or series.dtype == nw.Enum
    missing = series.is_null().to_numpy()
    if text and not missing.all():
        levels: dict[object, str] = {}
        cells = zip(series.to_list(), missing.tolist())
        values = [None if gone else levels.setdefault(cell, _as_text(cell)) for cell, gone in cells]
        return Column(name, "categorical", object_array(values))
    # A column with no value at all has no kind of its own; empty text in CSV gives the same.
    array = np.full(len(missing), np.nan) if missing.all() else array
    return _from_vector(owner, name, f"column {name!r}", array)


def _from_array(owner: str, X: object) -> Table:
    if isinstance(X, np.ma.MaskedArray):
        raise InputError(f"{owner}: X is a masked array, which is not supported.", hint="Use X.filled(np.nan).")
    if isinstance(X, list | tuple):
        columns = _columns_of_rows(owner, X)
    else:
        array = np.asarray(X)
        _refuse_axes(owner, array.shape)
        _refuse_empty(owner, array.shape)
        columns = list(array.T)
    names = _default_names(len(columns))
    return Table(tuple(_from_vector(owner, names[j], f"column {j}", c) for j, c in enumerate(columns)), named=False)


def _columns_of_rows(owner: str, rows: Sequence[Any]) -> list[NDArray[Any]]:
    if not rows:
        _refuse_empty(owner, (0, 0))
    if isinstance(rows[0], str | bytes | dict) or not hasattr(rows[0], "__len__"):
        _refuse_axes(owner, (len(rows),))
    width = len(rows[0])
    for i, row in enumerate(rows):
        found = len(row) if hasattr(row, "__len__") and not isinstance(row, str | bytes | dict) else 1
        if found != width:
            raise InputError(
                f"{owner}: the rows of X must be equally long; row 0 has {width} cell(s), row {i} {found}."
            )
    _refuse_empty(owner, (len(rows), width))
    return [object_array(column) for column in zip(*rows)]


def _from_vector(owner: str, name: str, label: str, array: NDArray[Any]) -> Column:
    """A column of a one-axis array; `label` is what messages call it."""
    kind: Kind = "numeric"
    code = array.dtype.kind
    if code in "biuf":
        kind = "boolean" if code == "b" else "numeric"
        with np.errstate(over="ignore"):  # a long double beyond float64 becomes infinite and is refused below
            values = array.astype(np.float64)
    elif code in "Mm":
        kind = "date" if code == "M" else "numeric"
        ticks = array.astype(f"{code}8[us]")
        values = np.where(np.isnat(ticks), np.nan, ticks.astype(np.int64) / 1e6)
    elif code == "U":
        found, values = interpret(array.tolist())
        kind = found or "numeric"
    elif code == "c":
        raise InputError(f"{owner}: Complex data not supported; {label} has dtype {array.dtype}.")
    elif code in "OT":
        kind, values = _from_objects(owner, label, array.tolist())
    else:
        raise _unconvertible(label, 0, array[0] if len(array) else array.dtype, owner)
    if kind != "categorical":
        _refuse_infinity(owner, label, values)
    return Column(name, kind, values)


def _from_objects(owner: str, label: str, cells: list[Any]) -> tuple[Kind, NDArray[Any]]:
    kind_of = {t: _kind_of_type(t) for t in set(map(type, cells))}
    missing = [kind_of[type(c)] == "missing" or (kind_of[type(c)] == "numeric" and c != c) for c in cells]
    kinds = {kind_of[type(cell)] for cell, gone in zip(cells, missing) if not gone}
    for bad in ("complex", "unknown"):
        if bad in kinds:
            row = next(i for i, cell in enumerate(cells) if kind_of[type(cell)] == bad)
            if bad == "complex":
                raise InputError(f"{owner}: Complex data not supported; {label} has {cells[row]!r} at row {row}.")
            raise _unconvertible(label, row, cells[row], owner)
    convert: Any
    if kinds <= {"numeric", "boolean"}:
        kind, convert = ("boolean" if kinds == {"boolean"} else "numeric"), _as_float
    elif kinds == {"date"}:
        kind, convert = "date", seconds
    else:
        return "categorical", object_array([None if gone else _as_text(c) for c, gone in zip(cells, missing)])
    values = [np.nan if gone else convert(cell) for cell, gone in zip(cells, missing)]
    return cast(Kind, kind), np.array(values, dtype=np.float64)


def _kind_of_type(t: type) -> str:
    if t is type(None) or t.__name__ in ("NAType", "NaTType"):  # pandas' own; NaTType passes for a datetime
        return "missing"
    if issubclass(t, bool | np.bool_):
        return "boolean"
    if issubclass(t, Real | Decimal):
        return "numeric"
    if issubclass(t, str):
        return "text"
    if issubclass(t, date | np.datetime64):
        return "date"
    return "complex" if issubclass(t, Complex) else "unknown"


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a Python int beyond 1.8e308; the caller refuses infinity with row and column
        return np.inf


def _as_text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return _boolean_text(float(value))
    if isinstance(value, Real) and not isinstance(value, Integral):
        return number_text(float(value))
    return str(value)


def _boolean_text(value: float) -> str:
    return "true" if value else "false"


def _default_names(n: int) -> list[str]:
    return [f"x{j}" for j in range(n)]


def _unconvertible(label: str, row: int, cell: object, owner: str) -> ConfigError:
    return ConfigError(
        f"{owner}: {label}, row {row}: argument must be a string or a real number, not "
        f"{type(cell).__name__!r} ({cell!r:.60})."
    )


def _refuse_infinity(owner: str, label: str, values: NDArray[np.float64]) -> None:
    bad = np.isinf(values)
    if bad.any():
        raise InputError(
            f"{owner}: X contains infinity, first at row {int(np.argmax(bad))}, {label} ({int(bad.sum())} cell(s)).",
            hint="Remove these cells or mark them as missing (NaN).",
        )


def _refuse_axes(owner: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise InputError(
            f"{owner}: X must have two axes (rows, columns), got shape {shape}."
            + (" Reshape your data." if len(shape) < 2 else ""),
            hint="For one column use X.reshape(-1, 1), for one row X.reshape(1, -1)." if len(shape) == 1 else "",
        )


def _refuse_empty(owner: str, shape: tuple[int, ...]) -> None:
    for count, what in ((shape[0], "sample"), (shape[1], "feature")):
        if count < 1:
            raise InputError(f"{owner}: Found array with 0 {what}(s) (shape={shape}) while a minimum of 1 is required.")
