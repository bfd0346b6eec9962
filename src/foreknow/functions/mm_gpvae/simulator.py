"""`RotatingDigits`: the paper's simulation, neurons that hear of a rotation which a handwritten digit shows.

Three Gaussian processes drive a trial. The first drives neurons only; the second neurons, and the angle of the digit;
the third the size of the digit, |1 + z|. At every bin the digit is another one that somebody wrote, so that only angle
and size are smooth. Neurons have log rates C z + d and Poisson counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.pictures import ImageGrid
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.functions.mm_gpvae.card import CARD

PARTS = ("all", "test", "train")
"""Which of the written digits are shown: all, or those kept for tests (a third), or the others."""
_SMALLEST_ZOOM = 0.2
_NUGGET = 1e-6
_CHUNK = 2048
_SHOWN = 10


@register(CARD)
@dataclass(frozen=True)
class RotatingDigits(Prior):
    """Trials of spikes and of images of one digit that turns and grows.

    Args:
        n_bins: of a trial.
        n_neurons: how many.
        size: pixels a side of the image; the digit takes 28 of 36 of them.
        digit: which, 0 to 9.
        lengthscale: of the processes, in bins.
        variances: of the three processes: neural only, shared, behaviour only.
        degrees: rotation at a shared latent of 1.
        smooth: False makes the bins of every process independent.
        offset: added to all log rates; below 0 spikes are few.
        part: of the written digits, one of `PARTS`.
        population: number of the population of neurons; its loadings and offsets are the same in every draw.
    """

    n_bins: int = 60
    n_neurons: int = 100
    size: int = 36
    digit: int = 3
    lengthscale: float = 10.0
    variances: tuple[float, float, float] = (0.3, 0.5, 0.8)
    degrees: float = 120.0
    smooth: bool = True
    offset: float = 0.0
    part: str = "all"
    population: int = 0

    def __post_init__(self) -> None:
        owner = "RotatingDigits"
        for name in ("n_bins", "n_neurons"):
            check_int(owner, name, getattr(self, name), low=1)
        check_int(owner, "size", self.size, low=4)
        check_int(owner, "digit", self.digit, low=0, high=9)
        check_int(owner, "population", self.population, low=0)
        check_real(owner, "lengthscale", self.lengthscale, low=0.0, open_low=True)
        check_real(owner, "degrees", self.degrees, low=0.0)
        check_real(owner, "offset", self.offset, high=10.0)
        check_bool(owner, "smooth", self.smooth)
        check_option(owner, "part", self.part, PARTS)
        if not isinstance(self.variances, Sequence) or len(self.variances) != 3:
            raise ConfigError(f"{owner}: variances must be three numbers, got {self.variances!r}.")
        for value in self.variances:
            check_real(owner, "variances", value, low=0.0, open_low=True)

    def neurons(self) -> tuple[Tensor, Tensor]:
        """Loadings (n_neurons, 2) and offsets (n_neurons,) of the population, in float64."""
        generator = torch_stream(self.population, "mm-gpvae", "neurons")
        loadings = 1.5 * (2 * torch.rand(self.n_neurons, 2, generator=generator, dtype=torch.float64) - 1)
        offsets = 0.5 * (2 * torch.rand(self.n_neurons, generator=generator, dtype=torch.float64) - 1)
        return loadings, offsets + self.offset

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` trials: the latents, shape (n, n_bins, 3).

        `info` holds `spikes` (n, n_bins, n_neurons), `spikes_again` (other counts of the same rates), `rates`, `images`
        (n, n_bins, size, size) in [0, 1], and `exemplars` (n, n_bins), the number of the written digit in
        scikit-learn's set of that digit.
        """
        check_int("RotatingDigits", "n", n, low=1)
        dtype = dtype or torch.float32
        place = generator.device
        z = torch.randn(n, 3, self.n_bins, generator=generator, device=place, dtype=torch.float64)
        if self.smooth:
            z = z @ _smoother(self.n_bins, self.lengthscale).to(place).mT
        z = z.mT * torch.tensor(self.variances, dtype=torch.float64, device=place).sqrt()  # (n, t, 3)
        loadings, offsets = (part.to(place) for part in self.neurons())
        rates = (z[..., :2] @ loadings.mT + offsets).exp()
        spikes, again = (torch.poisson(rates, generator=generator) for _ in range(2))
        allowed = exemplars_of(self.digit, self.part).to(place)
        chosen = allowed[torch.randint(len(allowed), (n, self.n_bins), generator=generator, device=place)]
        images = self.render(chosen, z[..., 1], z[..., 2])
        where = device or place
        info: dict[str, Any] = {
            "spikes": spikes.to(where, dtype), "spikes_again": again.to(where, dtype), "rates": rates.to(where, dtype),
            "images": images.to(where, dtype), "exemplars": chosen.to(where),
        }  # fmt: skip
        return Draw(z.to(where, dtype), info)

    def render(self, exemplars: Tensor, turn: Tensor, growth: Tensor) -> Tensor:
        """Images of written digits turned by `degrees` times `turn` and |1 + growth| times as large.

        Args:
            exemplars: numbers of written digits, any shape.
            turn, growth: of the same shape.

        Returns:
            That shape and (size, size), values in [0, 1].
        """
        digits = _digits(self.digit)[exemplars.flatten().cpu()][:, None]
        angle = math.radians(self.degrees) * turn.flatten().cpu().double()
        zoom = (1 + growth.flatten().cpu().double()).abs().clamp(min=_SMALLEST_ZOOM) * 28 / 36
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        zero = torch.zeros_like(cos)
        theta = torch.stack([torch.stack([cos, -sin, zero], -1), torch.stack([sin, cos, zero], -1)], 1).float()
        shape = (1, self.size, self.size)
        parts = [
            F.grid_sample(images, F.affine_grid(t, [len(images), *shape], align_corners=False), align_corners=False)
            for images, t in zip(torch.split(digits, _CHUNK), torch.split(theta, _CHUNK), strict=True)
        ]
        return torch.cat(parts).reshape(*exemplars.shape, self.size, self.size).clamp(0, 1)

    def off(self) -> Prior:
        """The same with latents that are independent from bin to bin."""
        return replace(self, smooth=False)

    def describe(self) -> str:
        """One line for people."""
        how = f"smooth over {self.lengthscale:g} bins" if self.smooth else "independent from bin to bin"
        return f"{self.n_neurons} neurons and a turning, growing digit {self.digit}; latents {how}"

    def picture(self, n: int, *, generator: Generator) -> ImageGrid:
        """The first bins of `n` trials."""
        images = self.sample(n, generator=generator).info["images"].cpu().numpy()
        shown = range(min(self.n_bins, _SHOWN))
        rows = [[trial[t] for t in shown] for trial in images]
        return ImageGrid(rows, [f"bin {t + 1}" for t in shown], [f"trial {i + 1}" for i in range(n)], self.describe())

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(n_bins=12, n_neurons=6, size=9),
            cls(n_bins=8, n_neurons=3, size=6, digit=7, part="test", lengthscale=3.0),
        ]


