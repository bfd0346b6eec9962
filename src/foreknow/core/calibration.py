"""Calibration of class probabilities: how far stated confidence is from the share that was right, and one temperature.

Bins follow Tao et al., A Benchmark Study on Calibration (2024): of equal width, (lo, hi] with 0 in the first, or of
equal mass. Every binned error is biased upwards by chance, more with more bins; compare arms with a proper score
(`log_loss`, `foreknow.core.measures.brier`) beside it. Probabilities are taken in float64, and logits are refused.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.optimize import brentq

from foreknow.common.errors import ForeknowWarning
from foreknow.common.validate import as_matrix, check_int, check_option, check_real
from foreknow.core.measures import class_codes, class_probabilities, mass_bins

T_MIN, T_MAX = 0.05, 20.0


TEMPERATURES = 20.0 ** np.linspace(-1.0, 1.0, 41)
"""Temperatures from 1/20 to 20; the middle one is 1."""

_PENALTY = np.log(TEMPERATURES) ** 2 / (2 * math.log(2) ** 2)


def past_temperatures(losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Index into `TEMPERATURES` for each block, and for one more that would follow, from the blocks before it alone.

    The temperature minimises the summed past loss plus (log T)^2 / (2 log(2)^2) nats: log T is expected to be normal
    around 0 with a factor of 2 as its standard deviation. Without that, eight labels that were all guessed right send
    the next block to the grid's end. `benchmarks/price_statistics.py` compares widths of this prior.

    Args:
        losses: total loss in nats of each block at each temperature, in the order of coding, shape (blocks, G).
    """
    past = np.concatenate([np.zeros((1, len(TEMPERATURES))), np.cumsum(losses, axis=0)])
    index: NDArray[np.intp] = (past + _PENALTY).argmin(1)
    return index


def temperature(logits: ArrayLike, y: ArrayLike) -> float:
    """The temperature that, dividing the logits, gives the labels the highest likelihood; inside [0.05, 20].

    The loss is convex in 1 / T, so its slope has one zero. Fit it on rows that no score is computed from.

    Args:
        logits: shape (n, C), n >= 1; log probabilities will do.
        y: class codes 0..C-1, shape (n,).

    Returns:
        The temperature; an end of the range, with a ForeknowWarning, where the best one lies beyond it: T falls to 0.05
        if every row is right.
    """
    owner = "temperature"
    z = as_matrix(owner, logits, name="logits")
    codes = class_codes(owner, y, *z.shape)
    z = z - z.max(1, keepdims=True)
    of_label = z[np.arange(len(z)), codes]

    def slope(log_beta: float) -> float:
        """Derivative of the mean loss with respect to 1 / T = exp(log_beta)."""
        return float(((special.softmax(math.exp(log_beta) * z, axis=1) * z).sum(1) - of_label).mean())

    ends = -math.log(T_MAX), -math.log(T_MIN)
    if slope(ends[0]) >= 0 or slope(ends[1]) <= 0:
        flat = not np.ptp(z, axis=1).any()
        best = 1.0 if flat else T_MAX if slope(ends[0]) >= 0 else T_MIN
        reason = (
            "the logits do not tell classes apart" if flat else "the best one lies at or beyond this end of the range"
        )
        warnings.warn(f"{owner}: {best:g} taken, for {reason}.", ForeknowWarning, stacklevel=2)
        return best
    return math.exp(-float(brentq(slope, *ends, xtol=1e-10)))


