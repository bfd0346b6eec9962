"""Inputs as the theory wants them: mean zero, unit covariance; and a word where they are far from normal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WHITEN = ("auto", "always", "never")
_FEW = 100
"""Rows below which nothing is said of normality: moments of so few rows prove little."""
_SKEW, _KURTOSIS = 1.0, 3.0


@dataclass(frozen=True)
class Whitening:
    """x -> (x - mean) @ matrix.

    Args:
        mean: shape (d,).
        matrix: shape (d, r); directions without variance are left out.
        changed: whether anything was done.
        problem: what is not normal about the rows, or "".
    """

    mean: NDArray[np.float64]
    matrix: NDArray[np.float64]
    changed: bool = False
    problem: str = ""

    def __call__(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        return (X - self.mean) @ self.matrix

    @classmethod
    def of(cls, X: NDArray[np.float64], mode: str) -> Whitening:
        """From training rows.

        Args:
            X: rows, shape (n, d).
            mode: "never" keeps them, "always" whitens, "auto" whitens unless they are white already up to chance.
        """
        d = X.shape[1]
        problem = _problem(X)
        white = mode == "never" or (mode == "auto" and _is_white(X))
        if white:
            return cls(np.zeros(d), np.eye(d), False, problem)
        mean, scale = X.mean(axis=0), X.std(axis=0)
        use = scale > 1e-12 * np.abs(mean)
        use &= scale > 0
        if not use.any():
            return cls(mean, np.zeros((d, 1)), True, problem)
        z = (X[:, use] - mean[use]) / scale[use]
        values, vectors = np.linalg.eigh(_covariance(z))
        keep = values > 1e-8 * values.max()
        matrix = np.zeros((d, int(keep.sum())))
        matrix[use] = vectors[:, keep] / np.sqrt(values[keep]) / scale[use][:, None]
        return cls(mean, matrix, True, problem)


def _covariance(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of standardised rows, shrunk where there are few of them (Ledoit and Wolf)."""
    if len(z) < 2:
        return np.eye(z.shape[1])
    from sklearn.covariance import ledoit_wolf

    return np.asarray(ledoit_wolf(z, assume_centered=True)[0])


def _is_white(X: NDArray[np.float64]) -> bool:
    """Whether means, variances and correlations are those of white rows within five standard errors."""
    n, d = X.shape
    if n < 2 or np.abs(X).max() > 1e6:
        return False
    error = 5 / math.sqrt(n)
    gap = np.abs(np.cov(X, rowvar=False, ddof=0).reshape(d, d) - np.eye(d))
    diagonal = np.diag(gap).max()
    return bool(np.abs(X.mean(axis=0)).max() < error and gap.max() < error * math.sqrt(2) and diagonal < 0.5)


def _problem(X: NDArray[np.float64]) -> str:
    if len(X) < _FEW:
        return ""
    scale = X.std(axis=0)
    use = scale > 1e-12 * np.abs(X.mean(axis=0))
    use &= scale > 0
    if not use.any():
        return ""
    z = (X[:, use] - X[:, use].mean(axis=0)) / scale[use]
    skew, kurtosis = np.abs((z**3).mean(axis=0)), np.abs((z**4).mean(axis=0) - 3)
    names = np.flatnonzero(use)
    if skew.max() > _SKEW:
        return f"column {names[skew.argmax()]} has skewness {skew.max():.1f}"
    if kurtosis.max() > _KURTOSIS:
        return f"column {names[kurtosis.argmax()]} has excess kurtosis {kurtosis.max():.1f}"
    few = [i for i, column in enumerate(X[:, use].T) if len(np.unique(column)) <= 5]
    return f"column {names[few[0]]} has {len(np.unique(X[:, names[few[0]]]))} different values" if few else ""
