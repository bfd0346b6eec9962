"""The plain predictors that ours is measured against: scikit-learn at its defaults, prepared inside each fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from foreknow.data.table import Table

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

LARGEST = 1e30
"""Numbers beyond this are cut to it: their squares, and the forest's float32, would overflow."""

Baseline = Callable[[NDArray[np.bool_], int], Any]
"""(which columns are categories, shape (n_columns,); seed) -> an unfitted classifier for `as_numbers`' matrix."""


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


def random_forest(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """Medians for missing numbers, one column per category, then 100 trees."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline

    return make_pipeline(_prepare(categorical, scale=False), RandomForestClassifier(random_state=seed))


def histogram_boosting(categorical: NDArray[np.bool_], seed: int) -> Pipeline:
    """Missing numbers and categories as they are, then 100 rounds of histogram gradient boosting."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
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
    boosting = HistGradientBoostingClassifier(categorical_features=first, random_state=seed)
    return make_pipeline(columns, _FillEmptyColumns(), boosting)


def class_frequencies(categorical: NDArray[np.bool_], seed: int) -> Any:
    """The shares of the classes among the training rows, whatever the columns say."""
    from sklearn.dummy import DummyClassifier

    return DummyClassifier(strategy="prior")


FREQUENCIES = "class frequencies"
BASELINES: Mapping[str, Baseline] = {
    "logistic regression": logistic_regression,
    "random forest": random_forest,
    "histogram boosting": histogram_boosting,
    FREQUENCIES: class_frequencies,
}


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
