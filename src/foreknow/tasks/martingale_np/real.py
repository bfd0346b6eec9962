"""Real tasks: the years of El Nino, and plain methods to be compared with.

Monthly sea surface temperatures off Peru, 1950 to 2010 (NOAA), ship with `statsmodels`: 61 years of 12 numbers. A task
is a year, a row a month; from a few months of a year the others are to be told. Every year has the same twelve places
and none is missing, which is the ground of the strongest plain method: a joint normal of the months, conditioned on
those that are known.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.files import hash_bytes
from foreknow.common.rng import numpy_stream
from foreknow.core.predictive import Gaussian
from foreknow.core.source import Sample, Split

Floats = NDArray[np.float64]
_TEST_MONTHS = 4
_LEAST_NOISE = 0.1  # standard deviation, in those of the targets


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


class JointNormal:
    """A joint normal of the twelve months, its covariance shrunk as Ledoit and Wolf (2004) do.

    Args:
        years: complete years, shape (n, 12).
    """

    def __init__(self, years: Floats) -> None:
        from sklearn.covariance import LedoitWolf

        found = LedoitWolf().fit(years)
        self.mean, self.covariance = found.location_, found.covariance_

    def given(self, known: NDArray[np.int64], values: Floats, asked: NDArray[np.int64]) -> Gaussian:
        """The months `asked`, shape (m,), of a year whose months `known` have these values; months count from 0."""
        across = self.covariance[np.ix_(known, asked)]
        weights = np.linalg.solve(self.covariance[np.ix_(known, known)], across)
        mean = self.mean[asked] + weights.T @ (values - self.mean[known])
        variance = self.covariance[asked, asked] - (weights * across).sum(axis=0)
        return Gaussian(torch.as_tensor(mean), torch.as_tensor(np.sqrt(variance)))


class OtherYears:
    """The conditional normal of a year of the record, given its known months and all other years.

    Rows that are no year of the record have no other years: they are answered as `PlainMean` does, with a warning.
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Find the year that these months are of, and leave it out."""
        x, self._values = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        months = np.arange(1.0, 13)
        self._mean: PlainMean | None = None
        if x.shape == (len(x), 1) and np.isin(x, months).all():
            self._known = x[:, 0].astype(np.int64) - 1
            own = (sea_temperatures()[:, self._known] == self._values).all(axis=1)
            if own.any():
                self._normal = JointNormal(sea_temperatures()[~own])
                return self
        warnings.warn(
            "OtherYears: these rows are no year of the record, so the mean of the rows is told.",
            ForeknowWarning,
            stacklevel=2,
        )
        self._mean = PlainMean().fit(X, y)
        return self

    def predict_dist(self, X: Any) -> Gaussian:
        """A normal distribution for every month."""
        if self._mean is not None:
            return self._mean.predict_dist(X)
        asked = np.asarray(X, dtype=np.float64)[:, 0].astype(np.int64) - 1
        return self._normal.given(self._known, self._values, asked)

    def predict(self, X: Any) -> Floats:
        """The mean of every month."""
        return np.asarray(self.predict_dist(X).mean().numpy())


class PlainGP:
    """A Gaussian process with an RBF kernel, its hyper-parameters at maximum likelihood (scikit-learn's).

    Noise is at least 0.1 of the targets' standard deviation, as in the networks: few rows would else be taken to be
    exact.

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
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(0.3, (1e-2, 1e1)) + WhiteKernel(0.02, (_LEAST_NOISE**2, 1.0))
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
