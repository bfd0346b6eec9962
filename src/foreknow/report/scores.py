"""Numbers for how good predictions are, each with a 95% interval over rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.rng import numpy_stream
from foreknow.core.measures import expected_calibration_error, paired_interval
from foreknow.report.forecast import LOG_DENSITY, MEAN
from foreknow.viz.quality import wilson

SMALLEST = 1e-15
"""Probabilities are cut to this before a logarithm is taken: a forest's flat zero costs 34.5 nats, not infinity."""
N_RESAMPLES = 1000
_CHUNK = 2_000_000
"""Rows resampled at once."""


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


def squared_errors(output: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared error of the mean, shape (n,), of `forecast`'s output (n, 5)."""
    return np.square(truth - output[:, MEAN])


def score_numbers(output: NDArray[np.float64], truth: NDArray[np.float64], *, seed: int = 0) -> Mapping[str, Score]:
    """Root mean squared error, mean absolute error, R2, and negative log density, by the bootstrap over rows.

    Args:
        output: of `forecast`, shape (n, 5).
        truth: numbers, shape (n,).
        seed: of the resampling; arms scored with one seed meet the same resamples of rows.

    Returns:
        Scores under "rmse", "mae" (in units of the target), "r2" (share of the variance that is explained; negative
        where the mean of these rows would do better; NaN if they are all alike) and "nll" (nats; NaN where the
        model gives points only).
    """
    squares, absolute = squared_errors(output, truth), np.abs(truth - output[:, MEAN])
    centred = truth - truth.mean()
    log_density = output[:, LOG_DENSITY]
    table = np.column_stack([squares, centred, np.square(centred)])

    def r2(means: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(1 - means[:, 0] / (means[:, 2] - np.square(means[:, 1])))

    return {
        "rmse": bootstrapped(squares[:, None], lambda means: np.sqrt(means[:, 0]), seed=seed),
        "mae": mean_score(absolute, seed=seed),
        "r2": bootstrapped(table, r2, seed=seed) if np.ptp(truth) > 0 else Score(float("nan")),
        "nll": Score(float("nan")) if np.isnan(log_density).any() else mean_score(-log_density, seed=seed),
    }


def bootstrapped(
    values: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], *, seed: int = 0
) -> Score:
    """A function of column means with its percentile bootstrap interval over rows; none for a single row.

    Args:
        values: shape (n, c).
        statistic: of means, shape (r, c), gives (r,).
        seed: of the resampling.
    """
    value = float(statistic(values.mean(axis=0)[None])[0])
    n = len(values)
    if n < 2:
        return Score(value)
    rng = numpy_stream(seed, "report", "bootstrap")
    step = max(1, _CHUNK // n)
    starts = range(0, N_RESAMPLES, step)
    means = [values[rng.integers(0, n, (min(step, N_RESAMPLES - start), n))].mean(axis=1) for start in starts]
    found = statistic(np.concatenate(means))
    low, high = np.quantile(found[np.isfinite(found)], [0.025, 0.975]) if np.isfinite(found).any() else (np.nan,) * 2
    return Score(value, float(low), float(high))


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


# By task -----------------------------------------------------------------------------------------------------------


def judge(task: str, output: NDArray[np.float64], truth: NDArray[Any], *, seed: int = 0) -> Mapping[str, Score]:
    """`score` or `score_numbers`."""
    return (score_numbers if task == "regression" else score)(output, truth, seed=seed)


def losses(task: str, output: NDArray[np.float64], truth: NDArray[Any]) -> NDArray[np.float64]:
    """What each row adds to the deciding measure: log-loss or squared error, shape (n,)."""
    return (squared_errors if task == "regression" else log_losses)(output, truth)


def difference(
    task: str, output: NDArray[np.float64], other: NDArray[np.float64], truth: NDArray[Any], *, seed: int = 0
) -> Score:
    """Log-loss or RMSE of `output` minus that of `other`, paired by row."""
    table = np.column_stack([losses(task, output, truth), losses(task, other, truth)])
    if task == "regression":
        return bootstrapped(table, lambda means: np.sqrt(means[:, 0]) - np.sqrt(means[:, 1]), seed=seed)
    return mean_score(table[:, 0] - table[:, 1], seed=seed)
