"""What learned proximal networks are compared with, and the deblurring on which they are priced.

Each plain method has `fit(X)` and `reconstruct(y, physics)`, as the system has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.deps import available, require
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.core.source import ExampleSource
from foreknow.nn.inverse import Blur, DnCNN, Physics, TotalVariation, admm, gaussian_kernel, psnr, ssim
from foreknow.signals.learned_proximal import training
from foreknow.signals.learned_proximal.network import build_network

if TYPE_CHECKING:
    from foreknow.signals.learned_proximal.system import LearnedProximal

BLUR_SD, NOISE = 1.0, 0.04
"""Of the deblurring: standard deviations of the kernel in pixels and of the noise."""
SCALES = (0.5, 2.0)
"""Published weights of the data term, one of which is chosen on validation images."""
BARE_SCALES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 2.0)
"""The same where there is no prior, and a light weight with few iterations is all that regularises."""
TV_WEIGHTS = (0.02, 0.04, 0.06, 0.08, 0.12)
CHECKED = 20
"""Training images on which a plain method chooses its setting."""
PRICED: dict[str, Any] = {"hidden": 16, "n_steps": 1000, "batch_size": 16}
"""Settings of the system that `foreknow price` measures."""


def deblurring() -> Physics:
    """The operator: a Gaussian blur that wraps around, and noise."""
    return Blur(gaussian_kernel(BLUR_SD), padding="circular", sigma=NOISE)


def blurred(images: NDArray[Any], *names: str) -> Tensor:
    """Measurements of images, with noise of the stream `names`."""
    with torch.no_grad():
        measured: Tensor = deblurring()(torch.tensor(images, dtype=torch.float32), generator=torch_stream(0, *names))
    return measured


def deblurring_losses(model: Any, images: NDArray[Any]) -> dict[str, float]:
    """Minus the mean PSNR in dB, and one minus the mean structural similarity, of blurred images restored."""
    found = model.reconstruct(blurred(images, "deblurring", "noise"), deblurring())
    return {"minus PSNR (dB)": -float(psnr(found, images).mean()), "1 - SSIM": 1 - float(ssim(found, images).mean())}


class LeastSquares:
    """No prior: the same ADMM with the identity as its denoiser; its 20 iterations are what regularises."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Nothing to learn but the weight of the data."""
        self.scale_ = best_setting(X, BARE_SCALES, lambda scale, y: admm(y, deblurring(), _identity, scale=scale)[0])
        return self

    def reconstruct(self, y: Tensor, physics: Physics) -> NDArray[np.float32]:
        """Images from measurements."""
        return admm(y, physics, _identity, scale=self.scale_)[0].numpy()


class TotalVariationModel:
    """Total variation, its weight chosen on training images."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Choose the weight."""
        self.weight_ = best_setting(X, TV_WEIGHTS, lambda weight, y: self._restored(y, deblurring(), weight))
        return self

    def reconstruct(self, y: Tensor, physics: Physics) -> NDArray[np.float32]:
        """Images from measurements; a few at a time, which stay in the processor's cache."""
        return torch.cat([self._restored(part, physics, self.weight_) for part in torch.split(y, 50)]).numpy()

    def _restored(self, y: Tensor, physics: Physics, weight: float) -> Tensor:
        return admm(y, physics, TotalVariation(weight, n_iterations=20), n_iterations=30)[0]


class BM3DModel:
    """BM3D (Dabov et al. 2007) in place of the learnt map; the package `bm3d` brings it, for non-commercial use only.

    All images of a batch are denoised in one mosaic, where patches of one help the others: an advantage for BM3D, and
    the only way to be done in minutes.

    Args:
        sigma: noise that it is told to remove.
    """

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def fit(self, X: Any, y: Any = None) -> Self:
        """Choose the weight of the data."""
        self.scale_ = best_setting(X, SCALES, lambda scale, y: admm(y, deblurring(), self._denoise, scale=scale)[0])
        return self

    def reconstruct(self, y: Tensor, physics: Physics) -> NDArray[np.float32]:
        """Images from measurements."""
        return admm(y, physics, self._denoise, scale=self.scale_)[0].numpy()

    def _denoise(self, x: Tensor) -> Tensor:
        bm3d = require("bm3d", "BM3D")
        mosaic = to_mosaic(x.numpy())
        found = np.stack([bm3d.bm3d(channel, self.sigma) for channel in mosaic])
        return torch.from_numpy(from_mosaic(found, tuple(x.shape)))


