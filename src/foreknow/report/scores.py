"""Numbers for how good class probabilities are, each with a 95% interval over rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from foreknow.common.rng import numpy_stream
from foreknow.core.measures import expected_calibration_error, paired_interval
from foreknow.viz.quality import wilson

SMALLEST = 1e-15
"""Probabilities are cut to this before a logarithm is taken: a forest's flat zero costs 34.5 nats, not infinity."""
N_RESAMPLES = 1000


@dataclass(frozen=True)
class Score:
    """A number and its 95% interval; the ends are NaN where none is given."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    def to_dict(self) -> dict[str, float | None]:
        """The three numbers for JSON, None where there is none."""
        return {name: None if np.isnan(x) else x for name, x in vars(self).items()}


def log_losses(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Negative log-probability of the true class in nats, shape (n,)."""
    return -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], SMALLEST))


def score(probabilities: NDArray[np.float64], truth: NDArray[np.int64], *, seed: int = 0) -> Mapping[str, Score]:
    """Accuracy, OvO AUC, log-loss, Brier score and expected calibration error.

    Args:
        probabilities: shape (n, k), rows sum to one.
        truth: class codes, shape (n,).
        seed: of the resampling; arms scored with one seed meet the same resamples of rows.

    Returns:
        Scores under "accuracy" (Wilson's interval), "auc" (delta method over rows; NaN if only one class occurs),
        "log_loss" in nats and "brier" (bootstrap), "ece" (ten bins of equally many rows; no interval).
    """
    n, k = probabilities.shape
    right = probabilities.argmax(axis=1) == truth
    low, high = wilson(np.array([right.mean()]), np.array([n]))
    squares = ((probabilities - np.eye(k)[truth]) ** 2).sum(axis=1)
    return {
        "accuracy": Score(float(right.mean()), float(low[0]), float(high[0])),
        "auc": auc_score(probabilities, truth),
        "log_loss": mean_score(log_losses(probabilities, truth), seed=seed),
        "brier": mean_score(squares, seed=seed),
        "ece": Score(expected_calibration_error(probabilities, truth)),
    }


def mean_score(values: NDArray[np.float64], *, seed: int = 0) -> Score:
    """The mean of `values`, shape (n,), with its bootstrap interval over rows; no interval for a single row."""
    if len(values) < 2:
        return Score(float(values.mean()))
    rng = numpy_stream(seed, "report", "bootstrap")
    interval = paired_interval(values, n_boot=N_RESAMPLES, rng=rng)
    return Score(interval.mean, interval.low, interval.high)


def auc_score(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> Score:
    """`measures.auc_ovo` with the delta method's interval over rows; NaN if only one class occurs.

    The AUC of a pair of classes is a mean of placements (DeLong): the share of the other class that a row is
    ranked right against. With c_i the sum of row i's placements over all ordered pairs, the variance is the sum
    over classes of var(c_i) / n_class. The value comes from the same placements, as a thousand calls of
    scikit-learn, one a pair, take seconds.
    """
    present = np.flatnonzero(np.bincount(truth, minlength=probabilities.shape[1]))
    if len(present) < 2:
        return Score(float("nan"))
    p = probabilities[:, present]
    p = p / np.maximum(p.sum(axis=1, keepdims=True), SMALLEST)
    rows_of = [np.flatnonzero(truth == code) for code in present]
    placements = np.zeros(len(truth))
    for a, b in permutations(range(len(present)), 2):
        scores_a, scores_b = p[rows_of[a], a], p[rows_of[b], a]
        placements[rows_of[a]] += _share_below(np.sort(scores_b), scores_a)
        placements[rows_of[b]] += 1 - _share_below(np.sort(scores_a), scores_b)
    variances = [placements[rows].var(ddof=1) / len(rows) for rows in rows_of if len(rows) > 1]
    n_pairs = len(present) * (len(present) - 1)
    # Each placement stands at its own row and, mirrored, at the other's: the mean over the rows of a class, summed
    # over classes, counts every ordered pair twice.
    value = sum(float(placements[rows].mean()) for rows in rows_of) / (2 * n_pairs)
    half = 1.959964 * float(sum(variances)) ** 0.5 / n_pairs
    return Score(value, max(value - half, 0.0), min(value + half, 1.0))


def _share_below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of `ordered` below each of `values`, ties counted half."""
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(below / (2 * len(ordered)))
