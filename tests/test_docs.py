"""What is written for people is true: snippets run, commands exist, links lead somewhere, tables match the evidence."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foreknow.common import errors
from foreknow.core.card import Card
from foreknow.core.registry import Entry

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md")]


@pytest.fixture(scope="module")
def generate() -> SimpleNamespace:
    """docs/generate.py as a module, with the catalogue imported: some package draws a number when it is imported."""
    module = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "generate.py"), run_name="generate"))
    module.catalogue()
    return module


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# Snippets ----------------------------------------------------------------------------------------------------------


SNIPPETS = [
    pytest.param(code, id=f"{name_of(page)}-{i}") for page in PAGES for i, code in enumerate(blocks(page, "python"))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})


def test_there_are_snippets_to_run() -> None:
    assert blocks(README, "python")
    assert blocks(README, "bash")


def test_contributing_example_passes_the_shared_checks(tmp_path: Path) -> None:
    """In a process of its own, so that the example does not join the catalogue of the other tests."""
    (code,) = blocks(ROOT / "CONTRIBUTING.md", "python")
    (tmp_path / "ridge.py").write_text(code, encoding="utf-8")
    checks = """
import ridge
from foreknow.core import checks
outcomes = checks.run(ridge.Ridge) + checks.run(ridge.SmallWeights)
bad = [outcome for outcome in outcomes if outcome.status == "failed"]
assert len(outcomes) > 20 and not bad, bad
"""
    path = os.pathsep.join([str(tmp_path), *sys.path])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", checks],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stderr


# Commands ----------------------------------------------------------------------------------------------------------


def command_lines() -> list[Any]:
    found = []
    for page in [*PAGES, *OTHERS]:
        for block in blocks(page, "bash"):
            found += [pytest.param(line, id=line) for line in block.splitlines() if line.startswith("foreknow ")]
    return found


@pytest.fixture(scope="module")
def verbs() -> dict[str, Any]:
    import typer.main

    from foreknow.cli.main import app

    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", command_lines())
def test_command_line_is_known(line: str, verbs: dict[str, Any]) -> None:
    _, verb, *words = shlex.split(line, comments=True)
    assert verb in verbs
    options = {option for parameter in verbs[verb].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    for word in words:
        if "/" in word:
            assert (ROOT / word).is_file(), word


def test_verbs_in_running_text_exist(verbs: dict[str, Any]) -> None:
    for page in [*PAGES, *OTHERS]:
        for verb in re.findall(r"`foreknow ([a-z]+)\b", page.read_text(encoding="utf-8")):
            assert verb in verbs, f"{name_of(page)}: foreknow {verb}"


def test_front_page_shows_every_verb(verbs: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^foreknow ([a-z]+)", text, flags=re.M)) == set(verbs)


# Tables and links ----------------------------------------------------------------------------------------------------


def test_readme_is_up_to_date(generate: SimpleNamespace) -> None:
    text = README.read_text(encoding="utf-8")
    assert generate.readme(text) == text, "run: make docs"


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        generated = target.startswith(("catalogue/", "api/"))
        assert generated or (page.parent / target).exists(), target
    for word in re.findall(r"`([\w./-]+\.(?:md|py|csv|cff|lock|yml))`", text):
        made = ("predictions.csv", "explanations.csv", "report/", "__init__")
        assert word.startswith(made) or (ROOT / word).exists(), word


def test_environment_variables_are_listed() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    used = set(re.findall(r"\bFOREKNOW_[A-Z_]+\b", source))
    text = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(FOREKNOW_[A-Z_]+)`", text)) == used


def test_errors_are_listed_with_their_bases() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*)\|", text, flags=re.M))
    ours = {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ForeknowError) and kind is not errors.ForeknowError
    }
    assert set(rows) == set(ours)
    for name, kind in ours.items():
        bases = [base.__name__ for base in kind.__bases__ if base is not errors.ForeknowError]
        assert re.findall(r"`(\w+)`", rows[name]) == bases, name


# Generated pages -----------------------------------------------------------------------------------------------------


CARD = Card(
    slug="planted",
    title="A <script> | of *stars*",
    authors=("Doe, Jane",),
    year=2024,
    venue="Nowhere",
    room="tasks",
    prior="Known | before.",
    control="off() removes it.",
    inputs="Rows.",
    outputs="Numbers.",
    cost="seconds",
    tier="study",
    bibtex="@misc{doe}",
    deviations=("Guessed the step.",),
    limits=("Not on Mondays.",),
)
EVIDENCE = {
    "slug": "planted",
    "verdict": "partly",
    "claims": [
        {"name": "Gap", "expected": "<= 0.1 nat", "measured": 0.0512345, "interval": [0.04, 0.06], "unit": "nat",
         "verdict": "held", "note": ""},
        {"name": "Speed", "expected": ">= 50", "measured": float("nan"), "interval": None, "unit": "",
         "verdict": "failed", "note": "The peer is cached."},
    ],
    "arms": [],
    "notes": ["One seed."],
    "seconds": 12.0,
    "environment": {"n_cores": 2, "processor": "P", "foreknow": "0", "python": "3", "torch": "2"},
    "command": "foreknow prove planted",
    "date": "2024-01-01",
}  # fmt: skip


@pytest.fixture
def planted(generate: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The generator with one made-up card in the catalogue, and evidence that came through a file."""
    stored = json.loads(json.dumps(EVIDENCE))
    names = generate.card_page.__globals__
    monkeypatch.setitem(names, "catalogue", lambda: {"planted": Entry(CARD)})
    monkeypatch.setitem(names, "find_evidence", lambda slug: stored if slug == "planted" else None)
    return generate


