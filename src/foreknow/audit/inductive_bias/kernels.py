"""Hypotheses of a Gaussian process that fits the training data exactly: their test loss has a known law.

With k outputs and kernel K, the hypotheses on the test inputs are f = m + C^(1/2) Z, where m = K_*D K_DD^-1 Y and
C = K_** - K_*D K_DD^-1 K_D* (phase 1a of the paper). With C = U diag(lam) U', the loss L = mean (f - y)^2 over N test
rows and k outputs is sum_j lam_j / (N k) (z_j + mu_j)^2 with mu_j = u_j'(m - y) / sqrt(lam_j); directions with
lam_j = 0 add a constant.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from foreknow.audit.inductive_bias.bits import Array, Bits
from foreknow.audit.inductive_bias.saddlepoint import saddlepoint_bits
from foreknow.common.errors import ConfigError, ConvergenceError, ForeknowWarning, InputError
from foreknow.common.validate import as_matrix, check_int, check_real
from foreknow.core.records import record

JITTER = 1e-6
"""Added to the diagonal, in units of its mean, where the kernel matrix is singular."""
_SINGULAR = 1e-10
"""A squared pivot below this share of the largest counts as zero."""
_PRECONDITIONER = 1000
"""Rows that the preconditioner of conjugate gradients is built from."""
_PAIRS = 1000
"""Rows that the median distance is taken over."""


@record
@dataclass(frozen=True)
class RBF:
    """exp(-|x - x'|^2 / (2 sigma^2)).

    Args:
        lengthscale: sigma in units of x, or "median": the median distance of different training rows.
    """

    lengthscale: float | str = "median"

    def __post_init__(self) -> None:
        if self.lengthscale != "median":
            check_real("RBF", "lengthscale", self.lengthscale, low=0, open_low=True)

    def resolve(self, x: Tensor) -> RBF:
        """The same kernel with a number as lengthscale, from training rows (n, d)."""
        if self.lengthscale != "median":
            return self
        rows = x[:: -(-len(x) // _PAIRS)]
        distances = torch.nn.functional.pdist(rows)
        distances = distances[distances > 0]
        if not len(distances):
            raise InputError(
                "RBF: the median distance needs two different training rows.", hint="Give a number as lengthscale."
            )
        return replace(self, lengthscale=float(distances.median()))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Kernel of rows (n, d) with rows (m, d), shape (n, m)."""
        assert not isinstance(self.lengthscale, str), "resolve the lengthscale first"
        # The quick matrix form of cdist loses the digits of nearby points, which the Cholesky factor needs.
        r = torch.cdist(a / self.lengthscale, b / self.lengthscale, compute_mode="donot_use_mm_for_euclid_dist")
        return r.square_().mul_(-0.5).exp_()


@record
@dataclass(frozen=True)
class White:
    """1 for the same row, else 0: what is known of one input says nothing of another."""

    def resolve(self, x: Tensor) -> White:
        return self

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Kernel of rows (n, d) with rows (m, d), shape (n, m)."""
        return (torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") == 0).to(a.dtype)


class KernelHypotheses:
    """A Gaussian process as a broad space of hypotheses, to be conditioned on fitting the training data.

    Args:
        kernel: `RBF` or `White`, or any object with their `resolve` and `__call__`.
        n_direct: training rows up to which the kernel matrix is factorised; beyond, systems are solved by conjugate
            gradients with `JITTER`, block by block.
        device: where to compute, in float64.
    """

    def __init__(self, kernel: Any = None, *, n_direct: int = 5000, device: torch.device | str = "cpu") -> None:
        self.kernel = RBF() if kernel is None else kernel
        self.n_direct = check_int("KernelHypotheses", "n_direct", n_direct, low=0)
        self.device = torch.device(device)
        if not (callable(self.kernel) and hasattr(self.kernel, "resolve")):
            raise ConfigError(f"KernelHypotheses: kernel must be RBF or White, got {kernel!r:.80}.")

    def condition(self, X: ArrayLike, Y: ArrayLike) -> FittingKernel:
        """The hypotheses that fit the training data.

        Args:
            X: rows, shape (n, d).
            Y: targets, shape (n,) or (n, k); one-hot for classes.

        Raises:
            InputError: the data cannot be used.
        """
        owner = "KernelHypotheses"
        x = torch.as_tensor(as_matrix(owner, X), device=self.device)
        y = torch.as_tensor(_targets(owner, Y, len(x), "Y"), device=self.device)
        kernel = self.kernel.resolve(x)
        factor, jitter = (None, JITTER) if len(x) > self.n_direct else _factor(kernel(x, x))
        fitted = FittingKernel(kernel, x, y, torch.empty_like(y), factor, jitter)
        return replace(fitted, alpha=fitted.solve(y).contiguous())


@dataclass(frozen=True)
class FittingKernel:
    """Hypotheses of a Gaussian process that fit the training data.

    Args:
        kernel: with its lengthscale as a number.
        x: training rows, shape (n, d).
        y: targets, shape (n, k).
        alpha: K_DD^-1 Y, shape (n, k).
        factor: lower Cholesky factor of K_DD, or None where systems are solved by conjugate gradients.
        jitter: what was added to the diagonal of K_DD.
    """

    kernel: Any
    x: Tensor
    y: Tensor
    alpha: Tensor
    factor: Tensor | None
    jitter: float

    @property
    def train_loss(self) -> float:
        """Mean squared error on the training data that every hypothesis shares: 0 but for rounding and jitter."""
        return float((_product(self.kernel, self.x, self.alpha) - self.y).square().mean())

    def solve(self, right: Tensor) -> Tensor:
        """K_DD^-1 right, for right of shape (n, m)."""
        if self.factor is not None:
            return torch.cholesky_solve(right, self.factor)
        return _conjugate_gradients(self.kernel, self.x, self.jitter, right)

    def moments(self, X: ArrayLike) -> tuple[Tensor, Tensor]:
        """Mean (N, k) and variance (N,) of the hypotheses at each row of X."""
        x = self._rows(X)
        cross = self.kernel(self.x, x)
        prior = self.kernel(x[:1], x[:1])[0].expand(len(x))  # both kernels are stationary
        return cross.T @ self.alpha, (prior - (cross * self.solve(cross)).sum(0)).clamp_min(0)

    def law(self, X_test: ArrayLike, Y_test: ArrayLike) -> KernelLaw:
        """The law of the test loss.

        Args:
            X_test: rows, shape (N, d).
            Y_test: their targets, shape (N,) or (N, k).

        Raises:
            InputError: the data cannot be used, or no hypothesis differs from another on these rows.
        """
        x = self._rows(X_test)
        y = torch.as_tensor(_targets("FittingKernel", Y_test, len(x), "Y_test"), device=self.x.device)
        if y.shape[1] != self.y.shape[1]:
            raise InputError(f"FittingKernel: Y_test has {y.shape[1]} outputs, the training targets {self.y.shape[1]}.")
        cross = self.kernel(self.x, x)
        if not isinstance(self.kernel, White) and float(cross.amax(0).median()) < 0.01:
            warnings.warn(
                "FittingKernel: most test rows have a kernel below 0.01 with every training row, so the training data "
                "say nothing about them and the bits measure nothing but the spread of the prior. The lengthscale "
                f"({getattr(self.kernel, 'lengthscale', 'unknown')}) is too short for these inputs; try RBF('median').",
                ForeknowWarning,
                stacklevel=2,
            )
        residual = cross.T @ self.alpha - y
        covariance = self.kernel(x, x) - cross.T @ self.solve(cross)
        variances, directions = torch.linalg.eigh(0.5 * (covariance + covariance.T))
        shifts = directions.T @ residual  # (N, k)
        free = variances > 1e-10 * max(1.0, float(variances[-1]))
        if not bool(free.any()):
            raise InputError(
                "FittingKernel: all hypotheses agree on the test rows, so every loss is the same.",
                hint="Are the test rows training rows, or is the lengthscale far too long?",
            )
        n_cells = residual.numel()
        constant = float(shifts[~free].square().sum()) / n_cells
        means = shifts[free] / variances[free].sqrt()[:, None]
        return KernelLaw(variances[free] / n_cells, means, constant)

    def bits(self, X_test: ArrayLike, Y_test: ArrayLike, eps: ArrayLike) -> float | Array:
        """-log2 Pr[L <= eps], exactly but for the saddlepoint formula; a number for a number, else an array."""
        return saddlepoint_bits_of(self.law(X_test, Y_test), eps)

    def sample_losses(
        self, n: int, generator: Generator, *, X_test: ArrayLike, Y_test: ArrayLike
    ) -> NDArray[np.float64]:
        """Test losses of `n` hypotheses, shape (n,)."""
        return self.law(X_test, Y_test).sample_losses(n, generator)

    def _rows(self, X: ArrayLike) -> Tensor:
        x = torch.as_tensor(as_matrix("FittingKernel", X), device=self.x.device)
        if x.shape[1] != self.x.shape[1]:
            raise InputError(f"FittingKernel: rows have {x.shape[1]} columns, the training rows {self.x.shape[1]}.")
        return x


@dataclass(frozen=True)
class KernelLaw:
    """The law of L = constant + sum_j weights_j (z_j + means_j)^2 with z ~ N(0, I), for k outputs side by side.

    Args:
        weights: shape (m,), above 0.
        means: shape (m, k).
        constant: the loss that no hypothesis goes below.
    """

    weights: Tensor
    means: Tensor
    constant: float

    @property
    def n_latent(self) -> int:
        """Standard normal numbers behind a hypothesis."""
        return self.means.numel()

    @property
    def mean(self) -> float:
        """Expected loss."""
        return self.constant + float((self.weights[:, None] * (1 + self.means.square())).sum())

    def loss(self, z: Tensor) -> Tensor:
        """Losses (n,) of latents (n, n_latent)."""
        weights = self.weights.repeat_interleave(self.means.shape[1])
        return (z + self.means.flatten()).square() @ weights + self.constant

    def sample_losses(self, n: int, generator: Generator) -> NDArray[np.float64]:
        """Losses of `n` hypotheses, shape (n,)."""
        check_int("KernelLaw", "n", n, low=1)
        k = self.means.shape[1]
        # Rotated so that the k means of a direction become one: k - 1 of its squares are then without noncentrality.
        weights, shift = self.weights.cpu().numpy(), self.means.norm(dim=1).cpu().numpy()
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
        found = []
        for start in range(0, n, step := max(1, 4_000_000 // len(weights))):
            size = (min(step, n - start), len(weights))
            square = np.square(rng.standard_normal(size) + shift)
            if k > 1:
                square += rng.chisquare(k - 1, size)
            found.append(square @ weights + self.constant)
        return np.concatenate(found)

    def bits(self, eps: float) -> Bits:
        """The bits at one target, by the saddlepoint formula; it needs no interval, for nothing is sampled."""
        value = float(saddlepoint_bits_of(self, eps))
        note = "eps is above the median loss: less than one bit, uninformative" if value < 1 else ""
        return Bits(value, value, value, "saddlepoint", note=note)


def saddlepoint_bits_of(law: KernelLaw, eps: ArrayLike) -> float | Array:
    """`saddlepoint_bits` of a kernel law."""
    target = float(eps) if np.ndim(eps) == 0 else np.asarray(eps, dtype=np.float64)  # type: ignore[arg-type]
    return saddlepoint_bits(law.weights.cpu().numpy(), law.means.cpu().numpy(), target, constant=law.constant)


def _targets(owner: str, Y: ArrayLike, n: int, name: str) -> Array:
    array = np.asarray(Y)
    matrix = as_matrix(owner, array[:, None] if array.ndim == 1 else array, name=name)
    if len(matrix) != n:
        raise InputError(f"{owner}: {name} has {len(matrix)} rows, its inputs {n}.")
    return matrix


def _factor(k: Tensor) -> tuple[Tensor, float]:
    """Lower Cholesky factor of a kernel matrix and the jitter it needed, with a warning where it needed any."""
    factor, status = torch.linalg.cholesky_ex(k)
    scale = float(k.diagonal().mean())
    if not int(status) and float(factor.diagonal().square().min()) > _SINGULAR * scale:
        return factor, 0.0
    jitter = JITTER * scale
    warnings.warn(
        f"KernelHypotheses: the kernel matrix is singular (rows are alike at this lengthscale), so {jitter:.1e} was "
        "added to its diagonal; the hypotheses then fit the training data up to `train_loss` only.",
        ForeknowWarning,
        stacklevel=3,
    )
    return torch.linalg.cholesky(k + jitter * torch.eye(len(k)).to(k)), jitter


def _product(kernel: Any, x: Tensor, v: Tensor) -> Tensor:
    """K(x, x) v without holding K."""
    step = max(1, 20_000_000 // len(x))
    return torch.cat([kernel(x[start : start + step], x) @ v for start in range(0, len(x), step)])


def _conjugate_gradients(
    kernel: Any, x: Tensor, jitter: float, right: Tensor, *, tolerance: float = 1e-8, n_steps: int = 1000
) -> Tensor:
    """Solve (K + jitter I) found = right for all columns side by side, to a residual of `tolerance` relative to each.

    Preconditioned by K's projection on some of the rows (Nystroem), which a smooth kernel is close to.
    """
    chosen = x[:: -(-len(x) // _PRECONDITIONER)]
    root = torch.linalg.cholesky(kernel(chosen, chosen) + JITTER * torch.eye(len(chosen)).to(x))
    basis = torch.linalg.solve_triangular(root, kernel(chosen, x), upper=False).T  # (n, m)
    inner = torch.linalg.cholesky(basis.T @ basis + jitter * torch.eye(len(chosen)).to(x))

    def precondition(v: Tensor) -> Tensor:
        rest: Tensor = v - basis @ torch.cholesky_solve(basis.T @ v, inner)
        return rest / jitter

    tiny = torch.finfo(right.dtype).tiny
    found, residual = torch.zeros_like(right), right.clone()
    goal = tolerance * right.norm(dim=0)
    way = better = precondition(residual)
    size = (residual * better).sum(0)
    for _ in range(n_steps):
        if bool((residual.norm(dim=0) <= goal).all()):
            return found
        image = _product(kernel, x, way) + jitter * way
        step = size / (way * image).sum(0).clamp_min(tiny)
        found += step * way
        residual -= step * image
        better = precondition(residual)
        new = (residual * better).sum(0)
        way = better + new / size.clamp_min(tiny) * way
        size = new
    raise ConvergenceError(
        f"KernelHypotheses: conjugate gradients did not converge in {n_steps} steps.",
        hint="Use a shorter lengthscale or fewer rows, or raise n_direct if the matrix fits into memory.",
        statistics={"worst_residual": float((residual.norm(dim=0) / goal.clamp_min(tiny)).max()) * tolerance},
    )
