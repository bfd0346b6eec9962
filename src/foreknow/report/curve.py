"""Would more rows help? The predictor refitted on parts of the rows, judged on the same held-out rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream
from foreknow.report.evaluate import MEASURE, Evaluation, told_already
from foreknow.report.forecast import reader_of
from foreknow.report.scores import Score, difference, judge

SHARES = (0.25, 0.5, 0.75)
"""Parts of the training rows to refit on; the whole comes from the evaluation."""
N_FOLDS = 3
"""Folds that are refitted, at most: nine fits in all."""
MIN_ROWS = 40
"""Fewer evaluated rows than this leave too few in a quarter."""


@dataclass(frozen=True)
class LearningCurve:
    """Quality against the number of rows learnt from.

    Args:
        n_rows: training rows, increasing; the last is all of a fold's.
        scores: log-loss or RMSE on the same held-out rows, with its interval, one for each.
        gain: the measure with half of the rows minus that with all, paired; positive where more rows helped.
        note: why there is no curve; then the others are empty.
    """

    n_rows: tuple[int, ...] = ()
    scores: tuple[Score, ...] = ()
    gain: Score | None = None
    note: str = ""

    @property
    def helps(self) -> bool:
        """Whether doubling the rows clearly made it better."""
        return self.gain is not None and self.gain.low > 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "n_rows": list(self.n_rows),
            "scores": [score.to_dict() for score in self.scores],
            "half_minus_whole": self.gain.to_dict() if self.gain else None,
            "note": self.note,
        }


def learning_curve(
    evaluation: Evaluation,
    take: Callable[[NDArray[np.int64]], Any],
    predictor: Any,
    progress: ProgressCallback | None = None,
) -> LearningCurve:
    """Refit on a quarter, half and three quarters of the training rows of up to `N_FOLDS` folds.

    Args:
        evaluation: of the predictor; its folds are used, and its predictions stand for all rows.
        take: features of the evaluated rows at the given positions.
        predictor: unfitted, see `evaluate`.
        progress: receives a record after every fit.
    """
    from sklearn.base import clone

    truth, folds, task = evaluation.truth, evaluation.folds, evaluation.task
    n = len(truth)
    if n < MIN_ROWS:
        return LearningCurve(note=f"not drawn for fewer than {MIN_ROWS} rows with a known target ({n} here)")
    used = range(min(N_FOLDS, evaluation.n_folds))
    judged = np.flatnonzero(folds < len(used))
    read = reader_of(len(evaluation.target.classes))
    reporter = Reporter(progress, len(SHARES) * len(used))
    codes = truth if evaluation.target.classes else np.zeros(n, dtype=np.int64)
    outputs, counts, done = [], [], 0
    for share in SHARES:
        output, sizes = np.empty_like(evaluation.ours.output), []
        for fold in used:
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            part = _part(train, codes[train], share, evaluation.seed)
            if len(np.unique(truth[part])) < 2:
                return LearningCurve(note="not drawn, as a quarter of the rows holds one class or number only")
            with told_already():
                output[test] = read(clone(predictor).fit(take(part), truth[part]), take(test), truth[test])
            sizes.append(len(part))
            done += 1
            reporter.advance(done, f"learning curve, {share:.0%} of the rows")
        outputs.append(output[judged])
        counts.append(round(float(np.mean(sizes))))
    outputs.append(evaluation.ours.output[judged])
    counts.append(round(float(np.mean([(folds != fold).sum() for fold in used]))))
    known, seed, measure = truth[judged], evaluation.seed, MEASURE[task]
    return LearningCurve(
        tuple(counts),
        tuple(judge(task, output, known, seed=seed)[measure] for output in outputs),
        difference(task, outputs[SHARES.index(0.5)], outputs[-1], known, seed=seed),
    )


def _part(train: NDArray[np.int64], codes: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """About `share` of the rows of each class, at least two of two; larger shares hold the smaller ones."""
    rng = numpy_stream(seed, "report", "learning curve")
    shuffled = rng.permutation(len(train))
    kept = []
    for code in np.unique(codes):
        own = shuffled[codes[shuffled] == code]
        kept.append(own[: max(2, round(share * len(own)))])
    return np.asarray(train[np.sort(np.concatenate(kept))])
