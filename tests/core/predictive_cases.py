"""Small distributions of every kind, and numeric oracles, for the tests of foreknow.core.predictive."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foreknow.common.rng import torch_stream
from foreknow.core.predictive import (
    Affine,
    Bar,
    Empirical,
    Gaussian,
    GaussianMixture,
    Log,
    Predictive,
    StudentT,
    Transformed,
)

BORDERS = [-3.0, -1.5, -0.5, 0.0, 0.2, 1.0, 2.5]


def normals(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch_stream(seed, "cases"), dtype=dtype)


def _bar(dtype: torch.dtype, bounded: bool = False) -> Bar:
    return Bar(normals(2, 6, dtype=dtype), torch.tensor(BORDERS, dtype=dtype), bounded=bounded)


def _gaussian(dtype: torch.dtype) -> Gaussian:
    return Gaussian(torch.tensor([0.5, -1.0], dtype=dtype), torch.tensor([0.7, 1.5], dtype=dtype))


def _student(dtype: torch.dtype) -> StudentT:
    return StudentT(torch.tensor([6.0, 9.5], dtype=dtype), torch.tensor([0.3, -1.0], dtype=dtype), 0.8)


def _mixture(dtype: torch.dtype) -> GaussianMixture:
    return GaussianMixture(
        torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.0, -0.5]], dtype=dtype),
        torch.tensor([[-2.0, 0.5, 3.0], [0.0, 0.1, 4.0]], dtype=dtype),
        torch.tensor([[0.5, 0.3, 1.0], [1.0, 0.2, 0.4]], dtype=dtype),
    )


def _empirical(dtype: torch.dtype) -> Empirical:
    return Empirical(normals(60, 2, dtype=dtype), torch.linspace(0.5, 2.0, 60, dtype=dtype))


SMOOTH: dict[str, Callable[[torch.dtype], Predictive]] = {
    "gaussian": _gaussian,
    "student": _student,
    "mixture": _mixture,
    "affine": lambda dtype: Transformed(
        _student(dtype), Affine(torch.tensor([2.0, -1.0]), torch.tensor([0.5, 2.0], dtype=dtype))
    ),
    "log": lambda dtype: Transformed(Gaussian(torch.tensor([0.1, -0.4], dtype=dtype), 0.4), Log()),
}
CONTINUOUS = SMOOTH | {
    "bar": _bar,
    "bar_bounded": lambda dtype: _bar(dtype, bounded=True),
    "bar_affine": lambda dtype: Transformed(_bar(dtype), Affine(1.0, 3.0)),
}
NUMERIC = CONTINUOUS | {"empirical": _empirical}


def integrate(
    dist: Predictive, value: Callable[[Tensor], Tensor], low: float, high: float, points: int = 100_001
) -> Tensor:
    """Integral of value(y) * density(y) over [low, high] by the midpoint rule, shape (2,)."""
    step = (high - low) / points
    y = low + step * (torch.arange(points, dtype=dist.dtype) + 0.5)
    density = dist.log_prob(y[:, None]).exp()
    return (value(y)[:, None] * density).sum(0) * step
