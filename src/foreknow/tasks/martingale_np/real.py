"""Real tasks: the years of El Nino, and plain methods to be compared with.

Monthly sea surface temperatures off Peru, 1950 to 2010 (NOAA), ship with `statsmodels`: 61 years of 12 numbers. A task
is a year, a row a month; from a few months of a year the others are to be told.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.errors import InputError
from foreknow.common.files import hash_bytes
from foreknow.common.rng import numpy_stream
from foreknow.core.predictive import Gaussian
from foreknow.core.source import Sample, Split

Floats = NDArray[np.float64]
_TEST_MONTHS = 4


@lru_cache(maxsize=1)
def sea_temperatures() -> Floats:
    """Temperatures in degrees Celsius, shape (61 years, 12 months)."""
    module = require("statsmodels.datasets.elnino", "The record of sea temperatures")
    values = np.asarray(module.load().data, dtype=np.float64)[:, 1:]
    values.flags.writeable = False
    return values


def year_rows(years: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Months (n, 1), temperatures (n,) and the number of the year of every row."""
    n, months = years.shape
    x = np.tile(np.arange(1.0, months + 1), n)[:, None]
    return x, years.ravel(), np.repeat(np.arange(n), months)


class YearSource:
    """Years as data for `price`: a seed is a year, the size how many of its months are known, first and last always."""

    task, unit, n_min = "regression", "months", 3
    name = "sea temperatures by month"

    def __init__(self) -> None:
        self.n_max = 12 - _TEST_MONTHS
        self.content_hash = hash_bytes(self.name.encode(), sea_temperatures().tobytes())

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """January, December and random months of this seed's year, and four others to be measured on."""
        if not self.n_min <= size <= self.n_max:
            raise InputError(f"{self.name}: the size must be in {self.n_min}..{self.n_max} months, got {size}.")
        years = sea_temperatures()
        rng = numpy_stream(seed, "martingale-np", "months")
        values, order = years[int(rng.integers(len(years)))], rng.permutation(np.arange(1, 11))
        train, test = np.array([0, 11, *order[_TEST_MONTHS : _TEST_MONTHS + size - 2]]), order[:_TEST_MONTHS]
        months = np.arange(1.0, 13)[:, None]
        return Split(Sample(months[train], values[train]), Sample(months[test], values[test]))

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"name": self.name, "unit": self.unit, "hash": self.content_hash}


class PlainGP:
    """A Gaussian process with an RBF kernel, its hyper-parameters at maximum likelihood (scikit-learn's).

    Args:
        random_state: of the restarts.
    """

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Choose the hyper-parameters."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        x = np.asarray(X, dtype=np.float64)
        self._shift, self._scale = x.min(axis=0), np.maximum(np.ptp(x, axis=0), 1e-12)
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(0.3, (1e-2, 1e1)) + WhiteKernel(0.01, (1e-5, 1.0))
        self._model = GaussianProcessRegressor(
            kernel, n_restarts_optimizer=2, normalize_y=True, random_state=self.random_state
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model.fit((x - self._shift) / self._scale, np.asarray(y, dtype=np.float64))
        return self

    def predict_dist(self, X: Any) -> Gaussian:
        """A normal distribution for every row."""
        x = (np.asarray(X, dtype=np.float64) - self._shift) / self._scale
        mean, sd = self._model.predict(x, return_std=True)
        return Gaussian(torch.as_tensor(mean), torch.as_tensor(np.maximum(sd, 1e-6)))

    def predict(self, X: Any) -> Floats:
        """The mean of every row."""
        return np.asarray(self.predict_dist(X).mean().numpy())


class PlainMean:
    """The mean of the known targets, with their spread; with one target a spread of 1."""

    def fit(self, X: Any, y: Any) -> Self:
        """Take mean and spread."""
        target = np.asarray(y, dtype=np.float64)
        self._mean = float(target.mean())
        self._sd = float(target.std(ddof=1)) if len(target) > 1 and np.ptp(target) > 0 else 1.0
        return self

    def predict_dist(self, X: Any) -> Gaussian:
        """The same normal distribution for every row."""
        mean = torch.full((len(X),), self._mean, dtype=torch.float64)
        return Gaussian(mean, torch.full_like(mean, self._sd))

    def predict(self, X: Any) -> Floats:
        """The mean for every row."""
        return np.full(len(X), self._mean)
