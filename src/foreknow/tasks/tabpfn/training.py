"""Fitting the published network, in both forms, to a prior over tables: presets, task shapes, the run itself."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from foreknow.common.device import resolve_device
from foreknow.common.errors import ConfigError
from foreknow.common.rng import numpy_stream, seed_of, torch_stream
from foreknow.common.validate import check_option
from foreknow.core.batch import Batch
from foreknow.core.predictive import borders_from_samples
from foreknow.core.records import to_json
from foreknow.core.system import PRESETS
from foreknow.tasks.pfn.priors.mixture import MixturePrior
from foreknow.tasks.tabpfn.cells import CellSettings
from foreknow.tasks.tabpfn.network import (
    TASKS,
    RowSettings,
    TableNetwork,
    build_network,
    standardise_targets,
)
from foreknow.tasks.tabular.priors import SmoothPrior, TablePrior, members_and_weights
from foreknow.train.config import TrainConfig
from foreknow.train.loop import RunOptions, TrainResult, train
from foreknow.train.shipping import Pretraining, Shipping

FORMS = ("cells", "rows")

_ROW_COST = 24


@dataclass(frozen=True)
class TableShapes:
    """Sizes of the tables drawn in training; one draw per step, shared by the tables of the step.

    The number of classes follows the released sampler: N uniform on 2..max, then 2 with probability .5, else
    uniform on 2..N.

    Args:
        n_rows: smallest and largest number of rows, log-uniform.
        n_features: smallest and largest number of columns.
        uniform_features: whether that number is uniform (published) or log-uniform.
        n_classes: largest number of classes.
        context_share: smallest and largest share of the rows that are context, uniform.
        n_tokens: cells of all tables of a step, which sets the number of tables; a row's own work counts as 24 cells.
        n_tables: this many tables instead.
    """

    n_rows: tuple[int, int]
    n_features: tuple[int, int]
    uniform_features: bool = False
    n_classes: int = 10
    context_share: tuple[float, float] = (0.3, 0.9)
    n_tokens: int = 100_000
    n_tables: int | None = None

    def draw(self, rng: np.random.Generator) -> tuple[int, int, int, int, int]:
        """(tables, context rows, query rows, columns, classes) of one step."""
        n = round(float(np.exp(rng.uniform(*np.log(self.n_rows)))))
        low, high = self.n_features
        d = int(rng.integers(low, high + 1))
        if not self.uniform_features:
            d = round(float(np.exp(rng.uniform(*np.log(self.n_features)))))
        most = int(rng.integers(2, self.n_classes + 1))
        c = 2 if rng.uniform() < 0.5 else int(rng.integers(2, most + 1))
        n_context = min(round(n * rng.uniform(*self.context_share)), n - 1)
        n_tables = self.n_tables or max(self.n_tokens // (n * (d + _ROW_COST)), 1)
        return n_tables, n_context, n - n_context, d, c


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained.

    Args:
        settings: sizes of the network.
        shapes: sizes of the tables.
        n_steps: optimiser steps.
        lr, optimizer, warmup_fraction, final_lr_fraction, ema_decay: see `TrainConfig`.
        accumulate: draws whose gradients are added before one step.
    """

    settings: RowSettings | CellSettings
    shapes: TableShapes
    n_steps: int
    lr: float
    optimizer: str = "muon"
    warmup_fraction: float = 0.03
    final_lr_fraction: float = 0.0
    ema_decay: float | None = 0.995
    accumulate: int = 1


_QUICK = TableShapes(n_rows=(24, 40), n_features=(2, 4), n_classes=3, n_tokens=6_000)
_CELLS = CellSettings(width=24, depth=3)
_CELL_SHAPES = TableShapes(n_rows=(64, 320), n_features=(2, 16), context_share=(0.5, 0.85))

