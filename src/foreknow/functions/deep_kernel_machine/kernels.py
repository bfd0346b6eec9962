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
    half = gram.cross - 0.5 * gram.rows.unsqueeze(-1) - 0.5 * gram.columns.unsqueeze(-2)
    return Gram(torch.ones_like(gram.rows), torch.ones_like(gram.columns), half.clamp_max(0.0).exp())


def scaled(gram: Gram, factor: torch.Tensor | float) -> Gram:
    """The Gram matrix of features times sqrt(factor)."""
    return Gram(gram.rows * factor, gram.columns * factor, gram.cross * factor)
