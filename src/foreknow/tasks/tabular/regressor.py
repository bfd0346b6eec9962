"""`TabularRegressor`: predictive distributions of a number for small tables, no tuning, nothing downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from torch import Tensor

from foreknow.common.rng import numpy_stream
from foreknow.core.predictive import Affine, Bar, Predictive, Transformed
from foreknow.core.registry import register
from foreknow.core.system import Example
from foreknow.data.table import Table
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.base import Member, TabularEstimator
from foreknow.tasks.tabular.network import RegressorStack


@register(CARD, main=False)
class TabularRegressor(RegressorMixin, TabularEstimator):  # type: ignore[misc]
    """A whole predictive distribution of a number for every row, by one forward pass; nothing is tuned or downloaded.

    The regression twin of `TabularClassifier`: the same closed-form predictors with leave-one-out scores, read by a
    network that was fitted to tables drawn from open priors and returns a bar distribution: `predict` gives its
    mean, `predict(X, quantiles=[...])` quantiles, `predict_dist` the distribution itself (densities, intervals,
    draws, expected improvement).

    Args:
        n_estimators: members of the ensemble, which differ in their random trees, in the weight of ranks against
            z-scores and, on large tables, in their rows and columns; their distributions are averaged.
        max_rows: most context rows a member uses; cost grows with its cube. Beyond it each member sees a sample
            spread over the target, with a warning.
        max_columns: most columns a member uses; from more each takes a random subset.
        weights: "shipped" or the path of a network file.
        prior: "paper" (the mixture the network was fitted to), or "off": the network's reading is switched off; the
            heads are combined by their leave-one-out errors, whose overall spread is every row's; or "wrong": a
            placebo, in which the network does with each head what it learnt to do with another.
        random_state: seed of the random trees and samples.
        device: "auto", "cpu", "cuda".

    Attributes:
        notes_: what was dropped or encoded, and why.

    Example:
        >>> from sklearn.datasets import load_diabetes
        >>> from foreknow import TabularRegressor
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = TabularRegressor(random_state=0).fit(X[::2], y[::2])
        >>> low, high = model.predict(X[1::2], quantiles=[0.05, 0.95]).T
        >>> bool(0.8 < ((low < y[1::2]) & (y[1::2] < high)).mean() < 0.97)
        True
    """

    def _task(self) -> str:
        return "regression"

    def _targets(self, y: NDArray[Any]) -> Tensor:
        return torch.as_tensor((y - self._middle) / self._spread)[:, None]

    def _prepare(self, x: NDArray[np.float64], is_categorical: NDArray[np.bool_], y: NDArray[Any]) -> None:
        ordered = np.sort(y)  # sums in one order, whatever that of the rows
        self._middle = float(ordered.mean())
        largest = float(np.abs(y).max())
        spread = float((ordered / max(largest, 1e-300)).std() * largest)  # squares of large y overflow
        self._spread = spread if spread > 1e-12 * abs(self._middle) + 1e-300 else 1.0
        super()._prepare(x, is_categorical, y)

    def _sample(self, y: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        # One row of each of n equal parts of the ordered target.
        order = np.argsort(y + 0.0, kind="stable")
        edges = np.linspace(0, len(y), n + 1)
        return np.asarray(order[(edges[:-1] + rng.uniform(size=n) * np.diff(edges)).astype(np.int64)])

    def _predict_encoded(self, x: NDArray[np.float64]) -> Predictive:
        with torch.inference_mode():
            parts = [self._distribution(rows) for rows in self._chunks(x)]
            return parts[0] if len(parts) == 1 else parts[0].cat(parts)

    def _predict(self, X: Table) -> NDArray[Any]:
        # Chunk by chunk: the distributions of all rows would take a kilobyte each.
        with torch.inference_mode():
            means = [self._distribution(rows).mean() for rows in self._chunks(self.encoder_.transform(X).x)]
        return np.asarray(torch.cat(means).cpu().numpy())

    def _distribution(self, rows: Tensor) -> Predictive:
        network = self.network_
        assert isinstance(network, RegressorStack)
        each = [_read(network, member, rows) for member in self.members_]
        location = torch.stack([place for place, _, _ in each]).mean(dim=0)
        scale = torch.stack([spread for _, _, spread in each]).mean(dim=0)
        logits = each[0][1]
        if len(each) > 1:
            # The members' distributions, averaged on the buckets around the mean location.
            at = location + scale * network.borders[1:-1, None]
            inner = torch.stack([_distribution_of(network, *one).cdf(at) for one in each]).mean(dim=0)
            edges = torch.cat([torch.zeros_like(inner[:1]), inner, torch.ones_like(inner[:1])])
            logits = edges.diff(dim=0).clamp_min(1e-12).log().T
        base = Bar(logits, network.borders)
        return Transformed(base, Affine(self._middle + self._spread * location, self._spread * scale))

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "tabular", "regression examples")
        X = rng.normal(size=(40, 4))
        y = X[:, 0] + np.abs(X[:, 1]) + 0.1 * rng.normal(size=40)
        return [
            Example("one member", {"n_estimators": 1, "random_state": 0}, X, y),
            Example("two members", {"n_estimators": 2, "random_state": 0}, X, 100 + 5 * y),
        ]


def _read(network: RegressorStack, member: Member, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Location (m,), logits (m, k) and scale (m,) of rows."""
    location, logits = network.read(member.cache, member.scores(rows), member.table)
    return location[0], logits[0], member.table[0, 0, 1].expand(len(rows))


def _distribution_of(network: RegressorStack, location: Tensor, logits: Tensor, scale: Tensor) -> Predictive:
    return Transformed(Bar(logits, network.borders), Affine(location, scale))
