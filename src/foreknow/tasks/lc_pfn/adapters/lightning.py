"""`lightning_callback`: an `EarlyStopper` as a callback of Lightning's Trainer."""

from __future__ import annotations

from typing import Any

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError
from foreknow.common.validate import suggest
from foreknow.tasks.lc_pfn.stopping import EarlyStopper


def lightning_callback(stopper: EarlyStopper, *, monitor: str, run: str) -> Any:
    """A callback for `lightning.Trainer(callbacks=[...])` that stops one run.

    It decides after each validation; with several in an epoch, the last one counts. What the stopper knows is part of
    Lightning's checkpoints.

    Args:
        stopper: shared by the runs that are compared.
        monitor: name under which the metric is logged, for instance `"val_acc"`.
        run: name of this run; each run has its own.

    Raises:
        MissingExtraError: Lightning is not installed.
    """
    lightning = require("lightning.pytorch", "Stopping runs of Lightning")

    class CurveStopping(lightning.Callback):  # type: ignore[misc,name-defined]
        decision: Any = None

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.sanity_checking or trainer.state.fn != "fit":
                return
            if monitor not in trainer.callback_metrics:
                names = sorted(trainer.callback_metrics)
                raise ConfigError(
                    f"lightning_callback: nothing is logged as {monitor!r}; logged are {', '.join(names) or 'none'}.",
                    hint=suggest(monitor, names),
                )
            self.decision = stopper.update(run, trainer.current_epoch + 1, float(trainer.callback_metrics[monitor]))
            if trainer.strategy.reduce_boolean_decision(self.decision.stop, all=False):
                trainer.should_stop = True

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
            if run in stopper.runs:
                stopper.finish(run)

        def state_dict(self) -> dict[str, Any]:
            return stopper.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            stopper.load_state_dict(state_dict, keep_others=True)

    return CurveStopping()
