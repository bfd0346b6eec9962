"""Kernels that need nothing of their inputs but the Gram matrix."""

from __future__ import annotations

import torch

from foreknow.nn.infinite.dense import Gram, layer

KERNELS = ("arccos", "sqexp", "linear")
_BIAS = 0.1
"""Variance of the biases behind the arc-cosine kernel, without which it is homogeneous."""


def apply_kernel(kind: str, gram: Gram) -> Gram:
    """K(G): "arccos" (ReLU, keeps the size), "sqexp" (from distances G_ii + G_jj - 2 G_ij), or "linear".

    Args:
        kind: one of `KERNELS`.
        gram: second moments of the layer before.
    """
    if kind == "linear":
        return gram
    if kind == "arccos":
        return layer(gram, "relu", 2.0 / (1 + _BIAS), _BIAS / (1 + _BIAS))
    distance = (gram.rows.unsqueeze(-1) + gram.columns.unsqueeze(-2) - 2 * gram.cross).clamp_min(0.0)
    return Gram(torch.ones_like(gram.rows), torch.ones_like(gram.columns), torch.exp(-0.5 * distance))


def scaled(gram: Gram, factor: torch.Tensor | float) -> Gram:
    """The Gram matrix of features times sqrt(factor)."""
    return Gram(gram.rows * factor, gram.columns * factor, gram.cross * factor)
