"""`foreknow show`: one card in full, its limits first."""

from __future__ import annotations

import dataclasses
from typing import Any

import typer

from foreknow.cli.common import Json, Slug, console, emit, short_name
from foreknow.cli.prove import show_claims


def show(slug: Slug, json: Json = False) -> None:
    """The card of one system: when not to use it, its prior and control arm, what was measured, how to cite it."""
    from foreknow.core.evidence import find_evidence
    from foreknow.core.registry import lookup

    entry = lookup(slug)
    card, evidence = entry.card, find_evidence(slug)
    record: dict[str, Any] = {
        **dataclasses.asdict(card),
        "system": entry.system.__name__ if entry.system else None,
        "estimators": [kind.__name__ for kind in entry.estimators],
        "priors": {short_name(prior): prior.__name__ for prior in entry.priors},
        "evidence": evidence,
        "networks": _networks_of(slug),
    }
    if emit(record, json):
        return
    out = console()
    out.print(f"{card.title} ({card.year})", style="bold")
    out.print(f"{'; '.join(card.authors)}. {card.venue}. {card.room}, {card.tier}.")
    _section("When not to use it", card.limits or ("No limits are written down yet.",))
    _section("Prior", (card.prior,))
    _section("Control arm (off)", (card.control,))
    _section("You bring", (card.inputs,))
    _section("You get", (card.outputs,))
    needs = f"pip install 'foreknow[{','.join(card.extras)}]'" if card.extras else "nothing beyond the core"
    _section("Needs", (f"{needs}; its small proof takes {card.cost} on two cores",))
    _section("Priors to look at", [f"foreknow sample {slug} --prior {name}" for name in record["priors"]])
    _section("Networks that ship", [f"{item['name']} ({item['mb']:.1f} MB)" for item in record["networks"]])
    _section("Differs from the paper", card.deviations)
    if evidence is None:
        _section("Measured", (f"nothing yet: foreknow prove {slug}",))
    else:
        out.print(f"\nMeasured on {evidence['date']}: {evidence['verdict']}", style="bold")
        show_claims(evidence["claims"])
        _section("Notes", evidence.get("notes", []))
    out.print("\nCite", style="bold")
    typer.echo(card.bibtex.strip())


def _networks_of(slug: str) -> list[dict[str, Any]]:
    """Name, path and size in MB (10^6 bytes) of the shipped networks of a system; they are called `<slug>-...`."""
    from foreknow.trained import shipped

    return [
        {"name": name, "path": path, "mb": path.stat().st_size / 1e6}
        for name, path in shipped().items()
        if f"{name}-".startswith(f"{slug}-")
    ]


def _section(title: str, lines: Any) -> None:
    from rich.padding import Padding

    if not lines:
        return
    out = console()
    out.print(f"\n{title}", style="bold")
    for line in lines:
        out.print(Padding(f"- {line}" if len(lines) > 1 else str(line), (0, 0, 0, 2), expand=False))
