"""The system `lc-pfn`: extrapolates learning curves by one forward pass."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foreknow.common.device import resolve_device
from foreknow.common.errors import CheckpointError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.predictive import Bar, Predictive
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Example, State, System, Tags
from foreknow.data.curves.curve import Curve, as_curves
from foreknow.tasks.lc_pfn.baselines import LastValue, PowerLaw
from foreknow.tasks.lc_pfn.card import CARD
from foreknow.tasks.lc_pfn.forecast import CurveForecast, Floats
from foreknow.tasks.lc_pfn.network import MOST_EPOCHS, CurveNetwork, CurveSettings, pretrain_network
from foreknow.tasks.lc_pfn.normalizer import Normalizer
from foreknow.tasks.lc_pfn.presets import prior_of, read_network, shipped_network
from foreknow.tasks.lc_pfn.prior import CurvePrior

FALLING = ("error", "allow")
_NUMBERS_AT_ONCE = 2**26  # logits of one chunk
_FALL_POINTS, _FALL_TAU, _FALL_SIZE = 5, -0.8, 0.02


@register(CARD)
class CurveExtrapolator(System):
    """Learning curves of running trainings, continued: a distribution for every later epoch, in milliseconds.

    `extrapolate` takes one curve or thousands and needs no `fit`. As an estimator it learns one curve: X holds epochs
    (n, 1), y values, and it predicts at other epochs, all within 1..100.

    Args:
        prior: "paper", "off" (uninformative parameters), "wrong" (trained on values in random order) or a
            `CurvePrior`. For `CurvePrior.wide()`, which knows runs that rise late too, a network ships; any other
            needs its own (`network`).
        minimize: whether smaller values are better (a loss, an error).
        bounds: hard bounds of the metric; either may be infinite.
        soft_bounds: range in which most values are expected; needed where a bound is infinite.
        network: "small" (ships), "arm" (ships; smaller, trained equally long for each named prior, for comparisons),
            a `CurveSettings` (a network of these sizes is trained on draws from the prior by the first `fit` or
            `extrapolate`), or the path of a file that `save_network` or `foreknow pretrain lc-pfn` wrote.
        noiseless: predict the curve itself instead of the next measurements, which are noisy.
        random_state: seed of training.
        device: "auto", "cpu", "cuda".

    Example:
        >>> from foreknow import CurveExtrapolator
        >>> forecast = CurveExtrapolator().extrapolate([0.42, 0.55, 0.61, 0.66], horizon=50)
        >>> forecast.quantile([0.05, 0.5, 0.95]).shape
        (3, 46)
        >>> bool(forecast.prob_beats(0.99).max() < 0.5)
        True

    References: Adriaensen et al. 2023, "Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted
    Networks".
    """

    tags = Tags(tolerance=1e-3)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        minimize: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
        soft_bounds: tuple[float, float] | None = None,
        network: str | CurveSettings = "small",
        noiseless: bool = False,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.minimize = minimize
        self.bounds = bounds
        self.soft_bounds = soft_bounds
        self.network = network
        self.noiseless = noiseless
        self.random_state = random_state
        self.device = device

    # Public beyond the base --------------------------------------------------------------------------------

    def extrapolate(
        self, curves: Any, horizon: int, *, epochs: ArrayLike | None = None, falling: str = "error"
    ) -> CurveForecast | list[CurveForecast]:
        """What one run, or each of many, will measure up to epoch `horizon`.

        Values are read as measured from epoch 1 on; NaN stands for an epoch without a value, and a curve without any
        is answered by the prior. Above 100 epochs, all are mapped linearly to 1..100, and a curve is thinned to the
        last value in each of these. Forecasts hold one number per curve, epoch and bucket (500 in the network that
        ships), so ask for huge numbers of curves in parts.

        Args:
            curves: a `Curve`, numbers, an array (n_curves, n_epochs), or a sequence of these; an empty list is one
                curve without values.
            horizon: last epoch of the runs.
            epochs: epochs to predict, the same for all curves, at most `horizon`; by default those after a curve's
                last one. An epoch that is known already gets the distribution of another measurement.
            falling: "error" refuses curves if most of those with five values or more fall steadily in what is said
                to be the better direction; "allow" forecasts them, outside the prior.

        Returns:
            A forecast for one curve, a list of them for many.

        Raises:
            InputError: a curve ends at the horizon or later, has values outside `bounds`, or falls.
            ConfigError: a setting is not allowed.
        """
        self._check_settings()
        check_int("extrapolate", "horizon", horizon, low=1)
        check_option("extrapolate", "falling", falling, FALLING)
        single = _is_single(curves)
        known = [Curve([])] if single and not isinstance(curves, Curve) and not len(curves) else as_curves(curves)
        normalizer = self._normalizer()
        for curve in known:
            normalizer.check("extrapolate", curve.values, curve.name)
        values = [normalizer.to_prior(curve.values) for curve in known]
        if falling == "error":
            _refuse_falling(known, values, self.minimize)
        asked = [_asked(curve, horizon, epochs) for curve in known]
        last = max([horizon, *(curve.last_epoch for curve in known)])
        if last > MOST_EPOCHS:
            warnings.warn(
                f"extrapolate: {last:g} epochs were mapped to 1..{MOST_EPOCHS}, which the network knows.",
                ForeknowWarning,
                stacklevel=2,
            )
        found = self._forecast(known, values, asked, normalizer, last)
        return found[0] if single else found

    def pretrain(
        self,
        *,
        n_steps: int | None = None,
        minutes: float | None = None,
        progress: ProgressCallback | None = None,
        checkpoint_path: Path | None = None,
        resume: bool = False,
    ) -> Self:
        """Train the network that `network`, a `CurveSettings`, describes; `fit` and `extrapolate` then use it.

        Args:
            n_steps: optimiser steps instead of the settings'.
            minutes: wall-clock budget instead of steps.
            progress: told after every step.
            checkpoint_path: file of the training state.
            resume: go on from `checkpoint_path`.
        """
        self._check_settings()
        if not isinstance(self.network, CurveSettings):
            raise ConfigError(
                f"CurveExtrapolator.pretrain: network={self.network!r} is trained already.",
                hint="Pass sizes: network=CurveSettings(...).",
            )
        settings = self.network
        if n_steps is not None:
            settings = CurveSettings(**{**vars(settings), "n_steps": check_int("pretrain", "n_steps", n_steps, low=1)})
        prior = self._curve_prior()
        network, _ = pretrain_network(
            prior,
            settings,
            seed=0 if self.random_state is None else self.random_state,
            minutes=minutes,
            device=self.device,
            progress=progress,
            checkpoint_path=checkpoint_path,
            resume=resume,
        )
        self.network_, self._trained = (network, prior), self._key()
        return self

    def save_network(self, path: str | Path) -> Path:
        """Write the network alone (no curve), to be used again with `network=path`."""
        network, prior = self._network()
        network.to_checkpoint(prior, {"seed": self.random_state}).save(path)
        return Path(path)

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        for name in ("minimize", "noiseless"):
            check_bool("CurveExtrapolator", name, getattr(self, name))
        self._normalizer()
        if not isinstance(self.network, str | CurveSettings):
            raise ConfigError(
                f"CurveExtrapolator: network must be 'small', 'arm', a path or a CurveSettings, got {self.network!r}."
            )

    def _task(self) -> str:
        return "regression"

    def _paper_prior(self) -> CurvePrior:
        return prior_of("paper")

    def _wrong_prior(self) -> CurvePrior:
        return prior_of("wrong")

    def _fit(self, X: NDArray[np.float64], y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        normalizer = self._normalizer()
        normalizer.check("CurveExtrapolator", y)
        self.context_ = _as_context(_epochs_of(X), normalizer.to_prior(y))
        self.network_ = self._network()

    def _predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        network, _ = self.network_
        logits = self._logits(network, self.context_[None], torch.as_tensor(_epochs_of(X))[None])
        return self._normalizer().to_user(network.distribution(logits[0]))

    def _state(self) -> State:
        network, prior = self.network_
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        meta = {"settings": to_json(network.settings), "fitted_to": to_json(prior)}
        return State({**tensors, "context": self.context_}, meta, contains_rows=True)

    def _restore(self, state: State) -> None:
        settings, prior = from_json(state.meta["settings"]), from_json(state.meta["fitted_to"])
        if not isinstance(settings, CurveSettings) or not isinstance(prior, CurvePrior):
            raise CheckpointError("the file's network is not that of a CurveExtrapolator.")
        network = CurveNetwork(settings)
        own = {name.removeprefix("network."): t for name, t in state.tensors.items() if name.startswith("network.")}
        network.load_state_dict(own)
        self.network_ = network.eval().to(self.device_), prior
        self.context_ = state.tensors["context"]

    @classmethod
    def examples(cls) -> list[Example]:
        tiny = CurveSettings(
            width=16, depth=1, n_heads=2, hidden=32, n_buckets=20, batch_size=16, n_steps=12, optimizer="adam"
        )
        rng = numpy_stream(0, "lc-pfn", "examples")
        epochs = np.arange(1.0, 21.0)[:, None]
        rise = 0.8 - 0.5 * epochs[:, 0] ** -0.7 + 0.01 * rng.standard_normal(20)
        return [
            Example("accuracy", {"network": tiny, "random_state": 0}, epochs, rise),
            Example(
                "loss",
                {
                    "network": tiny,
                    "random_state": 0,
                    "minimize": True,
                    "bounds": (0.0, float("inf")),
                    "soft_bounds": (0.0, 2.5),
                    "noiseless": True,
                },
                epochs[::2],
                2.4 * (1 - rise[::2]),
            ),
        ]

    @classmethod
    def priced_as(cls, task: str) -> System:
        return cls(network="arm")

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Accuracy curves of small networks trained on the spot, one run a seed; the size is the epochs seen."""
        if task != "regression":
            return {}
        from foreknow.tasks.lc_pfn.runs import CurveSource

        return {"digits": CurveSource("accuracy of small networks on digits")}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        return {"last value": lambda seed: LastValue(), "power law": lambda seed: PowerLaw()}

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Negative log density a value in nats, and the error of the last value's mean."""
        values = torch.as_tensor(np.asarray(test.y, dtype=np.float64))
        dist: Predictive = model.predict_dist(test.X)
        return {
            "negative log density": float(-dist.log_prob(values).double().mean()),
            "error of the final value": float((dist.mean()[-1] - values[-1]).abs()),
        }

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """The small proofs: prior curves against MCMC, real curves, early stopping."""
        from foreknow.tasks.lc_pfn.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def pretrain_shipped(cls, name: str | None = None, **options: Any) -> dict[str, Any]:
        """Train (or go on training) one of the networks this system ships; see `foreknow pretrain`."""
        from foreknow.tasks.lc_pfn.presets import pretrain_shipped

        return pretrain_shipped(name, **options)

    # Own machinery -----------------------------------------------------------------------------------------

    def _normalizer(self) -> Normalizer:
        return Normalizer(self.bounds, self.soft_bounds, bool(self.minimize))

    def _curve_prior(self) -> CurvePrior:
        prior = self._resolve_prior()
        if not isinstance(prior, CurvePrior):
            raise ConfigError(f"CurveExtrapolator: the prior must be a CurvePrior, got {type(prior).__name__}.")
        return prior

    def _key(self) -> tuple[object, ...]:
        return (self.prior, self.network, self.random_state)

    def _network(self) -> tuple[CurveNetwork, CurvePrior]:
        """The network these settings ask for, on this device, and the prior it was fitted to."""
        if isinstance(self.network, CurveSettings):
            if getattr(self, "_trained", None) != self._key():
                self.pretrain(progress=getattr(self, "_progress", None))
            return self.network_
        if self.network in ("small", "arm"):
            given = self._curve_prior()  # a setting that is no prior is refused
            arm = self.prior if isinstance(self.prior, str) else given
            network, prior = shipped_network(arm, equal_budget=self.network == "arm")
        else:
            network, prior = read_network(Path(self.network))
            if self.prior != "paper" and self._curve_prior() != prior:
                raise ConfigError(
                    f"CurveExtrapolator: {self.network} holds a network that was fitted to another prior.",
                    hint="Leave prior='paper' to use the file's own.",
                )
        place = resolve_device(self.device)
        if next(network.parameters()).device != place:
            network = copy.deepcopy(network).to(place)
        return network, prior

    def _logits(self, network: CurveNetwork, context: Tensor, epochs: Tensor) -> Tensor:
        """Logits (b, m, k) at epochs (b, m), given contexts (b, n, 2) of epochs and values; on the processor."""
        place = next(network.parameters()).device
        flag = torch.full_like(epochs, float(self.noiseless))
        query = torch.stack([epochs, flag], dim=-1).float().to(place)
        known = torch.stack([context[..., 0], torch.zeros_like(context[..., 0])], dim=-1).float().to(place)
        with torch.inference_mode():
            logits: Tensor = network(known, context[..., 1].float().to(place), query)
        return logits.cpu()

    def _forecast(
        self, curves: list[Curve], values: list[Floats], asked: list[Floats], normalizer: Normalizer, last: float
    ) -> list[CurveForecast]:
        """Forecasts, computed in batches of curves with equally many known epochs; queries are padded."""
        network, _ = self._network()
        contexts = [_thinned(_scaled(curve.epochs, last), value) for curve, value in zip(curves, values)]
        groups: dict[int, list[int]] = {}
        for i, context in enumerate(contexts):
            groups.setdefault(len(context), []).append(i)
        found: dict[int, CurveForecast] = {}
        for members in groups.values():
            most = max(len(asked[i]) for i in members)
            size = max(1, _NUMBERS_AT_ONCE // (most * network.settings.n_buckets))
            for start in range(0, len(members), size):
                part = members[start : start + size]
                epochs = np.stack([np.pad(_scaled(asked[i], last), (0, most - len(asked[i])), "edge") for i in part])
                logits = self._logits(network, torch.stack([contexts[i] for i in part]), torch.as_tensor(epochs))
                dist = normalizer.to_user(Bar(logits, network.borders.cpu()))
                for row, i in enumerate(part):
                    own = dist[row, : len(asked[i])]
                    found[i] = CurveForecast(curves[i], asked[i], own, bool(self.minimize))
        return [found[i] for i in range(len(curves))]


def _epochs_of(X: NDArray[np.float64]) -> Floats:
    if X.shape[1] != 1:
        raise InputError(f"CurveExtrapolator: X holds epochs in one column, got {X.shape[1]} columns.")
    epochs: Floats = X[:, 0]
    if epochs.min() < 1 or epochs.max() > MOST_EPOCHS:
        raise InputError(
            f"CurveExtrapolator: epochs must lie in 1..{MOST_EPOCHS}, got {epochs.min():g}..{epochs.max():g}.",
            hint="Use extrapolate(curve, horizon), which maps longer runs to this range.",
        )
    return epochs


def _as_context(epochs: Floats, values: Floats) -> Tensor:
    """Known epochs and values, shape (n, 2), in the order of time."""
    order = np.argsort(epochs, kind="stable")
    return torch.as_tensor(np.stack([epochs[order], values[order]], axis=-1))


def _scaled(epochs: Floats, last: float) -> Floats:
    """Epochs as the network knows them: unchanged up to 100, else mapped linearly so that `last` is 100."""
    return epochs if last <= MOST_EPOCHS else 1 + (epochs - 1) * (MOST_EPOCHS - 1) / (last - 1)


def _thinned(epochs: Floats, values: Floats) -> Tensor:
    """Context of one curve, with at most one value, the last, around each epoch the network knows."""
    if len(epochs) <= MOST_EPOCHS:
        return _as_context(epochs, values)
    slot = np.rint(epochs)
    keep = np.append(slot[1:] != slot[:-1], True)
    return _as_context(epochs[keep], values[keep])


def _is_single(curves: Any) -> bool:
    if isinstance(curves, Curve):
        return True
    if isinstance(curves, np.ndarray):
        return curves.ndim == 1 and curves.dtype != object
    return isinstance(curves, Sequence) and not (len(curves) and isinstance(curves[0], Curve | Sequence | np.ndarray))


def _asked(curve: Curve, horizon: int, epochs: ArrayLike | None) -> Floats:
    """The epochs to predict of one curve."""
    said = f"curve {curve.name!r}" if curve.name else "the curve"
    if epochs is not None:
        asked = np.atleast_1d(np.asarray(epochs, dtype=np.float64))
        if (
            asked.ndim != 1
            or not len(asked)
            or not np.isfinite(asked).all()
            or asked.min() < 1
            or asked.max() > horizon
        ):
            raise InputError(f"extrapolate: epochs must be numbers in 1..{horizon} (the horizon).")
        return asked
    if curve.last_epoch >= horizon:
        raise InputError(
            f"extrapolate: {said} is known up to epoch {curve.last_epoch:g}; nothing is left up to horizon={horizon}.",
            hint="Raise horizon, leave finished curves out, or name epochs=... to predict.",
        )
    return np.arange(np.floor(curve.last_epoch) + 1, horizon + 1)


def _refuse_falling(curves: list[Curve], values: list[Floats], minimize: bool) -> None:
    """Refuse curves of which most get steadily worse: the direction of the metric is then probably wrong."""
    long = [i for i, value in enumerate(values) if len(value) >= _FALL_POINTS]
    falling = [i for i in long if _falls(values[i])]
    if not falling or 2 * len(falling) <= len(long):
        return
    first = curves[falling[0]]
    words = f"curve {first.name!r}" if first.name else "a curve"
    raise InputError(
        f"extrapolate: {len(falling)} of {len(long)} curves get steadily worse ({words}: {first.values[0]:g} to "
        f"{first.values[-1]:g}, with minimize={minimize}), which the prior excludes.",
        hint=f"Set minimize={not minimize} if {'larger' if minimize else 'smaller'} values are better, or "
        "falling='allow'.",
    )


def _falls(values: Floats) -> bool:
    """Whether nearly all pairs of values stand in falling order, by more than a trifle."""
    steps = np.sign(values[None, :] - values[:, None])[np.triu_indices(len(values), 1)]
    return bool(steps.mean() <= _FALL_TAU and values[0] - values[-1] > _FALL_SIZE)
