"""What the lower bound is made of: divergences of Gaussians, expected log-likelihoods, and how two posteriors join."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FUSIONS = ("mean", "poe")
_LARGEST_LOG_RATE = 25.0


def kl_diagonal(mean: Tensor, log_sd: Tensor, variance: Tensor) -> Tensor:
    """KL(N(mean, sd^2) || N(0, variance)) of independent numbers, each; shapes broadcast."""
    quadratic = (mean.square() + (2 * log_sd).exp()) / variance
    return 0.5 * (quadratic - 1 + variance.log()) - log_sd


def kl_full(mean: Tensor, log_sd: Tensor, covariance: Tensor) -> Tensor:
    """KL(N(mean, diag sd^2) || N(0, K)) with a full prior covariance.

    Args:
        mean, log_sd: shape (b, t, p).
        covariance: one matrix a latent, shape (p, t, t).

    Returns:
        Shape (b, p).
    """
    root: Tensor = torch.linalg.cholesky(covariance)
    precision = torch.cholesky_inverse(root).to(mean)  # (p, t, t)
    variance = (2 * log_sd).exp()
    trace = torch.einsum("btp,ptt->bp", variance, precision)
    quadratic = torch.einsum("btp,pts,bsp->bp", mean, precision, mean)
    log_det = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1).to(mean)
    total: Tensor = 0.5 * (trace + quadratic - mean.shape[1] + log_det) - log_sd.sum(1)
    return total


def expected_poisson(counts: Tensor, log_rate: Tensor, variance: Tensor) -> Tensor:
    """E[log Poisson(counts | exp(a))] for a ~ N(log_rate, variance), in closed form; shapes alike."""
    rate = (log_rate + 0.5 * variance).clamp(max=_LARGEST_LOG_RATE).exp()
    return counts * log_rate - rate - torch.lgamma(counts + 1)


def expected_gaussian(values: Tensor, mean: Tensor, variance: Tensor, log_noise: Tensor) -> Tensor:
    """E[log N(values | a, noise)] for a ~ N(mean, variance), in closed form; `log_noise` is log of a variance."""
    squared = (values - mean).square() + variance
    return -0.5 * (math.log(2 * math.pi) + log_noise + squared * (-log_noise).exp())


def fuse(means: Tensor, log_sds: Tensor, present: Tensor, how: str) -> tuple[Tensor, Tensor]:
    """The posterior of what two modalities share; of one alone where the other is missing.

    Args:
        means, log_sds: of the modalities, shape (2, b, f, p).
        present: whether a trial has the modality, shape (2, b); at least one of them.
        how: "mean" averages means and log standard deviations; "poe" multiplies the two densities.
    """
    weight = present.to(means.dtype)[:, :, None, None]
    if how == "mean":
        total = weight.sum(0)
        return (weight * means).sum(0) / total, (weight * log_sds).sum(0) / total
    log_precision = -2 * log_sds + weight.log()  # minus infinity where it is missing
    log_total = torch.logsumexp(log_precision, 0)
    share = F.softmax(log_precision, 0)
    return (share * means).sum(0), -0.5 * log_total
