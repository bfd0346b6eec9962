"""The later form of the network: a token per cell, columns first, then rows, then attention over the context.

After TabPFN v2 (Hollmann et al., 2025), TabICL (Qu et al., 2025) and LightPFN (2026). Letters in the shape comments:
b tables, n context rows, m query rows, d columns, w width of a cell, t summary tokens, e = t w width of a row, k
classes.

1. A cell is its standardised value (clipped by 5 tanh(z / 5)), its rank in the column, a flag for missing, the same
   of two neighbouring columns, and Fourier features of value and rank.
2. Column stage: induced attention down each column. The learned points read the context cells together with their
   labels; all cells, labelled or not, read the points. So context and query cells are on the same footing.
3. Row stage: summary tokens start as a random projection of the row (every column has fixed random signs, which is
   also what tells columns apart) and read its cells; where there is another round, the cells read them back.
4. Context attention over rows, whose context tokens carry the labels.
5. Classes: the query's attention over the context rows is a vote over their labels, for any number of classes.
   Numbers: a bar head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_option
from foreknow.core.records import record
from foreknow.nn.attention import ContextBlock, InducedAttention, KeysValues, RMSNorm
from foreknow.nn.bar_head import BarHead
from foreknow.tasks.tabpfn.network import TASKS, TableNetwork

_NEIGHBOURS = (1, 3)  # circular distances of the columns whose values a cell also holds
_DYADIC = 4  # fixed frequencies of the rank
_CLIP = 5.0


@record
@dataclass(frozen=True)
class CellSettings:
    """Sizes of the cell form.

    Args:
        task: "classification" or "regression".
        width: size of a cell's token.
        n_summaries: summary tokens of a row; a row's token is `n_summaries * width` wide.
        n_points: learned points of a column block.
        column_depth: column blocks of a round.
        n_rounds: rounds of column blocks and row summary.
        depth: blocks of context attention over rows.
        n_heads: attention heads of the row blocks and of the vote.
        n_column_heads: attention heads of the column and summary blocks.
        n_frequencies: learned Fourier frequencies of the value.
        n_slots: label embeddings; classes share them where there are more.
        max_features: most columns a member of the ensemble is given.
        n_buckets: buckets of the bar head.
    """

    task: str = "classification"
    width: int = 32
    n_summaries: int = 4
    n_points: int = 16
    column_depth: int = 2
    n_rounds: int = 1
    depth: int = 4
    n_heads: int = 4
    n_column_heads: int = 4
    n_frequencies: int = 8
    n_slots: int = 16
    max_features: int = 100
    n_buckets: int = 200

    def __post_init__(self) -> None:
        check_option("CellSettings", "task", self.task, TASKS)
        names = ("width", "n_summaries", "n_points", "column_depth", "n_rounds", "depth", "n_heads", "n_column_heads")
        for name in (*names, "n_frequencies", "n_slots", "max_features"):
            check_int("CellSettings", name, getattr(self, name), low=1)
        check_int("CellSettings", "n_buckets", self.n_buckets, low=4)

    def build(self) -> CellTransformer:
        """An untrained network."""
        return CellTransformer(self)


@dataclass(frozen=True)
class Columns:
    """Statistics of the context's columns: all that a cell's features need of the context.

    Args:
        mean, scale: over the cells that are there, shape (b, 1, d).
        ordered: the cells of every column in ascending order, infinity in place of missing ones, shape (b, d, n).
        count: cells that are there, shape (b, d, 1).
    """

    mean: Tensor
    scale: Tensor
    ordered: Tensor
    count: Tensor

    @classmethod
    def of(cls, x: Float[Tensor, "b n d"]) -> Columns:
        """Statistics of context rows."""
        here = x.isfinite()
        count = here.sum(dim=1, keepdim=True)
        kept = torch.where(here, x, 0.0)
        mean = kept.sum(dim=1, keepdim=True) / count.clamp_min(1)
        spread = (torch.where(here, x - mean, 0.0).square().sum(dim=1, keepdim=True) / count.clamp_min(1)).sqrt()
        ordered = torch.where(here, x, torch.inf).transpose(1, 2).contiguous().sort(dim=2).values
        return cls(mean, torch.where(spread > 1e-6, spread, 1.0), ordered, count.transpose(1, 2))

    def features(self, x: Float[Tensor, "b m d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Clipped standard score, mid-rank on [-1, 1] and the flag for missing, each of shape (b, m, d)."""
        here = x.isfinite()
        z = torch.where(here, (x - self.mean) / self.scale, 0.0)
        cells = torch.where(here, x, 0.0).transpose(1, 2).contiguous()
        below, upto = (torch.searchsorted(self.ordered, cells, right=side) for side in (False, True))
        rank = (below + upto) / self.count.clamp_min(1) - 1.0
        return _CLIP * (z / _CLIP).tanh(), torch.where(here, rank.transpose(1, 2), 0.0), (~here).to(x.dtype)


