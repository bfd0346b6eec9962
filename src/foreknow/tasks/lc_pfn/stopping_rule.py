"""When a run is given up: the stopping rule of predictive termination, as a function of a forecast alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from foreknow.common.errors import InputError
from foreknow.common.validate import check_real


def should_stop(prob_beats: ArrayLike, *, delta: float = 0.95) -> bool:
    """Whether the chance of beating the best run is at most 1 - delta at every epoch that is left.

    The probabilities are those of single epochs (`CurveForecast.prob_beats`). Their maximum is a lower bound of the
    probability of beating the best at any epoch, so the rule stops a little more often than its `delta` says.

    Args:
        prob_beats: one probability an epoch, shape (h,); with none left a run is over.
        delta: confidence wanted before a run is given up, in [0, 1].

    Raises:
        InputError: numbers that are no probabilities.
    """
    limit = 1.0 - check_real("should_stop", "delta", delta, low=0.0, high=1.0)
    given = np.asarray(prob_beats, dtype=np.float64).ravel()
    if not ((given >= -1e-6) & (given <= 1 + 1e-6)).all():
        raise InputError("should_stop: prob_beats must hold probabilities.")
    return bool(given.max(initial=0.0) <= limit)
