"""MNIST-1D: ten digit shapes as signals of 40 points, shifted, scaled and blurred; made here, not downloaded.

Greydanus and Kobak (2020), arXiv 2011.14439, made by the package `mnist1d` (Apache-2.0).
"""

from __future__ import annotations

import contextlib
import io
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.validate import check_int


@dataclass(frozen=True)
class Signals:
    """Signals with their digits.

    Args:
        x, x_test: shape (n, 40), mean 0 and sd 1 over all.
        y, y_test: digits 0..9, shape (n,).
    """

    x: NDArray[np.float64]
    y: NDArray[np.int64]
    x_test: NDArray[np.float64]
    y_test: NDArray[np.int64]


@lru_cache(maxsize=4)
def mnist1d(n: int = 5000, seed: int = 42) -> Signals:
    """`n` signals, four fifths of them for training; the defaults give the published set.

    Args:
        n: signals in all, at least 50; as many of each digit, so rounded down to a multiple of 10.
        seed: of the generator.

    Raises:
        MissingExtraError: the package is not installed.
    """
    check_int("mnist1d", "n", n, low=50)
    check_int("mnist1d", "seed", seed, low=0, high=2**32 - 1)
    before = random.getstate(), np.random.get_state()  # noqa: NPY002 - the package seeds the global generators
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            maker = require("mnist1d.data", "The data set MNIST-1D")
            settings = maker.get_dataset_args()
            settings.num_samples, settings.seed = n, seed
            made = maker.make_dataset(settings)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
    arrays = [np.ascontiguousarray(made[name]) for name in ("x", "y", "x_test", "y_test")]
    for array in arrays:
        array.flags.writeable = False  # they are cached
    return Signals(*arrays)
