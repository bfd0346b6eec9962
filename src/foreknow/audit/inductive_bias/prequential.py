"""Code lengths: bits to send the labels by predicting each block from those before, and soft evidence."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax

from foreknow.audit.inductive_bias.bits import Array, Bits
from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int
from foreknow.core.calibration import TEMPERATURES, past_temperatures

Fit = Callable[[NDArray[Any], NDArray[np.int64]], Any]


def prequential_bits(
    fit: Fit,
    X: ArrayLike,
    y: ArrayLike,
    *,
    blocks: Sequence[int] = (8, 16, 32, 64, 128),
    orders: int = 5,
    random_state: object = None,
) -> Bits:
    """Bits to send the first max(blocks) labels: each block coded by a model that learnt from all before it.

    The first block is sent without a model. A probability is mixed with 1 / (n + 1) parts of the uniform one, n being
    the rows learnt from, so that a class never seen costs finitely many bits. The temperature of a block is the one
    that suited the predictions of all blocks before it, as they were made (`core.calibration.past_temperatures`).

    Args:
        fit: `fit(X, y)` -> predictor; y are class codes. The predictor is called on rows, or has `predict_proba`, and
            gives probabilities with one column per class (or per `classes_` it names).
        X: rows, at least max(blocks) of them, any array.
        y: class labels, shape (n,).
        blocks: numbers of rows, increasing, at least two.
        orders: random orders of the rows that the code is averaged over.
        random_state: an integer for orders that repeat.

    Returns:
        Bits with the mean over orders, its 95% interval by Student's t, and each order's total in `spread`.

    Raises:
        InputError: too few rows, one class only, or predictions that are no probabilities (logits, for instance).
    """
    owner = "prequential_bits"
    rows, labels = np.asarray(X), np.asarray(y)
    sizes = [check_int(owner, "blocks", size, low=1) for size in blocks]
    check_int(owner, "orders", orders, low=1)
    if len(sizes) < 2 or sorted(set(sizes)) != sizes:
        raise ConfigError(f"{owner}: blocks must be at least two increasing numbers of rows, got {tuple(blocks)}.")
    if labels.ndim != 1 or len(rows) != len(labels) or len(labels) < sizes[-1]:
        raise InputError(
            f"{owner}: X and y need {sizes[-1]} rows, got {len(rows)} and {labels.shape}.", hint="Shorten blocks."
        )
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"{owner}: y holds one class only, whose labels cost nothing.")
    totals = []
    for order in range(orders):
        chosen = numpy_stream(random_state, owner, str(order)).permutation(len(codes))[: sizes[-1]]
        totals.append(_code_length(fit, rows[chosen], codes[chosen].astype(np.int64), sizes, len(classes)))
    value = float(np.mean(totals))
    half = math.nan
    if orders > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, orders - 1) * np.std(totals, ddof=1) / math.sqrt(orders))
    spread = {f"order {order}": float(total) for order, total in enumerate(totals)}
    return Bits(value, value - half, value + half, "prequential", note=f"{sizes[-1]} labels coded", spread=spread)


def _code_length(fit: Fit, X: NDArray[Any], y: NDArray[np.int64], sizes: list[int], n_classes: int) -> float:
    losses = []
    for n, end in itertools.pairwise(sizes):
        log_p = np.log(_probabilities(fit(X[:n], y[:n]), X[n:end], n, n_classes))
        tempered = log_softmax(log_p / TEMPERATURES[:, None, None], axis=-1)  # (temperatures, rows, classes)
        losses.append(-tempered[:, np.arange(end - n), y[n:end]].sum(axis=1))
    chosen = past_temperatures(np.array(losses))
    nats = sum(loss[index] for loss, index in zip(losses, chosen[:-1], strict=True))
    return float(sizes[0] * math.log2(n_classes) + nats / math.log(2))


def _probabilities(predictor: Any, X: NDArray[Any], n: int, n_classes: int) -> Array:
    owner = "prequential_bits"
    found = np.asarray(predictor.predict_proba(X) if hasattr(predictor, "predict_proba") else predictor(X))
    if found.ndim != 2 or len(found) != len(X):
        raise InputError(f"{owner}: probabilities must have shape ({len(X)}, {n_classes}), got {found.shape}.")
    if not np.isfinite(found).all() or (found < 0).any() or not np.allclose(found.sum(1), 1, atol=1e-3):
        raise InputError(
            f"{owner}: the predictor must give probabilities, rows >= 0 with sum 1; the first is {found[0]!s:.80}.",
            hint="Turn logits into probabilities by softmax.",
        )
    columns = np.asarray(getattr(predictor, "classes_", np.arange(n_classes)))
    if found.shape[1] != len(columns):
        raise InputError(f"{owner}: {len(columns)} columns of probabilities were expected, got {found.shape[1]}.")
    p = np.zeros((len(X), n_classes))
    p[:, columns] = found
    return (n * p + 1 / n_classes) / (n + 1)


def conditional_evidence_bits(log_likelihoods: ArrayLike, *, rng: np.random.Generator, n_boot: int = 1000) -> Bits:
    """-log2 of the mean likelihood of the test data over hypotheses that fit the training data.

    The bits at a target loss with a soft threshold: p(test data | h) stands for 1[L(h) <= eps].

    Args:
        log_likelihoods: log p(test data | h) of each sampled hypothesis in nats, shape (n_draws,).
        rng: source of randomness.
        n_boot: resamples for the interval.

    Returns:
        Bits; marked extrapolated where fewer than 10 draws carry the mean, which then only bounds the bits from above.

    Raises:
        InputError: not finite, or fewer than 2.
    """
    owner = "conditional_evidence_bits"
    values = np.asarray(log_likelihoods, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values.ravel()))
        raise InputError(
            f"{owner}: log_likelihoods must be at least 2 finite numbers, got shape {values.shape}"
            + (f", draw {bad[0]} is {values.ravel()[bad[0]]}." if len(bad) else ".")
        )
    check_int(owner, "n_boot", n_boot, low=1)
    weights = np.exp(values - values.max())

    def bits(mean: Any) -> Any:
        return -(np.log(mean) + values.max()) / math.log(2)

    means = np.array([weights[rng.integers(0, len(values), len(values))].mean() for _ in range(n_boot)])
    with np.errstate(divide="ignore"):
        low, high = np.quantile(bits(means), [0.025, 0.975])
    effective = float(weights.sum() ** 2 / np.square(weights).sum())
    note = f"{effective:.1f} of {len(values)} draws carry the mean" if effective < 10 else ""
    return Bits(float(bits(weights.mean())), float(low), float(high), "evidence", extrapolated=bool(note), note=note)
