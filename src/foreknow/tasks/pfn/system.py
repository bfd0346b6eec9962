"""The system `pfn`: Bayesian prediction by one forward pass of a network fitted to a prior."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.device import resolve_device
from foreknow.common.errors import CheckpointError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import as_matrix, as_vector, check_bool, check_int, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.predictive import Affine, Predictive, Transformed
from foreknow.core.prior import Prior, Simulator
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.system import PRESETS, Example, State, System, Tags
from foreknow.nn.attention import ContextCache
from foreknow.tasks.pfn.card import CARD
from foreknow.tasks.pfn.network import PFNNetwork, PFNSettings, build_network, pretrain_network
from foreknow.tasks.pfn.presets import ARMS, SHIPPED, paper_prior, preset_settings, wrong_prior
from foreknow.trained import shipped, weights_path


@dataclass(frozen=True)
class Scaling:
    """How a user's numbers are brought to the scale of the prior; context rows only.

    Args:
        x_shift, x_scale: per column, shape (d,).
        y_shift, y_scale: of the target.
    """

    x_shift: NDArray[np.float64]
    x_scale: NDArray[np.float64]
    y_shift: float = 0.0
    y_scale: float = 1.0

    @classmethod
    def of(cls, prior: Simulator, X: NDArray[np.float64], y: NDArray[np.float64]) -> Scaling:
        """Columns to [0, 1] where the prior draws its inputs there, else to mean 0 and sd 1; targets likewise."""
        d = X.shape[1]
        if len(X) == 0:
            return cls(np.zeros(d), np.ones(d))
        if getattr(prior, "x", "normal") == "uniform":
            shift, scale = X.min(axis=0), np.ptp(X, axis=0)
            shift = np.where(scale > 0, shift, shift - 0.5)
        else:
            shift, scale = X.mean(axis=0), X.std(axis=0)
        scale = np.where(scale > 1e-12 * np.abs(shift), scale, 1.0)
        if prior.target == "classification":
            return cls(shift, scale)
        spread = float(y.std()) if len(y) > 1 else 0.0
        return cls(shift, scale, float(y.mean()), spread if spread > 1e-12 * abs(float(y.mean())) else 1.0)


class Posterior:
    """A network with a context encoded once, ready for any number of queries.

    Args:
        network: the fitted network.
        cache: the context's keys and values.
        scaling: how inputs and targets were brought to the prior's scale.
    """

    chunk_size = 4096  # queries read at once, which bounds memory

    def __init__(self, network: PFNNetwork, cache: ContextCache, scaling: Scaling, n_classes: int = 0) -> None:
        self.network = network
        self.cache = cache
        self.scaling = scaling
        self.n_classes = n_classes

    def predict(self, X: NDArray[np.float64]) -> Predictive:
        """The predictive distribution at the rows of X, shape (m, d); batch shape (m,), in the user's units."""
        parameter = next(self.network.parameters())
        rows = (as_matrix("Posterior.predict", X) - self.scaling.x_shift) / self.scaling.x_scale
        x = torch.as_tensor(rows, dtype=parameter.dtype, device=parameter.device)[None]
        x = torch.nn.functional.pad(x, (0, self.network.n_features - x.shape[-1]))
        parts = []
        with torch.inference_mode():
            for chunk in torch.split(x, self.chunk_size, dim=1):
                logits = self.network.read(self.cache, chunk)[0]
                parts.append(logits[:, : self.n_classes] if self.n_classes else logits)
        dist = self.network.distribution(torch.cat(parts))
        if self.network.n_classes:
            return dist
        return Transformed(dist, Affine(dist_like(x, self.scaling.y_shift), dist_like(x, self.scaling.y_scale)))


@lru_cache(maxsize=4)
def _shipped(path: Path) -> tuple[PFNNetwork, Simulator]:
    """A shipped network, read once; nobody changes it."""
    return PFNNetwork.from_checkpoint(path)


def dist_like(like: Tensor, value: float) -> Tensor:
    """`value` as a scalar tensor with the dtype and device of `like`."""
    return torch.tensor(value, dtype=like.dtype, device=like.device)


