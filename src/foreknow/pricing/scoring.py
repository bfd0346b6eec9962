"""From predictions to what a trial stores: losses, and what recalibration on past data needs.

No cell knows the temperature that past data will ask for, as the past of a cell is other cells. So a cell stores its
losses at every temperature of `GRID`, and the statistics choose: for classes logits are divided by the temperature,
for numbers the widths of the predictive distribution are multiplied by it.

`detail` of a trial whose arm gives probabilities or distributions holds, with G = len(GRID):

    test_loss      (G,) mean negative log-likelihood of the test labels, nats
    block_loss     (G,) total negative log-likelihood of the next block's labels, nats; empty at the largest size
    n_block        labels in the next block: the rows that the next size learns from beyond this one's
    ece_15, brier  (G,) of the test rows, classes only
    coverage_90    (G,) of the test rows, numbers only
    reliability    (G,) lists of (confidence, share right, share of rows), or (stated, measured) for numbers
"""

from __future__ import annotations

import numpy as np

GRID = 20.0 ** np.linspace(-1.0, 1.0, 41)
"""Temperatures from 1/20 to 20; the middle one is 1."""

UNCHANGED = len(GRID) // 2
"""Index of temperature 1."""
