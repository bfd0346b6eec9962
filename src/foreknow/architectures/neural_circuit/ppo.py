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
from foreknow.core.world import Array, World

ACTION_SD = 0.1
CRITIC = (64, 64)
LR = 3e-4
BATCH = 64
"""Steps of a gradient step, at most."""


class Actor(nn.Module):
    """A policy of observations whose last column is the clock, in [-1, 1] over the first 1000 steps."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, rows: Tensor) -> Tensor:
        steps = ((rows[:, -1].double() + 1) * CLOCK / 2).round()
        actions: Tensor = self.policy(rows[:, :-1], steps)
        return actions.to(rows.dtype)


class Rollout:
    """Steps of whole episodes as they were acted, one row a step.

    Args:
        learner: whose policy acts.
        world: to act in. An episode that is over before `world.n_steps` has reached an end, after which nothing more
            is earned; one of `world.n_steps` was only cut off, and goes on with the value of its last observation.
    """

    def __init__(self, learner: Any, world: World) -> None:
        self._learner, self._world = learner, world
        self._rows: list[tuple[Any, ...]] = []
        self.returns: list[float] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add_episode(self, start: int) -> None:
        """Act from a fresh start to the end, with noise."""
        policy, world = self._learner.policy, self._world
        seen, earned, over, t = _with_clock(world.reset(start), 0), 0.0, False, 0
        while not over and t < world.n_steps:
            with torch.no_grad():
                action, value, log_prob = policy(torch.as_tensor(seen))
            before, action = seen, action.numpy()
            observation, reward, over = world.step(np.clip(action[0], -1, 1).astype(np.float64))
            t, earned = t + 1, earned + reward
            seen = _with_clock(observation, t)
            if t == world.n_steps:
                with torch.no_grad():
                    reward += self._learner.gamma * float(policy.predict_values(torch.as_tensor(seen)))
            self._rows.append((before, action, reward, t == 1, value, log_prob))
        self.returns.append(earned)

    def buffer(self) -> Any:
        """As stable-baselines3 wants it, with advantages."""
        from stable_baselines3.common.buffers import RolloutBuffer

        learner = self._learner
        buffer = RolloutBuffer(len(self), learner.observation_space, learner.action_space, "cpu",
                               gae_lambda=learner.gae_lambda, gamma=learner.gamma)  # fmt: skip
        for row in self._rows:
            buffer.add(*row)
        buffer.compute_returns_and_advantage(torch.zeros(1), np.ones(1))
        return buffer


def train_with_ppo(policy: Policy, world: World, episodes: int, *, seed: int, note: Note) -> list[tuple[int, float]]:
    """Train in place; (episodes so far, return) of each, of which `note` is told after the update that it was for.

    An update is made of as many whole episodes as fill `world.n_steps`: of one, where none ends early. A network reads
    observations in units of what earlier updates showed it.
    """
    require("stable_baselines3", "Training by PPO")
    curve: list[tuple[int, float]] = []
    moments = Moments(world.n_observations)
    with _borrowed_randomness(seed):
        learner = _learner(policy, world)
        while len(curve) < episodes:
            if isinstance(policy, NetworkPolicy) and moments.count:
                policy.standardise(moments.mean, moments.sd)  # not before the update: the network that acted is updated
            rollout, first = Rollout(learner, world), len(curve)
            while len(rollout) < world.n_steps and len(curve) < episodes:
                rollout.add_episode(seed_of(seed, "ppo", str(len(curve))))
                curve.append((len(curve) + 1, rollout.returns[-1]))
            learner.rollout_buffer = rollout.buffer()
            moments.add(learner.rollout_buffer.observations[:, 0, :-1].astype(np.float64))
            learner.batch_size = math.ceil(len(rollout) / math.ceil(len(rollout) / BATCH))
            learner.train()
            for done, earned in curve[first:]:
                note(done, earned)
    return curve


def _learner(policy: Policy, world: World) -> Any:
    """PPO with `policy` as the mean of its actions; its environment is never entered, it only says the shapes."""
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.logger import Logger

    shapes: gymnasium.Env[Any, Any] = gymnasium.Env()
    shapes.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (world.n_observations + 1,), np.float32)
    shapes.action_space = gymnasium.spaces.Box(-1.0, 1.0, (world.n_actions,), np.float32)
    learner = PPO(
        "MlpPolicy",
        shapes,
        learning_rate=LR,
        policy_kwargs={
            "net_arch": {"pi": [], "vf": list(CRITIC)},
            "activation_fn": nn.Tanh,
            "log_std_init": math.log(ACTION_SD),
        },
        device="cpu",
    )
    learner.set_logger(Logger(None, []))
    learner.policy.action_net = Actor(policy)
    learner.policy.log_std.requires_grad_(False)
    trained = [part for part in learner.policy.parameters() if part.requires_grad]
    learner.policy.optimizer = torch.optim.Adam(trained, lr=LR, eps=1e-5)
    return learner


def _with_clock(observation: Array, t: int) -> Any:
    """A row of observations with the clock at its end, shape (1, n_observations + 1)."""
    return np.append(observation, 2 * t / CLOCK - 1).astype(np.float32)[None]


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
