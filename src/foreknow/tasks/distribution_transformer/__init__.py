"""Posteriors by one forward pass, for a prior that is given when it is asked: the distribution transformer."""
