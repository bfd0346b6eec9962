"""Targets as systems learn from them: classes as codes, numbers as a vector, arrays as they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn.exceptions
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

from foreknow.common.errors import InputError
from foreknow.common.validate import as_array, as_vector


def read_numbers(owner: str, y: Any, n_rows: int) -> NDArray[np.float64]:
    """A numeric target as a finite vector.

    Raises:
        InputError: no target, wrong length or shape, or not finite numbers.
    """
    vector = as_vector(owner, y, n=n_rows)
    if np.asarray(y).ndim == 2:
        _warn_of_column(owner)
    return vector


def read_arrays(owner: str, y: Any, n_rows: int) -> NDArray[np.floating[Any]]:
    """A target of one array a row, shape (n_rows, ...), finite; its floating type is kept.

    Raises:
        InputError: no target, wrong length, one axis only, or not finite numbers.
    """
    if y is None:
        raise InputError(f"{owner}: requires y to be passed, but the target y is None.")
    arrays = as_array(owner, y, name="y")
    if arrays.ndim < 2:
        raise InputError(f"{owner}: y must have one array a row, so two or more axes, got shape {arrays.shape}.")
    if len(arrays) != n_rows:
        raise InputError(
            f"{owner}: Found input variables with inconsistent numbers of samples: "
            f"X has {n_rows} rows, y has {len(arrays)}."
        )
    return arrays


def read_classes(owner: str, y: Any, n_rows: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Codes 0..k-1 and the sorted labels of a classification target.

    Raises:
        InputError: no target, wrong length or shape, missing labels, numbers that are not classes, or one class only.
    """
    if y is None:
        raise InputError(f"{owner}: requires y to be passed, but the target y is None.")
    try:
        labels = np.asarray(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{owner}: y cannot be read as an array of labels: {error}") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        _warn_of_column(owner)
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"{owner}: y must have one axis, got shape {labels.shape}.")
    if len(labels) != n_rows:
        raise InputError(
            f"{owner}: Found input variables with inconsistent numbers of samples: "
            f"X has {n_rows} rows, y has {len(labels)}."
        )
    missing = np.array([_is_missing(value) for value in labels.tolist()], dtype=bool)
    if missing.any():
        raise InputError(
            f"{owner}: y contains NaN or None, first at row {int(missing.argmax())} ({int(missing.sum())} in all).",
            hint="Fit on the rows whose target is known.",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InputError(f"{owner}: y contains infinity.")
    try:
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"{owner}: {error}", hint="Class labels must be all text or all whole numbers.") from error
    if len(classes) < 2:
        raise InputError(
            f"{owner}: y holds one class only ({classes[0]!r}); at least two classes are needed.",
            hint="Check the target column.",
        )
    return codes.astype(np.int64), classes


def labels_to_json(classes: NDArray[Any]) -> dict[str, Any]:
    """Sorted class labels as JSON types."""
    kind = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(classes.dtype.kind, "object")
    return {"dtype": kind, "values": classes.tolist()}


def labels_from_json(stored: dict[str, Any]) -> NDArray[Any]:
    """The inverse of `labels_to_json`."""
    kinds: dict[str, Callable[[list[Any]], NDArray[Any]]] = {
        "bool": lambda values: np.array(values, dtype=bool),
        "int": lambda values: np.array(values, dtype=np.int64),
        "float": lambda values: np.array(values, dtype=np.float64),
        "object": lambda values: np.array(values, dtype=object),
    }
    return kinds[stored["dtype"]](stored["values"])


def _warn_of_column(owner: str) -> None:
    warnings.warn(
        f"A column-vector y was passed when a 1d array was expected; {owner} uses its one column.",
        sklearn.exceptions.DataConversionWarning,
        stacklevel=5,
    )


def _is_missing(label: object) -> bool:
    """None, NaN, NaT, and pandas.NA (whose comparisons are neither true nor false)."""
    return label is None or type(label).__name__ == "NAType" or bool(label != label)
