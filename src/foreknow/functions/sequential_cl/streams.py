"""Streams of tasks: the paper's two toys, and labelled rows split by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_option

Task = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Rows and class codes of one task."""

_CENTRES = (
    ((0.0, 0.2), (0.6, 0.9), (1.3, 0.4), (1.6, -0.1), (2.0, 0.3)),
    ((0.45, 0.0), (0.7, 0.45), (1.0, 0.1), (1.7, -0.4), (2.3, 0.1)),
)
_SDS = (
    ((0.08, 0.22), (0.24, 0.08), (0.04, 0.2), (0.16, 0.05), (0.05, 0.16)),
    ((0.08, 0.16), (0.16, 0.08), (0.06, 0.16), (0.24, 0.05), (0.05, 0.22)),
)
STREAMS = ("gaussians", "circle")
_FAR = 10.0  # standardised by the first task alone, a later value may be far out


@dataclass(frozen=True)
class Scale:
    """Centre and spread of the first task's rows, all that is known when a stream begins.

    Args:
        shift, spread: of each column of flat rows (n, d), or one of all pixels of images.
    """

    shift: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, X: NDArray[Any]) -> Self:
        axes = tuple(range(X.ndim)) if X.ndim > 2 else (0,)
        rows = X.astype(np.float64)
        shift, spread = rows.mean(axis=axes), rows.std(axis=axes)
        spread = np.where(spread > 1e-12 * np.abs(shift), spread, 1.0)
        return cls(shift, np.where(spread > 0, spread, 1.0))

    def __call__(self, X: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.clip((X.astype(np.float64) - self.shift) / self.spread, -_FAR, _FAR))


def toy_stream(name: str = "gaussians", *, n_tasks: int = 5, n_rows: int = 2000, random_state: int = 0) -> list[Task]:
    """Binary tasks in the plane, half of the rows of each class.

    Args:
        name: "gaussians" (five pairs of normals along a line) or "circle" (ten normals of variance 0.02 on a circle of
            radius 2, in neighbouring pairs).
        n_tasks: at most 5.
        n_rows: of each task.
        random_state: seed.
    """
    check_option("toy_stream", "name", name, STREAMS)
    check_int("toy_stream", "n_tasks", n_tasks, low=1, high=5)
    check_int("toy_stream", "n_rows", n_rows, low=2)
    rng, tasks = numpy_stream(random_state, "sequential-cl", name), []
    for number in range(n_tasks):
        y = np.arange(n_rows) % 2
        if name == "gaussians":
            centre, sd = (np.array([part[label][number] for label in (0, 1)]) for part in (_CENTRES, _SDS))
        else:
            angle = 2 * math.pi * (2 * number + np.arange(2)) / 10
            centre, sd = 2 * np.stack([np.cos(angle), np.sin(angle)], 1), np.full((2, 2), 0.02**0.5)
        tasks.append((centre[y] + sd[y] * rng.normal(size=(n_rows, 2)), y.astype(np.int64)))
    return tasks


def split_by_class(y: ArrayLike, classes_per_task: int = 2) -> NDArray[np.int64]:
    """The task of every row: classes in their order, so many a task, as in split MNIST."""
    check_int("split_by_class", "classes_per_task", classes_per_task, low=1)
    codes = np.unique(np.asarray(y), return_inverse=True)[1]
    return (codes // classes_per_task).astype(np.int64)


def read_tasks(owner: str, tasks: object, n_rows: int) -> tuple[NDArray[np.int64], list[Any]]:
    """Number of every row's task, in order of first appearance for sorted labels, and the labels.

    Raises:
        InputError: not one label a row.
    """
    try:
        labels = np.asarray(tasks)
        names, codes = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"{owner}: tasks must hold one label a row: {error}") from error
    if labels.shape != (n_rows,):
        raise InputError(f"{owner}: tasks must have shape ({n_rows},), one label a row, got {labels.shape}.")
    return codes.astype(np.int64), list(names.tolist())


def as_codes(owner: str, y: object, n_rows: int, n_classes: int | None = None) -> NDArray[np.int64]:
    """Class codes, one a row.

    Raises:
        InputError: other than whole numbers from 0 (to `n_classes` - 1), or not one a row.
    """
    codes = np.asarray(y)
    span = "0, 1, 2, ..." if n_classes is None else f"0..{n_classes - 1}"
    whole = codes.shape == (n_rows,) and n_rows > 0 and codes.dtype.kind in "iub"
    if not whole or int(codes.min()) < 0 or (n_classes is not None and int(codes.max()) >= n_classes):
        raise InputError(
            f"{owner}: y must hold one code {span} a row, as whole numbers; got shape {codes.shape} of {codes.dtype} "
            f"for {n_rows} rows.",
            hint="np.unique(y, return_inverse=True)[1] gives codes of any labels.",
        )
    return codes.astype(np.int64)


def as_tasks(tasks: Sequence[Task]) -> list[Task]:
    """A user's stream, checked: rows (n, d) and codes (n,) of every task."""
    found = []
    for number, task in enumerate(tasks):
        if not isinstance(task, tuple | list) or len(task) != 2:
            raise ConfigError(f"task {number} must be a pair (X, y), got {type(task).__name__}.")
        X = np.asarray(task[0], dtype=np.float64)
        if X.ndim != 2 or not len(X) or not np.isfinite(X).all():
            raise InputError(f"task {number}: X must be finite (n, d), got {X.shape}.")
        found.append((X, as_codes(f"task {number}", task[1], len(X))))
    if not found:
        raise InputError("there is no task.")
    return found
