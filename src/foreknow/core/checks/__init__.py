"""The contracts of systems and priors as checks anyone can run, with or without a test runner.

    from foreknow.core import checks
    checks.run(MySystem)

Every check is a plain function that raises `CheckFailed` and says what was expected and what came. A class
may declare `expected_failures = {"check": "reason"}`; a declared failure that passes is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from foreknow.core.checks import refusals, systems  # noqa: F401 - they fill the suite of systems
from foreknow.core.checks.base import CheckFailed, Outcome
from foreknow.core.checks.priors import PRIORS
from foreknow.core.checks.subject import SYSTEMS
from foreknow.core.prior import Prior
from foreknow.core.system import Example, System

__all__ = ["PRIORS", "SYSTEMS", "CheckFailed", "Outcome", "checks_of", "prior_checks", "run", "system_checks"]

Checks = list[tuple[str, Callable[[], None]]]


def system_checks(system_class: type[System], example: Example) -> Checks:
    """Name and body of every check that applies to `system_class` with the settings of `example`.

    The bodies share one fitted copy of the system, made by the first of them.
    """
    return SYSTEMS.select((system_class(**example.params), example), example.name)


def prior_checks(prior: Prior, label: str = "") -> Checks:
    """Name and body of every check that applies to `prior`, by what it can do."""
    return PRIORS.select((prior,), label)


def checks_of(kind: type[System] | type[Prior]) -> dict[str, Checks]:
    """All checks of a class on its `examples()`, by example; a prior's control arms are checked too."""
    if issubclass(kind, System):
        return {example.name: system_checks(kind, example) for example in kind.examples()}
    found: dict[str, Checks] = {}
    for number, prior in enumerate(cast(type[Prior], kind).examples()):
        for label, instance in ((str(number), prior), (f"{number}-off", prior.off())):
            found[label] = prior_checks(instance, label)
    return found


def run(kind: type[System] | type[Prior], *, raise_failed: bool = True) -> list[Outcome]:
    """Run every check of a class on its examples.

    Args:
        kind: a system or a prior class; it needs no registration.
        raise_failed: whether to raise once all checks have run, if one failed.

    Returns:
        One outcome per example and check.

    Raises:
        CheckFailed: with the message of every failed check.
    """
    found = []
    for label, checks in checks_of(kind).items():
        for name, check in checks:
            reason = getattr(check, "reason", "")
            try:
                check()
                found.append(Outcome(label, name, "expected" if reason else "passed", reason))
            except CheckFailed as error:
                found.append(Outcome(label, name, "failed", str(error)))
    failed = [f"[{outcome.subject}] {outcome.message}" for outcome in found if outcome.status == "failed"]
    if failed and raise_failed:
        raise CheckFailed(f"{len(failed)} of {len(found)} checks failed:\n" + "\n".join(failed))
    return found
