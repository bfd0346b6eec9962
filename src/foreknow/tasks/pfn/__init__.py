"""Prior-data fitted networks: one forward pass is the posterior predictive of a prior one can only sample."""
