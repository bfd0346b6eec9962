"""`transformers_callback`: an `EarlyStopper` as a callback of Hugging Face's Trainer."""

from __future__ import annotations

from typing import Any

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError
from foreknow.common.validate import suggest
from foreknow.tasks.lc_pfn.stopping import EarlyStopper


def transformers_callback(stopper: EarlyStopper, *, metric: str, run: str) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])` that stops one run.

    It decides after each evaluation. With `eval_strategy="epoch"` the stopper's horizon counts epochs, otherwise
    optimiser steps.

    Args:
        stopper: shared by the runs that are compared.
        metric: as the Trainer names it, for instance `"eval_accuracy"`; `"accuracy"` means the same.
        run: name of this run; each run has its own.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    base = require("transformers", "Stopping runs of the Hugging Face Trainer").TrainerCallback
    key = metric if metric.startswith("eval_") else f"eval_{metric}"

    class CurveStopping(base):  # type: ignore[misc,valid-type]
        decision: Any = None

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> Any:
            if state.global_step == 0:
                return control  # before training
            if key not in (metrics or {}):
                names = sorted(metrics or {})
                raise ConfigError(
                    f"transformers_callback: the evaluation has no {key!r}; it has {', '.join(names) or 'nothing'}.",
                    hint=suggest(key, names) or "Give the Trainer compute_metrics.",
                )
            by_epoch = str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "epoch"
            when = max(1, round(state.epoch)) if by_epoch else state.global_step
            self.decision = stopper.update(run, when, metrics[key])
            if self.decision.stop:
                control.should_training_stop = True
            return control

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if run in stopper.runs:
                stopper.finish(run)
            return control

    return CurveStopping()
