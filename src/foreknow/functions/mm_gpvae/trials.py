"""A user's trials, of equal length or not, as padded arrays; counts are checked, units taken away and given back."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.validate import as_array

Array = NDArray[np.float64]
_MOST_COUNTS = 1e6


@dataclass(frozen=True)
class Trials:
    """Trials with zeros after their ends.

    Args:
        values: shape (n, t, ...), t bins of the longest.
        lengths: bins of each, shape (n,).
        listed: whether they came as a list of unequal ones.
    """

    values: Array
    lengths: NDArray[np.int64]
    listed: bool

    def __len__(self) -> int:
        return len(self.values)

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Which bins lie inside a trial, shape (n, t)."""
        return np.arange(self.values.shape[1]) < self.lengths[:, None]

    @property
    def shape_of_bin(self) -> tuple[int, ...]:
        """Of what is recorded in one bin."""
        return tuple(self.values.shape[2:])

    def padded(self, n_bins: int) -> Array:
        """Values with so many bins and one axis for what is recorded, shape (n, n_bins, k)."""
        n, t = self.values.shape[:2]
        flat = self.values.reshape(n, t, -1)
        return np.concatenate([flat, np.zeros((n, n_bins - t, flat.shape[2]))], 1)

    def as_given(self, found: NDArray[Any]) -> Any:
        """Results (n, n_bins, ...) cut to these trials: an array, or a list where they came as one."""
        if not self.listed:
            return found[:, : self.values.shape[1]]
        return [row[:length] for row, length in zip(found, self.lengths, strict=True)]


def read_trials(owner: str, X: Any, *, name: str, axes: Sequence[int] = ()) -> Trials:
    """Trials from an array (n, t, ...) or from a list of arrays (t_i, ...).

    Args:
        owner: who asks.
        X: the trials.
        name: of the argument.
        axes: allowed numbers of axes of the array, at least 2; any from 2 if empty.

    Raises:
        InputError: no trials, other axes, trials that do not fit together, or what is no finite number.
    """
    if not _unequal(X):
        array = as_array(owner, X, name=name, axes=axes).astype(np.float64)
        if array.ndim < 2:
            raise InputError(f"{owner}: {name} must have axes (trials, bins, ...), got shape {array.shape}.")
        return Trials(array, np.full(len(array), array.shape[1]), listed=False)
    inner = [a - 1 for a in axes]
    parts = [as_array(owner, part, name=f"{name}[{i}]", axes=inner).astype(np.float64) for i, part in enumerate(X)]
    for number, part in enumerate(parts):
        if part.shape[1:] != parts[0].shape[1:]:
            raise InputError(
                f"{owner}: bins of {name}[{number}] have shape {part.shape[1:]}, those of {name}[0] "
                f"{parts[0].shape[1:]}.",
                hint="Trials may differ in length only.",
            )
    lengths = np.array([len(part) for part in parts])
    values = np.zeros((len(parts), lengths.max(), *parts[0].shape[1:]))
    for row, part in zip(values, parts, strict=True):
        row[: len(part)] = part
    return Trials(values, lengths, listed=True)


def _unequal(X: Any) -> bool:
    """Whether it is a list of arrays that are not all of one shape."""
    if not isinstance(X, list | tuple) or not X:
        return False
    try:
        shapes = {np.shape(part) for part in X}
    except (ValueError, TypeError, RuntimeError):
        return False
    return len(shapes) > 1


def check_counts(owner: str, trials: Trials, name: str) -> None:
    """Refuse what are no counts, and say where the first one is.

    Raises:
        InputError: a number that is negative, not whole, or too large.
    """
    values = trials.values
    wrong = (values < 0) | (values != np.floor(values)) | (values > _MOST_COUNTS)
    if wrong.any():
        trial, t, neuron = (int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"{owner}: with likelihood='poisson' {name} must hold counts of spikes, whole numbers from 0 to "
            f"{_MOST_COUNTS:.0f}, got {values[trial, t, neuron]:g} at trial {trial}, bin {t}, neuron {neuron} "
            f"({int(wrong.sum())} such number(s)).",
            hint="Bin spike times into counts; for calcium traces or rates use likelihood='gaussian'.",
        )


def check_images(owner: str, trials: Trials) -> None:
    """Tell where images are not in [0, 1]."""
    low, high = trials.values.min(), trials.values.max()
    if len(trials.shape_of_bin) >= 2 and (low < 0 or high > 1):
        warnings.warn(
            f"{owner}: images have values from {low:g} to {high:g}, not in [0, 1]; they are centred and scaled.",
            ForeknowWarning,
            stacklevel=4,
        )


@dataclass(frozen=True)
class Units:
    """The mean of every variable and what it is divided by, shape (k,) each."""

    mean: Array
    scale: Array

    @classmethod
    def learn(cls, trials: Trials, *, one_scale: bool) -> Units:
        """Of the bins inside the trials.

        Args:
            trials: to learn from.
            one_scale: one number for all variables, so that pixels keep their contrast.
        """
        flat = trials.values.reshape(*trials.values.shape[:2], -1)[trials.seen]
        mean = flat.mean(0)
        biggest = np.abs(flat).max()
        unit = biggest if biggest > 0 else 1.0  # squares of very large or small numbers would overflow
        scale = unit * ((flat - mean) / unit).std(0)
        if one_scale:
            scale = np.full_like(scale, unit * np.sqrt(np.mean((scale / unit) ** 2)))
        return cls(mean, np.where(scale > 1e-9 * unit, scale, unit))

    def to(self, values: Array) -> Array:
        """In these units."""
        return np.asarray((values - self.mean) / self.scale)

    def back(self, values: Array) -> Array:
        """In the user's units."""
        return np.asarray(values * self.scale + self.mean)
