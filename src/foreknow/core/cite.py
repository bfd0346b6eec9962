"""The references of exactly what was used."""

from __future__ import annotations

from foreknow.core.prior import Prior
from foreknow.core.registry import lookup
from foreknow.core.system import System


def cite(what: str | System | Prior | type[System] | type[Prior]) -> str:
    """The BibTeX entry of a slug, a system or a prior.

    Raises:
        InputError: if no system has this slug.
    """
    card = lookup(what).card if isinstance(what, str) else what.card
    return card.bibtex.strip() + "\n"
