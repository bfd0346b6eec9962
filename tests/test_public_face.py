"""Every name the packages promise is there."""

import importlib
import subprocess
import sys
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


def test_the_package_runs_as_a_module() -> None:
    """`python -m foreknow` is the command line, for those whose path lacks the script."""
    words = [sys.executable, "-m", "foreknow", "--version"]
    result = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, f"foreknow {foreknow.__version__}\n"), result.stderr
