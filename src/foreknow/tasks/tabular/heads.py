"""Closed-form in-context predictors whose scores a network can trust: leave-one-out on the context.

A head is kernel ridge regression on one-hot labels, a nearest-neighbour vote or a forest. For context rows it gives
the prediction without the row itself, in closed form, so context and query scores are on the same footing:
with A = (K + r I)^-1, the score of context row i left out is y_i - (A y)_i / A_ii. One more score combines all
heads by the non-negative weights that predict the left-out rows best; beside the scores stand two facts of a
row's surroundings, how far its neighbours are and how wrong the combination is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor
from torch.nn import functional as F

from foreknow.common.errors import ConfigError
from foreknow.core.records import record
from foreknow.tasks.tabular.forest import DEPTHS, Forest


@record
@dataclass(frozen=True)
class HeadSettings:
    """Which heads there are.

    Args:
        linear_ridges: ridges of the linear kernel, as shares of its mean diagonal.
        ridges: ridges of every other kernel.
        rbf: squared lengthscales as multiples of the median squared distance.
        laplace: lengthscales as multiples of the median L1 distance.
        n_trees: totally random trees of the co-occurrence kernel; 0 leaves it out.
        votes: temperatures of the soft nearest-neighbour votes, as multiples of the squared distance to the
            neighbour whose rank is the square root of n; the last is also the neighbourhood of `Scores.error`.
        n_forest: trees of the forest, which is read after several depths; 0 leaves it out.
    """

    linear_ridges: tuple[float, ...] = (0.03, 3.0)
    ridges: tuple[float, ...] = (0.05, 0.6, 5.0)
    rbf: tuple[float, ...] = (0.35, 1.0, 4.0)
    laplace: tuple[float, ...] = (0.25, 0.7, 2.0)
    n_trees: int = 48
    votes: tuple[float, ...] = (0.25, 1.0)
    n_forest: int = 64

    def __post_init__(self) -> None:
        if not self.votes:
            raise ConfigError("HeadSettings: votes must hold at least one temperature, it was empty.")

    @property
    def kernel_ridges(self) -> list[tuple[float, ...]]:
        """Ridges of every kernel, in the order in which the kernels come."""
        others = 1 + len(self.rbf) + len(self.laplace) + (self.n_trees > 0)
        return [self.linear_ridges, *[self.ridges] * others]

    @property
    def n_heads(self) -> int:
        """Number of predictors."""
        return sum(map(len, self.kernel_ridges)) + len(self.votes) + len(DEPTHS) * (self.n_forest > 0)

    @property
    def n_scores(self) -> int:
        """Number of scores a row gets per class: the predictors, and their combination last."""
        return self.n_heads + 1


@dataclass(frozen=True)
class Scores:
    """What the heads say about rows.

    Args:
        heads: scores of the predictors and, last, of their combination, shape (b, m, c, n_scores).
        error: root mean square error of the combination around a row, shape (b, m, c).
        distance: logarithm of the squared distance to the row's neighbours over the median of all, shape (b, m).
    """

    heads: Float[Tensor, "b m c h"]
    error: Float[Tensor, "b m c"]
    distance: Float[Tensor, "b m"]

    def to(self, *where: torch.device | torch.dtype | str) -> Scores:
        """The same scores elsewhere or in another precision."""
        return Scores(**{name: value.to(*where) for name, value in vars(self).items()})


@dataclass(frozen=True)
class FittedHeads:
    """All heads fitted to the context rows of a batch of tables; `predict` scores any further rows.

    Args:
        settings: which heads.
        context: features of the context rows, shape (b, n, p).
        targets: one column per class (one-hot) or one column of numbers, shape (b, n, c).
        left_out: what the heads say about the context rows, each left out of its own.
        weights: share of every predictor in the combination, shape (b, h).
        alphas: dual weights, all kernels' ridges one after the other, one (b, n, c) tensor per kernel and ridge.
        medians: median squared and L1 distance of context pairs, each (b, 1, 1).
        trees: the random trees, and the context's leaves.
        forest: the forest.
    """

    settings: HeadSettings
    context: Float[Tensor, "b n p"]
    targets: Float[Tensor, "b n c"]
    left_out: Scores
    weights: Float[Tensor, "b h"]
    alphas: tuple[Float[Tensor, "b n c"], ...]
    medians: tuple[Tensor, Tensor]
    trees: RandomTrees | None
    forest: Forest | None

    @classmethod
    def fit(
        cls,
        context: Float[Tensor, "b n p"],
        targets: Float[Tensor, "b n c"],
        settings: HeadSettings,
        generator: Generator,
    ) -> FittedHeads:
        """Solve every head. `generator` draws the random trees."""
        n = targets.shape[1]
        centre = targets.mean(dim=1, keepdim=True)
        # A row left out is left out of the mean as well.
        others = (n * centre - targets) / max(n - 1, 1)
        y = targets - centre
        squared, length = _squared(context, context), torch.cdist(context, context, p=1.0)
        medians = _median(squared), _median(length)
        trees = RandomTrees.draw(context, settings.n_trees, generator) if settings.n_trees else None
        alphas, left_out = [], []
        grams = _grams(context, squared, length, medians, trees, settings)
        for gram, ridges in zip(grams, settings.kernel_ridges):
            diagonal = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
            for ridge in ridges:
                inverse = _inverse(gram, ridge * diagonal)
                alphas.append(inverse @ y)
                left_out.append(y - alphas[-1] / inverse.diagonal(dim1=1, dim2=2)[..., None] + others)
        alone = squared.masked_fill(torch.eye(n, dtype=torch.bool, device=squared.device), torch.inf)
        nearby, distance = _nearby(alone, medians[0], settings.votes)
        forest = Forest.grow(context, targets, settings.n_forest, generator) if settings.n_forest else None
        single = torch.stack(left_out + [share @ targets for share in nearby], dim=-1)
        if forest is not None:
            single = torch.cat([single, forest.left_out], dim=-1)
        weights = combination(single, targets)
        heads = _with_combination(single, weights, others)
        error = _local_error(nearby, targets, heads)
        fitted = Scores(heads, error, distance)
        return cls(settings, context, targets, fitted, weights, tuple(alphas), medians, trees, forest)

    def to(self, dtype: torch.dtype) -> FittedHeads:
        """The same heads in another precision, for `predict`."""
        changes: dict[str, Any] = {name: getattr(self, name).to(dtype) for name in ("context", "targets", "weights")}
        changes["left_out"] = self.left_out.to(dtype)
        changes["alphas"] = tuple(alpha.to(dtype) for alpha in self.alphas)
        changes["medians"] = tuple(median.to(dtype) for median in self.medians)
        if self.trees is not None:
            changes["trees"] = replace(self.trees, leaves=self.trees.leaves.to(dtype))
        if self.forest is not None:
            changes["forest"] = self.forest.to(dtype)
        return replace(self, **changes)

    def predict(self, query: Float[Tensor, "b m p"]) -> Scores:
        """Scores of rows that are not in the context."""
        centre = self.targets.mean(dim=1, keepdim=True)
        squared, length = _squared(query, self.context), torch.cdist(query, self.context, p=1.0)
        linear = query @ self._scaled_context
        grams = _dense_grams(linear, squared, length, self.medians, self.settings)
        products = [query @ self._readouts[0], *(gram @ part for gram, part in zip(grams, self._readouts[1:]))]
        if self.trees is not None:
            products.append(self.trees.read(query, self._readouts[-1]))
        (b, m, _), c = query.shape, centre.shape[2]
        scores = torch.cat(products, dim=2).reshape(b, m, len(self.alphas), c).transpose(2, 3) + centre[..., None]
        nearby, distance = _nearby(squared, self.medians[0], self.settings.votes)
        votes = torch.stack([share @ self.targets for share in nearby], dim=-1)
        single = torch.cat([scores, votes], dim=-1)
        if self.forest is not None:
            single = torch.cat([single, self.forest.predict(query)], dim=-1)
        error = _local_error(nearby, self.targets, self.left_out.heads)
        return Scores(_with_combination(single, self.weights, centre), error, distance)

    @cached_property
    def _scaled_context(self) -> Float[Tensor, "b p n"]:
        """What features are multiplied by to give the linear kernel."""
        return self.context.mT / _n_used(self.context)

    @cached_property
    def _readouts(self) -> list[Tensor]:
        """What a kernel's values, or the features themselves, are multiplied by: all its ridges side by side.

        The linear kernel and that of the trees are products of features, so their dual weights are turned into
        weights on features once, and no row is compared with the whole context for them.
        """
        alphas = iter(self.alphas)
        none = self.targets[..., :0]
        duals = [torch.cat([none, *(next(alphas) for _ in ridges)], dim=-1) for ridges in self.settings.kernel_ridges]
        duals[0] = self._scaled_context @ duals[0]
        if self.trees is not None:
            duals[-1] = self.trees.leaves.mT @ duals[-1]
        return duals


def combination(scores: Float[Tensor, "b n c h"], targets: Float[Tensor, "b n c"]) -> Float[Tensor, "b h"]:
    """Non-negative weights, one set per table, that bring the scores closest to the targets.

    Least squares over rows and classes with a pull towards equal weights that fades with the number of rows, by
    accelerated projected gradient steps.
    """
    b, n, _, h = scores.shape
    centre = targets.mean(dim=1, keepdim=True)
    x, y = (scores - centre[..., None]).flatten(1, 2), (targets - centre).flatten(1, 2)
    gram = x.mT @ x / n
    pull = _PULL / n * gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)
    gram = gram + pull[:, None, None] * torch.eye(h, dtype=gram.dtype, device=gram.device)
    goal = (x.mT @ y[..., None])[..., 0] / n + pull[:, None] / h
    step = 1 / gram.abs().sum(dim=2).amax(dim=1)[:, None]  # no eigenvalue exceeds the largest absolute row sum
    weights = ahead = gram.new_full((b, h), 1 / h)
    momentum = 1.0
    for _ in range(_STEPS):
        new = (ahead - step * ((gram @ ahead[..., None])[..., 0] - goal)).clamp_min(0)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - weights)
        weights, momentum = new, following
    return weights


_PULL, _STEPS = 4.0, 150


def _with_combination(single: Tensor, weights: Tensor, centre: Tensor) -> Tensor:
    """Scores with their combination last; the weights act on differences from the mean target."""
    combined = centre + torch.einsum("bmch,bh->bmc", single - centre[..., None], weights)
    return torch.cat([single, combined[..., None]], dim=-1)


def _local_error(nearby: list[Tensor], targets: Tensor, left_out: Tensor) -> Tensor:
    """Root mean square error of the combination among a row's neighbours."""
    return (nearby[-1] @ (targets - left_out[..., -1]).square()).clamp_min(1e-12).sqrt()