_RECIPES: dict[tuple[str, str], Recipe] = {
    ("rows", "quick"): Recipe(
        RowSettings(width=16, depth=1, n_heads=2, hidden=32, max_features=8, n_buckets=8), _QUICK, 4, 5e-3
    ),
    ("rows", "small"): Recipe(
        RowSettings(width=96, depth=4, hidden=192, max_features=16),
        TableShapes(n_rows=(128, 128), n_features=(1, 16), uniform_features=True, n_tables=32),
        n_steps=1500,
        lr=5e-3,
    ),
    # 512 tables of 1152 rows a step in 8 parts, evaluation position uniform on 0..1000, 9.2 million tables.
    ("rows", "paper"): Recipe(
        RowSettings(),
        TableShapes(
            n_rows=(1152, 1152),
            n_features=(1, 100),
            uniform_features=True,
            context_share=(0.0, 1000 / 1152),
            n_tables=64,
        ),
        n_steps=18_000,
        lr=1e-4,
        optimizer="adamw",
        warmup_fraction=0.05,
        ema_decay=None,
        accumulate=8,
    ),
    ("cells", "quick"): Recipe(
        CellSettings(
            width=8, n_summaries=2, n_points=4, column_depth=1, depth=1, n_heads=2, n_column_heads=2, n_buckets=8
        ),
        _QUICK,
        4,
        5e-3,
    ),
    ("cells", "small"): Recipe(_CELLS, _CELL_SHAPES, 600, 6e-3),
    # LightPFN's sizes: rows of 4 x 64, two rounds of two column blocks, seven row blocks, 120 000 steps.
    ("cells", "paper"): Recipe(
        CellSettings(
            width=64, n_points=64, n_rounds=2, depth=7, n_heads=8, n_frequencies=16, n_buckets=1000
        ),
        TableShapes(n_rows=(256, 2048), n_features=(2, 100), n_tokens=2_000_000),
        n_steps=120_000,
        lr=1e-3,
        warmup_fraction=0.1,
        final_lr_fraction=0.1,
        ema_decay=0.999,
    ),
    ("cells", "shipped"): Recipe(_CELLS, _CELL_SHAPES, 4000, 6e-3),
}  # fmt: skip


def recipe_of(form: str, task: str = "classification", preset: str = "small") -> Recipe:
    """The network and training of a preset.

    Args:
        form: "cells" or "rows".
        task: "classification" or "regression".
        preset: "quick" (seconds), "small" (minutes of a processor) or "paper" (published sizes).

    Raises:
        ConfigError: an unknown name.
    """
    check_option("recipe_of", "form", form, FORMS)
    check_option("recipe_of", "task", task, TASKS)
    check_option("recipe_of", "preset", preset, (*PRESETS, "shipped"))
    recipe = _RECIPES.get((form, preset)) or _RECIPES[form, "small"]
    return replace(recipe, settings=replace(recipe.settings, task=task))


def prior_of(form: str, task: str = "classification", *, variant: str = "full") -> MixturePrior:
    """The prior that a form is fitted to, at the sizes it is looked at (training draws other sizes).

    The row form takes the published bag: the released sampler of networks, and the Gaussian process with the mean
    of its random weight, softmax([1, U(2, 10)]). The cell form takes the package's mixture.

    Args:
        form: "cells" or "rows".
        task: "classification" or "regression".
        variant: "full", or a control: "linear", "bnn", "published" (see `members_and_weights`).
    """
    check_option("prior_of", "form", form, FORMS)
    if form == "cells" or variant != "full":
        return MixturePrior(*members_and_weights(task, variant=variant))
    (networks,), _ = members_and_weights(task, variant="published")
    process = replace(SmoothPrior.published(), task=task)
    # E[1 / (1 + e^(u - 1))] for u uniform on 2..10.
    share = 1 - (math.log1p(math.exp(9)) - math.log1p(math.exp(1))) / 8
    return MixturePrior((networks, process), (1 - share, share))


@dataclass(frozen=True)
class TableBatches:
    """Step -> tables; a function of the step alone, picklable."""

    prior: MixturePrior
    shapes: TableShapes
    seed: int
    device: str
    n_slots: int = 16

    def __call__(self, step: int) -> Batch:
        n_tables, n_context, n_query, d, c = self.shapes.draw(numpy_stream(self.seed, "shape", str(step)))
        changes: dict[str, Any] = {"n_features": d}
        if self.prior.target == "classification":
            changes |= {"n_classes": c, "min_classes": c}
        members = [replace(m, **changes) for m in self.prior.members if isinstance(m, TablePrior)]
        prior = MixturePrior(tuple(members), self.prior.weights)
        generator = torch_stream(self.seed, "tables", str(step), device=self.device)
        batch = prior.sample(n_tables, n_context=n_context, n_query=n_query, generator=generator)
        if self.prior.target == "classification":
            keys = torch.rand(n_tables, self.n_slots, generator=generator, device=generator.device)
            return replace(batch, info={"n_classes": c, "slots": keys.argsort(dim=1)})
        assert batch.query_y is not None  # simulated tables know their targets
        shift, scale = standardise_targets(batch.context_y)
        y, query_y = (batch.context_y - shift) / scale, (batch.query_y - shift) / scale
        return replace(batch, context_y=y, query_y=query_y, info={})


