"""`pretrain`: what the system is asked, where things are, and what Ctrl-C leaves."""

import json

import pytest

from foreknow.core import registry


def test_passes_the_settings_on_and_says_where_the_files_are(cli, toy, tmp_path):
    code, out, err = cli(
        "pretrain", "toy-lines", "--steps", 7, "--weights", "big", "--preset", "quick", "--device", "cpu",
        "--devices", 2, "--resume", "--seed", 5, "--out", tmp_path / "a" / "b",
    )  # fmt: skip
    assert (code, err) == (0, "")
    (asked,) = toy.calls
    assert callable(asked.pop("progress"))
    assert asked == {
        "name": "big", "minutes": None, "n_steps": 7, "preset": "quick", "device": "cpu", "devices": 2,
        "resume": True, "seed": 5, "out": tmp_path / "a" / "b",
    }  # fmt: skip
    assert [line.split()[0] for line in out.splitlines()] == ["weights", "state", "log", "steps", "loss"]


def test_json_and_default_folder(cli, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = json.loads(cli("pretrain", "toy-lines", "--minutes", "0.5", "--json").out)
    assert (record["steps"], record["weights"]) == (7, "pretrained/toy-lines/w")


def test_interrupt_keeps_the_state_and_says_how_to_go_on(cli, toy, tmp_path):
    toy.error.append(KeyboardInterrupt("training stopped after step 3"))
    code, out, err = cli("pretrain", "toy-lines", "--minutes", 2, "--seed", 4, "--out", tmp_path)
    assert (code, out) == (130, "")
    assert err == (
        f"interrupted: training stopped after step 3; state.bin kept in {tmp_path}; go on with: foreknow pretrain "
        f"toy-lines --minutes 2.0 --device auto --devices 1 --seed 4 --out {tmp_path} --resume\n"
    )
    command = err.split("foreknow ")[1].split()
    toy.error.clear()
    assert cli(*command).code == 0
    assert toy.calls[1].pop("resume") and not toy.calls[0].pop("resume")
    for call in toy.calls:
        call.pop("progress")
    assert toy.calls[0] == toy.calls[1]


def test_interrupt_before_anything_was_saved_promises_nothing(cli, toy, tmp_path, monkeypatch):
    def stop(name=None, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry.lookup("toy-lines").system, "pretrain_shipped", stop)
    err = cli("pretrain", "toy-lines", "--minutes", 2, "--out", tmp_path).err
    assert err.startswith("interrupted: nothing had been saved yet; go on with: ")


@pytest.mark.parametrize(
    "words",
    [
        ("--minutes", "0"),
        ("--minutes", "nan"),
        ("--minutes", "1", "--steps", "1"),
        ("--steps", "0"),
        ("--preset", "big"),
    ],
)
def test_bad_settings_are_refused_before_any_work(cli, toy, tmp_path, words):
    code, out, err = cli("pretrain", "toy-lines", "--out", tmp_path / "out", *words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert toy.calls == []
    assert not (tmp_path / "out").exists()


def test_a_system_without_a_network(cli, toy, tmp_path, monkeypatch):
    monkeypatch.delattr(registry.lookup("toy-lines").system, "pretrain_shipped")
    code, _, err = cli("pretrain", "toy-lines", "--steps", 1, "--out", tmp_path)
    assert (code, err) == (2, "error: 'toy-lines' ships no network, so there is nothing to pretrain.\n")
