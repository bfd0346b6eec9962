"""A small forest whose scores can be trusted: each tree learns from a part of the context, the rest judges it.

Trees are grown level by level, all at once: at every level a tree draws a few (feature, threshold) pairs, and each
of its leaves takes the pair that brings its rows closest to their means. A context row is scored by the trees that
have not seen it, so that, as with the closed-form heads, context and query scores are on the same footing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

DEPTHS = (3, 6)
"""Levels after which the trees are read."""

_CANDIDATES = 16
_SEEN = 0.632
_ELEMENTS = 2**23  # of the largest intermediate


@dataclass(frozen=True)
class Forest:
    """Trees over the features of a batch of tables.

    Args:
        feature: feature asked in every leaf, one (b, t, 2^l) tensor per level l.
        threshold: value it must exceed to go right, the same shapes.
        values: mean target of every leaf, one (b, t, 2^depth, c) tensor per depth of `DEPTHS`.
        left_out: scores of the context rows by the trees that have not seen them, shape (b, n, c, len(DEPTHS)).
    """

    feature: tuple[Int[Tensor, "b t l"], ...]
    threshold: tuple[Float[Tensor, "b t l"], ...]
    values: tuple[Float[Tensor, "b t l c"], ...]
    left_out: Float[Tensor, "b n c d"]

    @classmethod
    def grow(
        cls, context: Float[Tensor, "b n p"], targets: Float[Tensor, "b n c"], n_trees: int, generator: Generator
    ) -> Forest:
        """Trees for every table; `generator` draws the rows they see and the questions they may ask."""
        b, n, c = targets.shape
        largest = max(n * 2 ** max(DEPTHS) // 2 * (c + 1), 1) * b
        step = max(min(n_trees, _ELEMENTS // largest), 1)
        used = (context != context[:, :1]).any(dim=1).float() + 1e-9
        parts, total, weight = [], targets.new_zeros(b, n, c, len(DEPTHS)), targets.new_zeros(b, n)
        for start in range(0, n_trees, step):
            size = min(step, n_trees - start)
            seen = _random((b, size, n), generator, context) < _SEEN
            grown, fitted = _grow(context, targets, seen, used, generator)
            total += torch.einsum("btn,btncd->bncd", (~seen).to(targets.dtype), fitted)
            weight += (~seen).sum(dim=1)
            parts.append(grown)
        mean = targets.mean(dim=1, keepdim=True)[..., None]
        known = (weight > 0)[..., None, None]
        left_out = torch.where(known, total / weight.clamp_min(1)[..., None, None], mean)
        feature, threshold, values = (tuple(torch.cat(level, dim=1) for level in zip(*kind)) for kind in zip(*parts))
        return cls(feature, threshold, values, left_out)

    def to(self, dtype: torch.dtype) -> Forest:
        """The same trees with values in another precision; thresholds keep theirs."""
        return replace(self, values=tuple(v.to(dtype) for v in self.values), left_out=self.left_out.to(dtype))

    def predict(self, query: Float[Tensor, "b m p"]) -> Float[Tensor, "b m c d"]:
        """Mean over all trees of the leaf values of rows."""
        b, m, _ = query.shape
        n_trees = self.feature[0].shape[1]
        # In the precision of the thresholds: a value equal to one must compare equal, however it is read.
        rows = query.to(self.threshold[0].dtype).transpose(1, 2)  # b p m
        leaf = torch.zeros(b, n_trees, m, dtype=torch.long, device=query.device)
        scores = []
        for level in range(max(DEPTHS)):
            asked = rows.gather(1, self.feature[level].gather(2, leaf))
            leaf = 2 * leaf + (asked > self.threshold[level].gather(2, leaf))
            if level + 1 in DEPTHS:
                scores.append(_values_at(self.values[DEPTHS.index(level + 1)], leaf).mean(dim=1))
        return torch.stack(scores, dim=-1)


_Grown = tuple[list[Tensor], list[Tensor], list[Tensor]]


def _grow(
    context: Tensor, targets: Tensor, seen: Bool[Tensor, "b t n"], used: Tensor, generator: Generator
) -> tuple[_Grown, Float[Tensor, "b t n c d"]]:
    """Trees that have seen some rows, and their values at all rows."""
    (b, t, n), c = seen.shape, targets.shape[2]
    columns = context.transpose(1, 2).contiguous()  # b p n
    mean = targets.mean(dim=1)
    # Targets beside a one: sums over rows give a leaf's total and its size.
    centred = torch.cat([targets - mean[:, None], torch.ones_like(targets[..., :1])], dim=-1)
    weighted = centred[:, None] * seen[..., None]  # b t n (c + 1)
    leaf = torch.zeros(b, t, n, dtype=torch.long, device=context.device)
    features, thresholds, values, fitted = [], [], [], []
    for level in range(max(DEPTHS)):
        n_leaves = 2**level
        candidate = torch.multinomial(used.to(generator.device), t * _CANDIDATES, replacement=True, generator=generator)
        candidate = candidate.to(context.device)
        row = torch.randint(n, (b, t * _CANDIDATES), generator=generator, device=generator.device).to(context.device)
        asked = columns.gather(1, candidate[..., None].expand(-1, -1, n))  # b (t k) n
        cut = asked.gather(2, row[..., None])
        right = (asked > cut).reshape(b, t, _CANDIDATES, n)
        sums = _leaf_sums(weighted, leaf, n_leaves)  # b t n (l c+1)
        on_right = (right.to(weighted.dtype) @ sums).reshape(b, t, _CANDIDATES, n_leaves, c + 1)
        whole = sums.sum(dim=2).reshape(b, t, 1, n_leaves, c + 1)
        gain = _tightness(on_right) + _tightness(whole - on_right)
        best = gain.argmax(dim=2)  # b t l
        features.append(candidate.reshape(b, t, -1).gather(2, best))
        thresholds.append(cut.reshape(b, t, -1).gather(2, best))
        answer = right.gather(2, best.gather(2, leaf)[:, :, None])[:, :, 0]
        leaf = 2 * leaf + answer
        if level + 1 in DEPTHS:
            pairs = torch.stack([whole[:, :, 0] - _chosen(on_right, best), _chosen(on_right, best)], dim=3)
            pairs = pairs.flatten(2, 3)  # b t 2l c+1, left before right
            value = pairs[..., :-1] / (pairs[..., -1:] + 1) + mean[:, None, None]
            values.append(value)
            fitted.append(_values_at(value, leaf))
    return (features, thresholds, values), torch.stack(fitted, dim=-1)


def _leaf_sums(weighted: Tensor, leaf: Tensor, n_leaves: int) -> Tensor:
    """Targets of every row in the columns of its leaf, zeros elsewhere, shape (b, t, n, n_leaves * (c + 1))."""
    b, t, n, k = weighted.shape
    spread = weighted.new_zeros(b, t, n, n_leaves, k)
    return spread.scatter_(3, leaf[..., None, None].expand(b, t, n, 1, k), weighted[..., None, :]).flatten(3)


def _tightness(sums: Tensor) -> Tensor:
    """How much of the squares of its targets a leaf's mean explains; totals and, last, the number of rows."""
    return sums[..., :-1].square().sum(dim=-1) / (sums[..., -1] + 1)


def _chosen(on_right: Tensor, best: Tensor) -> Tensor:
    b, t, _, n_leaves, k = on_right.shape
    return on_right.gather(2, best[:, :, None, :, None].expand(b, t, 1, n_leaves, k))[:, :, 0]


def _values_at(values: Tensor, leaf: Tensor) -> Tensor:
    """Values (b, t, l, c) of the leaves (b, t, m) of rows, shape (b, t, m, c)."""
    return values.gather(2, leaf[..., None].expand(*leaf.shape, values.shape[-1]))


def _random(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device).to(like.device)
