"""`foreknow cite`: BibTeX of what was used."""

from __future__ import annotations

from typing import Annotated

import typer

from foreknow.cli.common import Json, emit


def cite(
    slugs: Annotated[list[str], typer.Argument(metavar="SLUG...", help="Short names of one or more systems.")],
    json: Json = False,
) -> None:
    """The BibTeX entries of systems, to paste into a bibliography."""
    from foreknow.core.registry import lookup

    entries = {slug: lookup(slug).card.bibtex.strip() for slug in slugs}
    if not emit(entries, json):
        typer.echo("\n\n".join(entries.values()))
