"""What a practitioner would try first, a tuned open-loop wave or random torques; and a world to be priced in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.stats import qmc

from foreknow.architectures.neural_circuit.training import test_starts
from foreknow.common.files import hash_bytes
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.core.source import Sample, Split
from foreknow.core.world import Act, Array, World, run_episode

PERIODS, PHASES = (20.0, 140.0), (0.2, 1.8)


class SineWave:
    """Torque sin(2 pi t / T - phi i) of joint i = 1..n, with T and phi the best of those tried, one episode each.

    The first half of the episodes goes over the plane evenly (a scrambled Halton sequence), the second half closer
    and closer around the best so far.

    Args:
        seed: of the sequence and of the episodes.
        episodes: to try, where `fit` is not told.
    """

    def __init__(self, seed: int, episodes: int = 60) -> None:
        self.seed, self.episodes = seed, episodes

    def fit(self, X: World, y: Any = None, episodes: int | None = None) -> SineWave:
        """Try waves in the world `X`; without an episode the middle of the plane is taken."""
        n = self.episodes if episodes is None else episodes
        rng = numpy_stream(self.seed, "sine")
        points = np.array([[0.5, 0.5]]) if n == 0 else qmc.Halton(2, rng=rng).random(math.ceil(n / 2))
        self.n_joints_, best, self.found_ = X.n_actions, -math.inf, points[0]
        for number in range(n):
            spread = 0.2 * (1 - number / n)
            point = points[number] if number < len(points) else self.found_ + spread * rng.standard_normal(2)
            score = run_episode(X, self._wave(point), seed_of(self.seed, "sine", str(number))).total
            if score > best:
                best, self.found_ = score, point
        return self

    def act(self) -> Act:
        return self._wave(self.found_)

    def _wave(self, point: Array) -> Act:
        period, phase = (low + float(p) * (high - low) for p, (low, high) in zip(np.clip(point, 0, 1),
                         (PERIODS, PHASES), strict=True))  # fmt: skip
        joints = np.arange(1, self.n_joints_ + 1)
        return lambda obs, t: np.sin(2 * math.pi * t / period - phase * joints)


class RandomTorque:
    """Independent uniform torques.

    Args:
        seed: of the torques.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fit(self, X: World, y: Any = None, episodes: int | None = None) -> RandomTorque:
        self.n_joints_ = X.n_actions
        return self

    def act(self) -> Act:
        rng = numpy_stream(self.seed, "torque")
        return lambda obs, t: rng.uniform(-1, 1, self.n_joints_)


class EpisodeSource:
    """A world as a source of a price: the size is the number of training episodes, the test a few fresh starts.

    Args:
        name: shown in reports.
        world: to act in; its `repr` stands for its contents.
        n_min, n_max: fewest and most episodes.
        n_test: starts of the test.
    """

    task, unit = "none", "episodes"

    def __init__(self, name: str, world: World, *, n_min: int = 10, n_max: int = 60, n_test: int = 3) -> None:
        self.name, self.n_min, self.n_max = name, n_min, n_max
        self._world, self._n_test = world, n_test
        self.content_hash = hash_bytes(repr((world, n_test)).encode())

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """`size` episodes to learn from, and the starts of the test."""
        train = Sample(self._world, named={"episodes": size})
        return Split(train, Sample(self._world, named={"starts": test_starts(seed, self._n_test)}))

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"name": self.name, "unit": self.unit, "n_test": self._n_test, "hash": self.content_hash}
