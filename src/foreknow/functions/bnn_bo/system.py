"""The system `bnn-bo`: a surrogate as a regressor of trials, which proposes the next ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_option
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.predictive import Gaussian, GaussianMixture, Predictive
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import PRESETS, Applied, Example, State, System, Tags
from foreknow.functions.bnn_bo import trials
from foreknow.functions.bnn_bo.base import Surrogate
from foreknow.functions.bnn_bo.card import CARD
from foreknow.functions.bnn_bo.model import standardise
from foreknow.functions.bnn_bo.networks import HMCNet, LaplaceNet, SGHMCNet
from foreknow.functions.bnn_bo.prior import NetworkPrior, ProcessPrior, grid
from foreknow.functions.bnn_bo.space import Space
from foreknow.functions.bnn_bo.surrogates import SURROGATES, as_surrogate

GOALS = ("minimize", "maximize")
_FAR = 10.0  # inputs beyond this many widths of the training range are as far as any


@register(CARD)
class SurrogateRegressor(System):
    """A surrogate of Bayesian optimisation as a regressor: what an expensive function gives at points not tried.

    `fit` takes trials; `predict_dist` says what others would give, and `foreknow apply` which to try next. For a loop
    of your own see `BayesOpt` and `minimize`, for BoTorch's `botorch_model`.

    Where `fit` is given a `space`, rows are its codes (whole numbers for choices, counted from 0), and those outside
    it are refused.

    Args:
        prior: a `NetworkPrior` (or a `ProcessPrior`, for the surrogates "gp" and "dkl"), "paper" (the surrogate's own),
            "off" (a network of the same shape by least squares) or "wrong" (weight variance a hundred times too small,
            or a lengthscale a hundred times the range).
        surrogate: "ibnn", "hmc", "sghmc", "ensemble", "laplace", "dkl", "map", "gp", "gp-2023", or settings.
        preset: sizes of a surrogate given by name: "quick", "small" or "paper".
        random_state: seed.
        device: "auto" or "cpu"; everything is computed on the processor, in double precision.

    Attributes:
        diagnostics_: of the fit: acceptance and R-hat of chains, the marginal likelihood of an infinite network.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(0, 1, 12)[:, None]
        >>> model = SurrogateRegressor().fit(x, np.sin(6 * x[:, 0]))
        >>> float(model.predict([[0.5]])[0]).__round__(1)
        0.1

    References: Li, Rudner and Wilson 2024.
    """

    tags = Tags(row_order_invariant=False, tolerance=1e-3)
    fit_inputs = ("space", "goal")

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        surrogate: Surrogate | str = "ibnn",
        preset: str = "small",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.surrogate = surrogate
        self.preset = preset
        self.random_state = random_state
        self.device = device

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        check_option("SurrogateRegressor", "preset", self.preset, PRESETS)
        self._settings().with_prior(self._resolve_prior())

    def _task(self) -> str:
        return "regression"

    def _settings(self) -> Surrogate:
        found = as_surrogate("SurrogateRegressor", self.surrogate, self.preset).surrogate
        if found is None:
            raise ConfigError(
                f"SurrogateRegressor: {self.surrogate!r} is a search without a surrogate.",
                hint=f"Surrogates: {', '.join(SURROGATES)}.",
            )
        return found

    def _paper_prior(self) -> Prior:
        return self._settings().prior()

    def _resolve_prior(self) -> Prior:
        if isinstance(self.prior, str) and self.prior == "off":  # a network of the same shape
            settings = self._settings()
            own = settings.prior()
            if isinstance(own, ProcessPrior):
                hidden = getattr(settings, "hidden", None)
                return (NetworkPrior() if hidden is None else NetworkPrior(hidden)).off()
            return own.off()
        return super()._resolve_prior()

    def _wrong_prior(self) -> Prior:
        prior = self._paper_prior()
        if isinstance(prior, NetworkPrior | ProcessPrior):
            return prior.wrong()
        raise ConfigError(f"SurrogateRegressor: {type(prior).__name__} has no wrong counterpart.")

    def _fit(self, X: NDArray[Any], y: NDArray[Any] | None, *, space: Any = None, goal: Any = None) -> None:
        assert y is not None  # the base class refuses a missing target
        if space is not None and not isinstance(space, Space):
            raise ConfigError(f"SurrogateRegressor: space must be a Space, got {type(space).__name__}.")
        self.goal_ = "minimize" if goal is None else check_option("SurrogateRegressor", "goal", goal, GOALS)
        self.space_ = space
        if space is not None and X.shape[1] != len(space.names):
            raise InputError(
                f"SurrogateRegressor: X has {X.shape[1]} columns, the space {len(space.names)} parameters."
            )
        if space is not None:
            space.check(X, owner="SurrogateRegressor.fit")
        self._low, self._width = _range(X)
        self.X_, self.y_ = torch.as_tensor(X.copy()), torch.as_tensor(y.astype(np.float64))
        sign = self._sign()
        shift, scale = standardise(sign * self.y_[:, None])
        self._shift, self._scale = float(shift[0]), float(scale[0])
        self._used = self._settings().with_prior(self.prior_)
        outcomes = (sign * self.y_ - self._shift) / self._scale
        self._fitted = self._used.fit(self._unit(X), outcomes[:, None], seed=self.seed_)
        self.diagnostics_ = dict(self._fitted.diagnostics)

    def _predict_dist(self, X: NDArray[Any]) -> Predictive:
        if self.space_ is not None:
            self.space_.check(X, owner="SurrogateRegressor.predict")
        found, sign = self._fitted.predictive(self._unit(X)), self._sign()
        if isinstance(found, Gaussian):
            return Gaussian(sign * (self._shift + self._scale * found.loc), self._scale * found.sd)
        assert isinstance(found, GaussianMixture)  # there are two kinds of posterior
        return GaussianMixture(found.logits, sign * (self._shift + self._scale * found.means), self._scale * found.sds)

    def _state(self) -> State:
        tensors, meta = self._fitted.state()
        own = {
            "X": self.X_, "y": self.y_, "low": torch.as_tensor(self._low), "width": torch.as_tensor(self._width),
        }  # fmt: skip
        return State(
            {**own, **{f"surrogate.{name}": value for name, value in tensors.items()}},
            {
                "surrogate": to_json(self._used), "meta": to_json(meta), "shift": self._shift, "scale": self._scale,
                "goal": self.goal_, "space": to_json(self.space_),
            },
        )  # fmt: skip

    def _restore(self, state: State) -> None:
        tensors, meta = state.tensors, state.meta
        used, inner, space = (from_json(meta[name]) for name in ("surrogate", "meta", "space"))
        if not isinstance(used, Surrogate) or not isinstance(inner, dict) or not isinstance(space, Space | None):
            raise CheckpointError("the file's surrogate is none.")
        self.goal_, self.space_, self._used = check_option("file", "goal", meta["goal"], GOALS), space, used
        self.X_, self.y_ = tensors["X"].cpu(), tensors["y"].cpu()
        self._low, self._width = tensors["low"].cpu().numpy(), tensors["width"].cpu().numpy()
        self._shift, self._scale = float(meta["shift"]), float(meta["scale"])
        own = {name.removeprefix("surrogate."): t.cpu() for name, t in tensors.items() if name.startswith("surrogate.")}
        self._fitted = used.restore(own, inner)
        self.diagnostics_ = dict(self._fitted.diagnostics)

    def pictures(self) -> Mapping[str, Picture]:
        """The best trial so far, and for one parameter what is believed of the function."""
        names = self.space_.names if self.space_ is not None else [f"x{i}" for i in range(self.X_.shape[1])]
        found: dict[str, Picture] = {"best": trials.best_picture(self.y_.numpy(), self.goal_ == "minimize")}
        if len(names) == 1 and (self.space_ is None or self.space_.n_columns == 1):
            x = np.linspace(self._low[0] - 0.2 * self._width[0], self._low[0] + 1.2 * self._width[0], 200)[:, None]
            if self.space_ is not None:
                x = np.unique(self.space_.decode(grid(200)), axis=0)
            levels = self.predict(x, quantiles=(0.025, 0.5, 0.975))
            band = {"median": (levels[:, 0], levels[:, 2])}
            found["predictive"] = Lines(
                x[:, 0], {"median": levels[:, 1]}, names[0], "value", "median and 95% interval", band
            )
        return found

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """A table of trials: one row a trial, an empty result for one that failed.

        Options: `target`, the column of results; `goal`, "minimize" or "maximize"; `space`, such as
        "lr=1e-5..1e-1 log, depth=2..10 int, kernel=rbf|linear" (by default the ranges seen); `failed`, "worst"
        or "drop".
        """
        return trials.read_trials(paths, options)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        """The trials to make next, as a table and a file; a file given is ranked instead of searching the space.

        Options: `batch` (4), `acquisition` ("qei"), `seed` (0).
        """
        return trials.next_trials(self, inputs, out, options)

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "bnn-bo", "examples")
        x = rng.uniform(-2, 2, size=(16, 2))
        y = np.sin(2 * x[:, 0]) + 0.3 * x[:, 1]
        small: dict[str, Any] = {"hidden": (8,), "scaled": True, "n_steps": 30}
        return [
            Example(
                "hmc", {"surrogate": HMCNet(**small, n_samples=8, n_burn=10, n_leapfrog=5), "random_state": 0}, x, y
            ),
            Example("laplace", {"surrogate": LaplaceNet(**small, n_draws=16), "random_state": 0}, x, y),
            Example(
                "sghmc, one column",
                {"surrogate": SGHMCNet((8,), scaled=True, n_steps=60, n_burn=20), "random_state": 0},
                x[:, :1], y,
                named={"goal": "maximize"},
            ),
        ]  # fmt: skip

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Errors of a support vector machine by its settings, made on the spot, and the Branin function."""
        if task != "regression":
            return {}
        from foreknow.functions.bnn_bo.problems import sobol_points, support_vectors

        problem = support_vectors(100)
        codes, y = sobol_points(problem, 160, seed=0)
        return {"settings of a support vector machine": (problem.space.encode(codes).numpy(), -y)}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """Gaussian processes of today and of 2023; for numbers the harness adds its own."""
        return {
            "Gaussian process": lambda seed: SurrogateRegressor(surrogate="gp", random_state=seed),
            "Gaussian process of 2023": lambda seed: SurrogateRegressor(surrogate="gp-2023", random_state=seed),
        }

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 5, progress: ProgressCallback | None = None) -> Evidence:
        """Regret of all surrogates on functions of 2, 6 and 100 parameters, and the quality of their posteriors."""
        from foreknow.functions.bnn_bo.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    # Own machinery -----------------------------------------------------------------------------------------

    def _sign(self) -> float:
        return -1.0 if self.goal_ == "minimize" else 1.0

    def _unit(self, X: NDArray[Any]) -> Tensor:
        """Rows as the surrogate takes them: the unit cube, or beyond it where X lies outside what was seen."""
        if self.space_ is not None:
            return self.space_.encode(X)
        return torch.as_tensor(np.clip((X - self._low) / self._width, -_FAR, _FAR))


def _range(X: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest value and width of every column; width 1 where it is constant."""
    low, high = X.min(0), X.max(0)
    width = high - low
    usable = np.isfinite(width) & (width > 1e-12 * np.maximum(np.abs(low), np.abs(high)))
    return low, np.where(usable, width, np.maximum(1.0, np.abs(low)))
