"""Fitting the stacking network to a prior over tables: task shapes, batches of head scores, the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foreknow.common.device import resolve_device
from foreknow.common.rng import numpy_stream, seed_of, seeded_init, torch_stream
from foreknow.common.validate import check_int
from foreknow.core.batch import Batch
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.records import record, to_json
from foreknow.tasks.tabular.features import FeatureMap, drop_empty
from foreknow.tasks.tabular.heads import FittedHeads, HeadSettings, Scores
from foreknow.tasks.tabular.network import ClassifierStack, RegressorStack, StackNetwork, StackSettings
from foreknow.tasks.tabular.priors import TablePrior, members_and_weights, paper_prior
from foreknow.train.config import TrainConfig
from foreknow.train.loop import RunOptions, TrainResult, train
from foreknow.train.shipping import Pretraining, Shipping
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
    network: ClassifierStack | RegressorStack | None = None,
    **options: Unpack[RunOptions],
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
        device: where to train.
        network: start from this one.
        options: devices, progress, log_path, checkpoint_path and resume, as in `train`.
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
        identity=identity,
        **options,
    )
    return network.eval(), result


SHIPPED = {"classification": "tabpfn-classifier", "regression": "tabpfn-regressor"}
"""Names of the shipped networks of `TabularClassifier` and `TabularRegressor`."""

ARMS = {"full": "tabpfn-arm-full", "linear": "tabpfn-arm-linear", "bnn": "tabpfn-arm-bnn"}
"""Variant of the prior -> a small classifier fitted to it; all by the same budget, for the proof."""


@dataclass(frozen=True)
class _Sizes:
    shapes: TaskShapes
    settings: StackSettings
    n_steps: int


_RATE = 4e-3
_SHIPPED_SIZES = _Sizes(TaskShapes(), StackSettings(), 8000)
_ARM_SIZES = _Sizes(TaskShapes(n_rows=(64, 320), n_features=(2, 20), tokens=6000), StackSettings(), 400)
_PRESETS = {
    "quick": _Sizes(
        TaskShapes(n_rows=(24, 40), n_features=(2, 4), n_classes=(2, 3), tokens=200), StackSettings(width=16), 10
    ),
    "small": _Sizes(TaskShapes(), StackSettings(), 500),
    "paper": _Sizes(
        TaskShapes(n_rows=(128, 1024), n_features=(2, 64), tokens=200_000), StackSettings(width=192), 100_000
    ),
}
_KNOWN = {name: (task, "full", _SHIPPED_SIZES) for task, name in SHIPPED.items()}
_KNOWN |= {name: ("classification", variant, _ARM_SIZES) for variant, name in ARMS.items()}


def _pretrain(run: Pretraining) -> dict[str, Any]:
    """Train or go on; to go on without a state is to start from what ships, with a rate a third as high."""
    task, variant, sizes = _KNOWN[run.name]
    sizes = run.sized(_PRESETS[run.preset] if run.preset else sizes)
    shapes, settings = sizes.shapes, replace(sizes.settings, task=task)
    if task == "regression":
        shapes = replace(shapes, tokens=max(shapes.tokens // 2, 1))
    members, weights = members_and_weights(task, variant=variant)
    options, start, before = dict(run.options), None, {}
    as_shipped = run.preset is None and run.name in SHIPPED.values()
    if as_shipped and options["resume"] and not options["checkpoint_path"].exists():
        path = weights_path(run.name)
        start, before = StackNetwork.from_checkpoint(path, task), Checkpoint.load(path, kind=StackNetwork.kind).training
        # A fresh stream of tables, so that none is seen twice.
        options |= {"resume": False, "seed": seed_of(options["seed"], "continued", str(before.get("steps", 0)))}
    network, result = pretrain_stack(
        members,
        weights,
        settings=settings,
        shapes=shapes,
        n_steps=sizes.n_steps,
        lr=_RATE if start is None else _RATE / 3,
        network=start,
        **options,
    )
    facts: dict[str, Any] = {"device": str(resolve_device(options["device"])), "variant": variant}
    if start is not None:
        facts |= {
            "command": run.command(result) + " --resume",
            "steps": result.steps + before.get("steps", 0),
            "seconds": round(result.seconds + before.get("seconds", 0.0), 1),
            "continued_from": before,
        }

    def save(training: dict[str, Any], path: Path) -> None:
        buckets = frozenset(buffer for buffer, _ in network.named_buffers())
        network.to_checkpoint(paper_prior(task, variant=variant), training).save(path, half=True, keep_full=buckets)

    return run.ship(network, result, save, facts)


pretrain_shipped = Shipping("tabpfn", tuple(_KNOWN), _pretrain)
