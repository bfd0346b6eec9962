"""Relative errors of fields, one number a row: L2, H1 by Fourier transform, H1 by finite differences.

All flatten the channels of a row together. A truth of zeros has no relative error; its norm counts as `floor`, by
default `least_norm` of the truths.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from foreknow.common.errors import ForeknowWarning

N_WEIGHTED = 20
"""Waves from this number on have weight 1 in the H1 loss."""
_ZERO = 1e-3
"""The least norm that a truth counts as, relative to the mean norm."""


def least_norm(truth: Tensor) -> float:
    """What the norm of a truth (n, C, H, W) counts as at the least; warns of fields that are zero everywhere."""
    norms = torch.linalg.vector_norm(truth.flatten(1), dim=1)
    floor = _ZERO * float(norms.mean()) or 1.0
    n_zero = int((norms == 0).sum())
    if n_zero:
        warnings.warn(
            f"{n_zero} target field(s) are zero everywhere; their error is taken against a norm of {floor:.3g}.",
            ForeknowWarning,
            stacklevel=3,
        )
    return floor


def relative_l2(predicted: Tensor, truth: Tensor, floor: float | None = None) -> Tensor:
    """||predicted - truth|| / ||truth|| of every row; (n, C, H, W) twice -> (n,)."""
    return _ratio(predicted - truth, truth, least_norm(truth) if floor is None else floor)


def relative_h1(predicted: Tensor, truth: Tensor, floor: float | None = None, n_weighted: int = N_WEIGHTED) -> Tensor:
    """||w F(predicted - truth)|| / ||w F truth|| with w^2 = 1 + kx^2 + ky^2, where |k| >= n_weighted counts as 0.

    The transform takes a field for periodic: a jump between opposite edges counts as a steep slope.
    """
    sides = [torch.fft.fftfreq(n, 1 / n, device=truth.device, dtype=truth.dtype) for n in truth.shape[-2:]]
    rows, columns = (torch.where(k.abs() < n_weighted, k, 0) ** 2 for k in sides)
    weight = (1 + rows[:, None] + columns).sqrt()
    error, whole = (weight * torch.fft.fft2(field, norm="ortho") for field in (predicted - truth, truth))
    return _ratio(error, whole, least_norm(truth) if floor is None else floor)


def relative_h1_differences(predicted: Tensor, truth: Tensor, floor: float | None = None) -> Tensor:
    """The same ratio with slopes by finite differences on the unit square, which takes no field for periodic."""
    parts = []
    for field in (predicted - truth, truth):
        slopes = torch.gradient(field, spacing=1 / (field.shape[-1] - 1), dim=[-2, -1])
        parts.append(torch.stack([field, *slopes], 1))
    return _ratio(parts[0], parts[1], least_norm(truth) if floor is None else floor)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "h1": relative_h1,
    "l2": relative_l2,
    "h1-differences": relative_h1_differences,
}
"""Name -> loss of every row."""


def _ratio(error: Tensor, truth: Tensor, floor: float) -> Tensor:
    above, below = (torch.linalg.vector_norm(field.flatten(1), dim=1) for field in (error, truth))
    ratio: Tensor = above / below.clamp_min(floor)
    return ratio
