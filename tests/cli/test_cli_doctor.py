"""`doctor`: sound here; each kind of damage is named and gives exit code 1."""

import json
from importlib import metadata

import pytest

import foreknow.trained
from foreknow.cli import doctor
from foreknow.common import deps
from foreknow.core import registry


@pytest.fixture
def no_networks(tmp_path, monkeypatch):
    monkeypatch.setattr(foreknow.trained, "_FOLDER", tmp_path)
    return tmp_path


def test_nothing_is_broken(cli, toy, no_networks):
    code, out, err = cli("doctor")
    assert (code, err) == (0, "")
    for text in ("torch", "cpu", "toy-lines", "memory_free_gb", "Nothing is broken."):
        assert text in out


def test_json(cli, toy, no_networks):
    code, out, _ = cli("doctor", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["problems"] == []
    assert record["versions"]["torch"] == metadata.version("torch")
    assert record["machine"]["n_cores"] >= 1
    assert record["devices"][0]["device"] == "cpu"
    assert {row["extra"] for row in record["extras"]} == set(deps.EXTRAS)


def test_missing_extras_are_no_fault_and_say_how_to_install(cli, toy, no_networks, monkeypatch):
    monkeypatch.setattr(deps, "available", lambda module: module != "catboost")  # the others need not be here
    code, out, _ = cli("doctor", "--json")
    record = json.loads(out)
    assert code == 0
    bench = next(row for row in record["extras"] if row["extra"] == "bench")
    assert bench == {
        "extra": "bench", "installed": False, "missing": ["catboost"], "install": "pip install 'foreknow[bench]'"
    }  # fmt: skip
    assert record["systems"] == [
        {"system": "toy-lines", "runs": False, "needs": "pip install 'foreknow[bench]'", "small_proof": "seconds"}
    ]


def test_damage_is_named(cli, toy, no_networks, monkeypatch):
    (no_networks / "toy-lines-1.safetensors").write_bytes(b"not one")
    monkeypatch.setattr(registry, "_FAILURES", {"foreknow.tasks.broken": "SyntaxError: no"})
    monkeypatch.setattr(doctor, "CORE", ("torch", "no-such-package"))
    code, out, err = cli("doctor", "--json")
    assert code == 1
    problems = json.loads(out)["problems"]
    assert len(problems) == 3
    for text in ("no-such-package", "toy-lines-1", "foreknow.tasks.broken"):
        assert any(text in problem for problem in problems)
        assert text in err


def test_one_broken_part_does_not_hide_the_others(cli, toy, no_networks, monkeypatch):
    def broken():
        raise ImportError("libcuda is missing")

    monkeypatch.setattr(doctor, "_devices", broken)
    code, out, err = cli("doctor")
    assert code == 1
    assert err == "problem: devices cannot be read: ImportError: libcuda is missing\n"
    assert "toy-lines" in out and "Nothing is broken" not in out
