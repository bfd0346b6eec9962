"""Columns of a table as the features that kernels see: batched, from context rows only.

A column becomes a clipped z-score and its mid-rank among the context (each over the square root of two), or,
with few levels, one indicator per level; a column with missing cells adds an indicator of these. Columns that
a table does not use are zeros, which no kernel notices, so tables of different width share a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LEVELS = 10
"""Columns with at most this many distinct context values are taken apart into one indicator per level."""

CLIP = 4.0
"""Largest absolute z-score."""


@dataclass(frozen=True)
class FeatureMap:
    """What the context says about each column; maps any rows to features.

    Args:
        mean, scale: location and spread of every column, shape (b, d).
        ordered: context values of every column, ascending, missing ones last as infinity, shape (b, n, d).
        n_present: number of values present, shape (b, d).
        levels: distinct context values, ascending, infinity beyond the last, shape (b, MAX_LEVELS, d).
        is_level: columns that are taken apart into levels, shape (b, d).
        has_missing: columns with a missing context cell, shape (b, d).
        balance: share of the squared distance between rows that comes from z-scores; the rest comes from ranks.
    """

    mean: Float[Tensor, "b d"]
    scale: Float[Tensor, "b d"]
    ordered: Float[Tensor, "b n d"]
    n_present: Float[Tensor, "b d"]
    levels: Float[Tensor, "b l d"]
    is_level: Bool[Tensor, "b d"]
    has_missing: Bool[Tensor, "b d"]
    balance: float = 0.5

    @classmethod
    def of(
        cls, x: Float[Tensor, "b n d"], is_categorical: Bool[Tensor, "b d"] | None = None, balance: float = 0.5
    ) -> FeatureMap:
        """The map that the context rows `x` define; NaN is missing.

        Args:
            x: context rows.
            is_categorical: columns whose numbers are mere codes; they become levels up to `MAX_LEVELS` (the most
                frequent codes by order are kept), others only if they have few distinct values.
            balance: see the class; 0.5 is what networks are fitted to.
        """
        missing = x.isnan()
        present = (~missing).to(x.dtype)
        n_present = present.sum(dim=1)
        filled = x.masked_fill(missing, 0.0)
        mean = filled.sum(dim=1) / n_present.clamp_min(1)
        centred = (filled - mean[:, None]) * present
        scale = (centred.square().sum(dim=1) / n_present.clamp_min(1)).sqrt()
        scale = torch.where(scale > 1e-7 * mean.abs() + 1e-30, scale, torch.ones_like(scale))
        ordered = x.masked_fill(missing, math.inf).sort(dim=1).values
        # A value starts a new level where it differs from the one before.
        starts = torch.ones_like(ordered, dtype=torch.bool)
        starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        starts &= ordered.isfinite()
        n_levels = starts.sum(dim=1)
        position = (starts.cumsum(dim=1) - 1).clamp(0, MAX_LEVELS)
        levels = ordered.new_full((x.shape[0], MAX_LEVELS + 1, x.shape[2]), math.inf)
        levels.scatter_reduce_(1, position, ordered, reduce="amin")
        is_level = (n_levels > 1) & (n_levels <= MAX_LEVELS)
        if is_categorical is not None:
            is_level = (is_level & (n_levels <= 4)) | (is_categorical & (n_levels > 1))
        return cls(mean, scale, ordered, n_present, levels[:, :MAX_LEVELS], is_level, missing.any(dim=1), balance)

    @cached_property
    def _ordered_columns(self) -> Float[Tensor, "b d n"]:
        return self.ordered.transpose(1, 2).contiguous()

    def __call__(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m p"]:
        """Features of rows, p = d (3 + MAX_LEVELS) with zeros where a column has no such part."""
        missing = x.isnan()
        z = ((x - self.mean[:, None]) / self.scale[:, None]).clamp(-CLIP, CLIP)
        columns = x.transpose(1, 2).contiguous()
        below = torch.searchsorted(self._ordered_columns, columns, right=False)
        upto = torch.searchsorted(self._ordered_columns, columns, right=True)
        middle = (below + upto).to(x.dtype).transpose(1, 2) / 2
        rank = (middle / self.n_present[:, None].clamp_min(1) - 0.5) * math.sqrt(12.0)
        is_number = (~self.is_level & (self.n_present > 0))[:, None]
        numbers = torch.stack([math.sqrt(self.balance) * z, math.sqrt(1 - self.balance) * rank], dim=-1)
        numbers = torch.where((is_number & ~missing)[..., None], numbers, numbers.new_zeros(()))
        # The distance between two rows that differ in a level is that of two standard deviations' share.
        same = (x[:, :, None] == self.levels[:, None]) & self.is_level[:, None, None]
        indicators = same.to(x.dtype).transpose(2, 3) / math.sqrt(2.0) * 1.4  # b m d l
        absent = (missing & self.has_missing[:, None]).to(x.dtype)[..., None]
        return torch.cat([numbers, absent, indicators], dim=-1).flatten(2)


def drop_empty(context: Float[Tensor, "b n p"], query: Float[Tensor, "b m p"]) -> tuple[Tensor, Tensor]:
    """Both sets of features without the entries that are zero in every context row of the whole batch."""
    used = (context != 0).flatten(0, 1).any(dim=0)
    if not bool(used.any()):
        used[0] = True
    return context[..., used], query[..., used]
