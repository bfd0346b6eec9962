"""`foreknow list`: the catalogue, filtered, and searched in other words where nothing has the words themselves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
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
            help="Show systems that have all of these words in name, title, prior, what goes in and out, or authors; "
            "where there is none, the nearest ones.",
        ),
    ] = None,
    room: Annotated[str | None, typer.Option("--room", help="Only this kind of prior, for instance tasks.")] = None,
    json: Json = False,
) -> None:
    """The catalogue: every system, what its prior is, and whether its claim held when measured."""
    from foreknow.common.errors import ForeknowWarning
    from foreknow.common.validate import check_option
    from foreknow.core.card import ROOMS
    from foreknow.core.registry import catalogue, failures

    words = " ".join(words or []).split()
    if room is not None:
        check_option("foreknow list", "--room", room, ROOMS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # said louder below
        entries = catalogue()
        broken = failures()
    offered = [entry.card for entry in entries.values() if room in (None, entry.card.room)]
    cards = [card for card in offered if _has(card, words)]
    nearest = _nearest(offered, words) if words and offered and not cards else []
    rows = [_row(card) for card in cards or nearest]
    record = {"systems": [] if nearest else rows, "nearest": rows if nearest else [], "failures": broken}
    if not emit(record, json):
        if nearest:
            say(f"No system has all of these words: {' '.join(words)}. The nearest, best first:")
        if rows:
            columns = ("slug", "year", "room", "prior", "verdict")
            show_table("", columns, [[row[column] for column in columns] for row in rows])
        else:
            say(f"No system matches; there are {len(entries)} in all.")
            if words and not _reads_meaning():
                say("With pip install 'foreknow[text]' other words for the same thing are found too.")
    if broken:
        say(f"error: {len(broken)} module(s) could not be imported and are missing from the catalogue:", colour="red")
        for module, reason in broken.items():
            say(f"  {module}: {reason}", colour="red")
        raise typer.Exit(1)


def _row(card: Card) -> dict[str, Any]:
    from foreknow.core.evidence import find_evidence

    return {
        "slug": card.slug,
        "year": card.year,
        "room": card.room,
        "prior": card.prior,
        "verdict": (find_evidence(card.slug) or {}).get("verdict"),
        "title": card.title,
        "authors": list(card.authors),
        "tier": card.tier,
    }


def _text(card: Card) -> str:
    return " ".join([card.slug, card.title, card.prior, card.inputs, card.outputs])


def _has(card: Card, words: list[str]) -> bool:
    text = " ".join([_text(card), *card.authors]).casefold()
    return all(word.casefold() in text for word in words)


def _reads_meaning() -> bool:
    from foreknow.common.deps import EXTRAS, available

    return all(available(module) for module in EXTRAS["text"])


def _nearest(cards: Sequence[Card], words: list[str], n: int = 5) -> list[Card]:
    """The `n` cards nearest to the words, best first: by late interaction where its encoder is installed, else BM25.

    BM25 leaves out the cards that share no word, which may be all.
    """
    from foreknow.memory.colbert.lexical import BM25
    from foreknow.memory.colbert.system import LateInteraction

    texts, query = [_text(card).replace("-", " ") for card in cards], " ".join(words)
    if not any(map(str.isalnum, query)):
        return []
    if not _reads_meaning():
        return [cards[i] for i in BM25(texts).top(query, n)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a card that is cut is found by its first 180 tokens
        search = LateInteraction(random_state=0).fit(texts)
        return [cards[int(i)] for i in search.rerank([query])[0].ids[:n]]
