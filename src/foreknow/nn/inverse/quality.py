"""How near a reconstruction is to the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.errors import InputError


def psnr(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each image in dB, -10 log10 of the mean squared error; both in [0, 1].

    Raises:
        InputError: the shapes differ.
    """
    if np.shape(found) != np.shape(truth):
        raise InputError(f"psnr: shapes {np.shape(found)} and {np.shape(truth)} differ.")
    error = (np.asarray(found, dtype=np.float64) - np.asarray(truth, dtype=np.float64)) ** 2
    mean = error.reshape(len(error), -1).mean(1)
    return np.asarray(-10 * np.log10(np.maximum(mean, 1e-20)))


def ssim(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Structural similarity of each image (n, C, H, W), at least 7 pixels a side, averaged over channels.

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    compare = require("skimage.metrics", "The structural similarity").structural_similarity
    pairs = zip(np.asarray(found, dtype=np.float64), np.asarray(truth, dtype=np.float64), strict=True)
    return np.array([compare(one, other, channel_axis=0, data_range=1.0) for one, other in pairs])
