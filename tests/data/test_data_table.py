from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from foreknow.common.errors import ConfigError, InputError
from foreknow.data import Column, Table, as_table

NAN = float("nan")


def table(**columns: object) -> Table:
    return Table(tuple(as_table(pd.DataFrame({k: v}), owner="test").columns[0] for k, v in columns.items()))


def one(values: object) -> Column:
    """The column that a numpy column of these Python objects becomes."""
    array = np.empty((len(values), 1), dtype=object)  # type: ignore[arg-type]
    array[:, 0] = values
    return as_table(array, owner="Owner").columns[0]


def test_numpy_arrays_become_unnamed_numeric_columns():
    X = np.array([[1, 2.5], [NAN, 4]], order="F")
    result = as_table(X, owner="Owner")
    assert result.names == ("x0", "x1") and not result.named and result.n_rows == 2
    assert result.shape == X.shape and len(result.rows([1])) == 1
    assert result.schema == {"x0": "numeric", "x1": "numeric"}
    X[:] = 0
    np.testing.assert_array_equal(result.column("x0").values, [1, NAN])


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.float16, np.float32, np.longdouble])
def test_every_real_dtype_is_numeric(dtype):
    column = as_table(np.array([[1], [2]], dtype=dtype), owner="Owner").columns[0]
    assert column.kind == "numeric" and column.values.tolist() == [1.0, 2.0]


def test_boolean_and_datetime_arrays():
    assert as_table(np.array([[True], [False]]), owner="o").columns[0].kind == "boolean"
    dates = as_table(np.array([["1970-01-02"], ["NaT"]], dtype="datetime64[D]"), owner="o").columns[0]
    assert dates.kind == "date"
    np.testing.assert_array_equal(dates.values, [86400, NAN])
    spans = as_table(np.array([[1500], [0]], dtype="timedelta64[ms]"), owner="o").columns[0]
    assert spans.kind == "numeric" and spans.values.tolist() == [1.5, 0.0]


@pytest.mark.parametrize(
    ("cells", "kind", "values"),
    [
        ([1, 2.5, None], "numeric", [1, 2.5, NAN]),
        ([Decimal("1.5"), np.float32(2), pd.NA], "numeric", [1.5, 2, NAN]),
        ([True, None, False], "boolean", [1, NAN, 0]),
        ([True, NAN, False], "boolean", [1, NAN, 0]),
        ([True, 2, None], "numeric", [1, 2, NAN]),
        (["a", None, NAN], "categorical", ["a", None, None]),
        (["a", 3.0, 2], "categorical", ["a", "3", "2"]),
        ([dt.date(1970, 1, 2), pd.NaT, None], "date", [86400, NAN, NAN]),
        ([dt.datetime(1970, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))], "date", [0]),
        ([None, NAN, pd.NA], "numeric", [NAN, NAN, NAN]),
    ],
)
def test_columns_of_python_objects(cells, kind, values):
    expected = np.array(values, dtype=object if kind == "categorical" else float)
    assert one(cells) == Column("x0", kind, expected)


def test_numpy_text_is_read_as_a_file_would_be():
    result = as_table(np.array([["1", "a", "yes", "2020-01-01"], ["nan", "b", "no", ""]]), owner="o")
    assert list(result.schema.values()) == ["numeric", "categorical", "boolean", "date"]


def test_lists_of_rows_keep_the_types_of_their_cells():
    result = as_table([[1, "a", True], [None, "b", False]], owner="o")
    assert list(result.schema.values()) == ["numeric", "categorical", "boolean"]


def frame_columns() -> dict[str, list[object]]:
    return {
        "text": ["a", None, "b"],
        "number": [1.5, None, -2.0],
        "whole": [1, None, 3],
        "flag": [True, None, False],
        "day": [dt.date(2020, 1, 1), None, dt.date(1969, 12, 31)],
        "time": [dt.datetime(2020, 1, 1, 2, 3, 4, 250000), None, dt.datetime(1960, 1, 1)],
        "nothing": [None, None, None],
    }


