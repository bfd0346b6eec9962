"""`tune_scheduler`: an `EarlyStopper` as a trial scheduler of Ray Tune."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError
from foreknow.common.files import write_text
from foreknow.tasks.lc_pfn.stopping import EarlyStopper


def tune_scheduler(stopper: EarlyStopper, *, metric: str, time_attr: str = "training_iteration") -> Any:
    """A scheduler for `ray.tune.TuneConfig(scheduler=...)`; trials run in the order they come.

    Leave `metric` and `mode` out of TuneConfig, or give the same ones there.

    Args:
        stopper: decides; it works in the driver, trials need not know it.
        metric: name under which trials report it.
        time_attr: what the horizon counts.

    Raises:
        MissingExtraError: Ray Tune is not installed.
    """
    schedulers = require("ray.tune.schedulers", "Stopping trials of Ray Tune")
    fifo: Any = schedulers.FIFOScheduler

    class CurveScheduler(fifo):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._metric = metric

        def set_search_properties(self, asked: str | None, mode: str | None, **spec: Any) -> bool:
            own = "min" if stopper.minimize else "max"
            if asked not in (None, metric) or mode not in (None, own):
                raise ConfigError(
                    f"tune_scheduler: Tune is to {mode}imize {asked!r}, the scheduler to {own}imize {metric!r}.",
                    hint="Give both the same metric and direction.",
                )
            return True

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if metric not in result or time_attr not in result:
                return str(self.CONTINUE)
            decision = stopper.update(trial.trial_id, result[time_attr], result[metric])
            return str(self.STOP if decision.stop else self.CONTINUE)

        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            if trial.trial_id in stopper.runs:
                stopper.finish(trial.trial_id)

        def debug_string(self) -> str:
            states = list(stopper.runs.values())
            return f"foreknow: {states.count('stopped')} of {len(states)} trials stopped"

        def save(self, checkpoint_path: str) -> None:
            write_text(Path(checkpoint_path), json.dumps(stopper.state_dict()))

        def restore(self, checkpoint_path: str) -> None:
            stopper.load_state_dict(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))

    return CurveScheduler()
