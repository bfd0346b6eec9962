"""The swimmer of dm_control as a world: a chain of links in a fluid, moved by torques at its joints."""

from __future__ import annotations

import os
import warnings
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.errors import MissingExtraError
from foreknow.common.validate import check_int, check_option
from foreknow.core.world import Array, check_action

STEP_S = 0.03
"""Seconds of one control step."""
SPEED = 0.1
"""Forward speed of the head that earns the whole reward, in metres a second."""
TASKS = ("swim", "navigate")
_LINK, _VIEW = 0.1, 1.1  # metres: length of a link; what the camera sees beyond the chain's own length


class SwimmerWorld:
    """A chain of `n_links` links and one joint fewer, the head first.

    Observations are the joint angles in radians, for "navigate" the vector to the target in the frame of the head,
    and the velocities (two linear, one angular) of every link, head first. Of "swim" the reward is
    clip(v / 0.1, 0, 1) with the forward speed v of the head, which is minus the second coordinate of its velocity;
    of "navigate" it falls with the distance to the target. Building one does no work; the simulator starts with the
    first episode.

    Args:
        n_links: at least 3.
        task: "swim" or "navigate".
        n_steps: control steps of an episode, 0.03 s each.

    Raises:
        MissingExtraError: at the first episode, where dm_control is missing or does not fit the mujoco beside it.
    """

    def __init__(self, n_links: int = 6, *, task: str = "swim", n_steps: int = 1000) -> None:
        self.n_links = check_int("SwimmerWorld", "n_links", n_links, low=3)
        self.task = check_option("SwimmerWorld", "task", task, TASKS)
        self.n_steps = check_int("SwimmerWorld", "n_steps", n_steps, low=1)
        self.n_actions = n_links - 1
        self.n_observations = self.n_actions + 3 * n_links + (2 if task == "navigate" else 0)
        self._physics: Any = None

    def __repr__(self) -> str:
        return f"SwimmerWorld({self.n_links}, task={self.task!r}, n_steps={self.n_steps})"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_physics": None}  # the simulator is built again where it is needed

    def reset(self, seed: int) -> Array:
        suite = import_swimmer()
        if self._physics is None:
            model, assets = suite.get_model_and_assets(self.n_links)
            self._physics = suite.Physics.from_xml_string(model, assets=assets)
            self._n_substeps = round(STEP_S / self._physics.timestep())
        self._task, self._n_done = suite.Swimmer(random=seed % 2**32), 0
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)
        return self._observe()

    def step(self, action: Array) -> tuple[Array, float, bool]:
        self._physics.set_control(check_action("SwimmerWorld", action, self.n_actions))
        self._physics.step(self._n_substeps)
        self._n_done += 1
        if self.task == "navigate":
            reward = float(self._task.get_reward(self._physics))
        else:
            reward = min(max(self.forward_speed() / SPEED, 0.0), 1.0)
        return self._observe(), reward, self._n_done >= self.n_steps

    def forward_speed(self) -> float:
        """Of the head, in metres a second; the head looks along the negative second axis of its own frame."""
        return -float(self._physics.named.data.sensordata["head_vel"][1])

    def render(self) -> NDArray[np.uint8]:
        """The chain from above, the head in another colour, on a grid of 0.1 m; shape (240, 240, 3).

        The lines are drawn here, so no graphics of the machine are needed.
        """
        from PIL import Image, ImageDraw

        data = self._physics.named.data
        names = ["head", *(f"segment_{number}" for number in range(self.n_actions))]
        centre, along = data.xpos[names][:, :2], data.xmat[names].reshape(-1, 3, 3)[:, :2, 1]
        ends = np.stack([centre - _LINK / 2 * along, centre + _LINK / 2 * along], axis=1)  # (link, front and back, 2)
        scale = 480 / (_VIEW + _LINK * max(0, self.n_links - 6))
        corner = centre.mean(axis=0) - 240 / scale

        def pixels(points: Array) -> list[tuple[float, float]]:
            x, y = ((points - corner) * scale).T
            return list(zip(x.tolist(), (480 - y).tolist(), strict=True))

        picture = Image.new("RGB", (480, 480), (243, 247, 250))
        draw = ImageDraw.Draw(picture)
        for axis in (0, 1):
            for at in np.arange(np.ceil(corner[axis] / _LINK), np.floor((corner[axis] + 480 / scale) / _LINK) + 1):
                line = np.stack([corner, corner + 480 / scale])
                line[:, axis] = at * _LINK
                draw.line(pixels(line), fill=(214, 226, 234))
        if self.task == "navigate":
            (x, y), radius = pixels(data.geom_xpos[["target"]][:, :2])[0], 0.1 * scale
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(249, 199, 79))
        width = round(0.024 * scale)
        for number, link in list(enumerate(ends))[::-1]:
            colour = (214, 69, 65) if number == 0 else (38, 70, 120)
            draw.line(pixels(link), fill=colour, width=width)
            for x, y in pixels(link):
                draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)
        return np.asarray(picture.resize((240, 240), Image.Resampling.LANCZOS), dtype=np.uint8)

    def _observe(self) -> Array:
        physics = self._physics
        target = [physics.nose_to_target()] if self.task == "navigate" else []
        return np.concatenate([physics.joints(), *target, physics.body_velocities()])


def import_swimmer() -> ModuleType:
    """dm_control's module of the swimmer.

    dm_control reads mujoco's structures by position, so one release of it works with one release of mujoco.

    Raises:
        MissingExtraError: not installed, or two releases that do not fit.
    """
    require("mujoco", "The swimmer")
    given = os.environ.get("MUJOCO_GL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of graphics libraries that are not there, and not needed
            os.environ.setdefault("MUJOCO_GL", "disabled")
            return require("dm_control.suite.swimmer", "The swimmer")
    except AttributeError as error:
        from importlib.metadata import version

        raise MissingExtraError(
            f"dm-control {version('dm-control')} and mujoco {version('mujoco')} do not fit each other ({error}).",
            hint="Run: pip install 'foreknow[control]', which brings dm-control 1.0.31 and mujoco 3.3.3.",
        ) from error
    finally:
        if given is None:
            os.environ.pop("MUJOCO_GL", None)
