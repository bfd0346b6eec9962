"""Denoisers that others are compared with: total variation, a small residual network; and patches for large images."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreknow.common.errors import InputError
from foreknow.common.validate import check_int, check_real


class TotalVariation(nn.Module):
    """Proximal map of `weight` times the isotropic total variation of each channel.

    Fast gradient projection on the dual (Beck and Teboulle 2009), many images at once; scikit-image has the same map
    for one image at a time.

    Args:
        weight: of the total variation, greater than 0.
        n_iterations: of the dual iteration.
    """

    def __init__(self, weight: float = 0.1, *, n_iterations: int = 50) -> None:
        super().__init__()
        self.weight = check_real("TotalVariation", "weight", weight, low=0.0, open_low=True)
        self.n_iterations = check_int("TotalVariation", "n_iterations", n_iterations, low=1)

    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """The map at images (b, C, H, W); `sigma` is not used."""
        dual = x.new_zeros(2, *x.shape)
        ahead, t = dual, 1.0
        for _ in range(self.n_iterations):
            dual_new = ahead + _slope(x - self.weight * _fall(ahead)) / (8 * self.weight)
            dual_new = dual_new / dual_new.norm(dim=0).clamp_min(1.0)
            t_new = (1 + (1 + 4 * t * t) ** 0.5) / 2
            ahead, dual, t = dual_new + (t - 1) / t_new * (dual_new - dual), dual_new, t_new
        return x - self.weight * _fall(dual)


def total_variation(x: Tensor) -> Tensor:
    """Isotropic total variation of each image, summed over channels, shape (b,)."""
    lengths: Tensor = _slope(x).norm(dim=0)
    return lengths.flatten(1).sum(1)


def _slope(x: Tensor) -> Tensor:
    """Forward differences down and right, 0 at the border, shape (2, *x.shape)."""
    down = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
    right = F.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1))
    return torch.stack([down, right])


def _fall(p: Tensor) -> Tensor:
    """The adjoint of `_slope`."""
    down, right = p[0][..., :-1, :], p[1][..., :, :-1]
    by_rows = F.pad(down, (0, 0, 1, 0)) - F.pad(down, (0, 0, 0, 1))
    return by_rows + F.pad(right, (1, 0)) - F.pad(right, (0, 1))


class DnCNN(nn.Module):
    """A residual denoiser, x minus what a stack of 3x3 convolutions says the noise is (Zhang et al. 2017).

    Without batch normalisation, so that an image's result does not depend on the others. Not a proximal map.

    Args:
        channels: of the images.
        hidden: channels within.
        depth: convolutions, at least 2.
    """

    def __init__(self, channels: int = 1, hidden: int = 64, depth: int = 5) -> None:
        super().__init__()
        sizes = [channels, *[hidden] * (check_int("DnCNN", "depth", depth, low=2) - 1), channels]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        self.noise = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """The denoised images (b, C, H, W); `sigma` is not used, the network knows one level."""
        found: Tensor = x - self.noise(x)
        return found

    @classmethod
    def of_size(cls, n_parameters: int, channels: int = 1, depth: int = 5) -> DnCNN:
        """The network whose number of parameters is nearest to `n_parameters`."""
        inner, ends = 9 * (depth - 2), 18 * channels + depth - 1
        hidden = (-ends + (ends**2 + 4 * inner * n_parameters) ** 0.5) / (2 * inner)
        return cls(channels, max(1, round(hidden)), depth)


_PATCHES_AT_ONCE = 256


class PatchAverage(nn.Module):
    """A denoiser of fixed-size patches on larger images: overlapping patches are averaged.

    The average of proximal maps of overlapping patches is no proximal map of the whole image any more.

    Args:
        denoiser: of images of `size`.
        size: (height, width) of a patch.
        stride: between patches, half of `size` by default.
    """

    def __init__(self, denoiser: nn.Module, size: tuple[int, int], stride: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.denoiser, self.size = denoiser, size
        self.stride = stride or (max(1, size[0] // 2), max(1, size[1] // 2))

    def forward(self, x: Tensor, sigma: float | None = None) -> Tensor:
        """The denoised images (b, C, H, W), H and W at least the patch's.

        Raises:
            InputError: an image is smaller than a patch.
        """
        (h, w), (height, width) = self.size, (int(x.shape[-2]), int(x.shape[-1]))
        if height < h or width < w:
            raise InputError(f"images of at least {h} x {w} pixels are needed, got {height} x {width}.")
        total, count = torch.zeros_like(x), x.new_zeros(height, width)
        places = [(t, l) for t in _places(height, h, self.stride[0]) for l in _places(width, w, self.stride[1])]
        at_once = max(1, _PATCHES_AT_ONCE // len(x))
        for first in range(0, len(places), at_once):
            parts = [(..., slice(t, t + h), slice(l, l + w)) for t, l in places[first : first + at_once]]
            found = self.denoiser(torch.cat([x[part] for part in parts])).split(len(x))
            for part, patch in zip(parts, found, strict=True):
                total[part] += patch
                count[part[1:]] += 1
        return total / count


def _places(length: int, size: int, stride: int) -> list[int]:
    """Where patches start; the last one ends at the border."""
    return [*range(0, length - size, stride), length - size]
