"""Tables that follow a short rule on a few columns, which additive and smooth models miss.

The kinds and shares of the rule prior of LightPFN (2026): XOR .25, parity .2, shallow trees .2, lookup
tables .1, products .1, AND/OR .075; the rest, counts of true conditions, .075. Drivers of XOR and parity are
independent and cut into equal parts, so that no single column says anything about the class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from foreknow.common.validate import check_option
from foreknow.core.registry import register
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.priors.base import TablePrior, robust_standardise
from foreknow.tasks.tabular.priors.source import Source, observation_noise
from foreknow.tasks.tabular.priors.trees import random_trees, route

RULES: dict[str, float] = {
    "xor": 0.25,
    "parity": 0.2,
    "tree": 0.2,
    "lookup": 0.1,
    "product": 0.1,
    "and_or": 0.075,
    "count": 0.075,
}
"""Kind of rule -> share of the tables."""

_DRIVERS = 6  # most columns a rule reads


@register(CARD)
@dataclass(frozen=True)
class RulePrior(TablePrior):
    """Tables whose target follows a short rule on a few of the columns.

    Columns are independent, normal, uniform, skewed or two-humped; those that the rule does not read may be mixed
    with each other. A column that the rule cuts into levels shows, in some tables, the level itself. With
    three classes parity reads two columns; with more, XOR and parity give way to lookup tables, and AND/OR
    lists have as many steps as classes. Every table has a share of random labels uniform on 0..label_noise
    (published: .15). Tables are not filtered: what the filter cannot see is what these rules are for.

    Args:
        rule: "any", or one kind of `RULES`.
    """

    label_noise: float = 0.15
    min_signal: float = 0.0
    rule: str = "any"

    _noisy_tables: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("RulePrior", "rule", self.rule, ("any", *RULES))

    def _latent(self, n_tasks: int, n_rows: int, n_classes: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        b, n, d = n_tasks, n_rows, self.n_features
        x = rule_columns(source, b, n, d)
        kind = self._kinds(n_classes, source)
        m = min(d, _DRIVERS)
        drivers = x[..., :m]  # columns are permuted later
        rank = drivers.argsort(dim=1).argsort(dim=1)
        n_used, n_levels = _sizes(kind, n_classes, m, source)
        used = torch.arange(m, device=x.device) < n_used[:, None]
        digit = (rank * n_levels[:, None, None]).div(n, rounding_mode="floor") * used[:, None]
        value = torch.empty(b, n, device=x.device, dtype=x.dtype)
        for index, name in enumerate(RULES):
            tables = (kind == index).nonzero()[:, 0]
            if tables.numel():
                value[tables] = _apply(
                    name, drivers[tables], rank[tables], digit[tables], used[tables], n_classes[tables], source
                )
        by_level = (kind == _index("xor")) | (kind == _index("parity")) | (kind == _index("lookup"))
        shown = used & source.chance(0.35, b, m) & by_level[:, None]
        x[..., :m] = torch.where(shown[:, None], robust_standardise(digit.to(x.dtype)), drivers)
        is_code = ~((kind == _index("product")) | (kind == _index("count")))
        if self.task == "regression":
            levels = source.normal(b, int(n_classes.max()))
            looked_up = levels.gather(1, value.long().clamp(0, levels.shape[1] - 1))
            value = torch.where(is_code[:, None], looked_up, value)
            return x, observation_noise(source, value[..., None], n_classes)
        # The second score tells `_classes` that the first is a class already; it is the code + 1 there, else 0.
        return x, torch.stack([value, (value + 1) * is_code[:, None]], dim=-1)

    def _scaled(self, score: Tensor) -> Tensor:
        # Class codes stay as they are.
        return score if self.task == "classification" else super()._scaled(score)

    def _classes(self, score: Tensor, n_classes: Tensor, source: Source) -> Tensor:
        by_cuts = super()._classes(robust_standardise(score[..., :1]), n_classes, source)
        code = (score[..., 1].long() - 1).clamp(0, self.n_classes - 1)
        size = torch.zeros(code.shape[0], self.n_classes, dtype=torch.long, device=code.device)
        size.scatter_add_(1, code, torch.ones_like(code))
        unused = torch.arange(self.n_classes, device=code.device) >= n_classes[:, None]
        whole = ((size > 0) | unused).all(dim=1) & (score[:, 0, 1] > 0)
        code = source.shuffled(n_classes, self.n_classes).gather(1, code)
        return torch.where(whole[:, None], code, by_cuts)

    def _kinds(self, n_classes: Tensor, source: Source) -> Tensor:
        if self.rule != "any":
            return torch.full_like(n_classes, _index(self.rule))
        weights = torch.tensor(list(RULES.values()), device=source.device, dtype=source.dtype)
        kind = source.pick(weights.expand(n_classes.numel(), -1), 1)[:, 0]
        too_many = (n_classes > 3) & ((kind == _index("xor")) | (kind == _index("parity")))
        return torch.where(too_many, _index("lookup"), kind)


def _index(name: str) -> int:
    return list(RULES).index(name)


def rule_columns(source: Source, b: int, n: int, d: int) -> Tensor:
    """Columns (b, n, d) of different shapes; those beyond the drivers may be mixed with each other."""
    z = source.normal(b, n, d)
    kind = source.integers(0, 3, b, 1, d)
    flat = torch.special.ndtr(z) * 3.4 - 1.7
    skewed = robust_standardise((0.8 * z).exp())
    humped = 0.5 * z + torch.where(z.roll(1, dims=1) > 0, 1.0, -1.0)
    x = torch.where(kind == 0, z, torch.where(kind == 1, flat, torch.where(kind == 2, skewed, humped)))
    if d > _DRIVERS:
        rest = d - _DRIVERS
        density = source.chance(0.5, b, 1, 1) * source.uniform(b, 1, 1)
        mix = source.normal(b, rest, rest) * source.chance(density, b, rest, rest) / rest**0.5
        x[..., _DRIVERS:] = x[..., _DRIVERS:] + x[..., _DRIVERS:] @ mix
    return x


def _sizes(kind: Tensor, n_classes: Tensor, m: int, source: Source) -> tuple[Tensor, Tensor]:
    """How many columns a rule reads, and into how many levels it cuts them, both (b,)."""
    b = kind.numel()
    used = torch.full_like(kind, 2)
    used = torch.where(kind == _index("parity"), torch.where(n_classes > 2, 2, source.integers(3, 4, b)), used)
    used = torch.where((kind == _index("tree")) | (kind == _index("lookup")), source.integers(2, 3, b), used)
    used = torch.where(kind == _index("product"), source.integers(2, 3, b), used)
    used = torch.where(kind == _index("and_or"), (n_classes - 1).maximum(source.integers(2, 4, b)), used)
    used = torch.where(kind == _index("count"), source.integers(3, _DRIVERS, b), used)
    used = used.clamp_max(m)
    # A lookup table has more cells than classes; its side depends on how many columns span it.
    side = ((n_classes + 1).to(torch.float64) ** (1 / used)).ceil().long().clamp(2, 5)
    side = (side + source.integers(0, 1, b)).where(used == 2, side.clamp_max(3))
    return used, torch.where(kind == _index("lookup"), side, n_classes)


def _apply(
    name: str, drivers: Tensor, rank: Tensor, digit: Tensor, used: Tensor, n_classes: Tensor, source: Source
) -> Tensor:
    """Class codes, or scores for products and counts, shape (g, n)."""
    g, n, m = drivers.shape
    if name in ("xor", "parity"):
        return (digit.sum(dim=2) % n_classes[:, None]).to(drivers.dtype)
    if name == "lookup":
        side = digit.flatten(1).amax(dim=1) + 1
        power = torch.where(used, side[:, None] ** torch.arange(m, device=side.device).clamp_max(2), 0)
        cell = (digit * power[:, None]).sum(dim=2)
        return _random_codes(cell, int(cell.max()) + 1, n_classes, source)
    if name == "tree":
        depth = max(2, int(n_classes.max() - 1).bit_length() + 1)
        column, threshold = random_trees(drivers, used, 1, depth, source)
        return _random_codes(route(drivers, column, threshold)[..., 0], 2**depth, n_classes, source)
    if name == "product":
        z = robust_standardise(drivers)
        return torch.where(used[:, None], z, 1.0).prod(dim=2)
    share = (rank + 0.5) / n
    flip = source.chance(0.5, g, 1, m)
    share = torch.where(flip, 1 - share, share)
    if name == "count":
        return ((share > source.between(0.3, 0.7, g, 1, m)) & used[:, None]).to(drivers.dtype).sum(dim=2)
    # AND/OR: the number of conditions that hold before the first that does not, cut at the classes; with two
    # classes all conditions must hold (or not: codes are permuted), each as often as makes the classes even.
    count = used.sum(dim=1)[:, None]
    keep = torch.where(n_classes[:, None] == 2, 0.5 ** (1 / count), 1 - 1 / n_classes[:, None]).to(share.dtype)
    held = ((share < keep[:, None]) | ~used[:, None]).to(drivers.dtype).cumprod(dim=2).sum(dim=2)
    two = (held >= m).to(drivers.dtype)
    return torch.where(n_classes[:, None] == 2, two, held.minimum(n_classes[:, None] - 1.0))


def _random_codes(cell: Tensor, n_cells: int, n_classes: Tensor, source: Source) -> Tensor:
    """A random class for each cell (g, n), every class in one of the cells that rows are in where possible."""
    g = cell.shape[0]
    size = torch.zeros(g, n_cells, device=source.device, dtype=source.dtype)
    size.scatter_add_(1, cell, torch.ones_like(cell, dtype=source.dtype))
    # Cells in random order, filled ones first: the first n_classes of them get one class each.
    place = (source.uniform(g, n_cells) + (size == 0)).argsort(dim=1).argsort(dim=1)
    free = source.integers(0, n_classes[:, None] - 1, g, n_cells)
    code = torch.where(place < n_classes[:, None], place, free)
    return code.gather(1, cell).to(source.dtype)
