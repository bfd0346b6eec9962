"""Bayesian neural networks as surrogates of Bayesian optimisation (Li, Rudner and Wilson 2024)."""
