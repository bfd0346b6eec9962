"""One source of random numbers per draw of tables, and the published way of drawing hyper-parameters.

The released sampler draws every hyper-parameter in two steps: an outer draw fixes a small distribution, an
inner draw samples from it. Both are made per table here, so each table has the published marginal law and
tables of a batch are independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from foreknow.tasks.pfn.priors.hyper import gamma, normal, uniform


@dataclass(frozen=True)
class Source:
    """Random tensors of one device and dtype from one generator."""

    generator: Generator
    device: torch.device
    dtype: torch.dtype

    def uniform(self, *shape: int) -> Tensor:
        """Uniform on [0, 1[."""
        return uniform(shape, self.generator, self.device, self.dtype)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform on [low, high[."""
        return low + (high - low) * self.uniform(*shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return normal(shape, self.generator, self.device, self.dtype)

    def chance(self, p: float | Tensor, *shape: int) -> Tensor:
        """True with probability `p`."""
        return self.uniform(*shape) < p

    def integers(self, low: int | Tensor, high: int | Tensor, *shape: int) -> Tensor:
        """Whole numbers from `low` to `high`, both included; bounds may be tensors that broadcast to `shape`."""
        high = torch.as_tensor(high, device=self.device)
        return (low + (self.uniform(*shape) * (high - low + 1)).long()).minimum(high)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """The exponential of a uniform draw on [ln low, ln high]."""
        return self.between(math.log(low), math.log(high), *shape).exp()

    def gamma(self, concentration: float | Tensor, *shape: int) -> Tensor:
        """Gamma draws of rate 1; the concentration may be a tensor that broadcasts to `shape`."""
        return gamma(concentration, shape, self.generator, self.device, self.dtype)

    def beta(self, a: Tensor, b: Tensor) -> Tensor:
        """Beta draws, in the shape of `a` and `b`."""
        x, y = self.gamma(a, *a.shape), self.gamma(b, *b.shape)
        return x / (x + y)

    def pick(self, weights: Tensor, n: int) -> Tensor:
        """`n` indices per row of `weights` (b, k), drawn with replacement in proportion to them, shape (b, n)."""
        edges = weights.cumsum(dim=1)
        u = self.uniform(weights.shape[0], n) * edges[:, -1:]
        return torch.searchsorted(edges, u, right=True).clamp_max(weights.shape[1] - 1)

    def shuffled(self, counts: Tensor, n_max: int) -> Tensor:
        """A random order of 0..counts-1 at the start of each row (*b, n_max); the others follow in random order."""
        keys = self.uniform(*counts.shape, n_max)
        return (keys + (torch.arange(n_max, device=self.device) >= counts[..., None])).argsort(dim=-1)

    # The published two-step draws, one per table.

    def trunc_norm_log(self, low: float, high: float, n: int) -> Tensor:
        """Positive numbers: mu log-uniform on [low, high]; sd = mu * logU(.01, 1); N(mu, sd) cut to positive values."""
        mean = self.log_uniform(low, high, n).double()
        sd = mean * self.log_uniform(0.01, 1.0, n).double()
        floor = torch.special.ndtr(-mean / sd)
        u = floor + (1 - floor) * self.uniform(n).double()
        x = mean + sd * torch.special.ndtri(u.clamp(1e-300, 1 - 1e-12))
        drawn: Tensor = x.clamp(1e-9, 1e6).to(self.dtype)
        return drawn

    def meta_gamma(self, max_concentration: float, max_scale: float, n: int) -> Tensor:
        """Positive numbers: a = exp U(0, ln max); s = U(0, max_scale); Gamma of shape a and scale s/a, so of mean s."""
        a = self.log_uniform(1.0, max_concentration, n)
        return self.gamma(a, n) * self.between(0.0, max_scale, n) / a

    def meta_beta(self, scale: float, low: float, high: float, n: int) -> Tensor:
        """Draws of scale * Beta(b, k), both parameters uniform on [low, high]."""
        return scale * self.beta(self.between(low, high, n), self.between(low, high, n))

    def meta_choice(self, k: int, n: int, *, low: float = -3.0, high: float = 5.0) -> Tensor:
        """One of k options with logits [1, U(low, high), ...], shape (n,)."""
        logits = self.between(low, high, n, k)
        logits[:, 0] = 1.0
        return self.pick(logits.softmax(dim=1), 1)[:, 0]

    def meta_coin(self, n: int) -> Tensor:
        """The published choice between True and False."""
        return self.meta_choice(2, n) == 0


def root_causes(source: Source, n_rows: int, n_causes: Tensor, mixed: Tensor) -> Tensor:
    """The exogenous variables of structural models, shape (b, n_rows, max n_causes), zeros beyond n_causes.

    A normal cause has a mean drawn from N(0, 1) and the standard deviation |N(0, 1) * mean|. In a table with
    `mixed` causes each is normal, a standardised multinomial over 2 to 10 levels, or a centred Zipf variable
    cut at 10, as in the released sampler.

    Args:
        source: of randomness.
        n_rows: rows per table.
        n_causes: causes of every table, shape (b,).
        mixed: which tables have mixed causes, shape (b,).
    """
    b, c = n_causes.numel(), int(n_causes.max())
    mean = source.normal(b, 1, c)
    x = mean + (source.normal(b, 1, c) * mean).abs() * source.normal(b, n_rows, c)
    p = 0.66 * source.uniform(b, 2)
    not_normal = source.chance(p[:, :1], b, c) & mixed[:, None]
    chosen = not_normal.nonzero(as_tuple=True)
    if chosen[0].numel():
        zipf = source.chance(p[:, 1:], b, c)
        rank = torch.arange(1, 11, device=source.device, dtype=source.dtype)
        weights = source.uniform(b, c, 10) * (rank <= source.integers(2, 10, b, c)[..., None])
        power = 2 + 2 * source.uniform(b, c, 1)
        tail = torch.cat([rank[:-1] ** -power, torch.special.zeta(power, rank[-1:])], dim=-1)
        codes = source.pick(torch.where(zipf[..., None], tail, weights)[chosen], n_rows).to(source.dtype)
        codes = codes - codes.mean(dim=1, keepdim=True)
        spread = codes.std(dim=1, correction=0, keepdim=True) + 1e-6
        x.transpose(1, 2)[chosen] = torch.where(zipf[chosen][:, None], codes, codes / spread)
    used = torch.arange(c, device=source.device) < n_causes[:, None]
    return x * used[:, None]


def observation_noise(source: Source, score: Tensor, n_classes: Tensor) -> Tensor:
    """Scores (b, n, k) with normal noise of a standard deviation log-uniform on .03..1 of their own.

    It is divided by sqrt(n_classes - 1), as finer classes drown in less of it. A quarter of the tables are left
    exact; a third of the others has noise that grows along the first score, so that rows differ in how sure they are.
    """
    b, n, k = score.shape
    sd = source.log_uniform(0.03, 1.0, b, 1, 1) * ~source.chance(0.25, b, 1, 1)
    sd = sd / (n_classes - 1).sqrt()[:, None, None]
    scale = score.std(dim=1, correction=0, keepdim=True)
    z = (score[..., :1] - score[..., :1].mean(dim=1, keepdim=True)) / (scale[..., :1] + 1e-9)
    uneven = source.chance(0.33, b, 1, 1) * source.normal(b, 1, 1)
    spread: Tensor = sd * scale * (uneven * z.clamp(-2, 2)).exp()
    return score + spread * source.normal(b, n, k)


def given_columns(source: Source, b: int, n: int, d: int, p_mixed: float) -> Tensor:
    """Columns (b, n, d): root causes of unit scale, in half of the tables mixed with some of each other."""
    sizes = torch.full((b,), d, device=source.device)
    x = root_causes(source, n, sizes, source.chance(p_mixed, b))
    x = (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, correction=0, keepdim=True) + 1e-6)
    density = source.chance(0.5, b, 1, 1) * source.uniform(b, 1, 1)
    mix = source.normal(b, d, d) * source.chance(density, b, d, d) * (1.5 / d**0.5)
    mixed: Tensor = x + x @ mix
    return mixed
