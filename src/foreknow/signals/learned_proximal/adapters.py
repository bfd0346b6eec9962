"""A learnt proximal map in the shapes that deepinv's algorithms take, without depending on deepinv."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning
from foreknow.signals.learned_proximal.network import GradientOfConvex
from foreknow.signals.learned_proximal.reading import invert


class ProximalDenoiser(nn.Module):
    """`forward(x, sigma)`, as deepinv's denoisers have it.

    Args:
        denoiser: the network, or the average of it over patches.
        sigma: the noise it was trained at. Called with another one it warns, and does as it was trained.
    """

    def __init__(self, denoiser: nn.Module, sigma: float) -> None:
        super().__init__()
        self.denoiser, self.sigma = denoiser, sigma

    def forward(self, x: Tensor, sigma: float | Tensor | None = None, **options: Any) -> Tensor:
        """The denoised images, shape (b, C, H, W); `options` of other denoisers are not used."""
        if sigma is not None and bool((torch.as_tensor(sigma).double() - self.sigma).abs().max() > 1e-6):
            warnings.warn(
                f"this denoiser was trained at sigma = {self.sigma:g}; it cannot be set to another.",
                ForeknowWarning,
                stacklevel=2,
            )
        found: Tensor = self.denoiser(x)
        return found


class LearnedPrior(nn.Module):
    """An explicit prior: R, its gradient and its proximal map.

    It has `fn`, `grad` and `prox` as deepinv's priors do, and `penalty`, `grad` and `prox(value, step)` as this
    library's. `fn` is R without the unknown constant; divide it by sigma^2 for nats.

    Args:
        network: f, the proximal map of R.
    """

    explicit_prior = True

    def __init__(self, network: GradientOfConvex) -> None:
        super().__init__()
        self.network = network

    def fn(self, x: Tensor, *args: Any) -> Tensor:
        """R at each row, shape (b,)."""
        return invert(self.network, x).penalty.to(x.dtype)

    def penalty(self, value: Tensor) -> Tensor:
        """The same as `fn`."""
        return self.fn(value)

    def grad(self, x: Tensor, *args: Any) -> Tensor:
        """The gradient of R, f^-1(x) - x."""
        return (invert(self.network, x).y - x.double()).to(x.dtype)

    def prox(self, x: Tensor, *args: Any, gamma: float | Tensor | None = None) -> Tensor:
        """argmin_z step R(z) + ||z - x||^2 / 2; the network itself where the step is 1, which is the default.

        Args:
            x: shape (b, ...).
            args: of deepinv's call; the step, where `gamma` is not given and there is just one.
            gamma: the step, greater than 0 and at most 1.

        Raises:
            ConfigError: the step is not a number greater than 0.
            CapabilityError: it is larger than 1, where the problem may have several solutions.
        """
        given = gamma if gamma is not None else args[0] if len(args) == 1 else 1.0
        step = float(given)
        if not 0 < step < float("inf"):
            raise ConfigError(f"LearnedPrior: the step must be a number greater than 0, got {step}.")
        if step > 1:
            raise CapabilityError(
                f"LearnedPrior: the proximal map is known for steps up to 1, got {step:g}.",
                hint="Use a smaller step, or more weight on the data instead.",
            )
        if step == 1:
            found: Tensor = self.network(x)
            return found
        y = invert(self.network, x, step=step).y.to(x.dtype)
        found = self.network(y)
        return found

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        """The same as `fn`."""
        return self.fn(x)
