"""`EarlyStopper`: gives up runs that will hardly beat the best one, while they are trained."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_int, check_known, check_real
from foreknow.data.curves.curve import Curve
from foreknow.tasks.lc_pfn.stopping_rule import should_stop

_VERSION = 1
_STATUSES = ("running", "stopped", "finished")


class Extrapolator(Protocol):
    """What the stopper needs: `CurveExtrapolator` has it."""

    minimize: bool

    def extrapolate(self, curves: Any, horizon: int, *, falling: str = ...) -> Any:
        """A forecast with `prob_beats(best)` of each of the curves."""


@dataclass(frozen=True)
class Decision:
    """What to do with a run.

    Args:
        action: "go" on or "stop".
        run: its name.
        epoch: the last one that was measured; 0 if none was.
        probability: largest probability, over the epochs left, that the value there is better than `best`; None
            where no forecast was needed.
        best: best value of all runs so far, None if there is none.
        best_run: the run that has it.
        reason: in a few words.
    """

    action: Literal["go", "stop"]
    run: str
    epoch: float
    probability: float | None
    best: float | None
    best_run: str | None
    reason: str

    @property
    def stop(self) -> bool:
        """Whether the run is to be stopped."""
        return self.action == "stop"


@dataclass
class _Run:
    epochs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    status: str = "running"
    strikes: int = 0

    def known(self) -> list[float]:
        return [value for value in self.values if not math.isnan(value)]


class EarlyStopper:
    """Predictive termination: stops a run once it will hardly beat the best of all runs.

    A run is stopped if the largest probability, over the epochs it has left, that its value there is better than the
    best value of any run so far is at most 1 - `delta`. These are probabilities of single epochs; the chance to be
    better at some epoch is at least that large, so a run is stopped a little more often than `delta` says.

    The run that has the best value is never stopped, nor is any while there is no other run with a value to beat.
    Values that are not finite count as not measured. All calls are safe from several threads.

    Args:
        extrapolator: a `CurveExtrapolator`; its `minimize`, `bounds` and `soft_bounds` must fit the metric.
        horizon: last epoch of the runs.
        delta: confidence wanted before a run is given up, in [0, 1].
        min_epochs: values a run must have before it can be stopped.
        patience: updates in a row that must all say stop.

    Example:
        >>> from foreknow import CurveExtrapolator
        >>> stopper = EarlyStopper(CurveExtrapolator(), horizon=50)
        >>> for epoch, value in enumerate([0.60, 0.80, 0.88, 0.91, 0.92, 0.93], start=1):
        ...     decision = stopper.update("first", epoch, value)
        >>> decision.action
        'go'

    References: Domhan et al. 2015, "Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by
    Extrapolation of Learning Curves"; Adriaensen et al. 2023.
    """

    def __init__(
        self,
        extrapolator: Extrapolator,
        horizon: int,
        *,
        delta: float = 0.95,
        min_epochs: int = 4,
        patience: int = 1,
    ) -> None:
        if not hasattr(extrapolator, "extrapolate") or not hasattr(extrapolator, "minimize"):
            raise ConfigError(
                f"EarlyStopper: extrapolator must be a CurveExtrapolator, got a {type(extrapolator).__name__}."
            )
        self.extrapolator = extrapolator
        self.horizon = check_int("EarlyStopper", "horizon", horizon, low=1)
        self.delta = check_real("EarlyStopper", "delta", delta, low=0.0, high=1.0)
        self.min_epochs = check_int("EarlyStopper", "min_epochs", min_epochs, low=1)
        self.patience = check_int("EarlyStopper", "patience", patience, low=1)
        self._runs: dict[str, _Run] = {}
        self._lock = threading.RLock()

    @property
    def minimize(self) -> bool:
        """Whether smaller values are better."""
        return bool(self.extrapolator.minimize)

    @property
    def runs(self) -> dict[str, str]:
        """Name of each run -> "running", "stopped" or "finished", in the order they came."""
        with self._lock:
            return {name: run.status for name, run in self._runs.items()}

    @property
    def best(self) -> tuple[str, float] | None:
        """The run with the best value so far, and the value; the earlier run in a draw."""
        with self._lock:
            found: tuple[str, float] | None = None
            for name, run in self._runs.items():
                for value in run.known():
                    if found is None or (value < found[1] if self.minimize else value > found[1]):
                        found = (name, value)
            return found

    def curve(self, run: str) -> Curve:
        """What was measured of a run."""
        with self._lock:
            kept = self._run(run)
            return Curve(kept.values, kept.epochs, name=run)

    def update(self, run: str, epoch: float, value: float) -> Decision:
        """Note what a run measured at an epoch, and decide on it, with one forward pass at most.

        An epoch at or before the last one means that the run was taken up again from there: what came later is
        forgotten. At the horizon a run is finished.

        Raises:
            InputError: the epoch is no number from 1 on, or the value is outside the extrapolator's bounds.
        """
        return self.update_many([(run, epoch, value)])[0]

    def update_many(self, measured: Iterable[tuple[str, float, float]]) -> list[Decision]:
        """`update` for many runs, with one forward pass for all; all values are noted before any is decided on."""
        rows = list(measured)
        with self._lock:
            for run, epoch, value in rows:
                self.record(run, epoch, value)
            return self.decide([run for run, _, _ in rows])

    def record(self, run: str, epoch: float, value: float) -> None:
        """Note a value without deciding."""
        name, when = _name(run), _epoch(run, epoch)
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"EarlyStopper: the value of run {name!r} at epoch {when:g} is no number: {value!r}."
            ) from error
        low, high = getattr(self.extrapolator, "bounds", (-math.inf, math.inf))
        if math.isfinite(number) and not low <= number <= high:
            raise InputError(
                f"EarlyStopper: run {name!r} has the value {number:g} at epoch {when:g}, outside bounds ({low:g}, "
                f"{high:g}).",
                hint="Give the extrapolator the metric's own bounds, for instance bounds=(0, 100) for percent.",
            )
        with self._lock:
            kept = self._runs.setdefault(name, _Run())
            while kept.epochs and kept.epochs[-1] >= when:
                kept.epochs.pop()
                kept.values.pop()
            kept.epochs.append(when)
            kept.values.append(number if math.isfinite(number) else math.nan)
            if when >= self.horizon and kept.status == "running":
                kept.status = "finished"

    def last_epoch(self, run: str) -> float:
        """The last epoch that was noted of a run; 0 if it is not known."""
        with self._lock:
            return self._runs[run].epochs[-1] if run in self._runs else 0.0

    def finish(self, run: str) -> None:
        """Note that a run is over; its values stay what others must beat."""
        with self._lock:
            kept = self._run(run)
            kept.status = "finished" if kept.status == "running" else kept.status

    def decide(self, runs: Sequence[str] | None = None) -> list[Decision]:
        """Decide on runs, by default on all that are running, with one forward pass for all."""
        with self._lock:
            names = [name for name, run in self._runs.items() if run.status == "running"] if runs is None else runs
            best = self.best
            early = {name: self._without_forecast(name, best) for name in names}
            open_ = [name for name, reason in early.items() if reason is None]
            chances: dict[str, float] = {}
            if open_ and best is not None:
                forecasts = self.extrapolator.extrapolate(
                    [self.curve(name) for name in open_], self.horizon, falling="allow"
                )
                for name, forecast in zip(open_, forecasts, strict=True):
                    chances[name] = float(max(forecast.prob_beats(best[1]), default=0.0))
                    self._judge(self._runs[name], chances[name])
            return [self._decision(name, best, early[name], chances.get(name)) for name in names]

    def state_dict(self) -> dict[str, Any]:
        """Everything that was noted, as JSON-able values (NaN as None)."""
        with self._lock:
            return {
                "version": _VERSION,
                "horizon": self.horizon,
                "minimize": self.minimize,
                "runs": {
                    name: {
                        "epochs": list(run.epochs),
                        "values": [None if math.isnan(value) else value for value in run.values],
                        "status": run.status,
                        "strikes": run.strikes,
                    }
                    for name, run in self._runs.items()
                },
            }

    def load_state_dict(self, state: Mapping[str, Any], *, keep_others: bool = False) -> None:
        """Take over what `state_dict` gave.

        Args:
            state: from `state_dict`.
            keep_others: keep the runs noted here that the state does not know; otherwise they are forgotten.

        Raises:
            InputError: it is no such state, or that of a stopper with another horizon or direction.
        """
        if not isinstance(state, Mapping) or state.get("version") != _VERSION:
            raise InputError("EarlyStopper: this is no state of an EarlyStopper of this version.")
        for name, own in (("horizon", self.horizon), ("minimize", self.minimize)):
            if state.get(name) != own:
                raise InputError(f"EarlyStopper: the state has {name}={state.get(name)!r}, this stopper {own!r}.")
        try:
            runs = {_name(name): _read_run(name, run) for name, run in state["runs"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"EarlyStopper: the state cannot be read ({type(error).__name__}: {error}).") from error
        with self._lock:
            self._runs = {**self._runs, **runs} if keep_others else runs

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())

    # Own machinery -----------------------------------------------------------------------------------------

    def _run(self, name: str) -> _Run:
        check_known("EarlyStopper", [name], self._runs, what="run")
        return self._runs[name]

    def _without_forecast(self, name: str, best: tuple[str, float] | None) -> str | None:
        """Why no forecast is needed, or None if one is."""
        run = self._run(name)
        if run.status != "running":
            return f"is {run.status}"
        if best is None or best[0] == name:
            return "has the best value so far" if best else "there is no value yet"
        if len(run.known()) < self.min_epochs:
            return f"has fewer than {self.min_epochs} values"
        return None

    def _judge(self, run: _Run, chance: float) -> None:
        run.strikes = run.strikes + 1 if should_stop([chance], delta=self.delta) else 0
        if run.strikes >= self.patience:
            run.status = "stopped"

    def _decision(self, name: str, best: tuple[str, float] | None, early: str | None, chance: float | None) -> Decision:
        run = self._runs[name]
        action: Literal["go", "stop"] = "stop" if run.status == "stopped" else "go"
        if early is None and best is not None:
            early = f"P(better than {best[1]:.4g}) is {chance:.3f} at most"
            if action == "go" and run.strikes:
                early += f", {run.strikes} of {self.patience} updates that say stop"
        last = run.epochs[-1] if run.epochs else 0.0
        return Decision(action, name, last, chance, best[1] if best else None, best[0] if best else None, early or "")


def _name(run: object) -> str:
    if isinstance(run, str) and run:
        return run
    raise InputError(f"EarlyStopper: a run is named by text that is not empty, got {run!r}.")


def _epoch(run: str, epoch: object) -> float:
    number = float(epoch) if isinstance(epoch, int | float) and not isinstance(epoch, bool) else math.nan
    if not math.isfinite(number) or number < 1:
        raise InputError(
            f"EarlyStopper: epochs are numbers from 1 on, got {epoch!r} of run {run!r}.",
            hint="Add 1 where epochs are counted from 0.",
        )
    return number


def _read_run(name: str, state: Mapping[str, Any]) -> _Run:
    check_known(f"EarlyStopper: run {name!r}", state, ("epochs", "values", "status", "strikes"), what="entry")
    epochs = [_epoch(name, epoch) for epoch in state["epochs"]]
    values = [math.nan if value is None else float(value) for value in state["values"]]
    if state["status"] not in _STATUSES:
        raise ValueError(f"status {state['status']!r}")
    Curve(values, epochs, name=name)  # refuses what is no curve
    return _Run(epochs, values, state["status"], check_int("EarlyStopper", "strikes", state["strikes"], low=0))
