"""Closed-form in-context predictors whose scores a network can trust: leave-one-out on the context.

A head is kernel ridge regression on one-hot labels (or a nearest-neighbour vote). For context rows it gives
the prediction without the row itself, in closed form, so context and query scores are on the same footing:
with A = (K + r I)^-1, the score of context row i left out is y_i - (A y)_i / A_ii.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from foreknow.core.records import record


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
            neighbour whose rank is the square root of n.
    """

    linear_ridges: tuple[float, ...] = (0.01, 0.3)
    ridges: tuple[float, ...] = (0.03, 0.5)
    rbf: tuple[float, ...] = (0.1, 0.35, 1.0, 4.0)
    laplace: tuple[float, ...] = (0.25, 0.7, 2.0)
    n_trees: int = 48
    votes: tuple[float, ...] = (0.25, 1.0)

    @property
    def kernel_ridges(self) -> list[tuple[float, ...]]:
        """Ridges of every kernel, in the order in which the kernels come."""
        others = 1 + len(self.rbf) + len(self.laplace) + (self.n_trees > 0)
        return [self.linear_ridges, *[self.ridges] * others]

    @property
    def n_heads(self) -> int:
        """Number of scores a row gets per class."""
        return sum(map(len, self.kernel_ridges)) + len(self.votes)


@dataclass(frozen=True)
class FittedHeads:
    """All heads fitted to the context rows of a batch of tables; `predict` scores any further rows.

    Args:
        settings: which heads.
        context: features of the context rows, shape (b, n, p).
        targets: one column per class (one-hot) or one column of numbers, shape (b, n, c).
        left_out: scores of the context rows, each left out of its own, shape (b, n, c, h).
        alphas: dual weights, all kernels' ridges one after the other, one (b, n, c) tensor per kernel and ridge.
        medians: median squared and L1 distance of context pairs, each (b, 1, 1).
        trees: the random trees, and the context's leaves.
    """

    settings: HeadSettings
    context: Float[Tensor, "b n p"]
    targets: Float[Tensor, "b n c"]
    left_out: Float[Tensor, "b n c h"]
    alphas: tuple[Float[Tensor, "b n c"], ...]
    medians: tuple[Tensor, Tensor]
    trees: RandomTrees | None

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
        grams = _grams(context, context, squared, length, medians, trees, settings)
        for gram, ridges in zip(grams, settings.kernel_ridges):
            diagonal = gram.diagonal(dim1=1, dim2=2).mean(dim=1)
            for ridge in ridges:
                inverse = _inverse(gram, ridge * diagonal)
                alphas.append(inverse @ y)
                left_out.append(y - alphas[-1] / inverse.diagonal(dim1=1, dim2=2)[..., None] + others)
        alone = squared.masked_fill(torch.eye(n, dtype=torch.bool, device=squared.device), torch.inf)
        left_out += _votes(alone, targets, settings.votes)
        return cls(settings, context, targets, torch.stack(left_out, dim=-1), tuple(alphas), medians, trees)

    def to(self, dtype: torch.dtype) -> FittedHeads:
        """The same heads in another precision, for `predict`."""
        changes: dict[str, Any] = {name: getattr(self, name).to(dtype) for name in ("context", "targets", "left_out")}
        changes["alphas"] = tuple(alpha.to(dtype) for alpha in self.alphas)
        changes["medians"] = tuple(median.to(dtype) for median in self.medians)
        if self.trees is not None:
            changes["trees"] = replace(self.trees, leaves=self.trees.leaves.to(dtype))
        return replace(self, **changes)

    def predict(self, query: Float[Tensor, "b m p"]) -> Float[Tensor, "b m c h"]:
        """Scores of rows that are not in the context."""
        centre = self.targets.mean(dim=1, keepdim=True)
        squared, length = _squared(query, self.context), torch.cdist(query, self.context, p=1.0)
        grams = _grams(query, self.context, squared, length, self.medians, self.trees, self.settings)
        alphas = iter(self.alphas)
        scores = [
            gram @ next(alphas) + centre for gram, ridges in zip(grams, self.settings.kernel_ridges) for _ in ridges
        ]
        return torch.stack(scores + _votes(squared, self.targets, self.settings.votes), dim=-1)


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
        b, m, _ = rows.shape
        # In the precision of the thresholds: a value equal to one must compare equal, however it is read.
        rows_as_seen = rows.to(self.threshold.dtype)
        answers = rows_as_seen.gather(2, self.feature[:, None].expand(b, m, -1)) > self.threshold
        level = torch.arange(_DEPTH, device=rows.device).repeat(self.n_trees)
        tree = torch.arange(self.n_trees, device=rows.device).repeat_interleave(_DEPTH)
        weight = torch.where(level < 2 + tree % (_DEPTH - 1), 2**level, torch.zeros_like(level))
        codes = (answers * weight).reshape(b, m, self.n_trees, _DEPTH).sum(dim=-1)
        offset = 2**_DEPTH * torch.arange(self.n_trees, device=rows.device)
        hot = rows.new_zeros(b, m, self.n_trees * 2**_DEPTH)
        return hot.scatter_(2, codes + offset, self.n_trees**-0.5)


_DEPTH = 6


def _grams(
    rows: Tensor,
    context: Tensor,
    squared: Tensor,
    length: Tensor,
    medians: tuple[Tensor, Tensor],
    trees: RandomTrees | None,
    settings: HeadSettings,
) -> Iterator[Tensor]:
    """Kernel values between rows and context, shape (b, m, n), one kernel after the other."""
    n_used = (context != 0).any(dim=1).sum(dim=1).clamp_min(1)[:, None, None]
    linear = rows @ context.mT / n_used
    yield linear
    yield (linear + 0.3) ** 2
    for scale in settings.rbf:
        yield torch.exp(-squared / (scale * medians[0]))
    for scale in settings.laplace:
        yield torch.exp(-length / (scale * medians[1]))
    if trees is not None:
        yield (trees.leaves if rows is context else trees.leaves_of(rows)) @ trees.leaves.mT


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


def _votes(squared: Tensor, targets: Tensor, temperatures: tuple[float, ...]) -> list[Tensor]:
    """Soft nearest-neighbour votes; an infinite distance does not vote."""
    n = targets.shape[1]
    if n < 2:
        return [targets.mean(dim=1, keepdim=True).expand(-1, squared.shape[1], -1) for _ in temperatures]
    near = squared.kthvalue(max(min(int(n**0.5), n - 1), 1), dim=-1, keepdim=True).values.clamp_min(1e-6)
    return [torch.softmax(-squared / (temperature * near), dim=-1) @ targets for temperature in temperatures]
