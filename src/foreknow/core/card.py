"""The card of a paper: what is the prior, what is its control arm, what it needs and returns."""

from __future__ import annotations

import re
from dataclasses import dataclass

from foreknow.common.errors import ConfigError

ROOMS: dict[str, str] = {
    "tasks": "simulators of tasks and what is fitted to them",
    "functions": "priors over functions and kernels",
    "weights": "sparsity, bits, compression",
    "architectures": "structure wired into the network",
    "search": "priors over networks and their settings",
    "physics": "laws and operators",
    "signals": "proximal maps, untrained and generative priors",
    "scenes": "geometry, motion, rendering",
    "knowledge": "anatomy, common sense, topology, labels",
    "memory": "cases, prototypes, ranking, associative memory",
    "decisions": "bandits, dispatching, utility",
    "audit": "what a prior did: bias, calibration, soundness",
}
"""Room -> what its priors are about. Every room is a package `foreknow.<room>` once it has a resident."""

COSTS = ("seconds", "minutes", "hours")
TIERS = ("stable", "beta", "study")


@dataclass(frozen=True)
class Card:
    """What one system is, in words; immutable, and complete or refused.

    Args:
        slug: short name of the paper, lower case with hyphens; unique in the catalogue.
        title: title of the paper.
        authors: its authors, in order, as "Family, Given".
        year: year of publication.
        venue: where it was published.
        room: the kind of prior, a key of `ROOMS`.
        prior: one sentence: what is known before the data.
        control: one sentence: exactly what `off()` removes.
        inputs: what the user brings.
        outputs: what comes back.
        extras: optional parts needed to use it, names of `foreknow.common.deps.EXTRAS`.
        cost: how long the `small` proof takes on two cores, measured: "seconds", "minutes" or "hours".
        tier: "stable", "beta" or "study".
        bibtex: one BibTeX entry.
        deviations: where this implementation differs from the paper or fills a gap, one sentence each.
        limits: when not to use it; each system's page states these first.

    Raises:
        ConfigError: if a field is empty or not one of the allowed values.
    """

    slug: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    room: str
    prior: str
    control: str
    inputs: str
    outputs: str
    cost: str
    tier: str
    bibtex: str
    extras: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owner = f"Card({self.slug!r})"
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.slug):
            raise ConfigError(f"{owner}: slug must be lower-case words joined by hyphens.")
        for name in ("title", "venue", "prior", "control", "inputs", "outputs", "bibtex"):
            if not getattr(self, name).strip():
                raise ConfigError(
                    f"{owner}: {name} is empty.", hint="Every card says all of this; see CONTRIBUTING.md."
                )
        for name, allowed in (("room", tuple(ROOMS)), ("cost", COSTS), ("tier", TIERS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{owner}: {name} must be one of {allowed}, got {getattr(self, name)!r}.")
        if not self.authors or not all(author.strip() for author in self.authors):
            raise ConfigError(f"{owner}: authors must be a tuple of at least one name.")
        if not self.bibtex.lstrip().startswith("@"):
            raise ConfigError(f"{owner}: bibtex must start with '@'.")
