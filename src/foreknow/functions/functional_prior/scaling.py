"""How a user's numbers are brought to the scale that the prior speaks of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
_SMALLEST = 1e-12
_FAR = 1e4  # standardised inputs beyond this are as far as any


@dataclass(frozen=True)
class Scaling:
    """Shifts and scales, from training rows only.

    Args:
        x_shift, x_scale: shape (d,).
        y_shift, y_scale: of the target.
    """

    x_shift: Array
    x_scale: Array
    y_shift: float = 0.0
    y_scale: float = 1.0

    @classmethod
    def of(cls, X: Array, target: Array, *, x: bool = True, y: bool = True) -> Scaling:
        """Mean 0 and standard deviation 1 of every column (if `x`) and of the target (if `y`)."""
        shift, scale = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if x:
            shift, spread = X.mean(0), X.std(0)
            scale = np.where(spread > _SMALLEST * np.abs(shift), spread, 1.0)
            scale = np.where(scale > 0, scale, 1.0)
        if not y:
            return cls(shift, scale)
        mean, spread_y = float(target.mean()), float(target.std())
        return cls(shift, scale, mean, spread_y if spread_y > _SMALLEST * abs(mean) else 1.0)

    def inputs(self, X: Array) -> Tensor:
        """Rows on the network's scale, float32."""
        return torch.as_tensor(np.clip((X - self.x_shift) / self.x_scale, -_FAR, _FAR), dtype=torch.float32)

    def targets(self, y: Array) -> Tensor:
        """Targets on the network's scale, float32."""
        return torch.as_tensor((y - self.y_shift) / self.y_scale, dtype=torch.float32)
