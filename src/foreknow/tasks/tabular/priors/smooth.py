"""Tables whose target is a smooth random function of given columns: Gaussian processes.

Draws are made with random Fourier features (Rahimi and Recht, 2007), linear in the number of rows. The Gaussian
process member of the published bag of priors is here as well, exact (`SmoothPrior.published`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.core.registry import register
from foreknow.nn.linalg import jittered_cholesky
from foreknow.tasks.pfn.priors.gp import covariance
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.priors.base import N_SCORES, TablePrior
from foreknow.tasks.tabular.priors.source import Source, given_columns, observation_noise


@register(CARD)
@dataclass(frozen=True)
class SmoothPrior(TablePrior):
    """Tables whose target is a smooth random function of some of the columns.

    The function is a Gaussian process, squared exponential or rougher (its frequencies are normal, or Student-t
    with 1 to 6 degrees of freedom), with a relevance per column, zero for some. In a share of the tables it is a
    sum of functions of one or two columns each.

    Args:
        n_frequencies: random Fourier features.
        p_additive: share of tables with a sum of functions of one or two columns.
        p_mixed: share of tables with discrete and long-tailed columns among the normal ones.
        exact_published: the published member instead: uniform or normal columns, one lengthscale
            trunc_norm_log(1e-5, 10), outputscale likewise, noise variance 1e-5, 1e-4 or 1e-2.
    """

    n_frequencies: int = 96
    p_additive: float = 0.4
    p_mixed: float = 0.4
    exact_published: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("SmoothPrior", "n_frequencies", self.n_frequencies, low=1)
        check_real("SmoothPrior", "p_additive", self.p_additive, low=0, high=1)
        check_real("SmoothPrior", "p_mixed", self.p_mixed, low=0, high=1)
        check_bool("SmoothPrior", "exact_published", self.exact_published)

    @classmethod
    def published(cls, n_features: int = 10, n_classes: int = 10) -> SmoothPrior:
        """The Gaussian process of the published bag of priors; most of its tables are noise to any method."""
        prior = cls(n_features=n_features, n_classes=n_classes, exact_published=True).plain()
        return replace(prior, p_categorical=0.2, imbalance=1.0, min_signal=0.0)

    def _latent(self, n_tasks: int, n_rows: int, n_classes: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        if self.exact_published:
            return self._published(n_tasks, n_rows, source)
        b, d, m = n_tasks, self.n_features, self.n_frequencies
        x = given_columns(source, b, n_rows, d, self.p_mixed)
        freedom = source.integers(1, 6, b, 1, 1).to(source.dtype)
        heavy = (freedom / (2 * source.gamma(freedom / 2, b, 1, m))).sqrt()
        frequency = source.normal(b, d, m) * torch.where(source.chance(0.5, b, 1, 1), heavy, 1.0)
        # A frequency of an additive function sees one column or two.
        keys = source.uniform(b, d, m).argsort(dim=1).argsort(dim=1)
        seen = torch.where(source.chance(self.p_additive, b, 1, 1), source.integers(1, 2, b, 1, m), d)
        relevance = source.chance(source.between(0.3, 1.0, b, 1, 1), b, d, 1) * (0.7 * source.normal(b, d, 1)).exp()
        used = (keys < seen) & (relevance > 0)
        # Distances grow with the square root of the columns that count; lengths grow along.
        length = source.log_uniform(0.5, 4.0, b, 1, 1) * used.sum(dim=1, keepdim=True).clamp_min(1).sqrt()
        phase = 2 * math.pi * source.uniform(b, 1, m)
        wave = (torch.baddbmm(phase, x, frequency * used * relevance / length)).cos()
        wave = wave * used.any(dim=1, keepdim=True)
        return x, observation_noise(source, wave @ source.normal(b, m, N_SCORES), n_classes)

    def _published(self, b: int, n: int, source: Source) -> tuple[Tensor, Tensor]:
        d = self.n_features
        x = torch.where(source.chance(0.5, b, 1, 1), source.uniform(b, n, d), source.normal(b, n, d))
        length, scale = source.trunc_norm_log(1e-5, 10.0, b), source.trunc_norm_log(1e-5, 10.0, b)
        noise = source.uniform(b).new_tensor([1e-5, 1e-4, 1e-2])[source.integers(0, 2, b)]
        factor = jittered_cholesky(covariance("rbf", x, length[:, None], scale, noise))
        return x, factor @ source.normal(b, n, 1)
