"""Small changes to example data, whatever its kind: an array of numbers, a data frame, or a list of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foreknow.core.system import Example


def is_frame(X: object) -> bool:
    """Whether `X` is an eager data frame (pandas, polars, pyarrow, ...)."""
    return isinstance(nw.from_native(X, eager_only=True, pass_through=True), nw.DataFrame)


def is_matrix(X: object) -> bool:
    """Whether `X` is an array of numbers with rows and columns."""
    return isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind in "fiu"


def is_array(X: object) -> bool:
    """Whether `X` is an array of numbers with rows and one further axis or more."""
    return isinstance(X, np.ndarray) and X.ndim >= 2 and X.dtype.kind in "fiu"


def is_table(X: object) -> bool:
    """Whether `X` has rows and columns."""
    return is_matrix(X) or is_frame(X)


def new_rows(example: Example) -> Any:
    """The rows to predict; those of training where the example names no others."""
    return example.X if example.X_new is None else example.X_new


def n_rows(X: Any) -> int:
    """How many rows `X` has."""
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def n_columns(X: Any) -> int:
    """How many columns the table `X` has."""
    return int(X.shape[1])


def take_rows(X: Any, index: Sequence[int] | NDArray[np.int64]) -> Any:
    """The rows of `X` in the order of `index`."""
    order = [int(i) for i in index]
    if is_frame(X):
        return nw.to_native(nw.from_native(X, eager_only=True)[order])
    return X[order] if isinstance(X, np.ndarray) else [X[i] for i in order]


def take_columns(X: Any, index: Sequence[int] | NDArray[np.int64]) -> Any:
    """The columns of the table `X` in the order of `index`."""
    order = [int(i) for i in index]
    if is_frame(X):
        frame = nw.from_native(X, eager_only=True)
        return nw.to_native(frame.select([frame.columns[i] for i in order]))
    return np.ascontiguousarray(X[:, order])


def with_cell(X: Any, value: float) -> Any | None:
    """A copy whose first row holds `value` in its first column of floats; None where there is none."""
    if is_array(X):
        changed = X.astype(np.float64)
        changed[(0,) * X.ndim] = value
        return changed
    if is_frame(X):
        frame = nw.from_native(X, eager_only=True)
        for name, kind in frame.schema.items():
            if kind.is_float():
                values = frame[name].to_numpy().astype(np.float64)
                values[0] = value
                series = nw.new_series(name, values.tolist(), dtype=nw.Float64, backend=frame.implementation)
                return nw.to_native(frame.with_columns(series))
    return None


def as_float(X: Any, dtype: type[np.floating[Any]]) -> Any:
    """The numbers of a table or an array rounded to float32 and stored in `dtype`."""
    if is_array(X):
        return X.astype(np.float32).astype(dtype)
    frame = nw.from_native(X, eager_only=True)
    kind = nw.Float32 if dtype is np.float32 else nw.Float64
    floats = [name for name, known in frame.schema.items() if known.is_float()]
    return nw.to_native(frame.with_columns(nw.col(*floats).cast(nw.Float32).cast(kind)) if floats else frame)


def first_half(X: Any, y: Any) -> tuple[Any, Any]:
    """Every second row, in reverse order: other data of the same kind, with every class that has two rows."""
    keep = np.arange(n_rows(X))[::-2] if y is None or np.ndim(y) > 1 else _half_of_each(np.asarray(y))
    return take_rows(X, keep), None if y is None else np.asarray(y)[keep]


def _half_of_each(y: NDArray[Any]) -> NDArray[np.int64]:
    order = np.argsort(y, kind="stable")[::-1]
    return np.unique(np.concatenate([order[::2], order[-1:]])).astype(np.int64)


def same_data(one: Any, other: Any) -> bool:
    """Whether two data sets are equal, NaN counting as equal to itself."""
    if is_frame(one):
        left, right = nw.from_native(one, eager_only=True), nw.from_native(other, eager_only=True)
        return left.schema == right.schema and repr(left.rows()) == repr(right.rows())
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        if one.dtype == object:
            return repr(one.tolist()) == repr(other.tolist())
        return bytes(one.tobytes()) == bytes(other.tobytes())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same_data(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, nn.Module):
        pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
        return one.training == other.training and all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_data(one[key], other[key]) for key in one)
    return repr(one) == repr(other)
