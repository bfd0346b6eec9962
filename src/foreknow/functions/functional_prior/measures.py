"""How alike two sets of functions are, by measures that no training saw.

The critic's own objective is noisy and grows with its training, so it never serves here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foreknow.common.errors import InputError


def _check(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise InputError(f"expected functions (n, m) and (k, m), got {tuple(one.shape)} and {tuple(other.shape)}.")
    return one.double(), other.double()


def energy_distance(one: Tensor, other: Tensor) -> float:
    """2 E|f - g| - E|f - f'| - E|g - g'| over functions as vectors, divided by sqrt(m); unbiased, may be below 0."""
    f, g = _check(one, other)
    across = torch.cdist(f, g).mean()
    within = [torch.cdist(h, h).sum() / (len(h) * (len(h) - 1)) for h in (f, g)]
    return float((2 * across - within[0] - within[1]) / math.sqrt(f.shape[1]))


def mmd2(one: Tensor, other: Tensor) -> float:
    """Squared maximum mean discrepancy, unbiased, averaged over three RBF kernels.

    Their widths are 1/4, 1 and 4 times the median distance within `other`.
    """
    f, g = _check(one, other)
    distances = [torch.cdist(a, b).square() for a, b in ((f, f), (g, g), (f, g))]
    median = distances[1][~torch.eye(len(g), dtype=torch.bool)].median()
    total = 0.0
    for factor in (0.25, 1.0, 4.0):
        kernels = [torch.exp(-0.5 * d / (factor**2 * median)) for d in distances]
        within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in kernels[:2]]
        total += float(within[0] + within[1] - 2 * kernels[2].mean()) / 3
    return total


def marginal_sd(functions: Tensor) -> Tensor:
    """Standard deviation at every row, shape (m,), of functions (n, m)."""
    return functions.double().std(0)


def autocorrelation(functions: Tensor, lag: int) -> float:
    """Mean correlation, over draws, of values `lag` places apart on an even grid."""
    centred = functions.double() - functions.double().mean(0)
    scaled = centred / centred.square().mean(0).sqrt()
    return float((scaled[:, lag:] * scaled[:, :-lag]).mean())


def interval_score(low: Tensor, high: Tensor, y: Tensor, level: float = 0.95) -> Tensor:
    """Winkler's score of central intervals, in units of y: width plus 2 / (1 - level) for what lies outside."""
    miss = (low - y).clamp(min=0) + (y - high).clamp(min=0)
    return high - low + 2 / (1 - level) * miss
