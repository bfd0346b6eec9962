"""The targets of the paper: h(x) = g(p(x)) with x standard normal and p a spread polynomial of degree k.

p = L^(-1/2) sum_i lam_i psi_i(x) with orthonormal psi_i of degree exactly k and E p^2 = 1, so that p(x) is close to
standard normal when L is large; g is given by Hermite coefficients, and E g'(z) is the first of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seed_of, torch_stream
from foreknow.common.validate import as_matrix, check_int, check_option, check_real
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.functions.hierarchical_polynomials.card import CARD
from foreknow.functions.hierarchical_polynomials.hermite import combine, hermite, read_link

KINDS = ("products", "directions")


@register(CARD)
@dataclass(frozen=True)
class HierarchicalPolynomial(Simulator):
    """Functions of one polynomial feature of standard normal inputs.

    Args:
        n_features: columns of x, d.
        k: degree of the feature p.
        link: of degrees that carry equal energy ("1,2,3"), or Hermite coefficients (c_0, c_1, ...) of g.
        kind: p sums "products" of k coordinates each, or the k-th Hermite polynomial along "directions"; both in
            a random orthonormal frame.
        uneven: how far the weights of the terms differ: their sizes are uniform on 1 -+ uneven, their signs random.
        noise: standard deviation of noise on y.
    """

    n_features: int = 16
    k: int = 2
    link: str | tuple[float, ...] = "1,2,3"
    kind: str = "products"
    uneven: float = 0.0
    noise: float = 0.0

    target: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        owner = "HierarchicalPolynomial"
        check_int(owner, "n_features", self.n_features, low=1)
        check_int(owner, "k", self.k, low=1, high=6)
        check_option(owner, "kind", self.kind, KINDS)
        check_real(owner, "uneven", self.uneven, low=0, high=1)
        check_real(owner, "noise", self.noise, low=0)
        read_link(self.link)
        if self.kind == "products" and self.n_features < self.k:
            raise ConfigError(f"{owner}: products of k={self.k} coordinates need as many, got {self.n_features}.")

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Hermite coefficients of the link, scaled to unit variance."""
        return read_link(self.link)

    @property
    def slope(self) -> float:
        """E g'(z) for standard normal z, which must not be small."""
        return self.coefficients[1]

    def describe(self) -> str:
        """One line for people."""
        return (
            f"g(p(x)) with x standard normal in {self.n_features} dimensions, p of degree {self.k} ({self.kind}), "
            f"g with Hermite coefficients {tuple(round(c, 3) for c in self.coefficients)}, E g' = {self.slope:.3g}"
        )

    def task(self, seed: int) -> HierarchicalTask:
        """One target, to draw any number of rows from."""
        check_int("HierarchicalPolynomial", "seed", seed, low=0)
        frame, weights = self._feature(torch_stream(seed, "hierarchical-polynomials", "task"), torch.float64)
        return HierarchicalTask(self, frame, weights, seed)

    @property
    def _n_terms(self) -> int:
        return self.n_features // self.k if self.kind == "products" else self.n_features

    def _feature(self, generator: Generator, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A random orthonormal frame (d, d) and weights of the terms (L,) of unit length, on the generator's device."""
        d = self.n_features
        place = generator.device
        gauss = torch.randn(d, d, generator=generator, device=place, dtype=torch.float64)
        frame, triangle = torch.linalg.qr(gauss)
        frame = frame * triangle.diagonal().sign()
        draw = torch.rand(self._n_terms, generator=generator, device=place, dtype=torch.float64)
        size = 1 + self.uneven * (2 * draw - 1)
        sign = (torch.rand(self._n_terms, generator=generator, device=place) < 0.5).double() * 2 - 1
        weights = size * sign
        return frame.to(dtype), (weights / weights.norm()).to(dtype)

    def feature_of(self, x: Tensor, frame: Tensor, weights: Tensor) -> Tensor:
        """p(x), shape (n,), for rows (n, d)."""
        z = x @ frame
        if self.kind == "products":
            terms = z[:, : self.k * self._n_terms].reshape(len(x), self._n_terms, self.k).prod(dim=2)
        else:
            terms = hermite(z, self.k)[self.k]
        return terms @ weights

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        place = generator.device
        x = torch.randn(n_tasks, n_rows, self.n_features, generator=generator, device=place, dtype=torch.float64)
        p = torch.stack([self.feature_of(rows, *self._feature(generator, rows.dtype)) for rows in x])
        y = combine(p, self.coefficients)
        if self.noise:
            y = y + self.noise * torch.randn(y.shape, generator=generator, device=place, dtype=y.dtype)
        return x.to(device, dtype), y.to(device, dtype), {"feature": p.to(device, dtype)}

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(n_features=6, k=3, link=(0.5, 1.0, -0.3), kind="directions", uneven=0.5, noise=0.1)]


@dataclass(frozen=True, eq=False)
class HierarchicalTask:
    """One target of the prior: `sample`, and what a learner is to find.

    Args:
        prior: what it was drawn from.
        frame, weights: of the feature.
        seed: of the target and its rows.
    """

    prior: HierarchicalPolynomial
    frame: Tensor
    weights: Tensor
    seed: int

    def sample(self, n: int, *, part: str = "train") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """`n` rows (n, d) with targets (n,); another `part` is independent, and more rows begin with the fewer."""
        check_int("HierarchicalTask", "n", n, low=1)
        rng = np.random.default_rng(self._seed_of(part))
        x = rng.standard_normal((n, self.prior.n_features))
        y = self.target(x)
        if self.prior.noise:
            y = y + self.prior.noise * np.random.default_rng(self._seed_of(part + " noise")).standard_normal(n)
        return x, y

    def _seed_of(self, part: str) -> int:
        return seed_of(self.seed, "hierarchical-polynomials", "rows", part)

    def feature(self, X: ArrayLike) -> NDArray[np.float64]:
        """The feature p at the rows of X, shape (n,)."""
        rows = torch.as_tensor(as_matrix("HierarchicalTask.feature", X))
        return np.asarray(self.prior.feature_of(rows, self.frame, self.weights).numpy())

    def target(self, X: ArrayLike) -> NDArray[np.float64]:
        """The target g(p(x)) at the rows of X, without noise, shape (n,)."""
        return np.asarray(combine(torch.as_tensor(self.feature(X)), self.prior.coefficients).numpy())

    @cached_property
    def variance(self) -> float:
        """Var g(p(x)), from a hundred thousand rows."""
        return float(self.sample(100_000, part="variance")[1].var())
