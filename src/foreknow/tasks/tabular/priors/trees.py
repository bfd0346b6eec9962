"""Tables whose mechanisms are ensembles of random trees, as nodes of a causal model or as one function.

In the style of the tree prior of TabICL (Qu et al., 2025), whose nodes are boosted trees fitted to noise:
trees here are random, with thresholds at values of the rows, which costs a thousandth and gives the same kind of
function. One forest feeds all nodes of a layer; each node has leaf values of its own for some of the trees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foreknow.common.validate import check_int, check_real
from foreknow.core.registry import register
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.priors.base import N_SCORES, TablePrior
from foreknow.tasks.tabular.priors.source import Source, given_columns, observation_noise, root_causes

_BUCKET = 32


@register(CARD)
@dataclass(frozen=True)
class TreeSCMPrior(TablePrior):
    """Tables from ensembles of random trees.

    In a share `p_direct` of the tables the columns are given, independent or mixed, and the target is an
    ensemble of trees of them with noise. In the others up to three layers of tree nodes follow the root causes, and
    columns are causes and nodes of any layer, the target nodes of the last one.

    Args:
        p_direct: share of tables with given columns.
        max_trees: trees of a layer, log-uniform on 1..max_trees.
        max_depth: depth, uniform on 1..max_depth; half of the tables have trees with one split per level.
        p_mixed: share of tables with discrete and long-tailed causes among the normal ones.
    """

    p_direct: float = 0.5
    max_trees: int = 32
    max_depth: int = 5
    p_mixed: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("TreeSCMPrior", "p_direct", self.p_direct, low=0, high=1)
        check_real("TreeSCMPrior", "p_mixed", self.p_mixed, low=0, high=1)
        check_int("TreeSCMPrior", "max_trees", self.max_trees, low=1)
        check_int("TreeSCMPrior", "max_depth", self.max_depth, low=1, high=8)

    def _latent(self, n_tasks: int, n_rows: int, n_classes: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        d = self.n_features
        depth = source.integers(1, self.max_depth, n_tasks)
        direct = source.chance(self.p_direct, n_tasks)
        x = torch.empty(n_tasks, n_rows, d, device=source.device, dtype=source.dtype)
        score = x.new_empty(n_tasks, n_rows, N_SCORES)
        for level in range(1, self.max_depth + 1):
            for is_direct in (True, False):
                group = ((depth == level) & (direct == is_direct)).nonzero()[:, 0]
                draw = self._direct if is_direct else self._causal
                for tables in torch.split(group, _BUCKET):
                    if tables.numel():
                        x[tables], score[tables] = draw(n_classes[tables], n_rows, level, source)
        return x, score

    def _n_trees(self, b: int, source: Source) -> Tensor:
        return source.log_uniform(1.0, self.max_trees + 0.999, b).long()

    def _direct(self, n_classes: Tensor, n: int, depth: int, source: Source) -> tuple[Tensor, Tensor]:
        b, d = n_classes.numel(), self.n_features
        x = given_columns(source, b, n, d, self.p_mixed)
        score = forest(
            x, torch.ones(b, d, dtype=torch.bool, device=x.device), self._n_trees(b, source), depth, N_SCORES, source
        )
        return x, observation_noise(source, score, n_classes)

    def _causal(self, n_classes: Tensor, n: int, depth: int, source: Source) -> tuple[Tensor, Tensor]:
        b, d = n_classes.numel(), self.n_features
        n_causes = (2 + source.meta_gamma(3.0, 7.0, b).round().long()).clamp_max(16)
        causes = root_causes(source, n, n_causes, source.chance(self.p_mixed, b))
        is_cause = torch.arange(causes.shape[2], device=causes.device) < n_causes[:, None]
        value, inputs = causes, is_cause
        n_layers = source.integers(1, 3, b)
        noise = source.log_uniform(0.01, 0.7, b, 1, 1) / (n_classes - 1).sqrt()[:, None, None]
        units = d + N_SCORES
        nodes, allowed = [causes], [is_cause]
        score = causes.new_empty(b, n, N_SCORES)
        for index in range(1, int(n_layers.max()) + 1):
            value = forest(value, inputs, self._n_trees(b, source), depth, units, source)
            spread = value.std(dim=1, correction=0, keepdim=True)
            value = value + noise * spread * source.normal(b, n, units)
            inputs = inputs.new_ones(b, units)
            final = n_layers == index
            score = torch.where(final[:, None, None], value[..., d:], score)
            nodes.append(value)
            # Scores of the last layer are no columns.
            open_units = torch.arange(units, device=value.device) < torch.where(final, d, units)[:, None]
            allowed.append(open_units & (n_layers >= index)[:, None])
        everything, free = torch.cat(nodes, dim=2), torch.cat(allowed, dim=1)
        chosen = (source.uniform(*free.shape) + ~free).topk(d, dim=1, largest=False).indices
        return everything.gather(2, chosen[:, None].expand(b, n, d)), score


def forest(x: Tensor, inputs: Tensor, n_trees: Tensor, depth: int, n_outputs: int, source: Source) -> Tensor:
    """Outputs (b, n, n_outputs) of random forests of those columns (b, n, c) that are `inputs` (b, c).

    Half of the tables use some columns far more than others. The trees of a table have equal weight or, in half
    of the tables, falling weights as in boosting; each output listens to a random part of the trees.
    """
    b, t = x.shape[0], int(n_trees.max())
    leaf = route(x, *random_trees(x, inputs, t, depth, source))
    size = (torch.arange(t, device=x.device) < n_trees[:, None]).to(x.dtype)
    fall = source.chance(0.5, b, 1) * source.between(0.0, 1.0, b, 1)
    size = size / torch.arange(1, t + 1, device=x.device) ** fall
    listens = source.chance(0.7, b, t, 1, n_outputs)
    listens[:, 0] |= n_trees[:, None, None] == 1
    value = source.normal(b, t, 2**depth, n_outputs) * listens * size[..., None, None]
    hot = torch.zeros(b, x.shape[1], t * 2**depth, device=x.device, dtype=x.dtype)
    hot.scatter_(2, leaf + 2**depth * torch.arange(t, device=x.device), 1.0)
    return hot @ value.flatten(1, 2)


def random_trees(x: Tensor, inputs: Tensor, n_trees: int, depth: int, source: Source) -> tuple[Tensor, Tensor]:
    """Column and threshold of every inner node, both (b, n_trees, 2^depth - 1), nodes level by level."""
    b, n, c = x.shape
    inner = 2**depth - 1
    relevance = (source.chance(0.5, b, 1) * 2.0 * source.normal(b, c)).exp()
    column = source.pick(relevance * inputs, n_trees * inner)
    row = source.integers(0, n - 1, b, n_trees * inner)
    level = torch.arange(1, inner + 1, device=x.device).to(x.dtype).log2().floor().long()
    first = (2**level - 1).expand(n_trees, inner) + inner * torch.arange(n_trees, device=x.device)[:, None]
    # One split per level in half of the tables: every node takes what the first node of its level has.
    oblivious = source.chance(0.5, b, 1)
    shared = first.flatten().expand(b, -1)
    column = torch.where(oblivious, column.gather(1, shared), column)
    row = torch.where(oblivious, row.gather(1, shared), row)
    threshold = x.flatten(1).gather(1, row * c + column)
    return column.view(b, n_trees, inner), threshold.view(b, n_trees, inner)


def route(x: Tensor, column: Tensor, threshold: Tensor) -> Tensor:
    """Leaf (b, n, t), from 0, of each row (b, n, c) in each tree given as by `random_trees`."""
    b, n, c = x.shape
    t, inner = column.shape[1], column.shape[2]
    start = inner * torch.arange(t, device=x.device)
    base = c * torch.arange(n, device=x.device)[:, None]
    flat_column, flat_threshold, flat_x = column.flatten(1), threshold.flatten(1), x.flatten(1)
    node = torch.zeros(b, n, t, dtype=torch.long, device=x.device)
    for _ in range((inner + 1).bit_length() - 1):
        place = (node + start).flatten(1)
        value = flat_x.gather(1, (flat_column.gather(1, place).view(b, n, t) + base).flatten(1))
        node = 2 * node + 1 + (value > flat_threshold.gather(1, place)).view(b, n, t)
    return node - inner
