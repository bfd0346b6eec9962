"""Training by PPO of stable-baselines3: the policy is the mean of a normal distribution of fixed width, the critic a
network of its own.

A saturated neuron passes no gradient, so it is the noise of the actions that moves a circuit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreknow.architectures.neural_circuit.policy import CLOCK, NetworkPolicy, Policy
from foreknow.architectures.neural_circuit.training import Moments, Note
from foreknow.common.deps import require
from foreknow.common.rng import seed_of, seeded_init
from foreknow.core.world import World

ACTION_SD = 0.1
CRITIC = (64, 64)
LR = 3e-4


class Actor(nn.Module):
    """A policy of observations whose last column is the clock, in [-1, 1] over the first 1000 steps."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, rows: Tensor) -> Tensor:
        steps = ((rows[:, -1].double() + 1) * CLOCK / 2).round()
        actions: Tensor = self.policy(rows[:, :-1], steps)
        return actions.to(rows.dtype)


def train_with_ppo(policy: Policy, world: World, episodes: int, *, seed: int, note: Note) -> list[tuple[int, float]]:
    """Train in place, one episode a rollout; (episodes so far, return) of each."""
    require("stable_baselines3", "Training by PPO")
    curve: list[tuple[int, float]] = []
    if episodes == 0:
        return curve
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    env = _environment(world, seed)
    moments = Moments(world.n_observations)
    n_steps = max(world.n_steps, 2)

    class Report(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            buffer = learner.rollout_buffer
            if isinstance(policy, NetworkPolicy):
                seen = buffer.observations[:, 0, :-1]
                moments.add(seen.astype(np.float64))
                policy.standardise(moments.mean, moments.sd)
            curve.append((len(curve) + 1, float(buffer.rewards.sum())))
            note(*curve[-1])

    batch = max(size for size in range(1, 65) if n_steps % size == 0)
    with _borrowed_randomness(seed):
        learner = PPO(
            "MlpPolicy",
            env,
            n_steps=n_steps,
            learning_rate=LR,
            batch_size=batch if batch > 1 else n_steps,
            policy_kwargs={
                "net_arch": {"pi": [], "vf": list(CRITIC)},
                "activation_fn": nn.Tanh,
                "log_std_init": math.log(ACTION_SD),
            },
            device="cpu",
        )
        learner.policy.action_net = Actor(policy)
        learner.policy.log_std.requires_grad_(False)
        trained = [part for part in learner.policy.parameters() if part.requires_grad]
        learner.policy.optimizer = torch.optim.Adam(trained, lr=LR, eps=1e-5)
        learner.learn(episodes * n_steps, callback=Report())
    return curve


def _environment(world: World, seed: int) -> Any:
    """The world as an environment of gymnasium, with the clock as its last observation."""
    import gymnasium

    class Environment(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (world.n_observations + 1,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (world.n_actions,), np.float32)
        n_episodes, t = 0, 0

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            start = seed_of(first, "ppo", str(self.n_episodes))
            self.n_episodes, self.t = self.n_episodes + 1, 0
            return self._with_clock(world.reset(start)), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            observation, reward, over = world.step(np.asarray(action, dtype=np.float64))
            self.t += 1
            return self._with_clock(observation), reward, False, over, {}

        def _with_clock(self, observation: Any) -> Any:
            return np.append(observation, 2 * self.t / CLOCK - 1).astype(np.float32)

    first = seed
    return Environment()


@contextmanager
def _borrowed_randomness(seed: int) -> Iterator[None]:
    """stable-baselines3 draws from the global generators; they are seeded inside the block and put back after it."""
    kept, kept_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with seeded_init(seed):
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        random.setstate(kept)
        np.random.set_state(kept_numpy)  # noqa: NPY002
