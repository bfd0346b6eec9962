"""Draws, as they are."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from foreknow.common.errors import InputError
from foreknow.core.predictive._numerics import as_tensor, check_finite, log_normal, take, together
from foreknow.core.predictive.base import Predictive


class Empirical(Predictive):
    """Weighted draws: mean, variance, `cdf`, `quantile`, `ei` and `sample` are those of the discrete distribution.

    `cdf` and `quantile` are the weighted step functions (quantile: the smallest draw whose cumulative weight
    reaches the level) and carry no gradient to the levels. Only `log_prob` smooths: it puts a normal kernel on each
    draw, with Silverman's bandwidth 0.9 min(sd, IQR / 1.34) n_eff^(-1/5), n_eff = 1 / sum w^2; the sd alone
    where the IQR is 0, and 1e-6 max(1, |mean|) where all draws are equal. The kernel density is therefore a little
    wider than the draws, and an evaluation costs n kernels a value.

    Args:
        samples: draws, shape (n, *batch).
        weights: non-negative weights, shape (n,) or (n, *batch); normalised here. None: all equal.
    """

    _event_axes = 1

    def __init__(self, samples: Tensor, weights: Tensor | None = None) -> None:
        n_first = as_tensor("Empirical", "samples", samples)
        if n_first.ndim < 1 or n_first.shape[0] < 1:
            raise InputError(
                f"Empirical: samples need a first axis of at least one draw, got shape {tuple(n_first.shape)}."
            )
        given = torch.ones_like(n_first) if weights is None else weights
        values, mass = together("Empirical", {"samples": samples, "weights": given})
        if weights is not None and mass.ndim == 1:
            mass = mass.reshape(-1, *[1] * (values.ndim - 1))
        if mass.ndim != values.ndim or mass.shape[0] != values.shape[0]:
            raise InputError(
                f"Empirical: weights must have shape ({values.shape[0]},) or {tuple(values.shape)}, "
                f"got {tuple(as_tensor('Empirical', 'weights', given).shape)}."
            )
        check_finite("Empirical", "samples", values)
        check_finite("Empirical", "weights", mass)
        total = mass.sum(0, keepdim=True)
        if bool((mass < 0).any()) or not bool((total > 0).all()):
            raise InputError("Empirical: weights must be >= 0 with a positive sum.")
        try:
            mass = (mass / total).expand(values.shape)
        except RuntimeError:
            raise InputError(
                f"Empirical: weights {tuple(mass.shape)} do not fit samples {tuple(values.shape)}."
            ) from None
        self._draws = values.movedim(0, -1)  # (*batch, n)
        self._mass = mass.movedim(0, -1)

    def _tensors(self) -> list[Tensor]:
        return [self._draws, self._mass]

    def _with(self, tensors: list[Tensor]) -> Empirical:
        return Empirical(tensors[0].movedim(-1, 0), tensors[1].movedim(-1, 0))

    @property
    def samples(self) -> Tensor:
        """The draws in the order given, shape (n, *batch)."""
        return self._draws.movedim(-1, 0)

    @property
    def weights(self) -> Tensor:
        """Their weights, shape (n, *batch), summing to 1 over the draws."""
        return self._mass.movedim(-1, 0)

    def mean(self) -> Tensor:
        return (self._mass * self._draws).sum(-1)

    def variance(self) -> Tensor:
        return (self._mass * (self._draws - self.mean().unsqueeze(-1)).square()).sum(-1)

    def bandwidth(self) -> Tensor:
        """Standard deviation of the kernel of `log_prob`, shape batch_shape."""
        sd = self.variance().clamp(min=torch.finfo(self.dtype).tiny).sqrt()  # the root's slope stays finite at 0
        quartiles = self._icdf(torch.tensor([0.25, 0.75], device=self.device).expand(*self.batch_shape, 2))
        spread = (quartiles[..., 1] - quartiles[..., 0]) / 1.34
        width = torch.where(spread > 0, torch.minimum(sd, spread), sd)
        n_effective = 1 / self._mass.square().sum(-1)
        return torch.maximum(0.9 * width * n_effective**-0.2, 1e-6 * self.mean().abs().clamp(min=1))

    def _log_prob(self, y: Tensor) -> Tensor:
        width = self.bandwidth().unsqueeze(-1)
        z = (y.unsqueeze(-1) - self._draws) / width
        kernel = log_normal(z) - width.log()
        return torch.logsumexp(self._mass.log() + kernel, -1)

    def _cdf(self, y: Tensor) -> Tensor:
        return self._weight_upto(y, right=True)

    def _lower(self, y: Tensor) -> Tensor:
        return self._weight_upto(y, right=False)

    def _icdf(self, u: Tensor) -> Tensor:
        draws, cumulative = self._sorted()
        # a hair below the level, so that rounding in the running sum never skips the draw that reaches it
        index = torch.searchsorted(cumulative, (u.double() - 1e-12).contiguous())
        return draws.gather(-1, index.clamp(max=draws.shape[-1] - 1))

    def _sample(self, n: int, generator: Generator) -> Tensor:
        n_draws = self._draws.shape[-1]
        mass = self._mass.reshape(-1, n_draws).to(generator.device)
        chosen = torch.multinomial(mass, n, replacement=True, generator=generator).to(self.device)  # (batch, n)
        return self._draws.reshape(-1, n_draws).gather(1, chosen).T.reshape(n, *self.batch_shape)

    def _ei(self, best: Tensor, maximize: bool) -> Tensor:
        gain = self._draws - best.unsqueeze(-1) if maximize else best.unsqueeze(-1) - self._draws
        return (self._mass * gain.clamp(min=0)).sum(-1)

    def _sorted(self) -> tuple[Tensor, Tensor]:
        """Draws in ascending order and their running weight, float64, ending in exactly 1; both (*batch, n)."""
        draws, order = self._draws.sort(-1)
        cumulative = self._mass.gather(-1, order).double().cumsum(-1)
        return draws, cumulative / cumulative[..., -1:]

    def _weight_upto(self, y: Tensor, *, right: bool) -> Tensor:
        """Weight of the draws <= y, or < y when not `right`."""
        draws, cumulative = self._sorted()
        batch = draws.shape[:-1]
        flat = y.reshape(math.prod(y.shape[: y.ndim - len(batch)]), *batch)  # (samples, *batch)
        index = torch.searchsorted(draws.contiguous(), flat.movedim(0, -1).contiguous(), right=right)
        padded = torch.nn.functional.pad(cumulative, (1, 0))
        return take(padded, index.movedim(-1, 0).reshape(y.shape)).to(self.dtype)
