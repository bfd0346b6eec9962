"""Cross-validated quality of a predictor against plain baselines, on the same rows and folds."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int
from foreknow.data.table import Table
from foreknow.report.baselines import Baseline, as_numbers, baselines_for
from foreknow.report.forecast import Coverage, Reader, coverage, reader_of
from foreknow.report.scores import Score, difference, judge
from foreknow.report.target import Target, read_target

OURS = "foreknow"
MAX_ROWS = 20_000
"""Larger tables are evaluated on a (for classes stratified) sample of this many rows."""
MEASURE = {"classification": "log_loss", "regression": "rmse"}
"""What decides between predictors; lower is better."""


@dataclass(frozen=True)
class Arm:
    """What one predictor reached.

    Args:
        name: of the predictor.
        output: out-of-fold predictions of the evaluated rows: class probabilities, shape (n, k), or what `forecast`
            gives, shape (n, 5).
        scores: "accuracy", "auc", "log_loss", "brier", "ece"; or "rmse", "mae", "r2", "nll"; each with its interval.
        seconds: of fitting and predicting, all folds together.
        excess: its log-loss or RMSE minus ours on the same rows, with a paired interval; positive where ours is
            better. None for ours.
    """

    name: str
    output: NDArray[np.float64]
    scores: Mapping[str, Score]
    seconds: float
    excess: Score | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, in JSON types."""
        return {
            "name": self.name,
            **{name: value.to_dict() for name, value in self.scores.items()},
            f"{'rmse' if 'rmse' in self.scores else 'log_loss'}_minus_ours": self.excess.to_dict()
            if self.excess
            else None,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`.

    Args:
        target: the column, its task and classes, and the class or number of every row of the table.
        rows: positions of the evaluated rows in the table, shape (n,).
        folds: fold in which each evaluated row was held out, shape (n,).
        arms: ours first, then the baselines.
        seed: of folds, sampling and baselines.
        warnings: what was left out or cut short, one sentence each.
        seconds: wall-clock time of it all.
    """

    target: Target
    rows: NDArray[np.int64]
    folds: NDArray[np.int64]
    arms: tuple[Arm, ...]
    seed: int
    warnings: tuple[str, ...]
    seconds: float

    @property
    def task(self) -> str:
        return self.target.task

    @property
    def truth(self) -> NDArray[Any]:
        """Class codes or numbers of the evaluated rows, shape (n,)."""
        return np.asarray(self.target.y[self.rows])

    @property
    def coverage(self) -> Coverage | None:
        """How often our intervals of numbers held the truth."""
        return coverage(self.ours.output, self.truth) if self.task == "regression" else None

    @property
    def n_folds(self) -> int:
        return int(self.folds.max()) + 1

    @property
    def ours(self) -> Arm:
        return self.arms[0]

    @property
    def best_baseline(self) -> Arm | None:
        """The baseline with the lowest log-loss or RMSE."""
        return min(self.arms[1:], key=lambda arm: arm.scores[MEASURE[self.task]].value, default=None)

    @property
    def verdict(self) -> str:
        """Ours against the best baseline by that measure: "better", "worse", "even" (interval holds 0) or "alone"."""
        best = self.best_baseline
        if best is None or best.excess is None:
            return "alone"
        return "better" if best.excess.low > 0 else "worse" if best.excess.high < 0 else "even"

    def to_dict(self) -> dict[str, Any]:
        """The record in JSON types, without the rows."""
        return {
            "target": self.target.name,
            "task": self.task,
            "classes": list(self.target.classes),
            "n_rows": len(self.rows),
            "n_folds": self.n_folds,
            "verdict": self.verdict,
            "arms": [arm.to_dict() for arm in self.arms],
            "coverage": None if (found := self.coverage) is None else found.to_dict(),
            "seconds": round(self.seconds, 3),
        }


def evaluate(
    table: Table,
    target: str,
    *,
    predictor: Any,
    baselines: Mapping[str, Baseline] | None = None,
    n_folds: int = 5,
    seed: int = 0,
    task: str = "auto",
    max_rows: int = MAX_ROWS,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Cross-validate `predictor` and the baselines on the rows whose target is known.

    All arms are fitted and judged on the same folds (stratified for classes); whatever an arm learns, it learns from
    the training rows of the fold. A class of fewer rows than folds is spread over as many folds as it has rows, so
    that every training part still knows it; the row of a class of one is left out, with a warning.

    Args:
        table: features and target.
        target: name of the target column.
        predictor: unfitted classifier or regressor in scikit-learn's manner whose `fit` takes a `Table` and class
            codes or numbers; a clone of it is fitted in each fold.
        baselines: name -> what builds the predictor; by default `baselines_for` the task.
        n_folds: at least 2; at most the number of rows (of the largest class) is used.
        seed: of folds, sampling, baselines and resampling.
        task: see `read_target`.
        max_rows: evaluate on a sample, stratified for classes, of this many rows if there are more, with a warning.
        progress: receives a record after every fold of every arm.

    Raises:
        InputError, ConfigError: the target or a setting cannot be used; see `read_target`.
    """
    check_int("evaluate", "n_folds", n_folds, low=2)
    from sklearn.base import clone

    with Stopwatch() as watch, recorded_warnings() as caught:
        known = read_target(table, target, task)
        baselines = baselines_for(known.task) if baselines is None else baselines
        rows = _choose_rows(known, max_rows, seed)
        truth = known.y[rows]
        folds = assign_folds(truth if known.classes else np.zeros(len(rows), dtype=np.int64), n_folds, seed)
        features = table.drop([target]).rows(rows)
        matrix, categorical = as_numbers(features)
        read, done = reader_of(len(known.classes)), itertools.count(1)
        reporter = Reporter(progress, (1 + len(baselines)) * (int(folds.max()) + 1))

        def advance(name: str) -> None:
            reporter.advance(next(done), name)

        results = {OURS: out_of_fold(OURS, lambda: clone(predictor), features.rows, truth, folds, read, advance)}
        for name, build in baselines.items():
            make = partial(build, categorical, seed_of(seed, "report", name) % 2**31)
            try:
                with _convergence_told(name):
                    results[name] = out_of_fold(name, make, matrix.__getitem__, truth, folds, read, advance)
            except (ValueError, FloatingPointError) as error:  # scikit-learn's; a baseline must not stop the main job
                warn(f"the baseline {name} is left out, it failed on this table: {str(error).splitlines()[0]}")
        ours = results[OURS][0]
        arms = [
            Arm(
                name, output, judge(known.task, output, truth, seed=seed), seconds,
                None if name == OURS else difference(known.task, output, ours, truth, seed=seed),
            )
            for name, (output, seconds) in results.items()
        ]  # fmt: skip
    return Evaluation(known, rows, folds, tuple(arms), seed, caught(), watch.seconds)


def assign_folds(truth: NDArray[np.int64], n_folds: int, seed: int) -> NDArray[np.int64]:
    """A fold for every row, shape (n,), such that each class and the whole are spread as evenly as can be.

    The rows are shuffled, ordered by class and dealt out like cards, so any class of two rows or more is in at
    least two folds, hence in every training part. There are never more folds than rows of the largest class.
    """
    n_folds = min(n_folds, int(np.bincount(truth).max()))
    shuffled = numpy_stream(seed, "report", "folds").permutation(len(truth))
    dealt = shuffled[np.argsort(truth[shuffled], kind="stable")]
    folds = np.empty(len(truth), dtype=np.int64)
    folds[dealt] = np.arange(len(truth)) % n_folds
    return folds


def out_of_fold(
    name: str,
    make: Callable[[], Any],
    take: Callable[[NDArray[np.int64]], Any],
    truth: NDArray[Any],
    folds: NDArray[np.int64],
    read: Reader,
    advance: Callable[[str], None],
) -> tuple[NDArray[np.float64], float]:
    """Predictions of every row by a model that was fitted without the row's fold, and the seconds it took.

    Args:
        name: of the arm.
        make: builds an unfitted predictor.
        take: the features of the rows at the given positions.
        truth: class codes or numbers, shape (n,).
        folds: fold of each row, shape (n,).
        read: gives the predictions of a fitted model, shape (n, w).
        advance: told the name after every fold.
    """
    parts, places, seconds = [], [], 0.0
    for fold in range(int(folds.max()) + 1):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        with Stopwatch() as watch:
            model = make().fit(take(train), truth[train])
            parts.append(read(model, take(test), truth[test]))
        places.append(test)
        seconds += watch.seconds
        advance(name)
    return np.concatenate(parts)[np.argsort(np.concatenate(places))], seconds


@contextmanager
def recorded_warnings() -> Iterator[Callable[[], tuple[str, ...]]]:
    """Gives a function that lists our warnings so far as sentences, each once.

    All warnings are held back and passed on, each once, when the block ends without an error.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ForeknowWarning)
        # scikit-learn's guess that many classes mean regression; `read_target` has decided that already.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than", category=UserWarning)
        yield lambda: tuple(
            dict.fromkeys(str(item.message) for item in caught if issubclass(item.category, ForeknowWarning))
        )
    for item in {(item.category, str(item.message)): item for item in caught}.values():
        warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)


@contextmanager
def told_already() -> Iterator[None]:
    """Drop our warnings: the same model was fitted to more rows of the same table before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)
        yield


def warn(sentence: str) -> None:
    """Say that something was changed or left out."""
    warnings.warn(sentence, ForeknowWarning, stacklevel=3)


def _choose_rows(target: Target, max_rows: int, seed: int) -> NDArray[np.int64]:
    """Positions of the rows to evaluate, in the table's order."""
    rows = target.labelled
    if target.task == "regression":
        if len(rows) > max_rows:
            _tell_of_sample(len(rows), "random", max_rows)
            rows = np.sort(numpy_stream(seed, "report", "sample").choice(rows, max_rows, replace=False))
        return rows
    counts = np.bincount(target.y[rows], minlength=len(target.classes))
    single = np.flatnonzero(counts == 1)
    if len(single):
        names = ", ".join(repr(target.classes[code]) for code in single[:5]) + (", ..." if len(single) > 5 else "")
        warn(
            f"{len(single)} class(es) occur in one row only ({names}); no model can be judged on a class it never saw, "
            "so these rows take no part in the cross-validation (they are used to predict)."
        )
        rows = rows[~np.isin(target.y[rows], single)]
    if (counts > 1).sum() < 2:
        raise InputError(
            f"the target column {target.name!r} has fewer than two classes with at least two rows each.",
            hint="Add rows of the other classes.",
        )
    if len(rows) > max_rows:
        _tell_of_sample(len(rows), "stratified", max_rows)
        rng = numpy_stream(seed, "report", "sample")
        share = max_rows / len(rows)
        chosen = [
            rng.choice(of_class, min(len(of_class), max(2, round(share * len(of_class)))), replace=False)
            for of_class in (rows[target.y[rows] == code] for code in np.unique(target.y[rows]))
        ]
        rows = np.sort(np.concatenate(chosen))
    return rows


def _tell_of_sample(n: int, kind: str, max_rows: int) -> None:
    warn(
        f"the table has {n} rows with a known target; the quality was measured on a {kind} sample of about {max_rows} "
        "of them."
    )


@contextmanager
def _convergence_told(name: str) -> Iterator[None]:
    """Turn scikit-learn's ConvergenceWarnings into one of ours."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    for item in caught:
        if not issubclass(item.category, ConvergenceWarning):
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
    if any(issubclass(item.category, ConvergenceWarning) for item in caught):
        warn(f"the baseline {name} stopped before it had converged; with more steps it might be better.")
