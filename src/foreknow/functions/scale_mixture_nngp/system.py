"""`NNGP`: regression with a wide deep network whose last layer has a variance that is itself unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.predictive import Affine, Predictive, Transformed
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.system import Example, State, System, Tags
from foreknow.data.standardizer import Standardizer, column_statistics
from foreknow.functions.scale_mixture_nngp.card import CARD
from foreknow.functions.scale_mixture_nngp.prior import BurrXII, FixedScale, InverseGamma, ScalePrior
from foreknow.functions.scale_mixture_nngp.process import NNGPSettings, Process, WideArchitecture, fit_hyper, grid_hyper
from foreknow.nn.infinite import ACTIVATIONS

INFERENCE = ("auto", "exact", "importance")
SEARCHES = ("gradient", "grid", "none")
READOUTS = ("flatten", "pool")
MAX_ROWS = 5000
PAPER_PRIOR = InverseGamma(2.0, 2.0)
WRONG_PRIOR = InverseGamma(50.0, 1250.0, known=True)
"""Sure that the last layer's variance is 25 times what it is."""


@register(CARD)
class NNGP(System):
    """Regression for small tables with the heavy tails of a wide network whose last layer has an unknown variance.

    The predictive distribution is a Student t (`InverseGamma`), a mixture of normals (`BurrXII`, `LogNormal`) or a
    normal (`FixedScale`, the control). It helps where the scale of the data is unsure, which is with few rows.

    Args:
        prior: of the last layer's variance: "paper" (InverseGamma(2, 2)), "off" (fixed), "wrong", or an object.
        depth: hidden layers, or convolutions.
        activation: "relu", "erf", "gelu", "tanh" or "linear".
        residual: whether hidden layers add to what they get.
        image_shape: (channels, height, width) of rows that are images, for the convolutional kernel.
        readout: of the convolutional kernel, "flatten" or "pool".
        inference: "exact" needs a closed form, "importance" samples, "auto" takes what the prior has.
        search: how settings are found: "gradient", "grid" (the released grid) or "none" (as at the start).
        fit_prior: whether the prior's parameters are fitted too, unless the prior is `known`; at the maximum the
            scale is usually certain, which switches the prior off.
        max_iterations: of the gradient search.
        n_importance: importance draws.
        random_state: not used: nothing here is random.
        device: where to compute, in float64.

    Example:
        >>> from foreknow.functions import NNGP
        >>> x = [[0.0], [0.5], [1.0], [1.5], [2.0]]
        >>> NNGP(depth=1).fit(x, [0.0, 0.4, 0.9, 1.6, 2.1]).predict([[1.2]]).shape
        (1,)

    References: Lee, Yun, Yang and Lee (2022); see the modules `prior` and `process` for equations.
    """

    tags = Tags(uses_seed=False, tolerance=1e-3)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        depth: int = 4,
        activation: str = "relu",
        residual: bool = False,
        image_shape: tuple[int, int, int] | None = None,
        readout: str = "flatten",
        inference: str = "auto",
        search: str = "gradient",
        fit_prior: bool = False,
        max_iterations: int = 100,
        n_importance: int = 500,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.depth = depth
        self.activation = activation
        self.residual = residual
        self.image_shape = image_shape
        self.readout = readout
        self.inference = inference
        self.search = search
        self.fit_prior = fit_prior
        self.max_iterations = max_iterations
        self.n_importance = n_importance
        self.random_state = random_state
        self.device = device

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        architecture_of(self)
        check_option("NNGP", "inference", self.inference, INFERENCE)
        check_option("NNGP", "search", self.search, SEARCHES)
        check_bool("NNGP", "fit_prior", self.fit_prior)
        check_int("NNGP", "max_iterations", self.max_iterations, low=1)
        check_int("NNGP", "n_importance", self.n_importance, low=2)

    def _task(self) -> str:
        return "regression"

    def _paper_prior(self) -> Prior:
        return PAPER_PRIOR

    def _wrong_prior(self) -> Prior:
        return WRONG_PRIOR

    def _fit(self, X: NDArray[np.float64], y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        prior = as_scale_prior("NNGP", self.prior_, self.inference)
        architecture = architecture_of(self)
        check_rows("NNGP", X, self.image_shape, MAX_ROWS)
        order = np.lexsort((y, *X.T[::-1]))  # so that the order of the rows changes no rounding
        self.scaling_ = fit_scaling(X, self.image_shape)
        x = torch.from_numpy(self.scaling_.transform(X[order])).to(self.device_)
        _, center, deviation = column_statistics(y[order, None])[:, 0]
        self.y_center_, self.y_scale_ = float(center), float(deviation) or 1.0
        target = torch.from_numpy((y[order] - self.y_center_) / self.y_scale_).to(self.device_)
        start = NNGPSettings(prior=prior)
        if self.search == "gradient":
            self.hyper_, _, _ = fit_hyper(
                architecture,
                start,
                x,
                target,
                fit_prior=self.fit_prior,
                max_iterations=self.max_iterations,
                n_draws=self.n_importance,
            )
        elif self.search == "grid":
            self.hyper_, _, _ = grid_hyper(
                architecture, start, x, target, fit_prior=self.fit_prior, n_draws=self.n_importance
            )
        else:
            self.hyper_ = start
        self.process_ = self._process(architecture, x, target)
        self.log_marginal_ = self.process_.log_marginal - len(y) * math.log(self.y_scale_)

    def _predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        x = torch.from_numpy(self.scaling_.transform(X)).to(self.device_)
        return Transformed(self.process_.predict(x), Affine(self.y_center_, self.y_scale_))

    def _state(self) -> State:
        process = self.process_
        meta = {
            "hyper": to_json(self.hyper_),
            "y_center": self.y_center_,
            "y_scale": self.y_scale_,
            "log_marginal": self.log_marginal_,
        }
        tensors = {"x": process.x, "y": process.y, **scaling_tensors(self.scaling_)}
        return State(tensors, meta, contains_rows=True)

    def _restore(self, state: State) -> None:
        hyper = from_json(state.meta["hyper"])
        if not isinstance(hyper, NNGPSettings):
            raise CheckpointError("the file's settings are not those of an NNGP.")
        self.hyper_ = hyper
        self.scaling_ = scaling_from(state.tensors)
        self.y_center_, self.y_scale_ = float(state.meta["y_center"]), float(state.meta["y_scale"])
        self.log_marginal_ = float(state.meta["log_marginal"])
        x, y = (state.tensors[name].to(self.device_) for name in ("x", "y"))
        self.process_ = self._process(architecture_of(self), x, y)

    def _process(self, architecture: WideArchitecture, x: Tensor, y: Tensor) -> Process:
        importance = self.inference == "importance"
        return Process(architecture, self.hyper_, x, y, n_draws=self.n_importance, importance=importance)

    def pictures(self) -> Mapping[str, Picture]:
        """The predictive interval as a multiple of the residual scale, and for one column the curve."""
        if self.n_features_in_ != 1:
            return {}
        low, high = (float(v) for v in (self.process_.x.min(), self.process_.x.max()))
        z = torch.linspace(low - 0.5 * (high - low), high + 0.5 * (high - low), 200, dtype=torch.float64)[:, None]
        dist = Transformed(self.process_.predict(z.to(self.device_)), Affine(self.y_center_, self.y_scale_))
        bounds = [dist.quantile(q).cpu().numpy() for q in (0.05, 0.95)]
        x = z[:, 0].numpy() * self.scaling_.scale[0] + self.scaling_.center[0]
        median = {"median": dist.quantile(0.5).cpu().numpy()}
        return {
            "curve": Lines(x, median, "x", "y", title=str(self.hyper_.prior), bands={"median": (bounds[0], bounds[1])})
        }

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "nngp", "examples")
        X = rng.normal(size=(16, 2))
        y = np.sin(X[:, 0]) + 0.1 * rng.normal(size=16)
        quick = {"depth": 2, "max_iterations": 8, "random_state": 0}
        images = rng.uniform(size=(10, 9))
        return [
            Example("student t process", quick, X, y),
            Example("burr, grid", {**quick, "prior": BurrXII(), "search": "grid", "n_importance": 32}, X, y),
            Example("images", {**quick, "image_shape": (1, 3, 3), "max_iterations": 4}, images, images.mean(axis=1)),
        ]

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """A table of few rows a training set, which is where an unknown scale matters."""
        from sklearn import datasets

        return {"diabetes": datasets.load_diabetes(return_X_y=True)}

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Real tables with outliers and shift, finite networks, data from the process itself, corrupted digits."""
        from foreknow.functions.scale_mixture_nngp.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)


# What the classifier shares ------------------------------------------------------------------------------------


def architecture_of(system: Any) -> WideArchitecture:
    """The network that a system's settings name.

    Raises:
        ConfigError: a setting is not allowed.
    """
    owner = type(system).__name__
    check_int(owner, "depth", system.depth, low=1)
    check_option(owner, "activation", system.activation, tuple(ACTIVATIONS))
    check_bool(owner, "residual", system.residual)
    check_option(owner, "readout", system.readout, READOUTS)
    shape: Any = system.image_shape
    if shape is not None:
        if not isinstance(shape, tuple | list) or len(shape) != 3:
            raise ConfigError(f"{owner}: image_shape must be (channels, height, width) or None, got {shape!r:.80}.")
        shape = tuple(check_int(owner, "image_shape", size, low=1) for size in shape)
    return WideArchitecture(system.depth, system.activation, system.residual, shape, system.readout)


def check_rows(owner: str, X: NDArray[np.float64], shape: Any, most: int) -> None:
    """Refuse rows that are no images of the size that was named, and more rows than can be factorised."""
    if shape is not None and X.shape[1] != math.prod(shape):
        raise InputError(
            f"{owner}: rows have {X.shape[1]} columns, images of shape {tuple(shape)} have {math.prod(shape)}.",
            hint="Set image_shape=(channels, height, width) of the rows, or leave it out.",
        )
    if len(X) > most:
        raise InputError(
            f"{owner}: exact inference is cubic in the rows; {len(X)} came, at most {most} are accepted.",
            hint="Fit a random part of the rows, or use a sparse Gaussian process (extra 'bo').",
        )


def fit_scaling(X: NDArray[np.float64], shape: Any) -> Standardizer:
    """Each column by itself; images by one mean and one deviation for all pixels."""
    if shape is None:
        return Standardizer.fit(np.sort(X, axis=0), clip=1e3)
    _, center, deviation = column_statistics(X.reshape(-1, 1))[:, 0]
    return Standardizer(np.full(X.shape[1], center), np.full(X.shape[1], deviation or 1.0), clip=1e3)


def scaling_tensors(scaling: Standardizer) -> dict[str, Tensor]:
    """A scaling as it is stored."""
    return {"x_center": torch.from_numpy(scaling.center), "x_scale": torch.from_numpy(scaling.scale)}


def scaling_from(tensors: Mapping[str, Tensor]) -> Standardizer:
    """The inverse of `scaling_tensors`."""
    return Standardizer(tensors["x_center"].cpu().numpy(), tensors["x_scale"].cpu().numpy(), clip=1e3)


def as_scale_prior(owner: str, prior: Prior, inference: str) -> ScalePrior:
    """The prior, if it is one of the last layer's variance and can be used so."""
    if not isinstance(prior, ScalePrior):
        raise ConfigError(
            f"{owner}: the prior must be one of the last layer's variance, got {type(prior).__name__}.",
            hint="Use InverseGamma, BurrXII, LogNormal or FixedScale.",
        )
    if inference == "importance" and isinstance(prior, FixedScale):
        raise ConfigError(f"{owner}: a fixed scale cannot be sampled.", hint="Use inference='auto'.")
    if inference == "exact" and not prior.closed_form:
        raise ConfigError(
            f"{owner}: {type(prior).__name__} has no closed form.", hint="Use inference='importance' or 'auto'."
        )
    return prior