def test_card_page_states_limits_first_and_hides_nothing(planted: SimpleNamespace) -> None:
    page = planted.card_page(Entry(CARD))
    assert re.findall(r"^## (.*)$", page, flags=re.M)[0] == "Limits"
    for words in ("Not on Mondays.", "off() removes it.", "Guessed the step.", "@misc{doe}", "**partly**",
                  "| Gap | &lt;= 0.1 nat | 0.05123 nat | 0.04 to 0.06 | held |",
                  "| Speed | >= 50 | not a number | - | failed |", "Speed: The peer is cached.", "One seed.",
                  "foreknow prove planted"):  # fmt: skip
        assert words in page, words
    assert "<script>" not in page
    assert "*stars*" not in page.replace("\\*", "")


def test_tables_show_failures(planted: SimpleNamespace) -> None:
    assert "**`planted`: partly**" in planted.evidence_table()
    assert "`planted` failed here: Speed. The peer is cached." in planted.limits_list()
    row = planted.catalogue_table(r"\1.md").splitlines()[2]
    assert row.startswith("| [`planted`](planted.md) |")
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_tables_say_so_when_nothing_was_measured(planted: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(planted.card_page.__globals__, "find_evidence", lambda slug: None)
    assert "No system has been measured yet" in planted.evidence_table()
    assert "not measured yet" in planted.catalogue_table()
    assert "not measured yet" in planted.card_page(Entry(CARD))


def test_benchmark_table_shows_who_is_ahead_and_by_how_much(
    generate: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(generate.card_page.__globals__, "DOCS", tmp_path / "docs")
    assert "Not measured yet" in generate.benchmark_table()
    (tmp_path / "evidence").mkdir()
    part = {
        "models": {"peer": {"auc": 0.8, "log_loss": 0.5, "seconds": 2.0}, "foreknow": {"auc": 0.9, "seconds": 1.0}},
        "differences": {"foreknow": {"peer": {"auc": {"mean": 0.1, "low": -0.02, "high": 0.2}}}},
        "tables": ["a", "b"],
        "splits": 5,
    }
    found = {"classification, test list": part, "command": "c", "date": "d", "environment": {"processor": "p"}}
    (tmp_path / "evidence" / "tabular-benchmark.json").write_text(json.dumps(found))
    lines = generate.benchmark_table().splitlines()
    assert lines[0] == "**Classification: 2 real tables, 5 splits in halves, at defaults**"
    assert lines[4].startswith("| foreknow | 0.900 |  | 1.00 |")
    assert lines[5] == "| peer | 0.800 | 0.500 | 2.00 | +0.100 (-0.020 to +0.200) |"


def test_readme_without_its_markers_is_refused(planted: SimpleNamespace) -> None:
    with pytest.raises(SystemExit, match="evidence:begin"):
        planted.readme("# No markers")


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(generate: SimpleNamespace, tmp_path: Path) -> None:
    keep = shutil.ignore_patterns("catalogue", "api", "__pycache__")
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=keep)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name, text in generate.pages().items():
        (tmp_path / "docs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text(text, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"],
        cwd=tmp_path,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//", html), page.name
