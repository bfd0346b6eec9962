"""The priors over whole classification tables of Müller et al. (2022), and what makes them more like real ones.

A table is drawn in this order: number of used columns; rows and a score per row (`_scores`, which the two
priors differ in); z-scores of the columns over the table; labels by the rank of the score; then, where
switched on, warped columns, categorical columns, scaling by the share of used columns and missing cells.
Unused columns, always the last ones, hold zeros. Every step treats rows alike, so they stay exchangeable.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.nn.linalg import jittered_cholesky
from foreknow.tasks.pfn.card import CARD
from foreknow.tasks.pfn.priors.gp import covariance
from foreknow.tasks.pfn.priors.hyper import (
    BetaInt,
    Gamma,
    Positive,
    Tables,
    as_hyper,
    integers,
    normal,
    redraw_non_finite,
    uniform,
)

_MAX_LEVELS = 10  # of a categorical column
_WEIGHT_SD = Gamma(3.6187797729244253, 1 / 0.06773738681062867)
_NOISE_SD = Gamma(1.8663049257557085, 1 / 0.05275478076173361)
_BUCKET = 16  # tables of similar width that are computed together


@dataclass(frozen=True)
class TabularPrior(Simulator):
    """What the priors over tables share.

    `info` holds, per table, `n_classes` (how many classes its labels were cut into) and `n_features`
    (how many columns are used).

    Args:
        n_features: columns of the table, used or not.
        n_classes: with 2, labels are 1 above the median score, as published. With more, a table has a
            number of classes uniform on 2..n_classes; their shares are a uniformly random partition of
            the ranked rows in which no class is empty, and codes are permuted at random.
        scale_by_used: multiply used columns by `n_features` / number of used columns.
        p_categorical: probability that a used column is replaced by codes of 2 to 10 levels, in random
            order for one half of these columns.
        p_missing: expected share of missing cells (NaN) of used columns, at most 0.5; each column has a
            rate of its own, uniform on 0..2 p_missing.
        p_warped: probability that a used column is bent by a monotone curve (skewed, heavy or light tails).
    """

    n_features: int = 60
    n_classes: int = 2
    scale_by_used: bool = False
    p_categorical: float = 0.0
    p_missing: float = 0.0
    p_warped: float = 0.0

    target: ClassVar[str] = "classification"
    view: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_int(owner, "n_features", self.n_features, low=1)
        check_int(owner, "n_classes", self.n_classes, low=2)
        check_bool(owner, "scale_by_used", self.scale_by_used)
        for name, high in (("p_categorical", 1.0), ("p_missing", 0.5), ("p_warped", 1.0)):
            check_real(owner, name, getattr(self, name), low=0, high=high)

    @abstractmethod
    def _n_used(self, n: int, generator: Generator, device: torch.device) -> Tensor:
        """Number of used columns of each table, shape (n,), dtype int64."""

    @abstractmethod
    def _scores(
        self, used: Tensor, n_rows: int, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Inputs (n, rows, d) and scores (n, rows) of tables with `used` (n,) columns."""

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        def draw(n: int) -> Tables:
            used = self._n_used(n, generator, device)
            x, score = self._scores(used, n_rows, generator, device, dtype)
            y, n_classes = labels_by_rank(score, self.n_classes, generator)
            x = standardise(x)
            if self.p_warped:
                x = standardise(_warp(x, self.p_warped, generator))
            if self.p_categorical:
                x = _categorise(x, self.p_categorical, generator)
            x = x * self._is_used(used)
            if self.scale_by_used:
                x = x * (self.n_features / used.to(dtype))[:, None, None]
            # Ranks would hide a score that is not finite; 0 * score makes it show.
            return x, y + 0 * score, {"n_classes": n_classes, "n_features": used}

        x, y, info = redraw_non_finite(type(self).__name__, draw, n_tasks)
        if self.p_missing:
            rate = 2 * self.p_missing * uniform((n_tasks, 1, self.n_features), generator, device, dtype)
            missing = uniform(tuple(x.shape), generator, device, dtype) < rate
            x = x.masked_fill(missing & self._is_used(info["n_features"]), torch.nan)
        return x, y, info

    def _is_used(self, used: Tensor) -> Tensor:
        return (torch.arange(self.n_features, device=used.device) < used[:, None]).unsqueeze(1)  # (n, 1, d)

    def _realism(self) -> str:
        parts = [
            f"{share:.0%} of {what}"
            for share, what in (
                (self.p_categorical, "columns categorical"),
                (self.p_missing, "cells missing"),
                (self.p_warped, "columns warped"),
            )
            if share
        ]
        return f"; {', '.join(parts)}" if parts else ""


