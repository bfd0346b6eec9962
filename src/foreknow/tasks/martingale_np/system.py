"""The system `martingale-np`: few-shot regression with uncertainty about the whole function."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.device import resolve_device
from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.common.validate import as_matrix, as_vector, check_bool, check_int, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Picture
from foreknow.core.predictive import Predictive
from foreknow.core.prior import Prior, Simulator
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import PRESETS, Applied, Example, State, System, Tags
from foreknow.tasks.martingale_np.card import CARD
from foreknow.tasks.martingale_np.network import ConditionalNP, NPSettings, make_network
from foreknow.tasks.martingale_np.posterior import FunctionPosterior, Scaling
from foreknow.tasks.martingale_np.presets import preset_settings, read_network, shipped_name, shipped_network
from foreknow.tasks.martingale_np.tasks import MartingalePrior, check_range
from foreknow.tasks.martingale_np.training import (
    Collection,
    as_tensor,
    build_network,
    pretrain_network,
    to_checkpoint,
)

_LEAST_TASK = 2  # rows, below which a task of a collection teaches nothing


@register(CARD)
class MartingaleNP(System):
    """Few-shot regression: a few rows of a new task in, a distribution over its whole function out.

    A network learns once from many related tasks, of a simulator or of your own. `fit(X, y)` (or `condition`, which
    changes nothing) then takes the rows of one new task; nothing is optimised on them. `fit(X, y, tasks=labels)` learns
    the network from your own collection: rows of many tasks, each row with the label of its task; `condition` then
    takes rows of a further one. Uncertainty about the function comes from pseudo data that a generator draws for the
    unseen rest of the task; it shrinks with the context.

    Args:
        prior: "paper" (functions of one column drawn from Gaussian processes, the rule of the paper), "off" (no pseudo
            data), "wrong" (pseudo data of another task), a `MartingalePrior`, or any `Simulator` of regression tasks.
        attentive: attend from query rows to context rows instead of averaging these: MPANP instead of MPNP. No such
            network ships: it is trained at first use, minutes to an hour on two cores.
        n_pseudo: pseudo rows of a draw; None takes the network's, 0 none (the control arm).
        n_samples: draws of the mixture, K.
        weights: "auto" (a network that ships, where there is one, else "fit"), "shipped", "fit", or the path of a file
            that `save_network` or `foreknow pretrain martingale-np` wrote.
        preset: sizes and budget of "fit": "quick", "small" or "paper".
        settings: an `NPSettings` that replaces the preset's.
        standardize: bring the rows of a context to the network's scale; needs three rows or more.
        x_range: between which values the inputs lie, in your units, the same for all columns; None takes the range of
            the context, beyond which the network is soon far from its training. Not used with a collection of tasks.
        random_state: seed of training and of the draws.
        device: where to compute.

    Example:
        >>> import numpy as np
        >>> from foreknow.tasks import MartingaleNP
        >>> x = np.linspace(0, 10, 12)[:, None]
        >>> f = MartingaleNP(random_state=0).condition(x, np.sin(x[:, 0]))
        >>> f.sample(np.array([[2.5], [5.5]]), 4).shape
        (4, 2)

    References: Lee et al. 2023, "Martingale Posterior Neural Processes".
    """

    tags = Tags(tolerance=1e-3)
    fit_inputs = ("tasks",)
    _source: MartingalePrior | Collection | None
    _scaling: Scaling | None
    _trained_for: tuple[object, ...] | None
    _from_collection: bool

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        attentive: bool = False,
        n_pseudo: int | None = None,
        n_samples: int = 50,
        weights: str = "auto",
        preset: str = "small",
        settings: NPSettings | None = None,
        standardize: bool = True,
        x_range: tuple[float, float] | None = None,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.attentive = attentive
        self.n_pseudo = n_pseudo
        self.n_samples = n_samples
        self.weights = weights
        self.preset = preset
        self.settings = settings
        self.standardize = standardize
        self.x_range = x_range
        self.random_state = random_state
        self.device = device

    # Public beyond the base --------------------------------------------------------------------------------

    def pretrain(
        self,
        *,
        n_steps: int | None = None,
        minutes: float | None = None,
        progress: ProgressCallback | None = None,
        log_path: Path | None = None,
        checkpoint_path: Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Fit the network to draws from the prior; `fit` and `condition` then use it.

        Args:
            n_steps: optimiser steps instead of the settings'.
            minutes: wall-clock budget instead of steps.
            progress: told after every step.
            log_path: JSONL file of losses.
            checkpoint_path: file of the training state.
            resume: go on from `checkpoint_path`.
        """
        self._check_settings()
        settings = self._network_settings()
        if n_steps is not None:
            settings = replace(settings, n_steps=check_int("MartingaleNP.pretrain", "n_steps", n_steps, low=1))
        prior = self._martingale_prior()
        network, self.training_ = pretrain_network(
            prior,
            settings,
            rule=self._rule(prior),
            seed=0 if self.random_state is None else self.random_state,
            minutes=minutes,
            device=self.device,
            progress=progress,
            log_path=log_path,
            checkpoint_path=checkpoint_path,
            resume=resume,
        )
        self.network_, self._source, self._scaling = network, prior, None
        self._trained_for = self._key()
        return self

    def untrained(self) -> Self:
        """The network before it has seen a task: the arm that shows what training taught it."""
        self._check_settings()
        prior = self._martingale_prior()
        seed = 0 if self.random_state is None else self.random_state
        network = build_network(prior, self._network_settings(), rule=self._rule(prior), seed=seed)
        self.network_, self._source, self._scaling = network.eval().to(resolve_device(self.device)), prior, None
        self._trained_for = self._key()
        return self

    def condition(self, X: Any, y: Any) -> FunctionPosterior:
        """What is known of the function after these rows, without changing this object; there may be no rows.

        Args:
            X: shape (n, d), n >= 0.
            y: shape (n,).

        Returns:
            The posterior: `predict`, `mean`, `sample`, `log_prob`.
        """
        self._check_settings()
        rows = np.asarray(X, dtype=np.float64)
        if rows.ndim != 2 or (len(rows) and not np.isfinite(rows).all()):
            rows = as_matrix("MartingaleNP.condition", X)
        target = as_vector("MartingaleNP.condition", y, n=len(rows))
        network, source, scaling = self._network()
        return self._posterior(network, source, scaling, rows, target)

    def save_network(self, path: str | Path) -> Path:
        """Write the network alone (no rows), to be used again with `weights=path`."""
        if not hasattr(self, "network_"):
            raise ConfigError(
                "MartingaleNP.save_network: there is no network yet.", hint="Call pretrain() or fit() first."
            )
        if self._scaling is not None:
            raise ConfigError(
                "MartingaleNP.save_network: a network of your own collection belongs to the units of its tables.",
                hint="Save the whole system: save(path).",
            )
        source = self._source if isinstance(self._source, MartingalePrior) else self._martingale_prior()
        to_checkpoint(self.network_, source, {"seed": self.random_state}).save(path)
        return Path(path)

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "MartingaleNP"
        check_option(owner, "preset", self.preset, PRESETS)
        check_bool(owner, "attentive", self.attentive)
        check_bool(owner, "standardize", self.standardize)
        check_int(owner, "n_samples", self.n_samples, low=1)
        if self.n_pseudo is not None:
            check_int(owner, "n_pseudo", self.n_pseudo, low=0)
        if not isinstance(self.weights, str):
            raise ConfigError(f"{owner}: weights must be 'auto', 'shipped', 'fit' or a path, got {self.weights!r}.")
        if self.x_range is not None:
            check_range(owner, "x_range", self.x_range, positive=False)
        if self.settings is not None and not isinstance(self.settings, NPSettings):
            raise ConfigError(f"{owner}: settings must be an NPSettings, got {type(self.settings).__name__}.")

    def _task(self) -> str:
        return "regression"

    def _paper_prior(self) -> MartingalePrior:
        return MartingalePrior()

    def _wrong_prior(self) -> MartingalePrior:
        return MartingalePrior(rule="shuffled")

    def _resolve_prior(self) -> Prior:
        prior = super()._resolve_prior()
        return (
            MartingalePrior(prior) if isinstance(prior, Simulator) and not isinstance(prior, MartingalePrior) else prior
        )

    def _fit(self, X: NDArray[np.float64], y: NDArray[Any] | None, tasks: Any = None) -> None:
        assert y is not None  # the base class refuses a missing target
        target = y.astype(np.float64)
        if tasks is not None:
            self._learn_collection(X, target, tasks)
            none = np.empty((0, X.shape[1])), np.empty(0)
            self.posterior_ = self._posterior(self.network_, self._source, self._scaling, *none)
            return
        if getattr(self, "_from_collection", False):  # a second fit forgets the first
            self._from_collection = False
            self._trained_for = None
        network, source, scaling = self._network()
        self.network_, self._source, self._scaling = network, source, scaling
        self.posterior_ = self._posterior(network, source, scaling, X, target)

    def _predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        return self.posterior_.predict(X)

    def _state(self) -> State:
        posterior, network = self.posterior_, self.network_
        scaling = posterior.scaling
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors["context.x"], tensors["context.y"] = posterior.context
        tensors["scaling.x_shift"], tensors["scaling.x_scale"] = map(
            torch.as_tensor, (scaling.x_shift, scaling.x_scale)
        )
        meta = {
            "settings": to_json(network.settings),
            "rule": network.rule,
            "n_features": network.n_features,
            "seed": posterior.seed,
            "y_shift": scaling.y_shift,
            "y_scale": scaling.y_scale,
            "collection": self._scaling is not None,
            "source": to_json(self._source) if isinstance(self._source, MartingalePrior) else None,
        }
        return State(tensors, meta, contains_rows=len(posterior.context[1]) > 0)

    def _restore(self, state: State) -> None:
        meta, tensors = state.meta, state.tensors
        settings, source = from_json(meta["settings"]), from_json(meta["source"])
        if not isinstance(settings, NPSettings) or not isinstance(source, MartingalePrior | None):
            raise CheckpointError("the file's network is not that of a MartingaleNP.")
        network = make_network(str(meta["rule"]), int(meta["n_features"]), settings)
        own = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        network.load_state_dict(own)
        self.network_ = network.eval().to(self.device_)
        scaling = Scaling(
            tensors["scaling.x_shift"].numpy(),
            tensors["scaling.x_scale"].numpy(),
            float(meta["y_shift"]),
            float(meta["y_scale"]),
        )
        self._source, self._scaling = source, scaling if meta["collection"] else None
        self._from_collection = bool(meta["collection"])
        self._trained_for = self._key()
        context = tensors["context.x"].to(self.device_), tensors["context.y"].to(self.device_)
        self.posterior_ = self._conditioned(self.network_, source, context, scaling, int(meta["seed"]))

    @classmethod
    def examples(cls) -> list[Example]:
        tiny = NPSettings(
            width=16, encoder_depth=2, decoder_depth=2, n_heads=2, n_pseudo=4, n_samples=3, batch_size=4, n_steps=10,
            lr=1e-3,
        )  # fmt: skip
        rng = numpy_stream(0, "martingale-np", "examples")
        x = np.sort(rng.uniform(0, 10, (12, 1)), axis=0)
        common = {"weights": "fit", "n_samples": 8, "random_state": 0}
        return [
            Example("curve", {**common, "settings": tiny}, x, np.sin(x[:, 0])),
            Example("attentive", {**common, "attentive": True, "settings": tiny}, x, np.cos(x[:, 0])),
        ]

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Years of sea temperatures, one a seed; the size is the number of months that are known."""
        from foreknow.common.deps import available
        from foreknow.tasks.martingale_np.real import YearSource

        return {"sea temperatures": YearSource()} if task == "regression" and available("statsmodels") else {}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """A Gaussian process and the mean of the known rows; of the years, the other years' conditional normal."""
        from foreknow.tasks.martingale_np.real import OtherYears, PlainGP, PlainMean

        found: dict[str, Callable[[int], Any]] = {"Gaussian process": PlainGP, "mean": lambda seed: PlainMean()}
        if self.priced_on("regression"):
            found["conditional normal of other years"] = lambda seed: OtherYears()
        return found

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Negative log density a row in nats (marginal), and the root mean square error."""
        values = torch.as_tensor(np.asarray(test.y, dtype=np.float64))
        dist: Predictive = model.predict_dist(test.X)
        return {
            "negative log density": float(-dist.log_prob(values).double().mean()),
            "root mean square error": float((dist.mean() - values).square().mean().sqrt()),
        }

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        from foreknow.tasks.martingale_np.files import read_training

        return read_training(paths, options)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        from foreknow.tasks.martingale_np.files import apply

        return apply(self, inputs, out, options, progress)

    def pictures(self) -> Mapping[str, Picture]:
        """From prior to posterior: functions before and after the rows that `fit` took."""
        from foreknow.tasks.martingale_np.looking import pictures

        self._check_fitted()
        return pictures(self)

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """The small proof: functions, digits, a real table."""
        from foreknow.tasks.martingale_np.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def pretrain_shipped(cls, name: str | None = None, **options: Any) -> dict[str, Any]:
        """Train (or go on training) one of the networks this system ships; see `foreknow pretrain`."""
        from foreknow.tasks.martingale_np.presets import pretrain_shipped

        return pretrain_shipped(name, **options)

    # Own machinery -----------------------------------------------------------------------------------------

    def _martingale_prior(self) -> MartingalePrior:
        prior = self._resolve_prior()
        if not isinstance(prior, MartingalePrior):
            raise ConfigError(
                f"MartingaleNP: the prior must be a MartingalePrior or a Simulator, got {type(prior).__name__}.",
                hint="`foreknow show martingale-np` lists the priors of this system.",
            )
        return prior

    def _rule(self, prior: MartingalePrior) -> str:
        return "none" if self.n_pseudo == 0 and prior.rule in ("martingale", "shuffled") else prior.rule

    def _network_settings(self) -> NPSettings:
        settings = self.settings or preset_settings(self.preset)
        changes: dict[str, Any] = {"attentive": bool(self.attentive)}
        if self.n_pseudo:
            changes["n_pseudo"] = self.n_pseudo
        return replace(settings, **changes)

    def _key(self) -> tuple[object, ...]:
        """What decides which network is meant."""
        return (self.prior, self.attentive, self.n_pseudo, self.weights, self.preset, self.settings, self.random_state)

    def _network(self) -> tuple[ConditionalNP, MartingalePrior | Collection | None, Scaling | None]:
        """The network these settings ask for, what it was fitted to, and its scaling if that is fixed."""
        if getattr(self, "_trained_for", None) == self._key():
            return self.network_, self._source, self._scaling
        prior, weights = self._martingale_prior(), self.weights
        prior = replace(prior, rule=self._rule(prior))
        name = shipped_name(prior, bool(self.attentive)) if self.settings is None else None
        if weights == "auto":
            weights = "shipped" if name else "fit"
            if weights == "fit" and self.settings is None and self.preset != "quick":
                warnings.warn(
                    f"MartingaleNP: no network ships for {prior.describe()}{', attentive' if self.attentive else ''}, "
                    f"so one is trained now, for {preset_settings(self.preset).n_steps} steps: minutes to hours. "
                    "pretrain() and save_network(path) do it once, for weights=path; report_to(callback) tells how far "
                    "it is.",
                    ForeknowWarning,
                    stacklevel=4,
                )
        if weights == "fit":
            self.pretrain(progress=getattr(self, "_progress", None))
            return self.network_, self._source, None
        if weights == "shipped":
            if name is None:
                raise ConfigError(
                    f"MartingaleNP: no network ships for {prior.describe()}{', attentive' if self.attentive else ''}.",
                    hint="Use weights='fit'.",
                )
            network, fitted_to = shipped_network(name)
        else:
            network, fitted_to = read_network(Path(weights))
            if network.settings.attentive != bool(self.attentive):
                raise ConfigError(f"MartingaleNP: {weights} holds a network with attentive={not self.attentive}.")
            if self.prior != "paper" and prior != fitted_to:
                raise ConfigError(
                    f"MartingaleNP: {weights} holds a network that was fitted to another prior.",
                    hint="Leave prior='paper' to use the file's own.",
                )
        place = resolve_device(self.device)
        if next(network.parameters()).device != place:
            network = copy.deepcopy(network).to(place)
        return network, fitted_to, None

    def _learn_collection(self, X: NDArray[np.float64], y: NDArray[np.float64], tasks: Any) -> None:
        """Train the network on the rows of many tasks."""
        labels = np.asarray(tasks)
        if labels.shape != (len(y),):
            raise InputError(
                f"MartingaleNP: tasks must name the task of every row, shape ({len(y)},), got {labels.shape}."
            )
        names, which = np.unique(labels.astype(str), return_inverse=True)
        sizes = np.bincount(which)
        typical = int(np.median(sizes))
        if len(names) < 2 or typical < _LEAST_TASK:
            raise InputError(
                f"MartingaleNP: {len(names)} task(s) with a median of {typical} row(s) are no collection.",
                hint="Bring two tasks or more, most of them with several rows.",
            )
        prior = self._martingale_prior()
        settings = self._network_settings()
        n_points = min(settings.n_points, typical)
        min_query = min(settings.min_query, max(1, n_points // 4))
        settings = replace(
            settings,
            n_points=n_points,
            min_query=min_query,
            min_context=min(settings.min_context, 1, n_points - min_query),
        )
        scaling = Scaling.of_collection(X, y) if self.standardize else Scaling.none(X.shape[1])
        x, target = torch.as_tensor(scaling.x(X)).float(), torch.as_tensor(scaling.y(y)).float()
        order = [torch.as_tensor(np.flatnonzero(which == i)) for i in range(len(names))]
        collection = Collection(tuple((x[rows], target[rows]) for rows in order))
        self.network_, self.training_ = pretrain_network(
            collection,
            settings,
            rule=self._rule(prior),
            seed=self.seed_ % 2**31,
            device=self.device,
            progress=getattr(self, "_progress", None),
        )
        self._source, self._scaling, self._from_collection = collection, scaling, True
        self._trained_for = self._key()

    def _posterior(
        self,
        network: ConditionalNP,
        source: MartingalePrior | Collection | None,
        fixed: Scaling | None,
        X: NDArray[np.float64],
        y: NDArray[np.float64],
    ) -> FunctionPosterior:
        if X.shape[1] != network.n_features:
            raise InputError(
                f"MartingaleNP: X has {X.shape[1]} columns, this network was fitted to tasks of {network.n_features}.",
                hint="Choose columns, or train a network: prior=GPTasks(n_features=...), or fit(X, y, tasks=labels).",
            )
        scaling = fixed
        if scaling is None:
            own = isinstance(source, MartingalePrior) and source.own_units
            plain = own or not self.standardize
            scaling = Scaling.none(X.shape[1]) if plain else Scaling.of_context(network, X, y, self.x_range)
        context = as_tensor(scaling.x(X), network), as_tensor(scaling.y(y), network)
        seed = seed_of(0 if self.random_state is None else self.random_state, "MartingaleNP", "draws")
        return self._conditioned(network, source, context, scaling, seed)

    def _conditioned(
        self,
        network: ConditionalNP,
        source: MartingalePrior | Collection | None,
        context: tuple[torch.Tensor, torch.Tensor],
        scaling: Scaling,
        seed: int,
    ) -> FunctionPosterior:
        if network.rule == "shuffled" and source is None:
            raise CapabilityError(
                "MartingaleNP: the placebo needs the collection it was fitted to, which is not in the file.",
                hint="Fit it again.",
            )
        return FunctionPosterior(
            network, context, scaling, n_samples=self.n_samples, n_pseudo=self.n_pseudo, seed=seed, source=source
        )
