"""`TabularClassifier`: class probabilities for small tables, no tuning, nothing downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from torch import Tensor
from torch.nn import functional as F

from foreknow.common.rng import numpy_stream
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.registry import register
from foreknow.core.system import Example
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.base import TabularEstimator
from foreknow.tasks.tabular.network import ClassifierStack


@register(CARD, main=False)
class TabularClassifier(ClassifierMixin, TabularEstimator):  # type: ignore[misc]
    """Class probabilities for small tables by one forward pass; nothing is tuned or downloaded.

    `fit` encodes the table, fits some thirty quick predictors with scores that leave each row out, and lets a shipped
    network read these scores; the network was fitted to tables drawn from open priors. Text, categories, booleans,
    dates and missing values go in as they are, and there may be any number of classes: the network treats all
    classes alike. Best from some 50 to 2000 rows; beyond `max_rows` each member of the ensemble sees a stratified
    sample, with a warning.

    Args:
        n_estimators: members of the ensemble, which differ in their random trees, in the weight of ranks against
            z-scores and, on large tables, in their rows and columns.
        max_rows: most context rows a member uses; cost grows with its cube.
        max_columns: most columns a member uses; from more each takes a random subset.
        weights: "shipped" or the path of a network file.
        prior: "paper" (the mixture the network was fitted to; see `foreknow sample`), or "off": the network's
            reading is switched off and the heads are combined by their leave-one-out errors alone; or "wrong": a
            placebo, in which the network does with each head what it learnt to do with another.
        random_state: seed of the random trees and samples.
        device: "auto", "cpu", "cuda".

    Attributes:
        classes_: the labels, sorted.
        notes_: what was dropped or encoded, and why.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from foreknow import TabularClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> float(TabularClassifier(random_state=0).fit(X[::2], y[::2]).score(X[1::2], y[1::2])) > 0.9
        True
    """

    def _task(self) -> str:
        return "classification"

    def _targets(self, y: NDArray[Any]) -> Tensor:
        return F.one_hot(torch.as_tensor(y), len(self.classes_)).double()

    def _sample(self, y: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        order = rng.permutation(len(y))
        codes = y[order]
        # Position of each row within its class as a share of the class: the smallest shares come first.
        position = np.empty(len(y))
        for code in range(len(self.classes_)):
            own = np.flatnonzero(codes == code)
            position[own] = np.arange(len(own)) / len(own)
        return np.asarray(order[np.argsort(position, kind="stable")[:n]])

    def _predict_encoded(self, x: NDArray[np.float64]) -> Predictive:
        network = self.network_
        assert isinstance(network, ClassifierStack)
        parts = []
        with torch.inference_mode():
            for rows in self._chunks(x):
                logits = [network.read(member.cache, member.scores(rows), member.table)[0] for member in self.members_]
                parts.append(torch.softmax(torch.stack(logits), dim=-1).mean(dim=0))
            return Categorical(torch.cat(parts).clamp_min(1e-12).log())

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "tabular", "examples")
        X = rng.normal(size=(40, 4))
        three = np.array(["low", "middle", "high"])[np.digitize(X[:, 0] + X[:, 1] ** 2, [0.0, 1.0])]
        return [
            Example("two classes", {"n_estimators": 1, "random_state": 0}, X, (X[:, 0] > 0).astype(int)),
            Example("three classes", {"n_estimators": 2, "random_state": 0}, X, three),
        ]
