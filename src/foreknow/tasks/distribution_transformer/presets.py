"""The published experiments as tasks, their sizes, and the networks that ship."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_option
from foreknow.tasks.distribution_transformer.network import DistributionSettings
from foreknow.tasks.distribution_transformer.observing import (
    FactorVolatility,
    GPData,
    LinearSensors,
    NormalVariance,
    ObservationModel,
    RangeBearing,
    RangeFinder,
    TwoLevel,
    Volatility,
)
from foreknow.tasks.distribution_transformer.prior import Hyper, MetaPrior, MixtureMeta, ParametricMeta
from foreknow.tasks.distribution_transformer.training import Trained, fit_network
from foreknow.train.shipping import Pretraining, Shipping
from foreknow.trained import shipped, weights_path


@dataclass(frozen=True)
class Experiment:
    """One of the paper's experiments.

    Args:
        meta: distribution over priors.
        model: of the observations.
        small, paper: sizes that train on a processor in minutes, and the published ones.
        published: the observation model as published, where the one that ships sees more.
        about: one line for people.
    """

    meta: MetaPrior
    model: ObservationModel
    small: DistributionSettings
    paper: DistributionSettings
    about: str
    published: ObservationModel | None = None


_SMALL = DistributionSettings(norm="pre", n_heads=2, lr=2e-3, batch_size=256, n_steps=4000)
_ARM = replace(_SMALL, depth=2, n_steps=1200, lr=3e-3)
_FILTER = replace(_SMALL, n_components=4, residual=True, depth=2)
_RANGE = replace(_FILTER, depth=3, n_heads=4, batch_size=512)
_WIDE = replace(_RANGE, width=64, n_steps=5000)
_POSITION, _PLANE = (0.0, 20.0), (-15.0, 15.0)

# K = 5, width 64, 8 heads, 6 layers of 2048, batches of 2000, 50 epochs of 100 steps, of which 5 or 10 warm up.
_PAPER = DistributionSettings(
    n_components=5, width=64, depth=6, n_heads=8, hidden=2048, embed_hidden=256, batch_size=2000, n_steps=5000
)
_PAPER_FILTER = replace(_PAPER, n_components=4, width=32, n_heads=4, hidden=128, depth=6, batch_size=5000, n_steps=2000)

EXPERIMENTS: dict[str, Experiment] = {
    "inverse-gamma": Experiment(
        ParametricMeta("inverse-gamma", (Hyper("gamma", 1.0, 1.0), Hyper("gamma", 1.0, 1.0))),
        NormalVariance(8),
        replace(_SMALL, n_steps=10_000),
        _PAPER,
        "a variance with an inverse-gamma prior, seen through normal numbers",
        NormalVariance(1),
    ),
    "mixture": Experiment(
        MixtureMeta((-3.0,), (3.0,), (1.0,), n_components=4),
        LinearSensors(((1.0,), (1.0,)), (0.1, 4.0), n_max=3),
        _WIDE,
        replace(_PAPER, n_components=4),
        "a Gaussian mixture seen by a precise and a coarse linear sensor",
    ),
    "quantum": Experiment(
        ParametricMeta("beta", (Hyper("gamma", 4.0, 6.0, 0.02), Hyper("gamma", 4.0, 6.0, 0.02))),
        TwoLevel(10, vary=True),
        replace(_SMALL, width=64, n_heads=4),
        replace(_PAPER, warmup=0.2),
        "the Hamiltonian of a two-level system from ten binary measurements",
        TwoLevel(10),
    ),
    "gp": Experiment(
        ParametricMeta(
            "gaussian-gamma",
            (
                Hyper("uniform", -0.5, 0.5),
                Hyper("uniform", math.sqrt(0.9), math.sqrt(1.1)),
                Hyper("log-uniform", 1.5, 6.0),
                Hyper("log-uniform", 3.0, 12.0),
            ),
        ),
        GPData(10, vary=True),
        replace(_SMALL, n_components=10, width=64, depth=5, n_heads=4, n_steps=6000),
        replace(_PAPER, n_components=20, width=256, n_heads=16, hidden=5096, lr=1e-4, batch_size=1000, n_steps=30_000),
        "a value of a Gaussian process, with a gamma prior on its lengthscale",
        GPData(10),
    ),
    "range": Experiment(
        MixtureMeta((_POSITION[0], -1.5), (_POSITION[1], 1.5), (1.0, 0.5), n_components=4),
        RangeFinder(),
        _RANGE,
        _PAPER_FILTER,
        "position and velocity before a wall, from ranges with clutter",
    ),
    "range-bearing": Experiment(
        MixtureMeta(
            (_PLANE[0], _PLANE[0], -1.0, -1.0), (_PLANE[1], _PLANE[1], 1.0, 1.0), (1.0, 1.0, 0.4, 0.4), n_components=4
        ),
        RangeBearing(),
        _WIDE,
        _PAPER_FILTER,
        "position and velocity in the plane, from ranges with clutter and bearings",
    ),
    "volatility": Experiment(
        MixtureMeta((-3.0,), (3.0,), (0.5,), n_components=4, narrow=0.2, wide=3.0),
        Volatility(),
        _FILTER,
        _PAPER_FILTER,
        "the log variance of a series of returns",
    ),
    "factor-volatility": Experiment(
        MixtureMeta((-2.0, -2.0), (2.0, 2.0), (0.5, 0.5), n_components=4, narrow=0.2, wide=3.0),
        FactorVolatility(),
        _FILTER,
        _PAPER_FILTER,
        "log variances of a common factor and of the rest, from returns of three assets",
    ),
}
"""Task -> what it is."""

_QUICK: dict[str, Any] = {
    "width": 16, "depth": 1, "n_heads": 2, "hidden": 32, "embed_hidden": 32, "batch_size": 128, "n_steps": 60,
}  # fmt: skip
_NAME = "distribution-transformer-"

SHIPPED = {(task, "parameters"): _NAME + task for task in EXPERIMENTS}
"""Task and what the network is told -> name of the network in `foreknow/trained`."""

ARMS = {
    ("inverse-gamma", "parameters"): _NAME + "inverse-gamma-arm",
    ("inverse-gamma", "constant"): _NAME + "inverse-gamma-arm-off",
}
"""The same, of smaller networks that were trained equally long for both arms, for fair comparisons."""


def experiment(task: str) -> Experiment:
    """The experiment of this name."""
    return EXPERIMENTS[check_option("DistributionTransformer", "task", task, EXPERIMENTS)]


def preset_settings(preset: str, task: str) -> DistributionSettings:
    """Sizes and budget of a preset."""
    chosen = experiment(task)
    return {"small": chosen.small, "paper": chosen.paper, "quick": replace(chosen.small, **_QUICK)}[preset]


def preset_model(preset: str, task: str) -> ObservationModel:
    """The observation model of a preset: the published one in "paper"."""
    chosen = experiment(task)
    return chosen.published if preset == "paper" and chosen.published is not None else chosen.model


@lru_cache(maxsize=8)
def read_network(path: Path) -> Trained:
    """The network in a file; read once, nobody changes it."""
    return Trained.from_checkpoint(path)


def shipped_name(task: str, told: str, *, equal_budget: bool = False) -> str | None:
    """The network that ships for a task and an arm; the placebo takes that of the right prior. None if none does.

    The control arm always is one of `ARMS`; with `equal_budget` the others are too.
    """
    key = (task, "parameters" if told == "swapped" else told)
    name = (ARMS if equal_budget else ARMS | SHIPPED).get(key)
    return name if name in shipped() else None


def shipped_network(task: str, told: str = "parameters", *, equal_budget: bool = False) -> Trained:
    """The network that ships for a task.

    Raises:
        ConfigError: none does.
    """
    name = shipped_name(task, told, equal_budget=equal_budget)
    if name is None:
        known = sorted({task for (task, told), name in SHIPPED.items() if name in shipped()})
        raise ConfigError(
            f"DistributionTransformer: no network ships for task={task!r} ({told}).",
            hint=f"Use weights='fit', or one of {', '.join(known) or 'none'}.",
        )
    return read_network(weights_path(name))


_KNOWN = {name: key for key, name in (*SHIPPED.items(), *ARMS.items())}


def _pretrain(run: Pretraining) -> dict[str, Any]:
    task, told = _KNOWN[run.name]
    is_arm = run.name in ARMS.values() and run.preset is None
    settings = run.sized(_ARM if is_arm else preset_settings(run.preset or "small", task))
    found = experiment(task).meta
    meta = found if told == "parameters" else found.off()
    assert isinstance(meta, MetaPrior)
    trained, result = fit_network(meta, preset_model(run.preset or "small", task), settings, **run.options)

    def save(training: dict[str, Any], path: Path) -> None:
        written = replace(trained, training=training).to_checkpoint()
        written.save(path, half=True, keep_full=full_precision(trained))

    return run.ship(trained.network, result, save, {"tasks_seen": result.steps * settings.batch_size})


pretrain_shipped = Shipping("distribution-transformer", tuple(_KNOWN), _pretrain)


def full_precision(trained: Trained) -> frozenset[str]:
    """Tensors that ship in single precision: shifts, scales, and whatever the last layer adds to them."""
    names = trained.network.state_dict()
    return frozenset(name for name in names if name.endswith(("_shift", "_scale")) or name.startswith("head.2"))
