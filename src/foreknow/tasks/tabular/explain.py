"""What a fitted tabular estimator relies on: importance of columns, and the share of each column in a prediction.

Both reuse the fitted context and only predict. Importance permutes one column (Breiman, Machine Learning 45, 2001);
shares are Shapley values of the game in which the columns outside a coalition are those of background rows
(Lundberg and Lee, NIPS 2017), estimated from random orders of the columns and their reverses (Castro, Gomez and
Tejada, Computers & Operations Research 36, 2009; Mitchell et al., JMLR 23, 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import as_vector, check_int
from foreknow.core.measures import nll
from foreknow.core.predictive import Categorical, Predictive
from foreknow.data.table import as_table
from foreknow.tasks.tabular.base import TabularEstimator


@dataclass(frozen=True, eq=False)
class Importance:
    """How much worse the predictions of labelled rows get when a column is permuted.

    Args:
        names: the columns of the table, in its order.
        mean: mean increase of the loss over the repeats, shape (d,); 0 for a column that the estimator dropped, and
            below 0 by chance for one that it does not need.
        std: standard deviation over the repeats, shape (d,).
        raw: every repeat, shape (d, n_repeats).
        measure: what the numbers are.
        loss: the loss with every column in its place, in nats a row.
    """

    names: tuple[str, ...]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    raw: NDArray[np.float64]
    measure: str
    loss: float


@dataclass(frozen=True, eq=False)
class Shapley:
    """How a prediction comes about: `base` plus the shares of the columns is the prediction.

    Args:
        names: the columns of the table, in its order; d of them.
        values: shares, shape (n, d) in units of the target, or (n, d, k) in probability of each class.
        base: mean prediction of the background rows, shape () or (k,).
        standard_errors: of the shares as estimates from random orders, given the background; shape of `values`.
        classes: the k labels; None for a number.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    base: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    classes: tuple[Any, ...] | None


def permutation_importance(
    model: TabularEstimator,
    X: object,
    y: object,
    *,
    n_repeats: int = 5,
    random_state: int | None = 0,
    progress: ProgressCallback | None = None,
) -> Importance:
    """Increase of the log-loss (classes) or the negative log-likelihood (numbers) when a column is permuted.

    Use rows that the estimator was not fitted on. Of two columns that say the same, neither looks important.

    Args:
        model: fitted.
        X: rows, shape (n_samples, n_features), at least two.
        y: their targets, shape (n_samples,).
        n_repeats: permutations of every column.
        random_state: seed of the permutations.
        progress: told after every column.

    Raises:
        InputError: the data cannot be used, or a label was not there at fit.
    """
    owner = "permutation_importance"
    check_int(owner, "n_repeats", n_repeats, low=1)
    table = model._read_new(X)
    target = _target(owner, model, y, len(table))
    if len(table) < 2:
        raise InputError(f"{owner}: X has one row; at least two are needed to permute a column.")
    x = model.encoder_.transform(table).x
    d = x.shape[1]
    loss = _mean_loss(model, x, target)
    names, kept = _columns(model)
    raw = np.zeros((len(names), n_repeats))
    reporter = Reporter(progress, d)
    for column in range(d):
        rng = numpy_stream(random_state, "importance", names[kept[column]])
        permuted = x.copy()
        for repeat in range(n_repeats):
            permuted[:, column] = rng.permutation(x[:, column])
            raw[kept[column], repeat] = _mean_loss(model, permuted, target) - loss
        reporter.advance(column + 1, names[kept[column]])
    what = "log-loss" if model._task() == "classification" else "negative log-likelihood"
    return Importance(names, raw.mean(axis=1), raw.std(axis=1), raw, f"increase of the {what}, nats", loss)


