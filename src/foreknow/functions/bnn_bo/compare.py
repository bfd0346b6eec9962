"""Surrogates side by side on one function: the best value, or the hypervolume, after each trial, paired by seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_bool, check_int
from foreknow.core.measures import paired_interval
from foreknow.core.pictures import Lines
from foreknow.functions.bnn_bo.acquisition import SearchSettings
from foreknow.functions.bnn_bo.base import Surrogate
from foreknow.functions.bnn_bo.optimiser import BayesOpt
from foreknow.functions.bnn_bo.space import Floats, Space


@dataclass(frozen=True)
class Run:
    """One search.

    Args:
        best: value after each trial, shape (n,); of several objectives the hypervolume.
        seconds: of the search without the function itself.
        fits: diagnostics of each fit.
    """

    best: Floats
    seconds: float
    fits: Sequence[Mapping[str, float]] = ()


@dataclass(frozen=True)
class Comparison:
    """Several surrogates, each on the same first points.

    Args:
        curves: name -> the best value (or the hypervolume) after each trial, shape (runs, trials).
        seconds: name -> mean seconds of a search, without the function.
        minimize: whether smaller is better; of a hypervolume it is not.
        optimum: the best value there is, where known.
        fits: name -> diagnostics of all fits.
        measure: what the curves are.
    """

    curves: Mapping[str, Floats]
    seconds: Mapping[str, float]
    minimize: bool
    optimum: float | None = None
    fits: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)
    measure: str = "best value"

    def final(self) -> dict[str, Floats]:
        """Name -> the best value of each run."""
        return {name: curve[:, -1] for name, curve in self.curves.items()}

    def ranking(self) -> list[str]:
        """Names from the best mean of the final values to the worst."""
        sign = 1.0 if self.minimize else -1.0
        return sorted(self.curves, key=lambda name: sign * float(np.nanmean(self.curves[name][:, -1])))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column names and rows, the best first: mean of the final values, its 95% interval over runs, seconds."""
        rows = []
        for name in self.ranking():
            values = self.final()[name]
            low, high = _interval(values, name)
            rows.append([name, f"{values.mean():.4g}", f"{low:.4g}..{high:.4g}", f"{self.seconds[name]:.3g}"])
        return ["surrogate", self.measure, "95% interval", "seconds"], rows

    def trials_to(self, share: float = 0.95) -> dict[str, float]:
        """Name -> mean trials until `share` of the way from the first value to the best of any run (inf: never)."""
        sign = -1.0 if self.minimize else 1.0
        known = {name: np.where(np.isfinite(curve), sign * curve, -np.inf) for name, curve in self.curves.items()}
        best = max(float(curve.max()) for curve in known.values())
        if not np.isfinite(best):
            return dict.fromkeys(known, np.inf)
        found = {}
        for name, curve in known.items():
            worst = np.where(np.isfinite(curve), curve, best).min(1, keepdims=True)  # a curve never falls
            reached = curve >= worst + share * (best - worst)
            first = np.where(reached.any(1), reached.argmax(1) + 1.0, np.inf)
            found[name] = float(first.mean())
        return found

    def picture(self) -> Lines:
        """Mean curves with 95% intervals; what is missing to the optimum where that is known."""
        sign = -1.0 if self.minimize else 1.0
        lines, bands = {}, {}
        for name, curve in self.curves.items():
            shown = curve if self.optimum is None else np.log10(np.maximum(sign * (self.optimum - curve), 1e-9))
            lines[name] = shown.mean(0)
            if len(shown) > 1:
                ends = np.array([_interval(column, name) for column in shown.T])
                bands[name] = (ends[:, 0], ends[:, 1])
        label = self.measure if self.optimum is None else "log10 simple regret"
        n = len(next(iter(lines.values())))
        return Lines(np.arange(1, n + 1), lines, "trial", label, "mean over runs, with 95% intervals", bands)


def _interval(values: Floats, name: str) -> tuple[float, float]:
    if len(values) < 2 or not np.isfinite(values).all():
        return float(values.mean()), float(values.mean())
    found = paired_interval(values, n_boot=500, rng=numpy_stream(0, "bootstrap", "bnn-bo", name))
    return found.low, found.high


