"""Evolution strategies in the manner of OpenAI (Salimans et al. 2017): no gradients, only scores of perturbed weights.

Candidates come in pairs, mean + sigma z and mean - sigma z; their scores are replaced by centred ranks u in
[-1/2, 1/2]; the ascent direction is sum(u z) / (n sigma), which Adam follows, with weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.common.validate import as_vector, check_int, check_real
from foreknow.core.records import record

Array = NDArray[np.float64]
Score = Callable[[Array, int], float]
"""(candidate, seed of its generation) -> score; the larger the better."""


@record
@dataclass(frozen=True)
class ESSettings:
    """How an evolution strategy searches.

    Args:
        population: candidates a generation, an even number.
        sigma: standard deviation of the perturbations, greater than 0.
        lr: learning rate of Adam, greater than 0.
        weight_decay: of Adam.
    """

    population: int = 10
    sigma: float = 0.02
    lr: float = 0.01
    weight_decay: float = 0.005

    def __post_init__(self) -> None:
        if check_int("ESSettings", "population", self.population, low=2) % 2:
            raise ConfigError(f"ESSettings: population must be even (candidates come in pairs), got {self.population}.")
        check_real("ESSettings", "sigma", self.sigma, low=0, open_low=True)
        check_real("ESSettings", "lr", self.lr, low=0, open_low=True)
        check_real("ESSettings", "weight_decay", self.weight_decay, low=0)


class Evolution:
    """An evolution strategy one asks for candidates and tells their scores.

    Args:
        start: the first mean, shape (n_weights,).
        settings: of the search.
        seed: of the perturbations; those of generation k depend on it and k only.
    """

    def __init__(self, start: ArrayLike, settings: ESSettings | None = None, *, seed: int = 0) -> None:
        self.settings = settings or ESSettings()
        self.seed, self.generation = seed, 0
        self._mean = torch.tensor(as_vector("Evolution", start, name="start"), dtype=torch.float64, requires_grad=True)
        self._adam = torch.optim.Adam([self._mean], lr=self.settings.lr, weight_decay=self.settings.weight_decay)
        self._noise: Array | None = None

    @property
    def mean(self) -> Array:
        """The weights found so far, shape (n_weights,)."""
        return self._mean.detach().numpy().copy()

    def ask(self, n: int | None = None) -> Array:
        """The candidates of this generation, shape (n, n_weights); by default as many as the settings say."""
        n = self.settings.population if n is None else check_int("Evolution", "n", n, low=2)
        if n % 2:
            raise ConfigError(f"Evolution: candidates come in pairs, so n must be even, got {n}.")
        half = numpy_stream(self.seed, "es", str(self.generation)).standard_normal((n // 2, len(self._mean)))
        self._noise = np.concatenate([half, -half])
        return self.mean + self.settings.sigma * self._noise

    def tell(self, scores: ArrayLike) -> None:
        """Move the mean towards the candidates that scored well, and go on to the next generation.

        Raises:
            InputError: no candidates were asked for, or the scores are not one finite number for each.
        """
        if self._noise is None:
            raise InputError("Evolution: tell() comes after ask().")
        values = as_vector("Evolution", scores, name="scores", n=len(self._noise))
        ascent = centred_ranks(values) @ self._noise / (len(values) * self.settings.sigma)
        self._mean.grad = torch.as_tensor(-ascent)
        self._adam.step()
        self._noise, self.generation = None, self.generation + 1

    def state(self) -> dict[str, Any]:
        """Everything a search needs to go on, as arrays and numbers."""
        adam = self._adam.state.get(self._mean, {})
        moments = {name: adam[name].numpy().copy() for name in ("exp_avg", "exp_avg_sq") if name in adam}
        return {"mean": self.mean, "generation": self.generation, "seed": self.seed, **moments}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state()` gave, in a search of the same settings.

        Raises:
            CheckpointError: it belongs to another number of weights.
        """
        mean = np.asarray(state["mean"], dtype=np.float64)
        if mean.shape != tuple(self._mean.shape):
            raise CheckpointError(f"Evolution: the state holds {mean.shape} weights, not {tuple(self._mean.shape)}.")
        self.seed, self.generation, self._noise = int(state["seed"]), int(state["generation"]), None
        with torch.no_grad():
            self._mean.copy_(torch.as_tensor(mean))
        self._adam.state.clear()
        if "exp_avg" in state:
            moments = {name: torch.as_tensor(np.array(state[name])) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[self._mean] = {"step": torch.tensor(float(self.generation)), **moments}


def centred_ranks(scores: Array) -> Array:
    """Ranks in [-1/2, 1/2]; equal scores share theirs."""
    ranks: Array = (rankdata(scores) - 1) / max(len(scores) - 1, 1) - 0.5
    return ranks


def train_es(
    score: Score,
    search: Evolution,
    episodes: int,
    *,
    after: Callable[[Evolution, Array], None] | None = None,
    map: Callable[..., Iterable[float]] = map,
) -> Array:
    """Search until `episodes` candidates have been scored; an odd one or a last generation's rest stays unused.

    All candidates of a generation get the same seed, so that chance favours none of them.

    Args:
        score: of one candidate.
        search: where to begin; it ends at what was found.
        episodes: candidates in all.
        after: told the search and the scores of every generation.
        map: how the candidates are scored; that of a pool of processes runs them beside each other.

    Returns:
        The weights found, shape (n_weights,).
    """
    left = check_int("train_es", "episodes", episodes, low=0)
    while n := 2 * (min(search.settings.population, left) // 2):
        candidates, seed = search.ask(n), seed_of(search.seed, "generation", str(search.generation))
        scores = np.fromiter(map(score, candidates, [seed] * n), dtype=np.float64, count=n)
        search.tell(scores)
        left -= n
        if after is not None:
            after(search, scores)
    return search.mean
