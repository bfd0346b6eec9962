"""Training of policies in a world: evolution strategies on the flat vector of their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from foreknow.architectures.neural_circuit.policy import NetworkPolicy, Policy
from foreknow.common.rng import seed_of
from foreknow.core.world import Act, Array, World, run_episode
from foreknow.train.es import ESSettings, Evolution, train_es

Note = Callable[[int, float], None]
"""(episodes so far, mean return of the latest) -> None."""


class Moments:
    """Mean and standard deviation of all rows seen so far."""

    def __init__(self, n: int) -> None:
        self.count, self.mean, self._m2 = 0, np.zeros(n), np.zeros(n)

    def add(self, rows: Array) -> None:
        """Rows, shape (m, n)."""
        total, shift = self.count + len(rows), rows.mean(axis=0) - self.mean
        self._m2 += ((rows - rows.mean(axis=0)) ** 2).sum(axis=0) + shift**2 * self.count * len(rows) / total
        self.mean, self.count = self.mean + shift * len(rows) / total, total

    @property
    def sd(self) -> Array:
        spread: Array = np.sqrt(self._m2 / max(self.count, 1))
        return spread


def train_with_es(
    policy: Policy, world: World, episodes: int, settings: ESSettings, *, seed: int, note: Note
) -> list[tuple[int, float]]:
    """Train in place; (episodes so far, mean return) of every generation, after which `note` finds the mean weights.

    A network reads observations in units of what earlier generations showed it.
    """
    moments = Moments(world.n_observations)

    def score(weights: Array, start: int) -> float:
        set_weights(policy, weights)
        episode = run_episode(world, policy.act(), start)
        if isinstance(policy, NetworkPolicy):
            moments.add(episode.observations)
        return episode.total

    curve: list[tuple[int, float]] = []

    def after(search: Evolution, scores: Array) -> None:
        if isinstance(policy, NetworkPolicy):
            policy.standardise(moments.mean, moments.sd)
        set_weights(policy, search.mean)
        curve.append(((curve[-1][0] if curve else 0) + len(scores), float(scores.mean())))
        note(*curve[-1])

    search = Evolution(get_weights(policy), settings, seed=seed)
    set_weights(policy, train_es(score, search, episodes, after=after))
    return curve


def get_weights(policy: Policy) -> Array:
    """All weights as one vector."""
    return nn.utils.parameters_to_vector(policy.parameters()).detach().cpu().numpy()


def set_weights(policy: Policy, weights: Array | Tensor) -> None:
    """Put a vector of all weights into the policy."""
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.as_tensor(weights), policy.parameters())


def returns(world: World, act: Act, seeds: Sequence[int]) -> Array:
    """Return of one episode for each seed."""
    return np.array([run_episode(world, act, seed).total for seed in seeds])


def test_starts(seed: int, n: int) -> tuple[int, ...]:
    """Starts of `n` test episodes, which no training of this seed begins from."""
    return tuple(seed_of(seed, "neural-circuit", "test", str(number)) for number in range(n))
