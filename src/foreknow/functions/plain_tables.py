"""Plain methods on matrices, made to read the tables of the price harness."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from foreknow.core.predictive import Predictive
from foreknow.data.table import Table


class OnTables:
    """A method that reads matrices: categories become codes, missing cells the column's median in training.

    Args:
        method: with `fit`, and `predict_dist` or `predict_proba`.
    """

    def __init__(self, method: Any) -> None:
        self.method = method

    def fit(self, X: Any, y: Any) -> Self:
        """Learn levels and medians from the rows, then the method."""
        self._levels: dict[str, dict[Any, float]] = {}
        if isinstance(X, Table):
            for column in X.columns:
                if column.kind == "categorical":
                    known = sorted(set(column.values.tolist()) - {None})
                    self._levels[column.name] = {level: float(code) for code, level in enumerate(known)}
        matrix = self._matrix(X)
        there = np.isfinite(matrix)
        self._medians = np.array([np.median(c[t]) if t.any() else 0.0 for c, t in zip(matrix.T, there.T, strict=True)])
        self.method.fit(np.where(there, matrix, self._medians), y)
        if hasattr(self.method, "classes_"):
            self.classes_ = self.method.classes_
        return self

    def predict_dist(self, X: Any) -> Predictive:
        """What the method says of rows."""
        found: Predictive = self.method.predict_dist(self._filled(X))
        return found

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The same, of classes."""
        return np.asarray(self.method.predict_proba(self._filled(X)), dtype=np.float64)

    def predict(self, X: Any) -> NDArray[Any]:
        """The same, as one value a row."""
        return np.asarray(self.method.predict(self._filled(X)))

    def _filled(self, X: Any) -> NDArray[np.float64]:
        matrix = self._matrix(X)
        return np.where(np.isfinite(matrix), matrix, self._medians)

    def _matrix(self, X: Any) -> NDArray[np.float64]:
        if not isinstance(X, Table):
            return np.asarray(X, dtype=np.float64)
        columns = []
        for column in X.columns:
            codes = self._levels.get(column.name)
            values = column.values.tolist()
            columns.append([codes.get(v, np.nan) for v in values] if codes is not None else values)
        return np.asarray(columns, dtype=np.float64).T
