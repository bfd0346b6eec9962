"""Sparse Gaussian process algebra on Gram matrices: inducing points, conditionals, bounds, all batched.

i are the inducing points (M of them), t the data (T). With K_ii = L L' and A = K_ti L'^-1 ("whitened"):
K_ti K_ii^-1 K_it = A A', and for u = L v the conditional mean of the data is A v. Titsias 2009 (`collapsed_bound`),
Hensman et al. 2015 (`whitened_moments`, `kl_whitened`).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import ConvergenceError

LARGEST_JITTER = 1e-2
"""In units of the mean diagonal; a matrix that needs more is refused."""


def stable_cholesky(k: Tensor, jitter: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Lower factors of the symmetric matrices (*b, n, n), with jitter that grows tenfold where it must.

    Args:
        k: positive semi-definite up to rounding.
        jitter: first jitter, in units of each matrix's mean diagonal; 0 tries without.

    Returns:
        Factors (*b, n, n), and the jitter that each was given, in the same units, shape (*b).

    Raises:
        ConvergenceError: a matrix is not finite, or has no factor even with a hundredth of its mean diagonal.
    """
    mean = k.diagonal(dim1=-2, dim2=-1).mean(dim=-1).detach().abs()
    used = torch.full_like(mean, jitter)
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    while True:
        shifted = k + (used * mean)[..., None, None] * eye
        factor, status = torch.linalg.cholesky_ex(shifted)
        bad = status.ne(0) | ~factor.detach().isfinite().flatten(-2).all(dim=-1)
        if not bool(bad.any()):
            return factor, used
        used = torch.where(bad, (used * 10).clamp_min(1e-10), used)
        if float(used.max()) > LARGEST_JITTER or not bool(k.isfinite().all()):
            raise ConvergenceError(
                "a Gram matrix has no Cholesky factor, even with a hundredth of its mean diagonal added.",
                hint="Look for infinite inputs, extreme scales or a learning rate that is too large.",
                statistics={"largest_jitter": float(used.max())},
            )


def whiten(factor: Tensor, cross: Tensor) -> Tensor:
    """A = K_ti L'^-1, shape (*b, T, M), of the factor L (*b, M, M) and K_ti (*b, T, M)."""
    a: Tensor = torch.linalg.solve_triangular(factor, cross.mT, upper=False).mT
    return a


