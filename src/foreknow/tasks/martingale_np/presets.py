"""Sizes, the priors of the arms, and the networks that ship."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from foreknow.common.errors import ConfigError
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import check_int, check_option
from foreknow.tasks.martingale_np.network import ConditionalNP, NPSettings
from foreknow.tasks.martingale_np.tasks import DigitTasks, MartingalePrior
from foreknow.tasks.martingale_np.training import from_checkpoint, pretrain_network, to_checkpoint
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
    """Train one of the networks that ship, or go on with it.

    Args:
        name: a key of `NETWORKS`; "martingale-np" by default.
        minutes: wall-clock budget; the schedule finishes within it.
        n_steps: steps instead.
        preset: a preset's sizes instead of those of the network that ships.
        device, devices: where to train.
        resume: go on from the state in `out`.
        out: folder for `<name>.safetensors` (weights), `<name>.state.safetensors` and `<name>.log.jsonl`.
        seed: of weights and draws.
        progress: told after every step.

    Returns:
        Paths, steps, seconds and the last loss.
    """
    chosen = check_option("martingale-np", "weights", name or "martingale-np", tuple(NETWORKS))
    if minutes is not None and n_steps is not None:
        raise ConfigError("pretrain: give minutes or steps, not both.")
    entry = NETWORKS[chosen]
    settings = preset_settings(preset, entry.settings.attentive) if preset else entry.settings
    if n_steps is not None:
        settings = replace(settings, n_steps=check_int("pretrain", "n_steps", n_steps, low=1))
    out.mkdir(parents=True, exist_ok=True)
    state, log = out / f"{chosen}.state.safetensors", out / f"{chosen}.log.jsonl"
    network, result = pretrain_network(
        entry.prior,
        settings,
        rule=entry.prior.rule,
        seed=seed,
        minutes=minutes,
        device=device,
        devices=devices,
        progress=progress,
        log_path=log,
        checkpoint_path=state,
        resume=resume,
    )
    training = {
        "card": "martingale-np",
        "command": f"foreknow pretrain martingale-np --weights {chosen}"
        + (f" --preset {preset}" if preset else "")
        + (f" --minutes {minutes:g}" if minutes else f" --steps {settings.n_steps}")
        + f" --seed {seed}",
        "seed": seed,
        "steps": result.steps,
        "tasks_seen": result.steps * settings.batch_size,
        "seconds": round(result.seconds, 1),
        "loss": result.last_loss,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    weights = out / f"{chosen}.safetensors"
    save_weights(network, entry.prior, training, weights)
    return {"weights": str(weights), "state": str(state), "log": str(log), **training}


def save_weights(network: ConditionalNP, prior: MartingalePrior, training: dict[str, Any], path: Path) -> None:
    """Write a network as it ships: half precision, with its prior and training record in the header."""
    keep = frozenset({"x_low", "x_high", "y_shift", "y_scale"})
    to_checkpoint(network, prior, training).save(path, half=True, keep_full=keep)
