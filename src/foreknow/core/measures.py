"""Measures of predictions, for reports and proofs: small functions over distributions, quantiles, probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_int, check_real
from foreknow.core.predictive import Predictive

_CHUNK = 4_000_000
"""Resampled values held at once by the bootstrap."""


def nll(dist: Predictive, y: Tensor | float) -> Tensor:
    """Negative log-likelihood of each target, in nats; shape of `y`, expanded to (*samples, *batch_shape)."""
    return -dist.log_prob(y)


def pit(dist: Predictive, y: Tensor | float) -> Tensor:
    """Probability integral transform P(Y <= y) of each target: uniform on [0, 1] if `dist` is calibrated."""
    return dist.cdf(y)


def coverage(dist: Predictive, y: Tensor | float, level: float) -> float:
    """Share of the targets inside the central interval of `level` (ends included)."""
    low, high = dist.interval(level)
    values = dist._values("y", y)
    return float(((values >= low) & (values <= high)).double().mean())


def crps_from_quantiles(levels: ArrayLike, quantiles: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Continuous ranked probability score of each target from a few quantiles, in units of y; lower is better.

    CRPS is twice the integral of the pinball loss over all levels. Each level stands here for the levels nearer to
    it than to its neighbours, so evenly spaced midpoints (i - 1/2) / k are the best choice, and 20 or more are
    wanted.

    Args:
        levels: k increasing levels inside ]0, 1[.
        quantiles: predicted quantiles, shape (*targets, k).
        y: targets, shape (*targets).
    """
    owner = "crps_from_quantiles"
    q, predicted, truth = (np.asarray(value, dtype=np.float64) for value in (levels, quantiles, y))
    if q.ndim != 1 or not len(q) or not ((q > 0) & (q < 1)).all() or not (np.diff(q) > 0).all():
        raise ConfigError(f"{owner}: levels must be increasing numbers inside ]0, 1[, got {levels!r:.80}.")
    if predicted.shape != (*truth.shape, len(q)):
        raise InputError(
            f"{owner}: quantiles must have shape {(*truth.shape, len(q))} for y {truth.shape} and {len(q)} levels, "
            f"got {predicted.shape}."
        )
    edges = np.concatenate([[0.0], 0.5 * (q[1:] + q[:-1]), [1.0]])
    error = truth[..., None] - predicted
    pinball = np.maximum(q * error, (q - 1) * error)
    score: NDArray[np.float64] = 2 * (pinball * np.diff(edges)).sum(-1)
    return score


def expected_calibration_error(probs: ArrayLike, y: ArrayLike, n_bins: int = 10) -> float:
    """Mean gap between the confidence of the likeliest class and how often it is right, over equal-mass bins.

    Rows are ranked by confidence and cut into `n_bins` bins of (nearly) as many rows; rows of equal
    confidence share a bin, so the order of the rows does not matter. The estimate is biased upwards by about
    sqrt(n_bins / n) on perfectly calibrated rows.

    Args:
        probs: class probabilities, shape (n, C).
        y: class codes 0..C-1, shape (n,).
        n_bins: number of bins.
    """
    check_int("expected_calibration_error", "n_bins", n_bins, low=1)
    p, codes = class_probabilities("expected_calibration_error", probs, y)
    confidence = p.max(1)
    gap = (p.argmax(1) == codes) - confidence
    sums = np.bincount(mass_bins(confidence, n_bins), weights=gap, minlength=n_bins)
    return float(np.abs(sums).sum() / len(codes))


def brier(probs: ArrayLike, y: ArrayLike) -> float:
    """Brier score in its original form: mean over rows of the squared error summed over classes, from 0 to 2."""
    p, codes = class_probabilities("brier", probs, y)
    return float(np.square(p - np.eye(p.shape[1])[codes]).sum(1).mean())


