"""Distributions over hyper-parameters, and the random draws all priors of this package are made of.

torch's gamma sampler takes no generator, so `gamma` is written here: Marsaglia and Tsang, "A simple
method for generating gamma variables" (2000), exact for every shape, vectorised over all draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConvergenceError
from foreknow.common.validate import check_int, check_real
from foreknow.core.records import record


def uniform(shape: tuple[int, ...], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Uniform draws on [0, 1[, made on the generator's device and moved to `device`."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def normal(shape: tuple[int, ...], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard normal draws, made on the generator's device and moved to `device`."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype).to(device)


def integers(low: int, high: int, shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Uniform whole numbers from `low` to `high`, both included."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device).to(device)


def gamma(
    concentration: float | Tensor,
    shape: tuple[int, ...],
    generator: Generator,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Gamma draws of rate 1, never below the smallest normal number of `dtype`.

    Args:
        concentration: one number, or a tensor that broadcasts to `shape`.
        shape: of the draws.
        generator: source of randomness.
        device: where the draws go.
        dtype: their type.
    """
    place = generator.device
    shapes = torch.as_tensor(concentration, dtype=torch.float64).to(place).expand(shape).reshape(-1)
    # A shape below 1 is drawn one higher and multiplied by U^(1/shape).
    boost = shapes < 1
    d = shapes + boost - 1 / 3
    c = (9 * d) ** -0.5
    value = torch.empty_like(shapes)
    pending = torch.arange(value.numel(), device=place)
    while pending.numel():  # a round accepts more than 95 of 100
        z = normal((pending.numel(),), generator, place, torch.float64)
        u = uniform((pending.numel(),), generator, place, torch.float64)
        v = (1 + c[pending] * z) ** 3
        safe = v.clamp_min(torch.finfo(v.dtype).tiny)
        accepted = (v > 0) & (u.log() < 0.5 * z**2 + d[pending] * (1 - v + safe.log()))
        value[pending[accepted]] = (d[pending] * v)[accepted]
        pending = pending[~accepted]
    if bool(boost.any()):
        power = uniform((value.numel(),), generator, place, torch.float64) ** (1 / shapes)
        value = torch.where(boost, value * power, value)
    return value.reshape(shape).to(device=device, dtype=dtype).clamp_min(torch.finfo(dtype).tiny)


@record
@dataclass(frozen=True)
class Fixed:
    """A hyper-parameter that is known."""

    value: float

    def __post_init__(self) -> None:
        check_real("Fixed", "value", self.value, low=0)

    def sample(self, shape: tuple[int, ...], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
        """`value` in an array of this shape; the generator is not used."""
        return torch.full(shape, float(self.value), device=device, dtype=dtype)

    def scaled(self, factor: float) -> Fixed:
        """The distribution of `factor` times this hyper-parameter."""
        return Fixed(self.value * factor)

    def __str__(self) -> str:
        return f"{self.value:g}"


@record
@dataclass(frozen=True)
class Gamma:
    """A gamma distribution with mean `concentration / rate`."""

    concentration: float
    rate: float

    def __post_init__(self) -> None:
        check_real("Gamma", "concentration", self.concentration, low=0, open_low=True)
        check_real("Gamma", "rate", self.rate, low=0, open_low=True)

    def sample(self, shape: tuple[int, ...], generator: Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Independent draws, positive."""
        return gamma(self.concentration, shape, generator, device, dtype) / self.rate

    def scaled(self, factor: float) -> Gamma:
        """The distribution of `factor` times this hyper-parameter."""
        return Gamma(self.concentration, self.rate / factor)

    def __str__(self) -> str:
        return f"Gamma({self.concentration:g}, {self.rate:g})"


@record
@dataclass(frozen=True)
class BetaInt:
    """Whole numbers from `low` to `high`, a beta variable cut into equal steps."""

    alpha: float
    beta: float
    low: int
    high: int

    def __post_init__(self) -> None:
        check_real("BetaInt", "alpha", self.alpha, low=0, open_low=True)
        check_real("BetaInt", "beta", self.beta, low=0, open_low=True)
        check_int("BetaInt", "low", self.low, low=1)
        check_int("BetaInt", "high", self.high, low=self.low)

    def sample(self, shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
        """Independent draws of dtype int64."""
        a = gamma(self.alpha, shape, generator, device, torch.float64)
        b = gamma(self.beta, shape, generator, device, torch.float64)
        steps = (a / (a + b) * (self.high - self.low + 1)).floor().long()
        return (self.low + steps).clamp_max(self.high)


Positive = float | Fixed | Gamma
"""What a positive hyper-parameter may be given as; a number stands for `Fixed`."""


def as_hyper(owner: str, name: str, value: object, *, positive: bool = True) -> Fixed | Gamma:
    """`value` as a distribution.

    Raises:
        ConfigError: if it is neither a distribution nor a number greater than 0 (from 0, unless `positive`).
    """
    if isinstance(value, Gamma):
        return value
    number = value.value if isinstance(value, Fixed) else value
    return Fixed(check_real(owner, name, number, low=0, open_low=positive))


Tables = tuple[Tensor, Tensor, dict[str, Any]]


def redraw_non_finite(owner: str, draw: Callable[[int], Tables], n_tasks: int) -> Tables:
    """`draw(n_tasks)` with every task that holds a non-finite number drawn again.

    The prior sampled is hence the stated one, given that a table can be computed in this precision.

    Raises:
        ConvergenceError: if some are still non-finite after 20 rounds.
    """
    x, y, info = draw(n_tasks)
    for _ in range(20):
        bad = ~(x.isfinite().flatten(1).all(dim=1) & y.isfinite().all(dim=1))
        if not bool(bad.any()):
            return x, y, info
        new_x, new_y, new_info = draw(int(bad.sum()))
        x[bad], y[bad] = new_x, new_y
        for key, value in new_info.items():
            info[key][bad] = value
    raise ConvergenceError(
        f"{owner}: {int(bad.sum())} of {n_tasks} tasks are not finite after 20 draws.",
        hint="Use less extreme hyper-parameters, or dtype=torch.float64.",
    )