@dataclass(frozen=True)
class DigitTrials:
    """Simulated trials, first axis the trials.

    Args:
        spikes: counts (n, t, n_neurons).
        images: (n, t, size, size).
        latents: (n, t, 3): neural only, shared, behaviour only.
        rates: of the neurons, (n, t, n_neurons).
        spikes_again: other counts of the same rates.
        exemplars: (n, t), which written digit was shown.
    """

    spikes: NDArray[np.float32]
    images: NDArray[np.float32]
    latents: NDArray[np.float32]
    rates: NDArray[np.float32]
    spikes_again: NDArray[np.float32]
    exemplars: NDArray[np.int64]


def rotating_digits(
    n_train: int, n_test: int, *, random_state: int = 0, **settings: Any
) -> tuple[DigitTrials, DigitTrials]:
    """Trials to learn from and to test on: other trials that show other written digits, of the same neurons.

    Args:
        n_train, n_test: trials.
        random_state: of the neurons, latents, counts and digits.
        settings: of `RotatingDigits`.
    """
    known = ("n_bins", "n_neurons", "size", "digit", "lengthscale", "variances", "degrees", "smooth", "offset")
    from foreknow.common.validate import check_known

    check_known("rotating_digits", settings, known)
    world = RotatingDigits(**{"population": random_state, **settings})
    found = []
    for part, n in (("train", n_train), ("test", n_test)):
        drawn = replace(world, part=part).sample(n, generator=torch_stream(random_state, "mm-gpvae", "digits", part))
        arrays = {name: value.numpy() for name, value in drawn.info.items()}
        found.append(DigitTrials(latents=drawn.value.numpy(), **arrays))
    return found[0], found[1]


def exemplars_of(digit: int, part: str) -> Tensor:
    """Numbers of the written digits of a part, in increasing order."""
    n = len(_digits(digit))
    order = torch.randperm(n, generator=torch_stream(0, "mm-gpvae", "written digits", str(digit)))
    n_test = n // 3
    return {"all": order, "test": order[:n_test], "train": order[n_test:]}[part].sort().values


@lru_cache(maxsize=10)
def _digits(digit: int) -> Tensor:
    """All written digits of a kind at 28 x 28 pixels, shape (n, 28, 28), values in [0, 1]."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.tensor(data.images[data.target == digit], dtype=torch.float32) / 16
    return F.interpolate(images[:, None], (28, 28), mode="bilinear", align_corners=False)[:, 0]


@lru_cache(maxsize=16)
def _smoother(n_bins: int, lengthscale: float) -> Tensor:
    t = torch.arange(n_bins, dtype=torch.float64)
    covariance = (-0.5 * ((t[:, None] - t) / lengthscale) ** 2).exp()
    root: Tensor = torch.linalg.cholesky(covariance + _NUGGET * torch.eye(n_bins, dtype=torch.float64))
    return root
