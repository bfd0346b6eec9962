"""The small changes that checks make to example data, on every kind of table."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from foreknow.core.checks import inputs

COLUMNS = {"name": ["a", "b", "c"], "size": [1.5, 2.5, 3.5], "count": [1, 2, 3]}
FRAMES = [pd.DataFrame(COLUMNS), pl.DataFrame(COLUMNS), pa.table(COLUMNS)]
frames = pytest.mark.parametrize("X", FRAMES, ids=["pandas", "polars", "pyarrow"])


def columns(X):
    return {
        str(name): list(X[name].to_pylist() if hasattr(X[name], "to_pylist") else X[name])
        for name in COLUMNS
        if name in list_names(X)
    }


def list_names(X):
    return X.column_names if isinstance(X, pa.Table) else list(X.columns)


@frames
def test_frames(X):
    assert inputs.is_frame(X) and inputs.is_table(X) and not inputs.is_matrix(X)
    assert (inputs.n_rows(X), inputs.n_columns(X)) == (3, 3)
    assert columns(inputs.take_rows(X, [2, 0, 0])) == {
        "name": ["c", "a", "a"],
        "size": [3.5, 1.5, 1.5],
        "count": [3, 1, 1],
    }
    assert inputs.n_rows(inputs.take_rows(X, [])) == 0
    assert list_names(inputs.take_columns(X, [2, 0])) == ["count", "name"]
    changed = inputs.with_cell(X, np.inf)
    assert columns(changed) == {**COLUMNS, "size": [np.inf, 2.5, 3.5]}
    assert type(changed) is type(X)
    single = inputs.as_float(X, np.float32)
    assert inputs.same_data(inputs.as_float(single, np.float64), X)
    assert not inputs.same_data(single, X)
    assert inputs.same_data(X, inputs.take_rows(X, [0, 1, 2])) and not inputs.same_data(X, changed)
    assert inputs.with_cell(inputs.take_columns(X, [0, 2]), 0.0) is None


def test_matrices():
    X = np.arange(6.0).reshape(3, 2)
    assert inputs.is_matrix(X) and not inputs.is_frame(X)
    assert inputs.take_rows(X, [2]).tolist() == [[4.0, 5.0]]
    assert inputs.take_columns(X, [1]).tolist() == [[1.0], [3.0], [5.0]]
    assert inputs.with_cell(X, 9.0)[0, 0] == 9.0 and X[0, 0] == 0.0
    assert inputs.as_float(X + 1e-9, np.float64)[0, 1] == 1.0
    assert not inputs.same_data(X, X.astype(np.float32))
    assert not inputs.same_data(np.array([0.0]), np.array([-0.0]))
    assert inputs.same_data(np.array([np.nan]), np.array([np.nan]))
    assert inputs.same_data([X, None], [X.copy(), None]) and not inputs.same_data([X], [X + 1])


def test_lists_of_objects():
    X = ["a", "bb", "ccc"]
    assert not inputs.is_table(X) and inputs.with_cell(X, 0.0) is None
    assert inputs.take_rows(X, [2, 0]) == ["ccc", "a"]


def test_half_of_the_rows_keeps_every_class():
    X, y = inputs.first_half(np.arange(9)[:, None], np.array([0, 1, 2] * 3))
    assert 3 < len(X) < 9 and set(y) == {0, 1, 2}
    assert inputs.first_half(["a", "b", "c"], None) == (["c", "a"], None)
