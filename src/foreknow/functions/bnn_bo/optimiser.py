"""The loop: ask for points, tell what they gave."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError, NotFittedError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import seed_of
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.pictures import Lines
from foreknow.functions.bnn_bo.acquisition import ACQUISITIONS, MULTIPLE, SINGLE, SearchSettings, propose
from foreknow.functions.bnn_bo.base import Fitted, Surrogate
from foreknow.functions.bnn_bo.extra import bo
from foreknow.functions.bnn_bo.model import Snap, standardise, wrap
from foreknow.functions.bnn_bo.networks import MAPNet
from foreknow.functions.bnn_bo.space import Floats, Space
from foreknow.functions.bnn_bo.surrogates import as_surrogate

FAILED = ("worst", "drop")


@dataclass(frozen=True)
class Best:
    """The best trial so far.

    Args:
        point: as it was told.
        value: of it, in the caller's sign.
        trial: its number, from 0.
    """

    point: Any
    value: float
    trial: int


class BayesOpt:
    """Finds good points of an expensive function, in batches, with the surrogate of your choice.

    `ask` proposes points, `tell` takes what they gave; the first `n_init` points are a Sobol sequence, the last of
    them a part of a batch if need be. Trials that were not asked for may be told too. Points that were asked for and
    not told yet count as under way.

    Args:
        space: bounds (d, 2), or parameters by name (`Space.of` says how).
        surrogate: a name ("gp", "gp-2023", "ibnn", "hmc", "sghmc", "ensemble", "laplace", "dkl", "map"), "sobol" or
            "random" for a search without one, or a surrogate's settings.
        acquisition: "auto" (expected improvement; of hypervolume for several objectives; a single network is followed
            greedily), "qei", "qlogei", "greedy" or "qehvi".
        batch: points of an `ask`.
        minimize: whether smaller values are better.
        n_init: points before the surrogate is asked; by default twice the parameters, from 6 to 40.
        n_objectives: values of a trial.
        reference: for several objectives a value of each, in the caller's sign, that is worse than all of interest; by
            default a tenth of their range below the worst values of the best set.
        failed: what becomes of trials whose value is NaN: "worst" gives them the worst value seen, "drop" forgets them
            (they may then be proposed again).
        preset: of a surrogate given by name: "quick", "small" or "paper".
        search: how hard the acquisition function is optimised.
        seed: of everything random.

    Raises:
        ConfigError: a setting is not allowed.

    Example:
        >>> opt = BayesOpt([(-2.0, 2.0)], surrogate="ibnn", n_init=4, seed=0)
        >>> for _ in range(6):
        ...     x = opt.ask()
        ...     _ = opt.tell(x, (x[:, 0] - 0.5) ** 2)
        >>> opt.best_.value < 0.05
        True

    References: Li, Rudner and Wilson 2024.
    """

    def __init__(
        self,
        space: Space | Mapping[str, Any] | ArrayLike,
        surrogate: Surrogate | str = "gp",
        *,
        acquisition: str = "auto",
        batch: int = 1,
        minimize: bool = True,
        n_init: int | None = None,
        n_objectives: int = 1,
        reference: ArrayLike | None = None,
        failed: str = "worst",
        preset: str = "small",
        search: SearchSettings | None = None,
        seed: int = 0,
    ) -> None:
        owner = "BayesOpt"
        self.space = Space.of(space)
        self.surrogate = as_surrogate(owner, surrogate, preset)
        self.batch = check_int(owner, "batch", batch, low=1)
        self.minimize = check_bool(owner, "minimize", minimize)
        d = len(self.space.names)
        self.n_init = min(max(6, 2 * d), 40) if n_init is None else check_int(owner, "n_init", n_init, low=1)
        self.n_objectives = check_int(owner, "n_objectives", n_objectives, low=1)
        check_option(owner, "acquisition", acquisition, ("auto", *ACQUISITIONS))
        if acquisition == "auto":
            greedy = isinstance(self.surrogate.surrogate, MAPNet)
            acquisition = "qehvi" if n_objectives > 1 else "greedy" if greedy else "qei"
        allowed = MULTIPLE if n_objectives > 1 else SINGLE
        if acquisition not in allowed:
            raise ConfigError(f"{owner}: for {n_objectives} objective(s) acquisition must be one of {allowed}.")
        self.acquisition = acquisition
        self.failed = check_option(owner, "failed", failed, FAILED)
        if search is not None and not isinstance(search, SearchSettings):
            raise ConfigError(f"{owner}: search must be a SearchSettings, got {type(search).__name__}.")
        self.search = search or SearchSettings()
        self.seed = check_int(owner, "seed", seed, low=0)
        self.reference = None if reference is None else self._reference(reference)
        self._codes = np.empty((0, d))
        self._y = np.empty((0, n_objectives))
        self._pending = np.empty((0, d))
        self._asked, self._told = 0, 0
        self.fits_: list[dict[str, float]] = []
        self._fitted: tuple[int, Fitted, Tensor, Tensor] | None = None

    # asking and telling ------------------------------------------------------------------------------------------

    def ask(self, n: int | None = None) -> list[dict[str, Any]] | Floats:
        """Points to try next.

        Args:
            n: how many; by default `batch`.

        Returns:
            An array (n, d) for plain bounds, a list of mappings for a space with names.
        """
        n = self.batch if n is None else check_int("BayesOpt.ask", "n", n, low=1)
        name, settings = self.surrogate.name, self.surrogate.surrogate
        n_known = int(np.isfinite(self._y).all(1).sum())
        start = max(self._asked, self._told)
        # while hardly any trial has worked there is nothing to fit
        n_first = n if settings is None or n_known < 2 else min(n, max(0, self.n_init - start))
        parts = []
        if n_first:
            first = seed_of(self.seed, "first") % 2**31
            parts.append(self.space.draw(n_first, seed=first, skip=start, sobol=name != "random"))
            self._pending = np.concatenate([self._pending, parts[0]])
        if n > n_first:
            parts.append(self._model_points(n - n_first))
            self._pending = np.concatenate([self._pending, parts[-1]])
        self._asked += n
        return self.space.points(np.concatenate(parts))

    def tell(self, points: Any, y: ArrayLike) -> Self:
        """Say what points gave.

        Args:
            points: one or many, as `ask` returns them.
            y: their values, shape (n,), or (n, n_objectives); NaN for trials that failed.

        Raises:
            InputError: points outside the space, values of another number, or infinite.
        """
        owner = "BayesOpt.tell"
        codes = self.space.codes(points, owner=owner)
        try:
            values = np.asarray(y, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{owner}: y must be numbers, got {y!r:.80}.") from error
        values = values.reshape(-1, 1) if self.n_objectives == 1 else np.atleast_2d(values)
        if values.shape != (len(codes), self.n_objectives):
            raise InputError(
                f"{owner}: expected {len(codes)} values of {self.n_objectives} objective(s), got shape {np.shape(y)}."
            )
        if np.isinf(values).any():
            raise InputError(f"{owner}: a value is infinite.", hint="Give NaN for a trial that failed.")
        self._codes = np.concatenate([self._codes, codes])
        self._y = np.concatenate([self._y, values])
        self._told += len(codes)
        for row in codes:
            near = np.flatnonzero(np.isclose(self._pending, row, rtol=1e-9, atol=1e-12).all(1))
            if len(near):
                self._pending = np.delete(self._pending, near[0], axis=0)
        return self

    def forget(self) -> Self:
        """Points that were asked for and never told no longer count as under way."""
        self._pending = self._pending[:0]
        return self

    # what is known -----------------------------------------------------------------------------------------------

    @property
    def trials_(self) -> tuple[Any, Floats]:
        """All points told, and their values (n,) or (n, n_objectives)."""
        values = self._y[:, 0] if self.n_objectives == 1 else self._y
        return self.space.points(self._codes), values.copy()

    @property
    def best_(self) -> Best:
        """The best trial.

        Raises:
            NotFittedError: no trial has worked yet.
            ConfigError: with several objectives there is a set of them, `pareto_`.
        """
        if self.n_objectives > 1:
            raise ConfigError("BayesOpt: with several objectives ask for pareto_.")
        if not np.isfinite(self._y).any():
            raise NotFittedError("BayesOpt: no trial has worked yet.", hint="Tell some values first.")
        i = int(np.nanargmax(self._sign() * self._y[:, 0]))
        points = self.space.points(self._codes[i : i + 1])
        return Best(points[0], float(self._y[i, 0]), i)

    @property
    def pareto_(self) -> tuple[Any, Floats]:
        """Trials that no other is better than in all objectives: points and values (k, n_objectives)."""
        known = np.flatnonzero(np.isfinite(self._y).all(1))
        y = self._sign() * self._y[known]
        better = np.asarray((y[None] >= y[:, None]).all(-1) & (y[None] > y[:, None]).any(-1))  # (k, k)
        front = known[~np.asarray(better.any(1))]
        return self.space.points(self._codes[front]), self._y[front].copy()

    def hypervolume(self) -> float:
        """What the best set dominates above the reference point."""
        if self.n_objectives == 1:
            raise ConfigError("BayesOpt.hypervolume: there is one objective.")
        volumes = bo("botorch.utils.multi_objective.hypervolume")
        y = torch.as_tensor(self._sign() * self.pareto_[1])
        reference = self._reference_point(y)
        return float(volumes.Hypervolume(reference).compute(y))

    def curve(self) -> Floats:
        """The best value after each trial, shape (n,), NaN before one has worked; or the hypervolume, then 0."""
        if self.n_objectives == 1:
            return best_so_far(self._y[:, 0], self.minimize)
        y = torch.as_tensor(self._sign() * self._y)
        known = y.isfinite().all(1)
        if not bool(known.any()):
            return np.zeros(len(y))
        volumes = bo("botorch.utils.multi_objective.hypervolume").Hypervolume(
            self._reference_point(torch.as_tensor(self._sign() * self.pareto_[1]))
        )
        front = bo("botorch.utils.multi_objective.pareto")
        found, best = np.zeros(len(y)), y[:0]
        for i, row in enumerate(y):
            if bool(known[i]):
                best = torch.cat([best, row[None]])
                best = best[front.is_non_dominated(best)]
            found[i] = volumes.compute(best) if len(best) else 0.0
        return found

    def picture(self, optimum: float | None = None) -> Lines:
        """The best value after each trial, or what it lacks to `optimum` on a logarithmic scale."""
        if self.n_objectives > 1:
            raise ConfigError("BayesOpt.picture: there are several objectives.", hint="curve() has their hypervolume.")
        found = self.curve()
        trial = np.arange(1, len(found) + 1)
        if optimum is None:
            return Lines(trial, {"best so far": found, "trial": self._y[:, 0]}, "trial", "value", "best value so far")
        regret = np.maximum(self._sign() * (optimum - found), 1e-12)
        return Lines(trial, {self.surrogate.name: regret}, "trial", "simple regret", "regret", log_y=True)

    def model(self) -> Any:
        """The surrogate fitted to all trials as a BoTorch model of the unit cube; larger is better there, always."""
        return self._wrapped(self.space.snap)

    def _wrapped(self, snap: Snap | None) -> Any:
        if self.surrogate.surrogate is None:
            raise ConfigError(f"BayesOpt: {self.surrogate.name!r} is a search without a surrogate.")
        x, y = self._data()
        number = len(self._y)
        if self._fitted is None or self._fitted[0] != number:
            shift, scale = standardise(y)
            with Stopwatch() as watch:
                seed = seed_of(self.seed, "fit", str(number))
                fitted = self.surrogate.surrogate.fit(x, (y - shift) / scale, seed=seed)
            self.fits_.append({"trials": float(number), "seconds": watch.seconds, **fitted.diagnostics})
            self._fitted = number, fitted, shift, scale
        _, fitted, shift, scale = self._fitted
        return wrap(fitted, shift, scale, snap=snap, limit=self.search.n_samples)

    # own machinery -----------------------------------------------------------------------------------------------

    def _again(self, other: BayesOpt) -> BayesOpt:
        """`other` with all that was asked here, where every trial has failed."""
        other._asked, other._told = self._asked, self._told
        other._codes, other._pending = self._codes, self._pending
        other._y = np.full((len(self._y), other.n_objectives), np.nan)
        return other

    def _sign(self) -> float:
        return -1.0 if self.minimize else 1.0

    def _reference(self, given: ArrayLike) -> Floats:
        values = np.asarray(given, dtype=np.float64)
        if values.shape != (self.n_objectives,) or not np.isfinite(values).all():
            raise ConfigError(f"BayesOpt: reference must be {self.n_objectives} finite numbers, got {given!r:.80}.")
        return values

    def _reference_point(self, y: Tensor) -> Tensor:
        """In the sign where larger is better."""
        if self.reference is not None:
            return torch.as_tensor(self._sign() * self.reference)
        tools = bo("botorch.utils.multi_objective.hypervolume")
        found: Tensor = tools.infer_reference_point(y)
        return found

    def _data(self) -> tuple[Tensor, Tensor]:
        """Rows of the unit cube and outcomes, larger is better, failed trials dropped or replaced."""
        y = self._sign() * self._y
        known = np.isfinite(y).all(1)
        if not known.any():
            raise NotFittedError("BayesOpt: no trial has worked yet.", hint="Tell some values first.")
        if self.failed == "drop":
            return self.space.encode(self._codes[known]), torch.as_tensor(y[known])
        return self.space.encode(self._codes), torch.as_tensor(np.where(np.isfinite(y), y, y[known].min(0)))

    def _model_points(self, n: int) -> Floats:
        model = self._wrapped(None)
        x, y = self._data()
        pending = self.space.encode(self._pending) if len(self._pending) else None
        reference = self._reference_point(y) if self.n_objectives > 1 else None
        return propose(
            model, self.space, self.acquisition, x=x, y=y, q=n, seen=np.concatenate([self._codes, self._pending]),
            pending=pending, reference=reference, settings=self.search,
            seed=seed_of(self.seed, "ask", str(self._asked)),
        )  # fmt: skip


def best_so_far(y: Floats, minimize: bool) -> Floats:
    """The best of the first 1, 2, ... values, shape (n,); NaN before the first finite one."""
    sign = -1.0 if minimize else 1.0
    found = np.maximum.accumulate(np.where(np.isfinite(y), sign * y, -math.inf))
    return np.where(np.isfinite(found), sign * found, np.nan)


def minimize(
    f: Callable[[Any], float | ArrayLike],
    space: Space | Mapping[str, Any] | ArrayLike,
    surrogate: Surrogate | str = "gp",
    *,
    n_trials: int = 30,
    batch: int = 1,
    n_init: int | None = None,
    acquisition: str = "auto",
    preset: str = "small",
    search: SearchSettings | None = None,
    catch: tuple[type[Exception], ...] = (),
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> BayesOpt:
    """Minimise a function in `n_trials` evaluations.

    Args:
        f: takes one point (a row of numbers, or a mapping for a space with names) and returns a number, or several to
            be minimised together (the first trial that works says how many); NaN says that the trial failed.
        space: bounds (d, 2), or parameters by name.
        surrogate, batch, n_init, acquisition, preset, search, seed: see `BayesOpt`.
        n_trials: evaluations of `f` in all.
        catch: errors of `f` that count as failed trials, with a warning; others end the search.
        progress: told after every evaluation.

    Returns:
        The optimiser with all trials; `best_` holds the best one.

    Example:
        >>> found = minimize(lambda x: float((x ** 2).sum()), [(-1, 1), (-1, 1)], "ibnn", n_trials=12, seed=0)
        >>> found.best_.value < 0.2
        True
    """
    check_int("minimize", "n_trials", n_trials, low=1)
    check_option("minimize", "acquisition", acquisition, ("auto", *ACQUISITIONS))
    reporter = Reporter(progress, n_trials)
    done, n_objectives = 0, 0
    settings: dict[str, Any] = {
        "batch": batch, "n_init": n_init, "acquisition": acquisition, "preset": preset, "search": search, "seed": seed,
    }  # fmt: skip
    opt = BayesOpt(space, surrogate, **{**settings, "acquisition": "auto"})
    while done < n_trials:
        points = opt.ask(min(batch, n_trials - done))
        values = [_evaluate(f, point, catch) for point in points]
        if not n_objectives:
            n_objectives = next((len(value) for value in values if value is not None), 0)
            if n_objectives > 1 or (n_objectives and acquisition != "auto"):
                opt = opt._again(BayesOpt(space, surrogate, n_objectives=n_objectives, **settings))
        rows = [np.full(opt.n_objectives, np.nan) if value is None else value for value in values]
        if any(len(row) != opt.n_objectives for row in rows):
            lengths = sorted({len(row) for row in rows})
            raise InputError(f"minimize: f returned {lengths} values, the first trial that worked {n_objectives}.")
        opt.tell(points, np.stack(rows) if opt.n_objectives > 1 else np.concatenate(rows))
        done += len(values)
        reporter.advance(done, "evaluated")
    return opt


def _evaluate(f: Callable[[Any], Any], point: Any, catch: tuple[type[Exception], ...]) -> Floats | None:
    """The values of one trial, or None where it failed: by an error that is caught, or with NaN."""
    try:
        value = np.atleast_1d(np.asarray(f(point), dtype=np.float64))
    except catch as error:
        warnings.warn(f"a trial failed: {type(error).__name__}: {error}", ForeknowWarning, stacklevel=3)
        return None
    if value.ndim > 1:
        raise InputError(f"minimize: f must return a number or a row of them, got shape {value.shape}.")
    return None if len(value) == 1 and np.isnan(value[0]) else value
