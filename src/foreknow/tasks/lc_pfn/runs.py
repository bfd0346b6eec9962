"""Real learning curves, made on the spot or read from the Learning Curve Database.

`trained_runs` trains small networks with random settings on ten tasks from scikit-learn's own data, or on images of
clothes (Fashion-MNIST), and notes their validation accuracy after every epoch. `database_curves` reads mean curves over
sample sizes (LCDB, Mohr et al. 2022).
"""

from __future__ import annotations

import csv
import importlib.util
import multiprocessing
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError
from foreknow.common.files import atomic_path, cache_folder, hash_bytes
from foreknow.common.rng import numpy_stream
from foreknow.core.evidence import n_cores
from foreknow.core.source import Sample, Split
from foreknow.data.fashion_mnist import fashion_mnist

Floats = NDArray[np.float64]
TASKS = (
    "digits",
    "digits, few rows",
    "digits, noisy labels",
    "digits, noisy pixels",
    "digits, even or odd",
    "breast cancer",
    "wine",
    "diabetes, above the median",
    "patches, which picture",
    "patches, how high",
)
"""What the networks learn; a task is a group of runs that compete."""
CLOTHES = ("clothes", "clothes, few rows")
"""Two tasks of Fashion-MNIST, for which its files must be there."""

_VERSION = 1  # of what `trained_runs` makes; part of the cache's name


@dataclass(frozen=True)
class Runs:
    """Validation accuracies of runs.

    Args:
        values: shape (n_runs, n_epochs).
        task: index in `tasks` of each run, shape (n_runs,).
        tasks: what was learnt.
    """

    values: Floats
    task: NDArray[np.int64]
    tasks: tuple[str, ...] = TASKS


def trained_runs(
    n_each: int,
    n_epochs: int,
    *,
    tasks: tuple[str, ...] = TASKS,
    keep: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> Runs:
    """Train `n_each` networks on every task; run i of a task is the same whatever `n_each`.

    Args:
        n_each: runs a task.
        n_epochs: of every run.
        tasks: `TASKS` or `CLOTHES`.
        keep: read them from, and write them to, the cache folder.
        tell: told (done, total) after every run.
    """
    kind = "runs" if tasks == TASKS else "clothes"
    path = cache_folder() / f"lc-pfn-{kind}-{_VERSION}-{n_each}-{n_epochs}.npz"
    task = np.repeat(np.arange(len(tasks)), n_each)
    if keep and path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            values = stored["values"]
        if values.shape == (len(task), n_epochs):
            return Runs(values, task, tasks)
    jobs = [(tasks[t], i % n_each, n_epochs) for i, t in enumerate(task)]
    rows: list[Floats] = []
    if len(jobs) < 50:
        for job in jobs:
            rows.append(_train(job))
    else:
        with ProcessPoolExecutor(min(2, n_cores()), multiprocessing.get_context("spawn")) as pool:
            for row in pool.map(_train, jobs, chunksize=5):
                rows.append(row)
                if tell is not None:
                    tell(len(rows), len(jobs))
    values = np.stack(rows)
    if keep:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, values=values)
    return Runs(values, task, tasks)


