"""Quantisers and dyadic numbers of HAWQ-V3.

| published | here |
|---|---|
| S_w = max abs(w) / (2^(b-1) - 1), per output channel | `weight_scale` |
| activations: symmetric, or unsigned after ReLU below 8 bits | `Grid` |
| gradient of a quantiser: g / S, none to S | `to_grid` |
| r = m / 2^e with m of 31 bits | `dyadic` |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

LEAST_SCALE = 1e-8
WIDE = 16
"""Bits of what two branches are added in, and of what is averaged."""
ACCUMULATOR = 2**30
"""Accumulators stay below this in size: so their products with a multiplier stay within 64 bits."""


class _Rounded(torch.autograd.Function):
    """Values on a grid as integers; the gradient passes as if nothing had been rounded or clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, low: float, high: float, half_up: bool) -> Tensor:
        ctx.save_for_backward(factor)
        scaled = x * factor
        return (torch.floor(scaled + 0.5) if half_up else torch.round(scaled)).clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None, None, None, None


def to_grid(x: Tensor, scale: Tensor, low: float, high: float) -> Tensor:
    """clip(round(x / S), low, high), an integer; straight through: the gradient of x is g / S, of S none."""
    rounded: Tensor = _Rounded.apply(x, 1 / scale, low, high, False)  # type: ignore[no-untyped-call]
    return rounded


def requantize(x: Tensor, factor: Tensor, low: float, high: float) -> Tensor:
    """clip(round(x * factor), low, high), halves upwards, as a bit shift after adding one half rounds."""
    rounded: Tensor = _Rounded.apply(x, factor, low, high, True)  # type: ignore[no-untyped-call]
    return rounded


def shift(x: Tensor, m: Tensor, e: Tensor, low: float, high: float) -> Tensor:
    """clip((x m + 2^(e - 1)) >> e, low, high) of whole numbers, in int64; straight through, as `requantize`.

    In float64 a product of more than 53 bits is rounded, and its half may fall to the other side.
    """
    whole = ((x.detach().long() * m + (1 << (e - 1))) >> e).clamp(low, high).to(x)
    if not x.requires_grad:
        return whole
    slope = x * (m.double() * 2.0 ** -e.double()).to(x)
    return whole + (slope - slope.detach())


def limits(bits: int, signed: bool = True) -> tuple[int, int]:
    """Smallest and largest integer."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def weight_scale(weight: Tensor, bits: int) -> Tensor:
    """Scale of every output channel, shape (out,), float32; the floor keeps dead channels from dividing by zero."""
    largest: Tensor = weight.detach().flatten(1).abs().amax(1).float()
    return torch.clamp_min(largest / limits(bits)[1], LEAST_SCALE)


def layer_scale(weight: Tensor, bias: Tensor, scale_in: Tensor, bits: int) -> Tensor:
    """`weight_scale`, and for a channel whose weights are (next to) nothing at least what its bias needs to fit."""
    return torch.maximum(weight_scale(weight, bits), 2 * bias.detach().abs() / (scale_in * ACCUMULATOR)).float()


def quantize_weight(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Weights as integers of `bits` bits, straight through."""
    return to_grid(weight, per_channel(scale, weight.ndim, axis=0), *limits(bits))


def weight_error(weight: Tensor, bits: int) -> float:
    """The squared distance of weights from what `bits` bits leave of them."""
    with torch.no_grad():
        scale = weight_scale(weight, bits)
        back = quantize_weight(weight, scale, bits) * per_channel(scale, weight.ndim, axis=0)
        return float((back - weight).double().square().sum())


def per_channel(values: Tensor, ndim: int, axis: int = 1) -> Tensor:
    """`values`, one a channel or one for all, in a shape that broadcasts along `axis`."""
    return values if values.ndim == 0 else values.reshape([-1 if a == axis else 1 for a in range(ndim)])


def dyadic(scale_in: Tensor, scale_out: Tensor) -> tuple[Tensor, Tensor]:
    """Multiplier m, below 2^31, and shift e with m / 2^e next to scale_in / scale_out; int64.

    `scale_in` is the product of scales in float32, as runtimes have it; from there on in float64. A ratio so small
    that no accumulator reaches one half has m = 0; one above 2^30 is cut there, where whatever is not 0 is clipped.
    """
    fraction, exponent = torch.frexp(scale_in.float().double() / scale_out.float().double())
    m = torch.floor(fraction * 2**31 + 0.5).long()  # halves upwards
    e = 31 - exponent.long()
    full = m == 2**31  # rounded up to the next power of two
    m, e = torch.where(full, m // 2, m), torch.where(full, e - 1, e)
    m = torch.where(e > 62, 0, torch.where(e < 1, 2**31 - 1, m))
    return m, e.clamp(1, 62)


class Grid(nn.Module):
    """The integers an activation is kept in: bits, sign, and a static range by moving average.

    Symmetric at 8 bits and more and wherever values may be negative; unsigned with zero at 0 else.

    Args:
        bits: of an integer.
        positive: whether values are never negative.
        momentum: of the moving average of the smallest and the largest value; -1 keeps the extremes ever seen.
    """

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self, bits: int, *, positive: bool, momentum: float = 0.95) -> None:
        super().__init__()
        self.bits, self.positive, self.momentum = bits, positive, momentum
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))

    @property
    def signed(self) -> bool:
        """Whether integers may be negative."""
        return self.bits >= 8 or not self.positive

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return limits(self.bits, self.signed)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take in the range of some values."""
        for kept, new in ((self.low, x.min()), (self.high, x.max())):
            if not self.seen:
                kept.copy_(new)
            elif self.momentum < 0:
                kept.copy_(torch.minimum(kept, new) if kept is self.low else torch.maximum(kept, new))
            else:
                kept.lerp_(new.to(kept), 1 - self.momentum)
        self.seen.fill_(True)

    def scale(self) -> Tensor:
        """What one step is worth."""
        # Unsigned, zero stays zero: the smallest value is that of a ReLU.
        largest = torch.maximum(self.low.abs(), self.high.abs()) if self.signed else self.high
        return (largest / self.limits[1]).clamp_min(LEAST_SCALE)
