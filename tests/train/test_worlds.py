"""Environments of gymnasium and dm_control as worlds: bounds, seeds, ends of episodes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from foreknow.common.errors import CapabilityError, InputError
from foreknow.core.world import World, run_episode
from foreknow.train.worlds import ControlWorld, GymnasiumWorld, as_world


class Point(gymnasium.Env[Any, Any]):
    """A point on a line, moved by forces between 0 and 4; ends after `last` steps."""

    def __init__(self, last: int = 5) -> None:
        self.observation_space, self.action_space = Box(-9, 9, (2,)), Box(0.0, 4.0, (1,))
        self.last, self.forces = last, []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.x = 0, float(self.np_random.uniform())
        return np.array([self.x, 0.0]), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.forces.append(float(action[0]))
        self.x += float(action[0])
        return np.array([self.x, self.t]), float(action[0]), self.t >= self.last, False, {}


class Control:
    """The same in the manner of dm_control."""

    def __init__(self) -> None:
        self.task = SimpleNamespace(random=np.random.RandomState(0))

    def action_spec(self) -> Any:
        return SimpleNamespace(shape=(1,), minimum=np.array([0.0]), maximum=np.array([4.0]))

    def observation_spec(self) -> Any:
        return {"x": SimpleNamespace(shape=()), "more": SimpleNamespace(shape=(2,))}

    def reset(self) -> Any:
        self.t, self.x = 0, self.task.random.uniform()
        return self._now(None)

    def step(self, action: np.ndarray) -> Any:
        self.t += 1
        return self._now(float(action[0]))

    def _now(self, reward: float | None) -> Any:
        observation = {"x": np.float64(self.x), "more": np.array([1.0, self.t])}
        return SimpleNamespace(observation=observation, reward=reward, last=lambda: self.t >= 5)


@pytest.mark.parametrize("make", [Point, Control])
def test_bounds_seeds_and_ends(make: Any) -> None:
    world = as_world(make(), n_steps=50)
    assert isinstance(world, World)
    assert world.n_actions == 1
    episode = run_episode(world, lambda obs, t: np.array([-1 + t / 2]), seed=3)
    np.testing.assert_allclose(episode.rewards, [0.0, 1.0, 2.0, 3.0, 4.0])
    assert episode.total == 10.0
    again, other = (run_episode(world, lambda obs, t: np.zeros(1), seed=seed).observations[0] for seed in (3, 4))
    assert (again == episode.observations[0]).all()
    assert (other != again).any()
    assert len(run_episode(world, lambda obs, t: np.zeros(1), seed=2**62, n_steps=2).rewards) == 2


@pytest.mark.parametrize("action", [np.array([1.2]), np.zeros(2), np.array([np.nan])])
def test_impossible_actions_are_refused(action: np.ndarray) -> None:
    world = as_world(Point())
    world.reset(0)
    with pytest.raises(InputError, match="action"):
        world.step(action)


def test_what_is_no_world_is_refused() -> None:
    for thing in (3, "text", None, Point, object()):
        with pytest.raises(InputError, match="as_world"):
            as_world(thing)
    env = Point()
    env.observation_space = Discrete(3)
    with pytest.raises(InputError, match="vectors"):
        as_world(env)
    env = Point()
    env.action_space = Box(-np.inf, np.inf, (1,))
    with pytest.raises(InputError, match="bounded"):
        GymnasiumWorld(env)
    unseeded = Control()
    unseeded.task = SimpleNamespace()
    with pytest.raises(InputError, match="seeded"):
        ControlWorld(unseeded)


def test_pictures_are_those_of_the_environment() -> None:
    env = Point()
    world = as_world(env)
    with pytest.raises(CapabilityError, match="rgb_array"):
        world.render()
    env.render = lambda: np.full((4, 6, 3), 7)  # type: ignore[method-assign]
    frames = run_episode(world, lambda obs, t: np.zeros(1), seed=0, picture_every=2).frames
    assert frames is not None
    assert frames.shape == (3, 4, 6, 3)
    assert frames.dtype == np.uint8
