"""What `foreknow apply` does with a saved controller: swim, and write down how."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from foreknow.architectures.neural_circuit.prior import over_time
from foreknow.architectures.neural_circuit.swimmer import STEP_S, SwimmerWorld
from foreknow.common.errors import CapabilityError, ConfigError
from foreknow.common.files import write_text
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.validate import check_int, check_known, check_real
from foreknow.core.pictures import Animation, ImageGrid
from foreknow.core.system import Applied
from foreknow.core.world import Array, run_episode

if TYPE_CHECKING:
    from foreknow.architectures.neural_circuit.system import CircuitController

OPTIONS = ("links", "seconds", "seed")
PICTURE_EVERY = 2
"""Control steps from one frame to the next."""


def swim(
    controller: CircuitController, out: Path, options: Mapping[str, str], progress: ProgressCallback | None
) -> Applied:
    """Run a controller of a swimmer, write `motion.csv` into `out`, and give its pictures."""
    owner = "foreknow apply"
    check_known(owner, options, OPTIONS, what="option")
    if controller.task_ is None:
        raise CapabilityError(
            "This controller was fitted to a world of your own, which a file cannot hold.",
            hint="Use it from Python: run_episode(world, controller.act(), seed).",
        )
    trained = controller.n_actions_ + 1
    links = check_int(owner, "links", _number(options, "links", trained), low=3)
    seconds = check_real(owner, "seconds", _number(options, "seconds", 15), low=STEP_S)
    seed = check_int(owner, "seed", _number(options, "seed", 0), low=0)
    act, n_steps = controller.act(links), round(seconds / STEP_S)
    world = SwimmerWorld(links, task=controller.task_, n_steps=n_steps)
    reporter = Reporter(progress, n_steps)

    def told(observation: Array, t: int) -> Array:
        reporter.advance(t)
        return act(observation, t)

    episode = run_episode(world, told, seed, picture_every=PICTURE_EVERY)
    assert episode.frames is not None  # pictures were asked for
    angles, time = episode.observations[:, : links - 1], STEP_S * np.arange(n_steps)
    names = [f"{what}_{joint}" for what in ("angle", "torque") for joint in range(1, links)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["seconds", *names, "reward"])
    rows = np.column_stack([time, angles, episode.actions, episode.rewards])
    writer.writerows([[f"{value:.6g}" for value in row] for row in rows])
    path = out / "motion.csv"
    write_text(path, table.getvalue())
    record = {"links": links, "seconds": n_steps * STEP_S, "return": episode.total, "best": n_steps, "seed": seed,
              "mean_reward": float(episode.rewards.mean())}  # fmt: skip
    limits = float(angles.min()), float(angles.max())
    title = f"Angles of the joints, the head's on top, over {n_steps * STEP_S:.3g} s"
    return Applied(
        record,
        table=(["links", "seconds", "return", "best possible"],
               [[links, record["seconds"], f"{episode.total:.0f}", n_steps]]),
        pictures={"swim": Animation(episode.frames, 1 / (PICTURE_EVERY * STEP_S), f"A swimmer of {links} links"),
                  "angles": ImageGrid([[over_time(angles)]], title=title, limits=limits)},
        files=(path,),
    )  # fmt: skip


def _number(options: Mapping[str, str], name: str, default: int) -> int | float:
    text = options.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"foreknow apply: {name} must be a number, got {text!r}.") from None
