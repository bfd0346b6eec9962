"""Priors over functions that a network's weight prior can be matched to: Gaussian processes, or any you write."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.functions.functional_prior.card import CARD

KERNELS = ("rbf", "white")


class FunctionPrior(Prior):
    """A prior over functions: draws are values at any rows. Subclass it as a frozen dataclass and write `at` and `off`.

    To be stored in files, a subclass is decorated with `foreknow.core.records.record`.
    """

    n_features: int = 1

    @abstractmethod
    def at(self, x: Tensor, n: int, *, generator: Generator) -> Tensor:
        """Values (n, m) of `n` functions at the rows x, shape (m, n_features) on the generator's device, in float64."""

    def grid(self, n_points: int = 50) -> Tensor:
        """Where a draw is looked at: a line through the origin, from -3 to 3 in every feature, float64."""
        line = torch.linspace(-3, 3, n_points, dtype=torch.float64)
        return line[:, None].expand(-1, self.n_features)

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        x: Tensor | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` functions as values at the rows `x`, or at `grid()`: shape (n, m).

        Raises:
            InputError: the target gave another shape, or numbers that are not finite.
        """
        check_int(type(self).__name__, "n", n, low=1)
        rows = (self.grid() if x is None else torch.as_tensor(x, dtype=torch.float64)).to(generator.device)
        values = self.at(rows, n, generator=generator)
        if tuple(values.shape) != (n, len(rows)) or not bool(values.isfinite().all()):
            raise InputError(
                f"{type(self).__name__}: draws must be finite, shape {(n, len(rows))}, got {tuple(values.shape)}."
            )
        return Draw(values.to(device or generator.device, dtype or torch.float32))

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """Draws along `grid()`."""
        rows = self.grid(120)
        values = self.sample(n, x=rows, generator=generator).value.numpy()
        names = {f"draw {number + 1}": row for number, row in enumerate(values)}
        return Lines(rows[:, 0].numpy(), names, "x", "f(x)", f"draws of {type(self).__name__}")


@register(CARD)
@dataclass(frozen=True)
class GPFunctions(FunctionPrior):
    """A Gaussian process with mean 0 and an RBF kernel, its scales known or drawn anew for every function.

    Args:
        lengthscale: in units of x, or "sqrt2d" for sqrt(2 n_columns).
        variance: of the function at a point.
        with_hyperprior: draw each column's lengthscale from LogNormal(ln lengthscale, 1) and the variance from
            LogNormal(0.1, 1), as published; `variance` multiplies the latter.
        kernel: "rbf", or "white": values at different rows are independent.
        n_features: columns of the rows that `sample` shows by itself.
        stretch: multiplies the lengthscale, whatever it is.
    """

    lengthscale: float | str = "sqrt2d"
    variance: float = 1.0
    with_hyperprior: bool = False
    kernel: str = "rbf"
    n_features: int = 1
    stretch: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.lengthscale, str):
            check_option("GPFunctions", "lengthscale", self.lengthscale, ("sqrt2d",))
        else:
            check_real("GPFunctions", "lengthscale", self.lengthscale, low=0, open_low=True)
        check_real("GPFunctions", "variance", self.variance, low=0, open_low=True)
        check_bool("GPFunctions", "with_hyperprior", self.with_hyperprior)
        check_option("GPFunctions", "kernel", self.kernel, KERNELS)
        check_int("GPFunctions", "n_features", self.n_features, low=1)
        check_real("GPFunctions", "stretch", self.stretch, low=0, open_low=True)

    def off(self) -> Prior:
        return replace(self, kernel="white")

    def stretched(self, factor: float) -> GPFunctions:
        """The same with lengthscales `factor` times as long: the placebo."""
        return replace(self, stretch=factor * self.stretch)

    def lengthscale_of(self, n_columns: int) -> float:
        """The lengthscale on rows of this many columns."""
        length = math.sqrt(2 * n_columns) if isinstance(self.lengthscale, str) else float(self.lengthscale)
        return self.stretch * length

    def at(self, x: Tensor, n: int, *, generator: Generator) -> Tensor:
        place, rows = generator.device, x.to(generator.device, torch.float64)
        z = torch.randn(n, len(rows), generator=generator, device=place, dtype=torch.float64)
        lengths = torch.full((1, rows.shape[1]), self.lengthscale_of(rows.shape[1]), dtype=torch.float64, device=place)
        variance = torch.full((1,), float(self.variance), dtype=torch.float64, device=place)
        if self.with_hyperprior:
            noise = torch.randn(n, rows.shape[1] + 1, generator=generator, device=place, dtype=torch.float64)
            lengths, variance = lengths * noise[:, 1:].exp(), variance * (0.1 + noise[:, 0]).exp()
        if self.kernel == "white":
            return (variance.sqrt()[:, None] * z).to(x.device)
        factor = cholesky(rbf(rows, rows, lengths))
        return (variance.sqrt()[:, None] * (factor @ z[:, :, None]).squeeze(-1)).to(x.device)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(lengthscale=0.6, with_hyperprior=True, n_features=2)]


def rbf(a: Tensor, b: Tensor, lengths: Tensor) -> Tensor:
    """Correlations (k, n, m) of rows (n, d) with rows (m, d), for k sets of lengthscales (k, d)."""
    distance = torch.cdist(a / lengths[:, None], b / lengths[:, None], compute_mode="donot_use_mm_for_euclid_dist")
    return (-0.5 * distance.square()).exp()


def cholesky(k: Tensor) -> Tensor:
    """Lower factors of correlation matrices (k, n, n), with jitter from 1e-8 to 1e-4."""
    eye = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    for jitter in (1e-8, 1e-6, 1e-4):
        factor: Tensor
        factor, status = torch.linalg.cholesky_ex(k + jitter * eye)
        if not bool(status.any()):
            return factor
    raise ConvergenceError("GPFunctions: a covariance has no Cholesky factor.", hint="Look for lengthscales near 0.")


def as_target(prior: object) -> FunctionPrior:
    """`prior` as a target, else a ConfigError that says what is missing."""
    if not isinstance(prior, FunctionPrior):
        raise ConfigError(
            f"FunctionalPrior: the target must be a FunctionPrior, got {type(prior).__name__}.",
            hint="Subclass foreknow.functions.FunctionPrior and write at(x, n, generator=...) and off().",
        )
    return prior