def ece(
    p: ArrayLike, y: ArrayLike, bins: int = 15, scheme: str = "width", *, classwise: bool = False, debias: bool = False
) -> float:
    """Expected calibration error: mean over bins, by rows, of |share right - mean confidence|.

    Args:
        p: class probabilities, shape (n, C).
        y: class codes 0..C-1, shape (n,).
        bins: number of bins.
        scheme: "width" (equal width) or "mass" (equal counts, ties together).
        classwise: for every class all rows are binned by its probability and compared with its frequency; the mean
            over classes. Without it the likeliest class alone counts.
        debias: subtract from each bin's gap what chance adds to it, if the share right is normal around the truth.
            What remains can be below zero.
    """
    owner = "ece"
    check_int(owner, "bins", bins, low=1)
    check_option(owner, "scheme", scheme, ("width", "mass"))
    probs, codes = class_probabilities(owner, p, y)
    cases = (
        [(probs[:, k], codes == k) for k in range(probs.shape[1])]
        if classwise
        else [(probs.max(1), probs.argmax(1) == codes)]
    )
    errors = []
    for stated, right in cases:
        index = mass_bins(stated, bins) if scheme == "mass" else _width_bins(stated, bins)
        counts, confidence, share = _binned(index, stated, right, bins)
        gap = np.abs(share - confidence)
        if debias:
            gap = gap - _chance(share, confidence, counts)
        errors.append(float((counts * gap).sum() / len(codes)))
    return float(np.mean(errors))


def mce(p: ArrayLike, y: ArrayLike, bins: int = 15) -> float:
    """Maximum calibration error: the largest gap of a bin of equal width that is not empty; a bin of one row counts."""
    check_int("mce", "bins", bins, low=1)
    probs, codes = class_probabilities("mce", p, y)
    stated = probs.max(1)
    _, confidence, share = _binned(_width_bins(stated, bins), stated, probs.argmax(1) == codes, bins)
    return float(np.abs(share - confidence).max())


def ks_error(p: ArrayLike, y: ArrayLike) -> float:
    """Kolmogorov-Smirnov calibration error (Gupta et al. 2021): no bins; rows of equal confidence enter together."""
    probs, codes = class_probabilities("ks_error", p, y)
    stated = probs.max(1)
    values, group = np.unique(stated, return_inverse=True)
    gaps = np.bincount(group, (probs.argmax(1) == codes) - stated, minlength=len(values))
    return float(np.abs(np.cumsum(gaps)).max() / len(codes))


def log_loss(p: ArrayLike, y: ArrayLike, floor: float = 1e-12) -> tuple[float, int]:
    """Mean negative log probability of the labels in nats, and how many had less than `floor` and were given it."""
    check_real("log_loss", "floor", floor, low=0, high=1, open_low=True)
    probs, codes = class_probabilities("log_loss", p, y)
    of_label = probs[np.arange(len(codes)), codes]
    return float(-np.log(np.maximum(of_label, floor)).mean()), int((of_label < floor).sum())


def reliability_bins(p: ArrayLike, y: ArrayLike, bins: int = 15) -> tuple[tuple[float, float, float], ...]:
    """Bins of equal width that are not empty, as (mean confidence, share right, share of the rows)."""
    check_int("reliability_bins", "bins", bins, low=1)
    probs, codes = class_probabilities("reliability_bins", p, y)
    stated = probs.max(1)
    counts, confidence, share = _binned(_width_bins(stated, bins), stated, probs.argmax(1) == codes, bins)
    return tuple(zip(confidence.tolist(), share.tolist(), (counts / len(codes)).tolist(), strict=True))


def _width_bins(stated: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    """Index of the bin (lo, hi] of equal width each value is in; 0 is in the first."""
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(edges, stated, side="left")


def _binned(
    index: NDArray[np.intp], stated: NDArray[np.float64], right: NDArray[np.bool_], bins: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rows, mean confidence and share right of each bin that is not empty."""
    counts, sums, hits = (
        np.bincount(index, weights, minlength=bins).astype(np.float64) for weights in (None, stated, right)
    )
    full = counts > 0
    return counts[full], sums[full] / counts[full], hits[full] / counts[full]


def _chance(
    share: NDArray[np.float64], confidence: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What chance adds to |share - confidence| on average (Kumar et al. 2019, in closed form).

    The share's standard deviation is found with one row added at the bin's confidence: a bin of one row has one too.
    """
    pooled = (counts * share + confidence) / (counts + 1)
    sd = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-300) / counts)
    gap = np.abs(share - confidence)
    expected = sd * math.sqrt(2 / math.pi) * np.exp(-0.5 * (gap / sd) ** 2) + gap * special.erf(
        gap / (sd * math.sqrt(2))
    )
    chance: NDArray[np.float64] = expected - gap
    return chance
