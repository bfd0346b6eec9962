"""The plain predictors that ours is measured against: at their defaults, prepared inside each fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from foreknow.common.deps import available, require
from foreknow.data.table import Table

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from foreknow.core.predictive import Predictive

LARGEST = 1e30
"""Numbers beyond this are cut to it: their squares, and the forest's float32, would overflow."""

Baseline = Callable[[NDArray[np.bool_], int], Any]
"""(which columns are categories, shape (n_columns,); seed) -> an unfitted predictor for `as_numbers`' matrix."""


def as_numbers(table: Table) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The table as one matrix: categories are replaced by arbitrary codes, missing cells by NaN.

    The codes are names only; everything that is learnt from the data (medians, scales, which categories exist)
    is learnt by the pipelines from the training rows of their fold.

    Returns:
        Values, shape (n_rows, n_columns), and which columns are categories, shape (n_columns,).
    """
    matrix = np.empty((table.n_rows, table.n_columns))
    for index, column in enumerate(table.columns):
        if column.kind == "categorical":
            codes = {level: code for code, level in enumerate(sorted(set(column.values.tolist()) - {None}))}
            matrix[:, index] = [codes.get(value, np.nan) for value in column.values.tolist()]
        else:
            matrix[:, index] = np.clip(column.values, -LARGEST, LARGEST)
    return matrix, np.array([column.kind == "categorical" for column in table.columns])


def logistic_regression(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """Medians for missing numbers, standard scales, one column per category, then L2 logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # The default 100 steps stop early on many tables, which would be an unfair arm.
    return make_pipeline(_prepare(categorical, scale=True), LogisticRegression(max_iter=1000, random_state=seed))


def ridge_regression(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """Medians for missing numbers, standard scales, one column per category, then ridge regression."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline

    return make_pipeline(_prepare(categorical, scale=True), Ridge(random_state=seed))


def random_forest(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """Medians for missing numbers, one column per category, then 100 trees."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline

    return make_pipeline(_prepare(categorical, scale=False), RandomForestClassifier(random_state=seed))


def forest_regression(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """The regression twin of `random_forest`."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline

    return make_pipeline(_prepare(categorical, scale=False), RandomForestRegressor(random_state=seed))


def histogram_boosting(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """Missing numbers and categories as they are, then 100 rounds of histogram gradient boosting."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return _boosting(HistGradientBoostingClassifier, categorical, seed)


def boosting_regression(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """The regression twin of `histogram_boosting`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return _boosting(HistGradientBoostingRegressor, categorical, seed)


def _boosting(kind: Any, categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    codes = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan, max_categories=250
    )
    n_categories = int(categorical.sum())
    columns = ColumnTransformer(
        [("categories", codes, np.flatnonzero(categorical)), ("numbers", "passthrough", np.flatnonzero(~categorical))]
    )
    first = np.arange(len(categorical)) < n_categories
    return make_pipeline(columns, _FillEmptyColumns(), kind(categorical_features=first, random_state=seed))


def catboost_classifier(categorical: NDArray[np.bool_], seed: int) -> Any:
    """CatBoost at its defaults; missing numbers and categories as they are."""
    return _CatBoost("CatBoostClassifier", categorical, seed)


def catboost_regressor(categorical: NDArray[np.bool_], seed: int) -> Any:
    """The regression twin of `catboost_classifier`."""
    return _CatBoost("CatBoostRegressor", categorical, seed)


def class_frequencies(categorical: NDArray[np.bool_], seed: int) -> Any:
    """The shares of the classes among the training rows, whatever the columns say."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


def training_mean(categorical: NDArray[np.bool_], seed: int) -> Any:
    """A normal distribution with the mean and spread of the training rows, whatever the columns say."""
    return TrainingMean()


FREQUENCIES, MEAN_ONLY = "class frequencies", "mean of the target"
IGNORANT = (FREQUENCIES, MEAN_ONLY)
"""Baselines that do not look at the columns."""
BASELINES: Mapping[str, Mapping[str, Baseline]] = {
    "classification": {
        "logistic regression": logistic_regression,
        "random forest": random_forest,
        "histogram boosting": histogram_boosting,
        FREQUENCIES: class_frequencies,
    },
    "regression": {
        "ridge regression": ridge_regression,
        "random forest": forest_regression,
        "histogram boosting": boosting_regression,
        MEAN_ONLY: training_mean,
    },
}
_CATBOOST: Mapping[str, Baseline] = {"classification": catboost_classifier, "regression": catboost_regressor}


def baselines_for(task: str) -> dict[str, Baseline]:
    """The baselines of a task, with CatBoost among them where it is installed."""
    *rest, last = BASELINES[task].items()
    return dict([*rest, *([("CatBoost", _CATBOOST[task])] if available("catboost") else []), last])


class TrainingMean(BaseEstimator):  # type: ignore[misc]
    """See `training_mean`."""

    def fit(self, X: NDArray[np.float64], y: NDArray[np.float64]) -> Self:
        self.mean_, self.spread_ = float(y.mean()), max(float(y.std()), 1e-300)
        return self

    def predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        import torch

        from foreknow.core.predictive import Gaussian

        each = torch.ones(len(X), dtype=torch.float64)
        return Gaussian(self.mean_ * each, self.spread_ * each)


class _CatBoost(BaseEstimator):  # type: ignore[misc]
    """CatBoost for `as_numbers`' matrix; it takes categories as whole numbers or text only."""

    def __init__(self, kind: str, categorical: NDArray[np.bool_], seed: int) -> None:
        self.kind = kind
        self.categorical = categorical
        self.seed = seed

    def fit(self, X: NDArray[np.float64], y: NDArray[Any]) -> Self:
        build = getattr(require("catboost", "The comparison with CatBoost"), self.kind)
        self.model_ = build(
            random_seed=self.seed, cat_features=np.flatnonzero(self.categorical).tolist(), verbose=False,
            allow_writing_files=False,
        ).fit(self._cells(X), y)  # fmt: skip
        if self.kind == "CatBoostClassifier":
            self.classes_ = np.asarray(self.model_.classes_)
        return self

    def predict(self, X: NDArray[np.float64]) -> NDArray[Any]:
        return np.asarray(self.model_.predict(self._cells(X)))

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self.model_.predict_proba(self._cells(X)))

    def _cells(self, X: NDArray[np.float64]) -> NDArray[Any]:
        if not self.categorical.any():
            return X
        cells = X.astype(object)
        cells[:, self.categorical] = np.nan_to_num(X[:, self.categorical], nan=-1.0).astype(int)
        return cells


class _FillEmptyColumns(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Zeros for columns without any value among the training rows, on which histogram boosting fails."""

    def fit(self, X: NDArray[np.float64], y: object = None) -> Self:
        self.empty_ = np.isnan(X).all(axis=0)
        return self

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(self.empty_, 0.0, X)


def _prepare(categorical: NDArray[np.bool_], *, scale: bool) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    medians = SimpleImputer(strategy="median", keep_empty_features=True)
    numbers = make_pipeline(medians, StandardScaler()) if scale else medians
    # A missing category is a category of its own; rare ones beyond 100 share a column.
    words = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100)
    return ColumnTransformer(
        [("numbers", numbers, np.flatnonzero(~categorical)), ("categories", words, np.flatnonzero(categorical))]
    )
