"""The arms of a price: who learns from a split and is measured on it.

An `Arm` is a name, a role and a `run` that takes (split, seed) and returns an `Outcome`; so any system can be
priced. What follows here builds arms of tables: a system with its prior, without it and with a wrong one, the plain
methods, and whatever a caller brings.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from foreknow.common.errors import CapabilityError, ConfigError
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_option
from foreknow.core import source as samples
from foreknow.core.predictive import Gaussian, Predictive
from foreknow.core.records import to_json
from foreknow.core.system import System
from foreknow.pricing.records import ROLES, Outcome
from foreknow.pricing.scoring import score_classes, score_numbers
from foreknow.pricing.sources import Rows, Split
from foreknow.report.baselines import IGNORANT, Baseline, baselines_for
from foreknow.report.forecast import class_probabilities

Make = Callable[[Split, int], Any]
"""(split, seed) -> an unfitted predictor with `fit`, and `predict_proba`, `predict_dist` or `predict`."""


@dataclass(frozen=True)
class Arm:
    """One arm.

    Args:
        name: unique in a study.
        role: one of `ROLES`.
        what: one sentence for people.
        run: (split, seed) -> outcome; the split is what the source gives.
        settings: whatever decides the outcome, as JSON types; part of every cell's key.
        budget: what the arm may spend (steps, members, draws): arms "on", "off" and "wrong" must agree in it.
    """

    name: str
    role: str
    what: str
    run: Callable[[Any, int], Outcome]
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_option(f"the arm {self.name!r}", "role", self.role, ROLES)


def check_arms(arms: tuple[Arm, ...]) -> None:
    """Refuse arms that cannot be compared: a name twice, no "on" or nothing beside it, unequal budgets.

    Raises:
        ConfigError: with both budgets, where these differ.
    """
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"price: two arms are called {name!r}.", hint="Give every arm a name of its own.")
    on = [arm for arm in arms if arm.role == "on"]
    if len(on) != 1 or len(arms) < 2:
        raise ConfigError(
            f"price: one arm must have the role 'on' and at least one other must stand beside it; the roles are "
            f"{[arm.role for arm in arms]}."
        )
    for arm in arms:
        if arm.role in ("off", "wrong") and dict(arm.budget) != dict(on[0].budget):
            raise ConfigError(
                f"price: the arm {arm.name!r} may spend {dict(arm.budget)}, {on[0].name!r} {dict(on[0].budget)}; "
                "arms with unequal budgets cannot be compared.",
                hint="Give both the same settings apart from the prior.",
            )


def system_arms(system: System) -> tuple[Arm, ...]:
    """A system as it is, with its prior off and, where it names one, with a wrong prior."""
    off = "the same with its prior switched off. " + system.card.control
    arms = [_system_arm(system, "on", "on", "the system with its prior. " + system.card.prior)]
    arms.append(_system_arm(system.without_prior(), "off", "off", off))
    try:
        wrong = system.with_wrong_prior()
    except CapabilityError:
        return tuple(arms)
    return (
        *arms,
        _system_arm(
            wrong, "wrong", "wrong", "the same with a placebo: a prior of equal size and cost that is mistaken"
        ),
    )


def tables_of(kind: type[System]) -> bool:
    """Whether the harness scores tables for these systems; all others say in `losses` how they are measured."""
    return kind.losses is System.losses


def plain_arms(system: System | None, task: str) -> tuple[Arm, ...]:
    """The field's simple methods: what the system names, else the baselines of tables for the task."""
    own = {} if system is None else dict(system.plain_baselines())
    if system is not None and not tables_of(type(system)):
        return tuple(Arm(name, "plain", name, SampleRun(make, system), {"plain": name}) for name, make in own.items())
    if own:
        reads = "table" if system is not None and system.tags.missing_values else "matrix"  # as the system does
        return tuple(
            Arm(name, "plain", name, TableRun(_Seeded(make), reads), {"plain": name}) for name, make in own.items()
        )
    if task not in ("classification", "regression"):
        return ()
    return tuple(
        Arm(name, "plain", _PLAIN.get(name, name), TableRun(_Plain(build), "matrix"), _settings_of(name))
        for name, build in baselines_for(task).items()
        if name not in IGNORANT
    )


def _settings_of(plain: str) -> dict[str, str]:
    """Of a baseline; scikit-learn's version is in every cell anyway."""
    return {"plain": plain, **({"catboost": metadata.version("catboost")} if plain == "CatBoost" else {})}