@dataclass(frozen=True)
class CellCache:
    """A context as a `CellTransformer` keeps it.

    Args:
        columns: statistics of the columns.
        points: keys and values of the points of every column block.
        rows: keys and values of the context rows in every row block.
        votes: keys of the context rows for the vote, shape (b, h, n, c), and their labels, shape (b, n, k).
    """

    columns: Columns
    points: list[KeysValues]
    rows: list[KeysValues]
    votes: tuple[Tensor, Tensor] | None


class CellTransformer(TableNetwork):
    """A token per cell; columns of any number, order and kind of gap, classes of any number.

    Cost for n context rows, m query rows, d columns, w = width, e = n_summaries * width, p = n_points:
    O((n + m) d w (w + p)) in the cells and O((n + m) n e + (n + m) e^2) in each block over rows: linear in columns,
    linear in rows for the cells and quadratic only in the row tokens, which do not grow with the columns.
    """

    settings: CellSettings
    signs: Tensor

    def __init__(self, settings: CellSettings) -> None:
        super().__init__()
        self.settings = settings
        w, t = settings.width, settings.n_summaries
        e = w * t
        inputs = 3 * (1 + len(_NEIGHBOURS)) + 2 * settings.n_frequencies + 2 * _DYADIC
        self.frequencies = nn.Parameter(torch.logspace(-1, 1, settings.n_frequencies, 2.0) * math.pi / 2)
        self.cell_embed = nn.Linear(inputs, w)
        self.cell_norm = RMSNorm(w)
        self.label_embed = _label_encoder(settings, w)
        self.row_label_embed = _label_encoder(settings, e)
        heads = settings.n_column_heads
        self.columns = nn.ModuleList(
            InducedAttention(w, heads, settings.n_points, norm="rms")
            for _ in range(settings.n_rounds * settings.column_depth)
        )
        # Small, so that at first near rows have near tokens.
        self.summary_seeds = nn.Parameter(0.3 * torch.randn(t, w))
        self.summary_project = nn.Linear(w, e)
        self.register_buffer("signs", torch.randn(settings.max_features, w).sign())
        self.gathers = nn.ModuleList(ContextBlock(w, heads, norm="rms") for _ in range(settings.n_rounds))
        self.spreads = nn.ModuleList(ContextBlock(w, heads, norm="rms") for _ in range(settings.n_rounds - 1))
        self.row_norm = RMSNorm(e)
        self.blocks = nn.ModuleList(
            ContextBlock(e, settings.n_heads, norm="rms", log_n_scaling="mlp") for _ in range(settings.depth)
        )
        self.out_norm = RMSNorm(e)
        self.vote: Vote | None = None
        self.bar = None
        if settings.task == "classification":
            self.vote = Vote(e, settings.n_heads)
        else:
            self.bar = BarHead(e, settings.n_buckets, zero_init=True)

    def encode(
        self,
        context_x: Float[Tensor, "b n d"],
        context_y: Float[Tensor, "b n"],
        *,
        n_classes: int | None = None,
        slots: Int[Tensor, "b s"] | None = None,
    ) -> CellCache:
        if context_x.shape[1] == 0:
            raise ConfigError("CellTransformer: a context needs at least one row.")
        labels = context_y[..., None].to(context_x)
        if self.vote is not None:
            code = context_y.long() % self.settings.n_slots
            labels = code if slots is None else slots.gather(1, code)
        statistics = Columns.of(context_x)
        points: list[KeysValues] = []
        rows = self._rows(context_x, statistics, points, self.label_embed(labels))
        rows = rows + self.row_label_embed(labels)
        pairs: list[KeysValues] = []
        for block in self.blocks:
            assert isinstance(block, ContextBlock)
            pairs.append(block.keys_values(rows))
            rows = block(rows, pairs[-1])
        votes = None
        if self.vote is not None:
            k = int(context_y.max()) + 1 if n_classes is None else n_classes
            votes = self.vote.keys(self.out_norm(rows)), F.one_hot(context_y.long(), k).to(context_x)
        return CellCache(statistics, points, pairs, votes)

    def read(self, cache: CellCache, query_x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m k"]:
        rows = self._rows(query_x, cache.columns, cache.points, None)
        for block, pair in zip(self.blocks, cache.rows):
            rows = block(rows, pair)
        rows = self.out_norm(rows)
        if self.vote is None:
            assert self.bar is not None
            numbers: Tensor = self.bar(rows)
            return numbers
        assert cache.votes is not None
        logits: Tensor = self.vote(rows, *cache.votes)
        return logits

    def _cells(self, x: Tensor, columns: Columns) -> Float[Tensor, "b d m w"]:
        z, rank, missing = (part.transpose(1, 2) for part in columns.features(x))  # b d m
        own = torch.stack([z, rank, missing], dim=-1)
        wave = z[..., None] * self.frequencies
        step = rank[..., None] * (math.pi * 2.0 ** torch.arange(_DYADIC, device=x.device, dtype=x.dtype))
        parts = [own, *(own.roll(-shift, dims=1) for shift in _NEIGHBOURS)]
        parts += [wave.sin(), wave.cos(), step.sin(), step.cos()]
        cells: Tensor = self.cell_norm(self.cell_embed(torch.cat(parts, dim=-1)))
        return cells

    def _rows(
        self, x: Tensor, columns: Columns, points: list[KeysValues], labels: Tensor | None
    ) -> Float[Tensor, "b m e"]:
        """Tokens of rows; with `labels` (b, n, w) of the context the points are filled in, else they are read."""
        cells = self._cells(x, columns)  # b d m w
        b, d, m, w = cells.shape
        depth = self.settings.column_depth
        for turn, gather in enumerate(self.gathers):
            for index in range(turn * depth, (turn + 1) * depth):
                column = self.columns[index]
                assert isinstance(column, InducedAttention)
                if labels is not None:
                    points.append(column.summarise((cells + labels[:, None]).flatten(0, 1)))
                cells = column.spread(cells.flatten(0, 1), points[index]).unflatten(0, (b, d))
            along = cells.transpose(1, 2).flatten(0, 1)  # (b m) d w
            if turn == 0:
                signs = self.signs[torch.arange(d, device=x.device) % len(self.signs)]
                mixed = self.summary_project((along * signs).sum(dim=1) / math.sqrt(d))
                tokens = self.summary_seeds + mixed.unflatten(-1, (-1, w))
            assert isinstance(gather, ContextBlock)
            tokens = gather(tokens, gather.keys_values(along))
            if turn < len(self.spreads):
                spread = self.spreads[turn]
                assert isinstance(spread, ContextBlock)
                along = spread(along, spread.keys_values(tokens))
                cells = along.unflatten(0, (b, m)).transpose(1, 2)
        rows: Tensor = self.row_norm(tokens.flatten(1).unflatten(0, (b, m)))
        return rows


class Vote(nn.Module):
    """Class logits as the logarithm of an attention-weighted share of the context's labels.

    Keys start equal to queries, so that at first near rows vote for each other, about as in a kernel smoother.

    Args:
        width: size of a row's token.
        n_heads: heads, whose votes are averaged.
    """

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.log_n_scale = nn.Parameter(torch.zeros(n_heads))
        with torch.no_grad():
            self.query.weight.mul_(math.sqrt(2.0))
            self.key.weight.copy_(self.query.weight)

    def keys(self, rows: Float[Tensor, "b n e"]) -> Float[Tensor, "b h n c"]:
        """What queries compare themselves with."""
        return self._split(self.key(rows))

    def forward(
        self, rows: Float[Tensor, "b m e"], keys: Float[Tensor, "b h n c"], labels: Float[Tensor, "b n k"]
    ) -> Float[Tensor, "b m k"]:
        """Logits of the classes; a class without a context row gets the floor."""
        scale = 1 + self.log_n_scale * math.log(keys.shape[2])
        queries = self._split(self.query(rows)) * scale[:, None, None]
        values = labels[:, None].expand(-1, self.n_heads, -1, -1).to(queries.dtype)
        share = F.scaled_dot_product_attention(queries, keys, values).mean(dim=1).float()
        return (share.clamp_min(1e-5) + 3e-5).log()

    def _split(self, tokens: Tensor) -> Tensor:
        b, n, e = tokens.shape
        return tokens.reshape(b, n, self.n_heads, e // self.n_heads).transpose(1, 2)


def _label_encoder(settings: CellSettings, width: int) -> nn.Module:
    if settings.task == "classification":
        return nn.Embedding(settings.n_slots, width)
    return nn.Sequential(nn.Linear(1, width), nn.GELU(), nn.Linear(width, width))
