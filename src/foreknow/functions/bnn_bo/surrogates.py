"""Surrogates by name and preset."""

from __future__ import annotations

from dataclasses import dataclass

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_option
from foreknow.core.system import PRESETS
from foreknow.functions.bnn_bo.base import Surrogate
from foreknow.functions.bnn_bo.networks import EnsembleNet, HMCNet, LaplaceNet, MAPNet, SGHMCNet
from foreknow.functions.bnn_bo.processes import DKL, IBNN, GPSurrogate

_H, _T = (32, 32), (8,)
_NOISE = 0.1  # published is 0.01; of forty rows a small network with that noise is far too sure

SURROGATES: dict[str, dict[str, Surrogate]] = {
    "gp": dict.fromkeys(PRESETS, GPSurrogate()),
    "gp-2023": dict.fromkeys(PRESETS, GPSurrogate("2023")),
    "ibnn": dict.fromkeys(PRESETS, IBNN()),
    "hmc": {
        "quick": HMCNet(_T, n_samples=4, n_burn=10, n_leapfrog=5, n_steps=30),
        "small": HMCNet(
            _H, noise_var=_NOISE, n_chains=8, n_samples=10, n_burn=50, n_leapfrog=60, step=0.005, n_steps=150
        ),
        "paper": HMCNet(start="mode"),
    },
    "sghmc": {
        "quick": SGHMCNet(_T, n_steps=60, n_burn=20),
        "small": SGHMCNet(_H, noise_var=_NOISE, n_steps=1000, n_burn=500),
        "paper": SGHMCNet(),
    },
    "ensemble": {
        "quick": EnsembleNet(_T, n_members=3, n_steps=30),
        "small": EnsembleNet(_H, n_members=5, n_steps=500),
        "paper": EnsembleNet(),
    },
    "laplace": {
        "quick": LaplaceNet(_T, n_draws=16, n_steps=30),
        "small": LaplaceNet(_H, noise_var=_NOISE, n_steps=300),
        "paper": LaplaceNet(),
    },
    "dkl": {
        "quick": DKL(_T, n_pretrain=20, n_steps=20),
        "small": DKL(_H, n_pretrain=200, n_steps=200),
        "paper": DKL(),
    },
    "map": {
        "quick": MAPNet(_T, n_steps=30),
        "small": MAPNet(_H, noise_var=_NOISE, n_steps=300),
        "paper": MAPNet(),
    },
}
"""Name -> preset -> settings."""

SEARCHES = ("sobol", "random")
"""Searches that ask no surrogate."""

GREEDY = ("map",)


@dataclass(frozen=True)
class Named:
    """A surrogate, or None for a search without one, and its name."""

    name: str
    surrogate: Surrogate | None


def as_surrogate(owner: str, value: Surrogate | str, preset: str = "small") -> Named:
    """A surrogate from itself or its name.

    Raises:
        ConfigError: neither.
    """
    check_option(owner, "preset", preset, PRESETS)
    if isinstance(value, Surrogate):
        return Named(_name_of(value), value)
    if not isinstance(value, str):
        raise ConfigError(
            f"{owner}: surrogate must be a name or a Surrogate, got {type(value).__name__}.",
            hint=f"Names: {', '.join((*SURROGATES, *SEARCHES))}.",
        )
    check_option(owner, "surrogate", value, (*SURROGATES, *SEARCHES))
    return Named(value, None if value in SEARCHES else SURROGATES[value][preset])


def _name_of(value: Surrogate) -> str:
    for name, presets in SURROGATES.items():
        if value in presets.values():
            return name
    for name, presets in SURROGATES.items():
        if type(value) is type(presets["paper"]):
            return name
    return type(value).__name__
