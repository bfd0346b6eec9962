"""Tables read off random causal graphs with many kinds of mechanism.

In the style of TabICLv2 (Qu et al., 2026): nodes are vectors, a directed acyclic graph says which follow from
which, every node is one of seven kinds of random function of its parents, columns and target are entries of
nodes. Smaller than there, so that whole batches are computed together: vectors have up to 8 entries
(there 32), nodes up to 4 parents, and hidden layers up to 32 units (128).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foreknow.common.validate import check_int
from foreknow.core.registry import register
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.priors.base import N_SCORES, TablePrior, robust_standardise
from foreknow.tasks.tabular.priors.scm import EXTENDED, activate
from foreknow.tasks.tabular.priors.source import Source
from foreknow.tasks.tabular.priors.trees import forest

_WIDTH, _PARENTS, _BUCKET = 8, 4, 64
_KINDS = ("mlp", "trees", "centres", "linear", "quadratic", "smooth", "product")


@register(CARD)
@dataclass(frozen=True)
class GraphPrior(TablePrior):
    """Tables read off random causal graphs.

    The number of nodes is log-uniform; an edge from node j to a later node i is there with probability
    sigmoid(c + a_i + b_j), all three Cauchy. The target is a node that shares an ancestor with another one,
    where there is such a node.

    Args:
        max_nodes: largest number of nodes; the smallest is 2.
    """

    max_nodes: int = 32

    kinds: ClassVar[tuple[str, ...]] = _KINDS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("GraphPrior", "max_nodes", self.max_nodes, low=2)

    def _latent(self, n_tasks: int, n_rows: int, n_classes: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        d = self.n_features
        n_nodes = source.log_uniform(2.0, self.max_nodes + 0.999, n_tasks).long()
        x = torch.empty(n_tasks, n_rows, d, device=source.device, dtype=source.dtype)
        score = x.new_empty(n_tasks, n_rows, N_SCORES)
        for tables in torch.split(n_nodes.argsort(descending=True), _BUCKET):
            x[tables], score[tables] = self._read(n_nodes[tables], n_rows, source)
        return x, score

    def _read(self, n_nodes: Tensor, n_rows: int, source: Source) -> tuple[Tensor, Tensor]:
        """Columns and scores of graphs in descending order of size."""
        b, d = n_nodes.numel(), self.n_features
        edges = random_graph(n_nodes, source)
        width = source.log_uniform(1.0, _WIDTH + 0.999, b, edges.shape[1]).long()
        nodes = simulate(edges, n_nodes, width, n_rows, source)  # (b, nodes, _WIDTH, n)
        batch = torch.arange(b, device=source.device)[:, None]
        target = source.pick(_related(edges, n_nodes), 1)
        # The target shows as many entries as it has; the first is the score that matters most.
        shown = torch.arange(N_SCORES, device=source.device) % width.gather(1, target)
        scores = nodes[batch, target, shown].mT
        index = torch.arange(edges.shape[1], device=source.device)
        entry = torch.arange(_WIDTH, device=source.device) < width[..., None]
        is_open = entry & ((index < n_nodes[:, None]) & (index != target))[..., None]
        is_open = is_open.flatten(1)
        order = (source.uniform(*is_open.shape) + ~is_open).argsort(dim=1)
        # Small graphs have fewer entries than the table has columns: some are shown again.
        place = torch.arange(d, device=source.device) % is_open.sum(dim=1, keepdim=True)
        chosen = order.gather(1, place)
        return nodes.flatten(1, 2)[batch, chosen].mT, scores


def random_graph(n_nodes: Tensor, source: Source) -> Tensor:
    """Edges (b, i, j) from j to a later i, at most `_PARENTS` per node."""
    b, k = n_nodes.numel(), int(n_nodes.max())
    level, into, out = ((math.pi * (source.uniform(b, *shape) - 0.5)).tan() for shape in ((1, 1), (k, 1), (1, k)))
    place = torch.arange(k, device=source.device)
    earlier = (place < place[:, None]) & (place < n_nodes[:, None, None]) & (place[:, None] < n_nodes[:, None, None])
    edges = source.chance((level + into + out).sigmoid(), b, k, k) & earlier
    keys = source.uniform(b, k, k) * edges
    rank = keys.argsort(dim=2, descending=True).argsort(dim=2)
    return edges & (rank < _PARENTS)


def _related(edges: Tensor, n_nodes: Tensor) -> Tensor:
    """Weight 1 for nodes that share an ancestor with another node, else a trifle for nodes that exist, (b, k)."""
    k = edges.shape[1]
    reach = edges.float() + torch.eye(k, device=edges.device)
    for _ in range(max(1, (k - 1).bit_length())):
        reach = (reach @ reach).clamp_max(1.0)
    shared = (reach @ reach.mT > 0) & ~torch.eye(k, dtype=torch.bool, device=edges.device)
    exists = torch.arange(k, device=edges.device) < n_nodes[:, None]
    return (shared.any(dim=2) & exists).float() + 1e-6 * exists


def simulate(edges: Tensor, n_nodes: Tensor, width: Tensor, n_rows: int, source: Source) -> Tensor:
    """Values (b, nodes, _WIDTH, n) of all nodes, zero beyond a node's width."""
    b, k = width.shape
    nodes = torch.zeros(b, k, _WIDTH, n_rows, device=source.device, dtype=source.dtype)
    kind = source.integers(0, len(_KINDS) - 1, b, k)
    sizes = n_nodes.tolist()
    entry = torch.arange(_WIDTH, device=source.device)
    batch = torch.arange(b, device=source.device)[:, None]
    for i in range(k):
        g = sum(size > i for size in sizes)  # the first ones, as they are sorted by size
        parents = edges[:g, i]
        n_parents = max(1, int(parents.sum(dim=1).max()))
        first = parents.to(source.dtype).topk(n_parents, dim=1)
        present = first.values > 0
        values = nodes[batch[:g], first.indices].permute(0, 3, 1, 2) * present[:, None, :, None]  # (g, n, p, w)
        known = present[..., None] & (entry < width[:g].gather(1, first.indices)[..., None])
        root = ~present.any(dim=1)
        points = root_points(g, n_rows, width[:g, i], source)
        values[:, :, 0] = torch.where(root[:, None, None], points, values[:, :, 0])
        known[:, 0] |= root[:, None] & (entry < width[:g, i, None])
        x, inputs = combine(values, known, source)
        out = x.new_zeros(g, n_rows, _WIDTH)
        for index, name in enumerate(_KINDS):
            tables = (kind[:g, i] == index).nonzero()[:, 0]
            if tables.numel():
                out[tables] = mechanism(name, x[tables], inputs[tables], source)
        # Standardised, entries weighed, scaled to unit length on average, and to a random size.
        weight = (source.normal(g, _WIDTH)).exp() * (entry < width[:g, i, None])
        weight = weight / weight.norm(dim=1, keepdim=True) * source.log_uniform(0.1, 10.0, g, 1)
        out = robust_standardise(out)
        hidden = source.chance(0.5, g, 1, 1) * source.log_uniform(0.01, 0.5, g, 1, 1)
        nodes[:g, i] = ((out + hidden * source.normal(g, n_rows, _WIDTH)) * weight[:, None]).mT
    return nodes


