"""Environments of gymnasium and dm_control as worlds, told apart by what they offer; neither package is imported."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import CapabilityError, InputError
from foreknow.common.validate import check_int
from foreknow.core.world import Array, World, check_action


def as_world(env: object, *, n_steps: int = 1000) -> World:
    """`env` as a world: a world itself, or an environment of gymnasium or dm_control.

    Actions in [-1, 1] are scaled to the bounds of the environment.

    Args:
        env: with observations that are vectors (dm_control: or several, which are joined in their order).
        n_steps: longest episode of an environment that does not say.

    Raises:
        InputError: it is none of these, or its observations or actions are no vectors of bounded numbers.
    """
    if isinstance(env, type):
        raise InputError(f"as_world: an environment is needed, got the class {env.__name__}.", hint="Build it first.")
    if hasattr(env, "action_spec") and hasattr(env, "observation_spec"):
        return ControlWorld(env, n_steps)
    if hasattr(env, "action_space") and hasattr(env, "observation_space"):
        return GymnasiumWorld(env, n_steps)
    if isinstance(env, World):
        return env
    raise InputError(
        f"as_world: a world or an environment of gymnasium or dm_control is needed, got {env!r:.80}.",
        hint="A world has n_observations, n_actions, n_steps, reset(seed), step(action) and render().",
    )


class _Scaled:
    """Actions from [-1, 1] to bounds."""

    def __init__(self, low: Any, high: Any, n_actions: int, n_steps: int) -> None:
        low, high = (np.broadcast_to(np.asarray(bound, dtype=np.float64), (n_actions,)) for bound in (low, high))
        if not (np.isfinite(low) & np.isfinite(high)).all():
            raise InputError(f"{type(self).__name__}: actions must be bounded, the bounds are {low} and {high}.")
        self.n_actions, self.n_steps = n_actions, check_int(type(self).__name__, "n_steps", n_steps, low=1)
        self._low, self._range = low, high - low

    def _scale(self, action: Array) -> Array:
        scaled: Array = self._low + self._range * (check_action(type(self).__name__, action, self.n_actions) + 1) / 2
        return scaled


class GymnasiumWorld(_Scaled):
    """An environment of gymnasium.

    Args:
        env: with boxes of one axis as observation and action space.
        n_steps: longest episode, where the environment's own specification has none.
    """

    def __init__(self, env: Any, n_steps: int = 1000) -> None:
        shapes = [getattr(space, "shape", None) for space in (env.observation_space, env.action_space)]
        if not all(shape is not None and len(shape) == 1 for shape in shapes) or not hasattr(env.action_space, "low"):
            raise InputError(
                f"GymnasiumWorld: observations and actions must be vectors of numbers, got {env.observation_space} "
                f"and {env.action_space}.",
                hint="gymnasium.wrappers.FlattenObservation joins several observations.",
            )
        limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        super().__init__(env.action_space.low, env.action_space.high, shapes[1][0], limit or n_steps)  # type: ignore[index]
        self.env, self.n_observations = env, int(shapes[0][0])  # type: ignore[index]

    def reset(self, seed: int) -> Array:
        return np.asarray(self.env.reset(seed=seed % 2**31)[0], dtype=np.float64)

    def step(self, action: Array) -> tuple[Array, float, bool]:
        observation, reward, terminated, truncated, _ = self.env.step(self._scale(action))
        return np.asarray(observation, dtype=np.float64), float(reward), bool(terminated or truncated)

    def render(self) -> NDArray[np.uint8]:
        try:
            picture = self.env.render()
        except NotImplementedError:
            picture = None
        if not isinstance(picture, np.ndarray):
            raise CapabilityError("GymnasiumWorld: it gives no picture.", hint="Make it with render_mode='rgb_array'.")
        return picture.astype(np.uint8)


class ControlWorld(_Scaled):
    """An environment of dm_control.

    Args:
        env: whose task draws from `task.random`, as those of its suite do.
        n_steps: longest episode, if the environment does not end it earlier.
    """

    def __init__(self, env: Any, n_steps: int = 1000) -> None:
        spec = env.action_spec()
        if len(spec.shape) != 1 or not hasattr(spec, "minimum"):
            raise InputError(f"ControlWorld: actions must be a vector of bounded numbers, got {spec}.")
        if not hasattr(getattr(getattr(env, "task", None), "random", None), "seed"):
            raise InputError("ControlWorld: the environment cannot be seeded: it has no task.random.")
        super().__init__(spec.minimum, spec.maximum, spec.shape[0], n_steps)
        self.env = env
        self.n_observations = sum(int(np.prod(part.shape)) for part in env.observation_spec().values())

    def reset(self, seed: int) -> Array:
        self.env.task.random.seed(seed % 2**32)
        return self._join(self.env.reset().observation)

    def step(self, action: Array) -> tuple[Array, float, bool]:
        now = self.env.step(self._scale(action))
        return self._join(now.observation), float(now.reward), bool(now.last())

    def render(self) -> NDArray[np.uint8]:
        return np.asarray(self.env.physics.render(240, 320, camera_id=0), dtype=np.uint8)

    def _join(self, observation: Any) -> Array:
        return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in observation.values()])
