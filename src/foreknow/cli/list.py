"""`foreknow list`: the catalogue, searched and filtered."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreknow.cli.common import Json, emit, say, show_table

if TYPE_CHECKING:
    from foreknow.core.card import Card


def list_(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORDS]...",
            help="Show systems that have all of these words in name, title, prior, what goes in and out, or authors.",
        ),
    ] = None,
    room: Annotated[str | None, typer.Option("--room", help="Only this kind of prior, for instance tasks.")] = None,
    json: Json = False,
) -> None:
    """The catalogue: every system, what its prior is, and whether its claim held when measured."""
    from foreknow.common.errors import ForeknowWarning
    from foreknow.common.validate import check_option
    from foreknow.core.card import ROOMS
    from foreknow.core.evidence import find_evidence
    from foreknow.core.registry import catalogue, failures

    if room is not None:
        check_option("foreknow list", "--room", room, ROOMS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # said louder below
        entries = catalogue()
        broken = failures()
    cards = [
        entry.card for entry in entries.values() if room in (None, entry.card.room) and _has(entry.card, words or [])
    ]
    rows: list[dict[str, Any]] = [
        {
            "slug": card.slug,
            "year": card.year,
            "room": card.room,
            "prior": card.prior,
            "verdict": (find_evidence(card.slug) or {}).get("verdict"),
            "title": card.title,
            "authors": list(card.authors),
            "tier": card.tier,
        }
        for card in cards
    ]
    if not emit({"systems": rows, "failures": broken}, json):
        if rows:
            columns = ("slug", "year", "room", "prior", "verdict")
            show_table("", columns, [[row[column] for column in columns] for row in rows])
        else:
            say(f"No system matches; there are {len(entries)} in all.")
    if broken:
        say(f"error: {len(broken)} module(s) could not be imported and are missing from the catalogue:", colour="red")
        for module, reason in broken.items():
            say(f"  {module}: {reason}", colour="red")
        raise typer.Exit(1)


def _has(card: Card, words: list[str]) -> bool:
    text = " ".join([card.slug, card.title, card.prior, card.inputs, card.outputs, *card.authors]).casefold()
    return all(word.casefold() in text for word in words)
