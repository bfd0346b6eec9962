"""Learning-curve extrapolation by a network fitted to a prior over learning curves."""
