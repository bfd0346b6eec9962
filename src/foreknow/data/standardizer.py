"""Columns on a common scale, by the statistics of the context rows alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError
from foreknow.common.validate import check_real


def column_statistics(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median, mean and standard deviation of each column of `x` (n, p), missing cells left out; shape (3, p).

    A column without a value has zeros; one that does not vary has standard deviation exactly 0. Any finite
    values are safe, and the order of the rows does not change a bit of the result.
    """
    statistics = np.zeros((3, x.shape[1]))
    for j in range(x.shape[1]):
        values = np.sort(x[~np.isnan(x[:, j]), j])  # sorted: the rounding of a sum depends on its order
        if len(values) == 0:
            continue
        median = values[(len(values) - 1) // 2] / 2 + values[len(values) // 2] / 2
        if values[0] == values[-1]:
            statistics[:2, j] = values[0]
            continue
        unit = max(abs(values[0]), abs(values[-1]))  # squares of the values themselves could overflow or vanish
        scaled = values / unit
        deviation = np.sqrt(np.square(scaled - scaled.mean()).mean())
        statistics[:, j] = median, scaled.mean() * unit, deviation * unit
    return statistics


@dataclass(frozen=True, eq=False)
class Standardizer:
    """Centres and scales columns, and bounds what lies far out.

    `z = (x - mean) / deviation` of the context; beyond half of `clip` it grows only as a logarithm
    (continuous, slope 1 at the joint), and at `clip` it stops. Missing cells stay missing.

    Args:
        center: shape (p,).
        scale: shape (p,), positive. A column that is constant in the context has its magnitude as scale
            (1 for zero), so that the context gives 0 and a new value is judged relative to the constant.
        clip: largest absolute value that comes out.
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float = 10.0

    @classmethod
    def fit(cls, x_context: NDArray[np.float64], *, clip: float = 10.0) -> Standardizer:
        """Learn from context rows, shape (n, p), NaN where missing.

        Raises:
            ConfigError: `clip` is not a positive number.
            InputError: not two axes, or infinite values.
        """
        check_real("Standardizer", "clip", clip, low=0.0, open_low=True)
        if x_context.ndim != 2 or np.isinf(x_context).any():
            raise InputError(
                f"Standardizer: x_context must have two axes and no infinity, got shape {x_context.shape}."
            )
        _, center, scale = column_statistics(x_context.astype(np.float64))
        constant = scale <= 4 * np.finfo(np.float64).eps * np.abs(center)  # no more than rounding
        scale = np.where(constant, np.where(center == 0, 1.0, np.abs(center)), scale)
        return cls(center, scale, float(clip))

    def transform(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows on the scale of the context, shape (m, p), within [-clip, clip], NaN where missing."""
        if x.ndim != 2 or x.shape[1] != len(self.center):
            raise InputError(f"Standardizer: x must have shape (m, {len(self.center)}), got {x.shape}.")
        knee = self.clip / 2
        with np.errstate(over="ignore"):  # an overflow is infinite, which the clip takes
            z = (x.astype(np.float64) - self.center) / self.scale
            size = np.abs(z)
            bounded = np.where(size > knee, knee + np.log1p(np.maximum(size - knee, 0.0)), size)
        return np.copysign(np.minimum(bounded, self.clip), z)
