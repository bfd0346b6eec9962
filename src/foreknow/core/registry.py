"""The catalogue: systems and priors register themselves; the package is walked, nothing is listed by hand."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.validate import suggest
from foreknow.core.card import ROOMS, Card
from foreknow.core.prior import Prior
from foreknow.core.records import record

if TYPE_CHECKING:
    from foreknow.core.system import System

C = TypeVar("C", bound=type)


@dataclass
class Entry:
    """One paper in the catalogue: its card, its system, further estimators built on it, and its prior classes."""

    card: Card
    system: type[System] | None = None
    estimators: list[type[System]] = field(default_factory=list)
    priors: list[type[Prior]] = field(default_factory=list)


_ENTRIES: dict[str, Entry] = {}
_FAILURES: dict[str, str] = {}
_walked = False


def register(card: Card, *, main: bool = True) -> Callable[[C], C]:
    """Class decorator for a `System` or a `Prior` (any number per card).

    Args:
        card: the paper.
        main: whether a system is the paper's own (one per card) or a further estimator built on it.

    Raises:
        ConfigError: another card or another system has this slug, or the class is of neither kind.
    """

    def decorate(cls: C) -> C:
        from foreknow.core.system import System

        entry = _ENTRIES.setdefault(card.slug, Entry(card))
        if entry.card != card:
            raise ConfigError(f"two different cards have the slug {card.slug!r}.")
        if issubclass(cls, System) and not main:
            entry.estimators = [other for other in entry.estimators if _name(other) != _name(cls)] + [cls]
        elif issubclass(cls, System):
            if entry.system is not None and _name(entry.system) != _name(cls):
                raise ConfigError(
                    f"two systems are registered as {card.slug!r}: {_name(entry.system)} and {_name(cls)}."
                )
            entry.system = cls
        elif issubclass(cls, Prior):
            record(cls)
            entry.priors = [prior for prior in entry.priors if _name(prior) != _name(cls)] + [cls]
        else:
            raise ConfigError(f"{_name(cls)} is neither a System nor a Prior and cannot be registered.")
        cls.card = card  # type: ignore[attr-defined]
        return cls

    return decorate


def catalogue(*, reload: bool = False) -> dict[str, Entry]:
    """All papers by slug, after walking every room. Modules that fail to import are warned about by name."""
    global _walked
    if not _walked or reload:
        _FAILURES.clear()
        for room in ROOMS:
            _walk(f"foreknow.{room}")
        _walked = True
        if _FAILURES:
            lines = "; ".join(f"{module}: {reason}" for module, reason in _FAILURES.items())
            warnings.warn(
                f"{len(_FAILURES)} module(s) could not be imported and are missing from the catalogue: {lines}",
                ForeknowWarning,
                stacklevel=2,
            )
    return dict(sorted(_ENTRIES.items()))


def failures() -> dict[str, str]:
    """Module -> reason, for the modules that could not be imported in the last walk."""
    catalogue()
    return dict(_FAILURES)


def lookup(slug: str) -> Entry:
    """The entry of `slug`.

    Raises:
        InputError: if there is none; the nearest slugs are suggested.
    """
    entries = catalogue()
    if slug not in entries:
        raise InputError(
            f"no system is called {slug!r}; there are {len(entries)}: {', '.join(entries)}.",
            hint=suggest(slug, entries),
        )
    return entries[slug]


def _walk(package: str) -> None:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            _FAILURES[package] = f"{type(error).__name__}: {error}"
        return
    except Exception as error:  # noqa: BLE001 - any failure is reported by name
        _FAILURES[package] = f"{type(error).__name__}: {error}"
        return
    for info in pkgutil.iter_modules(module.__path__, package + "."):
        if info.ispkg:
            _walk(info.name)
            continue
        try:
            importlib.import_module(info.name)
        except Exception as error:  # noqa: BLE001 - any failure is reported by name
            _FAILURES[info.name] = f"{type(error).__name__}: {error}"


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
