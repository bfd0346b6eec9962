"""What there is to see: latents over time, frames of behaviour, the course of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foreknow.core.pictures import ImageGrid, Lines, Picture
from foreknow.functions.mm_gpvae.training import Course

_FRAMES = 8


def course(found: Course, names: Sequence[str]) -> dict[str, Picture]:
    """The bound and the lengthscales of every epoch."""
    epochs = np.arange(1, len(found.bounds) + 1)
    scales = np.array(found.lengthscales)
    return {
        "bound": Lines(epochs, {"lower bound": np.array(found.bounds)}, "epoch", "nats a trial", "Lower bound"),
        "lengthscales": Lines(
            epochs, {name: scales[:, i] for i, name in enumerate(names)}, "epoch", "lengthscale (bins)", "Lengthscales"
        ),
    }


def latents(mean: Mapping[str, Any], sd: Mapping[str, Any], trial: int) -> Lines:
    """Posterior means of one trial with bands of two standard deviations."""
    lines, bands = {}, {}
    for block, values in mean.items():
        for i, (m, s) in enumerate(zip(np.asarray(values[trial]).T, np.asarray(sd[block][trial]).T, strict=True)):
            name = f"{block} {i + 1}"
            lines[name] = m
            bands[name] = (m - 2 * s, m + 2 * s)
    n_bins = len(next(iter(lines.values())))
    return Lines(np.arange(n_bins), lines, "time bin", "latent", f"Latents of trial {trial}", bands)


def frames(rows: Mapping[str, Any]) -> ImageGrid:
    """Frames of one trial at equal distances, one row a kind; every row has its own grey scale."""
    n_bins = len(next(iter(rows.values())))
    shown = np.unique(np.linspace(0, n_bins - 1, _FRAMES).astype(int))
    images = [[np.asarray(video[t], dtype=np.float64) for t in shown] for video in rows.values()]
    return ImageGrid(images, [f"bin {t}" for t in shown], list(rows), limits=None)
