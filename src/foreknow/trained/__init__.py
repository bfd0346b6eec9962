"""The networks that ship: `<name>.safetensors`, with its training record inside, and `<name>.log.jsonl` beside it."""

from __future__ import annotations

from pathlib import Path

from foreknow.common.errors import InputError

_FOLDER = Path(__file__).resolve().parent


def shipped() -> dict[str, Path]:
    """Name -> weights file of every network that comes with the package."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.safetensors"))}


def weights_path(name: str) -> Path:
    """The weights file of the shipped network `name`.

    Raises:
        InputError: if there is none; the nearest names are suggested.
    """
    from foreknow.common.validate import suggest

    known = shipped()
    if name not in known:
        raise InputError(
            f"no shipped network is called {name!r}; there are {len(known)}: {', '.join(known) or 'none'}.",
            hint=suggest(name, known),
        )
    return known[name]
