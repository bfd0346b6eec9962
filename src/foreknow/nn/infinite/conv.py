"""Convolutional networks of infinite width: NNGP and NTK of images, with a flatten or an average-pooling readout.

Layers as in `foreknow.nn.infinite.dense`, but a weight layer averages second moments over the window of the
convolution (Novak et al. 2019; Arora et al. 2019). Before a flatten readout only covariances of one position with the
same position of the other image matter: n m H W numbers. Pooling needs those of every position with every position:
n m (H W)^2. Both are computed block by block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.nn.infinite.activations import Activation, as_activation
from foreknow.nn.infinite.dense import Variance, check_variances

READOUTS = ("flatten", "pool")
PADDINGS = ("zeros", "circular")
_CELLS = 4_000_000
"""Covariances held at a time."""


@dataclass(frozen=True)
class Convolutional:
    """The kernels of a deep convolutional network with infinitely many channels, stride 1 and windows of odd size.

    Args:
        depth: convolutions, each followed by the activation, at least 1.
        activation: or its name.
        w_var: variance of the weights, times the fan-in.
        b_var: variance of the biases.
        kernel_size: side of the window, odd.
        padding: "zeros" or "circular"; the size of the image stays.
        readout: "flatten" (a weight for every position) or "pool" (the mean over positions, then weights).
        readout_w_var: of the last layer; `w_var` if None.
        readout_b_var: of the last layer; `b_var` if None.
        residual: whether convolutions after the first add to what they get.
    """

    depth: int = 4
    activation: Activation | str = "relu"
    w_var: Variance = 1.0
    b_var: Variance = 0.0
    kernel_size: int = 3
    padding: str = "zeros"
    readout: str = "flatten"
    readout_w_var: Variance | None = None
    readout_b_var: Variance | None = None
    residual: bool = False

    def __post_init__(self) -> None:
        owner = "Convolutional"
        check_int(owner, "depth", self.depth, low=1)
        if check_int(owner, "kernel_size", self.kernel_size, low=1) % 2 == 0:
            raise ConfigError(f"{owner}: kernel_size must be odd, got {self.kernel_size}.")
        check_option(owner, "padding", self.padding, PADDINGS)
        check_option(owner, "readout", self.readout, READOUTS)
        check_bool(owner, "residual", self.residual)
        as_activation(owner, self.activation)
        check_variances(owner, self)

    def __call__(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """NNGP kernel of images (n, C, H, W), with themselves or with images (m, C, H, W): shape (n, m)."""
        return self._kernels(x, z, tangent=False)[0]

    def ntk(self, x: Tensor, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """NNGP and NTK, each of shape (n, m)."""
        return self._kernels(x, z, tangent=True)

    def diag(self, x: Tensor) -> Tensor:
        """The NNGP kernel of each image with itself, shape (n,)."""
        return self._diagonals(x, tangent=False)[0]

    def ntk_diag(self, x: Tensor) -> Tensor:
        """The NTK of each image with itself, shape (n,)."""
        return self._diagonals(x, tangent=True)[1]

    def _kernels(self, x: Tensor, z: Tensor | None, *, tangent: bool) -> tuple[Tensor, Tensor]:
        z = x if z is None else z
        self._check(x, z)
        positions = x.shape[-2] * x.shape[-1]
        cells = positions**2 if self.readout == "pool" else positions
        columns = max(1, _CELLS // cells)
        rows = max(1, columns // min(len(z), columns))
        parts = []
        for some in torch.split(x, rows):
            blocks = [self._block(some, others, tangent, diagonal=False) for others in torch.split(z, columns)]
            parts.append([torch.cat(values, dim=1) for values in zip(*blocks)])
        nngp, ntk = (torch.cat(values) for values in zip(*parts))
        return nngp, ntk

    def _diagonals(self, x: Tensor, *, tangent: bool) -> tuple[Tensor, Tensor]:
        self._check(x, x)
        positions = x.shape[-2] * x.shape[-1]
        rows = max(1, _CELLS // (positions**2 if self.readout == "pool" else positions))
        parts = [self._block(some, some, tangent, diagonal=True) for some in torch.split(x, rows)]
        nngp, ntk = (torch.cat(values) for values in zip(*parts))
        return nngp, ntk

    def _block(self, x: Tensor, z: Tensor, tangent: bool, *, diagonal: bool) -> tuple[Tensor, Tensor]:
        """NNGP and NTK (the NNGP again if not asked for) of two blocks of images, or of each pair of equal number."""
        phi = as_activation("Convolutional", self.activation)
        pool, channels = self.readout == "pool", x.shape[1]
        pairs = "nchw,nc{p}->nhw{p}" if diagonal else "nchw,mc{p}->nmhw{p}"
        if pool:
            cross = torch.einsum(pairs.format(p="yx"), x, z) / channels
        else:
            cross = torch.einsum(pairs.replace("{p}", "hw", 1).replace("{p}", ""), x, z) / channels
        a, b = (images.square().sum(1) / channels for images in (x, z))  # (n, h, w)

        def shapes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            """The variances, to broadcast against `cross`."""
            if pool:
                a, b = a[..., None, None], b[..., None, None, :, :]
            return (a, b) if diagonal else (a.unsqueeze(1), b.unsqueeze(0))

        def weigh(c: Tensor) -> Tensor:
            return self.w_var * self._window(c, pool) + self.b_var

        def square(a: Tensor) -> Tensor:
            return self.w_var * self._window(a, pair=False) + self.b_var

        a, b, cross = square(a), square(b), weigh(cross)
        ntk = cross
        for _ in range(self.depth - 1):
            left, right = shapes(a, b)
            new = weigh(phi.dual(left, right, cross))
            if tangent:
                slope = self.w_var * self._window(phi.dual_derivative(left, right, cross) * ntk, pool)
                ntk = new + slope + (ntk if self.residual else 0)
            cross = new + (cross if self.residual else 0)
            a, b = (square(phi.second_moment(v)) + (v if self.residual else 0) for v in (a, b))
        left, right = shapes(a, b)
        axes = tuple(range(-4 if pool else -2, 0))
        w = self.w_var if self.readout_w_var is None else self.readout_w_var
        bias = self.b_var if self.readout_b_var is None else self.readout_b_var
        nngp = w * phi.dual(left, right, cross).mean(axes) + bias
        if not tangent:
            return nngp, nngp
        return nngp, nngp + w * (phi.dual_derivative(left, right, cross) * ntk).mean(axes)

    def _window(self, c: Tensor, pair: bool) -> Tensor:
        """Mean over the window of the last two axes; with `pair` over the same shift of the last four."""
        if not pair:
            return self._mean(c.reshape(-1, *c.shape[-2:])).reshape(c.shape)
        reach, h, w = self.kernel_size // 2, *c.shape[-2:]
        flat = c.reshape(-1, h, w, h, w)
        total = torch.zeros_like(flat)
        for dy in range(-reach, reach + 1):
            for dx in range(-reach, reach + 1):
                total = total + self._shifted(flat, dy, dx)
        return (total / self.kernel_size**2).reshape(c.shape)

    def _shifted(self, flat: Tensor, dy: int, dx: int) -> Tensor:
        """flat[:, y + dy, x + dx, y' + dy, x' + dx], beyond the border 0 or from the other side."""
        rolled = flat.roll((-dy, -dx, -dy, -dx), dims=(1, 2, 3, 4))
        if self.padding == "circular":
            return rolled
        h, w = flat.shape[-2:]
        y, x = torch.arange(h, device=flat.device) + dy, torch.arange(w, device=flat.device) + dx
        inside = ((y >= 0) & (y < h))[:, None] & ((x >= 0) & (x < w))[None, :]
        return rolled * (inside[:, :, None, None] & inside[None, None])

    def _mean(self, c: Tensor) -> Tensor:
        reach = self.kernel_size // 2
        if self.padding == "circular":
            c = functional.pad(c, (reach,) * 4, mode="circular")
            return functional.avg_pool2d(c, self.kernel_size, stride=1)
        return functional.avg_pool2d(c, self.kernel_size, stride=1, padding=reach)

    @staticmethod
    def _check(x: Tensor, z: Tensor) -> None:
        if x.ndim != 4 or z.ndim != 4 or x.shape[1:] != z.shape[1:]:
            raise InputError(
                "Convolutional: images must be (n, channels, height, width), of one size; "
                f"got {tuple(x.shape)} and {tuple(z.shape)}."
            )
