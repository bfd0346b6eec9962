"""The system `distribution-transformer`: posteriors in one pass, for a prior given with every question."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import torch_stream
from foreknow.common.validate import as_matrix, check_int, check_known, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Picture
from foreknow.core.predictive import GaussianMixture, MultivariateMixture, Predictive, Transformed
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import PRESETS, Applied, Example, NotFittedError, State, System, Tags
from foreknow.tasks.distribution_transformer.beliefs import Belief, MixturePosterior
from foreknow.tasks.distribution_transformer.card import CARD
from foreknow.tasks.distribution_transformer.families import MixtureFamily
from foreknow.tasks.distribution_transformer.network import Components, DistributionNetwork, DistributionSettings
from foreknow.tasks.distribution_transformer.observing import ObservationModel
from foreknow.tasks.distribution_transformer.presets import (
    EXPERIMENTS,
    experiment,
    preset_model,
    preset_settings,
    read_network,
    shipped_name,
    shipped_network,
)
from foreknow.tasks.distribution_transformer.prior import MetaPrior
from foreknow.tasks.distribution_transformer.supports import transform_of
from foreknow.tasks.distribution_transformer.training import Trained, fit_network

Floats = NDArray[np.float64]
_ROWS_AT_ONCE = 8192
_WEIGHTS = ("auto", "shipped", "arm", "fit")
_N_OTHERS = 512  # parameters of other tasks, of which the placebo is told one


@register(CARD)
class DistributionTransformer(System):
    """Bayesian updates in milliseconds, where the prior is an input: give a prior and observations, get a posterior.

    A network is trained once on priors from a `MetaPrior` and observations from a model that you can simulate. For
    every task below one ships, and `update` works at once. `fit(model)` trains for your own.

    Args:
        prior: a `MetaPrior` over the priors that will be asked for; "paper" (that of `task`), "off" (the network is
            told nothing of the prior) or "wrong" (told that of another task).
        task: one of the published experiments: "inverse-gamma", "mixture", "quantum", "gp", "range",
            "range-bearing", "volatility", "factor-volatility".
        weights: "auto" (shipped where one ships for these settings, else "fit"), "shipped", "arm" (ships for
            "inverse-gamma": smaller, trained equally long with and without the prior, for comparisons; "auto" takes
            the same smaller one for "off", but a longer trained one otherwise), "fit", or the path of a file that
            `save_network` or `foreknow pretrain` wrote.
        preset: sizes and budget of "fit": "quick", "small" or "paper".
        settings: a `DistributionSettings` in place of the preset's.
        random_state: seed of training.
        device: "auto", "cpu", "cuda".

    Example:
        >>> from foreknow.tasks import Belief, DistributionTransformer
        >>> dt = DistributionTransformer(task="inverse-gamma")
        >>> posterior = dt.update(Belief.inverse_gamma(2.0, 1.0), z=[0.3, -1.2])
        >>> 0.2 < float(posterior.marginal().quantile(0.5)) < 1.2
        True

    References: Whittle et al. 2025, "Distribution Transformers".
    """

    tags = Tags(learns_from="world", missing_values=True, row_order_invariant=False, tolerance=1e-4)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        task: str = "inverse-gamma",
        weights: str = "auto",
        preset: str = "small",
        settings: DistributionSettings | None = None,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.task = task
        self.weights = weights
        self.preset = preset
        self.settings = settings
        self.random_state = random_state
        self.device = device

    # Public beyond the base --------------------------------------------------------------------------------

    def update(
        self, prior: Belief | MixturePosterior | MultivariateMixture, /, **observations: ArrayLike
    ) -> MixturePosterior | Belief:
        """The posterior of a prior after observations.

        Args:
            prior: one belief or a batch of b, of the family that the network was trained with; a posterior goes
                through its `as_prior()`, and a mixture with more or fewer components is brought to the right number.
            **observations: channel -> what was seen: m numbers, or tokens (m, c), also for all of a batch of priors
                alike; for each its own (b, m, c). Where a token is one number, (b, m) does for a batch of priors, and
                for one prior if m > 1: there (m, 1) are m tokens. NaN stands for a missing token; channels may be
                left out.

        Returns:
            The posterior. Where nothing was observed it is the prior itself, unchanged; in a batch of parametric
            priors, a row without observations is the mixture that the network decodes from its prior.

        Raises:
            InputError: a prior of another family, an unknown channel, tokens of another size.
        """
        trained = self._ready()
        network = trained.network
        check_known("update", observations, tuple(network.channels), what="channel")
        belief = self._as_belief(prior, trained)
        per_row = len(belief.batch_shape) > 0
        given = {name: _tokens(name, value, network.channels[name], per_row) for name, value in observations.items()}
        batched = len(belief.batch_shape) > 0 or any(value.ndim == 3 for value in given.values())
        sizes = {len(value) for value in given.values() if value.ndim == 3} | set(belief.batch_shape)
        if len(belief.batch_shape) > 1 or len(sizes) > 1:
            raise InputError(f"update: the prior and the channels must agree in one batch axis, got sizes {sizes}.")
        warn_of_more_tokens(trained, given)
        seen = torch.stack([(~value.isnan().any(-1)).any(-1).any() for value in given.values()]) if given else None
        if seen is None or not bool(seen.any()):
            return belief
        b = sizes.pop() if sizes else 1
        params = belief.params.expand(b, -1) if len(belief.batch_shape) == 0 else belief.params
        tokens = {name: value if value.ndim == 3 else value.expand(b, -1, -1) for name, value in given.items()}
        mix = self._posterior(trained, params, tokens)
        found = MixturePosterior(mix, network.family.supports, network.family)
        return found if batched else found[0]

    def row_of(self, prior: Belief | MixturePosterior | MultivariateMixture, /, **observations: ArrayLike) -> Floats:
        """One question as a row for `predict`: the prior's parameters, then the tokens channel by channel."""
        trained = self._ready()
        check_known("row_of", observations, tuple(trained.network.channels), what="channel")
        belief = self._as_belief(prior, trained)
        if belief.batch_shape:
            raise InputError("row_of: one prior a row; index the batch.")
        parts = [belief.params.numpy()]
        for name, slots in trained.slots.items():
            c = trained.network.channels[name]
            given = _tokens(name, observations.get(name, np.empty((0, c))), c)
            if given.ndim != 2 or len(given) > slots:
                raise InputError(f"row_of: a row holds at most {slots} tokens of channel {name!r}.")
            parts.append(np.pad(given.numpy(), ((0, slots - len(given)), (0, 0)), constant_values=np.nan).ravel())
        return np.concatenate(parts)

    def row_names(self) -> tuple[str, ...]:
        """Names of the columns of `predict`'s rows."""
        trained = self._ready()
        names = list(trained.family.parameters)
        for name, slots in trained.slots.items():
            c = trained.network.channels[name]
            names += [
                f"{name}_{i + 1}" if c == 1 else f"{name}_{i + 1}_{j + 1}" for i in range(slots) for j in range(c)
            ]
        return tuple(names)

    def save_network(self, path: str | Path) -> Path:
        """Write the network alone, to be used again with `weights=path`."""
        self._ready().to_checkpoint().save(path)
        return Path(path)

    @property
    def network_(self) -> DistributionNetwork:
        """The network, a plain module."""
        return self._ready().network

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "DistributionTransformer"
        check_option(owner, "task", self.task, EXPERIMENTS)
        check_option(owner, "preset", self.preset, PRESETS)
        if not isinstance(self.weights, str):
            raise ConfigError(f"{owner}: weights must be one of {_WEIGHTS} or a path, got {self.weights!r}.")
        if self.weights not in _WEIGHTS and not Path(self.weights).is_file():
            raise ConfigError(f"{owner}: weights must be one of {_WEIGHTS} or a file, got {self.weights!r:.80}.")
        if self.settings is not None and not isinstance(self.settings, DistributionSettings):
            raise ConfigError(f"{owner}: settings must be a DistributionSettings, got {type(self.settings).__name__}.")
        self._meta()

    def _meta(self) -> MetaPrior:
        prior = self._resolve_prior()
        if not isinstance(prior, MetaPrior):
            raise ConfigError(
                f"DistributionTransformer: the prior must be a MetaPrior, got {type(prior).__name__}.",
                hint="`foreknow show distribution-transformer` lists them; docs say how to write one.",
            )
        return prior

    def _paper_prior(self) -> MetaPrior:
        return experiment(self.task).meta

    def _wrong_prior(self) -> MetaPrior:
        return self._paper_prior().swapped()

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        owner = "DistributionTransformer"
        if fitting:
            if X is None or isinstance(X, ObservationModel):
                return X
            raise InputError(
                f"{owner}: fit takes an observation model (an object with `observe`), or None for that of the task, "
                f"got {type(X).__name__}."
            )
        return as_matrix(owner, X, allow_nan=True)

    def _fit(self, X: ObservationModel | None, y: NDArray[Any] | None) -> None:
        self.trained_ = self._network(X)
        self._set_row_shape((len(self.row_names()),))
        self.others_ = self._others()

    def _predict_dist(self, X: Floats) -> Predictive:
        trained = self.trained_
        p = len(trained.family.parameters)
        if not np.isfinite(X[:, :p]).all():
            row = int(np.flatnonzero(~np.isfinite(X[:, :p]).all(1))[0])
            raise InputError(f"DistributionTransformer: the prior's parameters contain NaN, first in row {row}.")
        params = torch.as_tensor(X[:, :p])
        trained.family.check(params)
        tokens, at = {}, p
        for name, slots in trained.slots.items():
            c = trained.network.channels[name]
            tokens[name] = torch.as_tensor(X[:, at : at + slots * c]).reshape(len(X), slots, c)
            at += slots * c
        parts = [
            self._posterior(
                trained, params[i : i + _ROWS_AT_ONCE], {k: v[i : i + _ROWS_AT_ONCE] for k, v in tokens.items()}
            )
            for i in range(0, len(X), _ROWS_AT_ONCE)
        ]
        whole = MultivariateMixture(*(torch.cat(part) for part in zip(*(mix._tensors() for mix in parts))))
        return marginals(whole, trained.family.supports)

    def _state(self) -> State:
        trained = self.trained_
        tensors = {f"network.{name}": tensor for name, tensor in trained.network.state_dict().items()}
        return State({**tensors, "others": self.others_}, {**trained.describe(), "training": trained.training}, False)

    def _restore(self, state: State) -> None:
        own = {name.removeprefix("network."): t for name, t in state.tensors.items() if name.startswith("network.")}
        found = Trained.from_description(state.meta, own)
        self.trained_ = replace(found, network=found.network.to(self.device_), training=dict(state.meta["training"]))
        self.others_ = state.tensors["others"].to(self.device_)

    @classmethod
    def examples(cls) -> list[Example]:
        tiny: dict[str, Any] = {
            "width": 16, "depth": 1, "n_heads": 2, "hidden": 32, "embed_hidden": 16, "batch_size": 64, "n_steps": 12,
        }  # fmt: skip
        variance = [[2.0, 1.0, 0.3, -1.2] + [np.nan] * 6, [0.5, 3.0, 4.0] + [np.nan] * 7, [1.0, 1.0] + [np.nan] * 8]
        plane = Belief.mixture(
            [0.4, 0.3, 0.2, 0.1], [[10.0, 0.1], [12.0, -0.3], [9.0, 0.0], [11.0, 1.0]], [[[1.0, 0.1], [0.1, 0.3]]] * 4
        )
        position = [[*plane.params.tolist(), z] for z in (10.5, 11.0, 3.0, np.nan)]
        sizes = DistributionSettings(n_components=3, **tiny)
        return [
            Example(
                "a variance", {"weights": "fit", "settings": sizes, "random_state": 0}, None, X_new=np.array(variance)
            ),
            Example(
                "position and velocity",
                {
                    "task": "range", "weights": "fit", "random_state": 0,
                    "settings": replace(sizes, norm="pre", residual=True),
                },
                None,
                X_new=np.array(position),
            ),
        ]  # fmt: skip

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Fresh tasks of the variance experiment; sizes are observations a task."""
        from foreknow.tasks.distribution_transformer.sources import VarianceSource

        return {"variances": VarianceSource("variances with inverse-gamma priors")}

    @classmethod
    def priced_as(cls, task: str) -> System:
        return cls(task="inverse-gamma", weights="arm")

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """The exact posterior, the log-normal one with its moments, and importance sampling from the prior."""
        from foreknow.tasks.distribution_transformer.baselines import PLAIN_VARIANCE

        return PLAIN_VARIANCE

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Negative log density of the true states, in nats; how far the 90% intervals' coverage is from 0.9."""
        truth = torch.as_tensor(np.asarray(test.y, dtype=np.float64))
        if not isinstance(model, DistributionTransformer):
            return {"negative log density": float(-model.log_prob(test.X, truth).mean())}
        dist = model.predict_dist(test.X)
        found = dist.cdf(truth).double()
        covered = float(((found > 0.05) & (found < 0.95)).double().mean())
        return {"negative log density": float(-dist.log_prob(truth).mean()), "error of coverage": abs(covered - 0.9)}

    def pictures(self) -> Mapping[str, Picture]:
        """Priors of the training's distribution before and after observations of the task."""
        from foreknow.tasks.distribution_transformer.looking import prior_to_posterior

        model = preset_model("small", self.task)
        trained = self._ready()
        same = experiment(self.task).meta.family == trained.family
        if not same or set(trained.network.channels) != set(_channels_of(self.task)):
            return {}  # it was fitted to a model of the caller's own
        return prior_to_posterior(self, model)

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """Nothing is read: `foreknow fit` trains on simulations, or takes the network that ships."""
        from foreknow.tasks.distribution_transformer.files import read

        return read(paths, options)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        """Returns (task "volatility"), ranges ("range"), or a table of questions; see `files`."""
        from foreknow.tasks.distribution_transformer.files import apply

        return apply(self, inputs, out, options, progress)

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """The small proofs: an inverse-gamma variance, Gaussian mixtures, and a filter with clutter."""
        from foreknow.tasks.distribution_transformer.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def pretrain_shipped(cls, name: str | None = None, **options: Any) -> dict[str, Any]:
        """Train (or go on training) one of the networks this system ships; see `foreknow pretrain`."""
        from foreknow.tasks.distribution_transformer.presets import pretrain_shipped

        return pretrain_shipped(name, **options)

    # Own machinery -----------------------------------------------------------------------------------------

    def _ready(self) -> Trained:
        """The network of the last fit, or the one that ships for these settings."""
        if hasattr(self, "trained_"):
            return self.trained_
        if self._source() == "fit":
            raise NotFittedError(
                "This DistributionTransformer instance is not fitted yet.",
                hint="Call fit(model) first, or fit(None) for the task's own model.",
            )
        found: Trained = getattr(self, "_loaded", None) or self._network(None)
        self._loaded = found
        return found

    def _source(self) -> str:
        """Where the network comes from: "fit", "shipped", "arm", or a path."""
        self._check_settings()
        if self.weights != "auto":
            return self.weights
        meta = self._meta()
        known = isinstance(self.prior, str) or meta in (m := experiment(self.task).meta, m.off(), m.swapped())
        plain = known and self.settings is None and self.preset == "small"
        return "shipped" if plain and shipped_name(self.task, meta.told) is not None else "fit"

    def _network(self, model: ObservationModel | None) -> Trained:
        source, meta = self._source(), self._meta()
        known = model is None or (source in ("shipped", "arm") and model == preset_model("small", self.task))
        if not known and self.weights not in ("auto", "fit"):
            raise ConfigError(
                f"DistributionTransformer: weights={self.weights!r:.80} takes a network as it is, and the model given "
                "to fit would be ignored.",
                hint="Use weights='fit' to train for the model, or fit(None).",
            )
        if source == "fit" or not known:
            settings = self.settings or preset_settings(self.preset, self.task)
            seed = 0 if self.random_state is None else check_int("DistributionTransformer", "random_state",
                                                                 self.random_state, low=0)  # fmt: skip
            used = preset_model(self.preset, self.task) if model is None else model
            found, _ = fit_network(
                meta, used, settings, seed=seed, device=self.device, progress=getattr(self, "_progress", None)
            )
            return found
        if source in ("shipped", "arm"):
            found = shipped_network(self.task, meta.told, equal_budget=source == "arm")
        else:
            found = read_network(Path(source))
            if self.prior != "paper" and replace(meta, told=found.meta.told) != found.meta:
                raise ConfigError(
                    f"DistributionTransformer: {source} holds a network that was fitted to other priors than given.",
                    hint="Leave prior='paper' to use the file's own.",
                )
        place = self._place()
        network = found.network if place.type == "cpu" else copy.deepcopy(found.network).to(place)
        return replace(found, network=network, meta=replace(found.meta, told=meta.told))

    def _place(self) -> torch.device:
        from foreknow.common.device import resolve_device

        return resolve_device(self.device)

    def _others(self) -> Tensor:
        """Parameters of other tasks, for the placebo."""
        return self.trained_.meta.draw(_N_OTHERS, torch_stream(self.seed_, "others")).to(self.device_)

    def _told(self, trained: Trained, params: Tensor) -> Tensor:
        """What the network is told of the priors: themselves, or in the placebo those of other tasks."""
        if trained.meta.told != "swapped":
            return params
        others = self.others_ if hasattr(self, "others_") else trained.meta.draw(_N_OTHERS, torch_stream(0, "others"))
        rows = np.ascontiguousarray(params.cpu().numpy())
        picks = [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "big") for row in rows]
        return others[[pick % len(others) for pick in picks]].to(params)

    @torch.no_grad()
    def _posterior(self, trained: Trained, params: Tensor, tokens: Mapping[str, Tensor]) -> MultivariateMixture:
        """Mixtures of T(x) in double precision, on the processor, after tokens (b, m, c) under priors (b, p)."""
        network = trained.network
        place = network.constant.device
        told = self._told(trained, params)
        seen = {name: value.clamp(-1e30, 1e30).float().to(place) for name, value in tokens.items()}
        after, before = network(told.float().to(place), seen)
        empty = torch.stack([value.isnan().any(-1).all(-1) for value in tokens.values()]).all(0)  # (b,)
        if isinstance(network.family, MixtureFamily) and trained.meta.told == "parameters":
            exact = network.family.mixture(params)
            prior = Components(exact.log_weights, exact.means, exact.scale_tril)
        else:
            prior = Components(*(t.double().cpu() for t in (before.log_weights, before.means, before.scale_tril)))
        parts = [
            torch.where(empty.reshape(-1, *[1] * (one.ndim - 1)), other.cpu(), one.double().cpu())
            for one, other in zip(
                (after.log_weights, after.means, after.scale_tril), (prior.log_weights, prior.means, prior.scale_tril)
            )
        ]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise InputError("DistributionTransformer: the prior or the observations are too large to compute with.")
        return MultivariateMixture(*parts)

    def _as_belief(self, prior: Belief | MixturePosterior | MultivariateMixture, trained: Trained) -> Belief:
        family = trained.family
        if isinstance(prior, MixturePosterior):
            prior = prior.as_prior()
        if isinstance(prior, MultivariateMixture):
            prior = Belief.of(prior, supports=family.supports)
        if not isinstance(prior, Belief):
            raise InputError(f"update: the prior must be a Belief, got {type(prior).__name__}.")
        if isinstance(family, MixtureFamily) and isinstance(prior.family, MixtureFamily):
            if prior.family.supports != family.supports:
                raise InputError(f"update: the prior is over {prior.family.supports}, the state {family.supports}.")
            return prior if prior.family == family else Belief(family, family.pack(prior.as_mixture()))
        if prior.family != family:
            raise InputError(
                f"update: this network takes priors of the family {family.name!r}, got {prior.family.name!r}.",
                hint="Train a network for that family: DistributionTransformer(MetaPrior).fit(model).",
            )
        return prior