def root_points(b: int, n: int, width: Tensor, source: Source) -> Tensor:
    """Points (b, n, _WIDTH): uniform in a cube or in a ball, normal, or normal with a random covariance."""
    z = source.normal(b, n, _WIDTH)
    valid = (torch.arange(_WIDTH, device=source.device) < width[:, None])[:, None]
    cube = torch.special.ndtr(z) * 2 - 1
    radius = source.uniform(b, n, 1) ** (1 / width[:, None, None])
    ball = radius * z / (z * valid).norm(dim=2, keepdim=True).clamp_min(1e-6)
    shaped = z @ (source.normal(b, _WIDTH, _WIDTH) * valid / width[:, None, None].sqrt())
    kind = source.integers(0, 3, b, 1, 1)
    x = torch.where(kind == 0, z, torch.where(kind == 1, cube, torch.where(kind == 2, ball, shaped)))
    return x * valid


def combine(values: Tensor, known: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """One input (b, n, p * _WIDTH) per row from the parents (b, n, p, w), and which entries count.

    Half of the nodes see the entries of all parents side by side; the others a sum, product, maximum or
    log-sum-exp of one random linear map per parent.
    """
    b, _, p, w = values.shape
    maps = source.normal(b, p, w, w) / known.sum(dim=2).clamp_min(1).sqrt()[..., None, None]
    each = torch.einsum("bnpw,bpwv->bnpv", values, maps)
    present = known.any(dim=2)[:, None, :, None]
    how = source.integers(0, 3, b, 1, 1)
    total = (each * present).sum(dim=2)
    product = torch.where(present, each, 1.0).prod(dim=2)
    largest = torch.where(present, each, -torch.inf).amax(dim=2)
    soft = torch.where(present, each, -torch.inf).logsumexp(dim=2)
    merged = torch.where(how == 0, total, torch.where(how == 1, product, torch.where(how == 2, largest, soft)))
    beside = source.chance(0.5, b, 1, 1) | (known.any(dim=2).sum(dim=1) < 2)[:, None, None]
    merged = torch.nn.functional.pad(merged, (0, (p - 1) * w))
    inputs = torch.where(beside[:, 0], known.flatten(1), torch.arange(p * w, device=known.device) < w)
    return torch.where(beside, values.flatten(2), merged), inputs


def mechanism(name: str, x: Tensor, inputs: Tensor, source: Source) -> Tensor:
    """A random function of one kind, from (g, n, c) with `inputs` (g, c) to (g, n, _WIDTH)."""
    g, n, c = x.shape
    z = robust_standardise(x) * inputs[:, None]
    n_inputs = inputs.sum(dim=1).clamp_min(1)[:, None, None].to(x.dtype)
    if name == "linear":
        return linear(z, n_inputs, _WIDTH, source)
    if name == "quadratic":
        small = linear(z, n_inputs, _WIDTH, source)
        pairs = (small[..., :, None] * small[..., None, :]).flatten(2)
        return (pairs @ source.normal(g, _WIDTH * _WIDTH, _WIDTH)) / _WIDTH + small
    if name == "product":
        kinds = ("linear", "smooth", "mlp")
        one, two = (kinds[int(source.integers(0, 2, 1))] for _ in range(2))
        return mechanism(one, x, inputs, source) * mechanism(two, x, inputs, source)
    if name == "trees":
        n_trees = source.log_uniform(1.0, 24.0, g).long()
        return forest(z, inputs, n_trees, int(source.integers(1, 5, 1)), _WIDTH, source)
    if name == "centres":
        k = min(n, int(source.log_uniform(2.0, 32.0, 1)))
        rows = source.uniform(g, n).topk(k, dim=1).indices
        distance = torch.cdist(z, z.gather(1, rows[..., None].expand(g, k, c))).square()
        sharp = source.log_uniform(0.5, 200.0, g, 1, 1) / distance.mean(dim=(1, 2), keepdim=True).clamp_min(1e-6)
        return (-distance * sharp).softmax(dim=2) @ source.normal(g, k, _WIDTH)
    if name == "smooth":
        m = 48
        # Frequencies with a power-law tail.
        size = source.uniform(g, 1, m).clamp_min(1e-3) ** -source.between(0.2, 1.0, g, 1, 1)
        frequency = source.normal(g, c, m) * 0.5 * size / n_inputs.sqrt()
        wave = torch.baddbmm(2 * math.pi * source.uniform(g, 1, m), z, frequency).cos()
        return wave @ (source.normal(g, m, _WIDTH) / size.mT)
    h = max(1, int(source.log_uniform(1.0, 33.0, 1)))
    value, fan_in = z, n_inputs
    for _ in range(int(source.integers(1, 2, 1))):
        value = robust_standardise(linear(value, fan_in, h, source)) + source.normal(g, 1, h)
        value = activate(EXTENDED[int(source.integers(0, len(EXTENDED) - 1, 1))], value)
        fan_in = x.new_full((g, 1, 1), float(h))
    return linear(value, fan_in, _WIDTH, source)


def linear(x: Tensor, fan_in: Tensor, n_out: int, source: Source) -> Tensor:
    """A random linear map of (g, n, c); in half of the tables some inputs weigh far more than others."""
    g, _, c = x.shape
    relevance = (source.chance(0.5, g, 1, 1) * source.normal(g, c, 1)).exp()
    return x @ (relevance * source.normal(g, c, n_out) / fan_in.sqrt())
