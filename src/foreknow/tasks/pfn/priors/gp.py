"""Gaussian process priors, with the exact posterior as oracle.

Müller et al. (2022), section 4 of the paper and `fast_gp`, `fast_gp_mix` of the released code. Textbook
formulas: Rasmussen and Williams (2006), algorithm 2.1 (`posterior_moments`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Generator, Tensor

from foreknow.common.errors import CapabilityError, ConvergenceError, InputError
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.batch import Batch
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.nn.linalg import jittered_cholesky
from foreknow.tasks.pfn.card import CARD
from foreknow.tasks.pfn.priors.hyper import (
    Fixed,
    Gamma,
    Positive,
    Tables,
    as_hyper,
    normal,
    redraw_non_finite,
    uniform,
)

if TYPE_CHECKING:
    from foreknow.core.predictive import Gaussian, GaussianMixture

KERNELS = ("rbf", "matern12", "matern32", "matern52")
INPUTS = ("uniform", "normal")
_ORACLE_CELLS = 10**6  # covariance cells the mixture oracle holds at a time: few enough for the cache


@register(CARD)
@dataclass(frozen=True)
class GPPrior(Simulator):
    """Functions drawn from a zero-mean Gaussian process, observed with Gaussian noise.

    Each hyper-parameter is a number or a distribution (`Gamma`), drawn once per task. A task whose
    covariance has no Cholesky factor even with jitter is drawn again.

    Args:
        n_features: columns of x.
        kernel: "rbf", "matern12", "matern32" or "matern52".
        lengthscale: in units of x.
        outputscale: variance of the function.
        noise: variance (not standard deviation) of the noise; may be 0.
        ard: one lengthscale per column instead of one per task.
        x: rows are uniform on [0, 1]^d ("uniform") or standard normal ("normal").
    """

    n_features: int = 1
    kernel: str = "rbf"
    lengthscale: Positive = 0.2
    outputscale: Positive = 1.0
    noise: Positive = 0.01
    ard: bool = False
    x: str = "uniform"

    target: ClassVar[str] = "regression"
    view: ClassVar[str] = "curves"

    def __post_init__(self) -> None:
        check_int("GPPrior", "n_features", self.n_features, low=1)
        check_option("GPPrior", "kernel", self.kernel, KERNELS)
        check_option("GPPrior", "x", self.x, INPUTS)
        check_bool("GPPrior", "ard", self.ard)
        self._hypers()

    @classmethod
    def published_fixed(cls, n_features: int = 5) -> GPPrior:
        """The paper's process with known hyper-parameters."""
        return cls(n_features=n_features, lengthscale=0.6, outputscale=1.0, noise=1e-4)

    @classmethod
    def published_mix(cls, n_features: int = 5) -> GPPrior:
        """The paper's process with unknown hyper-parameters."""
        return cls(
            n_features=n_features,
            kernel="matern52",
            lengthscale=Gamma(3.0, 6.0),
            outputscale=Gamma(0.5, 0.15),
            noise=Gamma(1.1, 0.05),
            ard=True,
        )

    @classmethod
    def small_fixed(cls) -> GPPrior:
        """One column, lengthscale 0.2, noise of standard deviation 0.1: the small proof's known process."""
        return cls(lengthscale=0.2, outputscale=1.0, noise=0.01)

    @classmethod
    def small_mix(cls) -> GPPrior:
        """`small_fixed` with unknown lengthscale, Gamma(3, 6)."""
        return cls(lengthscale=Gamma(3.0, 6.0), outputscale=1.0, noise=0.01)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(),
            cls(n_features=2, kernel="matern32", lengthscale=Gamma(3.0, 6.0), x="normal"),
            cls.published_mix(n_features=2),
        ]

    def describe(self) -> str:
        """One line for people."""
        lengthscale, outputscale, noise = self._hypers()
        return (
            f"Gaussian process on {self.n_features} feature(s), kernel {self.kernel}{' (ARD)' * self.ard}, "
            f"lengthscale {lengthscale}, outputscale {outputscale}, noise variance {noise}"
        )

    def misspecified(self, factor: float = 5.0) -> GPPrior:
        """The wrong prior of the comparisons: all lengthscales `factor` times as long."""
        return replace(self, lengthscale=self._hypers()[0].scaled(factor))

    def _hypers(self) -> tuple[Fixed | Gamma, Fixed | Gamma, Fixed | Gamma]:
        return (
            as_hyper("GPPrior", "lengthscale", self.lengthscale),
            as_hyper("GPPrior", "outputscale", self.outputscale),
            as_hyper("GPPrior", "noise", self.noise, positive=False),
        )

    def _draw_hypers(
        self, shape: tuple[int, ...], generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Lengthscales (*shape, d or 1), outputscales and noise variances (*shape)."""
        lengthscale, outputscale, noise = self._hypers()
        return (
            lengthscale.sample((*shape, self.n_features if self.ard else 1), generator, device, dtype),
            outputscale.sample(shape, generator, device, dtype),
            noise.sample(shape, generator, device, dtype),
        )

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        def draw(n: int) -> Tables:
            lengthscale, outputscale, noise = self._draw_hypers((n,), generator, device, dtype)
            source = uniform if self.x == "uniform" else normal
            x = source((n, n_rows, self.n_features), generator, device, dtype)
            z = normal((n, n_rows, 1), generator, device, dtype)
            factor = jittered_cholesky(covariance(self.kernel, x, lengthscale, outputscale, noise))
            info = {"lengthscale": lengthscale, "outputscale": outputscale, "noise": noise}
            return x, (factor @ z).squeeze(-1), info

        return redraw_non_finite("GPPrior", draw, n_tasks)

    def exact(self, batch: Batch) -> Gaussian:
        """Posterior predictive of each query's y (noise included), for known hyper-parameters.

        Raises:
            CapabilityError: if a hyper-parameter is a distribution.
            InputError: if the batch has another number of columns.
        """
        from foreknow.core.predictive import Gaussian

        return Gaussian(*self._exact_moments(batch))

    def mixture_oracle(self, batch: Batch, n_samples: int = 200, *, generator: Generator) -> GaussianMixture:
        """Posterior predictive of each query's y for unknown hyper-parameters, by importance sampling.

        Every task gets `n_samples` draws of the hyper-parameters from the prior; each is weighted by the
        marginal likelihood of the context. The error falls with the square root of `n_samples`.

        Raises:
            InputError: if the batch has another number of columns.
        """
        from foreknow.core.predictive import GaussianMixture

        log_weights, means, sds = self._mixture_moments(batch, n_samples, generator)
        return GaussianMixture(log_weights[:, None, :].expand_as(means), means, sds)

    def _exact_moments(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Means and standard deviations (b, m), computed in float64, in the batch's dtype."""
        hypers = self._hypers()
        if not all(isinstance(hyper, Fixed) for hyper in hypers):
            raise CapabilityError(
                "GPPrior: exact() needs known hyper-parameters, and at least one here is a distribution.",
                hint="Use mixture_oracle(batch, generator=...).",
            )
        self._check_batch(batch)
        device = batch.context_x.device
        unused = torch.Generator()
        settings = self._draw_hypers((batch.n_tasks,), unused, device, torch.float64)
        mean, sd, _ = posterior_moments(
            self.kernel, batch.context_x.double(), batch.context_y.double(), batch.query_x.double(), *settings
        )
        dtype = batch.query_x.dtype
        return mean.to(dtype), sd.to(dtype).clamp_min(torch.finfo(dtype).tiny)

    def _mixture_moments(self, batch: Batch, n_samples: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised log weights (b, S), means and standard deviations (b, m, S), in the batch's dtype."""
        check_int("GPPrior", "n_samples", n_samples, low=1)
        self._check_batch(batch)
        device, dtype = batch.context_x.device, batch.query_x.dtype
        settings = self._draw_hypers((batch.n_tasks, n_samples), generator, device, torch.float64)
        cells = n_samples * max(1, batch.n_context) * (batch.n_context + batch.n_query)
        parts = []
        for tasks in torch.split(torch.arange(batch.n_tasks, device=device), max(1, _ORACLE_CELLS // cells)):
            rows = (batch.context_x[tasks], batch.context_y[tasks], batch.query_x[tasks])
            mean, sd, log_marginal = posterior_moments(
                self.kernel,
                *(value.double().unsqueeze(1) for value in rows),  # (c, 1, ...) against (c, S, ...)
                *(setting[tasks] for setting in settings),
            )
            parts.append((log_marginal.log_softmax(dim=-1), mean.transpose(1, 2), sd.transpose(1, 2)))
        log_weights, means, sds = (torch.cat(values).to(dtype) for values in zip(*parts, strict=True))
        return log_weights, means, sds.clamp_min(torch.finfo(dtype).tiny)

    def _check_batch(self, batch: Batch) -> None:
        if batch.n_features != self.n_features:
            raise InputError(f"GPPrior: the batch has {batch.n_features} column(s), the prior {self.n_features}.")


def covariance(kernel: str, x: Tensor, lengthscale: Tensor, outputscale: Tensor, noise: Tensor) -> Tensor:
    """Covariance of noisy observations, shape (*b, n, n).

    Args:
        kernel: one of `KERNELS`.
        x: rows, shape (*b, n, d).
        lengthscale: shape (*b, 1) or (*b, d).
        outputscale: shape (*b).
        noise: variance, shape (*b).
    """
    k = outputscale[..., None, None] * correlation(kernel, x, x, lengthscale)
    k.diagonal(dim1=-2, dim2=-1).add_(noise[..., None])
    return k


def correlation(kernel: str, a: Tensor, b: Tensor, lengthscale: Tensor) -> Tensor:
    """Correlations (*b, n, m) of rows (*b, n, d) with rows (*b, m, d) at lengthscale (*b, 1) or (*b, d)."""
    scale = lengthscale[..., None, :]
    # The quick matrix form of cdist loses the digits of nearby points, which the Cholesky factor needs.
    r = torch.cdist(a / scale, b / scale, compute_mode="donot_use_mm_for_euclid_dist")
    if kernel == "rbf":
        return r.square_().mul_(-0.5).exp_()
    if kernel == "matern12":
        return torch.exp(-r)
    if kernel == "matern32":
        r = math.sqrt(3) * r
        return (1 + r) * torch.exp(-r)
    r = math.sqrt(5) * r
    return (1 + r + r**2 / 3) * torch.exp(-r)


def posterior_moments(
    kernel: str,
    context_x: Tensor,
    context_y: Tensor,
    query_x: Tensor,
    lengthscale: Tensor,
    outputscale: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Moments of the queries' y given the context, and the log marginal likelihood of the context.

    Leading axes *b broadcast, so one table can meet many hyper-parameters.

    Args:
        kernel: one of `KERNELS`.
        context_x: shape (*b, n, d); n may be 0.
        context_y: shape (*b, n).
        query_x: shape (*b, m, d).
        lengthscale: shape (*b, 1) or (*b, d).
        outputscale: shape (*b).
        noise: variance, shape (*b).

    Returns:
        Means (*b, m), standard deviations with noise (*b, m), log marginal likelihoods (*b).

    Raises:
        ConvergenceError: if a covariance has no Cholesky factor.
    """
    n, m = context_x.shape[-2], query_x.shape[-2]
    if n == 0:
        sd = (outputscale + noise).sqrt()[..., None].expand(*outputscale.shape, m)
        return torch.zeros_like(sd), sd.clone(), torch.zeros_like(outputscale)
    factor = jittered_cholesky(covariance(kernel, context_x, lengthscale, outputscale, noise))
    if bool(factor.isnan().any()):
        raise ConvergenceError(
            "the covariance of the context has no Cholesky factor even with jitter.",
            hint="Look for non-finite inputs or extreme hyper-parameters.",
        )
    cross = outputscale[..., None, None] * correlation(kernel, context_x, query_x, lengthscale)
    half = torch.linalg.solve_triangular(factor, cross, upper=False)  # (*b, n, m)
    white = torch.linalg.solve_triangular(factor, context_y[..., None].expand(*factor.shape[:-1], 1), upper=False)
    mean = (half * white).sum(dim=-2)
    variance = (outputscale[..., None] - half.square().sum(dim=-2)).clamp_min(0) + noise[..., None]
    sd = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
    log_det_half = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    log_marginal = -0.5 * white.square().sum(dim=(-2, -1)) - log_det_half - 0.5 * n * math.log(2 * math.pi)
    return mean, sd, log_marginal