def _channels_of(task: str) -> tuple[str, ...]:
    from foreknow.tasks.distribution_transformer.training import draw_tasks

    found = experiment(task)
    return tuple(draw_tasks(found.meta, found.model, 2, torch_stream(0, "channels")).tokens)


def marginals(mix: MultivariateMixture, supports: Sequence[str]) -> Predictive:
    """Batch (n,) for one number; (n, d) where all numbers have one support; else the first number's, (n,)."""
    if mix.n_dims == 1 or len(set(supports)) > 1:
        base: Predictive = mix.marginal(0)
    else:
        sds = mix.covariances.diagonal(dim1=-2, dim2=-1).sqrt().mT  # (n, d, K)
        base = GaussianMixture(mix.logits.unsqueeze(-2).expand_as(sds), mix.means.mT, sds)
    transform = transform_of(supports[0])
    return base if transform is None else Transformed(base, transform)


def warn_of_more_tokens(trained: Trained, tokens: Mapping[str, Tensor]) -> None:
    """Warn the caller's caller where a question has more tokens (..., m, c) of a channel than those of the training."""
    for name, value in tokens.items():
        n = int((~value.isnan().any(-1)).sum(-1).max()) if value.numel() else 0
        if n > trained.slots[name]:
            warnings.warn(
                f"{n} tokens of channel {name!r} were given, the network was trained with at most "
                f"{trained.slots[name]}; beyond that its posteriors are wrong. Make several updates of that many each.",
                ForeknowWarning,
                stacklevel=3,
            )


def _tokens(name: str, value: ArrayLike | Tensor, c: int, per_row: bool = False) -> Tensor:
    """Tokens (m, c) or (b, m, c) in double precision; numbers (b, m) are b rows of tokens where `per_row`."""
    try:
        array = value.double() if isinstance(value, Tensor) else torch.as_tensor(np.array(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise InputError(f"update: channel {name!r} must hold numbers ({error}).") from error
    if c == 1 and (array.ndim <= 1 or array.shape[-1] != 1 or (per_row and array.ndim == 2)):
        array = array.unsqueeze(-1)
    if array.ndim == 1:
        array = array.unsqueeze(0)
    if array.ndim not in (2, 3) or array.shape[-1] != c:
        raise InputError(f"update: tokens of channel {name!r} have {c} numbers, got shape {tuple(array.shape)}.")
    if bool(array.isinf().any()):
        raise InputError(f"update: channel {name!r} contains infinity.")
    return array
