"""How many bits of further knowledge a task needs beyond a distribution over hypotheses that fit the training data."""
