"""A mixture of normals."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from foreknow.core.predictive._numerics import (
    broadcast,
    check_finite,
    check_logits,
    check_positive,
    log_normal,
    ndtr,
    ndtri,
    normal_gain,
    together,
)
from foreknow.core.predictive.base import Predictive

_BISECTIONS = 64
"""Halvings of the bracket; more than double precision can tell apart."""


class GaussianMixture(Predictive):
    """K normals with weights. Quantiles are found by bisection and carry no gradient.

    Args:
        logits: unnormalised log weights, shape (*batch, K), shapes broadcast; -inf switches a component off.
        means: component means, (*batch, K).
        sds: component standard deviations, greater than 0, (*batch, K).
    """

    _event_axes = 1

    def __init__(self, logits: Tensor, means: Tensor, sds: Tensor) -> None:
        values = together("GaussianMixture", {"logits": logits, "means": means, "sds": sds})
        self.logits, self.means, self.sds = broadcast("GaussianMixture", "logits, means and sds", values)
        check_logits("GaussianMixture", self.logits)
        check_finite("GaussianMixture", "means", self.means)
        check_positive("GaussianMixture", "sds", self.sds)

    def _tensors(self) -> list[Tensor]:
        return [self.logits, self.means, self.sds]

    def _with(self, tensors: list[Tensor]) -> GaussianMixture:
        return GaussianMixture(*tensors)

    @property
    def weights(self) -> Tensor:
        """Component weights, shape (*batch, K), rows sum to 1."""
        return self.logits.softmax(-1)

    def mean(self) -> Tensor:
        return (self.weights * self.means).sum(-1)

    def variance(self) -> Tensor:
        spread = (self.means - self.mean().unsqueeze(-1)).square()
        return (self.weights * (self.sds.square() + spread)).sum(-1)

    def _log_prob(self, y: Tensor) -> Tensor:
        parts = log_normal((y.unsqueeze(-1) - self.means) / self.sds) - self.sds.log()
        return torch.logsumexp(self.logits.log_softmax(-1) + parts, -1)

    def _cdf(self, y: Tensor) -> Tensor:
        return (self.weights * ndtr((y.unsqueeze(-1) - self.means) / self.sds)).sum(-1)

    def _upper(self, y: Tensor) -> Tensor:
        return (self.weights * ndtr((self.means - y.unsqueeze(-1)) / self.sds)).sum(-1)

    @torch.no_grad()
    def _icdf(self, u: Tensor) -> Tensor:
        # The components' own quantiles bracket the mixture's. Above the median the upper tail is compared, so
        # that levels close to 1 are as sharp as levels close to 0.
        weights = self.logits.double().softmax(-1).unsqueeze(-2)  # (*batch, 1, K)
        means, sds = self.means.double().unsqueeze(-2), self.sds.double().unsqueeze(-2)
        own = means + sds * ndtri(u).unsqueeze(-1)  # (*batch, k, K)
        low, high = own.amin(-1), own.amax(-1)
        side = torch.where(u > 0.5, -1.0, 1.0).double()
        target = torch.where(u > 0.5, 1 - u, u)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            tail = (weights * ndtr(side.unsqueeze(-1) * (middle.unsqueeze(-1) - means) / sds)).sum(-1)
            below = side * (tail - target) < 0  # the quantile lies above the middle
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (0.5 * (low + high)).to(self.dtype)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        n_components = self.logits.shape[-1]
        weights = self.weights.reshape(-1, n_components).to(generator.device)
        chosen = torch.multinomial(weights, n, replacement=True, generator=generator).to(self.device)  # (batch, n)
        mean = self.means.reshape(-1, n_components).gather(1, chosen)
        sd = self.sds.reshape(-1, n_components).gather(1, chosen)
        z = torch.randn(mean.shape, generator=generator, device=generator.device, dtype=self.dtype).to(self.device)
        return (mean + sd * z).T.reshape(n, *self.batch_shape)

    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        gain = self.means - best.unsqueeze(-1) if maximize else best.unsqueeze(-1) - self.means
        return (self.weights * normal_gain(gain, self.sds)).sum(-1)
