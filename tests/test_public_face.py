"""Every name the packages promise is there."""

import importlib
from pathlib import Path

import pytest

import foreknow

ROOT = Path(foreknow.__file__).parent
PACKAGES = sorted(".".join(("foreknow", *path.parent.relative_to(ROOT).parts)) for path in ROOT.rglob("__init__.py"))


def test_the_walk_finds_the_packages():
    assert {"foreknow", "foreknow.core", "foreknow.common", "foreknow.cli"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_resolves_and_is_listed(package):
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", ()))
    assert len(set(names)) == len(names)
    missing = {}
    for name in names:
        try:
            getattr(module, name)
        except (ImportError, AttributeError) as error:
            missing[name] = str(error)
    assert missing == {}
    assert set(names) <= set(dir(module))


@pytest.mark.parametrize("package", ["foreknow", "foreknow.core"])
def test_an_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match="no_such_name"):
        importlib.import_module(package).no_such_name  # noqa: B018
