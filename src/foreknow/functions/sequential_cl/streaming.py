"""Streaming linear discriminant analysis (Hayes & Kanan 2020) on frozen features: the baseline that keeps no row.

Class counts, class means and one covariance of all classes are updated by each task's rows and never revisited; the
features do not move, so nothing is forgotten, and the order of tasks makes no difference.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from foreknow.common.errors import InputError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_real
from foreknow.functions.sequential_cl.streams import Scale, split_by_class

Floats = NDArray[np.float64]


class StreamingLDA(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Normal classes of one covariance on frozen random ReLU features, learnt task by task without a memory.

    Args:
        n_features: random features; 0 takes the columns themselves.
        shrinkage: of the covariance towards a multiple of the identity.
        classes_per_task: how `fit` splits the classes, in their order; only the scale of the columns depends on it.
        random_state: seed of the features.
    """

    counts_: Floats
    means_: Floats
    scatter_: Floats

    def __init__(
        self, n_features: int = 500, shrinkage: float = 1e-2, classes_per_task: int = 2, random_state: int = 0
    ) -> None:
        self.n_features = n_features
        self.shrinkage = shrinkage
        self.classes_per_task = classes_per_task
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn the tasks of rows (n, ...) one after another."""
        rows, labels = np.asarray(X, dtype=np.float64), np.asarray(y)
        number = split_by_class(labels, self.classes_per_task)
        self.__dict__.pop("classes_", None)
        for task in range(int(number.max()) + 1):
            self.partial_fit(rows[number == task], labels[number == task])
        return self

    def partial_fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Update counts, means and covariance by rows of new or known classes.

        The first rows set the scale of the columns.
        """
        check_int("StreamingLDA", "n_features", self.n_features, low=0)
        check_real("StreamingLDA", "shrinkage", self.shrinkage, low=0, high=1, open_low=True)
        rows, labels = np.asarray(X, dtype=np.float64), np.asarray(y)
        if not len(rows) or labels.shape != (len(rows),):
            raise InputError(f"StreamingLDA: y must hold one label a row; got {labels.shape} for {len(rows)} rows.")
        if not hasattr(self, "classes_"):
            self.scale_ = Scale.of(rows)
            self._start(math.prod(rows.shape[1:]))
            self.classes_ = labels[:0]
        features = self._features(rows)
        for label in np.unique(labels):
            own = features[labels == label]
            at = int(np.searchsorted(self.classes_, label))
            if at == len(self.classes_) or self.classes_[at] != label:
                self.classes_ = np.insert(self.classes_.astype(np.result_type(self.classes_, labels)), at, label)
                self.counts_ = np.insert(self.counts_, at, 0.0)
                self.means_ = np.insert(self.means_, at, 0.0, axis=0)
            before, mean = self.counts_[at], own.mean(0)
            self.counts_[at] += len(own)
            step = mean - self.means_[at]
            self.scatter_ += (own - mean).T @ (own - mean) + before * len(own) / self.counts_[at] * np.outer(step, step)
            self.means_[at] += len(own) / self.counts_[at] * step
        return self

    def predict_proba(self, X: ArrayLike) -> Floats:
        covariance = self.scatter_ / self.counts_.sum()
        size = len(covariance)
        ridge = self.shrinkage * max(float(np.trace(covariance)) / size, 1e-12)
        weights = np.linalg.solve((1 - self.shrinkage) * covariance + ridge * np.eye(size), self.means_.T)
        offset = np.log(self.counts_ / self.counts_.sum()) - 0.5 * np.einsum("cd,dc->c", self.means_, weights)
        return np.asarray(softmax(self._features(np.asarray(X, dtype=np.float64)) @ weights + offset, axis=1))

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        return np.asarray(self.classes_[self.predict_proba(X).argmax(1)])

    def _start(self, n_in: int) -> None:
        rng = numpy_stream(self.random_state, "streaming lda")
        size = self.n_features or n_in
        self._directions = rng.normal(size=(n_in, size)) / math.sqrt(n_in)
        self._shifts = rng.normal(size=size)
        self.counts_, self.means_, self.scatter_ = np.zeros(0), np.zeros((0, size)), np.zeros((size, size))

    def _features(self, rows: Floats) -> Floats:
        scaled = self.scale_(rows).reshape(len(rows), -1)
        return np.maximum(scaled @ self._directions + self._shifts, 0) if self.n_features else scaled
