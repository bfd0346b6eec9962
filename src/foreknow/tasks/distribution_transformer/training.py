"""Fitting a network to draws: priors from a `MetaPrior`, states from the priors, observations from a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from foreknow.common.device import resolve_device
from foreknow.common.errors import CheckpointError, InputError
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.records import from_json, to_json
from foreknow.tasks.distribution_transformer.families import Family
from foreknow.tasks.distribution_transformer.network import DistributionNetwork, DistributionSettings
from foreknow.tasks.distribution_transformer.observing import ObservationModel
from foreknow.tasks.distribution_transformer.prior import MetaPrior
from foreknow.tasks.distribution_transformer.supports import from_real
from foreknow.train.config import TrainConfig
from foreknow.train.loop import RunOptions, TrainResult, train

_PROBE = 4096
_MOST_TOKEN = 1e30


@dataclass(frozen=True)
class Tasks:
    """A batch of tasks, single precision but for the first two.

    Args:
        exact: parameters of the priors in double precision, shape (n, p).
        state: T(x) in double precision, shape (n, d).
        params: parameters as the network takes them.
        tokens: observations a channel, (n, m, c).
        target: T(x), shape (n, d).
    """

    params: Tensor
    tokens: dict[str, Tensor]
    target: Tensor
    exact: Tensor | None = None
    state: Tensor | None = None

    def to(self, device: torch.device | str) -> Tasks:
        """What training needs of it, elsewhere."""
        return Tasks(self.params.to(device), {k: v.to(device) for k, v in self.tokens.items()}, self.target.to(device))


def draw_tasks(meta: MetaPrior, model: ObservationModel, n: int, generator: torch.Generator) -> Tasks:
    """`n` tasks: parameters, a state of each prior, and what is seen of it.

    Raises:
        InputError: the model returns no tensors of shape (n, m, c).
    """
    exact = meta.draw(n, generator)
    state = meta.family.sample(exact, generator)
    found = model.observe(from_real(state, meta.family.supports), exact, generator=generator)
    if not isinstance(found, Mapping) or not found:
        raise InputError("the observation model must return a tensor a channel, by name.")
    for name, value in found.items():
        if not isinstance(value, Tensor) or value.ndim != 3 or len(value) != n or not str(name).isidentifier():
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"the observation model's channel {name!r} must be a tensor of shape ({n}, m, c), got {got}.",
                hint="One row a state, m tokens of c numbers, NaN where a token is missing; names are identifiers.",
            )
    tokens = {name: value.clamp(-_MOST_TOKEN, _MOST_TOKEN).float() for name, value in found.items()}
    return Tasks(exact.float(), tokens, state.float(), exact, state)


def build_network(
    meta: MetaPrior, model: ObservationModel, settings: DistributionSettings, *, seed: int = 0
) -> tuple[DistributionNetwork, dict[str, int]]:
    """An untrained network whose scales are those of draws, and the most tokens a channel was seen to have."""
    probe = draw_tasks(meta, model, _PROBE, torch_stream(seed, "distribution-transformer", "probe"))
    channels = {name: value.shape[-1] for name, value in probe.tokens.items()}
    with seeded_init(seed_of(seed, "distribution-transformer", "init")):
        network = DistributionNetwork(meta.family, channels, settings, told=_told(meta))
    assert probe.exact is not None
    network.set_scales(probe.target, meta.family.features(probe.exact), probe.tokens)
    return network, {name: value.shape[1] for name, value in probe.tokens.items()}


def _told(meta: MetaPrior) -> str:
    return "constant" if meta.told == "constant" else "parameters"


@dataclass(frozen=True)
class Batches:
    """Step -> tasks, a function of the step alone."""

    meta: MetaPrior
    model: ObservationModel
    batch_size: int
    seed: int

    def __call__(self, step: int) -> Tasks:
        generator = torch_stream(self.seed, "distribution-transformer", "tasks", str(step))
        return draw_tasks(self.meta, self.model, self.batch_size, generator)


def loss(module: nn.Module, tasks: Tasks) -> Tensor:
    """-E log q_post(T(x)) - anchor E log q_prior(T(x)), in nats a task."""
    assert isinstance(module, DistributionNetwork)
    after, before = module(tasks.params, tasks.tokens)
    total: Tensor = -after.log_prob(tasks.target).mean()
    if module.settings.anchor:
        total = total - module.settings.anchor * before.log_prob(tasks.target).mean()
    return total


def fit_network(
    meta: MetaPrior,
    model: ObservationModel,
    settings: DistributionSettings,
    *,
    seed: int = 0,
    minutes: float | None = None,
    device: str | torch.device = "auto",
    **options: Unpack[RunOptions],
) -> tuple[Trained, TrainResult]:
    """Fit a network to fresh draws; no draw is seen twice.

    Args:
        meta: distribution over priors.
        model: of the observations.
        settings: sizes and schedule.
        seed: of the weights and of every draw; step k depends on (seed, k) only.
        minutes: wall-clock budget instead of `settings.n_steps`; the schedule still finishes.
        device: where to train.
        options: devices, progress, log_path, checkpoint_path and resume, as in `train`.
    """
    place = resolve_device(device)
    network, slots = build_network(meta, model, settings, seed=seed)
    config = TrainConfig(
        n_steps=None if minutes else settings.n_steps,
        minutes=minutes,
        lr=settings.lr,
        optimizer="adamw",
        warmup_fraction=settings.warmup,
        clip_norm=1.0,
        ema_decay=settings.ema_decay,
        seed=seed,
        log_every=50,
    )
    named = {name: getattr(settings, name) for name in settings.__dataclass_fields__ if name != "n_steps"}
    result = train(
        network,
        loss,
        Batches(meta, model, settings.batch_size, seed),
        config,
        device=place,
        identity={"meta": repr(meta), "model": repr(model), "settings": named},
        **options,
    )
    return Trained(network.eval(), meta, slots), result


@dataclass(frozen=True)
class Trained:
    """A network with what it was fitted to.

    Args:
        network: in evaluation mode.
        meta: distribution over priors.
        slots: most tokens a channel in training.
        training: how, for the record.
    """

    network: DistributionNetwork
    meta: MetaPrior
    slots: dict[str, int]
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def family(self) -> Family:
        return self.network.family

    def describe(self) -> dict[str, Any]:
        """Whatever rebuilds it, as JSON."""
        return {
            "settings": to_json(self.network.settings),
            "meta": to_json(self.meta),
            "channels": self.network.channels,
            "slots": self.slots,
        }

    def to_checkpoint(self) -> Checkpoint:
        """Network, distribution over priors and record, ready to be saved."""
        tensors = {name: tensor.detach() for name, tensor in self.network.state_dict().items()}
        return Checkpoint(kind="DistributionNetwork", config=self.describe(), tensors=tensors, training=self.training)

    @classmethod
    def from_description(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trained:
        """The inverse of `describe`, with the network's tensors.

        Raises:
            CheckpointError: it is none.
        """
        settings, meta = from_json(config.get("settings")), from_json(config.get("meta"))
        if not isinstance(settings, DistributionSettings) or not isinstance(meta, MetaPrior):
            raise CheckpointError("the file's configuration is not that of a DistributionNetwork.")
        channels = {str(name): int(c) for name, c in config["channels"].items()}
        with seeded_init(0):
            network = DistributionNetwork(meta.family, channels, settings, told=_told(meta))
        network.load_state_dict(dict(tensors))
        return cls(network.eval(), meta, {str(name): int(n) for name, n in config["slots"].items()})

    @classmethod
    def from_checkpoint(cls, source: Checkpoint | str | Path) -> Trained:
        """Read what `to_checkpoint` wrote."""
        checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(source, kind="DistributionNetwork")
        try:
            found = cls.from_description(checkpoint.config, checkpoint.tensors)
        except (KeyError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"the file does not hold a DistributionNetwork: {error}") from error
        return cls(found.network, found.meta, found.slots, dict(checkpoint.training))
