"""What differs between the members of the ensemble, and how their columns are prepared; context rows only.

As published: standard scores, constant columns dropped, in half of the members a Yeo-Johnson transform of every
column, a soft clamp of outliers, then a cyclic shift of the columns and one of the classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import PowerTransformer

from foreknow.common.rng import numpy_stream

POWER = (False, True)
_CLAMP = 4.0  # standard deviations


@dataclass(frozen=True)
class Member:
    """One member of the ensemble.

    Args:
        power: whether columns go through a power transform.
        column_shift: by how many places columns move, in a circle.
        class_shift: by how much class codes move, in a circle.
    """

    power: bool
    column_shift: int
    class_shift: int


def members(n: int, n_columns: int, n_classes: int, seed: int) -> list[Member]:
    """The first `n` of all pairs of column and class shifts in random order, each without and with power transform.

    There are fewer where there are fewer pairs.

    Args:
        n: members asked for.
        n_columns: columns a member sees.
        n_classes: classes, 1 for regression.
        seed: of the order.
    """
    order = numpy_stream(seed, "members").permutation(n_columns * n_classes)
    shifts = [(int(place) // n_classes, int(place) % n_classes) for place in order[: (n + 1) // 2]]
    return [Member(power, *shift) for shift in shifts for power in POWER][:n]


@dataclass(frozen=True, eq=False)
class Preparation:
    """How columns of the user's numbers become those the network was fitted to.

    Args:
        kept: columns that vary in the context, shape (d,).
        shift, scale: of the standard scores, shape (d,).
        transformer: the power transform of standard scores, or None.
        low, high: where the soft clamp begins, shape (d,).
    """

    kept: NDArray[np.int64]
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    transformer: Any
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, x: NDArray[np.float64], *, power: bool) -> Preparation:
        """Learn from context rows, shape (n, p); columns that are the same in every row are dropped, but one stays."""
        here = np.isfinite(x)
        lowest, highest = (_over_present(f, x) for f in (np.min, np.max))
        varies = (highest > lowest) | (here.any(axis=0) & ~here.all(axis=0))
        kept = np.flatnonzero(varies) if varies.any() else np.array([0])
        x = x[:, kept]
        # The largest distance from the middle first: squares of 1e200 are no numbers.
        shift = lowest[kept] / 2 + highest[kept] / 2
        scale = np.maximum(highest[kept] - shift, shift - lowest[kept])
        scale = np.where(scale > 0, scale, 1.0)
        z = (x - shift) / scale
        mean, spread = (_over_present(f, z) for f in (np.mean, np.std))
        shift, scale = shift + scale * mean, scale * np.where(spread > 0, spread, 1.0)
        z = (x - shift) / scale
        transformer = None
        if power:
            with warnings.catch_warnings():  # a column that no power makes normal stays as it is
                warnings.simplefilter("ignore")
                transformer = PowerTransformer().fit(z)
                z = _finite(transformer.transform(z), z)
        inside = np.where(np.abs(z) <= _CLAMP, z, np.nan)
        mean, spread = (_over_present(f, inside) for f in (np.mean, np.std))
        return cls(kept, shift, scale, transformer, mean - _CLAMP * spread, mean + _CLAMP * spread)

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Columns of any rows, shape (m, d); NaN where missing."""
        z = np.clip((x[:, self.kept] - self.shift) / self.scale, -1e6, 1e6)
        if self.transformer is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                z = _finite(self.transformer.transform(z), z)
        tail = np.log1p(np.abs(z))
        clamped: NDArray[np.float64] = np.minimum(np.maximum(z, self.low - tail), self.high + tail)
        return clamped


def _over_present(f: Any, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A statistic of every column over its finite cells, 0 where there are none."""
    return np.array([f(cells[np.isfinite(cells)]) if np.isfinite(cells).any() else 0.0 for cells in x.T])


def _finite(z: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(z) | np.isnan(before), z, before)
