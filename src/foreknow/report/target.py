"""The column to predict: which task it is, its classes or numbers, and what makes it unusable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_option
from foreknow.data.table import Column, Table

TASKS = ("auto", "classification", "regression")
MIN_LABELLED = 10
"""Fewer known targets than this cannot be cross-validated to any purpose."""
MAX_CLASSES = 100
MAX_CODED_CLASSES = 20
MAX_CODED_SHARE = 0.1
"""A column of whole numbers is taken for class codes if it has at most `MAX_CODED_CLASSES` distinct ones, and these
are two or at most `MAX_CODED_SHARE` of the rows; otherwise for a quantity."""
MAX_SIZE = 1e100
"""Numbers beyond this are refused as targets: their squared errors would overflow."""
RULE = (
    f"text, true/false, two whole numbers, and up to {MAX_CODED_CLASSES} whole numbers that make at most "
    f"{MAX_CODED_SHARE:.0%} of the rows are classes; other numbers are a quantity (regression)"
)
"""What "auto" does, for the help and the report."""


@dataclass(frozen=True)
class Target:
    """A target column, of classes or of numbers.

    Args:
        name: of its column.
        task: "classification" or "regression".
        y: of each row of the table, shape (n_rows,): class codes, -1 where the target is empty; or numbers, NaN there.
        classes: texts of the classes, in the order of numbers or of the alphabet; empty for regression.
        note: how the column was read, where that needs saying; else empty.
    """

    name: str
    task: str
    y: NDArray[Any]
    classes: tuple[str, ...] = ()
    note: str = ""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether the target of a row is known, shape (n_rows,)."""
        return np.asarray(~np.isnan(self.y) if self.task == "regression" else self.y >= 0)

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Positions of the rows whose target is known."""
        return np.flatnonzero(self.known)

    @property
    def empty(self) -> NDArray[np.int64]:
        """Positions of the rows whose target is empty."""
        return np.flatnonzero(~self.known)


def read_target(table: Table, name: str, task: str = "auto") -> Target:
    """The classes or numbers of the column `name`.

    Args:
        table: all rows, those with an empty target included.
        name: the target column.
        task: "auto" goes by `RULE`; "classification" takes any column for classes, "regression" numbers only.

    Raises:
        ConfigError: another `task`, a regression of what are no numbers, or dates.
        InputError: no such column, no other column, too few known targets, one value only, an identifier, more than
            `MAX_CLASSES` classes, or numbers beyond `MAX_SIZE`.
    """
    check_option("predict", "task", task, TASKS)
    column = table.column(name)
    if table.n_columns == 1:
        raise InputError(
            f"the table has no column besides the target {name!r}: there is nothing to predict it from.",
            hint="Check the separator of the file, or add columns.",
        )
    labelled = ~column.missing
    n = int(labelled.sum())
    if n < MIN_LABELLED:
        found = "no row has" if n == 0 else f"only {n} row(s) have"
        raise InputError(
            f"{found} a value in the target column {name!r}; at least {MIN_LABELLED} of the {table.n_rows} must.",
            hint="Rows without a target are the ones to predict. Is this the right column?",
        )
    values = column.values[labelled]
    distinct = sorted(set(values.tolist()))
    if len(distinct) == 1:
        what = "value" if task == "regression" else "class"
        raise InputError(
            f"the target column {name!r} holds one {what} only ({_texts(column, distinct)[0]!r} in all {n} rows that "
            "have a value); at least two are needed.",
            hint="Is this the right column?",
        )
    if task == "regression" or (task == "auto" and _is_quantity(column, distinct, n)):
        return _quantity(column, distinct, n, task)
    if 2 * len(distinct) > n:
        raise InputError(
            f"the target column {name!r} looks like an identifier: {len(distinct)} different values in {n} rows.",
            hint="Choose a column whose values repeat"
            + (", or predict its numbers with --task regression." if column.kind == "numeric" else "."),
        )
    if len(distinct) > MAX_CLASSES:
        raise InputError(
            f"the target column {name!r} has {len(distinct)} classes; at most {MAX_CLASSES} can be predicted.",
            hint="Merge the rare ones into one class"
            + (", or predict the numbers with --task regression." if column.kind == "numeric" else "."),
        )
    codes = np.full(table.n_rows, -1, dtype=np.int64)
    code_of = {value: code for code, value in enumerate(distinct)}
    codes[labelled] = [code_of[value] for value in values.tolist()]
    return Target(name, "classification", codes, tuple(_texts(column, distinct)), _note(column, task, len(distinct)))


def _is_quantity(column: Column, distinct: list[float], n: int) -> bool:
    if column.kind in ("categorical", "boolean"):
        return False
    whole = column.kind == "numeric" and all(value == round(value) for value in distinct)
    few = len(distinct) == 2 or len(distinct) <= min(MAX_CODED_CLASSES, MAX_CODED_SHARE * n)
    return not (whole and few)


def _quantity(column: Column, distinct: list[float], n: int, task: str) -> Target:
    if column.kind == "date":
        raise ConfigError(
            f"the target column {column.name!r} holds dates, which can be predicted neither as classes nor as numbers.",
            hint="Turn it into a number, for instance days since a fixed day; or say --task classification.",
        )
    if column.kind != "numeric":
        detail = ""
        if column.kind == "categorical":
            unfit = column.as_kind("numeric")[1]
            detail = f": {int(unfit.sum())} of {n} values are not numbers, the first is "
            detail += f"{column.values[np.argmax(unfit)]!r:.60} in row {int(np.argmax(unfit)) + 1}"
        raise ConfigError(
            f"task='regression' needs a target of numbers; {column.name!r} is {column.kind}{detail}.",
            hint="Correct these cells or leave them empty; or use --task classification.",
        )
    largest = max(abs(distinct[0]), abs(distinct[-1]))
    if largest > MAX_SIZE:
        raise InputError(
            f"the target column {column.name!r} holds numbers up to {largest:.3g}; at most {MAX_SIZE:g} is allowed, "
            "as errors are squared.",
            hint="Use another unit, or the logarithm.",
        )
    note = f"its {len(distinct)} different numbers in {n} rows were taken for a quantity"
    return Target(
        column.name,
        "regression",
        column.values,
        note=f"{note}, as asked" if task == "regression" else f"{note}: {RULE}",
    )


def _texts(column: Column, distinct: list[float]) -> list[str]:
    values = np.array(distinct, dtype=column.values.dtype)
    return [str(text) for text in Column(column.name, column.kind, values).as_kind("categorical")[0].values]


def _note(column: Column, task: str, n_classes: int) -> str:
    if column.kind == "boolean":
        return "its two values were read as true and false"
    if column.kind == "numeric" and task == "auto":
        return f"its {n_classes} different whole numbers were taken for class codes: {RULE}"
    return f"its {column.kind} values were taken for classes, as asked" if column.kind != "categorical" else ""