@dataclass(frozen=True)
class RandomTrees:
    """Totally random oblivious trees: each level asks one feature against the value of one random context row.

    Args:
        feature: feature asked at each level of each tree, shape (b, t * depth).
        threshold: value it is compared with, shape (b, 1, t * depth).
        n_trees: number of trees t; their depths run from 2 to 6.
        leaves: the context's leaves, shape (b, n, t * 2^depth), scaled so that `leaves @ leaves.mT` is the share
            of trees in which two rows fall into one leaf.
    """

    feature: Tensor
    threshold: Tensor
    n_trees: int
    leaves: Tensor

    @classmethod
    def draw(cls, context: Float[Tensor, "b n p"], n_trees: int, generator: Generator) -> RandomTrees:
        """Trees over the features that vary in the context."""
        b, n, _ = context.shape
        size = n_trees * _DEPTH
        used = (context != context[:, :1]).any(dim=1).float() + 1e-9
        feature = torch.multinomial(used.to(generator.device), size, replacement=True, generator=generator)
        row = torch.randint(n, (b, size), generator=generator, device=generator.device).to(context.device)
        feature = feature.to(context.device)
        threshold = context.gather(2, feature[:, None].expand(b, n, -1)).gather(1, row[:, None])
        empty = cls(feature, threshold, n_trees, context.new_zeros(b, 0, 0))
        return cls(feature, threshold, n_trees, empty.leaves_of(context))

    def leaves_of(self, rows: Float[Tensor, "b m p"]) -> Float[Tensor, "b m q"]:
        """Indicators of the leaves that rows fall into, over the square root of the number of trees."""
        hot = rows.new_zeros(*rows.shape[:2], self.n_trees * 2**_DEPTH)
        return hot.scatter_(2, self._codes(rows), self.n_trees**-0.5)

    def read(self, rows: Float[Tensor, "b m p"], weights: Float[Tensor, "b q r"]) -> Float[Tensor, "b m r"]:
        """`leaves_of(rows) @ weights`, by looking up the weights of each row's leaves."""
        codes, first = self._codes(rows), torch.arange(len(rows), device=rows.device) * weights.shape[1]
        summed = F.embedding_bag((codes + first[:, None, None]).flatten(0, 1), weights.flatten(0, 1), mode="sum")
        return summed.mul(self.n_trees**-0.5).reshape(*rows.shape[:2], weights.shape[2])

    def _codes(self, rows: Float[Tensor, "b m p"]) -> Int[Tensor, "b m t"]:
        """Which of all leaves a row falls into, one per tree."""
        b, m, _ = rows.shape
        # In the precision of the thresholds: a value equal to one must compare equal, however it is read.
        rows_as_seen = rows.to(self.threshold.dtype)
        answers = rows_as_seen.gather(2, self.feature[:, None].expand(b, m, -1)) > self.threshold
        level = torch.arange(_DEPTH, device=rows.device).repeat(self.n_trees)
        tree = torch.arange(self.n_trees, device=rows.device).repeat_interleave(_DEPTH)
        weight = torch.where(level < 2 + tree % (_DEPTH - 1), 2**level, torch.zeros_like(level))
        codes = (answers * weight).reshape(b, m, self.n_trees, _DEPTH).sum(dim=-1)
        first: Tensor = 2**_DEPTH * torch.arange(self.n_trees, device=rows.device)
        return codes + first