def as_arm(name: str, thing: object, *, role: str = "plain") -> Arm:
    """What a caller brings, as an arm.

    Args:
        name: of the arm.
        thing: an `Arm`; a system or an estimator in scikit-learn's manner, of which a clone is fitted with the cell's
            seed as `random_state`; or a function (split, seed) -> an `Outcome`, a mapping of losses, or one loss.
        role: unless it is an `Arm`.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(thing, Arm):
        return thing
    if isinstance(thing, System):
        return _system_arm(thing, name, role, f"{type(thing).__name__} as given")
    if isinstance(thing, BaseEstimator) or (hasattr(thing, "fit") and hasattr(thing, "get_params")):
        return Arm(
            name,
            role,
            f"{type(thing).__name__} as given",
            TableRun(_Cloned(thing), "matrix"),
            {"estimator": repr(thing)},
        )
    if callable(thing) and not inspect.isclass(thing):
        return Arm(
            name,
            role,
            f"the function {getattr(thing, '__name__', name)}",
            _Function(thing),
            {"function": _source_of(thing)},
        )
    raise ConfigError(
        f"price: the arm {name!r} is a {type(thing).__name__}.",
        hint="Give an estimator, a function (split, seed) -> loss, or an Arm.",
    )


def _system_arm(system: System, name: str, role: str, what: str) -> Arm:
    params = system.get_params(deep=False)
    budget = {key: to_json(value) for key, value in params.items() if key not in ("prior", "random_state", "device")}
    settings = {"class": type(system).__name__, "prior": to_json(params.get("prior", "paper")), **budget}
    spends = {"class": type(system).__name__, **budget}
    if not tables_of(type(system)):
        return Arm(name, role, what, SampleRun(_Reseeded(system), system), settings, spends)
    reads = "table" if system.tags.missing_values else "matrix"
    return Arm(name, role, what, TableRun(_Cloned(system), reads), settings, spends)


# What a run does ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TableRun:
    """Fit a predictor on a split of a table and score it."""

    make: Make
    reads: str

    def __call__(self, split: Split, seed: int) -> Outcome:
        later = split.following
        y_next = None if later is None else later.y
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a plain method has to say of 16 rows is measured, not told
            model, answer, seconds = self._timed(split, seed)
            after = None if later is None else self._answer(model, later, split)
            if split.task == "classification":
                return score_classes(answer, split.test.y, p_next=after, y_next=y_next, seconds=seconds)
            if not isinstance(answer, Predictive):
                spread = _spread(model, self._take(split.train), split.train.y)
                answer, after = _gaussian(answer, spread), None if after is None else _gaussian(after, spread)
            return score_numbers(
                answer, split.test.y, scale=split.scale, dist_next=after, y_next=y_next, seconds=seconds
            )

    def _timed(self, split: Split, seed: int) -> tuple[Any, Any, float]:
        """The fitted model, what it says of the test rows, and the seconds that took.

        What a process runs for the first time also imports and compiles; so it is run again, unless it is long.
        """
        while True:
            model = self.make(split, seed)
            kind = type(model.steps[-1][1] if hasattr(model, "steps") else model)
            with Stopwatch() as watch:
                model.fit(self._take(split.train), split.train.y)
                answer = self._answer(model, split.test, split)
            if kind in _RUN_BEFORE or watch.seconds > _LONG_S:
                return model, answer, watch.seconds
            _RUN_BEFORE.add(kind)

    def _take(self, rows: Rows) -> Any:
        return rows.table if self.reads == "table" else rows.matrix

    def _answer(self, model: Any, rows: Rows, split: Split) -> Any:
        """Class probabilities, a distribution, or the means of a model that has no more."""
        if split.task == "classification":
            return class_probabilities(model, self._take(rows), split.n_classes)
        if hasattr(model, "predict_dist"):
            return model.predict_dist(self._take(rows))
        return np.asarray(model.predict(self._take(rows)), dtype=np.float64)


@dataclass(frozen=True)
class SampleRun:
    """Fit on the training sample of a `foreknow.core.source.Split`, and ask the system for the losses on the test's."""

    make: Callable[[int], Any]
    system: System

    def __call__(self, split: samples.Split, seed: int) -> Outcome:
        train = split.train
        with warnings.catch_warnings(), Stopwatch() as watch:
            warnings.simplefilter("ignore")  # what a method has to say of little data is measured, not told
            model = self.make(seed)
            model.fit(train.X, train.y, **train.named)
            losses = self.system.losses(model, split.test)
        return Outcome({name: float(value) for name, value in losses.items()}, {}, watch.seconds)