def test_all_inputs_give_equal_tables():
    columns = frame_columns()
    expected = as_table(np.array(list(columns.values()), dtype=object).T, owner="o", names=list(columns))
    assert list(expected.schema.values()) == ["categorical", *["numeric"] * 2, "boolean", "date", "date", "numeric"]
    frame = pl.DataFrame(columns)
    assert as_table(pd.DataFrame(columns), owner="o") == expected
    assert as_table(pd.DataFrame(columns).convert_dtypes(), owner="o") == expected
    assert as_table(frame, owner="o") == expected
    assert as_table(frame.lazy(), owner="o") == expected
    assert as_table(frame.to_arrow(), owner="o") == expected
    assert as_table(pd.DataFrame(columns, dtype=object), owner="o") == expected
    assert as_table(expected, owner="o") is expected


def test_categories_of_all_frames():
    cells = ["b", None, "a"]
    expected = np.array(cells, dtype=object)
    for frame in (
        pd.DataFrame({"c": pd.Categorical(cells)}),
        pl.DataFrame({"c": cells}, schema={"c": pl.Categorical}),
        pl.DataFrame({"c": cells}, schema={"c": pl.Enum(["a", "b"])}),
        pa.table({"c": pa.array(cells).dictionary_encode()}),
    ):
        assert as_table(frame, owner="o").columns == (Column("c", "categorical", expected),)
    numbers = as_table(pd.DataFrame({"c": pd.Categorical([3, None, 1])}), owner="o")
    assert numbers.columns[0].values.tolist() == ["3", None, "1"]


def test_time_zones_are_turned_to_utc():
    frame = pd.DataFrame({"t": pd.to_datetime(["1970-01-01 01:00"]).tz_localize("Europe/Paris")})
    assert as_table(frame, owner="o").columns[0].values.tolist() == [0.0]


def test_a_frame_without_names_of_its_own_is_unnamed():
    assert not as_table(pd.DataFrame(np.eye(2)), owner="o").named
    years = as_table(pd.DataFrame(np.eye(2), columns=[2019, 2020]), owner="o")
    assert years.named and years.names == ("2019", "2020")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.empty((12, 0)), r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum of 1 is required"),
        (np.empty((0, 3)), r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1 is required"),
        (pd.DataFrame(index=range(3)), r"0 feature\(s\)"),
        (pd.DataFrame({"a": []}), r"0 sample\(s\)"),
        ([], r"0 sample\(s\)"),
        ([[], []], r"0 feature\(s\)"),
        (np.ones(3), "Reshape your data"),
        ([1, 2], "Reshape your data"),
        (5, "Reshape your data"),
        (None, "Reshape your data"),
        ("text", "Reshape your data"),
        (pd.Series([1]), "Reshape your data"),
        (np.ones((2, 2, 2)), r"two axes.*shape \(2, 2, 2\)"),
        (np.ones((2, 1)) * 1j, "Complex data not supported"),
        (pd.DataFrame({"a": [1j]}), "Complex data not supported"),
        (np.array([[1j], [2]], dtype=object), "Complex data not supported.*row 0"),
        (scipy.sparse.csr_array(np.eye(2)), r"sparse(.|\n)*toarray"),
        (np.ma.masked_array(np.eye(2), mask=np.eye(2)), "masked"),
        (np.array([[0, 1], [2, np.inf]]), "infinity, first at row 1, column 1"),
        (np.array([[0, 1], [2, -np.inf]], dtype=object), "infinity, first at row 1, column 1"),
        (np.array([[10**400]], dtype=object), "infinity, first at row 0"),
        (pd.DataFrame({"a": [0, np.inf]}), "infinity, first at row 1, column 'a'"),
        ([[1, 2], [3]], r"row 0 has 2 cell\(s\), row 1 1"),
        ([[1, 2], 3], r"row 0 has 2 cell\(s\), row 1 1"),
        (pd.DataFrame(np.eye(2), columns=["a", "a"]), "distinct(.|\n)*'a'"),
        (pa.table([[1], [2]], names=["a", "a"]), "distinct(.|\n)*'a'"),
        (pd.DataFrame(np.eye(2), columns=[1, "1"]), "distinct(.|\n)*'1'"),
        (pl.DataFrame({"a": [[1], [2]]}), "column 'a' holds nested values"),
        (pl.DataFrame({"a": [{"b": 1}]}), "column 'a' holds nested values"),
        (pd.DataFrame({"a": [[1], [2, 3]]}), "column 'a' holds nested values"),
        (pa.table({"a": [[1], [2]]}), "column 'a' holds nested values"),
    ],
)
def test_refused_input(X, message):
    with pytest.raises(InputError, match=message):
        as_table(X, owner="Owner")


