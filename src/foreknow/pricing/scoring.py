"""From predictions to what a trial stores: losses, and what recalibration on past data needs.

No cell knows the temperature that past data will ask for, as the past of a cell is other cells. So a cell stores its
losses at every temperature of `GRID`, and the statistics choose: for classes logits are divided by the temperature,
for numbers the widths of the predictive distribution, around its median, are multiplied by it.

`detail` of a trial whose arm gives probabilities or distributions holds, with G = len(GRID):

    test_loss      (G,) mean negative log-likelihood of the test labels, nats
    block_loss     (G,) total negative log-likelihood of the next block's labels, nats; empty at the largest size
    n_block        labels in the next block: the rows that the next size learns from beyond this one's
    ece_15, brier  (G,) of the test rows, classes only
    coverage_90    (G,) of the test rows, numbers only
    reliability    (G,) lists of (confidence, share right, share of rows), or (stated, measured) for numbers
    n_clipped      test rows whose true class had a probability below `SMALLEST`, classes only
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from foreknow.core.calibration import TEMPERATURES, reliability_bins
from foreknow.core.measures import auc_ovo
from foreknow.core.predictive import Predictive
from foreknow.pricing.records import Outcome

GRID = TEMPERATURES

UNCHANGED = len(GRID) // 2
"""Index of temperature 1."""

SMALLEST = 1e-6
"""Probabilities below this are raised to it, in all arms: one row that was thought impossible costs 14 nats."""

MEASURES = {
    "classification": ("log_loss", "brier", "error", "auc_loss"),
    "regression": ("log_loss", "rmse", "mae"),
}
"""What is measured of each task, all losses; the first is the main one. `auc_loss` is 1 - AUC; numbers are in units
of the target's standard deviation over the whole table."""

_N_BINS = 15
_STATED = np.arange(0.1, 1.0, 0.1)

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


def score_classes(
    p: Floats, y: Codes, *, p_next: Floats | None = None, y_next: Codes | None = None, seconds: float = 0.0
) -> Outcome:
    """The outcome of an arm that gives class probabilities.

    Args:
        p: of the test rows, shape (n, k), rows sum to one.
        y: class codes of the test rows, shape (n,).
        p_next, y_next: likewise of the next block, None at the largest size.
        seconds: time of learning and predicting.
    """
    logs = _tempered(p)
    losses = -_picked(logs, y)  # (g, n)
    probs = np.exp(logs)
    squared = np.square(probs - np.eye(p.shape[1])[y]).sum(axis=-1).mean(axis=1)
    bins = [reliability_bins(one, y, _N_BINS) for one in probs]
    ece = [float(sum(share * abs(right - sure) for sure, right, share in one)) for one in bins]
    detail = {
        "test_loss": _rounded(losses.mean(axis=1)),
        **_block(None if p_next is None else -_picked(_tempered(p_next), y_next).sum(axis=1), y_next),
        "ece_15": _rounded(ece),
        "brier": _rounded(squared),
        "reliability": [[_rounded(row, 4) for row in one] for one in bins],
        "n_clipped": int((p[np.arange(len(y)), y] < SMALLEST).sum()),
    }
    metrics = {
        "log_loss": float(losses[UNCHANGED].mean()),
        "brier": float(squared[UNCHANGED]),
        "error": float((p.argmax(axis=1) != y).mean()),
        "auc_loss": 1 - auc_ovo(y, p),
    }
    return Outcome(metrics, detail, seconds)


def score_numbers(
    dist: Predictive,
    y: Floats,
    *,
    scale: float,
    dist_next: Predictive | None = None,
    y_next: Floats | None = None,
    seconds: float = 0.0,
) -> Outcome:
    """The outcome of an arm that gives a distribution of a number.

    Args:
        dist: of the test rows, batch shape (n,).
        y: their numbers, shape (n,).
        scale: the unit in which errors and densities are told.
        dist_next, y_next: likewise of the next block.
        seconds: time of learning and predicting.
    """
    losses, ranks = _widened(dist, y, scale)
    inside = (np.abs(ranks[:, None] - 0.5) <= _STATED[:, None] / 2).mean(axis=-1)  # (g, levels)
    mean = dist.mean().double().cpu().numpy()
    detail = {
        "test_loss": _rounded(losses.mean(axis=1)),
        **_block(None if dist_next is None else _widened(dist_next, y_next, scale)[0].sum(axis=1), y_next),
        "coverage_90": _rounded((np.abs(ranks - 0.5) <= 0.45).mean(axis=1), 4),
        "reliability": [[_rounded(pair, 4) for pair in zip(_STATED, one)] for one in inside],
    }
    metrics = {
        "log_loss": float(losses[UNCHANGED].mean()),
        "rmse": float(np.sqrt(np.square(y - mean).mean())) / scale,
        "mae": float(np.abs(y - mean).mean()) / scale,
    }
    return Outcome(metrics, detail, seconds)


def _block(total: Floats | None, y_next: NDArray[Any] | None) -> dict[str, Any]:
    if total is None or y_next is None:
        return {"block_loss": [], "n_block": 0}
    return {"block_loss": _rounded(total), "n_block": len(y_next)}


def _tempered(p: Floats) -> Floats:
    """Log-probabilities at every temperature of the grid, shape (g, n, k)."""
    logs: Floats = log_softmax(np.log(np.maximum(p, SMALLEST))[None] / GRID[:, None, None], axis=-1)
    return logs


def _picked(logs: Floats, y: Codes | None) -> Floats:
    """Of shape (g, n): the value of the true class."""
    assert y is not None  # given wherever probabilities are
    return logs[:, np.arange(len(y)), y]


def _widened(dist: Predictive, y: Floats | None, scale: float) -> tuple[Floats, Floats]:
    """Negative log density per `scale`, and rank of the truth, at every temperature; each (g, n)."""
    import torch

    assert y is not None  # given wherever a distribution is
    with torch.inference_mode():
        middle = dist.quantile(torch.tensor([0.5], dtype=torch.float64))[..., 0].double()
        at = middle + (torch.as_tensor(y, dtype=torch.float64) - middle) / torch.as_tensor(GRID)[:, None]
        log_density = dist.log_prob(at).double().cpu().numpy()
        rank = dist.cdf(at).double().cpu().numpy()
    # A density may vanish beyond its support; what cannot be is charged like an impossible class.
    losses = np.minimum(-log_density, -np.log(SMALLEST) + np.log(scale)) + np.log(GRID)[:, None] - np.log(scale)
    return losses, rank


def _rounded(values: Any, digits: int = 7) -> list[float]:
    return [round(float(value), digits) for value in values]
