"""Maps between a state as users know it and the real numbers the network works with, with their Jacobians.

T(x) is log x on "positive", log(x / (1 - x)) on "unit", x on "real"; densities of x are those of T(x) times |dT/dx|.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foreknow.common.errors import InputError
from foreknow.common.validate import check_option
from foreknow.core.predictive import Log, Logistic, Transform

SUPPORTS = ("positive", "real", "unit")


def check_supports(owner: str, supports: Sequence[str]) -> tuple[str, ...]:
    """The supports of a state's numbers, one a number."""
    return tuple(check_option(owner, "supports", support, SUPPORTS) for support in supports)


def transform_of(support: str) -> Transform | None:
    """The map from the real line onto the support; None where it is the identity."""
    return {"positive": Log(), "unit": Logistic(), "real": None}[support]


def to_real(x: Tensor, supports: Sequence[str]) -> Tensor:
    """T(x), number by number; x has shape (..., d).

    Raises:
        InputError: a number outside its support.
    """
    parts = []
    for i, support in enumerate(supports):
        value = x[..., i]
        if support == "positive":
            _refuse(value, value > 0, i, "greater than 0")
            value = value.log()
        elif support == "unit":
            _refuse(value, (value > 0) & (value < 1), i, "between 0 and 1")
            value = value.log() - (-value).log1p()
        parts.append(value)
    return torch.stack(parts, -1)


def from_real(t: Tensor, supports: Sequence[str]) -> Tensor:
    """The state x of T(x)."""
    maps = {"positive": torch.exp, "unit": torch.sigmoid}
    return torch.stack([maps.get(support, _same)(t[..., i]) for i, support in enumerate(supports)], -1)


def log_slope(t: Tensor, supports: Sequence[str]) -> Tensor:
    """Logarithm of |dT/dx| at the state whose image is t, summed over its numbers: shape (...)."""
    total = torch.zeros(t.shape[:-1], dtype=t.dtype, device=t.device)
    for i, support in enumerate(supports):
        transform = transform_of(support)
        if transform is not None:
            total = total - transform.log_abs_det(t[..., i])
    return total


def _same(value: Tensor) -> Tensor:
    return value


def _refuse(value: Tensor, good: Tensor, index: int, allowed: str) -> None:
    if not bool(good.all()):
        raise InputError(
            f"the state's number {index} must be {allowed}, got {float(value[~good].flatten()[0]):g} "
            f"({int((~good).sum())} value(s) in all)."
        )
