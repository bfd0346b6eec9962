"""Where the data of a price come from, and how they are split: nested training sets, one test set a seed.

Any object with the attributes of `Source` will do, for images, runs or simulations; `TableSource` is the one for
tables. For every seed a source shuffles its units once: the first ones are the test set, the training set of size n
is the next n, so that a larger size contains the smaller ones and the rows in between can be coded before they are
learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.files import hash_bytes
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_real
from foreknow.data.readers import read_table
from foreknow.data.table import Table, as_table
from foreknow.report.baselines import as_numbers
from foreknow.report.target import Target, read_target


class Source(Protocol):
    """Data that can be split: what `price` needs of them.

    `content_hash` is a hash of the contents, `n_max` the largest training size, `n_min` the smallest, `task` one of
    "classification", "regression", "none", and `describe` what the report should say. `split` returns whatever the
    arms' `run` takes.
    """

    name: str
    task: str
    unit: str
    content_hash: str
    n_min: int
    n_max: int

    def split(self, size: int, seed: int, following: int = 0) -> Any: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Rows:
    """Rows of a table: as they are, as `as_numbers` has them, and their targets (class codes or numbers)."""

    table: Table
    matrix: NDArray[np.float64]
    y: NDArray[Any]


@dataclass(frozen=True)
class Split:
    """One split of a table.

    Args:
        task: "classification" or "regression".
        train, test: rows.
        following: the rows that the next size learns from beyond these; None at the largest.
        categorical: which columns of the matrices are categories, shape (n_columns,).
        n_classes: 0 for numbers.
        scale: of the numbers: their standard deviation over the whole table, 1 for classes.
    """

    task: str
    train: Rows
    test: Rows
    following: Rows | None
    categorical: NDArray[np.bool_]
    n_classes: int = 0
    scale: float = 1.0


MIN_PER_CLASS = 3
"""Rows of a class, at the least: one to learn from, one to test, one to spare; smaller classes are left out."""


class TableSource:
    """A table with a column to predict.

    The first rows to learn from hold one of each class, the others follow in shuffled order with the classes in
    proportion. With `groups`, all rows of a group lie on one side of the split.

    Args:
        data: a table, a data frame, or the path of a csv or parquet file.
        target: the column to predict.
        name: shown in reports; by default the file's, or "table".
        task: "auto", "classification" or "regression"; see `foreknow.report.target.read_target`.
        groups: a column that names the source of each row (patient, plot, day); it is not learnt from.
        test_share: of the rows, or of the groups.
        max_test: most test rows.

    Raises:
        InputError: the target or the groups cannot be used, or there are too few rows.
    """

    unit = "rows"

    def __init__(
        self,
        data: object,
        target: str,
        *,
        name: str = "",
        task: str = "auto",
        groups: str | None = None,
        test_share: float = 0.4,
        max_test: int = 1000,
    ) -> None:
        if not 0 < check_real("TableSource", "test_share", test_share) < 1:
            raise ConfigError(f"TableSource: test_share must lie between 0 and 1, got {test_share}.")
        check_int("TableSource", "max_test", max_test, low=10)
        is_file = isinstance(data, str | Path)
        table = read_table(data) if isinstance(data, str | Path) else as_table(data, owner="price")
        self.name = name or (Path(str(data)).name if is_file else "table")
        known = read_target(table, target, task)
        self.task, self.target, self.classes = known.task, known.name, known.classes
        self._groups = None if groups is None else _group_codes(table, groups)
        rows = self._usable(known)
        self._y, codes = _dense(known, rows)
        self.classes = tuple(self.classes[code] for code in codes)
        self._features = table.drop([target] if groups is None else [target, groups]).rows(rows)
        if self._groups is not None:
            self._groups = np.unique(self._groups[rows], return_inverse=True)[1]
        self._matrix, self._categorical = as_numbers(self._features)
        self._scale = 1.0 if self.classes else float(self._y.std())
        if not self._scale > 0:
            raise InputError(f"the target {target!r} has the same value in every row: there is nothing to learn.")
        self.test_share, self._max_test = test_share, max_test
        self._last: tuple[int, NDArray[np.int64], NDArray[np.int64]] | None = None
        self.n_left_out = known.y.size - len(rows)
        self.n_min = max(8, 2 * len(self.classes))
        self.n_max = min(self._n_pool(seed) for seed in range(3)) if self._groups is not None else self._n_pool(0)
        if self.n_max < self.n_min:
            raise InputError(
                f"{self.name}: {len(rows)} usable rows leave {self.n_max} to learn from; {self.n_min} are needed.",
                hint="Bring more rows, or a smaller test_share.",
            )
        self.content_hash = self._hash(groups)

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """Training rows, test rows, and the `following` rows that come next in the order of this seed."""
        check_int("TableSource.split", "size", size, low=self.n_min)
        test, pool = self._order(seed)
        if size + following > len(pool):
            raise InputError(
                f"{self.name}: {size + following} rows to learn from were asked for, {len(pool)} are not test rows."
            )
        later = self._rows(pool[size : size + following]) if following else None
        return Split(
            self.task,
            self._rows(pool[:size]),
            self._rows(test),
            later,
            self._categorical,
            len(self.classes),
            self._scale,
        )

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "target": self.target,
            "task": self.task,
            "n_rows": len(self._y),
            "n_columns": self._features.n_columns,
            "n_classes": len(self.classes),
            "n_left_out": self.n_left_out,
            "hash": self.content_hash,
        }

    def _rows(self, index: NDArray[np.int64]) -> Rows:
        return Rows(self._features.rows(index), self._matrix[index], self._y[index])

    def _usable(self, known: Target) -> NDArray[np.int64]:
        """Rows whose target is known, without classes of fewer than `MIN_PER_CLASS` rows."""
        rows = known.labelled
        if known.classes:
            counts = np.bincount(known.y[rows], minlength=len(known.classes))
            rows = rows[counts[known.y[rows]] >= MIN_PER_CLASS]
            if len(np.unique(known.y[rows])) < 2:
                raise InputError(
                    f"the target {known.name!r} has fewer than two classes of at least {MIN_PER_CLASS} rows."
                )
        return rows

    def _order(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Test rows, and the other rows in the order in which they are learnt from."""
        if self._last is None or self._last[0] != seed:
            self._last = seed, *self._shuffled(seed)
        return self._last[1:]

    def _shuffled(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = numpy_stream(seed, "price", "split").permutation(len(self._y))
        if self._groups is not None:
            names = numpy_stream(seed, "price", "groups").permutation(self._groups.max() + 1)
            is_test = np.isin(self._groups, names[: max(1, round(self.test_share * len(names)))])
            test, pool = order[is_test[order]], order[~is_test[order]]
        else:
            ranked = self._in_proportion(order)
            is_test = np.zeros(len(order), dtype=bool)
            n_test = max(1, round(self.test_share * len(order)))
            is_test[np.linspace(0, len(order) - 1, n_test).round().astype(int)] = True
            test, pool = ranked[is_test], ranked[~is_test]
            test = numpy_stream(seed, "price", "test").permutation(test)
        return test[: self._max_test], self._one_of_each(self._in_proportion(pool))

    def _in_proportion(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of a shuffled order, such that every stretch holds the classes in proportion."""
        if not self.classes:
            return order
        position = np.empty(len(order))
        for code in range(len(self.classes)):
            own = np.flatnonzero(self._y[order] == code)
            position[own] = (np.arange(len(own)) + 0.5) / max(len(own), 1)
        return order[np.argsort(position, kind="stable")]

    def _one_of_each(self, pool: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows with the first one of every class in front."""
        if not self.classes:
            return pool
        first = np.sort(np.unique(self._y[pool], return_index=True)[1])
        return np.concatenate([pool[first], np.delete(pool, first)])

    def _n_pool(self, seed: int) -> int:
        return len(self._order(seed)[1])

    def _hash(self, groups: str | None) -> str:
        parts = [self.target, self.task, repr(self.classes), groups or "", repr(self.test_share), repr(self._max_test)]
        parts += [part for column in self._features.columns for part in (column.name, column.kind)]
        arrays = [column.values for column in self._features.columns] + [self._y]
        arrays += [] if self._groups is None else [self._groups]
        return hash_bytes(*(part.encode("utf-8", "surrogatepass") for part in parts), *map(_as_bytes, arrays))


def as_sources(data: object, *, target: str | None, task: str, groups: str | None = None) -> list[Source]:
    """What a caller gave as data, as sources: a source, a table with `target`, a pair (X, y), or a mapping of these.

    Raises:
        InputError: it is none of these, or there is no data.
    """
    if isinstance(data, Mapping):
        if not data:
            raise InputError("price: the mapping of data is empty.", hint="Give at least one table.")
        named = []
        for name, one in data.items():
            (source,) = as_sources(one, target=target, task=task, groups=groups)
            if source.name != name:
                source = copy(source)
                source.name = str(name)
            named.append(source)
        return named
    if hasattr(data, "split") and hasattr(data, "content_hash"):
        return [data]  # type: ignore[list-item]
    if isinstance(data, tuple) and len(data) == 2:
        X, y = data
        table = as_table(X, owner="price")
        if table.n_rows != len(y):
            raise InputError(f"price: X has {table.n_rows} rows, y has {len(y)}.")
        name = target or "target"
        while name in table.names:
            name += "_"
        (column,) = as_table(np.asarray(y)[:, None], owner="price", names=[name]).columns
        return [TableSource(Table((*table.columns, column)), name, task=task, groups=groups)]
    if target is None:
        raise InputError("price: which column is to be predicted?", hint="Give target='NAME' (--target NAME).")
    return [TableSource(data, target, task=task, groups=groups)]


def builtin_tables(task: str) -> dict[str, tuple[Any, Any]]:
    """A real table that comes with scikit-learn, for a first look at a price: one, as two or three are no units."""
    from sklearn import datasets

    if task == "regression":
        return {"diabetes": datasets.load_diabetes(return_X_y=True)}
    return {"breast cancer": datasets.load_breast_cancer(return_X_y=True)}


def _group_codes(table: Table, name: str) -> NDArray[np.int64]:
    values = [repr(value) for value in table.column(name).values.tolist()]
    codes = np.unique(values, return_inverse=True)[1].astype(np.int64)
    if codes.max() < 1:
        raise InputError(f"the column {name!r} names one group only; at least two are needed to split by group.")
    return codes


def _dense(known: Target, rows: NDArray[np.int64]) -> tuple[NDArray[Any], list[int]]:
    """Targets of the rows; of classes, codes without gaps and the old code of each."""
    if not known.classes:
        return np.asarray(known.y[rows], dtype=np.float64), []
    old, codes = np.unique(known.y[rows], return_inverse=True)
    return codes.astype(np.int64), [int(code) for code in old]


def _as_bytes(values: NDArray[Any]) -> bytes:
    if values.dtype != object:
        return np.ascontiguousarray(values).tobytes()
    return "\x1f".join(map(repr, values.tolist())).encode("utf-8", "surrogatepass")
