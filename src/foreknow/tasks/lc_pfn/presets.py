"""Sizes, the priors of the arms, and the networks that ship."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from foreknow.common.errors import ConfigError
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import check_int, check_option
from foreknow.core.prior import Prior
from foreknow.tasks.lc_pfn.network import CurveNetwork, CurveSettings, pretrain_network
from foreknow.tasks.lc_pfn.prior import CurvePrior
from foreknow.trained import weights_path

SHIPPED = "lc-pfn"
"""Name of the network in `foreknow/trained`."""

ARMS = {"paper": "lc-pfn-arm-full", "off": "lc-pfn-arm-uniform", "wrong": "lc-pfn-arm-shuffled"}
"""Prior -> a network of the same sizes, seed and steps as the other two, for fair comparisons."""

WIDE = "lc-pfn-wide"
"""Name of the network that ships for `CurvePrior.wide()`."""

_SMALL = CurveSettings(optimizer="muon", lr=1e-2, batch_size=50, n_query=12, n_steps=20_000)
_ARM = replace(_SMALL, width=64, depth=3, hidden=128, n_steps=5000)

_PRESETS = {
    "quick": CurveSettings(width=32, depth=2, hidden=64, n_buckets=60, batch_size=32, n_steps=60, optimizer="muon"),
    "small": _SMALL,
    # As published: 10 million curves, every later epoch a query, no gaps, the rate of the released code.
    "paper": CurveSettings(
        width=512, depth=12, hidden=1024, n_buckets=1000, n_steps=100_000, lr=1e-4, norm="post", n_query=0, p_gaps=0.0
    ),
}


def preset_settings(preset: str) -> CurveSettings:
    """Sizes and budget of a preset."""
    return _PRESETS[preset]


def prior_of(arm: str) -> CurvePrior:
    """The prior of an arm: "paper", "off" (uninformative parameters) or "wrong" (values in random order)."""
    prior: Prior = CurvePrior()
    if arm == "off":
        prior = prior.off()
    assert isinstance(prior, CurvePrior)
    return replace(prior, shuffled=True) if arm == "wrong" else prior


@lru_cache(maxsize=8)
def read_network(path: Path) -> tuple[CurveNetwork, CurvePrior]:
    """The network in a file and the prior it was fitted to; read once."""
    return CurveNetwork.from_checkpoint(path)


def shipped_network(arm: str | CurvePrior, *, equal_budget: bool = False) -> tuple[CurveNetwork, CurvePrior]:
    """The network that ships for a prior, or its small sibling that was trained as long as those of the other arms.

    Raises:
        ConfigError: none ships for this prior.
    """
    if isinstance(arm, CurvePrior):
        if equal_budget or arm not in (CurvePrior(), CurvePrior.wide()):
            raise ConfigError(
                "CurveExtrapolator: the networks that ship were fitted to the named priors and to CurvePrior.wide(); "
                "another prior needs its own.",
                hint="Use network=CurveSettings(...), or prior='paper'.",
            )
        return read_network(weights_path(SHIPPED if arm == CurvePrior() else WIDE))
    return read_network(weights_path(SHIPPED if arm == "paper" and not equal_budget else ARMS[arm]))


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
        name: `SHIPPED`, `WIDE` or a value of `ARMS`; the former by default.
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
    priors = {SHIPPED: CurvePrior(), WIDE: CurvePrior.wide()} | {name: prior_of(arm) for arm, name in ARMS.items()}
    chosen = check_option("lc-pfn", "weights", name or SHIPPED, tuple(priors))
    if minutes is not None and n_steps is not None:
        raise ConfigError("pretrain: give minutes or steps, not both.")
    settings = preset_settings(preset) if preset else _SMALL if chosen in (SHIPPED, WIDE) else _ARM
    if n_steps is not None:
        settings = replace(settings, n_steps=check_int("pretrain", "n_steps", n_steps, low=1))
    out.mkdir(parents=True, exist_ok=True)
    state, log = out / f"{chosen}.state.safetensors", out / f"{chosen}.log.jsonl"
    prior = priors[chosen]
    network, result = pretrain_network(
        prior,
        settings,
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
        "card": "lc-pfn",
        "command": f"foreknow pretrain lc-pfn --weights {chosen}"
        + (f" --preset {preset}" if preset else "")
        + (f" --minutes {minutes:g}" if minutes else f" --steps {settings.n_steps}")
        + f" --seed {seed}",
        "seed": seed,
        "steps": result.steps,
        "curves_seen": result.steps * settings.batch_size,
        "seconds": round(result.seconds, 1),
        "loss": result.last_loss,
        "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
    }
    weights = out / f"{chosen}.safetensors"
    save_weights(network, prior, training, weights)
    return {"weights": str(weights), "state": str(state), "log": str(log), **training}


def save_weights(network: CurveNetwork, prior: CurvePrior, training: dict[str, Any], path: Path) -> None:
    """Write a network as it ships: half precision but for its borders, with prior and training in the header."""
    network.to_checkpoint(prior, training).save(path, half=True, keep_full=frozenset({"head.borders"}))
