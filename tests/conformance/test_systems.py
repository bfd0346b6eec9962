"""Every system of the catalogue, and every estimator beside it, meets every shared check on its examples."""

import pytest
from members import cases, walked

from foreknow.core import checks
from foreknow.core.registry import failures
from foreknow.core.system import _CLASSES, System


def all_systems() -> list[type[System]]:
    registered = [entry.system for entry in walked().values() if entry.system is not None]
    others = [kind for kind in _CLASSES.values() if kind.__module__.startswith("foreknow.") and kind not in registered]
    return [*registered, *sorted(others, key=lambda kind: kind.__name__)]


def test_every_module_of_the_catalogue_imports():
    walked()
    assert not failures()


@pytest.mark.parametrize("check", cases(all_systems()))
def test_system(check):
    check()


def test_the_checks_are_there():
    assert len(checks.SYSTEMS.names) > 40
