"""Fitting the stacking network to a prior over tables: task shapes, batches of head scores, the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.device import resolve_device
from foreknow.common.errors import ConfigError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream, seed_of, seeded_init, torch_stream
from foreknow.common.validate import check_int, check_option
from foreknow.core.batch import Batch
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.records import record, to_json
from foreknow.tasks.tabular.features import FeatureMap, drop_empty
from foreknow.tasks.tabular.heads import FittedHeads, HeadSettings, Scores
from foreknow.tasks.tabular.network import ClassifierStack, RegressorStack, StackNetwork, StackSettings
from foreknow.tasks.tabular.priors import TablePrior, members_and_weights, paper_prior
from foreknow.train.config import TrainConfig
from foreknow.train.loop import TrainResult, train
from foreknow.trained import weights_path


@record
@dataclass(frozen=True)
class TaskShapes:
    """Sizes of the tables drawn in training; one draw per step, shared by the tables of the step.

    Args:
        n_rows: smallest and largest number of rows, log-uniform.
        n_features: smallest and largest number of columns, log-uniform.
        n_classes: smallest and largest number of classes.
        p_binary: probability of the smallest number of classes; else uniform on all.
        context_share: smallest and largest share of the rows that are context.
        tokens: (row, class) pairs of a step (rows in regression), which sets the number of tables.
    """

    n_rows: tuple[int, int] = (64, 640)
    n_features: tuple[int, int] = (2, 32)
    n_classes: tuple[int, int] = (2, 10)
    p_binary: float = 0.4
    context_share: tuple[float, float] = (0.5, 0.85)
    tokens: int = 9000

    def __post_init__(self) -> None:
        check_int("TaskShapes", "tokens", self.tokens, low=1)

    def draw(self, rng: np.random.Generator, task: str) -> tuple[int, int, int, int, int]:
        """(tables, context rows, query rows, columns, classes) of one step; a regression has one class."""
        n = round(float(np.exp(rng.uniform(*np.log(self.n_rows)))))
        d = round(float(np.exp(rng.uniform(*np.log(self.n_features)))))
        low, high = self.n_classes
        c = low if rng.uniform() < self.p_binary else int(rng.integers(low, high + 1))
        c = c if task == "classification" else 1
        n_context = max(int(n * rng.uniform(*self.context_share)), 2 * c)
        n_query = max(n - n_context, 1)
        return max(self.tokens // ((n_context + n_query) * c), 1), n_context, n_query, d, c


@dataclass(frozen=True)
class ScoredBatch:
    """What a network trains on: what the heads say of context and queries, and the targets."""

    context: Scores
    query: Scores
    targets: Tensor  # b n c, one-hot or standardised
    query_y: Tensor  # b m

    def to(self, device: torch.device | str) -> ScoredBatch:
        """The same batch elsewhere."""
        return ScoredBatch(**{name: value.to(device) for name, value in vars(self).items()})


def scored(batch: Batch, n_classes: int | None, settings: HeadSettings, generator: torch.Generator) -> ScoredBatch:
    """Features and head scores of a batch of tables, without gradients; no number of classes is a regression.

    Targets of a regression are standardised by the context.
    """
    assert batch.query_y is not None  # simulated tables know their targets
    with torch.no_grad():
        categorical = batch.info.get("is_categorical")
        features = FeatureMap.of(batch.context_x, categorical)
        context, query = drop_empty(features(batch.context_x), features(batch.query_x))
        query_y = batch.query_y
        if n_classes is not None:
            targets = F.one_hot(batch.context_y.long(), n_classes).to(context.dtype)
        else:
            mean = batch.context_y.mean(dim=1, keepdim=True)
            spread = batch.context_y.std(dim=1, correction=0, keepdim=True)
            spread = torch.where(spread > 1e-6, spread, torch.ones_like(spread))
            targets, query_y = ((batch.context_y - mean) / spread)[..., None], (query_y - mean) / spread
        heads = FittedHeads.fit(context, targets, settings, generator)
        return ScoredBatch(heads.left_out, heads.predict(query), targets, query_y)


@dataclass(frozen=True)
class StackBatches:
    """Step -> scored tables; a function of the step alone, picklable."""

    members: tuple[TablePrior, ...]
    weights: tuple[float, ...]
    shapes: TaskShapes
    heads: HeadSettings
    seed: int
    device: str

    def __call__(self, step: int) -> ScoredBatch:
        rng = numpy_stream(self.seed, "shape", str(step))
        task = self.members[0].task
        n_tables, n_context, n_query, d, c = self.shapes.draw(rng, task)
        share = np.array(self.weights) / sum(self.weights)
        # Tables of one step come from several members, so that no step is all of one kind.
        counts = rng.multinomial(n_tables, share)
        parts = []
        for index, (member, count) in enumerate(zip(self.members, counts)):
            if count:
                sizes: dict[str, Any] = {"n_classes": c, "min_classes": c} if task == "classification" else {}
                prior = replace(member, n_features=d, **sizes)
                generator = torch_stream(self.seed, "tables", str(step), str(index), device=self.device)
                parts.append(prior.sample(int(count), n_context=n_context, n_query=n_query, generator=generator))
        trees = torch_stream(self.seed, "trees", str(step), device=self.device)
        return scored(_joined(parts), c if task == "classification" else None, self.heads, trees)


def _joined(parts: Sequence[Batch]) -> Batch:
    info = {"is_categorical": torch.cat([part.info["is_categorical"] for part in parts])}
    targets = [part.query_y for part in parts if part.query_y is not None]
    return Batch(
        torch.cat([part.context_x for part in parts]),
        torch.cat([part.context_y for part in parts]),
        torch.cat([part.query_x for part in parts]),
        torch.cat(targets),
        info,
    )


def stack_loss(module: nn.Module, batch: ScoredBatch) -> Tensor:
    """The loss of the network on a batch, in nats."""
    assert isinstance(module, ClassifierStack | RegressorStack)
    loss: Tensor = module.loss(batch.context, batch.query, batch.targets, batch.query_y)
    return loss


def pretrain_stack(
    members: Sequence[TablePrior],
    weights: Sequence[float],
    *,
    settings: StackSettings | None = None,
    shapes: TaskShapes | None = None,
    n_steps: int = 4000,
    minutes: float | None = None,
    lr: float = 4e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    devices: int = 1,
    progress: ProgressCallback | None = None,
    log_path: Path | None = None,
    checkpoint_path: Path | None = None,
    resume: bool = False,
    network: ClassifierStack | RegressorStack | None = None,
) -> tuple[ClassifierStack | RegressorStack, TrainResult]:
    """Fit a stacking network to tables drawn from a mixture of priors.

    Args:
        members: the priors.
        weights: their shares.
        settings: sizes; the network's own if one is given.
        shapes: sizes of the tables.
        n_steps: optimiser steps.
        minutes: wall-clock budget instead of steps.
        lr: peak learning rate.
        seed: of weights and draws.
        device, devices: where to train.
        progress: told after steps.
        log_path: JSONL file of losses.
        checkpoint_path: file of the training state.
        resume: go on from `checkpoint_path`.
        network: start from this one.
    """
    place = resolve_device(device)
    shapes = shapes or TaskShapes()
    if network is None:
        with seeded_init(seed_of(seed, "init")):
            network = StackNetwork.of(settings or StackSettings(task=members[0].task))
    batches = StackBatches(tuple(members), tuple(weights), shapes, network.settings.heads, seed, place.type)
    config = TrainConfig(
        n_steps=None if minutes else n_steps,
        minutes=minutes,
        lr=lr,
        optimizer="muon",
        warmup_fraction=0.03,
        clip_norm=1.0,
        ema_decay=0.995,
        seed=seed,
    )
    identity: dict[str, Any] = {
        "members": [to_json(member) for member in members],
        "weights": list(weights),
        "shapes": asdict(shapes),
        "settings": to_json(network.settings),
    }
    result = train(
        network,
        stack_loss,
        batches,
        config,
        device=place,
        devices=devices,
        progress=progress,
        log_path=log_path,
        checkpoint_path=checkpoint_path,
        resume=resume,
        identity=identity,
    )
    return network.eval(), result


SHIPPED = {"classification": "tabpfn-classifier", "regression": "tabpfn-regressor"}
"""Names of the shipped networks of `TabularClassifier` and `TabularRegressor`."""

ARMS = {"full": "tabpfn-arm-full", "linear": "tabpfn-arm-linear", "bnn": "tabpfn-arm-bnn"}
"""Variant of the prior -> a small classifier fitted to it; all by the same budget, for the proof."""


def pretrain_shipped(
    name: str | None = None,
    *,
    minutes: float | None = None,
    n_steps: int | None = None,
    preset: str | None = None,
    device: str = "auto",
    devices: int = 1,
    resume: bool = False,
    out: Path,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Train a shipped network, or go on with it; see `foreknow pretrain`.

    Args:
        name: one of `SHIPPED` or `ARMS`; the classifier by default.
        minutes: wall-clock budget; the schedule finishes within it.
        n_steps: steps instead; one of both is needed unless a preset is given.
        preset: "quick" (seconds), "small" (500 steps) or "paper" (100 000 steps of wider tables).
        device, devices: where to train.
        resume: go on from the state in `out`; where there is none, from the shipped weights, with a fresh
            optimiser and a rate a third as high.
        out: folder for `<name>.safetensors` (weights), `<name>.state.safetensors` and `<name>.log.jsonl`.
        seed: of weights and draws.
        progress: told after every step.

    Returns:
        Paths, steps, seconds and the last loss.
    """
    known = {shipped: (task, "full", "shipped") for task, shipped in SHIPPED.items()}
    known |= {arm: ("classification", variant, "arm") for variant, arm in ARMS.items()}
    chosen = check_option("tabpfn", "weights", name or SHIPPED["classification"], tuple(known))
    task, variant, sizes = known[chosen]
    if minutes is not None and n_steps is not None:
        raise ConfigError("pretrain: give minutes or steps, not both.")
    shapes, settings, steps = _PRESETS[check_option("pretrain", "preset", preset or sizes, tuple(_PRESETS))]
    if task == "regression":
        shapes, settings = replace(shapes, tokens=max(shapes.tokens // 2, 1)), replace(settings, task=task)
    out.mkdir(parents=True, exist_ok=True)
    state, log = out / f"{chosen}.state.safetensors", out / f"{chosen}.log.jsonl"
    members, weights = members_and_weights(task, variant=variant)
    start, before, stream = None, {}, seed
    if resume and not state.exists() and preset is None and sizes == "shipped":
        # A fresh stream of tables, so that none is seen twice.
        start, before = StackNetwork.from_checkpoint(weights_path(chosen), task), _record_of(weights_path(chosen))
        resume, stream = False, seed_of(seed, "continued", str(before.get("steps", 0)))
    network, result = pretrain_stack(
        members,
        weights,
        settings=settings,
        shapes=shapes,
        n_steps=steps if n_steps is None else check_int("pretrain", "n_steps", n_steps, low=1),
        minutes=minutes,
        lr=_RATE if start is None else _RATE / 3,
        seed=stream,
        device=device,
        devices=devices,
        progress=progress,
        log_path=log,
        checkpoint_path=state,
        resume=resume,
        network=start,
    )
    budget = f"--minutes {minutes:g}" if minutes else f"--steps {result.steps}"
    training = {
        "card": "tabpfn",
        "command": f"foreknow pretrain tabpfn --weights {chosen} {budget} --seed {seed}" + (" --resume" * bool(start)),
        "seed": seed,
        "steps": result.steps + before.get("steps", 0),
        "seconds": round(result.seconds + before.get("seconds", 0.0), 1),
        "loss": result.last_loss,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "device": str(resolve_device(device)),
        "variant": variant,
    }
    if before:
        training["continued_from"] = before
    path = out / f"{chosen}.safetensors"
    buckets = frozenset(buffer for buffer, _ in network.named_buffers())
    network.to_checkpoint(paper_prior(task, variant=variant), training).save(path, half=True, keep_full=buckets)
    return {"weights": str(path), "state": str(state), "log": str(log), **training}


_RATE = 4e-3


def _record_of(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = Checkpoint.load(path, kind=StackNetwork.kind).training
    return record


_PRESETS = {
    "shipped": (TaskShapes(), StackSettings(), 8000),
    "arm": (TaskShapes(n_rows=(64, 320), n_features=(2, 20), tokens=6000), StackSettings(), 400),
    "quick": (
        TaskShapes(n_rows=(24, 40), n_features=(2, 4), n_classes=(2, 3), tokens=200),
        StackSettings(width=16),
        10,
    ),
    "small": (TaskShapes(), StackSettings(), 500),
    "paper": (TaskShapes(n_rows=(128, 1024), n_features=(2, 64), tokens=200_000), StackSettings(width=192), 100_000),
}
