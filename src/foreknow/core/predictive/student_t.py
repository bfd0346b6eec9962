"""Student's t distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from scipy import special
from torch import Tensor

from foreknow.core.predictive._numerics import broadcast, check_finite, check_positive, together
from foreknow.core.predictive.base import Predictive


class StudentT(Predictive):
    """Student's t with a location and a scale: the predictive of a normal with unknown variance.

    The distribution function and the quantile go through scipy in double precision; they carry gradients to
    `loc` and `scale` (and y), not to `df`. The mean is NaN for df <= 1; the variance is infinite for df <= 2 and
    NaN for df <= 1; expected improvement is infinite for df <= 1.

    Args:
        df: degrees of freedom, greater than 0, shapes broadcast.
        loc: centre.
        scale: scale, greater than 0 (not the standard deviation).
    """

    def __init__(self, df: Tensor | float, loc: Tensor | float, scale: Tensor | float) -> None:
        values = together("StudentT", {"df": df, "loc": loc, "scale": scale})
        self.df, self.loc, self.scale = broadcast("StudentT", "df, loc and scale", values)
        check_positive("StudentT", "df", self.df)
        check_finite("StudentT", "loc", self.loc)
        check_positive("StudentT", "scale", self.scale)

    def _tensors(self) -> list[Tensor]:
        return [self.df, self.loc, self.scale]

    def _with(self, tensors: list[Tensor]) -> StudentT:
        return StudentT(*tensors)

    def mean(self) -> Tensor:
        return self.loc.masked_fill(self.df <= 1, math.nan)

    def variance(self) -> Tensor:
        safe = self.df.where(self.df > 2, 3.0)
        finite = self.scale.square() * safe / (safe - 2)
        return finite.masked_fill(self.df <= 2, math.inf).masked_fill(self.df <= 1, math.nan)

    def _log_prob(self, y: Tensor) -> Tensor:
        return self._log_standard((y - self.loc) / self.scale) - self.scale.log()

    def _cdf(self, y: Tensor) -> Tensor:
        return self._standard_cdf((y - self.loc) / self.scale)

    def _upper(self, y: Tensor) -> Tensor:
        return self._standard_cdf((self.loc - y) / self.scale)

    def _icdf(self, u: Tensor) -> Tensor:
        df = self.df.detach().double().unsqueeze(-1).expand(u.shape)
        z = torch.from_numpy(special.stdtrit(df.cpu().numpy(), u.cpu().numpy())).to(device=self.device)
        z = torch.where(u <= 0, -math.inf, torch.where(u >= 1, math.inf, z))
        return self.loc.unsqueeze(-1) + self.scale.unsqueeze(-1) * z.to(self.dtype)

    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        # scale * (d F(d) + (df + d^2) / (df - 1) f(d)) with d = gain / scale; infinite where there is no mean
        d = (self.loc - best if maximize else best - self.loc) / self.scale
        safe = self.df.where(self.df > 1, 2.0)
        tail = (self.df + d.square()) / (safe - 1) * self._log_standard(d).exp()
        gain = self.scale * (d * self._standard_cdf(d) + tail).clamp(min=0)
        return gain.masked_fill(self.df <= 1, math.inf)

    def _log_standard(self, z: Tensor) -> Tensor:
        """Log density for loc 0, scale 1. The constant needs double precision once df is large."""
        half = 0.5 * self.df.double()
        constant = torch.lgamma(half + 0.5) - torch.lgamma(half) - 0.5 * (math.pi * self.df.double()).log()
        ratio = (z / self.df.sqrt()).abs()
        far = ratio > 1e4  # the square could overflow there, and the 1 in log(1 + r^2) no longer counts
        near_part = torch.log1p(ratio.masked_fill(far, 0.0).square())
        far_part = 2 * ratio.where(far, 1.0).log()
        return constant.to(z.dtype) - 0.5 * (self.df + 1) * torch.where(far, far_part, near_part)

    def _standard_cdf(self, z: Tensor) -> Tensor:
        density = self._log_standard(z.detach()).detach()
        result: Tensor = _StudentCdf.apply(z, self.df.expand_as(z), density)  # type: ignore[no-untyped-call]
        return result


class _StudentCdf(torch.autograd.Function):
    """P(T <= z), whose derivative with respect to z is the density."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, df: Tensor, log_density: Tensor) -> Tensor:
        ctx.save_for_backward(log_density)
        value = special.stdtr(df.detach().double().cpu().numpy(), z.detach().double().cpu().numpy())
        return torch.as_tensor(value).to(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (log_density,) = ctx.saved_tensors
        return gradients[0] * log_density.exp(), None, None