def shapley_values(
    model: TabularEstimator,
    X: object,
    *,
    background: object = None,
    n_background: int = 16,
    n_permutations: int = 8,
    random_state: int | None = 0,
    progress: ProgressCallback | None = None,
) -> Shapley:
    """Share of every column in the prediction of every row: the mean of a number, the probability of each class.

    A column that is not in the coalition takes its values from background rows (interventional). For each of these,
    columns enter in `n_permutations` orders, half of them the reverses of the others. All rows meet the same orders,
    so a row's shares do not depend on the rows beside it. The shares of a row add up to its prediction less `base`
    to rounding, however few the orders. Cost: n_samples * n_background * n_permutations * (d - 1) predictions.

    Args:
        model: fitted.
        X: rows to explain, shape (n_samples, n_features).
        background: rows to compare with, all of which are used; default a random sample of the context.
        n_background: size of that sample.
        n_permutations: orders per background row; even and at least 4, for standard errors.
        random_state: seed of the sample and the orders.
        progress: told after every row.

    Raises:
        ConfigError: a setting is not allowed.
        InputError: the rows cannot be used.
    """
    owner = "shapley_values"
    check_int(owner, "n_background", n_background, low=1)
    if check_int(owner, "n_permutations", n_permutations, low=4) % 2:
        raise ConfigError(f"{owner}: n_permutations must be even, got {n_permutations}.")
    table = model._read_new(X)
    x = model.encoder_.transform(table).x
    rng = numpy_stream(random_state, "shapley")
    if background is None:
        rows = model._x[rng.permutation(len(model._x))[:n_background]]
    else:
        rows = model.encoder_.transform(as_table(background, owner=owner)).x
    (n, d), b = x.shape, len(rows)
    ranks = rng.permuted(np.tile(np.arange(d), (n_permutations // 2, b, 1)), axis=2)
    ranks = np.stack([ranks, d - 1 - ranks], axis=1).reshape(n_permutations, b, d)  # an order, then its reverse
    start, end = _outputs(model, rows), _outputs(model, x)
    k = start.shape[1]
    shares = np.empty((n, d, k))
    errors = np.empty((n, d, k))
    block = max(2, _CELLS // (b * d * d) // 2 * 2)  # orders at a time, an even number
    reporter = Reporter(progress, n)
    for i in range(n):
        each = [_gains(model, x[i], rows, ranks[p : p + block], start, end[i]) for p in range(0, len(ranks), block)]
        pairs = np.concatenate(each).reshape(-1, 2, d, k).mean(axis=1)
        shares[i], errors[i] = pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / len(pairs) ** 0.5
        reporter.advance(i + 1)
    names, kept = _columns(model)
    values, standard_errors = np.zeros((2, n, len(names), k))
    values[:, kept], standard_errors[:, kept] = shares, errors
    if model._task() == "classification":
        return Shapley(names, values, start.mean(axis=0), standard_errors, tuple(model.classes_.tolist()))
    return Shapley(names, values[..., 0], start.mean(axis=0)[0], standard_errors[..., 0], None)


_CELLS = 2_000_000
"""Cells of masked rows held at once."""


def _gains(
    model: TabularEstimator,
    row: NDArray[np.float64],
    background: NDArray[np.float64],
    ranks: NDArray[np.int64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What each column adds when it enters, mean over the background: shape (orders, d, k).

    Args:
        model: fitted.
        row: shape (d,).
        background: shape (b, d).
        ranks: place of every column in its order, shape (orders, b, d).
        start: outputs of the background, shape (b, k).
        end: outputs of the row, shape (k,).
    """
    p, b, d = ranks.shape
    k = len(end)
    path = np.empty((p, b, d + 1, k))
    path[:, :, 0], path[:, :, d] = start, end
    if d > 1:
        inside = ranks[:, :, None] < np.arange(1, d)[:, None]  # p b (d - 1) d
        masked = np.where(inside, row, background[:, None])
        path[:, :, 1:d] = _outputs(model, masked.reshape(-1, d)).reshape(p, b, d - 1, k)
    gains: NDArray[np.float64] = np.take_along_axis(np.diff(path, axis=2), ranks[..., None], axis=2).mean(axis=1)
    return gains


def _mean_loss(model: TabularEstimator, x: NDArray[np.float64], target: torch.Tensor) -> float:
    """Mean negative log-likelihood of the targets of encoded rows."""
    blocks = zip(_blocks(x), torch.tensor_split(target, max(1, len(x) // _BLOCK)))
    return sum(float(nll(model._predict_encoded(rows), known).sum()) for rows, known in blocks) / len(x)


def _blocks(x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    return np.array_split(x, max(1, len(x) // _BLOCK))


def _outputs(model: TabularEstimator, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Class probabilities, shape (m, k), or the mean, shape (m, 1), of encoded rows."""
    parts = []
    for rows in _blocks(x):
        dist: Predictive = model._predict_encoded(rows)
        found = dist.probs if isinstance(dist, Categorical) else dist.mean()[:, None]
        parts.append(found.cpu().numpy().astype(np.float64))
    return np.concatenate(parts)


_BLOCK = 8192
"""Rows whose distributions are held at once."""


def _columns(model: TabularEstimator) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """Names of the user's columns, and which of them the encoded columns are."""
    notes = model.notes_
    return tuple(note.column for note in notes), np.flatnonzero([note.action != "dropped" for note in notes])


def _target(owner: str, model: TabularEstimator, y: object, n: int) -> torch.Tensor:
    """Class codes or numbers, shape (n,)."""
    if model._task() == "regression":
        return torch.as_tensor(as_vector(owner, y, n=n), device=model.device_)
    labels = np.asarray(y)
    if labels.shape != (n,):
        raise InputError(f"{owner}: y must have shape ({n},), one label per row of X, got {labels.shape}.")
    code_of = {label: code for code, label in enumerate(model.classes_.tolist())}
    unknown = [label for label in labels.tolist() if label not in code_of]
    if unknown:
        raise InputError(
            f"{owner}: y holds the label {unknown[0]!r:.80} ({len(unknown)} row(s) in all), which was not there at fit."
        )
    return torch.tensor([code_of[label] for label in labels.tolist()], device=model.device_)
