"""Which task a target column asks for, and what makes it unusable."""

import numpy as np
import pytest

from foreknow.common.errors import ConfigError, InputError
from foreknow.data.table import Column, Table
from foreknow.report.target import MAX_CODED_CLASSES, MAX_CODED_SHARE, RULE, read_target


def table_of(kind, values):
    values = np.array(values, dtype=object if kind == "categorical" else float)
    return Table((Column("x", "numeric", np.arange(len(values), dtype=float)), Column("y", kind, values)))


@pytest.mark.parametrize(
    ("kind", "values", "classes"),
    [
        ("categorical", ["b", "a", None] * 10, ("a", "b")),
        ("boolean", [1, 0, np.nan] * 10, ("false", "true")),
        ("numeric", [10, 2, np.nan] * 30, ("2", "10")),
        ("numeric", [3, 7] * 5, ("3", "7")),  # two whole numbers are classes however few the rows
        ("numeric", list(range(20)) * 10, tuple(map(str, range(20)))),
    ],
)
def test_classes_are_found_in_their_order(kind, values, classes):
    target = read_target(table_of(kind, values), "y")
    assert target.classes == classes
    assert len(target.labelled) + len(target.empty) == len(values)
    first = np.array(values, dtype=object)[target.labelled[0]]
    assert float(first) == float(target.classes[target.y[target.labelled[0]]]) if kind == "numeric" else True
    assert target.task == "classification" and (target.y[target.empty] == -1).all()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("numeric", [0.5, 1.5] * 20),  # not whole
        ("numeric", list(range(21)) * 10),  # too many
        ("numeric", [1, 2, 3] * 9),  # three in 27 rows: more than a tenth
        ("numeric", [0.5, np.nan, 2.0] * 20),
    ],
)
def test_other_numbers_are_a_quantity_unless_called_classes(kind, values):
    table = table_of(kind, values)
    for task in ("auto", "regression"):
        target = read_target(table, "y", task)
        assert (target.task, target.classes) == ("regression", ())
        np.testing.assert_array_equal(target.y, values)
        np.testing.assert_array_equal(target.labelled, np.flatnonzero(~np.isnan(values)))
        assert len(target.labelled) + len(target.empty) == len(values)
        assert "taken for a quantity" in target.note and (RULE in target.note) == (task == "auto")
    known = {value for value in values if value == value}
    assert len(read_target(table, "y", "classification").classes) == len(known)


def test_few_whole_numbers_are_a_quantity_if_called_so():
    target = read_target(table_of("numeric", [3, 7] * 5), "y", "regression")
    assert target.task == "regression" and target.y.tolist() == [3, 7] * 5


def test_the_rule_names_the_bounds():
    assert f"{MAX_CODED_CLASSES} whole numbers" in RULE and f"{MAX_CODED_SHARE:.0%}" in RULE


@pytest.mark.parametrize(
    ("kind", "values", "task", "error", "says"),
    [
        ("categorical", [None] * 20, "auto", InputError, "no row has a value"),
        ("numeric", [np.nan] * 20, "auto", InputError, "no row has a value"),
        ("categorical", ["a", "b"] * 4 + [None] * 9, "auto", InputError, "only 8 row"),
        ("categorical", ["a"] * 20, "auto", InputError, "one class only"),
        ("numeric", [4.0] * 20, "regression", InputError, r"one value only \('4' in all 20 rows"),
        ("numeric", [4.0, 1e101] * 10, "regression", InputError, "at most 1e\\+100 is allowed"),
        ("date", [86400.0, 0.0] * 20, "auto", ConfigError, "holds dates"),
        ("categorical", ["1", "2.5", "many"] * 10, "regression", ConfigError, "10 of 30 values .* 'many' in row 3"),
        ("categorical", [f"id{i}" for i in range(20)], "auto", InputError, "identifier: 20 different values in 20"),
        ("numeric", [i / 7 for i in range(20)], "classification", InputError, "identifier"),
        ("categorical", [f"c{i}" for i in range(101)] * 3, "auto", InputError, "101 classes; at most 100"),
        ("categorical", ["a", "b"] * 10, "regression", ConfigError, "needs a target of numbers"),
        ("categorical", ["a", "b"] * 10, "clasification", ConfigError, "task must be one of"),
    ],
)
def test_unusable_targets(kind, values, task, error, says):
    with pytest.raises(error, match=says):
        read_target(table_of(kind, values), "y", task)


def test_no_such_column_and_no_other_column():
    table = table_of("categorical", ["a", "b"] * 10)
    with pytest.raises(InputError, match="no column 'yy'") as error:
        read_target(table, "yy")
    assert "'y'" in error.value.hint
    with pytest.raises(InputError, match="no column besides the target"):
        read_target(table.select(["y"]), "y")