@register(CARD)
class PFN(System):
    """Bayesian prediction for tasks like those of a prior you can sample from, in one forward pass.

    `fit` (or `condition`) encodes the context rows once; `predict_dist` reads the cache. Nothing is optimised on
    your data. With `prior="paper"` a shipped network is used: a one-dimensional Gaussian process with unknown
    lengthscale and noise (regression), or the tabular Bayesian-network prior (classification). Any other
    `Simulator` trains a network first: call `pretrain` once, or let `fit` do it.

    Args:
        prior: a `Simulator`, "paper", "off" (the paper's tables with targets shuffled over rows) or "wrong" (a
            placebo, functions five times too smooth).
        task: "regression" or "classification"; must agree with the prior.
        weights: "auto" (shipped where the prior is the paper's, else "fit"), "shipped", "fit", or the path of a
            file that `pretrain(...).save_network(path)` wrote.
        preset: sizes and budget of "fit": "quick", "small" or "paper".
        settings: a `PFNSettings` that replaces the preset's.
        standardize: bring context columns and targets to the prior's scale (context statistics only).
        random_state: seed of pre-training and of random choices.
        device: "auto", "cpu", "cuda".

    Example:
        >>> import numpy as np
        >>> from foreknow.tasks import PFN
        >>> x = np.linspace(0, 10, 12)[:, None]
        >>> model = PFN(random_state=0).fit(x, np.sin(x[:, 0]))
        >>> model.predict_dist(np.array([[5.5]])).interval(0.9)[0].shape
        torch.Size([1])

    References: Müller et al. 2022, "Transformers Can Do Bayesian Inference".
    """

    tags = Tags(column_order_invariant=False, tolerance=1e-3)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        task: str = "regression",
        weights: str = "auto",
        preset: str = "small",
        settings: PFNSettings | None = None,
        standardize: bool = True,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.task = task
        self.weights = weights
        self.preset = preset
        self.settings = settings
        self.standardize = standardize
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
            n_steps: optimiser steps instead of the preset's.
            minutes: wall-clock budget instead of a number of steps.
            progress: told after every step.
            log_path: JSONL file of losses.
            checkpoint_path: file of the training state.
            resume: go on from `checkpoint_path`.
        """
        self._check_settings()
        prior = self._simulator()
        settings = self._network_settings()
        if n_steps is not None:
            settings = replace(settings, n_steps=check_int("PFN.pretrain", "n_steps", n_steps, low=1))
        seed = 0 if self.random_state is None else self.random_state
        self.network_, self.training_ = pretrain_network(
            prior,
            settings,
            seed=seed,
            minutes=minutes,
            device=self.device,
            progress=progress,
            log_path=log_path,
            checkpoint_path=checkpoint_path,
            resume=resume,
        )
        self._pretrained_for, self._fitted_to = self._network_key(), self._simulator()
        return self

    def untrained(self) -> Self:
        """The same network before it has seen a draw: the arm that shows what the prior taught it."""
        self._check_settings()
        seed = 0 if self.random_state is None else self.random_state
        self.network_ = build_network(self._simulator(), self._network_settings(), seed=seed).eval()
        self._pretrained_for, self._fitted_to = self._network_key(), self._simulator()
        return self

    def save_network(self, path: str | Path) -> Path:
        """Write the network alone (no rows), to be used again with `weights=path`."""
        if not hasattr(self, "network_"):
            raise ConfigError("PFN.save_network: there is no network yet.", hint="Call pretrain() or fit() first.")
        self.network_.to_checkpoint(self._fitted_to, {"seed": self.random_state}).save(path)
        return Path(path)

    def condition(self, X: Any, y: Any) -> Posterior:
        """The posterior given these rows, without changing this object; X may have no rows (the prior predictive).

        Args:
            X: shape (n, d), n >= 0.
            y: shape (n,); class codes 0..k-1 for classification.
        """
        self._check_settings()
        rows = np.asarray(X, dtype=np.float64)
        if rows.ndim != 2 or (len(rows) and not np.isfinite(rows).all()):
            rows = as_matrix("PFN.condition", X)
        target = as_vector("PFN.condition", y, n=len(rows))
        network, prior = self._network()
        return self._encode(network, prior, rows, target, n_classes=network.n_classes)

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        check_option("PFN", "task", self.task, ("regression", "classification"))
        check_option("PFN", "preset", self.preset, PRESETS)
        check_bool("PFN", "standardize", self.standardize)
        if not isinstance(self.weights, str):
            raise ConfigError(f"PFN: weights must be 'auto', 'shipped', 'fit' or a path, got {self.weights!r}.")
        if self.settings is not None and not isinstance(self.settings, PFNSettings):
            raise ConfigError(f"PFN: settings must be a PFNSettings, got {type(self.settings).__name__}.")
        if self.weights == "shipped" and not isinstance(self.prior, str):
            raise ConfigError(
                "PFN: the shipped networks were fitted to the paper's priors; another prior needs its own network.",
                hint="Use weights='fit', or prior='paper'.",
            )

    def _task(self) -> str:
        return self.task if self.task in ("regression", "classification") else "regression"

    def _paper_prior(self) -> Simulator:
        return paper_prior(self.task)

    def _wrong_prior(self) -> Simulator:
        return wrong_prior(self.task)

    def _fit(self, X: NDArray[np.float64], y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        network, prior = self._network()
        self.network_, self._fitted_to = network, prior
        k = len(self.classes_) if self.task == "classification" else 0
        if k > max(network.n_classes, 0) and self.task == "classification":
            raise InputError(
                f"PFN: y has {k} classes, this network knows at most {network.n_classes}.",
                hint="Use foreknow.TabularClassifier, or train a network on a prior with more classes.",
            )
        self.posterior_ = self._encode(network, prior, X, y.astype(np.float64), n_classes=k)

    def _predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        return self.posterior_.predict(X)

    def _state(self) -> State:
        posterior = self.posterior_
        tensors = {f"network.{name}": tensor for name, tensor in self.network_.state_dict().items()}
        tensors |= {f"cache.{name}": tensor for name, tensor in posterior.cache.tensors().items()}
        scaling = posterior.scaling
        tensors["x_shift"], tensors["x_scale"] = torch.as_tensor(scaling.x_shift), torch.as_tensor(scaling.x_scale)
        meta = {
            "settings": to_json(self.network_.settings),
            "fitted_to": to_json(self._fitted_to),
            "n_features": self.network_.n_features,
            "n_classes": self.network_.n_classes,
            "k": posterior.n_classes,
            "y_shift": scaling.y_shift,
            "y_scale": scaling.y_scale,
        }
        return State(tensors, meta, contains_rows=True)

    def _restore(self, state: State) -> None:
        meta, tensors = state.meta, state.tensors
        settings, prior = from_json(meta["settings"]), from_json(meta["fitted_to"])
        if not isinstance(settings, PFNSettings) or not isinstance(prior, Simulator):
            raise CheckpointError("the file's network settings are not those of a PFN.")
        self._fitted_to = prior
        network = PFNNetwork(int(meta["n_features"]), int(meta["n_classes"]), settings)
        own = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        network.load_state_dict(own)
        self.network_ = network.eval().to(self.device_)
        cache = {name.removeprefix("cache."): t for name, t in tensors.items() if name.startswith("cache.")}
        scaling = Scaling(tensors["x_shift"].numpy(), tensors["x_scale"].numpy(), meta["y_shift"], meta["y_scale"])
        self.posterior_ = Posterior(
            self.network_, ContextCache.from_tensors(cache).to(self.device_), scaling, int(meta["k"])
        )

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "pfn", "examples")
        tiny = PFNSettings(width=16, depth=1, n_heads=2, n_buckets=20, n_rows=32, batch_size=16, n_steps=12)
        x = rng.uniform(size=(12, 1))
        table = rng.normal(size=(24, 5))
        label = np.where(table[:, 0] > 0, "yes", "no")
        return [
            Example("trained curve", {"weights": "fit", "settings": tiny, "random_state": 0}, x, np.sin(6 * x[:, 0])),
            Example(
                "trained table",
                {"task": "classification", "weights": "fit", "settings": tiny, "random_state": 0},
                table,
                label,
            ),
        ]

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """A table as narrow as the shipped networks: 20 columns for classes, one for numbers."""
        from sklearn import datasets

        if task == "regression":
            X, y = datasets.load_diabetes(return_X_y=True)
            return {"diabetes by body mass": (X[:, [2]], y)}
        return {"wine": datasets.load_wine(return_X_y=True)}

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Small proofs A (gap to the exact posterior), B (speed against MLE-II), C (calibration)."""
        from foreknow.tasks.pfn.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def pretrain_shipped(cls, name: str | None = None, **options: Any) -> dict[str, Any]:
        """Train (or go on training) one of the networks this system ships; see `foreknow pretrain`."""
        from foreknow.tasks.pfn.presets import pretrain_shipped

        return pretrain_shipped(name, **options)

    # Own machinery -----------------------------------------------------------------------------------------

    def _simulator(self) -> Simulator:
        prior = self._resolve_prior()
        if not isinstance(prior, Simulator):
            raise ConfigError(
                f"PFN: the prior must be a Simulator (it draws whole tasks), got {type(prior).__name__}.",
                hint="`foreknow show pfn` lists the priors of this system.",
            )
        if prior.target != self.task:
            raise ConfigError(
                f"PFN: the prior draws {prior.target} tasks, but task={self.task!r}.",
                hint=f"Set task={prior.target!r}.",
            )
        return prior

    def _shipped_name(self) -> str:
        return SHIPPED[self.task] if self.prior == "paper" else ARMS[self.task, str(self.prior)]

    def _network_settings(self) -> PFNSettings:
        return self.settings or preset_settings(self.preset, self.task)

    def _network_key(self) -> tuple[object, ...]:
        return (self.prior, self.task, self.preset, self.settings, self.random_state)

    def _network(self) -> tuple[PFNNetwork, Simulator]:
        """The network these settings ask for: pre-trained before, shipped, from a file, or trained now."""
        source = self.weights
        if getattr(self, "_pretrained_for", None) == self._network_key():
            return self.network_, self._simulator()
        if source == "auto":
            named = isinstance(self.prior, str) and self.settings is None
            source = "shipped" if named and self._shipped_name() in shipped() else "fit"
        if source == "fit":
            self.pretrain()
            return self.network_, self._simulator()
        path = weights_path(self._shipped_name()) if source == "shipped" else Path(source)
        network, prior = _shipped(path) if source == "shipped" else PFNNetwork.from_checkpoint(path)
        if source != "shipped" and self.prior != "paper" and self._resolve_prior() != prior:
            raise ConfigError(
                f"PFN: {path.name} holds a network that was fitted to another prior than the one given.",
                hint="Leave prior='paper' to use the file's own, or set weights='fit' to train one for this prior.",
            )
        if prior.target != self.task:
            raise ConfigError(f"PFN: {path.name} holds a network for {prior.target}, but task={self.task!r}.")
        place = resolve_device(self.device)
        if next(network.parameters()).device != place:
            network = copy.deepcopy(network).to(place)
        return network, prior

    def _encode(
        self, network: PFNNetwork, prior: Simulator, X: NDArray[np.float64], y: NDArray[np.float64], *, n_classes: int
    ) -> Posterior:
        if X.shape[1] > network.n_features:
            raise InputError(
                f"PFN: X has {X.shape[1]} columns, this network was fitted to tasks of at most {network.n_features}.",
                hint="Choose columns, train a network on a wider prior, or use foreknow.TabularClassifier.",
            )
        trained_rows = network.settings.n_rows - 1
        if len(X) > trained_rows:
            warnings.warn(
                f"PFN: {len(X)} context rows were given, the network was fitted to at most {trained_rows}; "
                "beyond that its predictions degrade.",
                ForeknowWarning,
                stacklevel=4,
            )
        d = X.shape[1]
        scaling = Scaling.of(prior, X, y) if self.standardize else Scaling(np.zeros(d), np.ones(d))
        parameter = next(network.parameters())
        x = torch.as_tensor((X - scaling.x_shift) / scaling.x_scale, dtype=parameter.dtype, device=parameter.device)
        t = torch.as_tensor((y - scaling.y_shift) / scaling.y_scale, dtype=parameter.dtype, device=parameter.device)
        x = torch.nn.functional.pad(x, (0, network.n_features - d))
        with torch.inference_mode():
            cache = network.encode(x[None], t[None])
        return Posterior(network, cache, scaling, n_classes)