def to_mosaic(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images (n, C, H, W) side by side in a square of them, (C, m H, m W), the rest 0."""
    n, c, h, w = images.shape
    m = math.isqrt(n - 1) + 1
    tiles = np.zeros((m * m, c, h, w), dtype=images.dtype)
    tiles[:n] = images
    return tiles.reshape(m, m, c, h, w).transpose(2, 0, 3, 1, 4).reshape(c, m * h, m * w)


def from_mosaic(mosaic: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The inverse of `to_mosaic`, for images of this shape (n, C, H, W)."""
    n, c, h, w = shape
    m = math.isqrt(n - 1) + 1
    tiles = mosaic.reshape(c, m, h, m, w).transpose(1, 3, 0, 2, 4).reshape(m * m, c, h, w)
    return np.ascontiguousarray(tiles[:n], dtype=np.float32)


class UnconstrainedDenoiser:
    """A small residual network of as many parameters, trained by the squared error; no proximal map, no guarantee.

    Args:
        n_parameters: of the network, or how they follow from the shape of an image.
        sigma: of the noise it is trained on.
        n_steps: optimizer steps.
        batch_size: images a step.
        seed: of weights and batches.
    """

    def __init__(
        self,
        n_parameters: int | Callable[[tuple[int, ...]], int],
        *,
        sigma: float,
        n_steps: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.n_parameters, self.sigma, self.seed = n_parameters, sigma, seed
        self.n_steps, self.batch_size = n_steps, batch_size

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train, then choose the weight of the data."""
        with seeded_init(seed_of(self.seed, "dncnn")):
            wanted = self.n_parameters
            size = wanted if isinstance(wanted, int) else wanted(tuple(X.shape[1:]))
            self.network_ = DnCNN.of_size(size, X.shape[1])
        stages = [training.Stage("l2", self.n_steps, 1e-3)]
        training.train_denoiser(
            self.network_, torch.tensor(X, dtype=torch.float32), stages, sigma=self.sigma, batch_size=self.batch_size,
            seed=seed_of(self.seed, "training"), device="cpu", project=False,
        )  # fmt: skip
        self.scale_ = best_setting(X, SCALES, lambda scale, y: admm(y, deblurring(), self.network_, scale=scale)[0])
        return self

    def reconstruct(self, y: Tensor, physics: Physics) -> NDArray[np.float32]:
        """Images from measurements."""
        return admm(y, physics, self.network_, scale=self.scale_)[0].numpy()


def best_setting(X: NDArray[Any], settings: tuple[float, ...], restore: Callable[[float, Tensor], Tensor]) -> float:
    """The setting under which the first images, blurred, are restored best."""
    images = X[:CHECKED]
    y = blurred(images, "deblurring", "validation")
    return max(settings, key=lambda setting: float(psnr(restore(setting, y).numpy(), images).mean()))


def baselines(system: LearnedProximal) -> Mapping[str, Callable[[int], Any]]:
    """Plain methods beside this system, as large and as long trained where they are networks."""

    def size(shape: tuple[int, ...]) -> int:
        with seeded_init(0):
            return sum(part.numel() for part in build_network(system._architecture(shape)).parameters())

    batch_size = system._batch_size(system._architecture((1, 28, 28)))  # of the digits it is priced on by default

    def network(seed: int) -> UnconstrainedDenoiser:
        return UnconstrainedDenoiser(size, sigma=system.sigma, n_steps=system.n_steps, batch_size=batch_size, seed=seed)

    found: dict[str, Callable[[int], Any]] = {
        "total variation": lambda seed: TotalVariationModel(), "least squares": lambda seed: LeastSquares(),
        "DnCNN": network,
    }  # fmt: skip
    if available("bm3d"):
        found["BM3D"] = lambda seed: BM3DModel(system.sigma)
    return found


def sources() -> Mapping[str, Any]:
    """5000 handwritten digits; who wrote which is not known, so each image is its own unit."""
    from foreknow.data.photos import handwritten_digits

    name = "handwritten digits"
    return {name: ExampleSource(name, handwritten_digits()[0], unit="images", n_test=200, n_min=CHECKED)}


def _identity(x: Tensor) -> Tensor:
    return x
