"""What a check is: a named plain function, chosen by what its subject can do, with strict expected failures."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from foreknow.common.errors import ForeknowError, ForeknowWarning

Body = TypeVar("Body", bound=Callable[..., None])


class CheckFailed(AssertionError):
    """A contract of the library is broken; the message says what was expected and what came."""


def expect(holds: object, message: str) -> None:
    """Raise a CheckFailed with `message` unless `holds`."""
    if not holds:
        raise CheckFailed(message)


Kinds = type[ForeknowError] | tuple[type[ForeknowError], ...]


def refused(what: str, kind: Kinds, call: Callable[..., object], *args: Any, **named: Any) -> ForeknowError:
    """The error of `kind` that a call meets; a CheckFailed if it meets another one or none."""
    names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
    try:
        call(*args, **named)
    except kind as error:
        lines = str(error).splitlines()
        expect(0 < len(lines) <= 5, f"{what}: the message must have one to five lines, got {len(lines)}: {error}")
        return error
    except Exception as error:
        raise CheckFailed(f"{what}: expected {names}, got {type(error).__name__}: {error}") from error
    raise CheckFailed(f"{what}: expected {names}, but it was accepted.")


@dataclass(frozen=True)
class Outcome:
    """What became of one check: `status` is "passed", "expected" (a declared failure) or "failed"."""

    subject: str
    check: str
    status: str
    message: str = ""


@dataclass(frozen=True)
class _Check:
    body: Callable[..., None]
    applies: Callable[..., bool]


class Suite:
    """The checks of one kind of subject, in the order they were written.

    A class may declare `expected_failures = {name: reason}`, or `{"name[example]": reason}` for one example
    only. The declaration is strict: a declared check that passes is an error.
    """

    def __init__(self) -> None:
        self._checks: dict[str, _Check] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._checks)

    def add(self, when: Callable[..., bool] = lambda *subject: True) -> Callable[[Body], Body]:
        """Decorator: `check_<name>` joins the suite and is chosen where `when(*subject)` is true."""

        def decorate(body: Body) -> Body:
            self._checks[body.__name__.removeprefix("check_")] = _Check(body, when)
            return body

        return decorate

    def select(self, subject: tuple[Any, ...], label: str) -> list[tuple[str, Callable[[], None]]]:
        """Name and ready-to-call body of every check that applies to `subject`."""
        declared = expected_failures(type(subject[0]))
        chosen = [(name, check) for name, check in self._checks.items() if check.applies(*subject)]
        return [
            (name, _strict(name, check.body, subject, declared.get(f"{name}[{label}]", declared.get(name, ""))))
            for name, check in chosen
        ]

    def unknown(self, cls: type) -> list[str]:
        """Names in the expected failures of `cls` that are no check."""
        return [name for name in expected_failures(cls) if name.partition("[")[0] not in self._checks]


def expected_failures(cls: type) -> Mapping[str, str]:
    """The declared failures of `cls`, name of the check -> reason."""
    return getattr(cls, "expected_failures", {})


def _strict(name: str, body: Callable[..., None], subject: tuple[Any, ...], reason: str) -> Callable[[], None]:
    owner = type(subject[0]).__name__

    def run() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ForeknowWarning)
                body(*subject)
        except CheckFailed as error:
            if not reason:
                raise CheckFailed(f"{owner}, {name}: {error}") from error
        except Exception as error:
            if not reason:
                raise CheckFailed(f"{owner}, {name}: raised {type(error).__name__}: {error}") from error
        else:
            if reason:
                raise CheckFailed(f"{owner}, {name}: declared to fail ({reason}) but passes; remove the declaration.")

    run.reason = reason  # type: ignore[attr-defined]
    return run
