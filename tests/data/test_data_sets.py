from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import foreknow.data
from foreknow.common.errors import InputError
from foreknow.core.records import from_json, to_json
from foreknow.data import penguins


def test_penguins_are_documented_and_stored_as_a_record():
    readme = (penguins.locate().parent / "README.md").read_text(encoding="utf-8")
    assert "penguins.csv" in readme and penguins.licence in readme and "Gorman" in readme and "Horst" in readme
    assert from_json(to_json(penguins)) == penguins


def test_a_file_that_was_not_shipped():
    with pytest.raises(InputError, match=r"'penguins' is not at (.|\n)*source code only"):
        replace(penguins, path="examples/absent.csv").locate()


def test_public_names_exist_and_are_light():
    for name in foreknow.data.__all__:
        assert getattr(foreknow.data, name).__name__ == name if name != "penguins" else True
    modules = [f"foreknow.data.{path.stem}" for path in Path(foreknow.data.__file__).parent.glob("*.py")]
    for module in modules:
        importlib.import_module(module)
    code = (
        f"import sys, importlib; [importlib.import_module(m) for m in {modules!r}]; "
        "sys.exit(bool({'torch', 'pandas', 'polars', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
