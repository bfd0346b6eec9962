"""Whether chains agree: split R-hat and effective sample size, for any number of quantities at once.

Gelman et al., Bayesian Data Analysis (3rd edition), section 11.4, and Vehtari et al. (2021) for the rank form. Apply
them to function values: weights of a network have symmetries, under which good chains never agree.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foreknow.common.errors import InputError


def _split(draws: Tensor) -> Tensor:
    """Each chain as two, shape (2 chains, draws // 2, ...), in float64; an odd draw in the middle is left out."""
    if draws.ndim < 2 or draws.shape[1] < 4:
        raise InputError(f"draws must have shape (chains, draws, ...) with 4 draws or more, got {tuple(draws.shape)}.")
    half = draws.shape[1] // 2
    return torch.cat([draws[:, :half], draws[:, -half:]]).double()


def rank_normalised(draws: Tensor) -> Tensor:
    """Draws (chains, draws, ...) replaced by normal scores of their ranks over all chains; ties share a mean rank."""
    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1).double()
    n = len(flat)
    ranks = torch.empty_like(flat)
    for column in range(flat.shape[1]):
        _, group, counts = torch.unique(flat[:, column], return_inverse=True, return_counts=True)
        ends = counts.cumsum(0).double()
        ranks[:, column] = (ends - 0.5 * (counts - 1))[group]
    scores: Tensor = torch.special.ndtri((ranks - 0.375) / (n + 0.25))
    return scores.reshape(draws.shape)


def split_rhat(draws: Tensor, *, rank: bool = False) -> Tensor:
    """Potential scale reduction of each quantity, shape (...); 1 where chains agree, constant ones included.

    Args:
        draws: shape (chains, draws, ...).
        rank: normalise ranks first, for heavy tails.
    """
    parts = _split(rank_normalised(draws) if rank else draws)
    n = parts.shape[1]
    within = parts.var(1).mean(0)
    between = n * parts.mean(1).var(0)
    ratio = ((n - 1) / n * within + between / n) / within
    constant = (within == 0) & (between == 0)
    return torch.where(constant, torch.ones_like(ratio), ratio.sqrt())


def effective_sample_size(draws: Tensor, *, rank: bool = False) -> Tensor:
    """How many independent draws the mean of each quantity is worth, shape (...).

    Autocorrelations of all split chains together, summed over Geyer's initial monotone sequence.

    Args:
        draws: shape (chains, draws, ...).
        rank: normalise ranks first.
    """
    parts = _split(rank_normalised(draws) if rank else draws)
    m, n = parts.shape[:2]
    centred = parts - parts.mean(1, keepdim=True)
    size = 1 << (2 * n - 1).bit_length()
    spectrum = torch.fft.rfft(centred, n=size, dim=1)
    autocovariance = torch.fft.irfft(spectrum.abs().square(), n=size, dim=1)[:, :n] / n  # (m, n, ...)
    within = (autocovariance[:, 0] * n / (n - 1)).mean(0)
    total = within * (n - 1) / n + parts.mean(1).var(0)
    rho = 1 - (within - autocovariance.mean(0) * n / (n - 1)) / total.clamp_min(torch.finfo(torch.float64).tiny)
    rho[0] = 1
    pairs = rho[: n // 2 * 2].reshape(n // 2, 2, *rho.shape[1:]).sum(1)  # (n // 2, ...)
    positive = (pairs > 0).long().cumprod(0).bool()
    pairs = torch.where(positive, pairs, torch.zeros_like(pairs)).cummin(0).values
    time = (2 * pairs.sum(0) - 1).clamp_min(1 / torch.log10(torch.tensor(float(m * n))))
    found = m * n / time
    return torch.where(total == 0, torch.full_like(found, float(m * n)), found)