@dataclass(frozen=True)
class _Reseeded:
    """A clone of a system with the cell's seed."""

    system: System

    def __call__(self, seed: int) -> Any:
        return clone(self.system).set_params(random_state=seed)


_RUN_BEFORE: set[type] = set()
"""Kinds of model that this process has fitted before."""
_LONG_S = 10.0


@dataclass(frozen=True)
class _Cloned:
    """A clone of an estimator with the cell's seed, behind medians for missing numbers where it reads matrices."""

    estimator: Any

    def __call__(self, split: Split, seed: int) -> Any:
        model = clone(self.estimator)
        if "random_state" in model.get_params(deep=False):
            model.set_params(random_state=seed)
        if isinstance(model, System) and not model.tags.missing_values and _has_gaps(split):
            return _WithMedians(model)
        return model


def _has_gaps(split: Split) -> bool:
    """Whether any row, learnt from or asked about, misses a number."""
    parts = (split.train, split.test, split.following)
    return any(part is not None and bool(np.isnan(part.matrix).any()) for part in parts)


def _medians() -> SimpleImputer:
    return SimpleImputer(strategy="median", keep_empty_features=True)


class _WithMedians:
    """What takes no missing numbers and predicts distributions, behind the medians of its training rows."""

    def __init__(self, system: Any) -> None:
        self._system = system

    def fit(self, X: NDArray[np.float64], y: NDArray[Any]) -> None:
        self._medians = _medians().fit(X)
        self._system.fit(self._medians.transform(X), y)
        if hasattr(self._system, "classes_"):
            self.classes_ = self._system.classes_

    def predict_proba(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(self._system.predict_proba(self._medians.transform(X)))

    def predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        found: Predictive = self._system.predict_dist(self._medians.transform(X))
        return found


@dataclass(frozen=True)
class _Plain:
    build: Baseline

    def __call__(self, split: Split, seed: int) -> Any:
        return self.build(split.categorical, seed)


@dataclass(frozen=True)
class _Seeded:
    """A method that a system names, behind medians for missing numbers."""

    build: Callable[[int], Any]

    def __call__(self, split: Split, seed: int) -> Any:
        model = self.build(seed)
        if not _has_gaps(split):
            return model
        return _WithMedians(model) if hasattr(model, "predict_dist") else make_pipeline(_medians(), model)


@dataclass(frozen=True)
class _Function:
    """A caller's function as a run."""

    function: Callable[[Any, int], Any]

    def __call__(self, split: Any, seed: int) -> Outcome:
        with Stopwatch() as watch:
            found = self.function(split, seed)
        if isinstance(found, Outcome):
            return found
        metrics = dict(found) if isinstance(found, Mapping) else {"loss": found}
        return Outcome({str(key): float(value) for key, value in metrics.items()}, {}, watch.seconds)


def _spread(model: Any, X: Any, y: NDArray[np.float64]) -> float:
    """Root mean squared error of a point predictor in three folds of its own training rows."""
    from sklearn.model_selection import KFold, cross_val_predict

    folds = KFold(min(3, len(y)), shuffle=True, random_state=0)
    return max(float(np.sqrt(np.square(y - cross_val_predict(clone(model), X, y, cv=folds)).mean())), 1e-9)


def _gaussian(mean: NDArray[np.float64], spread: float) -> Predictive:
    import torch

    centre = torch.as_tensor(mean, dtype=torch.float64)
    return Gaussian(centre, torch.full_like(centre, spread))


def _source_of(function: Callable[..., Any]) -> str:
    """The text of a function, so that a changed one gets cells of its own; its name where there is no text."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(type(function)))}"


_SPREAD = "; its normal distributions have the root mean squared error of three folds of its own training rows"
_PLAIN = {
    "logistic regression": "L2 logistic regression on standardised columns, at scikit-learn's defaults",
    "random forest": "100 trees at scikit-learn's defaults",
    "histogram boosting": "histogram gradient boosting at scikit-learn's defaults",
    "CatBoost": "CatBoost at its defaults",
    "ridge regression": "ridge regression on standardised columns, at scikit-learn's defaults" + _SPREAD,
}
