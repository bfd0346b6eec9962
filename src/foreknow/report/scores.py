"""Numbers for how good class probabilities are, each with a 95% interval over rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foreknow.common.rng import numpy_stream
from foreknow.viz.quality import wilson

SMALLEST = 1e-15
"""Probabilities are cut to this before a logarithm is taken: a forest's flat zero costs 34.5 nats, not infinity."""
N_RESAMPLES = 1000
N_BINS = 10


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
        "log_loss" in nats and "brier" (bootstrap), "ece" (`N_BINS` equal bins of confidence; no interval).
    """
    n, k = probabilities.shape
    right = probabilities.argmax(axis=1) == truth
    low, high = wilson(np.array([right.mean()]), np.array([n]))
    brier = ((probabilities - np.eye(k)[truth]) ** 2).sum(axis=1)
    return {
        "accuracy": Score(float(right.mean()), float(low[0]), float(high[0])),
        "auc": ovo_auc(probabilities, truth),
        "log_loss": mean_score(log_losses(probabilities, truth), seed=seed),
        "brier": mean_score(brier, seed=seed),
        "ece": Score(_ece(probabilities.max(axis=1), right)),
    }


def mean_score(values: NDArray[np.float64], *, seed: int = 0) -> Score:
    """The mean of `values`, shape (n,), with its bootstrap interval over rows (2.5 and 97.5 percentiles)."""
    rng = numpy_stream(seed, "report", "bootstrap")
    n = len(values)
    means = np.empty(N_RESAMPLES)
    step = max(1, 2_000_000 // n)  # rows held at once, whatever n
    for start in range(0, N_RESAMPLES, step):
        size = min(step, N_RESAMPLES - start)
        means[start : start + size] = values[rng.integers(0, n, (size, n))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Score(float(values.mean()), float(low), float(high))


def ovo_auc(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> Score:
    """Mean over pairs of classes of the chance that a row of one is ranked above a row of the other.

    Classes that do not occur in `truth` are left out. The interval is the delta method's (DeLong's placements,
    summed over pairs): with c_i the sum of row i's placements, the variance is the sum over classes of
    var(c_i) / n_class.
    """
    present = np.flatnonzero(np.bincount(truth, minlength=probabilities.shape[1]))
    n_pairs = len(present) * (len(present) - 1)
    if n_pairs == 0:
        return Score(float("nan"))
    placements = np.zeros(len(truth))
    total = 0.0
    for a in present:
        rows_a = truth == a
        scores_a = np.sort(probabilities[rows_a, a])
        for b in present:
            if a == b:
                continue
            rows_b = truth == b
            scores_b = np.sort(probabilities[rows_b, a])
            beaten = _share_below(scores_b, probabilities[rows_a, a])
            placements[rows_a] += beaten
            placements[rows_b] += 1 - _share_below(scores_a, probabilities[rows_b, a])
            total += beaten.mean()
    variance = sum(
        placements[truth == a].var(ddof=1) / (truth == a).sum() for a in present if (truth == a).sum() > 1
    ) / n_pairs**2  # fmt: skip
    value, half = total / n_pairs, 1.959964 * float(variance) ** 0.5
    return Score(float(value), float(max(value - half, 0.0)), float(min(value + half, 1.0)))


def _share_below(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of `ordered` below each of `values`, ties counted half."""
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.asarray(below / (2 * len(ordered)))


def _ece(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, confidence - right, N_BINS)
    return float(np.abs(gaps).sum() / len(right))
