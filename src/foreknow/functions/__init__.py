"""Priors over functions and kernels."""
