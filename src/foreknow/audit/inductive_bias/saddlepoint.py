"""Bits without sampling, where the loss is a weighted sum of noncentral chi-squares (kernel hypotheses).

L = constant + sum_j l_j (z_j + mu_j)^2 with z_j ~ N(0, 1) has the cumulant generating function
K(t) = sum_j [-log(1 - 2 t l_j) / 2 + t l_j mu_j^2 / (1 - 2 t l_j)]. With K'(t) = eps, w = sign(t) sqrt(2 (t eps - K))
and u = t sqrt(K''(t)), Lugannani and Rice's formula is Pr[L <= eps] = Phi(w) + phi(w) (1/w - 1/u).
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special

from foreknow.audit.inductive_bias.bits import Array, check_eps
from foreknow.common.errors import ConvergenceError, InputError
from foreknow.common.validate import check_real

_NEAR_MEAN = 1e-4
"""|w| below which 1/w - 1/u is replaced by its limit, the difference being lost in rounding."""


@overload
def saddlepoint_bits(eigenvalues: ArrayLike, means: ArrayLike, eps: float, *, constant: float = ...) -> float: ...
@overload
def saddlepoint_bits(eigenvalues: ArrayLike, means: ArrayLike, eps: Array, *, constant: float = ...) -> Array: ...
def saddlepoint_bits(
    eigenvalues: ArrayLike, means: ArrayLike, eps: float | Array, *, constant: float = 0.0
) -> float | Array:
    """-log2 Pr[constant + sum_j l_j (z_j + mu_j)^2 <= eps] for z ~ N(0, I), at any depth of the tail.

    Args:
        eigenvalues: the weights l_j >= 0, shape (m,), at least one above 0; terms of weight 0 are dropped.
        means: the mu_j, shape (m,), or (m, k) for k outputs that share the weights.
        eps: the loss to reach, one number or several; above `constant`.
        constant: what no draw changes, >= 0.

    Returns:
        Bits, a number for a number, else an array of the shape of `eps`.

    Raises:
        InputError: weights or means that are not finite, or an eps that cannot be reached.
        ConvergenceError: the formula gave no probability.
    """
    owner = "saddlepoint_bits"
    weights, mu = np.asarray(eigenvalues, dtype=np.float64), np.asarray(means, dtype=np.float64)
    if weights.ndim != 1 or mu.ndim not in (1, 2) or mu.shape[:1] != weights.shape:
        raise InputError(
            f"{owner}: eigenvalues must have shape (m,) and means (m,) or (m, k), got {weights.shape} and {mu.shape}."
        )
    floor = check_real(owner, "constant", constant, low=0)
    keep = weights != 0
    if not np.isfinite(weights).all() or (weights < 0).any() or not keep.any() or not np.isfinite(mu[keep]).all():
        raise InputError(f"{owner}: eigenvalues must be finite, >= 0 and not all 0, and their means finite.")
    mu = mu.reshape(len(mu), -1)[keep]
    law = _QuadraticForm(weights[keep], np.square(mu).sum(1), mu.shape[1])
    targets = np.array([check_eps(owner, value, noise=floor) for value in np.ravel(eps)])
    bits = np.array([law.bits(value - floor) for value in targets])
    return float(bits[0]) if np.ndim(eps) == 0 else bits.reshape(np.shape(eps))


class _QuadraticForm:
    """sum_j l_j chi2(k, noncentrality m_j), in units where the largest l_j is 1."""

    def __init__(self, weights: Array, noncentrality: Array, k: int) -> None:
        self.unit = float(weights.max())
        self.l, self.m, self.k = weights / self.unit, noncentrality, k
        self.mean = float((self.l * (k + self.m)).sum())

    def cumulant(self, t: float) -> float:
        gap = 1 - 2 * t * self.l
        return float((-0.5 * self.k * np.log1p(-2 * t * self.l) + t * self.l * self.m / gap).sum())

    def derivative(self, t: float, order: int) -> float:
        """K', K'' or K''' at t."""
        scaled = 2 * self.l / (1 - 2 * t * self.l)
        weight = math.factorial(order - 1) * self.k + math.factorial(order) * self.m / (1 - 2 * t * self.l)
        return float((0.5 * scaled**order * weight).sum())

    def bits(self, eps: float) -> float:
        eps = eps / self.unit
        t = self._saddlepoint(eps)
        spread = self.derivative(t, 2)
        w = math.copysign(math.sqrt(max(0.0, 2 * (t * eps - self.cumulant(t)))), t)
        if abs(w) < _NEAR_MEAN:
            gap = self.derivative(t, 3) / (6 * spread**1.5)
        else:
            gap = 1 / w - 1 / (t * math.sqrt(spread))
        if w > 0:
            p = float(special.ndtr(w)) + math.exp(-0.5 * w * w) * gap / math.sqrt(2 * math.pi)
            log_p = math.log(min(p, 1.0))
        else:  # Phi(w) / phi(w) has a stable form, so the tail may be as deep as it likes
            ratio = math.sqrt(math.pi / 2) * float(special.erfcx(-w / math.sqrt(2))) + gap
            if not ratio > 0:
                raise ConvergenceError(
                    "saddlepoint_bits: Lugannani and Rice's formula gave no probability.",
                    hint="Use splitting_bits for this eps.",
                    statistics={"eps": eps * self.unit, "w": w, "t": t / self.unit},
                )
            log_p = min(math.log(ratio) - 0.5 * w * w - 0.5 * math.log(2 * math.pi), 0.0)
        return -log_p / math.log(2) + 0.0

    def _saddlepoint(self, eps: float) -> float:
        """The t with K'(t) = eps; K' rises from 0 at minus infinity to infinity at 1/2."""
        if eps == self.mean:
            return 0.0

        def gap(s: float) -> float:  # t = -s below the mean, (1 - 1 / (1 + 2 s)) / 2 above it
            return self.derivative(-s if eps < self.mean else s / (1 + 2 * s), 1) - eps

        far = 1.0
        while gap(far) * (self.mean - eps) > 0:
            far *= 4
        s = float(optimize.brentq(gap, 0.0, far, xtol=1e-300, rtol=1e-14, maxiter=500))
        return -s if eps < self.mean else s / (1 + 2 * s)
