"""Ensembles of networks, each with a last layer of its own variance s2 ~ H: their law, and finite ones to check it.

Trained by gradient flow to fit noiseless targets, a wide network given s2 is Gaussian (section 3.2 of the paper):
    readout only    mean K* K^-1 y      covariance s2 (K** - K* K^-1 K*')
    all layers      mean T* T^-1 y      covariance s2 (K** + T* T^-1 K T^-1 T*' - T* T^-1 K*' - K* T^-1 T*')
with the NNGP kernel K and the tangent kernel T, which both grow with s2, so that the mean does not depend on it.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from foreknow.common.validate import check_int, check_option
from foreknow.core.predictive import Predictive
from foreknow.functions.scale_mixture_nngp.prior import ScalePrior
from foreknow.nn.infinite import FullyConnected, as_activation
from foreknow.nn.linalg import jittered_cholesky

TRAINING = ("none", "readout", "all")


def trained_moments(
    kernel: FullyConnected, x: Tensor, y: Tensor, x_new: Tensor, *, training: str
) -> tuple[Tensor, Tensor]:
    """Mean (m,) and covariance (m, m) under s2 = 1 of a wide network after training.

    Args:
        kernel: of the network, its last layer of variance 1 and without a bias.
        x: rows, shape (n, d).
        y: targets, shape (n,), fitted exactly.
        x_new: rows to predict, shape (m, d).
        training: "none", "readout" or "all" (every layer).
    """
    check_option("trained_moments", "training", training, TRAINING)
    prior = kernel(x_new)
    if training == "none":
        return torch.zeros_like(x_new[:, 0]), prior
    if training == "readout":
        factor, cross = jittered_cholesky(kernel(x)), kernel(x_new, x)
        solved = torch.cholesky_solve(cross.T, factor).T
        return solved @ y, prior - solved @ cross.T
    inner, tangent = kernel.ntk(x)
    cross, cross_tangent = kernel.ntk(x_new, x)
    solved = torch.cholesky_solve(cross_tangent.T, jittered_cholesky(tangent)).T  # T* T^-1
    mixed = solved @ cross.T
    return solved @ y, prior + solved @ inner @ solved.T - mixed - mixed.T


def trained_law(
    kernel: FullyConnected, prior: ScalePrior, x: Tensor, y: Tensor, x_new: Tensor, *, training: str = "all"
) -> Predictive:
    """The law over an ensemble, of each row's output: a Student t for an inverse gamma prior."""
    mean, covariance = trained_moments(kernel, x, y, x_new, training=training)
    variance = covariance.diagonal().clamp_min(torch.finfo(covariance.dtype).tiny)
    return prior.prior_predictive(mean, variance)


def finite_features(kernel: FullyConnected, x: Tensor, n: int, width: int, generator: Generator) -> Tensor:
    """Last hidden layers of `n` finite networks at their initial weights, shape (n, rows, width).

    Given a layer, the units of the next one are independent Gaussians over the rows. They are drawn so, which has
    exactly the law of drawing the weights, at a fraction of the cost.
    """
    check_int("finite_features", "n", n, low=1)
    check_int("finite_features", "width", width, low=1)
    phi = as_activation("finite_features", kernel.activation)
    gram = (x @ x.T / x.shape[1]).expand(n, -1, -1)
    features = torch.empty(0)
    for _ in range(kernel.depth):
        factor = jittered_cholesky(kernel.w_var * gram + kernel.b_var)
        z = torch.randn(n, len(x), width, generator=generator, dtype=x.dtype, device=x.device)
        features = phi(factor @ z)
        gram = features @ features.mT / width
    return features


def finite_ensemble(
    kernel: FullyConnected,
    prior: ScalePrior,
    x: Tensor,
    *,
    n: int,
    width: int,
    generator: Generator,
    targets: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Outputs at rows `x` of `n` finite networks, each with a variance s2 of its own, shape (n, rows).

    Args:
        kernel: of the networks; its last layer has variance 1 and no bias.
        prior: of s2.
        x: rows, float64.
        n: networks.
        width: units of a hidden layer.
        generator: source of all draws.
        targets: rows and targets that the last layers are trained to fit, by gradient flow from their first weights;
            None leaves them as they are.
    """
    rows = x if targets is None else torch.cat([targets[0], x])
    s2 = prior.sample_scales(n, generator=generator).to(x)
    parts = []
    for scales in torch.split(s2, max(1, 4_000_000 // (len(rows) * width))):
        features = finite_features(kernel, rows, len(scales), width, generator) / math.sqrt(width)
        weights = torch.randn(len(scales), width, 1, generator=generator, dtype=x.dtype, device=x.device)
        weights = scales.sqrt()[:, None, None] * weights
        if targets is not None:
            fixed = features[:, : len(targets[0])]
            rest = targets[1][:, None] - fixed @ weights
            # Gradient flow moves the weights within the span of the features, so to the nearest that fit.
            weights = weights + fixed.mT @ torch.cholesky_solve(rest, jittered_cholesky(fixed @ fixed.mT))
            features = features[:, len(targets[0]) :]
        parts.append((features @ weights)[..., 0])
    return torch.cat(parts)
