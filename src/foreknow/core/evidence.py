"""What a proof measured: claims with bounds, arms with numbers, and the verdict that follows from them.

A verdict cannot be written by hand: a `Claim` holds a number and the bounds it was expected within, and says
itself whether it held.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from foreknow._version import __version__
from foreknow.common.errors import InputError
from foreknow.common.files import write_text

_NUMBER = r"([-+]?(?:[\d.]+(?:e[-+]?\d+)?|inf))"
KEYS = ("slug", "verdict", "claims", "arms", "environment", "command", "date")


@dataclass(frozen=True)
class Claim:
    """One sentence of the paper as a number with bounds.

    Args:
        name: the sentence.
        measured: the number found (NaN never holds).
        low: smallest value that supports the claim, or None.
        high: largest value that supports the claim, or None.
        interval: 95% interval of `measured`, or None where it was not estimated.
        unit: of `measured`, for the tables.
        note: the best explanation, where the claim failed.
    """

    name: str
    measured: float
    low: float | None = None
    high: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise InputError(f"the claim {self.name!r} has no bound: it could not fail.", hint="Give low or high.")

    @property
    def expected(self) -> str:
        """The bounds in words."""
        unit = f" {self.unit}" if self.unit else ""
        if self.low is not None and self.high is not None:
            return f"{self.low:g} to {self.high:g}{unit}"
        return f">= {self.low:g}{unit}" if self.low is not None else f"<= {self.high:g}{unit}"

    @property
    def verdict(self) -> str:
        """Whether the number lies within the bounds: "held" or "failed"."""
        above = self.low is None or self.measured >= self.low
        below = self.high is None or self.measured <= self.high
        return "held" if above and below else "failed"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "expected": self.expected,
            "measured": self.measured,
            "interval": list(self.interval) if self.interval else None,
            "unit": self.unit,
            "verdict": self.verdict,
            "note": self.note,
        }


@dataclass(frozen=True)
class Evidence:
    """The outcome of a proof.

    Args:
        slug: of the system.
        claims: the claims, at least one.
        arms: one record per measured cell: arm, size, seed, metric and whatever belongs to it (JSON types).
        command: the command that regenerates this.
        seconds: wall-clock time of the whole proof.
        settings: preset, seeds, sizes.
        notes: what a reader must know besides, for instance why a claim failed.
    """

    slug: str
    claims: tuple[Claim, ...]
    arms: tuple[dict[str, Any], ...]
    command: str
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The outcome in one word: "held" if every claim held, "failed" if none did, else "partly"."""
        held = sum(claim.verdict == "held" for claim in self.claims)
        return "held" if held == len(self.claims) and held else "partly" if held else "failed"

    def to_dict(self) -> dict[str, Any]:
        return {
            "slug": self.slug,
            "verdict": self.verdict,
            "claims": [claim.to_dict() for claim in self.claims],
            "arms": list(self.arms),
            "settings": self.settings,
            "notes": list(self.notes),
            "seconds": round(self.seconds, 1),
            "environment": environment(),
            "command": self.command,
            "date": datetime.date.today().isoformat(),
        }

    def write(self, folder: str | Path) -> Path:
        """Write `<folder>/<slug>.json` in one step and return its path."""
        path = Path(folder) / f"{self.slug}.json"
        write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=True) + "\n")
        return path


def verdict_of(expected: str, measured: float) -> str:
    """The verdict of a stored claim, "held" or "failed", from its bounds in words, which are rounded to six digits."""
    if match := re.match(rf"{_NUMBER} to {_NUMBER}", expected):
        low, high = float(match[1]), float(match[2])
    elif match := re.match(rf">= {_NUMBER}", expected):
        low, high = float(match[1]), float("inf")
    elif match := re.match(rf"<= {_NUMBER}", expected):
        low, high = float("-inf"), float(match[1])
    else:
        return f"without bounds ({expected!r})"
    slack = 1e-5
    inside = low - slack * abs(low) <= measured if low > float("-inf") else True
    inside = inside and (measured <= high + slack * abs(high) if high < float("inf") else True)
    return "held" if inside and measured == measured else "failed"


def verdict_in_words(claim: Mapping[str, Any]) -> str:
    """The verdict of a stored claim for readers: one that an end of its interval contradicts is not settled."""
    verdict = str(claim["verdict"])
    ends = (verdict_of(str(claim["expected"]), float(end)) for end in claim["interval"] or ())
    return verdict if all(end == verdict for end in ends) else f"{verdict}, not settled"


def environment() -> dict[str, Any]:
    """Machine and versions, for records of measurements."""
    names = ("torch", "numpy", "scipy", "scikit-learn")
    return {
        "foreknow": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
        "system": platform.system(),
        "processor": _processor(),
        "n_cores": n_cores(),
    }


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_evidence(slug: str) -> dict[str, Any] | None:
    """The stored evidence of a system: from the checkout this package runs from, else from the package."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parents[1] / "evidence", package / "_evidence"):
        path = folder / f"{slug}.json"
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
    return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or "unknown"
    return platform.processor() or "unknown"
