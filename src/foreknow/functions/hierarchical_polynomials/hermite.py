"""Hermite polynomials, normalised under the standard normal law, and the kernel of one degree.

h_j = He_j / sqrt(j!), so that E h_i(z) h_j(z) = [i = j] and h_j' = sqrt(j) h_{j-1}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from foreknow.common.errors import ConfigError


def hermite(z: Tensor, degree: int) -> list[Tensor]:
    """h_0 .. h_degree at `z`, by their three-term recursion."""
    values = [torch.ones_like(z)]
    for j in range(degree):
        before = values[j - 1] * math.sqrt(j) if j else 0.0
        values.append((z * values[j] - before) / math.sqrt(j + 1))
    return values


def combine(z: Tensor, coefficients: Sequence[float]) -> Tensor:
    """sum_j c_j h_j(z)."""
    total = torch.zeros_like(z)
    for c, value in zip(coefficients, hermite(z, len(coefficients) - 1), strict=True):
        if c:
            total = total + c * value
    return total


def read_link(link: str | Sequence[float]) -> tuple[float, ...]:
    """Hermite coefficients (c_0, c_1, ...) of a link, scaled to E g = 0 aside, E g^2 = 1.

    Args:
        link: degrees of equal energy with commas ("1,2,3"), or the coefficients themselves.

    Raises:
        ConfigError: neither of these, or a constant link.
    """
    problem = (
        f"link must name degrees >= 1 with commas ('1,2,3') or give finite Hermite coefficients, got {link!r:.60}."
    )
    if isinstance(link, str):
        words = [word.strip() for word in link.split(",")]
        if not all(word.isdigit() and 1 <= int(word) <= 12 for word in words):
            raise ConfigError(problem)
        degrees = {int(word) for word in words}
        return tuple(float(j in degrees) / math.sqrt(len(degrees)) for j in range(max(degrees) + 1))
    try:
        given = tuple(float(c) for c in link)
    except (TypeError, ValueError):
        raise ConfigError(problem) from None
    size = math.sqrt(sum(c * c for c in given[1:]))
    if not 0 < size < math.inf or not math.isfinite(given[0]):
        raise ConfigError(problem)
    return (given[0] / size, *(c / size for c in given[1:]))


def degree_kernel(inner: Tensor, left: Tensor, right: Tensor, n_features: int, degree: int) -> list[Tensor]:
    """For j = 0..degree the kernel of all polynomials of degree exactly j: sum over |a| = j of h_a(x) h_a(x').

    It is the coefficient of t^j in Mehler's kernel
    (1 - t^2)^(-d/2) exp[(t <x, x'> - t^2 (|x|^2 + |x'|^2) / 2) / (1 - t^2)].

    Args:
        inner: <x, x'>, shape (n, m).
        left, right: |x|^2, shape (n, 1), and |x'|^2, shape (1, m).
        n_features: d.
        degree: largest j.
    """
    half = 0.5 * (left + right)
    # Coefficients of the logarithm: odd powers carry <x, x'>, even ones d / (2 i) for t^(2 i) and minus `half`.
    log = [inner if i % 2 else n_features / i - half for i in range(1, degree + 1)]
    found = [torch.ones_like(inner)]
    for j in range(1, degree + 1):  # the exponential of a power series
        found.append(sum((i * log[i - 1] * found[j - i] for i in range(1, j + 1)), torch.zeros_like(inner)) / j)
    return found


def n_polynomials(n_features: int, degree: int) -> int:
    """Dimension of the polynomials of degree exactly `degree` in the Hermite basis."""
    return math.comb(n_features + degree - 1, degree)
