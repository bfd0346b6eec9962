"""Training of the networks: batches drawn from a simulator or a collection of tasks, and files of networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from foreknow.common.device import resolve_device
from foreknow.common.errors import CheckpointError, InputError
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.core.batch import Batch
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.records import from_json, to_json
from foreknow.tasks.martingale_np.network import ConditionalNP, NPSettings, make_network
from foreknow.tasks.martingale_np.tasks import MartingalePrior
from foreknow.train.config import TrainConfig
from foreknow.train.loop import RunOptions, TrainResult, train

_SCALE_TASKS = 256


@dataclass(frozen=True)
class Collection:
    """Related tasks that a user has: every one a set of rows, already on the network's scale.

    Args:
        rows: inputs and targets of each task, shapes (n_i, d) and (n_i,).
    """

    rows: tuple[tuple[Tensor, Tensor], ...]

    @property
    def n_features(self) -> int:
        """Columns of x."""
        return self.rows[0][0].shape[1]

    def sample(self, n: int, *, n_context: int, n_query: int, generator: Generator) -> Batch:
        """Random tasks that have enough rows, and random rows of each."""
        need = n_context + n_query
        large = [i for i, (_, y) in enumerate(self.rows) if len(y) >= need]
        if not large:
            raise InputError(f"no task has {need} rows.")
        pick = torch.randint(len(large), (n,), generator=generator)
        xs, ys = [], []
        for i in pick.tolist():
            x, y = self.rows[large[i]]
            chosen = torch.randperm(len(y), generator=generator)[:need]
            xs.append(x[chosen])
            ys.append(y[chosen])
        x, y = torch.stack(xs), torch.stack(ys)
        return Batch(x[:, :n_context], y[:, :n_context], x[:, n_context:], y[:, n_context:])

    @property
    def most_rows(self) -> int:
        """Rows of the largest task."""
        return max(len(y) for _, y in self.rows)

    def digest(self) -> str:
        """What tells collections apart, for resuming."""
        import hashlib

        found = hashlib.sha256()
        for x, y in self.rows:
            found.update(x.numpy().tobytes() + y.numpy().tobytes())
        return found.hexdigest()


Tasks = MartingalePrior | Collection


@dataclass(frozen=True)
class Batches:
    """Step -> batch with its noise, a function of the step alone.

    The number of context rows is uniform from `min_context` to `n_points - min_query`, that of query rows uniform from
    `min_query` to what is left of `n_points`.
    """

    tasks: Tasks
    network: ConditionalNP
    seed: int
    device: str

    def __call__(self, step: int) -> Batch:
        settings = self.network.settings
        choose = torch_stream(self.seed, "martingale-np", "sizes", str(step))
        most = settings.n_points - settings.min_query
        n_context = int(torch.randint(settings.min_context, most + 1, (), generator=choose))
        n_query = int(torch.randint(settings.min_query, settings.n_points - n_context + 1, (), generator=choose))
        place = "cpu" if isinstance(self.tasks, Collection) else self.device
        generator = torch_stream(self.seed, "martingale-np", "tasks", str(step), device=place)
        batch = self.tasks.sample(settings.batch_size, n_context=n_context, n_query=n_query, generator=generator)
        draws = torch_stream(self.seed, "martingale-np", "noise", str(step), device=self.device)
        noise = self.network.noise(settings.batch_size, n_context, settings.n_samples, draws)
        batch = batch.to(self.device)
        info = {} if noise is None else {"noise": noise}
        return Batch(batch.context_x, batch.context_y, batch.query_x, batch.query_y, info)


def loss_of(module: nn.Module, batch: Batch) -> Tensor:
    """The objective on a batch that carries its noise."""
    assert isinstance(module, ConditionalNP)
    return module.loss(batch, batch.info.get("noise"))


def build_network(tasks: Tasks, settings: NPSettings, *, rule: str, seed: int = 0) -> ConditionalNP:
    """An untrained network that knows the range of the tasks' inputs and the scale of their targets."""
    with seeded_init(seed_of(seed, "martingale-np", "init")):
        network = make_network(rule, tasks.n_features, settings)
    generator = torch_stream(seed, "martingale-np", "scale")
    batch = tasks.sample(_SCALE_TASKS, n_context=0, n_query=settings.min_query, generator=generator)
    assert batch.query_y is not None  # tasks know their targets
    x = batch.query_x.flatten(0, 1)
    network.x_low.copy_(x.amin(dim=0))
    network.x_high.copy_(x.amax(dim=0))
    network.y_shift.copy_(batch.query_y.mean())
    network.y_scale.copy_(batch.query_y.std().clamp_min(1e-6))
    return network


