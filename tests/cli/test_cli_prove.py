"""`prove`: the measured table, and evidence that only a complete run leaves behind."""

import json

import pytest

from foreknow.cli.prove import arm_tables
from foreknow.common.errors import ConvergenceError


def test_prints_and_writes(cli, toy, tmp_path):
    folder = tmp_path / "new" / "evidence"
    code, out, err = cli("prove", "toy-lines", "--preset", "quick", "--seeds", 2, "--out", folder)
    assert code == 0
    assert toy.calls == [{"preset": "quick", "seeds": 2}]
    assert "0 nat [-0.01, 0.01]" in out and "<= 0.1 nat" in out
    assert "Failed: circles are straight. They are round.\n" in out
    assert "Verdict: partly, in 1:05" in out
    assert out.endswith(f"Written to {folder / 'toy-lines.json'}\n")
    assert err == ""
    stored = json.loads((folder / "toy-lines.json").read_text())
    assert stored["verdict"] == "partly"
    assert len(stored["arms"]) == 4


def test_json_is_strict_and_names_the_file(cli, toy, tmp_path):
    def no_constant(text):
        raise AssertionError(text)

    out = cli("prove", "toy-lines", "--json", "--out", tmp_path).out
    record = json.loads(out, parse_constant=no_constant)
    assert record["claims"][1]["measured"] is None
    assert record["written_to"] == str(tmp_path / "toy-lines.json")


def test_a_rehearsal_does_not_replace_the_evidence(cli, toy, tmp_path):
    cli("prove", "toy-lines", "--out", tmp_path)
    before = (tmp_path / "toy-lines.json").read_text()
    code, out, err = cli("prove", "toy-lines", "--preset", "quick", "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "Not written" in out
    code, out, err = cli("prove", "toy-lines", "--preset", "quick", "--out", tmp_path, "--json")
    assert json.loads(out)["written_to"] is None
    assert "Not written" in err
    assert (tmp_path / "toy-lines.json").read_text() == before
    assert "Written to" in cli("prove", "toy-lines", "--seeds", 1, "--out", tmp_path).out


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "interrupted: the proof is not complete, so nothing was written.\n"),
        (ConvergenceError("no minimum.", hint="Lower lr."), 1, "error: no minimum.\nLower lr.\n"),
    ],
)
def test_an_incomplete_run_writes_nothing(cli, toy, tmp_path, error, code, says):
    toy.error.append(error)
    assert cli("prove", "toy-lines", "--out", tmp_path) == (code, "", says)
    assert not list(tmp_path.iterdir())


def test_bad_settings_are_refused_before_any_work(cli, toy, tmp_path):
    (tmp_path / "file").write_text("")
    for words in (("--preset", "smal"), ("--seeds", "0"), ("--out", tmp_path / "file"), ("--sedes", "3")):
        code, out, err = cli("prove", "toy-lines", *words)
        assert (code, out) == (2, ""), words
        assert "Traceback" not in err
    assert toy.calls == []


def test_arms_of_one_shape_share_a_table_and_are_averaged_over_seeds():
    arms = [{"arm": "on", "n": 2, "seed": s, "nll": float(s)} for s in (0, 1)]
    arms += [{"arm": "off", "n": 2, "seed": 0, "nll": 5.0}, {"arm": "on", "histogram": [0.1] * 10, "gap": [0.1, 0.2]}]
    assert arm_tables(arms) == [
        (["arm", "n", "nll"], [["on", 2, 0.5], ["off", 2, 5.0]]),
        (["arm", "gap"], [["on", [0.1, 0.2]]]),
    ]


def test_arms_without_a_seed_stay_apart():
    assert arm_tables([{"arm": "on", "nll": 1.0}, {"arm": "on", "nll": 2.0}])[0][1] == [["on", 1.0], ["on", 2.0]]
