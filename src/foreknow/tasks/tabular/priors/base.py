"""What the priors over tables share: from latent columns and scores to a table as people have them.

A member draws columns and a few scores per row (`_latent`). Here the scores become classes or a number to
predict, and the columns become those of a real table: soft-clamped, bent, rounded, with outliers, some of
them codes of categories, some cells missing, in random order. Published (Hollmann et al., 2023): the soft
clamp, categorical columns, classes by rank and by value, their permutation, redrawn non-finite tables.
Extensions: Dirichlet class sizes, classes by nearest centre, warped and rounded columns, outliers, label
noise, and mechanisms of missing cells.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Generator, Tensor

from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.prior import TARGETS, Prior, Simulator
from foreknow.tasks.pfn.priors.hyper import Tables, redraw_non_finite
from foreknow.tasks.tabular.priors.source import Source

N_SCORES = 4
"""Scores a member gives per row: the first is the target of regression and of classes by rank or value, all of
them place a row among the centres of classes by centre."""

_CLAMP = 4.0
_MAX_LEVELS = 64
_FEW_ROWS, _EXEMPT, _REDRAWS = 24, 0.1, 6  # of the filter


@dataclass(frozen=True)
class TablePrior(Simulator):
    """A prior over whole tables with a target; members write `_latent`.

    `info` holds `n_classes` (b,) and `is_categorical` (b, d). Targets of regression are standardised over the
    table.

    Args:
        n_features: columns.
        n_classes: largest number of classes; each table has a number uniform on min_classes..n_classes.
        min_classes: smallest number of classes.
        task: "classification" or "regression".
        p_categorical: share of tables with categorical columns (published .2); in such a table each column
            is one with a probability uniform on [0, 1].
        p_missing: share of tables with missing cells (extension).
        p_warped: probability that a column is bent by a monotone curve or rounded (extension).
        p_outliers: share of tables in which some columns have outliers (extension).
        label_noise: largest share of rows whose target is replaced by that of a random class (regression: of
            a random row), in a fifth of the tables (extension).
        imbalance: share of tables whose class sizes are Dirichlet with a concentration log-uniform on .4..4
            (published: 1, thresholds at random rows); the others are closer to balanced (extension).
        min_signal: tables are drawn again, up to six times, while a kernel regression explains less than this
            share of the scores, each row left out of its own prediction (times sqrt(n_classes - 1), as
            more classes need more signal); a tenth of the tables is exempt (extension, in the style of
            TabICLv2; 0 switches it off).
    """

    n_features: int = 10
    n_classes: int = 2
    min_classes: int = 2
    task: str = "classification"
    p_categorical: float = 0.25
    p_missing: float = 0.2
    p_warped: float = 0.3
    p_outliers: float = 0.15
    label_noise: float = 0.25
    imbalance: float = 0.5
    min_signal: float = 0.08

    view: ClassVar[str] = "table"
    _noisy_tables: ClassVar[float] = 0.2

    def __post_init__(self) -> None:
        owner = type(self).__name__
        check_int(owner, "n_features", self.n_features, low=1)
        check_int(owner, "min_classes", self.min_classes, low=2)
        check_int(owner, "n_classes", self.n_classes, low=self.min_classes)
        check_option(owner, "task", self.task, TARGETS)
        for name in ("p_categorical", "p_missing", "p_warped", "p_outliers", "label_noise", "imbalance", "min_signal"):
            check_real(owner, name, getattr(self, name), low=0, high=1)

    @property
    def target(self) -> str:  # type: ignore[override]
        return self.task

    @property
    def missing_values(self) -> bool:
        """Whether cells of x may be NaN."""
        return self.p_missing > 0

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(n_features=4),
            cls(n_features=3, n_classes=4, p_categorical=1.0, p_outliers=1.0, p_missing=0.0),
            cls(n_features=5, task="regression", p_missing=0.0),
        ]

    def describe(self) -> str:
        """One line for people."""
        first = (type(self).__doc__ or "").partition("\n")[0].rstrip(".")
        goal = "a number" if self.task == "regression" else f"{self.min_classes} to {self.n_classes} classes"
        return f"{first}; {self.n_features} columns, {goal}"

    def plain(self) -> Self:
        """The same mechanism without categories, missing cells, bends, outliers and label noise."""
        return replace(self, p_categorical=0.0, p_missing=0.0, p_warped=0.0, p_outliers=0.0, label_noise=0.0)

    @abstractmethod
    def _latent(self, n_tasks: int, n_rows: int, n_classes: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """Columns (b, n, d) and scores (b, n, k >= 1) of tables with `n_classes` (b,)."""

    def _learnable(self, n: int, n_rows: int, n_classes: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        x, score = self._latent(n, n_rows, n_classes, source)
        if not self.min_signal or n_rows < _FEW_ROWS:
            return x, score
        least = self.min_signal * torch.ones(n, device=source.device)
        if self.task == "classification":
            least = least * (n_classes - 1).sqrt()
        pending = (~source.chance(_EXEMPT, n)).nonzero()[:, 0]
        for _ in range(_REDRAWS):
            pending = pending[signal(x[pending], score[pending]) < least[pending]]
            if not pending.numel():
                break
            x[pending], score[pending] = self._latent(pending.numel(), n_rows, n_classes[pending], source)
        return x, score

    def _scaled(self, score: Tensor) -> Tensor:
        return robust_standardise(score)

    def _classes(self, score: Tensor, n_classes: Tensor, source: Source) -> Tensor:
        """Codes 0..n_classes-1, shape (b, n), int64."""
        return classes_of(score, n_classes, self.n_classes, self.imbalance, source)

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        source = Source(generator, device, dtype)

        def draw(n: int) -> Tables:
            high = 6 if self.task == "regression" else self.n_classes
            n_classes = source.integers(min(self.min_classes, high), high, n)
            x, score = self._learnable(n, n_rows, n_classes, source)
            x, score = robust_standardise(x), self._scaled(score)
            noisy = source.chance(self._noisy_tables, n, 1) * self.label_noise * source.uniform(n, 1)
            if self.task == "regression":
                y = numbers_of(score[..., 0], noisy, source)
            else:
                code = self._classes(score, n_classes, source)
                y = with_label_noise(code, n_classes, noisy, source).to(dtype)
            x = soft_clamp(x)
            if self.p_warped:
                x = bend(x, self.p_warped, source)
            if self.p_outliers:
                x = with_outliers(x, self.p_outliers, source)
            is_categorical = torch.zeros(n, self.n_features, dtype=torch.bool, device=device)
            if self.p_categorical:
                x, is_categorical = categorise(x, self.p_categorical, source)
            order = source.uniform(n, self.n_features).argsort(dim=1)
            x = x.gather(2, order[:, None].expand_as(x))
            # Ranks would hide a score that is not finite; 0 * score makes it show.
            y = y + 0 * score[..., 0]
            return x, y, {"n_classes": n_classes, "is_categorical": is_categorical.gather(1, order)}

        x, y, info = redraw_non_finite(type(self).__name__, draw, n_tasks)
        if self.p_missing:
            x = with_missing(x, self.p_missing, source)
        return x, y, info


def robust_standardise(x: Tensor) -> Tensor:
    """Columns of (b, n, d) with mean 0 and standard deviation 1 at any scale; constant columns become 0."""
    x = x - x.mean(dim=1, keepdim=True)
    x = x / x.abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    x = x - x.mean(dim=1, keepdim=True)
    spread = x.square().mean(dim=1, keepdim=True).sqrt()
    return torch.where(spread > 1e-5, x / spread.clamp_min(1e-5), 0 * x)


def signal(x: Tensor, score: Tensor) -> Tensor:
    """Share of the variance of scores (b, n, k) that a kernel ridge regression on `x` (b, n, d) explains, (b,).

    The mean of the share of the first score and of the mean share of all.
    The kernel is half linear, half Laplacian; predictions leave the row itself out, in closed form. Where there
    is nothing to learn the share is below zero. At most 96 rows are looked at.
    """
    x, score = robust_standardise(x[:, :96]).clamp(-4, 4), robust_standardise(score[:, :96]).clamp(-4, 4)
    distance = torch.cdist(x, x, p=1)
    near = torch.exp(-distance / distance.mean(dim=(1, 2), keepdim=True).clamp_min(1e-9))
    kernel = 0.5 * near + 0.5 * (x @ x.mT) / x.shape[2]
    kernel.diagonal(dim1=1, dim2=2).add_(0.3)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(kernel).L)
    missed = (inverse @ score) / inverse.diagonal(dim1=1, dim2=2)[..., None]
    share = 1 - missed.square().mean(dim=1) / score.square().mean(dim=1).clamp_min(1e-9)
    return (share[:, 0] + share.mean(dim=1)) / 2


def soft_clamp(x: Tensor) -> Tensor:
    """Standardised columns with logarithmic tails beyond 4 standard deviations, estimated inside the band."""
    inside = (x.abs() <= _CLAMP).to(x.dtype)
    n = inside.sum(dim=1, keepdim=True).clamp_min(1)
    mean = (x * inside).sum(dim=1, keepdim=True) / n
    sd = (((x - mean) * inside).square().sum(dim=1, keepdim=True) / n).sqrt()
    tail = x.abs().log1p()
    return x.maximum(mean - _CLAMP * sd - tail).minimum(mean + _CLAMP * sd + tail)


def bend(x: Tensor, p: float, source: Source) -> Tensor:
    """Columns bent with probability `p`: sinh(t (asinh(x) + s)), and a third of these rounded to a grid."""
    b, _, d = x.shape
    chosen = source.chance(p, b, 1, d)
    tail, skew = (0.5 * source.normal(b, 1, d)).exp(), 0.5 * source.normal(b, 1, d)
    bent = robust_standardise((tail * (x.asinh() + skew)).sinh())
    step = source.log_uniform(0.1, 1.2, b, 1, d)
    rounded = source.chance(0.33, b, 1, d)
    return torch.where(chosen, torch.where(rounded, (bent / step).round() * step, bent), x)


def with_outliers(x: Tensor, p: float, source: Source) -> Tensor:
    """In a share `p` of the tables, columns with up to 3 of 100 cells far outside; standardised again."""
    b, n, d = x.shape
    rate = source.chance(p, b, 1, 1) * source.chance(0.3, b, 1, d) * 0.03 * source.uniform(b, 1, d)
    one_sided = source.chance(0.7, b, 1, d)
    size = source.log_uniform(4.0, 30.0, b, 1, d) * source.between(0.3, 1.0, b, n, d)
    sign = torch.where(source.chance(0.5, b, n, d) & ~one_sided, -1.0, 1.0)
    return robust_standardise(torch.where(source.uniform(b, n, d) < rate, sign * size, x))


def categorise(x: Tensor, p: float, source: Source) -> tuple[Tensor, Tensor]:
    """Columns turned into standardised codes in a share `p` of the tables, and which of them are declared.

    Levels: max(round Gamma(1, 10), 2), by the rank among random rows; codes are shuffled with probability .7.
    Shuffled columns are declared categorical, and half of the ordered ones.
    """
    b, n, d = x.shape
    chosen = source.chance(p, b, 1) & (source.uniform(b, d) < source.uniform(b, 1))
    declared = torch.zeros_like(chosen)
    m = int(chosen.sum())
    if not m or n < 2:
        return x, declared
    columns = x.transpose(1, 2)[chosen]  # (m, n)
    levels = (10 * source.gamma(1.0, m)).round().long().clamp(2, min(_MAX_LEVELS, n))
    rows = source.uniform(m, n).topk(min(_MAX_LEVELS, n) - 1, dim=1).indices
    thresholds = columns.gather(1, rows)
    used = torch.arange(rows.shape[1], device=x.device) < levels[:, None] - 1
    thresholds = thresholds.masked_fill(~used, torch.inf).sort(dim=1).values
    code = torch.searchsorted(thresholds, columns.contiguous(), right=False)
    nominal = source.chance(0.7, m)
    shuffled = source.shuffled(levels, _MAX_LEVELS)
    code = torch.where(nominal[:, None], shuffled.gather(1, code), code)
    x = x.clone()
    x.transpose(1, 2)[chosen] = robust_standardise(code.to(x.dtype)[..., None])[..., 0]
    declared[chosen] = nominal | source.chance(0.5, m)
    return x, declared


def with_missing(x: Tensor, p: float, source: Source) -> Tensor:
    """Cells set to NaN in a share `p` of the tables.

    In such a table each column loses cells with a probability uniform on [0, 1], at a rate up to .6 (mostly
    small); half of the columns at random, a quarter depending on another column, kept complete where there
    is one (MAR), a quarter on the lost value itself (MNAR).
    """
    b, n, d = x.shape
    tables = source.chance(p, b).nonzero()[:, 0]
    t = tables.numel()
    if not t:
        return x
    part = x[tables]
    column = source.uniform(t, d) < source.uniform(t, 1)
    rate = (0.6 * source.uniform(t, d) ** 2).clamp(1e-6, 1 - 1e-6) * column
    kind = source.integers(0, 3, t, d)  # 0, 1: at random; 2: by another column; 3: by itself
    complete = (source.uniform(t, d) + ~column).argmax(dim=1)
    other = torch.where(kind == 2, complete[:, None], torch.arange(d, device=x.device))
    pull = source.between(0.5, 0.95, t, d) * torch.where(source.chance(0.5, t, d), -1.0, 1.0) * (kind >= 2)
    driver = part.gather(2, other[:, None].expand(t, n, d))
    level = pull[:, None] * driver + (1 - pull.square()).sqrt()[:, None] * source.normal(t, n, d)
    lost = level < torch.special.ndtri(rate)[:, None]
    x = x.clone()
    x[tables] = part.masked_fill(lost & column[:, None], torch.nan)
    return x


def class_shares(n_classes: Tensor, n_max: int, imbalance: float, source: Source) -> Tensor:
    """Dirichlet class shares (b, n_max), zero beyond n_classes."""
    b = n_classes.numel()
    uneven = source.chance(imbalance, b)
    concentration = torch.where(uneven, source.log_uniform(0.4, 4.0, b), source.log_uniform(8.0, 500.0, b))
    share = source.gamma(concentration[:, None], b, n_max)
    share = share * (torch.arange(n_max, device=source.device) < n_classes[:, None])
    return share / share.sum(dim=1, keepdim=True)


def classes_of(score: Tensor, n_classes: Tensor, n_max: int, imbalance: float, source: Source) -> Tensor:
    """Class codes (b, n) from standardised scores (b, n, k).

    By rank: class sizes are drawn and cut from the ranked first score. By value (a fifth of the tables):
    thresholds on it are N(0, 1). By centre (where there are several scores .3, or .8 with more than two
    classes): the class of a row is the nearest of n_classes random rows in the space of the scores, up to
    offsets that make the drawn sizes. Every class gets at least one row, and five
    where the table has room; cuts that would part equal scores move to the nearest place between different
    ones where that empties no class. Codes are permuted at random.
    """
    b, n, k = score.shape
    device = score.device
    first = score[..., 0].contiguous()
    share = class_shares(n_classes, n_max, imbalance, source)
    ordered, order = first.sort(dim=1)
    inner = torch.arange(n_max, device=device) < n_classes[:, None] - 1
    cuts = source.normal(b, n_max).masked_fill(~inner, torch.inf).sort(dim=1).values
    below = torch.searchsorted(ordered, cuts)
    by_value = below.diff(dim=1, prepend=below.new_zeros(b, 1)).to(score.dtype) / n
    by_cuts = torch.where(source.chance(0.2, b, 1), by_value, share)
    code = torch.empty(b, n, dtype=torch.long, device=device)
    code.scatter_(1, order, _by_rank(ordered, n_classes, by_cuts))
    if k > 1:
        near = source.chance(torch.where(n_classes > 2, 0.8, 0.3), b).nonzero()[:, 0]
        if near.numel() and n >= n_max:
            new = _by_centre(score[near], share[near], source)
            size = torch.zeros(near.numel(), n_max, dtype=torch.long, device=device)
            size.scatter_add_(1, new, torch.ones_like(new))
            fine = ((size >= _floor(n, n_classes[near])[:, None]) | (share[near] == 0)).all(dim=1)
            code[near[fine]] = new[fine]
    return source.shuffled(n_classes, n_max).gather(1, code)


def _floor(n_rows: int, n_classes: Tensor) -> Tensor:
    """Fewest rows of a class: five, a half of its fair share in small tables, one where there is a row for each."""
    return (n_rows // (2 * n_classes)).clamp(1, 5) * (n_classes <= n_rows)


def _by_rank(ordered: Tensor, n_classes: Tensor, share: Tensor) -> Tensor:
    """Codes of the rows in ascending order of score, shape (b, n)."""
    (b, n), n_max = ordered.shape, share.shape[1]
    device = ordered.device
    valid = torch.arange(n_max, device=device) < n_classes[:, None]
    floor = _floor(n, n_classes)
    free = n - floor * n_classes
    size = (floor[:, None] + (free[:, None] * share).long()) * valid
    rest = n - size.sum(dim=1, keepdim=True)
    size.scatter_add_(1, share.argmax(dim=1, keepdim=True), rest)
    # The largest class pays where rounding of shares gave out too many rows.
    edges = size.cumsum(dim=1).clamp_max(n)
    rank = torch.arange(n + 1, device=device).expand(b, -1)
    starts = torch.ones(b, n + 1, dtype=torch.bool, device=device)
    starts[:, 1:n] = ordered.diff(dim=1) > 1e-5
    before = torch.where(starts, rank, 0).cummax(dim=1).values.gather(1, edges)
    after = torch.where(starts, rank, n).flip(1).cummin(dim=1).values.flip(1).gather(1, edges)
    moved = torch.where(edges - before < after - edges, before, after)
    filled = (moved.diff(dim=1, prepend=moved.new_zeros(b, 1)) > 0) | ~valid
    edges = torch.where(filled.all(dim=1, keepdim=True), moved, edges)
    return torch.searchsorted(edges, rank[:, :n].contiguous(), right=True).clamp_max(n_max - 1)


def _by_centre(score: Tensor, share: Tensor, source: Source) -> Tensor:
    """Nearest of random rows, after offsets that bring the class sizes close to `share` (Sinkhorn's iteration)."""
    (b, n, k), n_max = score.shape, share.shape[1]
    rows = source.uniform(b, n).topk(n_max, dim=1).indices
    # The scores weigh differently from table to table, from one that decides to all alike.
    scaled = score.clamp(-4, 4) * source.log_uniform(0.1, 1.0, b, 1, k)
    distance = torch.cdist(scaled, scaled.gather(1, rows[..., None].expand(b, n_max, k))).square()
    logits = -distance / (0.05 * distance.mean(dim=(1, 2), keepdim=True) + 1e-9)
    target = share.log()[:, None]
    offset = target
    for _ in range(10):
        taken = (logits + offset).log_softmax(dim=2).logsumexp(dim=1, keepdim=True)
        offset = torch.where(share[:, None] > 0, offset + target + math.log(n) - taken, -torch.inf)
    return (logits + offset).argmax(dim=2)


def with_label_noise(code: Tensor, n_classes: Tensor, share: Tensor, source: Source) -> Tensor:
    """Codes (b, n) of which a `share` (b, 1) is drawn anew from all classes, unless a class would vanish."""
    b, n = code.shape
    hit = source.uniform(b, n) < share
    noisy = torch.where(hit, source.integers(0, n_classes[:, None] - 1, b, n), code)
    n_max = int(n_classes.max())
    size = torch.zeros(b, n_max, dtype=torch.long, device=code.device).scatter_add_(1, noisy, torch.ones_like(noisy))
    whole = ((size > 0) | (torch.arange(n_max, device=code.device) >= n_classes[:, None])).all(dim=1)
    return torch.where(whole[:, None], noisy, code)


def numbers_of(score: Tensor, share: Tensor, source: Source) -> Tensor:
    """Targets of regression: the score, bent in .3 of the tables, rounded in .1, with a `share` of rows swapped."""
    b, n = score.shape
    y = soft_clamp(score[..., None])
    chosen = source.chance(0.3, b, 1, 1)
    tail, skew = (0.4 * source.normal(b, 1, 1)).exp(), 0.7 * source.normal(b, 1, 1)
    y = torch.where(chosen, robust_standardise((tail * (y.asinh() + skew)).sinh()), robust_standardise(y))
    step = source.log_uniform(0.05, 0.8, b, 1, 1)
    y = torch.where(source.chance(0.1, b, 1, 1), (y / step).round() * step, y)[..., 0]
    other = y.gather(1, source.integers(0, n - 1, b, n))
    return robust_standardise(torch.where(source.uniform(b, n) < share, other, y)[..., None])[..., 0]
