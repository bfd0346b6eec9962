"""Bits by counting: the share of sampled hypotheses that reach a loss, with its exact interval."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from foreknow.audit.inductive_bias.bits import Bits, above_median, check_eps, check_losses
from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_real

MIN_COUNT = 8
"""Hypotheses that must reach eps for a count to be trusted alone: up to log2(S) - 3 bits."""


def counting_bits(losses: ArrayLike, eps: float, level: float = 0.95) -> Bits:
    """-log2 of the share of `losses` that are at most `eps`, with the interval of Clopper and Pearson.

    Where no loss reaches eps, 3 / n_draws bounds the share at 95%, and the result is a lower bound.

    Args:
        losses: one per hypothesis, shape (n_draws,).
        eps: the loss to reach.
        level: confidence of the interval, between 0 and 1.

    Raises:
        InputError: losses that are not finite or all the same.
    """
    from scipy.stats import beta

    sample = check_losses("counting_bits", losses)
    eps = check_eps("counting_bits", eps, noise=-math.inf)
    if check_real("counting_bits", "level", level, low=0, high=1, open_low=True) >= 1:
        raise ConfigError(f"counting_bits: level must be less than 1, got {level}.")
    n, count = len(sample), int((sample <= eps).sum())
    if count == 0:
        bound = max(0.0, -math.log2(3 / n))
        return Bits(bound, bound, math.nan, "counting", sign=">=", note=f"none of {n} draws reaches eps")
    tail = (1 - level) / 2
    p_low = float(beta.ppf(tail, count, n - count + 1))
    p_high = float(beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    low, high = (float(bits) + 0.0 for bits in -np.log2([p_high, p_low]))
    return Bits(-math.log2(count / n) + 0.0, low, high, "counting", note=above_median(sample, eps))
