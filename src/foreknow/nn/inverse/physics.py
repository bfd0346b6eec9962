"""Linear measurements y = A x + noise, with the methods that deepinv's `Physics` has, so that either may stand in.

An operator writes `A`; its adjoint follows by automatic differentiation unless it is written out, and so do
least squares and the proximal map of the data term, by conjugate gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_int, check_option, check_real


class GaussianNoise(nn.Module):
    """Independent normal noise of standard deviation `sigma`.

    Args:
        sigma: in the units of the measurements, at least 0.
    """

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.sigma = check_real("GaussianNoise", "sigma", sigma, low=0.0)

    def forward(self, y: Tensor, *, generator: Generator | None = None) -> Tensor:
        """`y` with noise; nothing is clipped.

        Raises:
            ConfigError: there is noise to draw and no generator.
        """
        if self.sigma == 0:
            return y
        if generator is None:
            raise ConfigError("GaussianNoise: a generator is needed to draw noise.", hint="Pass torch_stream(seed).")
        drawn = torch.randn(y.shape, generator=generator, device=generator.device, dtype=y.dtype)
        return y + self.sigma * drawn.to(y.device)


class Physics(nn.Module):
    """A linear operator on images (b, C, H, W), or on vectors (b, d).

    Args:
        sigma: standard deviation of the measurement noise.
    """

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.noise_model = GaussianNoise(sigma)

    def A(self, x: Tensor) -> Tensor:
        """The measurement without noise."""
        raise NotImplementedError

    def input_shape(self, y: Tensor) -> tuple[int, ...]:
        """Shape of the images whose measurement is `y`, the batch included."""
        return tuple(y.shape)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """The adjoint: <A x, y> = <x, A* y>."""
        with torch.enable_grad():
            x = torch.zeros(self.input_shape(y), dtype=y.dtype, device=y.device, requires_grad=True)
            (found,) = torch.autograd.grad(self.A(x), x, y)
        return found

    def A_dagger(self, y: Tensor) -> Tensor:
        """The image of least norm among those with the least squared error, by conjugate gradients."""
        return conjugate_gradients(lambda x: self.A_adjoint(self.A(x)), self.A_adjoint(y), n_iterations=200)

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        """argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2, by conjugate gradients (tolerance 1e-5, 30 steps)."""
        right = z + gamma * self.A_adjoint(y)
        return conjugate_gradients(lambda x: x + gamma * self.A_adjoint(self.A(x)), right, start=z)

    def norm(self, shape: tuple[int, ...], *, n_iterations: int = 30) -> float:
        """||A||^2, the largest eigenvalue of A*A, by power iteration on an image of this shape (without batch)."""
        x = torch.ones(1, *shape, dtype=torch.float32, device=next(iter(self.buffers()), torch.empty(0)).device)
        x = x + 0.1 * torch.sin(torch.arange(x.numel(), device=x.device).reshape(x.shape).float())
        size = 0.0
        for _ in range(n_iterations):
            x = self.A_adjoint(self.A(x / x.norm()))
            size = float(x.norm())
            if size == 0:
                return 0.0
        return size

    def forward(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        """The measurement with noise."""
        return cast(Tensor, self.noise_model(self.A(x), generator=generator))


class Denoising(Physics):
    """Nothing but noise."""

    def A(self, x: Tensor) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y

    def A_dagger(self, y: Tensor) -> Tensor:
        return y

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        return (z + gamma * y) / (1 + gamma)


class Blur(Physics):
    """Convolution with one kernel for all channels.

    Args:
        kernel: shape (h, w), odd sizes; see `gaussian_kernel`.
        padding: "reflect" mirrors the image at its border; "circular" wraps it, and is inverted by the FFT.
        sigma: standard deviation of the measurement noise.
    """

    kernel: Tensor

    def __init__(self, kernel: Tensor, *, padding: str = "reflect", sigma: float = 0.0) -> None:
        super().__init__(sigma)
        check_option("Blur", "padding", padding, ("reflect", "circular"))
        if kernel.ndim != 2 or kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0:
            raise ConfigError(f"Blur: kernel must have two axes of odd length, got shape {tuple(kernel.shape)}.")
        self.padding = padding
        self.register_buffer("kernel", kernel.detach().clone())

    def A(self, x: Tensor) -> Tensor:
        h, w = self.kernel.shape
        if x.ndim != 4 or x.shape[2] <= h // 2 or x.shape[3] <= w // 2:
            raise InputError(f"Blur: images (b, C, H, W) larger than half the kernel {(h, w)} are needed, "
                             f"got shape {tuple(x.shape)}.")  # fmt: skip
        padded = F.pad(x, (w // 2, w // 2, h // 2, h // 2), mode=self.padding)
        weight = self.kernel.to(x).flip(0, 1).expand(x.shape[1], 1, h, w)
        return F.conv2d(padded, weight, groups=x.shape[1])

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        if self.padding == "reflect":
            return super().prox_l2(z, y, gamma)
        response = self._response(z)
        right = torch.fft.rfft2(z) + gamma * response.conj() * torch.fft.rfft2(y)
        found: Tensor = torch.fft.irfft2(right / (1 + gamma * response.abs() ** 2), s=z.shape[-2:])
        return found

    def _response(self, x: Tensor) -> Tensor:
        spread = x.new_zeros(x.shape[-2:])
        rows, columns = (
            (torch.arange(n, device=x.device) - n // 2) % side for n, side in zip(self.kernel.shape, spread.shape)
        )
        spread.index_put_((rows[:, None], columns), self.kernel.to(x), accumulate=True)  # it may be larger than x
        found: Tensor = torch.fft.rfft2(spread)
        return found


class Inpainting(Physics):
    """Some pixels are seen, the others are 0.

    Args:
        mask: True or 1 where a pixel is seen, broadcast over the batch.
        sigma: standard deviation of the noise of the seen pixels.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, *, sigma: float = 0.0) -> None:
        super().__init__(sigma)
        self.register_buffer("mask", mask.detach().clone().bool())

    def A(self, x: Tensor) -> Tensor:
        return x * self.mask

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y * self.mask

    def A_dagger(self, y: Tensor) -> Tensor:
        return y * self.mask

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        return torch.where(self.mask, (z + gamma * y) / (1 + gamma), z)

    def forward(self, x: Tensor, *, generator: Generator | None = None) -> Tensor:
        return cast(Tensor, self.noise_model(x, generator=generator)) * self.mask


