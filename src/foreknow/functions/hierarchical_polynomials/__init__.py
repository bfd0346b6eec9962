"""Polynomials of a polynomial, learnt layer by layer (Wang, Nichani and Lee 2024)."""
