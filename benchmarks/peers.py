"""The predictors that `tabular.py` compares, each at its library's defaults on one thread, fed as its manual says.

Categories go to CatBoost as text, to LightGBM, XGBoost and HistGradientBoosting as pandas categories (their own
treatment of them), to all others as one column per category. Missing numbers stay missing for boosted trees and are
replaced by the column's median elsewhere. Everything is learnt from the training rows. The one setting that is not a
default: logistic regression may take 1000 steps, since the default 100 stop early on many tables.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import make_pipeline

import foreknow
from foreknow.common.files import hash_bytes
from foreknow.report.baselines import _prepare
from foreknow.trained import shipped

if TYPE_CHECKING:
    import pandas as pd

Build = Callable[[NDArray[np.bool_], int], Any]
"""(which columns are text, shape (n_columns,); seed) -> an unfitted estimator for `tables.Data.frame()`."""


@dataclass(frozen=True)
class Model:
    """One predictor.

    Args:
        library: distribution that holds it; it is left out, with a message, where that is not installed.
        build: task -> its builder; a task that is not named is not for this model.
    """

    library: str
    build: Mapping[str, Build]

    def installed(self) -> bool:
        return importlib.util.find_spec("sklearn" if self.library == "scikit-learn" else self.library) is not None

    def version(self, task: str) -> str:
        """Changes when its answers may: the library's version; for ours also the weights of the task and the code."""
        if self.library != "foreknow":
            return f"{self.library} {metadata.version(self.library)}"
        tabular = Path(foreknow.__file__).parent / "tasks" / "tabular"
        weights = shipped()[{"classification": "tabpfn-classifier", "regression": "tabpfn-regressor"}[task]]
        files = [weights, *sorted(tabular.rglob("*.py"))]
        return f"foreknow {foreknow.__version__} {hash_bytes(*(path.read_bytes() for path in files))[:12]}"


class AsCategories(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Text as pandas categories, those of the training rows; unknown and, beyond `most`, rare ones are missing.

    Columns without any value among the training rows become zeros, on which every library agrees.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:
        text = X.select_dtypes(exclude="number")
        self.levels_ = {key: sorted(text[key].value_counts().index[: self.most]) for key in text.columns}
        self.empty_ = [key for key in X.columns if X[key].isna().all()]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        kinds = {key: pd.CategoricalDtype(levels) for key, levels in self.levels_.items() if levels}
        known = {key: X[key].where(X[key].isin(list(kind.categories))) for key, kind in kinds.items()}
        return X.assign(**known).astype(kinds).assign(**dict.fromkeys(self.empty_, 0.0))


class AsText(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A missing category is a category called "missing"; numbers stay as they are."""

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        text = list(X.select_dtypes(exclude="number").columns)
        return X.assign(**{key: X[key].where(X[key].notna(), "missing").astype(str) for key in text})


def _catboost(kind: str) -> Build:
    def build(is_text: NDArray[np.bool_], seed: int) -> Any:
        import catboost

        # With one thread, silent, and without its folder of logs.
        quiet = {"thread_count": 1, "verbose": False, "allow_writing_files": False, "random_seed": seed}
        model = getattr(catboost, f"CatBoost{kind}")(cat_features=np.flatnonzero(is_text).tolist(), **quiet)
        return make_pipeline(AsText(), model)

    return build


def _lightgbm(kind: str) -> Build:
    def build(is_text: NDArray[np.bool_], seed: int) -> Any:
        import lightgbm

        model = getattr(lightgbm, f"LGBM{kind}")(n_jobs=1, verbose=-1, random_state=seed)
        return make_pipeline(_Plain(), AsCategories(), model)

    return build


def _xgboost(kind: str) -> Build:
    def build(is_text: NDArray[np.bool_], seed: int) -> Any:
        import xgboost

        model = getattr(xgboost, f"XGB{kind}")(n_jobs=1, enable_categorical=True, random_state=seed)
        return make_pipeline(_Plain(), AsCategories(), model)

    return build


class _Plain(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Columns by number: some names hold characters that a library refuses."""

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        return X.set_axis([f"x{i}" for i in range(X.shape[1])], axis=1)


def _histogram(kind: str) -> Build:
    def build(is_text: NDArray[np.bool_], seed: int) -> Any:
        from sklearn import ensemble

        return make_pipeline(AsCategories(250), getattr(ensemble, f"HistGradientBoosting{kind}")(random_state=seed))

    return build


def _prepared(module: str, kind: str, *, scale: bool, seeded: bool = True, **settings: Any) -> Build:
    """A model of scikit-learn behind medians and one column per category."""

    def build(is_text: NDArray[np.bool_], seed: int) -> Any:
        own = {"random_state": seed, **settings} if seeded else settings
        model = getattr(importlib.import_module(f"sklearn.{module}"), kind)(**own)
        return make_pipeline(_prepare(is_text, scale=scale), model)

    return build


def _ours(kind: str, n_estimators: int) -> Build:
    def build(is_text: NDArray[np.bool_], seed: int) -> Any:
        return getattr(foreknow, kind)(n_estimators=n_estimators, random_state=seed, device="cpu")

    return build


def _both(make: Callable[[str], Build]) -> Mapping[str, Build]:
    return {"classification": make("Classifier"), "regression": make("Regressor")}


def _foreknow(n_estimators: int) -> Model:
    kinds = {"classification": "TabularClassifier", "regression": "TabularRegressor"}
    return Model("foreknow", {task: _ours(kind, n_estimators) for task, kind in kinds.items()})


MODELS: Mapping[str, Model] = {
    "foreknow": _foreknow(1),  # the default
    "foreknow-2": _foreknow(2),
    "foreknow-4": _foreknow(4),
    "knn": Model(
        "scikit-learn",
        {
            "classification": _prepared("neighbors", "KNeighborsClassifier", scale=True, seeded=False),
            "regression": _prepared("neighbors", "KNeighborsRegressor", scale=True, seeded=False),
        },
    ),
    "linear": Model(
        "scikit-learn",
        {
            "classification": _prepared("linear_model", "LogisticRegression", scale=True, max_iter=1000),
            "regression": _prepared("linear_model", "Ridge", scale=True),
        },
    ),
    "random-forest": Model(
        "scikit-learn",
        {
            "classification": _prepared("ensemble", "RandomForestClassifier", scale=False, n_jobs=1),
            "regression": _prepared("ensemble", "RandomForestRegressor", scale=False, n_jobs=1),
        },
    ),
    "hist-boosting": Model("scikit-learn", _both(_histogram)),
    "lightgbm": Model("lightgbm", _both(_lightgbm)),
    "xgboost": Model("xgboost", _both(_xgboost)),
    "catboost": Model("catboost", _both(_catboost)),
}
"""In the order in which they run: ours, then the peers, the slowest last."""

OURS = tuple(name for name, model in MODELS.items() if model.library == "foreknow")
