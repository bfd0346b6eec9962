"""The system `mm-gpvae`: latents of neurons and behaviour, shared and private."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream, seed_of, seeded_init
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Picture
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Applied, Example, State, System, Tags
from foreknow.functions.mm_gpvae import looking
from foreknow.functions.mm_gpvae.card import CARD
from foreknow.functions.mm_gpvae.inference import FUSIONS
from foreknow.functions.mm_gpvae.measures import bits_per_spike, linear_r2, relative_error
from foreknow.functions.mm_gpvae.network import GPVAE, Posterior
from foreknow.functions.mm_gpvae.prior import FourierGP
from foreknow.functions.mm_gpvae.training import Course, Fitting, fit_network
from foreknow.functions.mm_gpvae.trials import Trials, Units, check_counts, check_images, read_trials

_OWNER = "MMGPVAE"
MODALITIES = ("behavior", "both", "neural")
LIKELIHOODS = ("gaussian", "poisson")
BLOCKS = ("neural", "shared", "behavior")
_CHUNK = 32
_DRAWS = 32
_LARGEST = 1e12


@register(CARD)
class MMGPVAE(System):
    """Finds smooth latents behind spikes and behaviour of the same trials, shared ones and those of one alone.

    `fit` takes spikes as X, shape (trials, bins, neurons), and behaviour as y, shape (trials, bins, ...): images,
    video, positions. Lists of trials of unequal length are fine. `transform` and `predict` use spikes alone, and give
    their latents and the behaviour they tell of; `latents`, `rates` and `reconstruct` take either or both.

    Args:
        prior: a `FourierGP`, "paper", "off" (independent bins) or "wrong" (smooth in a shuffled order of the bins).
        n_neural: latents that only neurons have.
        n_shared: latents that both have.
        n_behavior: latents that only behaviour has.
        modality: "both"; or "neural" or "behavior", where X holds the one recording and y is not used.
        likelihood: of neurons: "poisson" for counts, "gaussian" for calcium traces.
        fusion: of what the two recordings say of shared latents: "mean" as published, or "poe", a product of experts.
        lengthscale: where the lengthscales of "paper" and "wrong" start, in bins.
        min_lengthscale: below which they cannot fall.
        hidden_neural: units of the neural encoder.
        hidden_behavior: units of the encoder of behaviour, in reverse those of its decoder.
        behavior_variance: first variance of behaviour, in standardised units.
        p_alone: share of trials whose shared latents are found from one recording alone in training, so that either
            suffices; above 0 for predictions across.
        warmup: share of the epochs, the first ones, in which shared latents are found from neurons alone.
        lr_behavior: rate of encoder and decoder of behaviour.
        lr_neural: rate of the neural encoder.
        lr_decoder: rate of the neural decoder, lengthscales and variances.
        epochs: passes over the trials.
        batch_size: trials a step.
        random_state: seed of weights, batches and draws.
        device: where to compute.

    Example:
        >>> from foreknow.functions import rotating_digits
        >>> train, test = rotating_digits(6, 2, n_bins=12, n_neurons=5, size=8)
        >>> model = MMGPVAE(hidden_neural=(8,), hidden_behavior=(16, 8), epochs=2, random_state=0)
        >>> model.fit(train.spikes, train.images).latents(test.spikes, test.images)["shared"].shape
        (2, 12, 1)

    References:
        gondur2024multimodal.
    """

    tags = Tags(transforms=True, row_order_invariant=False)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        n_neural: int = 1,
        n_shared: int = 1,
        n_behavior: int = 1,
        modality: str = "both",
        likelihood: str = "poisson",
        fusion: str = "mean",
        lengthscale: float = 30.0,
        min_lengthscale: float = 10.0,
        hidden_neural: Sequence[int] = (80, 40, 20),
        hidden_behavior: Sequence[int] = (784, 512, 256, 256),
        behavior_variance: float = 100.0,
        p_alone: float = 0.0,
        warmup: float = 0.0,
        lr_behavior: float = 1.6e-4,
        lr_neural: float = 7.7e-4,
        lr_decoder: float = 8.8e-3,
        epochs: int = 700,
        batch_size: int = 20,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.n_neural = n_neural
        self.n_shared = n_shared
        self.n_behavior = n_behavior
        self.modality = modality
        self.likelihood = likelihood
        self.fusion = fusion
        self.lengthscale = lengthscale
        self.min_lengthscale = min_lengthscale
        self.hidden_neural = hidden_neural
        self.hidden_behavior = hidden_behavior
        self.behavior_variance = behavior_variance
        self.p_alone = p_alone
        self.warmup = warmup
        self.lr_behavior = lr_behavior
        self.lr_neural = lr_neural
        self.lr_decoder = lr_decoder
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device

    # Results -------------------------------------------------------------------------------------------------

    def latents(self, spikes: Any = None, behavior: Any = None, *, return_sd: bool = False) -> Any:
        """Posterior means over time, of whatever recordings are given.

        Args:
            spikes: trials of neurons, or None.
            behavior: the same trials of behaviour, or None.
            return_sd: whether the posterior standard deviations are returned too.

        Returns:
            A mapping of "neural", "shared" and "behavior" to arrays (trials, bins, latents), lists of arrays for trials
            of unequal length; latents that the given recording does not have are at their prior. With `return_sd` two
            such mappings.
        """
        trials, posterior = self._posterior(*self._read_both(spikes, behavior))
        mean = self._blocks(trials, self.network_.at_bins(posterior.mean))
        if not return_sd:
            return mean
        return mean, self._blocks(trials, self.network_.variance_at_bins(posterior.log_sd).sqrt())

    def rates(self, spikes: Any = None, behavior: Any = None) -> Any:
        """Expected counts (or traces) of all neurons, shape (trials, bins, neurons), of whatever recordings are given.

        Raises:
            CapabilityError: it was fitted to behaviour alone.
        """
        self._need("neural", "rates")
        trials, posterior = self._posterior(*self._read_both(spikes, behavior))
        return trials.as_given(self._rates(posterior))

    def predict_behavior(self, spikes: Any) -> Any:
        """Behaviour as spikes alone tell it, in the user's units and shape; what `predict` gives too."""
        return self.reconstruct(spikes)["behavior"]

    def reconstruct(self, spikes: Any = None, behavior: Any = None) -> dict[str, Any]:
        """Rates ("neural") and behaviour ("behavior") of whatever recordings are given, as far as it was fitted to.

        Behaviour of spikes alone is averaged over draws of all latents, since it depends on ones that spikes say
        nothing of; where behaviour is given, posterior means are decoded.
        """
        trials, posterior = self._posterior(*self._read_both(spikes, behavior))
        found = {}
        if self.modality != "behavior":
            found["neural"] = trials.as_given(self._rates(posterior))
        if self.modality != "neural":
            found["behavior"] = trials.as_given(self._behavior(posterior, averaged=behavior is None))
        return found

    @property
    def lengthscales_(self) -> dict[str, NDArray[np.float64]]:
        """Learnt lengthscales in bins, by block; they mean nothing where the prior is off."""
        self._check_fitted()
        found = self.network_.lengthscales.detach().cpu().numpy().astype(np.float64)
        return {name: found[part] for name, part in self._slices().items()}

    def score(self, X: Any, y: Any = None, sample_weight: None = None) -> dict[str, float]:
        """How well held-out trials are explained.

        Returns:
            "behavior_from_spikes": share of the variance of behaviour that spikes alone tell; "behavior": that of its
            reconstruction from both; "bits_per_spike" of rates from spikes, above the mean rates of training, or
            "neural" for traces: share of their variance.
        """
        self._check_fitted()
        found = {}
        if self.modality == "both":
            found["behavior_from_spikes"] = 1 - relative_error(y, self.predict_behavior(X))
            found["behavior"] = 1 - relative_error(y, self.reconstruct(X, y)["behavior"])
        if self.modality == "behavior":
            found["behavior"] = 1 - relative_error(X, self.reconstruct(behavior=X)["behavior"])
        elif self.likelihood == "poisson":
            found["bits_per_spike"] = bits_per_spike(X, self.rates(X), self.mean_rates_)
        else:
            found["neural"] = 1 - relative_error(X, self.rates(X))
        return found

    def arms(self) -> dict[str, Self]:
        """Fresh systems with the same settings, each without a part of the prior, by name.

        "off" and "wrong" as everywhere; "time domain" has the same process on bins; "no sharing" gives every shared
        latent to both sides as a private one; "neural alone" and "behavior alone" see one recording.
        """
        params = self.get_params(deep=False)
        kind = type(self)
        given = self.prior if isinstance(self.prior, FourierGP) else self._paper_prior()
        found = {"off": self.without_prior(), "wrong": self.with_wrong_prior()}
        found["time domain"] = kind(**{**params, "prior": replace(given, domain="time", shuffled=False)})  # type: ignore[type-var]
        if self.modality == "both":
            apart = {"n_neural": self.n_neural + self.n_shared, "n_shared": 0,
                     "n_behavior": self.n_behavior + self.n_shared}  # fmt: skip
            found["no sharing"] = kind(**{**params, **apart})
            found["neural alone"] = kind(**{**params, "modality": "neural"})
            found["behavior alone"] = kind(**{**params, "modality": "behavior"})
        return found

    def pictures(self) -> Mapping[str, Picture]:
        """How the bound rose and where the lengthscales went."""
        self._check_fitted()
        return looking.course(self.course_, self._names())

    def show(self, spikes: Any = None, behavior: Any = None, *, trial: int = 0) -> dict[str, Picture]:
        """Latents of a trial over time, and frames of its behaviour, recorded and rebuilt, where these are images.

        Args:
            spikes, behavior: trials, one of them or both.
            trial: which to show.
        """
        mean, sd = self.latents(spikes, behavior, return_sd=True)
        pictures: dict[str, Picture] = {"latents": looking.latents(mean, sd, trial)}
        if self.modality == "neural" or len(self.behavior_shape_) != 2:
            return pictures
        frames: dict[str, Any] = {} if behavior is None else {"recorded": behavior[trial]}
        frames["rebuilt"] = self.reconstruct(spikes, behavior)["behavior"][trial]
        if spikes is not None and behavior is not None:
            frames["from spikes alone"] = self.predict_behavior(spikes)[trial]
        return {**pictures, "frames": looking.frames(frames)}

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Of test trials: behaviour from spikes, rates from spikes; first the shared latent, where it is known.

        A test sample may name the true `latents` (n, t, 3), as simulated ones do: the loss is then one minus R^2 of the
        true shared latent from the found ones.
        """
        found: dict[str, float] = {}
        if self.modality == "both" and "latents" in test.named:
            z, truth = model.latents(test.X, test.y)["shared"], test.named["latents"][..., 1]
            found["shared_latent"] = 1 - (linear_r2((z, truth), (z, truth)) if np.shape(z)[-1] else 0.0)
        if self.modality == "both":
            found["behavior_from_spikes"] = relative_error(test.y, model.predict(test.X))
        if self.modality == "behavior":
            found["behavior"] = relative_error(test.X, model.reconstruct(behavior=test.X)["behavior"])
        elif self.likelihood == "poisson":
            found["minus_bits_per_spike"] = -bits_per_spike(test.X, model.rates(test.X), model.mean_rates_)
        else:
            found["neural"] = relative_error(test.X, model.rates(test.X))
        return found

    # Hooks ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        for name in ("n_neural", "n_shared", "n_behavior"):
            check_int(_OWNER, name, getattr(self, name), low=0)
        check_option(_OWNER, "modality", self.modality, MODALITIES)
        check_option(_OWNER, "likelihood", self.likelihood, LIKELIHOODS)
        check_option(_OWNER, "fusion", self.fusion, FUSIONS)
        for name in ("hidden_neural", "hidden_behavior"):
            sizes = getattr(self, name)
            if isinstance(sizes, str | bytes) or not isinstance(sizes, Sequence) or not sizes:
                raise ConfigError(f"{_OWNER}: {name} must hold units of at least one layer, got {sizes!r:.60}.")
            for size in sizes:
                check_int(_OWNER, name, size, low=1)
        for name in ("lengthscale", "min_lengthscale", "behavior_variance", "lr_behavior", "lr_neural", "lr_decoder"):
            check_real(_OWNER, name, getattr(self, name), low=0.0, open_low=True)
        for name in ("p_alone", "warmup"):
            check_real(_OWNER, name, getattr(self, name), low=0.0, high=1.0)
        for name in ("epochs", "batch_size"):
            check_int(_OWNER, name, getattr(self, name), low=1)
        of = {"neural": self.n_neural + self.n_shared, "behavior": self.n_behavior + self.n_shared}
        for name, n in of.items():
            if n == 0 and self.modality in (name, "both"):
                raise ConfigError(f"{_OWNER}: there is no latent for {name}; raise n_{name} or n_shared.")
        prior = self._resolve_prior()
        if not isinstance(prior, FourierGP):
            raise ConfigError(f"{_OWNER}: the prior must be a FourierGP, got {type(prior).__name__}.")

    def _task(self) -> str:
        return "array" if self.modality == "both" else "none"

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        return self._read_behavior(X, "X") if self.modality == "behavior" else self._read_spikes(X)

    def _read_y(self, y: Any, n_rows: int) -> Any:
        if self._task() == "none":
            return None
        if y is None:
            raise InputError(f"{_OWNER}: requires y to be passed, the behaviour, but the target y is None.")
        trials = self._read_behavior(y, "y")
        if len(trials) != n_rows:
            raise InputError(f"{_OWNER}: X has {n_rows} trials of neurons, y has {len(trials)} of behaviour.")
        return trials

    def _row_shape(self, rows: Any) -> tuple[int, ...] | None:
        return tuple(rows.shape_of_bin) or (1,)  # trials may have other lengths

    def _paper_prior(self) -> Prior:
        return FourierGP(lengthscale=float(self.lengthscale), min_lengthscale=float(self.min_lengthscale))

    def _wrong_prior(self) -> Prior:
        return replace(self._paper_prior(), shuffled=True)  # type: ignore[type-var]

    def _fit(self, X: Any, y: Any) -> None:
        spikes, behavior = (None, X) if self.modality == "behavior" else (X, y)
        if spikes is not None and behavior is not None:
            _same_lengths(spikes, behavior)
        self.n_bins_ = int(X.lengths.max())
        if behavior is not None:
            check_images(_OWNER, behavior)
            self.behavior_shape_ = behavior.shape_of_bin
            self.behavior_units_ = Units.learn(behavior, one_scale=len(self.behavior_shape_) >= 2)
        if spikes is not None:
            self.n_neurons_ = int(spikes.values.shape[2])
            self.neural_units_ = Units.learn(spikes, one_scale=False)
            self.mean_rates_ = np.maximum(self.neural_units_.mean, 0.5 / spikes.seen.sum())
        self._warn_of_constants()
        with seeded_init(seed_of(self.seed_, "network")):
            self.network_ = self._build()
        fitting = Fitting(
            int(self.epochs), int(self.batch_size), float(self.lr_behavior), float(self.lr_neural),
            float(self.lr_decoder), float(self.p_alone), float(self.warmup),
        )  # fmt: skip
        self.course_ = fit_network(
            self.network_, *self._tensors(spikes, behavior), fitting, seed=seed_of(self.seed_, "training"),
            device=self.device_, tell=self._tell,
        )  # fmt: skip

    def _warn_of_constants(self) -> None:
        prior = self.prior_
        assert isinstance(prior, FourierGP)
        if self.n_bins_ > 1 and prior.n_coefficients(self.n_bins_) == 1:
            warnings.warn(
                f"{_OWNER}: in trials of {self.n_bins_} bins no frequency but 0 is kept at "
                f"min_lengthscale={prior.min_lengthscale:g}: all latents are constant in a trial. Lower "
                "min_lengthscale (and lengthscale) to the number of bins or less.",
                ForeknowWarning,
                stacklevel=4,
            )

    def _build(self) -> GPVAE:
        assert isinstance(self.prior_, FourierGP)
        blocks = (int(self.n_neural), int(self.n_shared), int(self.n_behavior))
        counts = self.likelihood == "poisson"
        neural, behavior = self.modality != "behavior", self.modality != "neural"
        return GPVAE(
            self.prior_,
            n_bins=self.n_bins_,
            n_neurons=self.n_neurons_ if neural else 0,
            n_values=int(np.prod(self.behavior_shape_, dtype=int)) if behavior else 0,
            blocks=(blocks[0] * neural, blocks[1], blocks[2] * behavior),
            likelihood=self.likelihood,
            fusion=self.fusion,
            hidden_neural=self.hidden_neural,
            hidden_behavior=self.hidden_behavior,
            behavior_variance=float(self.behavior_variance),
            log_rates=torch.tensor(np.log(self.mean_rates_), dtype=torch.float32) if neural and counts else None,
        )

    def _transform(self, X: Any) -> NDArray[Any]:
        spikes, behavior = (None, X) if self.modality == "behavior" else (X, None)
        trials, posterior = self._posterior(spikes, behavior)
        own = self.network_.of_behavior if self.modality == "behavior" else self.network_.of_neurons
        return _as_one(trials.as_given(self.network_.at_bins(posterior.mean)[..., own].cpu().numpy()))

    def _predict(self, X: Any) -> NDArray[Any]:
        if self.modality != "both":
            raise CapabilityError(f"{_OWNER}: one recording was learnt from, so there is none to predict.",
                                  hint="Use transform, latents or reconstruct.")  # fmt: skip
        trials, posterior = self._posterior(X, None)
        return _as_one(trials.as_given(self._behavior(posterior, averaged=True)))

    def _state(self) -> State:
        tensors: dict[str, Tensor] = dict(self.network_.state_dict())
        for name in ("neural_units_", "behavior_units_"):
            if hasattr(self, name):
                units = getattr(self, name)
                tensors |= {f"{name}mean": torch.tensor(units.mean), f"{name}scale": torch.tensor(units.scale)}
        course = self.course_
        meta = {
            "n_bins": self.n_bins_, "n_steps": course.n_steps, "bounds": list(course.bounds), "kls": list(course.kls),
            "lengthscales": [list(row) for row in course.lengthscales],
        }  # fmt: skip
        if self.modality != "behavior":
            meta |= {"n_neurons": self.n_neurons_, "mean_rates": self.mean_rates_.tolist()}
        if self.modality != "neural":
            meta |= {"behavior_shape": list(self.behavior_shape_)}
        return State(tensors, meta, contains_rows=False)

    def _restore(self, state: State) -> None:
        meta, tensors = state.meta, dict(state.tensors)
        self.n_bins_ = int(meta["n_bins"])
        if self.modality != "behavior":
            self.n_neurons_ = int(meta["n_neurons"])
            self.mean_rates_ = np.array(meta["mean_rates"], dtype=np.float64)
        if self.modality != "neural":
            self.behavior_shape_ = tuple(int(size) for size in meta["behavior_shape"])
        for name in ("neural_units_", "behavior_units_"):
            if f"{name}mean" in tensors:
                setattr(self, name, Units(*(tensors.pop(name + part).numpy() for part in ("mean", "scale"))))
        self.network_ = self._build()
        self.network_.load_state_dict(tensors)
        self.network_.to(self.device_).eval()
        self.course_ = Course(
            tuple(meta["bounds"]), tuple(meta["kls"]), tuple(tuple(row) for row in meta["lengthscales"]),
            int(meta["n_steps"]),
        )  # fmt: skip

    @classmethod
    def examples(cls) -> list[Example]:
        from foreknow.functions.mm_gpvae.simulator import rotating_digits

        train, test = rotating_digits(7, 4, n_bins=12, n_neurons=5, size=5)
        tiny = {"hidden_neural": (6, 4), "hidden_behavior": (8, 4), "epochs": 2, "batch_size": 4, "random_state": 0,
                "lengthscale": 5.0, "min_lengthscale": 2.0}  # fmt: skip
        moves = numpy_stream(0, "mm-gpvae", "examples").normal(size=(7, 12, 2)).cumsum(1)
        calcium = train.rates + moves[..., :1]
        return [
            Example("spikes and images", tiny, train.spikes, train.images, test.spikes),
            Example(
                "calcium and positions", {**tiny, "likelihood": "gaussian", "fusion": "poe", "p_alone": 0.5, "warmup":
                0.5}, calcium, moves, calcium[:5] + 0.1,
            ),
            Example("spikes alone", {**tiny, "modality": "neural"}, train.spikes, X_new=test.spikes),
        ]  # fmt: skip

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Latents of rotating digits and their neurons, with all arms."""
        from foreknow.functions.mm_gpvae.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def priced_as(cls, task: str) -> System:
        from foreknow.functions.mm_gpvae.proof import P_ALONE, SMALL

        return cls(**SMALL, p_alone=P_ALONE)

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        from foreknow.functions.mm_gpvae.baselines import sources

        return sources()

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        from foreknow.functions.mm_gpvae.baselines import FactorsAndComponents

        if self.modality != "both" or self.likelihood != "poisson":
            return {}
        blocks = (int(self.n_neural), int(self.n_shared), int(self.n_behavior))
        return {"GPFA, PCA and CCA": lambda seed: FactorsAndComponents(*blocks)}

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        from foreknow.functions.mm_gpvae.files import read_sample

        return read_sample(paths, options)

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        from foreknow.functions.mm_gpvae.files import apply

        return apply(self, [Path(name) for name in inputs], out, options, progress)

    # Parts ---------------------------------------------------------------------------------------------------

    def _need(self, recording: str, what: str) -> None:
        self._check_fitted()
        if self.modality not in (recording, "both"):
            raise CapabilityError(f"{_OWNER}: {what} need {recording} recordings, it was fitted to {self.modality}.")

    def _slices(self) -> dict[str, slice]:
        a, b, c = self.network_.blocks
        return {"neural": slice(0, a), "shared": slice(a, a + b), "behavior": slice(a + b, a + b + c)}

    def _names(self) -> list[str]:
        return [f"{name} {i + 1}" for name, part in self._slices().items() for i in range(part.stop - part.start)]

    def _read_spikes(self, X: Any, name: str = "X") -> Trials:
        trials = read_trials(_OWNER, X, name=name, axes=(3,))
        if self.likelihood == "poisson":
            check_counts(_OWNER, trials, name)
        return trials

    def _read_behavior(self, y: Any, name: str) -> Trials:
        return read_trials(_OWNER, y, name=name)

    def _read_both(self, spikes: Any, behavior: Any) -> tuple[Trials | None, Trials | None]:
        """What results are asked of, checked against what was learnt from."""
        self._check_fitted()
        if spikes is None and behavior is None:
            raise InputError(f"{_OWNER}: give spikes, behavior or both.")
        neural = of_behavior = None
        if spikes is not None:
            self._need("neural", "spikes")
            neural = self._read_spikes(spikes, "spikes")
            if neural.values.shape[2] != self.n_neurons_:
                raise InputError(
                    f"{_OWNER}: spikes of {neural.values.shape[2]} neurons came, it was fitted to {self.n_neurons_}."
                )
        if behavior is not None:
            self._need("behavior", "behaviours")
            of_behavior = self._read_behavior(behavior, "behavior")
            if of_behavior.shape_of_bin != self.behavior_shape_:
                raise InputError(
                    f"{_OWNER}: behaviour of shape {of_behavior.shape_of_bin} a bin came, it was fitted to "
                    f"{self.behavior_shape_}."
                )
        if neural is not None and of_behavior is not None:
            _same_lengths(neural, of_behavior)
        return neural, of_behavior

    def _tensors(self, spikes: Trials | None, behavior: Trials | None) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Neurons, behaviour and which bins are seen, as the network takes them."""
        given = spikes if spikes is not None else behavior
        assert given is not None
        longest = given.values.shape[1]
        if longest > self.n_bins_:
            raise InputError(
                f"{_OWNER}: a trial has {longest} bins, the longest one learnt from {self.n_bins_}.",
                hint="Cut trials, or fit again with one as long.",
            )
        found: list[Tensor | None] = [None, None]
        if spikes is not None:
            values = spikes.padded(self.n_bins_)
            found[0] = _tensor(values if self.likelihood == "poisson" else self.neural_units_.to(values), "spikes")
        if behavior is not None:
            found[1] = _tensor(self.behavior_units_.to(behavior.padded(self.n_bins_)), "behaviour")
        seen = torch.zeros(len(given), self.n_bins_)
        seen[:, :longest] = torch.tensor(given.seen, dtype=torch.float32)
        return found[0], found[1], seen

    def _posterior(self, spikes: Trials | None, behavior: Trials | None) -> tuple[Trials, Posterior]:
        """The trials that results are cut to, and the posterior of their coefficients."""
        given = spikes if spikes is not None else behavior
        assert given is not None
        x, y, seen = self._tensors(spikes, behavior)
        parts = []
        with torch.no_grad():
            for start in range(0, len(seen), _CHUNK):
                chunk = (None if p is None else p[start : start + _CHUNK].to(self.device_) for p in (x, y, seen))
                parts.append(self.network_.encode(*chunk))  # type: ignore[arg-type]
        return given, Posterior(torch.cat([p.mean for p in parts]), torch.cat([p.log_sd for p in parts]))

    def _blocks(self, trials: Trials, values: Tensor) -> dict[str, Any]:
        found = values.cpu().numpy().astype(np.float64)
        return {name: trials.as_given(found[..., part]) for name, part in self._slices().items()}

    def _rates(self, posterior: Posterior) -> NDArray[np.float64]:
        with torch.no_grad():
            mean, variance = self.network_.log_rates(posterior)
            if self.likelihood == "poisson":
                return np.asarray((mean + 0.5 * variance).clamp(max=25.0).exp().cpu().numpy(), dtype=np.float64)
        return self.neural_units_.back(mean.cpu().numpy().astype(np.float64))

    def _behavior(self, posterior: Posterior, *, averaged: bool) -> NDArray[np.float64]:
        """Behaviour in the user's units; the draws of an average are the same for every trial."""
        network, parts = self.network_, []
        shape = (_DRAWS if averaged else 1, *posterior.mean.shape[1:])
        noise = torch.randn(shape, generator=self._stream("behaviour")).to(self.device_) if averaged else None
        with torch.no_grad():
            for mean, log_sd in zip(
                *(torch.split(part, _CHUNK) for part in (posterior.mean, posterior.log_sd)), strict=True
            ):
                total: Any = 0.0
                for draw in [None] if noise is None else noise:
                    w = mean if draw is None else mean + log_sd.exp() * draw
                    total = total + network.decode_behavior(network.at_bins(w))
                parts.append((total / shape[0]).cpu().numpy())
        found = self.behavior_units_.back(np.concatenate(parts).astype(np.float64))
        return found.reshape(*found.shape[:2], *self.behavior_shape_)


def _same_lengths(spikes: Trials, behavior: Trials) -> None:
    if len(spikes) != len(behavior):
        raise InputError(f"{_OWNER}: {len(spikes)} trials of neurons and {len(behavior)} of behaviour.")
    differ = np.flatnonzero(spikes.lengths != behavior.lengths)
    if len(differ):
        i = int(differ[0])
        raise InputError(
            f"{_OWNER}: trial {i} has {spikes.lengths[i]} bins of neurons and {behavior.lengths[i]} of behaviour "
            f"({len(differ)} such trial(s)).",
            hint="Bring both recordings to the same time bins first.",
        )


def _tensor(values: NDArray[np.float64], what: str) -> Tensor:
    largest = float(np.abs(values).max())
    if not largest < _LARGEST:
        raise InputError(
            f"{_OWNER}: {what} are up to {largest:.3g} standard deviations away from what was learnt from.",
            hint="Bring them to the units of the training data.",
        )
    return torch.tensor(values, dtype=torch.float32)


def _as_one(found: Any) -> NDArray[Any]:
    """An array; of trials of unequal length one array of objects."""
    if isinstance(found, np.ndarray):
        return found
    array = np.empty(len(found), dtype=object)
    for number, part in enumerate(found):
        array[number] = part
    return array
