"""Checks of settings and arrays, with one style of message.

A message names the owner and argument, what is allowed, what came, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError


def check_option(owner: str, name: str, value: object, allowed: Collection[str]) -> str:
    """`value` if it is one of `allowed`, else a ConfigError that suggests the nearest."""
    if isinstance(value, str) and value in allowed:
        return value
    raise ConfigError(
        f"{owner}: {name} must be one of {', '.join(map(repr, sorted(allowed)))}, got {value!r}.",
        hint=suggest(str(value), allowed),
    )


def check_int(owner: str, name: str, value: object, *, low: int | None = None, high: int | None = None) -> int:
    """`value` as an int inside [low, high], else a ConfigError."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if (low is None or number >= low) and (high is None or number <= high):
            return number
    raise ConfigError(f"{owner}: {name} must be an integer{_range(low, high)}, got {value!r}.")


def check_real(
    owner: str,
    name: str,
    value: object,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
) -> float:
    """`value` as a finite float inside [low, high] (or ]low, high] with `open_low`), else a ConfigError."""
    if isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(float(value)):
        number = float(value)
        above = low is None or (number > low if open_low else number >= low)
        if above and (high is None or number <= high):
            return number
    strict = f" greater than {low}" if open_low and low is not None else _range(low, None)
    raise ConfigError(
        f"{owner}: {name} must be a finite number{strict}"
        f"{'' if high is None else f' and at most {high}'}, got {value!r}."
    )


def check_bool(owner: str, name: str, value: object) -> bool:
    """`value` if it is True or False, else a ConfigError."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ConfigError(f"{owner}: {name} must be True or False, got {value!r}.")


def check_known(owner: str, given: Iterable[str], known: Collection[str], *, what: str = "setting") -> None:
    """Refuse names that are not in `known`, suggesting the nearest ones."""
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{owner}: unknown {what} {name!r}; known: {', '.join(sorted(known)) or 'none'}.",
                hint=suggest(name, known),
            )


def suggest(name: str, known: Collection[str]) -> str:
    """`"Did you mean 'x'?"` for the nearest names, or an empty string."""
    near = difflib.get_close_matches(name, [str(item) for item in known], n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, near))}?" if near else ""


def as_matrix(
    owner: str, X: object, *, name: str = "X", allow_nan: bool = False, min_rows: int = 1
) -> NDArray[np.float64]:
    """`X` as a float64 array of shape (n_rows, n_columns), refusing what cannot be one.

    Raises:
        InputError: wrong number of axes, no rows or columns, text, complex, infinite or missing values.
    """
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        raise InputError(
            f"{owner}: {name} is a sparse matrix; sparse data is not supported, a dense array is required.",
            hint=f"Use {name}.toarray().",
        )
    array = _as_array(owner, name, X)
    if np.iscomplexobj(array):
        raise InputError(f"{owner}: Complex data not supported; {name} has dtype {array.dtype}.")
    if array.ndim != 2:
        raise InputError(
            f"{owner}: {name} must have two axes (rows, columns), got shape {array.shape}."
            + (" Reshape your data." if array.ndim < 2 else ""),
            hint=f"For one column use {name}.reshape(-1, 1), for one row {name}.reshape(1, -1)."
            if array.ndim == 1
            else "",
        )
    try:
        matrix = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{owner}: {name} must hold numbers, got dtype {array.dtype} ({error}).",
            hint="Tables with text columns go through foreknow.TabularClassifier, which encodes them.",
        ) from error
    n_rows, n_columns = matrix.shape
    if n_rows < min_rows:
        raise InputError(
            f"{owner}: Found array with {n_rows} sample(s) (shape={matrix.shape}) "
            f"while a minimum of {min_rows} is required."
        )
    if n_columns < 1:
        raise InputError(
            f"{owner}: Found array with 0 feature(s) (shape={matrix.shape}) while a minimum of 1 is required."
        )
    bad = np.isinf(matrix) if allow_nan else ~np.isfinite(matrix)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        kind = "NaN" if np.isnan(matrix[row, column]) else "infinity"
        raise InputError(
            f"{owner}: {name} contains {kind}, first at row {row}, column {column} ({int(bad.sum())} cell(s) in all).",
            hint="Remove or impute these cells.",
        )
    return matrix


def as_vector(owner: str, y: object, *, name: str = "y", n: int | None = None) -> NDArray[np.float64]:
    """`y` as a finite float64 array of shape (n,)."""
    if y is None:
        raise InputError(f"{owner}: requires y to be passed, but the target y is None.")
    array = _as_array(owner, name, y)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{owner}: {name} must have one axis, got shape {array.shape}.")
    if np.iscomplexobj(array):
        raise InputError(f"{owner}: Complex data not supported; {name} has dtype {array.dtype}.")
    try:
        vector = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{owner}: {name} must hold numbers, got dtype {array.dtype}.") from error
    if not np.isfinite(vector).all():
        row = int(np.flatnonzero(~np.isfinite(vector))[0])
        kind = "NaN" if np.isnan(vector[row]) else "infinity"
        raise InputError(f"{owner}: {name} contains {kind}, first at row {row}.", hint="Drop these rows.")
    if n is not None and len(vector) != n:
        raise InputError(
            f"{owner}: Found input variables with inconsistent numbers of samples: "
            f"X has {n} rows, {name} has {len(vector)}."
        )
    return vector


def as_array(
    owner: str, X: object, *, name: str = "X", axes: Collection[int] = (), allow_nan: bool = False
) -> NDArray[np.floating[Any]]:
    """`X` as an array of finite numbers of any rank from 1, with a row at least; float32 and float64 stay so.

    Args:
        owner: who asks.
        X: array, tensor or nested lists, first axis the rows.
        name: of the argument.
        axes: allowed numbers of axes; any if empty.
        allow_nan: whether NaN may be among the numbers.

    Raises:
        InputError: wrong number of axes, an axis of length 0, text, complex, infinite or missing values.
    """
    array = _as_array(owner, name, X)
    if np.iscomplexobj(array):
        raise InputError(f"{owner}: Complex data not supported; {name} has dtype {array.dtype}.")
    if array.ndim == 0 or (axes and array.ndim not in axes):
        allowed = " or ".join(map(str, sorted(axes))) or "one or more"
        raise InputError(
            f"{owner}: {name} must have {allowed} axes, the first of them the rows, got shape {array.shape}."
        )
    if 0 in array.shape:
        raise InputError(
            f"{owner}: {name} is empty, shape {array.shape}; Found array with {array.shape[0]} sample(s) while a "
            "minimum of 1 is required."
        )
    if array.dtype not in (np.float32, np.float64):
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{owner}: {name} must hold numbers, got dtype {array.dtype} ({error}).") from error
    bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if bad.any():
        place = tuple(int(index) for index in np.argwhere(bad)[0])
        kind = "NaN" if np.isnan(array[place]) else "infinity"
        raise InputError(
            f"{owner}: {name} contains {kind}, first at {place} ({int(bad.sum())} number(s) in all).",
            hint="Remove or fill these entries.",
        )
    return array


def _as_array(owner: str, name: str, value: object) -> NDArray[Any]:
    """`value` as an array of any kind; ragged rows and tensors that track gradients are refused."""
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{owner}: {name} cannot be read as an array of numbers: {error}") from error


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" >= {low}"
    return "" if high is None else f" <= {high}"
