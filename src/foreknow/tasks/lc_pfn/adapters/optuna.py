"""`optuna_pruner`: an `EarlyStopper` as a pruner of an Optuna study."""

from __future__ import annotations

from typing import Any

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int
from foreknow.tasks.lc_pfn.stopping import EarlyStopper


def optuna_pruner(stopper: EarlyStopper, *, first_step: int = 0) -> Any:
    """A pruner for `optuna.create_study(pruner=...)`.

    All trials of the study are read from its storage at each decision, so studies that are resumed or run in several
    processes are judged against all their trials. The objective calls `trial.report(value, step)` after each epoch
    and `trial.should_prune()` then.

    Args:
        stopper: decides; its direction must be that of the study.
        first_step: the step that the objective reports first; it is epoch 1.

    Raises:
        MissingExtraError: Optuna is not installed.
    """
    optuna = require("optuna", "Pruning trials of Optuna")
    first = check_int("optuna_pruner", "first_step", first_step)

    class CurvePruner(optuna.pruners.BasePruner):  # type: ignore[misc,name-defined]
        def prune(self, study: Any, trial: Any) -> bool:
            smaller = study.direction == optuna.study.StudyDirection.MINIMIZE
            if smaller != stopper.minimize:
                raise ConfigError(
                    f"optuna_pruner: the study {'minimizes' if smaller else 'maximizes'}, the extrapolator has "
                    f"minimize={stopper.minimize}.",
                    hint=f"Use CurveExtrapolator(minimize={smaller}, ...) or another direction of the study.",
                )
            for other in study.get_trials(deepcopy=False):
                _record(stopper, _run(study, other), other.intermediate_values, first)
            name = _run(study, trial)
            _record(stopper, name, trial.intermediate_values, first)
            return name in stopper.runs and stopper.decide([name])[0].stop

    return CurvePruner()


def _run(study: Any, trial: Any) -> str:
    return f"{study.study_name}/{trial.number}"


def _record(stopper: EarlyStopper, name: str, reported: dict[int, float], first: int) -> None:
    """Note the values that are new."""
    known = stopper.last_epoch(name)
    for step in sorted(reported):
        if step - first + 1 > known:
            stopper.record(name, step - first + 1, reported[step])
