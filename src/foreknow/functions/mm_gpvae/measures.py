"""How well latents, rates and behaviour were found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import InputError


def _flat(values: Any) -> NDArray[np.float64]:
    """Trials as (bins of all trials, k)."""
    parts = [np.asarray(part, dtype=np.float64) for part in values]
    return np.concatenate([part.reshape(len(part), -1) for part in parts])


def relative_error(truth: Any, found: Any) -> float:
    """Squared error over that of the mean of every variable, of trials (lists or arrays); 1 - R^2.

    Raises:
        InputError: shapes differ.
    """
    y, guess = _flat(truth), _flat(found)
    if y.shape != guess.shape:
        raise InputError(f"relative_error: {guess.shape} numbers (bins, variables) for {y.shape} true ones.")
    unit = max(float(np.abs(y).max()), 1e-300)
    spread = float((((y - y.mean(0)) / unit) ** 2).sum())
    wrong = float((((y - guess) / unit) ** 2).sum())
    return wrong / spread if spread > 0 else (0.0 if wrong == 0 else math.inf)


def bits_per_spike(spikes: Any, rates: Any, mean_rates: ArrayLike) -> float:
    """Log-likelihood of counts under rates above that under constant rates, in bits a spike; 0 without spikes.

    Args:
        spikes: trials of counts.
        rates: expected counts of the same bins.
        mean_rates: constant expected count of every neuron, shape (n_neurons,).
    """
    counts, expected = _flat(spikes), np.maximum(_flat(rates), 1e-9)
    constant = np.maximum(np.asarray(mean_rates, dtype=np.float64), 1e-9)
    gain = (counts * (np.log(expected) - np.log(constant)) - expected + constant).sum()
    n = counts.sum()
    return float(gain / n / math.log(2)) if n else 0.0


def linear_r2(train: tuple[ArrayLike, ArrayLike], test: tuple[ArrayLike, ArrayLike]) -> float:
    """R^2 on test bins of a true latent, by the line fitted on training bins to found latents.

    Args:
        train: found latents (..., p) and the true one (...) of training trials.
        test: the same of test trials.
    """
    from sklearn.linear_model import LinearRegression

    (x, y), (x_new, y_new) = (
        (np.asarray(found, dtype=np.float64).reshape(-1, np.shape(found)[-1]), np.ravel(truth))
        for found, truth in (train, test)
    )
    return float(LinearRegression().fit(x, y).score(x_new, y_new))


def identification(
    train: Mapping[str, ArrayLike], true_train: ArrayLike, test: Mapping[str, ArrayLike], true_test: ArrayLike
) -> dict[str, float]:
    """How well each of three true latents is found in its block, and how much of it in another one.

    Args:
        train, test: found latents by block ("neural", "shared", "behavior"), shape (n, t, p) each; blocks without
            latents are left out of leakage, and a true latent whose block is empty has R^2 0.
        true_train, true_test: true latents, shape (n, t, 3), in the order of the blocks.

    Returns:
        "r2_neural", "r2_shared", "r2_behavior"; "leakage": the largest R^2 of a private true latent from a block that
        is not its own, not below 0; "shared_in_neural" and "shared_in_behavior", of the shared one from private blocks.
    """
    known, truth = np.asarray(true_train), np.asarray(true_test)
    names = ("neural", "shared", "behavior")

    def r2(block: str, latent: int) -> float:
        if np.shape(train[block])[-1] == 0:
            return 0.0
        return linear_r2((train[block], known[..., latent]), (test[block], truth[..., latent]))

    found = {f"r2_{name}": r2(name, latent) for latent, name in enumerate(names)}
    wrong = [r2(block, latent) for latent, own in ((0, "neural"), (2, "behavior")) for block in names if block != own]
    also = {f"shared_in_{name}": r2(name, 1) for name in ("neural", "behavior")}
    return {**found, "leakage": max(0.0, *wrong), **also}
