"""Real sets of the proof, from installed packages; chosen before anything was measured on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.rng import numpy_stream

Array = NDArray[np.float64]


def _mlxtend(name: str) -> tuple[Array, Array]:
    X, y = (np.asarray(part, dtype=np.float64) for part in getattr(require("mlxtend.data", "This table"), name)())
    X = X[:, np.isfinite(X).any(axis=0)]  # a column of names is read as missing throughout
    kept = np.isfinite(X).all(axis=1)
    return X[kept], y[kept]


def _statsmodels(name: str, target: str, drop: tuple[str, ...] = ()) -> tuple[Array, Array]:
    datasets = require("statsmodels.datasets", "This table")
    frame = getattr(datasets, name).load_pandas().data
    y = frame[target].to_numpy(dtype=np.float64)
    return frame.drop(columns=[target, *drop]).to_numpy(dtype=np.float64), y


def _diabetes() -> tuple[Array, Array]:
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    return X, y


REGRESSION: dict[str, Callable[[], tuple[Array, Array]]] = {
    "statecrime": lambda: _statsmodels("statecrime", "murder"),
    "boston": lambda: _mlxtend("boston_housing_data"),
    "autompg": lambda: _mlxtend("autompg_data"),
    "diabetes": _diabetes,
    "engel": lambda: _statsmodels("engel", "foodexp"),
    "ccard": lambda: _statsmodels("ccard", "AVGEXP"),
}
SMALL = ("statecrime", "ccard")
"""Those of fewer than a hundred rows."""


def corrupted_digits(n_train: int, n_test: int, seed: int) -> tuple[tuple[Array, Any], dict[str, tuple[Array, Any]]]:
    """Digits to learn from, and test digits: clean, and with shot noise, impulse noise and blur."""
    from scipy.ndimage import uniform_filter
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    rng = numpy_stream(seed, "digits")
    order = rng.permutation(len(y))
    train, test = order[:n_train], order[n_train : n_train + n_test]
    clean = X[test]
    hit = rng.uniform(size=clean.shape)
    impulse = np.where(hit < 0.05, 0.0, np.where(hit > 0.95, 16.0, clean))
    blurred = uniform_filter(clean.reshape(-1, 8, 8), size=(1, 3, 3), mode="constant").reshape(clean.shape)
    versions = {
        "clean": clean,
        "shot": np.clip(rng.poisson(clean / 2) * 2.0, 0, 16),
        "impulse": impulse,
        "blur": blurred,
    }
    return (X[train], y[train]), {name: (images, y[test]) for name, images in versions.items()}
