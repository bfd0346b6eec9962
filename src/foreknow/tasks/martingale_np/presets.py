"""Sizes, the priors of the arms, and the networks that ship."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from foreknow.tasks.martingale_np.network import ConditionalNP, NPSettings
from foreknow.tasks.martingale_np.tasks import DigitTasks, MartingalePrior
from foreknow.tasks.martingale_np.training import from_checkpoint, pretrain_network, to_checkpoint
from foreknow.train.shipping import Pretraining, Shipping
from foreknow.trained import shipped, weights_path

_SMALL = NPSettings(
    width=64, encoder_depth=3, decoder_depth=2, n_pseudo=10, n_samples=4, weight_pseudo=0.1, batch_size=16,
    n_steps=1500, lr=1e-2, optimizer="muon", warmup=0.05,
)  # fmt: skip
_PRESETS = {
    "quick": replace(_SMALL, width=32, n_heads=4, n_samples=3, batch_size=8, n_steps=20),
    "small": _SMALL,
    # 1000 epochs of 100 steps, 256 tasks each.
    "paper": NPSettings(),
}


def preset_settings(preset: str, attentive: bool = False) -> NPSettings:
    """Sizes and budget of a preset."""
    return replace(_PRESETS[preset], attentive=attentive)


@dataclass(frozen=True)
class Shipped:
    """A network that ships: what it was fitted to, and how large it is."""

    prior: MartingalePrior
    settings: NPSettings


_PLAIN = replace(_SMALL, min_context=0, n_steps=6000)
_ATTENTIVE = replace(_SMALL, min_context=0, n_steps=4000, n_samples=3, attentive=True)
_DIGITS = replace(_SMALL, min_context=0, n_steps=4000, n_points=64)
NETWORKS = {
    "martingale-np": Shipped(MartingalePrior(), _PLAIN),
    "martingale-np-off": Shipped(MartingalePrior(rule="none"), _PLAIN),
    "martingale-np-wrong": Shipped(MartingalePrior(rule="shuffled"), _PLAIN),
    "martingale-np-attentive": Shipped(MartingalePrior(), _ATTENTIVE),
    "martingale-np-attentive-off": Shipped(MartingalePrior(rule="none"), _ATTENTIVE),
    "martingale-np-attentive-wrong": Shipped(MartingalePrior(rule="shuffled"), _ATTENTIVE),
    "martingale-np-digits": Shipped(MartingalePrior(DigitTasks()), _DIGITS),
}
"""Name in `foreknow/trained` -> what it is."""


def shipped_name(prior: MartingalePrior, attentive: bool) -> str | None:
    """The network that ships for a prior, if there is one."""
    for name, entry in NETWORKS.items():
        if entry.prior == prior and entry.settings.attentive == attentive and name in shipped():
            return name
    return None


@lru_cache(maxsize=8)
def read_network(path: Path) -> tuple[ConditionalNP, MartingalePrior]:
    """The network in a file and the prior it was fitted to; read once, and nobody changes it."""
    return from_checkpoint(path)


def shipped_network(name: str) -> tuple[ConditionalNP, MartingalePrior]:
    """A network that ships."""
    return read_network(weights_path(name))


def _pretrain(run: Pretraining) -> dict[str, Any]:
    entry = NETWORKS[run.name]
    settings = run.sized(preset_settings(run.preset, entry.settings.attentive) if run.preset else entry.settings)
    network, result = pretrain_network(entry.prior, settings, rule=entry.prior.rule, **run.options)
    seen = {"tasks_seen": result.steps * settings.batch_size}
    return run.ship(network, result, partial(save_weights, network, entry.prior), seen)


pretrain_shipped = Shipping("martingale-np", tuple(NETWORKS), _pretrain)


def save_weights(network: ConditionalNP, prior: MartingalePrior, training: dict[str, Any], path: Path) -> None:
    """Write a network as it ships: half precision, with its prior and training record in the header."""
    keep = frozenset({"x_low", "x_high", "y_shift", "y_scale"})
    to_checkpoint(network, prior, training).save(path, half=True, keep_full=keep)
