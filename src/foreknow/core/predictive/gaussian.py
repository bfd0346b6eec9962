"""The normal distribution."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from foreknow.core.predictive._numerics import (
    broadcast,
    check_finite,
    check_positive,
    log_normal,
    ndtr,
    ndtri,
    normal_gain,
    together,
)
from foreknow.core.predictive.base import Predictive


class Gaussian(Predictive):
    """Normal with a mean and a standard deviation; everything in closed form.

    Args:
        mean: expectation, shape batch_shape (kept as `loc`).
        sd: standard deviation, greater than 0, broadcast against `mean`.
    """

    def __init__(self, mean: Tensor | float, sd: Tensor | float) -> None:
        self.loc, self.sd = broadcast("Gaussian", "mean and sd", together("Gaussian", {"mean": mean, "sd": sd}))
        check_finite("Gaussian", "mean", self.loc)
        check_positive("Gaussian", "sd", self.sd)

    def _tensors(self) -> list[Tensor]:
        return [self.loc, self.sd]

    def _with(self, tensors: list[Tensor]) -> Gaussian:
        return Gaussian(*tensors)

    def mean(self) -> Tensor:
        return self.loc

    def variance(self) -> Tensor:
        return self.sd.square()

    def _log_prob(self, y: Tensor) -> Tensor:
        return log_normal((y - self.loc) / self.sd) - self.sd.log()

    def _cdf(self, y: Tensor) -> Tensor:
        return ndtr((y - self.loc) / self.sd)

    def _upper(self, y: Tensor) -> Tensor:
        return ndtr((self.loc - y) / self.sd)

    def _icdf(self, u: Tensor) -> Tensor:
        return self.loc.unsqueeze(-1) + self.sd.unsqueeze(-1) * ndtri(u).to(self.dtype)

    def _sample(self, n: int, generator: Generator) -> Tensor:
        z = torch.randn(n, *self.batch_shape, generator=generator, device=generator.device, dtype=self.dtype)
        return self.loc + self.sd * z.to(self.device)

    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        return normal_gain(self.loc - best if maximize else best - self.loc, self.sd)
