"""Settings and arrays: what is let through unchanged, and what the refusals say."""

import re

import numpy as np
import pytest
import scipy.sparse
import torch

from foreknow.common.errors import ConfigError, ForeknowError, InputError
from foreknow.common.validate import (
    as_matrix,
    as_vector,
    check_bool,
    check_int,
    check_known,
    check_option,
    check_real,
    suggest,
)


def message(error: type[ForeknowError], call, *args, **options) -> str:
    with pytest.raises(error) as caught:
        call(*args, **options)
    return str(caught.value)


def test_option():
    assert check_option("Owner", "task", "auto", ("auto", "off")) == "auto"
    said = message(ConfigError, check_option, "Owner", "task", "atuo", ("auto", "off"))
    assert said == "Owner: task must be one of 'auto', 'off', got 'atuo'.\nDid you mean 'auto'?"
    assert "got None" in message(ConfigError, check_option, "Owner", "task", None, ("auto",))


@pytest.mark.parametrize("value", [3, np.int64(3)])
def test_int(value):
    found = check_int("Owner", "n", value, low=3, high=3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    ("bad", "options", "said"),
    [
        (2.0, {}, "Owner: n must be an integer, got 2.0."),
        (True, {}, "Owner: n must be an integer, got True."),
        ("3", {"low": 1}, "Owner: n must be an integer >= 1, got '3'."),
        (0, {"low": 1, "high": 4}, "Owner: n must be an integer from 1 to 4, got 0."),
        (5, {"high": 4}, "Owner: n must be an integer <= 4, got 5."),
    ],
)
def test_int_refuses(bad, options, said):
    assert message(ConfigError, check_int, "Owner", "n", bad, **options) == said


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1.0), np.int8(1)])
def test_real(value):
    found = check_real("Owner", "lr", value, low=1, high=1)
    assert found == 1.0 and type(found) is float


@pytest.mark.parametrize(
    ("bad", "options", "said"),
    [
        (float("nan"), {}, "Owner: lr must be a finite number, got nan."),
        (float("inf"), {}, "Owner: lr must be a finite number, got inf."),
        (True, {}, "Owner: lr must be a finite number, got True."),
        (0, {"low": 0, "open_low": True}, "Owner: lr must be a finite number greater than 0, got 0."),
        (-1, {"low": 0}, "Owner: lr must be a finite number >= 0, got -1."),
        (2.0, {"low": 0, "high": 1}, "Owner: lr must be a finite number >= 0 and at most 1, got 2.0."),
    ],
)
def test_real_refuses(bad, options, said):
    assert message(ConfigError, check_real, "Owner", "lr", bad, **options) == said


def test_bool():
    assert check_bool("Owner", "shuffle", np.True_) is True
    assert message(ConfigError, check_bool, "Owner", "shuffle", 1) == "Owner: shuffle must be True or False, got 1."


def test_known():
    check_known("Owner", ["n_steps"], ["n_steps", "lr"])
    said = message(ConfigError, check_known, "Owner", ["n_step"], ["n_steps", "lr"])
    assert said == "Owner: unknown setting 'n_step'; known: lr, n_steps.\nDid you mean 'n_steps'?"
    assert suggest("zzz", ["abc"]) == ""


def test_matrix_is_a_float64_copy():
    X = np.arange(6).reshape(3, 2)
    found = as_matrix("Owner", X)
    assert found.dtype == np.float64 and found.tolist() == X.tolist()
    double = X.astype(np.float64)
    as_matrix("Owner", double)[0, 0] = 9
    assert double[0, 0] == 0
    assert np.isnan(as_matrix("Owner", [[1.0, None]], allow_nan=True)[0, 1])


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (np.ones(3), r"Owner: X must have two axes \(rows, columns\), got shape \(3,\). Reshape your data.\nFor one"),
        (np.ones((1, 2, 3)), r"two axes .* got shape \(1, 2, 3\)"),
        (np.ones((2, 2), dtype=complex), "Complex data not supported; X has dtype complex128"),
        ([[1.0, 2.0], [3.0]], "Owner: X cannot be read as an array of numbers"),
        (torch.ones(2, 2, requires_grad=True), "Owner: X cannot be read as an array of numbers: .*detach"),
        ([["a", "b"]], "Owner: X must hold numbers, got dtype <U1"),
        ([[10**400]], "Owner: X must hold numbers, got dtype object"),
        (np.ones((0, 2)), r"0 sample\(s\) \(shape=\(0, 2\)\) while a minimum of 1 is required"),
        (np.ones((2, 0)), r"0 feature\(s\)"),
        (scipy.sparse.eye(3), "sparse data is not supported"),
        ([[1.0, 2.0], [np.inf, np.nan]], r"X contains infinity, first at row 1, column 0 \(2 cell\(s\) in all\)"),
        ([[1.0, np.nan]], "X contains NaN, first at row 0, column 1"),
    ],
    ids=str,
)
def test_matrix_refuses(bad, said):
    assert re.search(said, message(InputError, as_matrix, "Owner", bad))


def test_infinity_is_refused_where_nan_is_allowed():
    assert "row 0, column 1" in message(InputError, as_matrix, "Owner", [[np.nan, np.inf]], allow_nan=True)


def test_vector():
    assert as_vector("Owner", [[1], [2]]).tolist() == [1.0, 2.0]
    assert as_vector("Owner", np.array([True, False])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (None, "Owner: requires y to be passed"),
        (1.0, r"y must have one axis, got shape \(\)"),
        (np.ones((3, 2)), r"got shape \(3, 2\)"),
        (["a", "b", "c"], "y must hold numbers, got dtype <U1"),
        ([[1], [2, 3]], "y cannot be read as an array of numbers"),
        ([1, np.nan, 3], "y contains NaN, first at row 1"),
        ([1, 2, -np.inf], "y contains infinity, first at row 2"),
        ([1, 2], "X has 3 rows, y has 2"),
        (np.ones(3, dtype=complex), "Complex data"),
    ],
    ids=str,
)
def test_vector_refuses(bad, said):
    assert re.search(said, message(InputError, as_vector, "Owner", bad, n=3))