def pretrain_network(
    tasks: Tasks,
    settings: NPSettings,
    *,
    rule: str = "martingale",
    seed: int = 0,
    minutes: float | None = None,
    device: str | torch.device = "auto",
    **options: Unpack[RunOptions],
) -> tuple[ConditionalNP, TrainResult]:
    """Fit a network to fresh draws of tasks, or to a collection of them.

    Args:
        tasks: what to draw from.
        settings: sizes and schedule.
        rule: of the network, see `RULES`.
        seed: of the weights and of every draw; step k depends on (seed, k) only.
        minutes: wall-clock budget instead of `settings.n_steps`; the schedule still finishes.
        device: where to train.
        options: devices, progress, log_path, checkpoint_path and resume, as in `train`.

    Returns:
        The network in evaluation mode, and what the loop has to say.
    """
    place = resolve_device(device)
    network = build_network(tasks, settings, rule=rule, seed=seed)
    config = TrainConfig(
        n_steps=None if minutes else settings.n_steps,
        minutes=minutes,
        lr=settings.lr,
        optimizer=settings.optimizer,
        warmup_fraction=settings.warmup,
        clip_norm=10.0,
        seed=seed,
        log_every=50,
    )
    known = {"tasks": tasks.digest()} if isinstance(tasks, Collection) else {"prior": to_json(tasks)}
    result = train(
        network,
        loss_of,
        Batches(tasks, network, seed, place.type),
        config,
        device=place,
        identity={**known, "rule": rule, "settings": {**asdict(settings), "n_steps": None}},
        **options,
    )
    return network.eval(), result


def to_checkpoint(network: ConditionalNP, prior: MartingalePrior, training: dict[str, Any]) -> Checkpoint:
    """A network, the prior it was fitted to and how, ready to be saved."""
    config = {
        "settings": to_json(network.settings),
        "rule": network.rule,
        "n_features": network.n_features,
        "prior": to_json(prior),
    }
    tensors = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    return Checkpoint(kind="NeuralProcess", config=config, tensors=tensors, training=training)


def from_checkpoint(source: Checkpoint | str | Path) -> tuple[ConditionalNP, MartingalePrior]:
    """The network in a file and the prior it was fitted to.

    Raises:
        CheckpointError: if the file is not one of these.
    """
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(source, kind="NeuralProcess")
    try:
        settings, prior = from_json(checkpoint.config["settings"]), from_json(checkpoint.config["prior"])
        rule, n_features = str(checkpoint.config["rule"]), int(checkpoint.config["n_features"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the file's configuration is not that of a neural process: {error}") from error
    if not isinstance(settings, NPSettings) or not isinstance(prior, MartingalePrior):
        raise CheckpointError("the file's configuration is not that of a neural process.")
    with seeded_init(0):
        network = make_network(rule, n_features, settings)
    checkpoint.load_into(network)
    return network.eval(), prior


def as_tensor(values: NDArray[np.float64], network: ConditionalNP) -> Tensor:
    """Numbers as the network wants them: its precision and device."""
    parameter = next(network.parameters())
    return torch.as_tensor(values, dtype=parameter.dtype, device=parameter.device)
