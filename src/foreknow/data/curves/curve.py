"""`Curve`: what was measured of one run, epoch by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import InputError


@dataclass(frozen=True, init=False, eq=False)
class Curve:
    """Values of one metric of one run.

    Missing values (NaN) are dropped, their epochs are not: a curve may have gaps.

    Args:
        values: of the metric, shape (n,); NaN where nothing was measured.
        epochs: when they were measured, positive and increasing, shape (n,); by default 1, 2, ..., n.
        name: of the run.
        metric: what was measured.

    Attributes:
        values, epochs: those that are known, as float64.
        n_missing: number of missing values.

    Raises:
        InputError: shapes that differ, epochs that repeat or do not increase from 1 on, infinite values.

    Example:
        >>> Curve([0.3, float("nan"), 0.5]).epochs
        array([1., 3.])
    """

    values: NDArray[np.float64]
    epochs: NDArray[np.float64]
    name: str = ""
    metric: str = "value"
    n_missing: int = field(default=0)

    def __init__(
        self, values: ArrayLike, epochs: ArrayLike | None = None, *, name: str = "", metric: str = "value"
    ) -> None:
        known = _numbers(values, name, "values")
        when = np.arange(1.0, len(known) + 1) if epochs is None else _numbers(epochs, name, "epochs")
        if when.shape != known.shape:
            raise InputError(f"{_said(name)}: {len(known)} values and {len(when)} epochs.")
        if np.isinf(known).any():
            raise InputError(
                f"{_said(name)}: the value at epoch {when[np.isinf(known)][0]:g} is infinite.",
                hint="Leave values out (NaN) where a run diverged, or stop the run.",
            )
        if not np.isfinite(when).all() or (when < 1).any():
            raise InputError(f"{_said(name)}: epochs must be numbers from 1 on, got {when.min():g} .. {when.max():g}.")
        if (np.diff(when) <= 0).any():
            at = int(np.flatnonzero(np.diff(when) <= 0)[0])
            raise InputError(
                f"{_said(name)}: epochs must increase; {when[at + 1]:g} follows {when[at]:g}.",
                hint="Sort the rows by epoch, keep one of each epoch, and give every run its own curve.",
            )
        here = np.isfinite(known)
        object.__setattr__(self, "values", known[here])
        object.__setattr__(self, "epochs", when[here])
        object.__setattr__(self, "name", str(name))
        object.__setattr__(self, "metric", str(metric))
        object.__setattr__(self, "n_missing", int((~here).sum()))

    def __len__(self) -> int:
        return len(self.values)

    @property
    def last_epoch(self) -> float:
        """The last epoch that is known; 0 of an empty curve."""
        return float(self.epochs[-1]) if len(self) else 0.0

    def until(self, epoch: float) -> Curve:
        """The part up to an epoch, which belongs to it."""
        here = self.epochs <= epoch
        return Curve(self.values[here], self.epochs[here], name=self.name, metric=self.metric)


def as_curves(given: Any, *, owner: str = "as_curves") -> list[Curve]:
    """One curve or several, of whatever kind, as a list of `Curve`.

    Args:
        given: a `Curve`, a list of numbers, an array of shape (n_epochs,) or (n_curves, n_epochs), or a sequence of
            these; NaN is what is not known.
        owner: named in errors.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(given, Curve):
        return [given]
    if isinstance(given, np.ndarray) and given.ndim == 2:
        return [Curve(row) for row in given]
    if isinstance(given, str | bytes) or not isinstance(given, Sequence | np.ndarray):
        raise InputError(
            f"{owner}: curves must be numbers, a Curve, or a list of them, got a {type(given).__name__}.",
            hint="Files are read with foreknow.data.curves.read_curves.",
        )
    if len(given) and not isinstance(given[0], Curve | Sequence | np.ndarray):
        return [Curve(given)]
    return [one if isinstance(one, Curve) else Curve(one) for one in given]


def _numbers(given: ArrayLike, name: str, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{_said(name)}: {what} must be numbers ({error}).") from error
    if array.ndim != 1:
        raise InputError(f"{_said(name)}: {what} must have one axis, got shape {array.shape}.")
    return array


def _said(name: str) -> str:
    return f"curve {name!r}" if name else "curve"