def condition(factor: Tensor, a: Tensor, diagonal: Tensor, root: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What follows for the data when the inducing points' covariance becomes G_ii = L R R' L'.

    Args:
        factor: L, shape (*b, M, M).
        a: A = K_ti L'^-1, shape (*b, T, M).
        diagonal: of K_tt, shape (*b, T).
        root: R, shape (*b, M, M).

    Returns:
        G_ii (*b, M, M), G_ti = K_ti K_ii^-1 G_ii (*b, T, M), and the diagonal of
        G_tt = K_tt - K_ti K_ii^-1 K_it + K_ti K_ii^-1 G_ii K_ii^-1 K_it (*b, T).
    """
    inner = factor @ root
    along = a @ root
    rest = (diagonal - a.square().sum(dim=-1)).clamp_min(0.0)
    return inner @ inner.mT, along @ inner.mT, rest + along.square().sum(dim=-1)


def kl_of_root(root: Tensor, *, triangular: bool = False) -> Tensor:
    """KL(N(0, L R R' L') | N(0, L L')) = 1/2 (|R|^2 - log det R R' - M), shape (*b).

    Args:
        root: R, shape (*b, M, M).
        triangular: R is triangular with a positive diagonal, so that its determinant is quick.
    """
    diagonal = root.diagonal(dim1=-2, dim2=-1)
    log_det = diagonal.log().sum(dim=-1) if triangular else torch.linalg.slogdet(root).logabsdet
    return 0.5 * (root.square().sum(dim=(-2, -1)) - root.shape[-1]) - log_det


def kl_of_gram(gram: Tensor, factor: Tensor, *, jitter: float = 1e-10) -> Tensor:
    """KL(N(0, G) | N(0, L L')) = 1/2 (tr K^-1 G - log det K^-1 G - M) of G (*b, M, M), by two Cholesky factors."""
    own, _ = stable_cholesky(gram, jitter)
    root = torch.linalg.solve_triangular(factor, own, upper=False)
    log_det = own.diagonal(dim1=-2, dim2=-1).log().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    total: Tensor = 0.5 * (root.square().sum(dim=(-2, -1)) - gram.shape[-1]) - log_det
    return total


def whitened_moments(a: Tensor, diagonal: Tensor, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance at the data of q(u), u = L v, v ~ N(mean, R R').

    Args:
        a: A, shape (T, M).
        diagonal: of K_tt, shape (T,).
        mean: shape (M, C) for C outputs.
        root: R, shape (C, M, M).

    Returns:
        Means and variances, shape (T, C).
    """
    spread = torch.einsum("tm,cmk->tck", a, root).square().sum(dim=-1)
    rest = (diagonal - a.square().sum(dim=-1)).clamp_min(0.0)
    return a @ mean, rest[:, None] + spread


def kl_whitened(mean: Tensor, root: Tensor) -> Tensor:
    """KL(N(mean, R R') | N(0, I)) summed over outputs: mean (M, C), R (C, M, M) triangular."""
    log_det = root.diagonal(dim1=-2, dim2=-1).abs().log().sum()
    return 0.5 * (mean.square().sum() + root.square().sum() - mean.numel()) - log_det


def expected_log_normal(y: Tensor, mean: Tensor, variance: Tensor, noise: Tensor) -> Tensor:
    """E log N(y; f, noise) with f ~ N(mean, variance); noise is a variance."""
    return -0.5 * ((y - mean).square() + variance) / noise - 0.5 * (2 * math.pi * noise).log()


def collapsed_bound(a: Tensor, diagonal: Tensor, y: Tensor, noise: Tensor) -> Tensor:
    """Evidence lower bound with the best q(u), summed over outputs.

    It is log N(y; 0, A A' + noise I) - tr(K_tt - A A') / (2 noise), and exact when the inducing points are the data.

    Args:
        a: A, shape (T, M).
        diagonal: of K_tt, shape (T,).
        y: targets, shape (T, C).
        noise: variance.
    """
    n = len(a)
    n_outputs = y.shape[1]
    factor = _posterior_factor(a, noise)
    white = torch.linalg.solve_triangular(factor, a.mT @ y, upper=False) / noise.sqrt()
    quadratic = (y.square().sum() / noise - white.square().sum() / noise) * 0.5
    log_det = factor.diagonal().log().sum() + 0.5 * n * noise.log()
    slack = 0.5 * (diagonal - a.square().sum(dim=1)).clamp_min(0.0).sum() / noise
    bound: Tensor = -quadratic - n_outputs * (log_det + slack + 0.5 * n * math.log(2 * math.pi))
    return bound


def collapsed_posterior(a: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The best q(u), u = L v: mean of v (M, C), and a root R (M, M) of its covariance, the same for every output."""
    factor = _posterior_factor(a, noise)
    mean = torch.cholesky_solve(a.mT @ y, factor) / noise
    root = torch.linalg.solve_triangular(factor, torch.eye(a.shape[1]).to(a), upper=False).mT
    return mean, root


def _posterior_factor(a: Tensor, noise: Tensor) -> Tensor:
    """Cholesky factor of I + A' A / noise."""
    factor: Tensor = torch.linalg.cholesky(torch.eye(a.shape[1]).to(a) + a.mT @ a / noise)
    return factor


def inducing_rows(X: NDArray[np.float64], m: int, seed: int) -> NDArray[np.float64]:
    """Centres of k-means, or the different rows themselves where there are no more than `m` of them."""
    different = np.unique(X, axis=0)
    if len(different) <= m:
        return different
    from sklearn.cluster import KMeans

    centres = KMeans(m, n_init=1, max_iter=30, random_state=seed % 2**32).fit(X).cluster_centers_
    return np.asarray(centres, dtype=np.float64)
