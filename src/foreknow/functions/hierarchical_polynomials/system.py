"""The system `hierarchical-polynomials`: a three-layer network trained layer by layer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import CheckpointError, ConfigError, ForeknowWarning
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.predictive import Gaussian, Predictive
from foreknow.core.prior import Misapplied, Prior, Unrelated
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Example, State, System, Tags
from foreknow.data.numeric import read_numeric
from foreknow.functions.hierarchical_polynomials.card import CARD
from foreknow.functions.hierarchical_polynomials.hermite import n_polynomials
from foreknow.functions.hierarchical_polynomials.network import (
    INNER,
    KERNELS,
    Feature,
    KernelFeature,
    NeuronFeature,
    ThreeLayerNetwork,
)
from foreknow.functions.hierarchical_polynomials.prior import HierarchicalPolynomial
from foreknow.functions.hierarchical_polynomials.ridge import Fitted, descend, ridge
from foreknow.functions.hierarchical_polynomials.whitening import WHITEN, Whitening

SPLITS = ("half", "crossfit", "none")
SOLVERS = ("closed", "descent")
_FEWEST_TO_REFINE = 20
_MOST_NEURONS = 4000
_LEAST_SD = 1e-6
"""Standard deviation of a prediction, in units of the target's, at the least."""


@register(CARD)
class LayerwiseThreeLayer(System):
    """Regression on one polynomial feature of all columns, found first, and a link from it to the target, found then.

    Stage one fits the bottleneck by ridge regression on frozen random neurons; stage two freezes it and fits the
    outer layer to the bottleneck alone. Where the target is such a function, some multiple of d^k rows do what a
    kernel needs about d^(k times the degree of the link) for.

    Args:
        prior: a `HierarchicalPolynomial` (its `k` is used), "paper" (k = 2), "off" (no outer layer: a kernel
            method) or "wrong" (the outer layer sees another feature: weights of the bottleneck permuted).
        inner: activation of the frozen neurons: "relu", "softplus", "polynomial" (degrees 0 to k) or "hermite" (degree
            exactly k: for targets without a linear part, which it cannot see).
        kernel: take infinitely many neurons (not for "softplus"); memory then grows with the square of the rows.
        width_inner: number of frozen neurons, or "auto": two for each polynomial there is, or four for each row
            ("relu", "softplus"), at most 4000; a warning says where these are fewer than the polynomials.
        width_outer: number of outer neurons.
        ridge: penalty of both stages on the mean squared error, or "loo": chosen by leave-one-out, each its own.
        split: rows of the second stage: "half" (those the first has not seen), "crossfit" (all, each with the feature
            fitted without it) or "none" (all, with the feature that has seen them; overfits).
        solver: "closed", or "descent" for the gradient descent of the paper, which has the same minimisers.
        n_steps: of the descent, in each stage.
        n_refine: ours, not the paper's: how often, at most, the bottleneck is fitted again through the link and the
            link on it (Gauss-Newton); rows held out say how often it helps. Far fewer rows do, where it holds.
        whiten: "auto" (unless the rows are white), "always" or "never".
        random_state: seed of neurons and of the split.
        device: where to compute.

    Example:
        >>> from foreknow.functions import HierarchicalPolynomial, LayerwiseThreeLayer
        >>> task = HierarchicalPolynomial(n_features=8).task(seed=0)
        >>> model = LayerwiseThreeLayer(random_state=0).fit(*task.sample(1500))
        >>> model.feature_(task.sample(3, part="test")[0]).shape
        (3,)

    References:
        wang2024learning.
    """

    tags = Tags(transforms=True, tolerance=1e-3)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        inner: str = "polynomial",
        kernel: bool = False,
        width_inner: int | str = "auto",
        width_outer: int = 300,
        ridge: float | str = "loo",
        split: str = "crossfit",
        solver: str = "closed",
        n_steps: int = 2000,
        n_refine: int = 0,
        whiten: str = "auto",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.inner = inner
        self.kernel = kernel
        self.width_inner = width_inner
        self.width_outer = width_outer
        self.ridge = ridge
        self.split = split
        self.solver = solver
        self.n_steps = n_steps
        self.n_refine = n_refine
        self.whiten = whiten
        self.random_state = random_state
        self.device = device

    # Results -------------------------------------------------------------------------------------------------

    def feature_(self, X: Any) -> NDArray[np.float64]:
        """The recovered feature p^ of every row, about standard normal, shape (n,); its sign rises with the target."""
        return np.asarray(self.transform(X)[:, 0])

    def link_(self, values: Any) -> NDArray[np.float64]:
        """Predicted target where the recovered feature has these values, shape (n,)."""
        self._check_fitted()
        g = torch.as_tensor(np.asarray(values, dtype=np.float64), device=self.device_)
        with torch.no_grad():
            found = self.network_.link(g * self.network_.scale)
        return self._in_units(found)

    # Hooks ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "LayerwiseThreeLayer"
        check_option(owner, "inner", self.inner, INNER)
        check_option(owner, "split", self.split, SPLITS)
        check_option(owner, "solver", self.solver, SOLVERS)
        check_option(owner, "whiten", self.whiten, WHITEN)
        check_int(owner, "width_outer", self.width_outer, low=1)
        check_int(owner, "n_steps", self.n_steps, low=1)
        check_int(owner, "n_refine", self.n_refine, low=0, high=100)
        if self.n_refine and (self.kernel or self.solver == "descent"):
            raise ConfigError(
                f"{owner}: n_refine works on neurons in closed form.", hint="Set kernel=False and solver='closed'."
            )
        if isinstance(self.width_inner, str):
            check_option(owner, "width_inner", self.width_inner, ("auto",))
        else:
            check_int(owner, "width_inner", self.width_inner, low=1)
        if isinstance(self.ridge, str):
            check_option(owner, "ridge", self.ridge, ("loo",))
        else:
            check_real(owner, "ridge", self.ridge, low=0, open_low=True)
        if check_bool(owner, "kernel", self.kernel) and self.inner not in KERNELS:
            raise ConfigError(f"{owner}: the kernel of inner={self.inner!r} has no closed form.", hint="Try 'relu'.")
        if self.solver == "descent" and self.kernel:
            raise ConfigError(f"{owner}: descent works on neurons.", hint="Set kernel=False or solver='closed'.")
        if self.solver == "descent" and self.split == "crossfit":
            raise ConfigError(
                f"{owner}: split='crossfit' leaves rows out in closed form, which descent cannot.",
                hint="Set split='half', as published.",
            )
        self._hierarchy()

    def _task(self) -> str:
        return "regression"

    def _paper_prior(self) -> Prior:
        return HierarchicalPolynomial()

    def _wrong_prior(self) -> Prior:
        return Misapplied(HierarchicalPolynomial())

    def _hierarchy(self) -> HierarchicalPolynomial:
        """The prior behind the arms."""
        prior = self._resolve_prior()
        base = prior.base if isinstance(prior, Unrelated | Misapplied) else prior
        if not isinstance(base, HierarchicalPolynomial):
            raise ConfigError(
                f"LayerwiseThreeLayer: the prior must be a HierarchicalPolynomial or its off(), "
                f"got {type(prior).__name__}."
            )
        return base

    def _fit(self, X: Any, y: NDArray[Any] | None) -> None:
        assert y is not None  # a regression has targets
        self.whitening_ = Whitening.of(X, self.whiten)
        if self.whitening_.problem:
            warnings.warn(
                f"LayerwiseThreeLayer: the theory is about normal inputs, but {self.whitening_.problem}; rows are "
                f"{'whitened' if self.whitening_.changed else 'used as they are'}, and nothing is promised.",
                ForeknowWarning,
                stacklevel=4,
            )
        n_needed = self._n_polynomials(self.whitening_(X[:1]).shape[1])
        if not self.kernel and self.inner in ("polynomial", "hermite") and self._width(n_needed, len(X)) < n_needed:
            warnings.warn(
                f"LayerwiseThreeLayer: {self._width(n_needed, len(X))} neurons cannot span the {n_needed} polynomials "
                "of the feature's degree in so many columns; the feature may be out of reach. Set width_inner.",
                ForeknowWarning,
                stacklevel=4,
            )
        self.shift_, spread = float(y.mean()), float(y.std())
        self.scale_ = spread if spread > 1e-12 * abs(self.shift_) and spread > 0 else 1.0
        order = np.lexsort((y, *X.T))  # so that the order of the rows decides nothing
        rows = torch.as_tensor(self.whitening_(X[order]), device=self.device_)
        target = torch.as_tensor((y[order] - self.shift_) / self.scale_, device=self.device_)
        n_refine = 0 if isinstance(self.prior_, Unrelated | Misapplied) else self.n_refine
        sd = None
        if n_refine and len(rows) >= _FEWEST_TO_REFINE:  # how many steps, and how wrong it is, on rows held out
            held = torch.randperm(len(rows), generator=self._stream("refine"))[: len(rows) // 5]
            kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device).index_fill(
                0, held.to(rows.device), False
            )
            errors: list[float] = []
            self._train(
                rows[kept], target[kept], n_refine, lambda net: errors.append(_error(net, rows[held], target[held]))
            )
            n_refine, sd = int(np.argmin(errors)), min(errors) ** 0.5
        self.refinements_ = n_refine
        self.network_, self.penalties_, loo = self._train(rows, target, n_refine)
        self.sd_ = max(loo**0.5 if sd is None else sd, _LEAST_SD)

    def _train(
        self, rows: Tensor, target: Tensor, n_refine: int, watch: Callable[[ThreeLayerNetwork], None] | None = None
    ) -> tuple[ThreeLayerNetwork, list[float], float]:
        """Both stages and `n_refine` refinements; the network, its penalties, and its mean squared held-out residual.

        `watch` sees the network after the two stages and after each refinement.
        """
        first, second = self._parts(len(rows))
        with torch.no_grad():
            feature = self._make_feature(rows[first], len(rows))
            network = ThreeLayerNetwork(feature, self.width_outer, self._stream("outer")).to(self.device_)
            stage_one = self._solve(feature.basis(rows[first]), target[first], gram=self.kernel)
            feature.weights.copy_(stage_one.weights)
            penalties, loo = [stage_one.penalty], stage_one.loo
            if isinstance(self.prior_, Misapplied):
                turn = torch.randperm(len(feature.weights), generator=self._stream("placebo"))
                feature.weights.copy_(feature.weights[turn.to(self.device_)])
            held_out = self.split == "crossfit" and not isinstance(self.prior_, Misapplied)
            g = stage_one.held_out if held_out else feature(rows[second])
            if isinstance(self.prior_, Unrelated):
                _standardize(network, g)
            else:
                stage_two = self._fit_outer(network, g, target[second])
                penalties, loo = [*penalties, stage_two.penalty], stage_two.loo
            if watch is not None:
                watch(network)
            basis = feature.basis(rows) if n_refine else None
            for _ in range(n_refine):
                assert basis is not None
                g = basis @ feature.weights
                slope = network.slope(g)
                # To first order in u, target = link(g) + slope * (basis u - g): again a ridge regression.
                near = ridge(slope[:, None] * basis, target - network.link(g) + slope * g)
                feature.weights.copy_(near.weights)
                stage_two = self._fit_outer(network, basis @ near.weights, target)
                penalties, loo = [near.penalty, stage_two.penalty], max(near.loo, stage_two.loo)
                if watch is not None:
                    watch(network)
        return network.eval(), penalties, loo

    def _fit_outer(self, network: ThreeLayerNetwork, g: Tensor, target: Tensor) -> Fitted:
        """Stage two: the outer layer on values of the bottleneck, brought to unit standard deviation."""
        _standardize(network, g)
        found = self._solve(network.outer_basis(g), target - g)
        network.outer.copy_(found.weights)
        return found

    def _parts(self, n: int) -> tuple[Tensor, Tensor]:
        """Rows of the first and of the second stage."""
        everything = torch.arange(n)
        if self.split != "half" or isinstance(self.prior_, Unrelated) or n < 4:
            return everything, everything
        order = torch.randperm(n, generator=self._stream("split"))
        return order[: n // 2], order[n // 2 :]

    def _make_feature(self, rows: Tensor, n: int) -> Feature:
        k, d = self._hierarchy().k, rows.shape[1]
        if self.kernel:
            return KernelFeature(rows, self.inner, k).to(self.device_)
        width = self._width(self._n_polynomials(d), n)
        return NeuronFeature(d, width, self.inner, k, self._stream("inner")).to(self.device_)

    def _n_polynomials(self, d: int) -> int:
        """Polynomials that the neurons should span."""
        return n_polynomials(d if self.inner == "hermite" else d + 1, self._hierarchy().k)

    def _width(self, size: int, n: int) -> int:
        if not isinstance(self.width_inner, str):
            return int(self.width_inner)
        return min(_MOST_NEURONS, max(8, 2 * size if self.inner in ("polynomial", "hermite") else 4 * n))

    def _solve(self, basis: Tensor, target: Tensor, *, gram: bool = False) -> Fitted:
        found = ridge(basis, target, None if isinstance(self.ridge, str) else float(self.ridge), gram=gram)
        if self.solver == "closed":
            return found
        weights = descend(basis, target, found.penalty, self.n_steps)
        return Fitted(weights, found.penalty, found.held_out, found.loo)

    def _in_units(self, output: Tensor) -> NDArray[np.float64]:
        return self.shift_ + self.scale_ * np.asarray(output.cpu().numpy(), dtype=np.float64)

    def _white(self, X: Any) -> Tensor:
        return torch.as_tensor(self.whitening_(X), device=self.device_)

    def _predict_dist(self, X: Any) -> Predictive:
        with torch.no_grad():
            mean = self.shift_ + self.scale_ * self.network_(self._white(X))
        return Gaussian(mean, torch.full_like(mean, self.scale_ * self.sd_))

    def _transform(self, X: Any) -> NDArray[Any]:
        with torch.no_grad():
            g = self.network_.feature(self._white(X)) / self.network_.scale
        return np.asarray(g.cpu().numpy())[:, None]

    def _state(self) -> State:
        white = self.whitening_
        tensors = {f"network.{name}": tensor for name, tensor in self.network_.state_dict().items()}
        tensors |= {"white_mean": torch.as_tensor(white.mean), "white_matrix": torch.as_tensor(white.matrix)}
        meta = {
            "shift": self.shift_, "scale": self.scale_, "sd": self.sd_, "penalties": self.penalties_,
            "changed": white.changed, "problem": white.problem, "refinements": self.refinements_,
        }  # fmt: skip
        return State(tensors, meta, contains_rows=bool(self.kernel))

    def _restore(self, state: State) -> None:
        tensors, meta = state.tensors, state.meta
        own = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        self.whitening_ = Whitening(
            tensors["white_mean"].cpu().numpy(), tensors["white_matrix"].cpu().numpy(), meta["changed"], meta["problem"]
        )
        self.shift_, self.scale_, self.sd_ = float(meta["shift"]), float(meta["scale"]), float(meta["sd"])
        self.refinements_ = int(meta["refinements"])
        self.penalties_ = [float(value) for value in meta["penalties"]]
        k = self._hierarchy().k
        if self.kernel:
            feature: Feature = KernelFeature(own["feature.rows"], self.inner, k)
        else:
            d, width = own["feature.directions"].shape
            feature = NeuronFeature(d, width, self.inner, k, self._stream("inner"))
        network = ThreeLayerNetwork(feature, len(own["outer"]), self._stream("outer"))
        if network.feature.weights.shape != own["feature.weights"].shape:
            raise CheckpointError("the file's network is not that of a LayerwiseThreeLayer.")
        network.load_state_dict(own)
        self.network_ = network.eval().to(self.device_)

    def pictures(self) -> Mapping[str, Picture]:
        """The link that was found, from the recovered feature to the target."""
        grid = np.linspace(-3.0, 3.0, 121)
        mean = self.link_(grid)
        spread = 1.645 * self.scale_ * self.sd_
        return {
            "link": Lines(
                grid, {"target": mean}, "recovered feature (standard deviations)", "target",
                "The link from the feature to the target", {"target": (mean - spread, mean + spread)},
            )
        }  # fmt: skip

    @classmethod
    def examples(cls) -> list[Example]:
        X, y = HierarchicalPolynomial(n_features=3).task(seed=0).sample(60)
        new = numpy_stream(0, "hierarchical-polynomials", "examples").normal(size=(7, 3))
        small: dict[str, Any] = {"width_outer": 20, "random_state": 0}
        return [
            Example("neurons", {**small, "inner": "relu", "width_inner": 40, "split": "half"}, X, y, new),
            Example("refined", {**small, "n_refine": 2}, 5 + 2 * X, 3 * y, 5 + 2 * new),
            Example("infinitely many", {**small, "kernel": True, "prior": HierarchicalPolynomial(k=3)}, X, y, new),
        ]

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """One csv or parquet file of numbers; the options `target` and `drop` name columns."""
        return read_numeric("hierarchical-polynomials", paths, options)

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """A drawn target in ten dimensions, Friedman's first function, and the diabetes table."""
        if task != "regression":
            return {}
        from sklearn import datasets

        drawn = HierarchicalPolynomial(n_features=10).task(seed=0).sample(4000)
        return {
            "hierarchical": drawn,
            "friedman1": datasets.make_friedman1(2000, n_features=10, noise=1.0, random_state=0),
            "diabetes": datasets.load_diabetes(return_X_y=True),
        }

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        from foreknow.functions.hierarchical_polynomials.arms import plain_arms

        return plain_arms()

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 5, progress: ProgressCallback | None = None) -> Evidence:
        """Samples against dimension, kernels and joint training beside it, and a link that must fail."""
        from foreknow.functions.hierarchical_polynomials.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)


def _standardize(network: ThreeLayerNetwork, g: Tensor) -> None:
    spread = float(g.std(correction=0)) if len(g) > 1 else 0.0
    network.scale.fill_(spread if spread > 1e-12 else 1.0)


def _error(network: ThreeLayerNetwork, rows: Tensor, target: Tensor) -> float:
    """Mean squared error; infinite where it is not a number."""
    found = float((network(rows) - target).square().mean())
    return found if found == found else float("inf")
