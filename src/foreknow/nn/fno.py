"""A small Fourier neural operator (Li et al. 2021, arXiv 2010.08895), for comparisons.

`SpectralConv` is its equation 4: fields go to Fourier space, the lowest waves are mixed by complex matrices of their
own, the others are dropped, and the result comes back.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int


class SpectralConv(nn.Module):
    """Mixes channels in Fourier space, wave by wave, for the waves below `modes`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        modes: waves kept in each direction; grids need 2 `modes` nodes a side or more.
    """

    def __init__(self, in_channels: int, out_channels: int, modes: int) -> None:
        super().__init__()
        self.modes = check_int("SpectralConv", "modes", modes, low=1)
        shape = (2, in_channels, out_channels, modes, modes, 2)  # waves >= 0 and < 0 along the rows; real, imaginary
        self.weight = nn.Parameter(torch.rand(shape) / (in_channels * out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Fields (b, C, H, W) -> (b, C', H, W)."""
        h, w = x.shape[-2:]
        m = self.modes
        if min(h, w) < 2 * m:
            raise ConfigError(f"SpectralConv: {m} modes need {2 * m} nodes a side, the grid has {h} x {w}.")
        waves = torch.fft.rfft2(x)
        weight = torch.view_as_complex(self.weight)
        low = torch.einsum("bihw,iohw->bohw", waves[..., :m, :m], weight[0])
        high = torch.einsum("bihw,iohw->bohw", waves[..., -m:, :m], weight[1])
        middle = low.new_zeros(*low.shape[:2], h - 2 * m, m)
        kept = F.pad(torch.cat([low, middle, high], 2), (0, w // 2 + 1 - m))
        out: Tensor = torch.fft.irfft2(kept, s=(h, w))
        return out


def with_position(x: Tensor) -> Tensor:
    """Fields (b, C, H, W) -> (b, C + 2, H, W): the position on the unit square is appended."""
    sides = [torch.linspace(0, 1, n, device=x.device, dtype=x.dtype) for n in x.shape[-2:]]
    place = torch.stack(torch.meshgrid(*sides, indexing="ij")).expand(len(x), -1, -1, -1)
    return torch.cat([x, place], 1)


class FNO(nn.Module):
    """Lifting, blocks of spectral convolution plus 1x1 convolution, and projection.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        width: channels inside.
        modes: waves kept in each direction.
        layers: blocks.
    """

    def __init__(
        self, in_channels: int = 1, out_channels: int = 1, *, width: int = 24, modes: int = 12, layers: int = 4
    ) -> None:
        super().__init__()
        self.lift = nn.Conv2d(in_channels + 2, width, 1)
        self.spectral = nn.ModuleList(SpectralConv(width, width, modes) for _ in range(layers))
        self.local = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(layers))
        self.project = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Fields (b, C, H, W) -> (b, C', H, W); the position on the unit square is appended as two channels."""
        u = self.lift(with_position(x))
        for number, (spectral, local) in enumerate(zip(self.spectral, self.local, strict=True)):
            u = spectral(u) + local(u)
            if number + 1 < len(self.spectral):
                u = F.gelu(u)
        out: Tensor = self.project(u)
        return out
