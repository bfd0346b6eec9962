"""The system `functional-prior`: a network whose weights' prior is matched to a prior over functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import as_array, as_matrix, check_bool, check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.predictive import Predictive
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.system import PRESETS, Example, State, System, Tags
from foreknow.functions.functional_prior.baselines import DeepEnsemble, PlainGP, predictive
from foreknow.functions.functional_prior.card import CARD
from foreknow.functions.functional_prior.matching import MatchSettings, Measurement
from foreknow.functions.functional_prior.posterior import sample_posterior
from foreknow.functions.functional_prior.prior import FAMILIES, FunctionalPrior
from foreknow.functions.functional_prior.scaling import Scaling
from foreknow.functions.functional_prior.targets import FunctionPrior, GPFunctions
from foreknow.nn.bayes import (
    ACTIVATIONS,
    FlatNetwork,
    GaussianNoise,
    Likelihood,
    SGHMCSettings,
    Softmax,
    mlp,
    split_rhat,
)

MATCH: dict[str, MatchSettings] = {
    "quick": MatchSettings(n_outer=10, n_inner=10, n_functions=32, n_points=20, width=50),
    "small": MatchSettings(n_outer=60, n_inner=40, n_functions=64, n_points=50),
    "paper": MatchSettings(),
}
SAMPLE: dict[str, SGHMCSettings] = {
    "quick": SGHMCSettings(n_burn=100, keep_every=10, n_samples=8, n_drop=2),
    "small": SGHMCSettings(n_burn=1000, keep_every=100, n_samples=20, n_drop=5),
    "paper": SGHMCSettings(n_burn=2000, keep_every=2000, n_samples=30, n_drop=10),
}
_CHUNK = 1024
_ROWS_JUDGED = 200


@register(CARD)
class BayesianNet(System):
    """A Bayesian neural network whose prior is stated over functions, for small tables and curves.

    `fit` matches the weights' prior to the target (no labels needed; skipped where the prior carries what an earlier
    `match` found), then samples the posterior by SG-HMC in several chains at once. `rhat_` says of every training row
    whether the chains agree on the function's value there: wanted are values up to 1.1.

    Args:
        prior: a `FunctionalPrior`, any `FunctionPrior` as its target, "paper" (Gaussian process with hyper-priors),
            "off" (N(0, 1) weights) or "wrong" (a target five times as smooth).
        task: "regression" or "classification".
        hidden: widths of the perceptron; a network given to `fit` replaces it.
        activation: "tanh", "relu", "gelu", "softplus" or "silu".
        family: of weight priors, for the priors that are named by a word or given as a target.
        noise_variance: of the (standardised) target.
        preset: sizes of matching and sampling: "quick", "small" or "paper".
        matching: a `MatchSettings` that replaces the preset's.
        sampling: an `SGHMCSettings` that replaces the preset's.
        temperature: divides the potential; 1 is the posterior, less is a cold one.
        standardize: bring columns and numeric target to mean 0 and sd 1; the prior speaks of these.
        random_state: seed.
        device: "auto", "cpu", "cuda".

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-2, 2, 20)[:, None]
        >>> model = BayesianNet(preset="quick", hidden=(20,), random_state=0).fit(x, np.sin(x[:, 0]))
        >>> model.predict(x).shape, model.rhat_.shape
        ((20,), (20,))

    References: Tran et al. 2022.
    """

    tags = Tags(row_order_invariant=False, tolerance=1e-3)
    fit_inputs = ("network", "measurement")

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        task: str = "regression",
        hidden: tuple[int, ...] = (100,),
        activation: str = "tanh",
        family: str = "gaussian",
        noise_variance: float = 0.1,
        preset: str = "small",
        matching: MatchSettings | None = None,
        sampling: SGHMCSettings | None = None,
        temperature: float = 1.0,
        standardize: bool = True,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.task = task
        self.hidden = hidden
        self.activation = activation
        self.family = family
        self.noise_variance = noise_variance
        self.preset = preset
        self.matching = matching
        self.sampling = sampling
        self.temperature = temperature
        self.standardize = standardize
        self.random_state = random_state
        self.device = device

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "BayesianNet"
        check_option(owner, "task", self.task, ("regression", "classification"))
        check_option(owner, "family", self.family, FAMILIES)
        check_option(owner, "preset", self.preset, PRESETS)
        check_real(owner, "noise_variance", self.noise_variance, low=0, open_low=True)
        check_real(owner, "temperature", self.temperature, low=0, open_low=True)
        check_bool(owner, "standardize", self.standardize)
        if not isinstance(self.hidden, tuple | list) or not self.hidden:
            raise ConfigError(f"{owner}: hidden must be a tuple of widths, got {self.hidden!r}.")
        for width in self.hidden:
            check_int(owner, "hidden", width, low=1)
        for name, kind in (("matching", MatchSettings), ("sampling", SGHMCSettings)):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), kind):
                raise ConfigError(
                    f"{owner}: {name} must be a {kind.__name__}, got {type(getattr(self, name)).__name__}."
                )
        check_option(owner, "activation", self.activation, tuple(ACTIVATIONS))
        self._functional(self._resolve_prior())

    def _task(self) -> str:
        return self.task if self.task in ("regression", "classification") else "regression"

    def _paper_prior(self) -> FunctionalPrior:
        return FunctionalPrior(GPFunctions(with_hyperprior=True), self.family)

    def _wrong_prior(self) -> FunctionalPrior:
        return self._paper_prior().wrong()

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        if getattr(X, "ndim", 2) > 2:  # images, for a network given to fit
            return as_array("BayesianNet", X)
        return as_matrix("BayesianNet", X)

    def _functional(self, prior: Prior) -> FunctionalPrior:
        if isinstance(prior, FunctionPrior):
            return FunctionalPrior(prior, self.family)
        if isinstance(prior, FunctionalPrior):
            return prior
        raise ConfigError(
            f"BayesianNet: prior must be a FunctionalPrior or a FunctionPrior, got {type(prior).__name__}.",
            hint="FunctionalPrior(target=...) makes one of any prior over functions.",
        )

    def _fit(
        self, X: NDArray[Any], y: NDArray[Any] | None, *, network: nn.Module | None = None, measurement: Any = None
    ) -> None:
        assert y is not None  # the base class refuses a missing target
        shape = X.shape[1:]
        flat = X.reshape(len(X), -1).astype(np.float64)
        target = y.astype(np.float64)
        regression = self._task() == "regression"
        self._scaling = Scaling.of(flat, target, x=self.standardize, y=self.standardize and regression)
        n_classes = 0 if regression else len(self.classes_)
        self._likelihood: Likelihood = GaussianNoise(self.noise_variance) if regression else Softmax(max(2, n_classes))
        self._network = self._build(network, shape, self._likelihood.n_outputs).to(self.device_)
        self._own_network = network is not None
        x, t = self._inputs(X), self._scaling.targets(target).to(self.device_)
        sampling = self.sampling or SAMPLE[self.preset]
        matching = self.matching or MATCH[self.preset]
        prior = self._functional(self.prior_)
        must_match = prior.matched and not prior.values
        total = sampling.n_steps + (matching.n_outer * matching.n_inner if must_match else 0)
        if must_match:
            rows = self._measurement(x, measurement, matching)
            tell = Reporter(lambda told: self._tell(told.done * matching.n_inner, total, told.note), matching.n_outer)
            prior = prior.match(self._network, rows, matching, random_state=self.seed_, reporter=tell)
        self.matched_ = prior
        weights = prior.weight_prior(self._network).to(self.device_)
        before = total - sampling.n_steps
        draws = sample_posterior(
            self._network, weights, self._likelihood, x, t, sampling, temperature=self.temperature,
            generator=self._stream("sghmc"),
            reporter=Reporter(lambda told: self._tell(before + told.done, total, told.note), sampling.n_steps),
        )  # fmt: skip
        self.n_draws_ = draws.shape[0] * draws.shape[1]
        self.rhat_ = self._rhat(draws, x)
        self.weights_ = draws.reshape(self.n_draws_, -1)

    def _predict_dist(self, X: NDArray[Any]) -> Predictive:
        return predictive(self._outputs(X), self._likelihood, self._scaling)

    def functions(self, X: Any) -> NDArray[np.float64]:
        """Draws of the function at rows of X (without noise; logits of classes), shape (draws, n, n_outputs).

        Of a numeric target in its own units.
        """
        values = self._outputs(self._read_new(X)).double().cpu().numpy()
        if self._task() == "regression":
            values = self._scaling.y_shift + self._scaling.y_scale * values
        return np.asarray(values)

    def _state(self) -> State:
        if self._own_network:
            raise CapabilityError(
                "BayesianNet: a network given to fit is not written to files.",
                hint="Keep weights_ and the network's own code; perceptrons named by `hidden` are saved.",
            )
        scaling = self._scaling
        tensors = {
            "weights": self.weights_,
            "rhat": torch.as_tensor(self.rhat_),
            "x_shift": torch.as_tensor(scaling.x_shift),
            "x_scale": torch.as_tensor(scaling.x_scale),
        }
        meta = {
            "y_shift": scaling.y_shift, "y_scale": scaling.y_scale, "n_outputs": self._likelihood.n_outputs,
            "matched": to_json(self.matched_),
        }  # fmt: skip
        return State(tensors, meta, contains_rows=False)

    def _restore(self, state: State) -> None:
        meta, tensors = state.meta, state.tensors
        shift, scale = (tensors[name].numpy() for name in ("x_shift", "x_scale"))
        self._scaling = Scaling(shift, scale, float(meta["y_shift"]), float(meta["y_scale"]))
        n_outputs = int(meta["n_outputs"])
        self._likelihood = GaussianNoise(self.noise_variance) if self._task() == "regression" else Softmax(n_outputs)
        self._network = self._build(None, shift.shape, n_outputs)
        self._own_network = False
        matched = from_json(meta["matched"])
        if not isinstance(matched, FunctionalPrior):
            raise CheckpointError("the file's matched prior is none.")
        self.matched_ = matched
        self.weights_ = tensors["weights"].to(self.device_)
        self.n_draws_ = len(self.weights_)
        self.rhat_ = tensors["rhat"].numpy()
        if self.weights_.shape[1] != self._network.n_weights:
            raise CheckpointError("the file's weights are not those of its network.")

    def pictures(self) -> Mapping[str, Picture]:
        """Of one column: the predictive band, and what the prior believed before the data."""
        if self.row_shape_ != (1,):
            return {}
        centre, spread = self._scaling.x_shift[0], self._scaling.x_scale[0]
        x = np.linspace(centre - 3 * spread, centre + 3 * spread, 200)[:, None]
        found: dict[str, Picture] = {}
        if self._task() == "regression":
            levels = self.predict(x, quantiles=(0.025, 0.5, 0.975))
            band = {"median": (levels[:, 0], levels[:, 2])}
            found["predictive"] = Lines(x[:, 0], {"median": levels[:, 1]}, "x", "y", "median and 95% interval", band)
        draws = self.matched_.sample(
            8, generator=self._stream("picture"), x=self._inputs(x).cpu().double(), network=self._network
        ).value.numpy()
        names = {f"draw {number + 1}": row for number, row in enumerate(draws)}
        found["prior"] = Lines(x[:, 0], names, "x", "f(x), standardised", "functions of the matched prior")
        return found

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "functional-prior", "examples")
        x = rng.uniform(-2, 2, size=(16, 1))
        table = rng.normal(size=(24, 3))
        label = np.where(table[:, 0] + table[:, 1] > 0, "yes", "no")
        matching = MatchSettings(n_outer=2, n_inner=3, n_functions=8, n_points=8, width=16)
        sampling = SGHMCSettings(n_burn=20, keep_every=2, n_samples=6, n_drop=1, n_chains=2, batch_size=8)
        tiny = {"hidden": (8,), "matching": matching, "sampling": sampling, "random_state": 0}
        return [
            Example("curve", tiny, x, np.sin(2 * x[:, 0])),
            Example(
                "classes, hierarchical", {**tiny, "task": "classification", "family": "hierarchical"}, table, label
            ),
            Example("flow", {**tiny, "family": "flow"}, x, np.cos(x[:, 0])),
        ]

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Diabetes progression, or wine: small tables of numbers."""
        from sklearn import datasets

        if task == "regression":
            return {"diabetes": datasets.load_diabetes(return_X_y=True)}
        return {"wine": datasets.load_wine(return_X_y=True)}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """A deep ensemble of the same perceptron, and for numbers a Gaussian process."""
        hidden, task, noise = tuple(self.hidden), self._task(), self.noise_variance
        found: dict[str, Callable[[int], Any]] = {
            "deep ensemble": lambda seed: DeepEnsemble(hidden, task=task, noise_variance=noise, random_state=seed)
        }
        if task == "regression":
            found["Gaussian process"] = lambda seed: PlainGP(random_state=seed)
        return found

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Distance of the matched prior to its target, a curve with a gap, and Boston house prices."""
        from foreknow.functions.functional_prior.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    # Own machinery -----------------------------------------------------------------------------------------

    def _build(self, network: nn.Module | None, shape: tuple[int, ...], n_outputs: int) -> FlatNetwork:
        if network is not None:
            if not isinstance(network, nn.Module):
                raise InputError(f"BayesianNet: network must be an nn.Module, got {type(network).__name__}.")
            return FlatNetwork(network)
        if len(shape) > 1:
            raise InputError(
                f"BayesianNet: rows of shape {shape} need a network of their own.", hint="fit(X, y, network=...)."
            )
        return FlatNetwork(mlp(int(math.prod(shape)), n_outputs, self.hidden, self.activation))

    def _inputs(self, X: NDArray[Any]) -> Tensor:
        flat = self._scaling.inputs(X.reshape(len(X), -1).astype(np.float64))
        return flat.reshape(X.shape).to(self.device_)

    def _measurement(self, x: Tensor, given: Any, matching: MatchSettings) -> Measurement:
        if given is None:
            return Measurement.of_rows(x)
        rows = self._read_X(given, fitting=False)
        if rows.shape[1:] != tuple(x.shape[1:]):
            raise InputError(f"BayesianNet: measurement rows have shape {rows.shape[1:]}, X {tuple(x.shape[1:])}.")
        return Measurement.of_rows(self._inputs(rows))

    def _outputs(self, X: NDArray[Any]) -> Tensor:
        with torch.no_grad():
            parts = [self._network(self.weights_, rows) for rows in torch.split(self._inputs(X), _CHUNK)]
        return torch.cat(parts, 1)

    def _rhat(self, draws: Tensor, x: Tensor) -> NDArray[np.float64]:
        if draws.shape[1] < 4 or draws.shape[0] < 2:
            return np.full(min(len(x), _ROWS_JUDGED), np.nan)
        with torch.no_grad():
            values = torch.stack([self._network(chain, x[:_ROWS_JUDGED]) for chain in draws])  # (chains, draws, n, out)
            if values.shape[-1] > 1:
                values = values.softmax(-1)[..., 1:]  # logits may drift together
        return np.asarray(split_rhat(values).amax(-1).cpu().numpy())
