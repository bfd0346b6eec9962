"""Ridge regression with its penalty chosen by leave-one-out, in closed form, and the gradient descent it replaces.

Both minimise (1/n) |y - F u|^2 + xi |u|^2. With F = U S V', leave-one-out residuals are (y - H y)_i / (1 - H_ii),
H = U diag(s^2 / (s^2 + n xi)) U'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foreknow.common.errors import ConvergenceError

_GRID = torch.logspace(-8, 4, 49, dtype=torch.float64)
"""Penalties n xi that are tried, in units of the mean squared length of a row of F."""


@dataclass(frozen=True)
class Fitted:
    """What a ridge regression found.

    Args:
        weights: u, shape (m,); of a kernel, one a training row.
        penalty: xi.
        held_out: prediction of every training row without that row, shape (n,).
        loo: mean squared leave-one-out residual.
    """

    weights: Tensor
    penalty: float
    held_out: Tensor
    loo: float


def ridge(matrix: Tensor, y: Tensor, penalty: float | None = None, *, gram: bool = False) -> Fitted:
    """Ridge regression of y (n,) on features (n, m), or with a kernel's Gram matrix (n, n) if `gram`.

    Args:
        matrix: features, or the Gram matrix.
        y: targets.
        penalty: xi; None chooses it by leave-one-out.
        gram: what `matrix` is.
    """
    n = len(y)
    dual = gram or matrix.shape[1] >= n
    k = matrix if gram else matrix @ matrix.T if dual else matrix.T @ matrix
    values, vectors = torch.linalg.eigh(k)
    values = values.clamp_min(0.0)
    unit = float(k.diagonal().sum()) / n  # mean squared length of a row
    if not unit > 0:  # nothing to learn from: every row is zero
        held_out = torch.zeros_like(y)
        return Fitted(y.new_zeros(matrix.shape[1]), penalty or 0.0, held_out, float(y.square().mean()))
    keep = values > n * unit * 1e-13
    values, vectors = values[keep], vectors[:, keep]
    left = vectors if dual else (matrix @ vectors) / values.sqrt()  # U, (n, r)
    along = left.T @ y
    tried = unit * _GRID.to(y) if penalty is None else y.new_tensor([n * penalty])
    shrink = values[:, None] / (values[:, None] + tried)  # (r, n_tried)
    left_over = (1 - left.square() @ shrink).clamp_min(1e-8)
    residuals = (y[:, None] - left @ (along[:, None] * shrink)) / left_over
    best = int(residuals.square().mean(dim=0).argmin())
    total = float(tried[best])
    solved = vectors @ (along / (values + total)) if dual else vectors @ (values.sqrt() * along / (values + total))
    weights = matrix.T @ solved if dual and not gram else solved
    return Fitted(weights, total / n, y - residuals[:, best], float(residuals[:, best].square().mean()))


def descend(matrix: Tensor, y: Tensor, penalty: float, n_steps: int) -> Tensor:
    """Gradient descent from zero on (1/n) |y - F u|^2 + xi |u|^2 with the step 1 / L; weights (m,).

    Raises:
        ConvergenceError: the weights are not finite.
    """
    n, m = matrix.shape
    small = matrix @ matrix.T if m >= n else matrix.T @ matrix
    step = 1.0 / (2.0 * float(torch.linalg.eigvalsh(small)[-1].clamp_min(1e-300)) / n + 2.0 * penalty)
    u = torch.zeros(m, dtype=y.dtype, device=y.device)
    for _ in range(n_steps):
        u = u - step * (2.0 / n * (matrix.T @ (matrix @ u - y)) + 2.0 * penalty * u)
    if not bool(u.isfinite().all()):
        raise ConvergenceError("gradient descent gave weights that are not finite.", hint="Use solver='closed'.")
    return u
