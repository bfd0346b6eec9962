"""The column to predict: which task it is, its classes, and what makes it unusable."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Target:
    """A classification target.

    Args:
        name: of its column.
        classes: texts of the classes, in the order of numbers or of the alphabet.
        codes: class of each row of the table, shape (n_rows,); -1 where the target is empty.
        note: how the column was read, where that needs saying; else empty.
    """

    name: str
    classes: tuple[str, ...]
    codes: NDArray[np.int64]
    note: str = ""

    @property
    def labelled(self) -> NDArray[np.int64]:
        """Positions of the rows whose target is known."""
        return np.flatnonzero(self.codes >= 0)

    @property
    def empty(self) -> NDArray[np.int64]:
        """Positions of the rows whose target is empty."""
        return np.flatnonzero(self.codes < 0)


def read_target(table: Table, name: str, task: str = "auto") -> Target:
    """The classes of the column `name`.

    Args:
        table: all rows, those with an empty target included.
        name: the target column.
        task: "auto" takes text, truth values and few whole numbers for classes (`MAX_CODED_CLASSES`,
            `MAX_CODED_SHARE`) and everything else for a quantity; "classification" takes any column for classes.

    Raises:
        ConfigError: another `task`, or a quantity, which cannot be predicted yet.
        InputError: no such column, no other column, too few known targets, one class only, an identifier, or
            more than `MAX_CLASSES` classes.
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
        raise InputError(
            f"the target column {name!r} holds one class only ({_texts(column, distinct)[0]!r} in all {n} rows that "
            "have a value); at least two are needed.",
            hint="Is this the right column?",
        )
    if task == "regression" or (task == "auto" and _is_quantity(column, distinct, n)):
        _refuse_quantity(column, distinct, n, task)
    if 2 * len(distinct) > n:
        raise InputError(
            f"the target column {name!r} looks like an identifier: {len(distinct)} different values in {n} rows.",
            hint="Choose a column whose values repeat.",
        )
    if len(distinct) > MAX_CLASSES:
        raise InputError(
            f"the target column {name!r} has {len(distinct)} classes; at most {MAX_CLASSES} can be predicted.",
            hint="Merge the rare ones into one class.",
        )
    codes = np.full(table.n_rows, -1, dtype=np.int64)
    code_of = {value: code for code, value in enumerate(distinct)}
    codes[labelled] = [code_of[value] for value in values.tolist()]
    return Target(name, tuple(_texts(column, distinct)), codes, _note(column, task, len(distinct)))


def _is_quantity(column: Column, distinct: list[float], n: int) -> bool:
    if column.kind in ("categorical", "boolean"):
        return False
    whole = column.kind == "numeric" and all(value == round(value) for value in distinct)
    few = len(distinct) == 2 or len(distinct) <= min(MAX_CODED_CLASSES, MAX_CODED_SHARE * n)
    return not (whole and few)


def _refuse_quantity(column: Column, distinct: list[float], n: int, task: str) -> None:
    if column.kind in ("categorical", "boolean"):
        raise ConfigError(
            f"task='regression' needs a target of numbers; {column.name!r} is {column.kind}.",
            hint="Use --task classification.",
        )
    what = "dates" if column.kind == "date" else "numbers"
    found = "" if task == "regression" else f" ({len(distinct)} different {what} in {n} rows look like a quantity)"
    raise ConfigError(
        f"the target column {column.name!r} asks for regression{found}, which `predict` cannot do yet.",
        hint=f"If the {what} are classes, say so: --task classification. Or sort them into ranges first.",
    )


def _texts(column: Column, distinct: list[float]) -> list[str]:
    values = np.array(distinct, dtype=column.values.dtype)
    return [str(text) for text in Column(column.name, column.kind, values).as_kind("categorical")[0].values]


def _note(column: Column, task: str, n_classes: int) -> str:
    if column.kind == "boolean":
        return "its two values were read as true and false"
    if column.kind == "numeric" and task == "auto":
        return f"its {n_classes} different whole numbers were taken for class codes"
    return f"its {column.kind} values were taken for classes, as asked" if column.kind != "categorical" else ""