def _train(job: tuple[str, int, int]) -> Floats:
    """Validation accuracy after every epoch of one network with random settings."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    task, run, n_epochs = job
    x, y, x_test, y_test = _task(task)
    rng = numpy_stream(run, "lc-pfn", "run", task)
    width = round(float(np.exp(rng.uniform(np.log(4), np.log(96)))))
    network = MLPClassifier(
        hidden_layer_sizes=(width,) * int(rng.integers(1, 3)),
        activation=str(rng.choice(["relu", "tanh"])),
        solver=str(rng.choice(["adam", "sgd"])),
        learning_rate_init=float(np.exp(rng.uniform(np.log(1e-4), np.log(5e-2)))),
        batch_size=min(len(x), int(rng.choice([32, 64, 128]))),
        alpha=float(np.exp(rng.uniform(np.log(1e-6), np.log(1e-1)))),
        random_state=int(rng.integers(2**31)),
    )
    found = np.empty(n_epochs)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # a run may diverge: that is a learning curve too
        for epoch in range(n_epochs):
            network.partial_fit(x, y, classes=np.unique(y))
            found[epoch] = network.score(x_test, y_test)
    return found


def _task(name: str) -> tuple[Floats, NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Standardised training rows and labels, validation rows and labels."""
    from sklearn import datasets

    rng = numpy_stream(0, "lc-pfn", "task", name)
    x: Any
    y: Any
    if name.startswith("patches"):
        x, y = _patches(rng, name.endswith("high"))
    elif name in CLOTHES:
        images = fashion_mnist()
        chosen = rng.choice(len(images.x), 1100, replace=False)
        x, y = images.x[chosen].reshape(len(chosen), -1), images.y[chosen]
    elif name.startswith("diabetes"):
        x, y = datasets.load_diabetes(return_X_y=True)
        y = (y > np.median(y)).astype(np.int64)
    else:
        load = {"breast cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}
        x, y = load.get(name, datasets.load_digits)(return_X_y=True)
    order = rng.permutation(len(x))
    x, y = np.asarray(x, dtype=np.float64)[order], np.asarray(y, dtype=np.int64)[order]
    n_test = min(500, len(x) // 2)
    n_train = 150 if name.endswith("few rows") else min(600, len(x) - n_test)
    if name.endswith("even or odd"):
        y = y % 2
    if name.endswith("noisy pixels"):
        x = x + 8.0 * rng.standard_normal(x.shape)
    train, test = slice(n_test, n_test + n_train), slice(n_test)
    y_train = y[train].copy()
    if name.endswith("noisy labels"):
        wrong = rng.random(n_train) < 0.25
        y_train[wrong] = rng.permutation(y_train[wrong])
    shift, scale = x[train].mean(0), x[train].std(0)
    x = (x - shift) / np.where(scale > 0, scale, 1.0)
    return x[train], y_train, x[test], y[test]


def _patches(rng: np.random.Generator, high: bool) -> tuple[Floats, NDArray[np.int64]]:
    """Grey patches of 8 x 8 of two photographs: which of them, or from which quarter of the first one's height."""
    from sklearn.datasets import load_sample_image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pictures = [load_sample_image(name).mean(axis=2) for name in ("china.jpg", "flower.jpg")]
    rows, labels = [], []
    for _ in range(1100):
        which = 0 if high else int(rng.integers(2))
        picture = pictures[which]
        top, left = rng.integers(picture.shape[0] - 8), rng.integers(picture.shape[1] - 8)
        rows.append(picture[top : top + 8, left : left + 8].ravel())
        labels.append(int(4 * top // picture.shape[0]) if high else which)
    return np.stack(rows), np.array(labels)


class CurveSource:
    """Runs as data for `price`: a seed is a run, the size how many of its epochs are seen.

    Args:
        name: shown in reports.
        n_epochs: of every run.
    """

    task, unit, n_min = "regression", "epochs", 2

    def __init__(self, name: str, n_epochs: int = 50) -> None:
        self.name, self._n_epochs = name, n_epochs
        self.n_max = n_epochs * 4 // 5
        self.content_hash = hash_bytes(name.encode(), str((_VERSION, n_epochs)).encode())

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """The first `size` epochs of this seed's run to learn from, the rest to be measured on."""
        if not self.n_min <= size <= self.n_max:
            raise InputError(f"{self.name}: the size must be in {self.n_min}..{self.n_max} epochs, got {size}.")
        values = _train((TASKS[seed % len(TASKS)], 10_000 + seed, self._n_epochs))
        epochs = np.arange(1.0, self._n_epochs + 1)[:, None]
        return Split(Sample(epochs[:size], values[:size]), Sample(epochs[size:], values[size:]))

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"name": self.name, "n_epochs": self._n_epochs, "unit": self.unit, "hash": self.content_hash}


def database_file() -> Path | None:
    """The accuracies of LCDB: of the installed package `lcdb`, or where FOREKNOW_LCDB points; None if absent."""
    named = os.environ.get("FOREKNOW_LCDB")
    if named:
        return Path(named) if Path(named).is_file() else None
    spec = importlib.util.find_spec("lcdb")
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / "database-accuracy.csv"
    return path if path is not None and path.is_file() else None


def database_curves(path: Path, least: int = 12) -> list[Floats]:
    """Mean validation accuracy by rank of the training size, one curve a data set and learner, of `least` or more."""
    sums: dict[tuple[str, str], dict[int, tuple[float, int]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        head = next(rows)
        at = [head.index(name) for name in ("openmlid", "learner", "size_train", "score_valid")]
        for row in rows:
            data, learner, size, score = (row[i] for i in at)
            sizes = sums.setdefault((data, learner), {})
            total, n = sizes.get(int(size), (0.0, 0))
            sizes[int(size)] = (total + float(score), n + 1)
    curves = [np.array([total / n for _, (total, n) in sorted(sizes.items())]) for sizes in sums.values()]
    return [curve for curve in curves if len(curve) >= least]
