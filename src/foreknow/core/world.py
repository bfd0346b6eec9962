"""Worlds: what an agent acts in, step by step, and one episode in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError

Array = NDArray[np.float64]

Act = Callable[[Array, int], Array]
"""(observation, number of the step in its episode) -> action."""


@runtime_checkable
class World(Protocol):
    """Something one acts in: observations and actions are vectors of fixed length, actions lie in [-1, 1].

    Args:
        n_observations, n_actions: lengths of the vectors.
        n_steps: longest episode.
    """

    n_observations: int
    n_actions: int
    n_steps: int

    def reset(self, seed: int) -> Array:
        """Start an episode that depends on the seed only; the first observation."""
        ...

    def step(self, action: Array) -> tuple[Array, float, bool]:
        """Act once; the next observation, the reward, and whether the episode is over."""
        ...

    def render(self) -> NDArray[np.uint8]:
        """The world as it stands, an image of shape (h, w, 3)."""
        ...


@dataclass(frozen=True)
class Episode:
    """What happened: one row a step.

    Args:
        observations: before each action, shape (n, n_observations).
        actions: shape (n, n_actions).
        rewards: shape (n,).
        frames: shape (m, h, w, 3), where pictures were wanted.
    """

    observations: Array
    actions: Array
    rewards: Array
    frames: NDArray[np.uint8] | None = None

    @property
    def total(self) -> float:
        """Sum of the rewards: the return."""
        return float(self.rewards.sum())


def run_episode(world: World, act: Act, seed: int, *, n_steps: int | None = None, picture_every: int = 0) -> Episode:
    """Act from a fresh start until the episode is over.

    Args:
        world: to act in.
        act: what to do; its step numbers begin at 0 in every episode.
        seed: of the start.
        n_steps: longest episode; by default the world's.
        picture_every: steps from one picture to the next; 0 takes none.
    """
    observation = world.reset(seed)
    seen, done, earned, frames = [], [], [], []
    for t in range(world.n_steps if n_steps is None else n_steps):
        if picture_every and t % picture_every == 0:
            frames.append(world.render())
        action = act(observation, t)
        seen.append(observation)
        done.append(action)
        observation, reward, over = world.step(action)
        earned.append(reward)
        if over:
            break
    return Episode(np.array(seen), np.array(done), np.array(earned), np.stack(frames) if frames else None)


def check_action(owner: str, action: object, n_actions: int) -> Array:
    """`action` as a vector of `n_actions` numbers in [-1, 1].

    Raises:
        InputError: another length, or a number outside.
    """
    vector = np.asarray(action, dtype=np.float64)
    if vector.shape != (n_actions,):
        raise InputError(f"{owner}: an action must have shape ({n_actions},), got {vector.shape}.")
    if not (np.abs(vector) <= 1 + 1e-9).all():  # also refuses NaN
        raise InputError(f"{owner}: actions must lie in [-1, 1], got {vector!s:.80}.", hint="Clip or scale them.")
    return vector
