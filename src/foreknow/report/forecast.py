"""Predictions of a number as rows of an array: mean, quantiles, log density of the truth; and how often intervals hold.

Classes are read into an array too, one column a class, so that folds, files and reports treat both tasks alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = (0.05, 0.5, 0.95)
NOMINAL = LEVELS[-1] - LEVELS[0]
COLUMNS = ("mean", *LEVELS, "log density")
MEAN, LOW, MEDIAN, HIGH, LOG_DENSITY = range(len(COLUMNS))
"""Columns of the array that `forecast` gives."""
LOWEST_LOG_DENSITY = -1000.0
"""Log densities are cut to this, so that one row far outside a distribution does not make the mean infinite."""
MIN_GROUP = 10
"""Rows of a group of `coverage`, at the least."""

Reader = Callable[[Any, Any, NDArray[Any] | None], NDArray[np.float64]]
"""(fitted model, features, truth or None) -> one row of numbers per row; `forecast`, or class probabilities."""


def forecast(model: Any, features: Any, truth: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """What a fitted regressor says of each row, shape (n, 5): see `COLUMNS`.

    A model without `predict_dist` gives its `predict` and NaN for the rest. The log density is in nats per unit of
    the target, NaN without `truth` and where that is NaN.
    """
    if not hasattr(model, "predict_dist"):
        mean = np.asarray(model.predict(features), dtype=np.float64)
        return np.column_stack([mean, np.full((len(mean), len(COLUMNS) - 1), np.nan)])
    import torch

    dist = model.predict_dist(features)
    with torch.inference_mode():
        parts = [dist.mean()[:, None], dist.quantile(torch.tensor(LEVELS, dtype=torch.float64))]
        result = np.column_stack([*(part.double().cpu().numpy() for part in parts), np.full(len(parts[0]), np.nan)])
        if truth is not None:
            known = ~np.isnan(truth)
            log_density = dist.log_prob(torch.as_tensor(np.where(known, truth, 0.0)))
            log_density = np.maximum(log_density.double().cpu().numpy(), LOWEST_LOG_DENSITY)
            result[:, LOG_DENSITY] = np.where(known, log_density, np.nan)
    return result


def class_probabilities(model: Any, features: Any, n_classes: int) -> NDArray[np.float64]:
    """`model.predict_proba` with one column per class code, zero for codes the model never saw."""
    result = np.zeros((len(found := np.asarray(model.predict_proba(features), dtype=np.float64)), n_classes))
    result[:, np.asarray(model.classes_, dtype=np.int64)] = found
    return result


def reader_of(n_classes: int) -> Reader:
    """What reads the predictions of a model; 0 classes for a number."""
    if n_classes:
        return lambda model, features, truth: class_probabilities(model, features, n_classes)
    return forecast


@dataclass(frozen=True)
class Group:
    """Rows whose intervals are about as wide, and the share that the intervals held, with Wilson's 95% interval."""

    n_rows: int
    width: float
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Coverage:
    """How often the stated 90% intervals held the truth.

    Args:
        whole: all rows.
        groups: tenths of the rows by width of the interval, narrowest first; fewer where a tenth would be less than
            `MIN_GROUP` rows.
    """

    whole: Group
    groups: tuple[Group, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"nominal": NOMINAL, **asdict(self)}


def coverage(output: NDArray[np.float64], truth: NDArray[np.float64]) -> Coverage | None:
    """Measured coverage of the intervals in `output`, shape (n, 5); None where the model states none."""
    low, high = output[:, LOW], output[:, HIGH]
    if np.isnan(low).any():
        return None
    width, inside = high - low, (low <= truth) & (truth <= high)
    order = np.argsort(width, kind="stable")
    parts = np.array_split(order, min(10, max(1, len(order) // MIN_GROUP)))
    return Coverage(_group(width, inside), tuple(_group(width[part], inside[part]) for part in parts))


def _group(width: NDArray[np.float64], inside: NDArray[np.bool_]) -> Group:
    from foreknow.viz.quality import wilson

    low, high = wilson(np.array([inside.mean()]), np.array([len(inside)]))
    return Group(len(inside), float(width.mean()), float(inside.mean()), float(low[0]), float(high[0]))
