"""What a fitted system believes, as pictures."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import ForeknowWarning
from foreknow.common.rng import numpy_stream
from foreknow.core.pictures import ImageGrid, Lines, Picture

if TYPE_CHECKING:
    from foreknow.signals.learned_proximal.system import LearnedProximal

_STEPS = (0, 1, 3, 10, 30, 100)
_NOISE = np.linspace(0.0, 0.3, 7)


def pictures(system: LearnedProximal) -> dict[str, Picture]:
    """The pictures of a fitted system, by name."""
    return _of_vectors(system) if len(system.network_.architecture.shape) == 1 else _of_images(system)


def _of_vectors(system: LearnedProximal) -> dict[str, Picture]:
    """The map and the penalty along the first coordinate, the others 0."""
    x = np.linspace(-4, 4, 161) * max(system.spread_, float(system.sigma))
    rows = np.zeros((len(x), system.network_.architecture.shape[0]))
    rows[:, 0] = x
    threshold = system.sigma**2 / system.spread_ if system.spread_ > 0 else 0.0
    soft = np.sign(x) * np.maximum(np.abs(x) - threshold, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # where x has no inverse, the line has a gap
        log_p, info = system.log_prior(rows, return_info=True)
    log_p = np.where(info.inversion_residual < 1e-3, log_p - log_p.max(), np.nan)
    lines = {"learnt": system.transform(rows)[:, 0], "soft threshold of a Laplacian as wide": soft, "identity": x}
    return {
        "map": Lines(x, lines, "x", "f(x)", "The learnt proximal map"),
        "log_prior": Lines(x, {"learnt": log_p}, "x", "log density, up to a constant", "The prior read from it"),
    }


def _of_images(system: LearnedProximal) -> dict[str, Picture]:
    """Where noise goes under repeated application of the map, which descends R; and log densities of noisy versions."""
    shape = system.network_.architecture.shape
    rng = numpy_stream(system.seed_, "pictures")
    x = torch.as_tensor(rng.uniform(size=(4, *shape)), dtype=torch.float32).to(system.device_)
    seen = [x]
    with torch.no_grad():
        for step in range(1, _STEPS[-1] + 1):
            x = system.network_(x)
            if step in _STEPS:
                seen.append(x)
    grid = [[_shown(stage[row].cpu().numpy()) for stage in seen] for row in range(len(x))]
    calm = x.cpu().numpy()
    noise = rng.normal(size=calm.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # far noise may be outside the range; the curve shows it
        curve = np.array([system.log_prior(np.clip(calm + s * noise, -2, 3)).mean() for s in _NOISE])
    return {
        "descent": ImageGrid(grid, [f"step {step}" for step in _STEPS], title="Noise, denoised again and again"),
        "log_prior": Lines(_NOISE, {"mean of four": curve - curve[0]}, "noise added (sd)",
                           "log density, relative (nats)", "Noise makes these images less plausible"),
    }  # fmt: skip


def _shown(image: NDArray[Any]) -> NDArray[Any]:
    """(C, H, W) as (H, W) or (H, W, 3) inside [0, 1]."""
    clipped = np.clip(image, 0, 1)
    return np.asarray(clipped.transpose(1, 2, 0) if len(clipped) == 3 else clipped[0])
