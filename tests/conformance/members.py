"""The members of the catalogue and their checks, for parametrised tests."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import pytest

from foreknow.common.errors import ForeknowError, ForeknowWarning
from foreknow.core import checks
from foreknow.core.registry import Entry, catalogue


def walked() -> dict[str, Entry]:
    """The catalogue; modules that fail to import are the matter of one test, not of collection."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)
        return catalogue()


def cases(kinds: Iterable[type]) -> list[Any]:
    """One parameter per class, example and check; a class without examples gives one that fails."""
    found = []
    for kind in kinds:
        try:
            chosen = checks.checks_of(kind)
        except ForeknowError as error:
            found.append(pytest.param(_raising(error), id=f"{kind.__name__}-examples"))
            continue
        for label, named in chosen.items():
            found += [pytest.param(check, id=f"{kind.__name__}-{label}-{name}") for name, check in named]
    return found


def _raising(error: Exception) -> Any:
    def check() -> None:
        raise error

    return check