@pytest.mark.parametrize("cell", [{"foo": "bar"}, [1], b"bytes", dt.time(1), object()])
def test_cells_that_are_neither_text_nor_number(cell):
    X = np.ones((3, 2), dtype=object)
    X[1, 0] = cell
    with pytest.raises(
        ConfigError, match="Owner: column 0, row 1: argument must be a string or a real number"
    ) as caught:
        as_table(X, owner="Owner")
    assert isinstance(caught.value, TypeError) and type(cell).__name__ in str(caught.value)


def test_names_are_checked():
    assert as_table(np.eye(2), owner="o", names=["a", "b"]).named
    with pytest.raises(InputError, match=r"got 1 name\(s\) for 2"):
        as_table(np.eye(2), owner="o", names=["a"])
    with pytest.raises(InputError, match="distinct"):
        as_table(np.eye(2), owner="o", names=["a", "a"])


def test_selection_of_columns_and_rows():
    t = table(age=[1.0, 2.0, 3.0], name=["a", "b", None])
    assert t.select(["name", "age"]).names == ("name", "age")
    assert t.drop(["age"]).names == ("name",)
    assert t.rows([2, 0]).column("age").values.tolist() == [3, 1]
    assert t.rows(np.array([True, False, True])).column("name").values.tolist() == ["a", None]
    assert t.rows(slice(1, None)).n_rows == 2 and t.rows([]).n_rows == 0
    with pytest.raises(InputError, match=r"no column 'agee'(.|\n)*Did you mean 'age'"):
        t.column("agee")
    with pytest.raises(InputError, match="no column 'x'"):
        t.drop(["x"])
    with pytest.raises(InputError, match="at least one column"):
        t.drop(["age", "name"])


def test_rows_are_concatenated():
    t = table(a=[1.0, 2.0], b=["x", None])
    assert t.rows([0]).concat_rows(t.rows([1])) == t
    assert t.concat_rows() == t
    with pytest.raises(InputError, match=r"first difference: .*'a'.*'c'"):
        t.concat_rows(table(c=[1.0], b=["x"]))
    with pytest.raises(InputError, match=r"first difference: .*numeric.*categorical"):
        t.concat_rows(table(a=["1"], b=["x"]))
    with pytest.raises(InputError, match="2 and 1 columns"):
        t.concat_rows(t.drop(["b"]))


def test_records_check_themselves():
    with pytest.raises(ConfigError, match="kind must be one of"):
        Column("a", "number", np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="float64 of shape"):
        Column("a", "numeric", np.ones(2, dtype=int))
    with pytest.raises(InputError, match="infinity"):
        Column("a", "numeric", np.array([np.inf]))
    with pytest.raises(InputError, match="same number of rows"):
        Table((Column("a", "numeric", np.ones(2)), Column("b", "numeric", np.ones(3))))
    assert Column("a", "numeric", np.ones(2)) != Column("a", "boolean", np.ones(2))


@pytest.mark.parametrize(
    ("kind", "values", "target", "expected", "unfit"),
    [
        ("categorical", ["1", "x", None, "NA"], "numeric", [1, NAN, NAN, NAN], 1),
        ("categorical", ["inf", "1_0", "٣"], "numeric", [NAN, NAN, NAN], 3),
        ("categorical", ["Yes", "FALSE", "2"], "boolean", [1, 0, NAN], 1),
        ("categorical", ["1970-01-02", "1970-02-30"], "date", [86400, NAN], 1),
        ("numeric", [1.0, 0.5, NAN], "categorical", ["1", "0.5", None], 0),
        ("boolean", [1.0, 0.0, NAN], "categorical", ["true", "false", None], 0),
        ("date", [86400.0, 0.25, NAN], "categorical", ["1970-01-02", "1970-01-01T00:00:00.250000", None], 0),
        ("boolean", [1.0, NAN], "numeric", [1, NAN], 0),
        ("numeric", [1.0, 2.0, NAN], "boolean", [1, NAN, NAN], 1),
        ("date", [1.0, NAN], "numeric", [NAN, NAN], 1),
    ],
)
def test_as_kind(kind, values, target, expected, unfit):
    column = Column("c", kind, np.array(values, dtype=object if kind == "categorical" else float))
    turned, bad = column.as_kind(target)
    assert turned == Column("c", target, np.array(expected, dtype=object if target == "categorical" else float))
    assert bad.sum() == unfit
