"""Which columns the predictions rest on: permutation importance on held-out rows, and a few single rows."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.data.table import Table
from foreknow.report.evaluate import Evaluation, told_already

N_FOLDS = 3
"""Folds whose held-out rows the importance is measured on, at most."""
MAX_ROWS = 300
"""Held-out rows of a fold that are used, at most."""
N_EXPLAINED = 10
"""Rows whose prediction is taken apart."""


@dataclass(frozen=True)
class Explanation:
    """What the predictions rest on.

    Args:
        names: of the columns.
        mean: how much worse the predictions of held-out rows get when a column is shuffled, shape (d,).
        spread: its standard deviation over folds, or over shuffles where there is one fold only, shape (d,).
        raw: the same of every fold, or of every shuffle where there is one fold only, shape (d, k).
        measure: what gets worse, in words.
        rows: numbers (from 1) of the rows taken apart.
        outputs: what was taken apart of each: "p_<class>" of the predicted class, or "prediction".
        base: the prediction before any column is known, shape (n,).
        contributions: what each column adds to it, shape (n, d).
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    raw: NDArray[np.float64]
    measure: str
    rows: tuple[int, ...]
    outputs: tuple[str, ...]
    base: NDArray[np.float64]
    contributions: NDArray[np.float64]

    @property
    def order(self) -> list[int]:
        """Columns, the most important first."""
        return [int(index) for index in np.argsort(-self.mean, kind="stable")]

    def to_dict(self) -> dict[str, Any]:
        return {
            "measure": self.measure,
            "importance": [
                {"column": self.names[i], "mean": float(self.mean[i]), "sd": float(self.spread[i])} for i in self.order
            ],
        }

    def write(self, path: Path) -> None:
        """One line a row: its number, what is explained, where it starts from, and what each column adds."""
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "explained", "base", *(f"contribution_{name}" for name in self.names)])
            for number, output, base, parts in zip(self.rows, self.outputs, self.base, self.contributions, strict=True):
                writer.writerow([number, output, *(f"{value:.6g}" for value in (base, *parts))])


def explain(
    evaluation: Evaluation,
    take: Callable[[NDArray[np.int64]], Table],
    predictor: Any,
    model: Any,
    new: tuple[NDArray[np.int64], Table] | None,
    progress: ProgressCallback | None = None,
) -> Explanation:
    """Importance on held-out rows of up to `N_FOLDS` folds, and what the columns add in `N_EXPLAINED` rows.

    Args:
        evaluation: gives the folds.
        take: features of the evaluated rows at the given positions.
        predictor: unfitted, see `evaluate`; refitted without each fold.
        model: fitted to all rows with a known target.
        new: numbers (from 1) and features of the rows to take apart with `model`; None takes held-out rows of the
            first fold, with the model that had not seen them.
        progress: receives records.
    """
    from sklearn.base import clone

    from foreknow.tasks.tabular.explain import permutation_importance, shapley_values

    rng = numpy_stream(evaluation.seed, "report", "explain")
    found, weights = [], []
    truth, folds = evaluation.truth, evaluation.folds
    for fold in range(min(N_FOLDS, evaluation.n_folds)):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        with told_already():
            fitted = clone(predictor).fit(take(train), truth[train])
        if fold == 0 and new is None:
            chosen = test[:N_EXPLAINED]
            new, model = (evaluation.rows[chosen] + 1, take(chosen)), fitted
        test = test if len(test) <= MAX_ROWS else np.sort(rng.choice(test, MAX_ROWS, replace=False))
        found.append(
            permutation_importance(
                fitted, take(test), truth[test], n_repeats=3, random_state=evaluation.seed, progress=progress
            )
        )
        weights.append(len(test))
    assert new is not None
    numbers, rows = new
    parts = shapley_values(model, rows, random_state=evaluation.seed, progress=progress)
    outputs, base, contributions = _of_the_predicted(evaluation, model, rows, parts)
    means = np.array([one.mean for one in found])
    return Explanation(
        tuple(found[0].names),
        np.average(means, axis=0, weights=weights),
        means.std(axis=0, ddof=1) if len(found) > 1 else np.asarray(found[0].std),
        means.T if len(found) > 1 else np.asarray(found[0].raw),
        str(found[0].measure), tuple(numbers.tolist()), outputs, base, contributions,
    )  # fmt: skip


def _of_the_predicted(
    evaluation: Evaluation, model: Any, rows: Table, parts: Any
) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float64]]:
    """What is explained of each row, its start, shape (n,), and the columns' parts in it, shape (n, d)."""
    values, base = np.asarray(parts.values, dtype=np.float64), np.asarray(parts.base, dtype=np.float64)
    n = len(values)
    if values.ndim == 2:
        return ("prediction",) * n, np.broadcast_to(base, (n,)), values
    best = np.asarray(model.predict_proba(rows)).argmax(axis=1)
    classes = [evaluation.target.classes[int(model.classes_[index])] for index in best]
    each = np.arange(n)
    start = np.broadcast_to(base, (n, values.shape[2]))[each, best]
    return tuple(f"p_{name}" for name in classes), start, values[each, :, best]
