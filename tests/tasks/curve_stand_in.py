"""A quick stand-in for the extrapolator: normal distributions around c - a / t through the last and first value."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from scipy.stats import norm


class PowerForecaster:
    def __init__(self, *, minimize=False, sd=0.05):
        self.minimize, self.sd, self.calls = minimize, sd, 0

    def extrapolate(self, curves, horizon, *, falling="error"):
        self.calls += 1
        return [self._one(curve, horizon) for curve in curves]

    def _one(self, curve, horizon):
        epochs = np.arange(np.floor(curve.last_epoch) + 1, horizon + 1)
        slope = (curve.values[-1] - curve.values[0]) / (1 / curve.epochs[-1] - 1 / curve.epochs[0] or np.inf)
        mean = curve.values[-1] + slope * (1 / epochs - 1 / curve.epochs[-1])
        sign = -1 if self.minimize else 1
        return SimpleNamespace(
            epochs=epochs, mean=mean, prob_beats=lambda best: norm.sf(best * sign, mean * sign, self.sd)
        )
