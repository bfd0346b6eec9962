"""Sizes, the priors of the arms, and the networks that ship."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from foreknow.common.errors import ConfigError
from foreknow.core.prior import Prior
from foreknow.tasks.lc_pfn.network import CurveNetwork, CurveSettings, pretrain_network
from foreknow.tasks.lc_pfn.prior import CurvePrior
from foreknow.train.shipping import Pretraining, Shipping
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


_PRIORS = {SHIPPED: CurvePrior(), WIDE: CurvePrior.wide()} | {name: prior_of(arm) for arm, name in ARMS.items()}


def _pretrain(run: Pretraining) -> dict[str, Any]:
    prior = _PRIORS[run.name]
    settings = run.sized(preset_settings(run.preset) if run.preset else _SMALL if run.name in (SHIPPED, WIDE) else _ARM)
    network, result = pretrain_network(prior, settings, **run.options)
    seen = {"curves_seen": result.steps * settings.batch_size}
    return run.ship(network, result, partial(save_weights, network, prior), seen)


pretrain_shipped = Shipping("lc-pfn", tuple(_PRIORS), _pretrain)


def save_weights(network: CurveNetwork, prior: CurvePrior, training: dict[str, Any], path: Path) -> None:
    """Write a network as it ships: half precision but for its borders, with prior and training in the header."""
    network.to_checkpoint(prior, training).save(path, half=True, keep_full=frozenset({"head.borders"}))