def run(
    f: Callable[[Any], Any],
    space: Space,
    surrogate: Surrogate | str,
    *,
    n_trials: int,
    n_init: int,
    batch: int,
    minimize: bool,
    preset: str,
    search: SearchSettings | None,
    seed: int,
    reference: Floats | None = None,
) -> Run:
    """One search with one surrogate; searches of one seed share their first points."""
    n_objectives = 1 if reference is None else len(reference)
    opt = BayesOpt(
        space, surrogate, batch=batch, minimize=minimize, n_init=n_init, preset=preset, search=search, seed=seed,
        n_objectives=n_objectives, reference=reference,
    )  # fmt: skip
    seconds, done = 0.0, 0
    while done < n_trials:
        n = min(n_init if done < n_init else batch, n_trials - done)
        with Stopwatch() as watch:
            points = opt.ask(n)
        seconds += watch.seconds
        opt.tell(points, [_value(f(point), n_objectives) for point in points])
        done += n
    return Run(opt.curve(), seconds, tuple(opt.fits_))


def _value(given: Any, n_objectives: int) -> Any:
    """What f gave, as `BayesOpt.tell` takes it."""
    values = np.asarray(given, dtype=np.float64).reshape(-1)
    if len(values) == 1 and np.isnan(values[0]):
        values = np.full(n_objectives, np.nan)
    if len(values) != n_objectives:
        raise InputError(
            f"compare_surrogates: f returned {len(values)} values, {n_objectives} expected.",
            hint="For several objectives give a reference point of as many values.",
        )
    return float(values[0]) if n_objectives == 1 else values


def compare_surrogates(
    f: Callable[[Any], Any],
    space: Space | Mapping[str, Any] | ArrayLike,
    surrogates: Sequence[Surrogate | str] = ("gp", "ibnn", "sobol"),
    *,
    trials: int = 5,
    n_trials: int = 30,
    n_init: int = 8,
    batch: int = 4,
    minimize: bool = True,
    optimum: float | None = None,
    reference: ArrayLike | None = None,
    preset: str = "small",
    search: SearchSettings | None = None,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Search the same function with several surrogates, several times each; runs of one seed share their first points.

    Args:
        f: takes one point, returns a number, or as many as `reference` has.
        space: bounds (d, 2), or parameters by name.
        surrogates: names or settings.
        trials: searches with each.
        n_trials: evaluations of `f` in a search.
        n_init: of these, on a Sobol sequence first.
        batch: points at a time.
        minimize: whether smaller is better.
        optimum: the best value there is, where known; of several objectives the largest hypervolume.
        reference: for several objectives a value of each, in the caller's sign, that is worse than all of interest;
            what is compared then is the hypervolume above it.
        preset, search: see `BayesOpt`.
        seed: of the first search; the others follow.
        progress: told after every search.

    Example:
        >>> f = lambda x: float((x ** 2).sum())
        >>> found = compare_surrogates(f, [(-1, 1)], ["ibnn", "sobol"], trials=2, n_trials=8, n_init=4)
        >>> len(found.table()[1])
        2
    """
    owner = "compare_surrogates"
    check_int(owner, "trials", trials, low=1)
    check_int(owner, "n_trials", n_trials, low=1)
    check_int(owner, "n_init", n_init, low=2)
    check_bool(owner, "minimize", minimize)
    if isinstance(surrogates, str) or not surrogates:
        raise ConfigError(f"{owner}: surrogates must be a list of names or settings, got {surrogates!r}.")
    point = None if reference is None else np.asarray(reference, dtype=np.float64)
    if point is not None and (point.ndim != 1 or len(point) < 2):
        raise ConfigError(f"{owner}: reference must hold a value of each of several objectives, got {reference!r:.80}.")
    area = Space.of(space)
    reporter = Reporter(progress, trials * len(surrogates))
    curves: dict[str, Floats] = {}
    seconds: dict[str, float] = {}
    fits: dict[str, list[Mapping[str, float]]] = {}
    for surrogate in surrogates:
        name = surrogate if isinstance(surrogate, str) else _free(repr(surrogate), curves)
        if name in curves:
            raise ConfigError(f"{owner}: {name!r} comes twice.")
        runs = []
        for number in range(trials):
            runs.append(
                run(
                    f, area, surrogate, n_trials=n_trials, n_init=n_init, batch=batch, minimize=minimize, preset=preset,
                    search=search, seed=seed + number, reference=point,
                )
            )  # fmt: skip
            reporter.advance(len(curves) * trials + number + 1, name)
        curves[name] = np.stack([one.best for one in runs])
        seconds[name] = float(np.mean([one.seconds for one in runs]))
        fits[name] = [fit for one in runs for fit in one.fits]
    if point is not None:
        return Comparison(curves, seconds, False, optimum, fits, "hypervolume")
    return Comparison(curves, seconds, minimize, optimum, fits)


def _free(text: str, taken: Mapping[str, Any]) -> str:
    return text if text not in taken else f"{text} again"