@register(CARD)
@dataclass(frozen=True)
class TabularBNNPrior(TabularPrior):
    """Labels by the rank of the output of a random tanh network with three linear layers.

    Inputs are standard normal; weights and biases of one table are normal with one standard deviation,
    and normal noise is added after the second and third layer. Tables of different width are computed
    together, sixteen of neighbouring width at a time, with the units beyond a table's width set to zero.

    Args:
        max_width: largest number of hidden units; a table has 2 + Beta(2, 4) * (max_width - 1), rounded down.
        weight_sd: standard deviation of weights and biases.
        noise_sd: standard deviation of the noise.
    """

    max_width: int = 150
    weight_sd: Positive = _WEIGHT_SD
    noise_sd: Positive = _NOISE_SD

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("TabularBNNPrior", "max_width", self.max_width, low=2)
        as_hyper("TabularBNNPrior", "weight_sd", self.weight_sd)
        as_hyper("TabularBNNPrior", "noise_sd", self.noise_sd, positive=False)

    @classmethod
    def for_tables(cls, n_features: int = 20, n_classes: int = 10) -> TabularBNNPrior:
        """The published network with all extensions on, to train what will meet real tables."""
        return cls(
            n_features=n_features,
            n_classes=n_classes,
            scale_by_used=True,
            p_categorical=0.3,
            p_missing=0.05,
            p_warped=0.3,
        )

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(n_features=4, max_width=8),
            cls(n_features=6, n_classes=5, scale_by_used=True, p_categorical=0.3, p_warped=0.3, max_width=16),
        ]

    def describe(self) -> str:
        """One line for people."""
        return (
            f"random tables: up to {self.n_features} columns, up to {self.n_classes} classes by the rank of a random "
            f"3-layer tanh network of up to {self.max_width} units{self._realism()}"
        )

    def _n_used(self, n: int, generator: Generator, device: torch.device) -> Tensor:
        return BetaInt(1.0, 1.6, min(2, self.n_features), self.n_features).sample((n,), generator, device)

    def _scores(
        self, used: Tensor, n_rows: int, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        n, d = used.numel(), self.n_features
        where = (generator, device, dtype)
        owner = type(self).__name__
        weight_sd = as_hyper(owner, "weight_sd", self.weight_sd).sample((n, 1, 1), *where)
        noise_sd = as_hyper(owner, "noise_sd", self.noise_sd, positive=False).sample((n, 1, 1), *where)
        width = BetaInt(2.0, 4.0, 2, self.max_width).sample((n,), generator, device)
        x = normal((n, n_rows, d), *where) * self._is_used(used)
        score = x.new_empty(n, n_rows)
        for tables in torch.split(width.argsort(), _BUCKET):
            k, h = tables.numel(), int(width[tables[-1]])
            w_sd, n_sd = weight_sd[tables], noise_sd[tables]
            is_unit = (torch.arange(h, device=device) < width[tables, None]).unsqueeze(1)  # (k, 1, h)
            hidden = torch.baddbmm(normal((k, 1, h), *where), x[tables], normal((k, d, h), *where))
            hidden = (w_sd * hidden).tanh() * is_unit
            hidden = torch.baddbmm(normal((k, 1, h), *where), hidden, normal((k, h, h), *where))
            hidden = (w_sd * hidden + n_sd * normal((k, n_rows, h), *where)).tanh() * is_unit
            out = torch.baddbmm(normal((k, 1, 1), *where), hidden, normal((k, h, 1), *where))
            score[tables] = (w_sd * out + n_sd * normal((k, n_rows, 1), *where)).squeeze(-1)
        return x, score


@register(CARD)
@dataclass(frozen=True)
class TabularGPPrior(TabularPrior):
    """Labels by the rank of a Gaussian process with squared exponential kernel on uniform inputs.

    The published setting is outputscale 2.316, lengthscale 1.48e-4, noise 1e-3, x uniform on the unit
    cube. Taken as a length, 1.48e-4 is far below the distance of any two rows, so every label would be
    a coin toss. It is read here as the unconstrained parameter in which the library used there keeps a
    lengthscale: softplus(1.48e-4) = 0.693. The length is multiplied by the square root of the number of
    used columns, as distances grow by, so that wide tables are as smooth as narrow ones.

    Args:
        raw_lengthscale: the lengthscale before softplus.
        outputscale: variance of the function.
        noise: variance of the noise.
    """

    scale_by_used: bool = True
    raw_lengthscale: float = 0.00014803074521613278
    outputscale: float = 2.3163584733185836
    noise: float = 0.001

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real("TabularGPPrior", "raw_lengthscale", self.raw_lengthscale)
        check_real("TabularGPPrior", "outputscale", self.outputscale, low=0, open_low=True)
        check_real("TabularGPPrior", "noise", self.noise, low=0)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(n_features=4), cls(n_features=3, n_classes=4, p_categorical=0.5)]

    def describe(self) -> str:
        """One line for people."""
        return (
            f"random tables: up to {self.n_features} columns, up to {self.n_classes} classes by the rank of a "
            f"smooth random function{self._realism()}"
        )

    def _n_used(self, n: int, generator: Generator, device: torch.device) -> Tensor:
        return integers(1, self.n_features, (n,), generator, device)

    def _scores(
        self, used: Tensor, n_rows: int, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        n = used.numel()
        x = uniform((n, n_rows, self.n_features), generator, device, dtype) * self._is_used(used)
        raw = torch.tensor(float(self.raw_lengthscale), device=device, dtype=dtype)
        lengthscale = (F.softplus(raw) * used.to(dtype).sqrt()).unsqueeze(-1)  # (n, 1)
        ones = x.new_ones(n)
        factor = jittered_cholesky(covariance("rbf", x, lengthscale, self.outputscale * ones, self.noise * ones))
        return x, (factor @ normal((n, n_rows, 1), generator, device, dtype)).squeeze(-1)


def standardise(x: Tensor) -> Tensor:
    """Columns of the tables (n, rows, d) with mean 0 and standard deviation 1; constant columns become 0."""
    centred = x - x.mean(dim=1, keepdim=True)
    return centred / (x.std(dim=1, correction=min(1, x.shape[1] - 1), keepdim=True) + 1e-6)


def labels_by_rank(score: Tensor, n_classes: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Class codes (n, rows), in the dtype of `score` (n, rows), and the number of classes of each table (n,)."""
    (n, rows), device = score.shape, score.device
    if n_classes == 2:
        y = (score > score.median(dim=1, keepdim=True).values).to(score.dtype)
        return y, torch.full((n,), 2, device=device)
    counts = integers(2, max(2, min(n_classes, rows)), (n,), generator, device)
    where = (generator, device, torch.float32)
    # Of the rows - 1 gaps between ranked rows, counts - 1 become cuts.
    is_cut = uniform((n, max(rows - 1, 0)), *where).argsort(dim=1).argsort(dim=1) < counts[:, None] - 1
    by_rank = F.pad(is_cut.long().cumsum(dim=1), (1, 0))
    code = by_rank.gather(1, score.argsort(dim=1).argsort(dim=1))
    return _shuffled(counts, n_classes, generator).gather(1, code).to(score.dtype), counts


def _shuffled(counts: Tensor, n_max: int, generator: Generator) -> Tensor:
    """A random order of 0..counts-1 at the start of each row (*b, n_max)."""
    keys = uniform((*counts.shape, n_max), generator, counts.device, torch.float32)
    return (keys + (torch.arange(n_max, device=counts.device) >= counts[..., None])).argsort(dim=-1)


def _warp(x: Tensor, p: float, generator: Generator) -> Tensor:
    """Each column, with probability `p`, through sinh(t * (asinh(x) + s)), t = exp(N(0, 0.5^2)), s = N(0, 0.5^2)."""
    n, _, d = x.shape
    where = (generator, x.device, x.dtype)
    chosen = uniform((n, 1, d), *where) < p
    tail, skew = (0.5 * normal((n, 1, d), *where)).exp(), 0.5 * normal((n, 1, d), *where)
    return torch.where(chosen, (tail * (x.asinh() + skew)).sinh(), x)


def _categorise(x: Tensor, p: float, generator: Generator) -> Tensor:
    """Each column, with probability `p`, as standardised codes of its place between random thresholds."""
    n, _, d = x.shape
    where = (generator, x.device, x.dtype)
    chosen = uniform((n, 1, d), *where) < p
    levels = integers(2, _MAX_LEVELS, (n, d), generator, x.device)
    code = torch.zeros(x.shape, dtype=torch.long, device=x.device)
    for index in range(_MAX_LEVELS - 1):
        threshold = normal((n, d), *where).masked_fill(index >= levels - 1, torch.inf)
        code += x > threshold.unsqueeze(1)
    order = torch.arange(_MAX_LEVELS, device=x.device).expand(n, d, _MAX_LEVELS)
    nominal = uniform((n, d, 1), *where) < 0.5
    order = torch.where(nominal, _shuffled(levels, _MAX_LEVELS, generator), order)
    code = order.transpose(1, 2).gather(1, code)  # (n, levels, d) looked up by (n, rows, d)
    return torch.where(chosen, standardise(code.to(x.dtype)), x)
