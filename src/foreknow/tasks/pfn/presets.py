"""Sizes, the paper's priors and what they are compared with, and the networks that ship."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from foreknow.core.prior import Simulator
from foreknow.tasks.pfn.network import PFNNetwork, PFNSettings, pretrain_network
from foreknow.tasks.pfn.priors.gp import GPPrior
from foreknow.tasks.pfn.priors.hyper import Gamma
from foreknow.tasks.pfn.priors.tabular import TabularBNNPrior, TabularGPPrior
from foreknow.train.shipping import Pretraining, Shipping

SHIPPED = {"regression": "pfn-gp-1d", "classification": "pfn-tabular"}
"""Task -> name of the network in `foreknow/trained`."""

ARMS = {
    ("regression", "off"): "pfn-gp-1d-off",
    ("regression", "wrong"): "pfn-gp-1d-wrong",
    ("classification", "off"): "pfn-tabular-off",
    ("classification", "wrong"): "pfn-tabular-wrong",
}
"""Task and arm -> a network of the same sizes, seed and steps as the shipped one, fitted to the arm's prior."""

# Gaussian processes in one dimension, inputs uniform on [0, 1], with unknown lengthscale and noise.
GP_1D = GPPrior(n_features=1, kernel="rbf", lengthscale=Gamma(3.0, 6.0), noise=Gamma(1.0, 20.0))

# Tables drawn from random tanh networks, 2 to 10 classes.
TABULAR = TabularBNNPrior.for_tables(n_features=20, n_classes=10)

_PRESETS = {
    ("quick", "regression"): PFNSettings(width=32, depth=2, n_buckets=40, n_rows=21, batch_size=32, n_steps=150),
    ("small", "regression"): PFNSettings(
        depth=4, n_buckets=200, n_steps=4000, norm="pre", optimizer="muon", lr=1e-2, batch_size=48, cut="uniform"
    ),
    # Fixed-hyper-parameter GP of the paper: d = 5, T = 2010, batch 4 x 25 accumulated.
    ("paper", "regression"): PFNSettings(
        width=512,
        depth=6,
        n_buckets=1000,
        n_rows=2010,
        batch_size=4,
        accumulate=25,
        n_steps=1_000_000,
        lr=1e-4,
    ),
    ("quick", "classification"): PFNSettings(width=32, depth=2, n_rows=40, batch_size=16, n_steps=150),
    ("small", "classification"): PFNSettings(width=96, depth=4, n_rows=100, batch_size=32, n_steps=2000, cut="uniform"),
    # Tabular run of the paper: up to 100 rows, dropout 0.5, batch 512.
    ("paper", "classification"): PFNSettings(
        width=512, depth=5, n_rows=100, batch_size=512, n_steps=10_000, lr=6.3e-5, dropout=0.5, cut="uniform"
    ),
}

# What ships, trained on a processor: narrower than published, pre-normalised, averaged weights.
_SHIPPED_SETTINGS = {
    "pfn-gp-1d": PFNSettings(
        width=64, depth=4, n_buckets=200, n_rows=48, batch_size=96, n_steps=6000, norm="pre", optimizer="muon",
        lr=1e-2, ema_decay=0.99,
    ),
    "pfn-tabular": PFNSettings(
        width=96, depth=4, n_rows=160, batch_size=12, n_steps=6000, norm="pre", optimizer="muon", lr=5e-3,
        ema_decay=0.99, cut="uniform",
    ),
}  # fmt: skip


def paper_prior(task: str) -> Simulator:
    """The prior behind `prior="paper"` and behind the shipped network of this task."""
    return GP_1D if task == "regression" else TABULAR


def wrong_prior(task: str) -> Simulator:
    """The placebo: functions whose lengthscale is five times too long.

    The tabular prior has no lengthscale, so its placebo draws labels from a Gaussian process of tables instead, five
    times as smooth as the published one.
    """
    if task == "regression":
        return replace(GP_1D, lengthscale=Gamma(3.0, 6.0).scaled(5))
    long = 5 * math.log1p(math.exp(TabularGPPrior.raw_lengthscale))
    shape = {
        name: getattr(TABULAR, name) for name in ("n_features", "n_classes", "p_categorical", "p_missing", "p_warped")
    }
    return TabularGPPrior(**shape, raw_lengthscale=math.log(math.expm1(long)))


def prior_of(task: str, arm: str) -> Simulator:
    """The prior that the network of an arm, "on", "off" or "wrong", is fitted to."""
    if arm == "wrong":
        return wrong_prior(task)
    prior = paper_prior(task)
    off = prior.off()
    assert isinstance(off, Simulator)
    return off if arm == "off" else prior


def preset_settings(preset: str, task: str) -> PFNSettings:
    """Sizes and budget of a preset."""
    return _PRESETS[preset, task]


_ROLES = {name: (task, "on") for task, name in SHIPPED.items()} | {name: key for key, name in ARMS.items()}


def _pretrain(run: Pretraining) -> dict[str, Any]:
    task, role = _ROLES[run.name]
    prior = prior_of(task, role)
    settings = run.sized(preset_settings(run.preset, task) if run.preset else _SHIPPED_SETTINGS[SHIPPED[task]])
    network, result = pretrain_network(prior, settings, **run.options)
    seen = {"tasks_seen": result.steps * settings.batch_size * settings.accumulate}
    return run.ship(network, result, partial(save_weights, network, prior), seen)


pretrain_shipped = Shipping("pfn", tuple(_ROLES), _pretrain)


def save_weights(network: PFNNetwork, prior: Simulator, training: dict[str, Any], path: Path) -> None:
    """Write a network as it ships: half precision, with its prior and training record in the header."""
    keep_full = frozenset() if network.n_classes else frozenset({"head.borders"})
    network.to_checkpoint(prior, training).save(path, half=True, keep_full=keep_full)
