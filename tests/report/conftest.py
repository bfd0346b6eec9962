"""A quick predictor in place of the library's own, and a small table with everything that makes tables hard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from foreknow.core.predictive import Gaussian
from foreknow.data.table import Column, Table
from foreknow.report.baselines import (
    as_numbers,
    class_frequencies,
    logistic_regression,
    ridge_regression,
    training_mean,
)


@dataclass(frozen=True)
class Note:
    column: str
    action: str
    reason: str


class StandIn(ClassifierMixin, BaseEstimator):
    """Naive Bayes on numbers only; remembers the tables and codes that its clones were fitted with."""

    def __init__(self, random_state: int = 0, asked: list | None = None) -> None:
        self.random_state = random_state
        self.asked = asked

    def __sklearn_clone__(self):
        return type(self)(self.random_state, self.asked)

    def fit(self, X, y):
        if self.asked is not None:
            self.asked.append((X, y))
        self.model_ = make_pipeline(StandardScaler(), GaussianNB(var_smoothing=1e-3)).fit(self._numbers(X), y)
        self.classes_ = self.model_.classes_
        self.notes_ = [Note("<i>day</i>", "dropped <b>", "constant & dull")]
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(self._numbers(X))

    def _numbers(self, X: Table):
        matrix, categorical = as_numbers(X)
        return np.nan_to_num(matrix[:, ~categorical], nan=0.0)


@pytest.fixture(scope="session")
def stand_in() -> type[StandIn]:
    return StandIn


@pytest.fixture(scope="session")
def quick() -> dict[str, Callable]:
    """Two baselines that cost next to nothing."""
    return {"logistic regression": logistic_regression, "class frequencies": class_frequencies}


@pytest.fixture(scope="session")
def make_table() -> Callable[..., Table]:
    """`make_table(n, classes)`: class i has numbers around i; missing cells, text, a date, a constant."""

    def make(n: int = 90, classes: tuple[str, ...] = ("a", "b", "c"), *, n_empty: int = 0, seed: int = 0) -> Table:
        rng = np.random.default_rng(seed)
        codes = np.arange(n) % len(classes)
        number = codes * 2.0 + rng.normal(size=n)
        number[::11] = np.nan
        words = np.array([("x", "y", None)[i] for i in rng.integers(0, 3, n)], dtype=object)
        target = np.array([classes[code] for code in codes], dtype=object)
        target[:n_empty] = None
        return Table(
            (
                Column("number", "numeric", number),
                Column("word", "categorical", words),
                Column("day", "date", 86400.0 * np.arange(n)),
                Column("true or false", "boolean", (codes > 0).astype(float)),
                Column("same", "numeric", np.ones(n)),
                Column("kind", "categorical", target),
            )
        )

    return make


class NumberStandIn(RegressorMixin, BaseEstimator):
    """Ridge regression on numbers only, with normal errors of one size times `honesty`."""

    def __init__(self, honesty: float = 1.0) -> None:
        self.honesty = honesty

    def fit(self, X, y):
        self.model_ = make_pipeline(StandardScaler(), Ridge()).fit(self._numbers(X), y)
        self.spread_ = float(np.std(y - self.model_.predict(self._numbers(X)))) + 1e-9
        return self

    def predict_dist(self, X):
        mean = torch.as_tensor(self.model_.predict(self._numbers(X)))
        return Gaussian(mean, torch.full_like(mean, self.honesty * self.spread_))

    def _numbers(self, X: Table):
        matrix, categorical = as_numbers(X)
        return np.nan_to_num(matrix[:, ~categorical], nan=0.0)


@pytest.fixture(scope="session")
def number_stand_in() -> type[NumberStandIn]:
    return NumberStandIn


@pytest.fixture(scope="session")
def quick_numbers() -> dict[str, Callable]:
    """Two baselines of numbers that cost next to nothing."""
    return {"ridge regression": ridge_regression, "mean of the target": training_mean}


@pytest.fixture(scope="session")
def make_numbers() -> Callable[..., Table]:
    """`make_numbers(n)`: a price that grows with one column and depends on no other, with normal errors of 1."""

    def make(n: int = 90, *, n_empty: int = 0, seed: int = 0) -> Table:
        rng = np.random.default_rng(seed)
        size = rng.normal(size=n)
        price = 10 + 3 * size + rng.normal(size=n)
        price[:n_empty] = np.nan
        return Table(
            (
                Column("size", "numeric", size),
                Column("noise", "numeric", rng.normal(size=n)),
                Column("word", "categorical", np.array([("x", "y")[i % 2] for i in range(n)], dtype=object)),
                Column("price", "numeric", price),
            )
        )

    return make