class CompressedSensing(Physics):
    """Random projections: m numbers per image, each a normal combination of all its pixels.

    Args:
        n_measurements: m, at least 1.
        shape: of an image, (C, H, W).
        generator: source of the matrix.
        sigma: standard deviation of the measurement noise.
    """

    matrix: Tensor

    def __init__(
        self, n_measurements: int, shape: tuple[int, ...], *, generator: Generator, sigma: float = 0.0
    ) -> None:
        super().__init__(sigma)
        check_int("CompressedSensing", "n_measurements", n_measurements, low=1)
        size = (n_measurements, math.prod(shape))
        self.shape = tuple(shape)
        matrix = torch.randn(size, generator=generator, device=generator.device) / math.sqrt(n_measurements)
        self.register_buffer("matrix", matrix)

    def A(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(f"CompressedSensing: images of shape {self.shape} are needed, got {tuple(x.shape[1:])}.")
        return x.flatten(1) @ self.matrix.to(x).T

    def A_adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, *self.shape)

    def A_dagger(self, y: Tensor) -> Tensor:
        found: Tensor = (torch.linalg.pinv(self.matrix.to(y)) @ y.T).T.reshape(-1, *self.shape)
        return found


class FastCompressedSensing(Physics):
    """Random projections of large images: m random rows of a Hartley transform of the image with random signs.

    A matrix of `CompressedSensing` has m numbers for every pixel; this has one sign for every pixel, costs a Fourier
    transform, and its data term is inverted exactly, since all projections are perpendicular.

    Args:
        n_measurements: m, from 1 to the number of pixels.
        shape: of an image, (C, H, W).
        generator: source of signs and rows.
        sigma: standard deviation of the measurement noise.
    """

    signs: Tensor
    rows: Tensor

    def __init__(
        self, n_measurements: int, shape: tuple[int, ...], *, generator: Generator, sigma: float = 0.0
    ) -> None:
        super().__init__(sigma)
        n = math.prod(shape)
        check_int("FastCompressedSensing", "n_measurements", n_measurements, low=1, high=n)
        self.shape, self.gain = tuple(shape), n / n_measurements
        drawn = torch.randint(0, 2, (n,), generator=generator, device=generator.device)
        self.register_buffer("signs", 2 * drawn - 1)
        order = torch.randperm(n, generator=generator, device=generator.device)
        self.register_buffer("rows", order[:n_measurements])

    def A(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise InputError(
                f"FastCompressedSensing: images of shape {self.shape} are needed, got {tuple(x.shape[1:])}."
            )
        return math.sqrt(self.gain) * _hartley(x.flatten(1) * self.signs)[:, self.rows]

    def A_adjoint(self, y: Tensor) -> Tensor:
        spread = torch.zeros(len(y), len(self.signs), dtype=y.dtype, device=y.device)
        spread[:, self.rows] = y
        return (math.sqrt(self.gain) * _hartley(spread) * self.signs).reshape(-1, *self.shape)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A_adjoint(y) / self.gain

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float) -> Tensor:
        return z + gamma / (1 + gamma * self.gain) * self.A_adjoint(y - self.A(z))


