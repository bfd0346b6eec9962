"""Learning curves from files: each kind that trainings write, and every choice that is left open."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foreknow.common.errors import ConfigError, ForeknowError, InputError
from foreknow.data.curves import files, looks_minimized, read_curves


def wrote(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(curves):
    return {c.name: (c.epochs.tolist(), c.values.tolist()) for c in curves}


LONG = "run,epoch,val_acc\na,1,0.5\nb,1,0.4\na,2,0.6\nb,3,0.45\n"
TWO = {"a": ([1, 2], [0.5, 0.6]), "b": ([1, 3], [0.4, 0.45])}


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        "\ufeff" + LONG,
        "# made by hand\n" + LONG.replace("a,2,0.6\n", "# in between\na,2,0.6\n"),
        LONG.replace(",", ";").replace("0.", "0,"),
        LONG.replace("\n", "\r\n"),
        "step,epoch,b,a\n0,1,0.4,0.5\n1,2,,0.6\n2,3,0.45,NaN\n",
        "name,epoch_1,epoch_2,epoch_3\na,0.5,0.6,\nb,0.4,,0.45\n",
        "Step,a - acc,a - acc__MIN,a - acc__MAX,b - acc,b - acc__MIN,b - acc__MAX\n"
        "1,0.5,0,1,0.4,0,1\n2,0.6,0,1,,,\n3,,,,0.45,0,1\n",
    ],
    ids=["long", "bom", "comments", "decimal commas", "crlf", "a column a run", "a row a run", "wandb"],
)
def test_tables_of_every_layout(tmp_path, text):
    curves = read_curves(wrote(tmp_path, "t.csv", text))
    found = table(curves)
    assert {name: found[name] for name in sorted(found)} == TWO
    assert curves.notes and all("t.csv" in note for note in curves.notes)


def test_logs_of_lightning_and_keras_have_one_run(tmp_path):
    text = "epoch,step,train_loss_step,val_acc\n0,9,0.9,\n0,19,0.8,\n0,19,,0.5\n1,39,0.7,\n1,39,,0.6\n"
    path = wrote(tmp_path, "lightning_logs/version_0/metrics.csv", text)
    curves = read_curves(path)
    assert table(curves) == {"version_0": ([1, 2], [0.5, 0.6])}
    assert any("counted from 0" in note for note in curves.notes)
    assert any("left out: train_loss_step" in note for note in curves.notes)
    losses = read_curves(path, metric="train_loss_step")
    assert table(losses)["version_0"] == ([1, 2], [0.8, 0.7])
    assert any("1 values at an epoch that has a later one" in note for note in losses.notes)
    keras = wrote(tmp_path, "k.csv", "epoch,accuracy,loss,val_accuracy,val_loss\n0,.1,2,.2,2.1\n1,.3,1.5,.4,1.6\n")
    with pytest.raises(ConfigError, match=r"several metrics: 'val_accuracy', 'val_loss'\.\n.*--metric"):
        read_curves(keras)
    (curve,) = read_curves(keras, metric="val_loss")
    assert (curve.name, curve.metric, curve.values.tolist()) == ("k", "val_loss", [2.1, 1.6])


def test_json_lines_and_trainer_state(tmp_path):
    lines = [{"run": "a", "epoch": 1, "eval": {"acc": 0.5}}, {"run": "a", "epoch": 2, "eval": {"acc": "NaN"}},
             {"run": "a", "epoch": 3, "eval": {"acc": 0.7}}, {"run": "b", "epoch": 1, "eval": {"acc": .1}}]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)) + "\n"
    expected = {"a": ([1, 3], [0.5, 0.7]), "b": ([1], [0.1])}
    assert table(read_curves(wrote(tmp_path, "e.jsonl", text))) == expected
    assert table(read_curves(wrote(tmp_path, "e.json", json.dumps(lines)))) == expected
    half = read_curves(wrote(tmp_path, "h.jsonl", text + '{"run": "b", "ep'))
    assert table(half) == expected and any("not complete" in note for note in half.notes)
    with pytest.raises(InputError, match="line 2 is no JSON"):
        read_curves(wrote(tmp_path, "bad.jsonl", '{"epoch": 1, "acc": 0.5}\n{"ep\n{"epoch": 2, "acc": 0.6}\n'))
    history = [{"epoch": 0.5, "loss": 3.0, "step": 1}, {"epoch": 1.0, "eval_loss": 2.0, "step": 2},
               {"epoch": 1.5, "loss": 2.5, "step": 3}, {"epoch": 2.0, "eval_loss": 1.0, "step": 4}]  # fmt: skip
    state = wrote(tmp_path, "out/trainer_state.json", json.dumps({"log_history": history, "epoch": 2}))
    assert table(read_curves(state)) == {"out": ([2, 4], [2.0, 1.0])}  # steps, for there are parts of epochs
    assert table(read_curves(wrote(tmp_path, "f.json", '{"a": [0.5, 0.6], "b": [0.4]}'))) == {
        "a": ([1, 2], [0.5, 0.6]),
        "b": ([1], [0.4]),
    }


def test_event_files_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    for run, values in {"a": [0.5, 0.6], "b": [0.4, 0.3]}.items():
        writer = EventFileWriter(str(tmp_path / run))
        for step, value in enumerate(values, start=1):
            for tag, number in (("val/acc", value), ("train/loss", 1 - value)):
                writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=number)])))
        writer.close()
    curves = read_curves(tmp_path)
    assert [(c.name, c.metric, c.epochs.tolist()) for c in curves] == [
        ("a", "val/acc", [1, 2]),
        ("b", "val/acc", [1, 2]),
    ]
    np.testing.assert_allclose(curves[1].values, [0.4, 0.3], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"no metric 'val/ac'.*\n.*val/acc"):
        read_curves(tmp_path / "a", metric="val/ac")
    with pytest.raises(InputError, match="without event files"):
        read_curves(wrote(tmp_path, "empty/x.txt", "").parent)


def test_what_is_left_out_is_counted(tmp_path):
    text = "run,epoch,acc\na,1,0.1\na,1,0.2\na,,0.3\n,2,0.4\na,2,\nb,1,\n"
    curves = read_curves(wrote(tmp_path, "t.csv", text))
    assert table(curves) == {"a": ([1], [0.2])}
    said = " ".join(curves.notes)
    for words in (
        "1 values without an epoch",
        "1 values without a run",
        "1 values at an epoch",
        "1 runs without a value: b",
    ):
        assert words.replace(": b", "") in said, words


def test_runs_of_several_files_are_told_apart(tmp_path):
    one, two = wrote(tmp_path, "1/m.csv", LONG), wrote(tmp_path, "2/m.csv", LONG.replace("b,", "c,"))
    assert [c.name for c in read_curves([one, two])] == [f"{one}:a", "b", f"{two}:a", "c"]
    with pytest.raises(ConfigError, match="different metrics"):
        read_curves([one, wrote(tmp_path, "o.csv", "epoch,val_f1\n1,0.5\n")])


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("run,trial,epoch,acc\na,b,1,0.5\n", {}, r"'run', 'trial' may all name the runs.\n.*--run"),
        ("epoch,top_acc,mlp\n1,0.5,0.6\n", {}, r"whether a column is a run\.\n.*--metric"),
        ("epoch,acc,f1\n1,0.5,0.6\n", {}, "several metrics"),
        ("0.5,0.6,0.7\n0.6,0.7,0.8\n", {}, "first line holds numbers"),
        ("epoch,note\n1,good\n", {}, "no column of numbers"),
        ("epoch,acc\n1,0.5\n", {"metric": "ac"}, "no metric 'ac'"),
        ("epoch,acc\n1,0.5\n", {"epoch": "time"}, "no column 'time'"),
        ("epoch,acc\n1,0.5\n", {"run": "name"}, "no column 'name'"),
        ("epoch,acc\n1,0.5\n", {"layout": "long"}, "no column names the runs"),
        ("epoch,acc\n1,0.5\n", {"layout": "odd"}, "layout must be"),
        ("epoch,acc\n-1,0.5\n", {}, "negative epoch"),
        ("epoch,acc\n1,\n", {"metric": "acc"}, "holds no numbers|no column of numbers"),
        ("# only\nepoch,acc\n1,0.5,3\n", {}, r"t\.csv.*line 2 has 3 field"),
    ],
)
def test_what_is_open_or_wrong_is_an_error(tmp_path, text, settings, said):
    with pytest.raises((ConfigError, InputError), match=said):
        read_curves(wrote(tmp_path, "t.csv", text), **settings)


def test_files_that_are_none(tmp_path):
    for path in (
        tmp_path / "no.csv",
        tmp_path / "no.jsonl",
        wrote(tmp_path, "a.xyz", "x"),
        wrote(tmp_path, "e.csv", ""),
    ):
        with pytest.raises(InputError):
            read_curves(path)
    with pytest.raises(InputError, match="no file was given"):
        read_curves([])


def test_a_line_that_is_still_written_waits(tmp_path):
    path = wrote(tmp_path, "t.csv", LONG + "a,3,0.")
    assert table(read_curves(path, growing=True)) == TWO
    assert table(read_curves(path))["a"][1][-1] == 0.0


@pytest.mark.parametrize("rest", ["", "run,ep", LONG + "a,3,0."], ids=["emptied", "begun anew", "half a line more"])
def test_a_growing_file_is_looked_at_once(tmp_path, monkeypatch, rest):
    path = wrote(tmp_path, "t.csv", LONG)
    read = files.read_table

    def written_to_meanwhile(copy):
        path.write_text(rest)
        return read(copy)

    monkeypatch.setattr(files, "read_table", written_to_meanwhile)
    assert table(read_curves(path, growing=True)) == TWO


@pytest.mark.parametrize("name", ["val_loss", "eval/rmse", "test_error", "Perplexity", "logloss", "valLoss", "MAE"])
def test_losses_are_known_by_name(name):
    assert looks_minimized(name)


@pytest.mark.parametrize("name", ["val_acc", "auc", "map", "f1", "terror_recall", "value"])
def test_other_metrics_are_not_losses(name):
    assert not looks_minimized(name)


def test_an_exported_column_of_text_is_left_out(tmp_path):
    curves = read_curves(wrote(tmp_path, "e.csv", "Step,a - acc,b - acc\n1,0.5,run\n2,0.6,run\n"))
    assert [curve.name for curve in curves] == ["a"]
    assert "1 other columns" in curves.notes[0]
    with pytest.raises(InputError, match="no column of numbers"):
        read_curves(wrote(tmp_path, "t.csv", "a - acc\nrun\n"))


WORDS = [
    "run", "epoch", "acc", "loss", "1", "2", "0.5", "nan", "a - acc", "", "#", ",", ",", "\n", "\n", "\r", '"', "{",
    '{"epoch": 1, "acc": 0.5}', '{"log_history": [', "}", "[", "]", ":", "\ufeff", "1e999", "-3", "é", ";",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=25).map("".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS, suffix=st.sampled_from([".csv", ".json", ".jsonl"]))
def test_any_text_gives_curves_or_an_error_of_ours(tmp_path, text, suffix):
    path = wrote(tmp_path, f"any{suffix}", text)
    try:
        curves = read_curves(path)
    except ForeknowError:
        return
    assert all(len(curve) and (np.diff(curve.epochs) > 0).all() for curve in curves)
