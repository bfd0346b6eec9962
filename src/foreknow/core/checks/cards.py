"""What a class says of itself: its card, its stored evidence, its declared failures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from foreknow.common.deps import EXTRAS
from foreknow.core import evidence
from foreknow.core.card import Card
from foreknow.core.checks.base import expect

_SECONDS = {"seconds": (0.0, 120.0), "minutes": (60.0, 5400.0), "hours": (3600.0, float("inf"))}
"""What the small proof of a system with that cost may take; clocks are noisy, so neighbours overlap."""


def card_of(cls: type) -> Card:
    """The card of `cls`, complete: known extras, a plausible year, limits, BibTeX with title and year."""
    card = getattr(cls, "card", None)
    expect(isinstance(card, Card), f"expected a class attribute `card`, got {card!r}; use @register(CARD).")
    assert isinstance(card, Card)
    expect((cls.__doc__ or "").strip(), "expected a docstring.")
    for extra in card.extras:
        expect(extra in EXTRAS, f"extras of the card must be among {sorted(EXTRAS)}, got {extra!r}.")
    expect(1900 <= card.year <= 2100, f"the year of the card must be a year, got {card.year}.")
    expect(card.limits, "the card names no limits; say when not to use it.")
    for name in ("prior", "control"):
        expect(len(getattr(card, name).split()) >= 4, f"{name} must be a sentence, got {getattr(card, name)!r}.")
    for name in ("title", "year"):
        expect(re.search(rf"\b{name}\s*=", card.bibtex), f"the BibTeX entry has no {name}.")
    return card


def evidence_problems(slug: str, stored: Mapping[str, Any]) -> list[str]:
    """What is wrong with stored evidence: every verdict must follow from its number and bounds."""
    missing = [key for key in evidence.KEYS if key not in stored]
    if missing:
        return [f"keys are missing: {', '.join(missing)}"]
    found = [] if stored["slug"] == slug else [f"slug is {stored['slug']!r}, expected {slug!r}"]
    if not stored["claims"]:
        found.append("there is no claim")
    verdicts = []
    for claim in stored["claims"]:
        verdict = evidence.verdict_of(str(claim["expected"]), claim["measured"])
        verdicts.append(verdict)
        if claim["verdict"] != verdict:
            found.append(
                f"claim {claim['name']!r}: {claim['measured']} against {claim['expected']!r} "
                f"is {verdict!r}, stored as {claim['verdict']!r}"
            )
    held = verdicts.count("held")
    overall = "held" if held == len(verdicts) and held else "partly" if held else "failed"
    if stored["verdict"] != overall:
        found.append(f"the verdict is {overall!r}, stored as {stored['verdict']!r}")
    return found


def unexplained(stored: Mapping[str, Any]) -> list[str]:
    """The failed claims of stored evidence that say nothing of why."""
    return [
        f"claim {claim['name']!r} failed, and its note does not say why"
        for claim in stored.get("claims", ())
        if claim["verdict"] == "failed" and not claim.get("note")
    ]


def cost_problems(cost: str, stored: Mapping[str, Any]) -> list[str]:
    """What is wrong with the `cost` of a card, which must fit the seconds that its small proof took."""
    low, high = _SECONDS[cost]
    seconds = float(stored.get("seconds", low))
    small = stored.get("settings", {}).get("preset", "small") == "small"
    if not small or low <= seconds <= high:
        return []
    return [f"the proof took {seconds:g} s, and the card says that it takes {cost}"]
