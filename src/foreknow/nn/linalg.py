"""Cholesky factors of covariances that may be singular to rounding."""

from __future__ import annotations

import torch
from torch import Tensor


def jittered_cholesky(k: Tensor, *, largest: float = 1e-3) -> Tensor:
    """Lower factors of the matrices (*b, n, n), with jitter growing up to `largest` of the mean diagonal.

    Only matrices that need it get jitter; those that still fail come back as NaN. Gradients reach `k` where
    all of them have a factor.
    """
    factor: Tensor
    factor, status = torch.linalg.cholesky_ex(k)
    if not bool((status.ne(0) | ~factor.isfinite().flatten(-2).all(dim=-1)).any()):
        return factor
    factor, jitter = _with_jitter(k.detach(), largest)
    if not k.requires_grad or bool(jitter.isnan().any()):
        return factor
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    factor = torch.linalg.cholesky(k + jitter[..., None, None] * eye)
    return factor


def _with_jitter(k: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """Factors, and what was added to each diagonal, NaN where nothing helped."""
    factor: Tensor
    factor, status = torch.linalg.cholesky_ex(k)
    added = torch.zeros(k.shape[:-2], dtype=k.dtype, device=k.device)
    share = 1e-7 if k.dtype == torch.float32 else 1e-12
    while bool((bad := status.ne(0) | ~factor.isfinite().flatten(-2).all(dim=-1)).any()):
        if share > largest:
            return factor.masked_fill(bad[..., None, None], torch.nan), added.masked_fill(bad, torch.nan)
        worse = k[bad]
        diagonal = worse.diagonal(dim1=-2, dim2=-1)
        added[bad] = share * diagonal.mean(dim=-1)
        diagonal.add_(added[bad][:, None])
        factor[bad], status[bad] = torch.linalg.cholesky_ex(worse)
        share *= 10
    return factor, added