def table_loss(module: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the query targets, in nats."""
    assert isinstance(module, TableNetwork) and batch.query_y is not None
    logits = module(batch.context_x, batch.context_y, batch.query_x, **batch.info)
    return module.nll(logits, batch.query_y).mean()


def untrained(recipe: Recipe, prior: MixturePrior, *, seed: int = 0) -> TableNetwork:
    """The network of a recipe before training; bar borders sit at quantiles of standardised targets under the prior."""
    network = build_network(recipe.settings, seed=seed_of(seed, "init"))
    if network.bar is not None:
        batches = TableBatches(prior, replace(recipe.shapes, n_tables=128), seed_of(seed, "borders"), "cpu")
        draws: list[Tensor] = []
        wanted = 200 * network.bar.n_buckets
        while sum(part.numel() for part in draws) < wanted:
            y = batches(len(draws)).query_y
            assert y is not None
            draws.append(y.flatten())
        values = torch.cat(draws).clamp(-1e4, 1e4)
        borders = borders_from_samples(values, network.bar.n_buckets)
        # Half of a tail bucket's mass lies within its width: the outermost borders are the medians of the tails.
        half = 0.5 / network.bar.n_buckets
        ends = torch.quantile(values[: 2**23].double(), torch.tensor([half, 1 - half]).double())
        borders[0], borders[-1] = ends[0].float(), ends[1].float()
        network.bar.set_borders(borders)
    return network


def pretrain_network(
    recipe: Recipe,
    prior: MixturePrior,
    *,
    minutes: float | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    **options: Unpack[RunOptions],
) -> tuple[TableNetwork, TrainResult]:
    """Fit the network of a recipe to tables drawn from a mixture of table priors.

    Args:
        recipe: sizes and schedule.
        prior: see `prior_of`; its members' numbers of columns and classes are drawn anew in every step.
        minutes: wall-clock budget instead of the recipe's steps; the schedule finishes within it.
        seed: of weights and draws; step k depends on (seed, k) only.
        device: where to train.
        options: devices, progress, log_path, checkpoint_path and resume, as in `train`.

    Returns:
        The network in evaluation mode, and what the loop has to say.
    """
    if prior.target != recipe.settings.task:
        raise ConfigError(f"the prior draws {prior.target} tasks, the network is for {recipe.settings.task}.")
    place = resolve_device(device)
    network = untrained(recipe, prior, seed=seed)
    config = TrainConfig(
        n_steps=None if minutes else recipe.n_steps,
        minutes=minutes,
        lr=recipe.lr,
        optimizer=recipe.optimizer,
        muon_exclude=("embed", "head", "decoder", "seeds"),
        warmup_fraction=recipe.warmup_fraction,
        final_lr_fraction=recipe.final_lr_fraction,
        clip_norm=1.0,
        accumulate=recipe.accumulate,
        ema_decay=recipe.ema_decay,
        seed=seed,
    )
    result = train(
        network,
        table_loss,
        TableBatches(prior, recipe.shapes, seed, place.type, getattr(recipe.settings, "n_slots", 1)),
        config,
        device=place,
        identity={"prior": to_json(prior), "shapes": asdict(recipe.shapes), "settings": to_json(recipe.settings)},
        **options,
    )
    return network.eval(), result


NAMES = {
    ("cells", "classification"): "tabpfn-cells",
    ("cells", "regression"): "tabpfn-cells-regression",
    ("rows", "classification"): "tabpfn-rows",
    ("rows", "regression"): "tabpfn-rows-regression",
}
"""(form, task) -> name of the network; those that ship are in `foreknow/trained`."""


def _pretrain(run: Pretraining) -> dict[str, Any]:
    form, task = next(key for key, name in NAMES.items() if name == run.name)
    prior = prior_of(form, task)
    network, result = pretrain_network(run.sized(recipe_of(form, task, run.preset or "shipped")), prior, **run.options)
    return run.ship(network, result, lambda training, path: network.save(path, prior, training))


pretrain_published = Shipping("tabpfn", tuple(NAMES.values()), _pretrain)