def auc_ovo(y: ArrayLike, probs: ArrayLike) -> float:
    """Area under the ROC curve, averaged over all pairs of classes (scikit-learn's macro one-versus-one).

    Classes that `y` does not hold are left out, and the probabilities of the others rescaled to sum to 1 (a row
    that gave them nothing counts as uniform). With two classes this is the usual area; with one there is
    nothing to rank, and the answer is NaN.

    Args:
        y: class codes 0..C-1, shape (n,).
        probs: class probabilities, shape (n, C).
    """
    from sklearn.metrics import roc_auc_score

    p, codes = class_probabilities("auc_ovo", probs, y)
    seen, codes = np.unique(codes, return_inverse=True)
    if len(seen) < 2:
        return math.nan
    p = p[:, seen]
    total = p.sum(1, keepdims=True)
    p = np.where(total > 0, p / np.where(total > 0, total, 1), 1 / len(seen))
    if len(seen) == 2:
        return float(roc_auc_score(codes, p[:, 1]))
    return float(roc_auc_score(codes, p, multi_class="ovo", average="macro"))


@dataclass(frozen=True)
class Interval:
    """A mean with the interval that holds it at a confidence `level`, from `n_units` paired units."""

    mean: float
    low: float
    high: float
    level: float
    n_units: int


def paired_interval(
    differences: ArrayLike, level: float = 0.95, n_boot: int = 2000, *, rng: np.random.Generator
) -> Interval:
    """Percentile bootstrap interval of the mean paired difference, resampling whole units.

    A unit is what was drawn independently (data set, patient, seed): average within a unit first. With fewer than
    about 10 units the interval is too narrow (at 5 units, 95% covers about 83%), so say how many there were.

    Args:
        differences: one number a unit, arm minus control, shape (n,), at least 2.
        level: confidence, between 0 and 1.
        n_boot: resamples.
        rng: source of randomness, for instance `numpy_stream(seed, "bootstrap")`.
    """
    owner = "paired_interval"
    if check_real(owner, "level", level, low=0, high=1, open_low=True) >= 1:
        raise ConfigError(f"{owner}: level must be less than 1, got {level}.")
    check_int(owner, "n_boot", n_boot, low=1)
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2 or not np.isfinite(d).all():
        raise InputError(f"{owner}: differences must be at least 2 finite numbers in one axis, got shape {d.shape}.")
    step = max(1, _CHUNK // len(d))
    means = np.concatenate(
        [d[rng.integers(0, len(d), (min(step, n_boot - start), len(d)))].mean(1) for start in range(0, n_boot, step)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(d.mean()), float(low), float(high), float(level), len(d))


def mass_bins(values: NDArray[np.float64], n_bins: int) -> NDArray[np.intp]:
    """Index of each value's bin, of `n_bins` with (nearly) as many values; equal values share a bin."""
    return np.searchsorted(np.sort(values), values, side="left") * n_bins // len(values)


def class_probabilities(owner: str, probs: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Checked probabilities (n, C), float64 rows summing to 1, and class codes (n,)."""
    p, codes = np.asarray(probs, dtype=np.float64), np.asarray(y)
    if p.ndim != 2 or codes.shape != p.shape[:1] or not len(codes):
        raise InputError(f"{owner}: probs must have shape (n, C) and y (n,), n >= 1; got {p.shape} and {codes.shape}.")
    total = p.sum(1)
    if not (p >= 0).all() or not np.allclose(total, 1, atol=1e-3):
        bad = int(np.flatnonzero(~((p >= 0).all(1) & np.isclose(total, 1, atol=1e-3)))[0])
        raise InputError(f"{owner}: every row of probs must be >= 0 and sum to 1; row {bad} is {p[bad]!s:.80}.")
    return p / total[:, None], class_codes(owner, codes, *p.shape)


def class_codes(owner: str, y: ArrayLike, n: int, n_classes: int) -> NDArray[np.int64]:
    """Checked class codes 0..n_classes-1, shape (n,)."""
    codes = np.asarray(y)
    if codes.shape != (n,):
        raise InputError(f"{owner}: y must have shape ({n},), one class code a row, got {codes.shape}.")
    numeric = codes.dtype.kind in "biuf" and bool(np.isfinite(codes).all())
    whole = codes.astype(np.int64) if numeric else np.full(len(codes), -1)
    if not (whole == codes).all() or whole.min() < 0 or whole.max() >= n_classes:
        raise InputError(f"{owner}: y must hold class codes 0..{n_classes - 1}.", hint="Encode labels first.")
    return whole