_DEPTH = 6


def _grams(
    context: Tensor,
    squared: Tensor,
    length: Tensor,
    medians: tuple[Tensor, Tensor],
    trees: RandomTrees | None,
    settings: HeadSettings,
) -> Iterator[Tensor]:
    """Kernel values between context rows, shape (b, n, n), one kernel after the other."""
    linear = context @ context.mT / _n_used(context)
    yield linear
    yield from _dense_grams(linear, squared, length, medians, settings)
    if trees is not None:
        yield trees.leaves @ trees.leaves.mT


def _dense_grams(
    linear: Tensor, squared: Tensor, length: Tensor, medians: tuple[Tensor, Tensor], settings: HeadSettings
) -> Iterator[Tensor]:
    """Values of the kernels that are no product of few features, shape (b, m, n)."""
    yield (linear + 0.3).square_()
    for scale in settings.rbf:
        yield (squared / (-scale * medians[0])).exp_()
    for scale in settings.laplace:
        yield (length / (-scale * medians[1])).exp_()


def _n_used(context: Tensor) -> Tensor:
    """Number of features that vary from zero, shape (b, 1, 1)."""
    return (context != 0).any(dim=1).sum(dim=1).clamp_min(1)[:, None, None]


def _inverse(gram: Tensor, ridge: Tensor) -> Tensor:
    """(K + r I)^-1 by Cholesky, with more ridge where rounding has made the matrix indefinite."""
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    jitter = ridge.clamp_min(1e-6)
    for _ in range(6):
        factor, failed = torch.linalg.cholesky_ex(gram + jitter[:, None, None] * eye)
        if not bool(failed.any()):
            break
        jitter = torch.where(failed > 0, jitter * 10 + 1e-4, jitter)
    return torch.cholesky_inverse(factor)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    product = a @ b.mT
    return (a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * product).clamp_min(0)


def _median(distances: Tensor) -> Tensor:
    """Median over the pairs of each table (of some 128 rows and all others), shape (b, 1, 1), positive."""
    step = max(distances.shape[-1] // 128, 1)
    return distances[:, ::step].flatten(1).median(dim=1).values.clamp_min(1e-6)[:, None, None]


def _nearby(
    squared: Tensor, median: Tensor, temperatures: tuple[float, ...]
) -> tuple[list[Float[Tensor, "b m n"]], Float[Tensor, "b m"]]:
    """Shares of the context rows in a row's neighbourhood, softly, and how far it reaches.

    A context row at infinite distance has no share.
    """
    n = squared.shape[2]
    if n < 2:
        return [torch.ones_like(squared) / n for _ in temperatures], squared.new_zeros(squared.shape[:2])
    near = squared.kthvalue(max(min(int(n**0.5), n - 1), 1), dim=-1, keepdim=True).values.clamp_min(1e-6)
    shares = [torch.softmax(squared / (-temperature * near), dim=-1) for temperature in temperatures]
    return shares, (near / median)[..., 0].clamp(1e-4, 1e4).log()