def _hartley(x: Tensor) -> Tensor:
    """The orthonormal Hartley transform of rows (b, n): real, and its own inverse."""
    waves: Tensor = torch.fft.fft(x, norm="ortho")
    return waves.real - waves.imag


class Tomography(Physics):
    """Parallel-beam projections of a square image, (b, C, H, H) -> (b, C, n_angles, H); the unit is the pixel.

    Args:
        n_angles: directions, evenly spaced over half a turn.
        size: H.
        sigma: standard deviation of the measurement noise.
    """

    angles: Tensor

    def __init__(self, n_angles: int, size: int, *, sigma: float = 0.0) -> None:
        super().__init__(sigma)
        self.size = check_int("Tomography", "size", size, low=2)
        check_int("Tomography", "n_angles", n_angles, low=1)
        self.register_buffer("angles", torch.arange(n_angles) * math.pi / n_angles)

    def A(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2:] != (self.size, self.size):
            raise InputError(f"Tomography: images (b, C, {self.size}, {self.size}) are needed, got {tuple(x.shape)}.")
        lines = []
        for angle in self.angles:
            c, s = torch.cos(angle), torch.sin(angle)
            turn = torch.stack([torch.stack([c, s, 0 * c]), torch.stack([-s, c, 0 * c])]).to(x)
            grid = F.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
            lines.append(F.grid_sample(x, grid, align_corners=False).sum(2))
        return torch.stack(lines, dim=2)

    def input_shape(self, y: Tensor) -> tuple[int, ...]:
        return (*y.shape[:2], self.size, self.size)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Filtered back projection with the ramp filter (not the least-squares image)."""
        n = 2 * self.size
        ramp = torch.fft.rfft(_ramp(n).to(y)).real
        filtered = torch.fft.irfft(torch.fft.rfft(y, n=n) * ramp, n=n)[..., : self.size]
        return self.A_adjoint(filtered) * math.pi / len(self.angles)


def gaussian_kernel(sd: float, *, radius: int | None = None) -> Tensor:
    """A round Gaussian kernel that sums to one, of `2 * radius + 1` pixels a side (radius: 4 sd by default)."""
    check_real("gaussian_kernel", "sd", sd, low=0.0, open_low=True)
    reach = max(1, math.ceil(4 * sd)) if radius is None else check_int("gaussian_kernel", "radius", radius, low=1)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sd) ** 2)
    return torch.outer(line, line) / line.sum() ** 2


def conjugate_gradients(
    operator: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    start: Tensor | None = None,
    n_iterations: int = 30,
    tolerance: float = 1e-5,
) -> Tensor:
    """The solution of `operator(x) = right`, each of the batch for itself; `operator` symmetric and positive.

    Args:
        operator: acts on each element of the batch alone.
        right: shape (b, ...).
        start: first guess, zero by default.
        n_iterations: at the most.
        tolerance: of the residual relative to `right`, at which an element stops.
    """
    x = torch.zeros_like(right) if start is None else start.clone()
    residual = right - operator(x) if start is not None else right.clone()
    direction, squared = residual.clone(), _dot(residual, residual)
    enough = tolerance**2 * _dot(right, right)
    for _ in range(n_iterations):
        going = squared > enough
        if not bool(going.any()):
            break
        image = operator(direction)
        curvature = _dot(direction, image)
        length = torch.where(going & (curvature > 0), squared / curvature.clamp_min(torch.finfo(x.dtype).tiny), 0.0)
        x = x + length * direction
        residual = residual - length * image
        new = _dot(residual, residual)
        direction = residual + torch.where(going, new / squared.clamp_min(torch.finfo(x.dtype).tiny), 0.0) * direction
        squared = torch.where(going, new, squared)
    return x


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner product of each element of the batch, shape (b, 1, ...)."""
    return (one * other).flatten(1).sum(1).reshape(-1, *[1] * (one.ndim - 1))


def _ramp(n: int) -> Tensor:
    """The ramp filter |f| on n samples, made in space so that the mean stays right (Kak and Slaney 1988, eq. 3.61)."""
    place = torch.cat([torch.arange(0, n // 2 + 1), torch.arange(-(n // 2) + 1, 0)]).double()
    odd = place.remainder(2) == 1
    values = torch.where(odd, -1 / (math.pi * place).pow(2).clamp_min(1e-12), 0.0)
    values[0] = 0.25
    return values
