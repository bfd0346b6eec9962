"""Errors to messages and exit codes, warnings to notes, the bar, strict JSON."""

import io
import json
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import typer

from foreknow.cli import common
from foreknow.cli.common import Interrupted, ProgressBar, emit, figure, guarded, output_folder, short_name
from foreknow.common import errors
from foreknow.common.progress import Progress


def outcome(capsys, verb):
    """Exit code, stdout and stderr of a guarded verb."""
    code = 0
    try:
        guarded(verb)()
    except typer.Exit as stop:
        code = stop.exit_code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def raiser(error):
    def verb():
        raise error

    return verb


@pytest.mark.parametrize("kind", common.USERS_TO_MEND)
def test_errors_the_user_can_mend_give_2(capsys, kind):
    message = (2, "", "error: X [bold]holds NaN.\nRemove it.\n")
    assert outcome(capsys, raiser(kind("X [bold]holds NaN.", hint="Remove it."))) == message


def test_a_hint_is_optional_and_our_other_errors_give_1(capsys):
    assert outcome(capsys, raiser(errors.ConvergenceError("no minimum."))) == (1, "", "error: no minimum.\n")


def test_interrupts_give_130_and_say_what_was_kept(capsys):
    assert outcome(capsys, raiser(KeyboardInterrupt())) == (130, "", "interrupted: no file was left half-written.\n")
    assert outcome(capsys, raiser(Interrupted("a.csv is whole."))) == (130, "", "interrupted: a.csv is whole.\n")


def test_the_unexpected_gives_1_one_line_and_a_traceback_in_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv(common.DEBUG_VARIABLE, raising=False)
    code, out, err = outcome(capsys, raiser(KeyError("a\nb")))
    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    (path,) = tmp_path.iterdir()
    assert str(path) in err
    assert "Traceback (most recent call last)" in path.read_text() and "KeyError" in path.read_text()


def test_the_debug_variable_shows_the_traceback_instead(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(common.DEBUG_VARIABLE, "1")
    code, _, err = outcome(capsys, raiser(KeyError("a")))
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert not list(tmp_path.iterdir())


def test_our_warnings_are_notes_once_each(capsys):
    def verb():
        for _ in range(3):
            warnings.warn("12 rows\nwere dropped", errors.ForeknowWarning, stacklevel=1)

    assert outcome(capsys, verb) == (0, "", "note: 12 rows were dropped\n")


def test_other_peoples_warnings_are_left_alone(capsys):
    def verb():
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    code, _, err = outcome(capsys, verb)  # the suite turns warnings into errors, so it is one here
    assert code == 1
    assert "internal error: DeprecationWarning: old" in err


def test_exit_codes_of_a_verb_pass(capsys):
    assert outcome(capsys, raiser(typer.Exit(7)))[0] == 7


class Terminal(io.StringIO):
    def isatty(self):
        return True


def bar_output(monkeypatch, stream, seconds):
    """What a bar draws when told of its work after 0.1 s and after `seconds`."""
    clock = iter([0.0, 0.1, seconds, *[seconds] * 100])
    monkeypatch.setattr(common.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr("sys.stderr", stream)
    with ProgressBar("fitting [red]") as progress:
        progress(Progress(1, 10, 90.0, "loss 1"))
        progress(Progress(5, 10, 80.0, "loss 0.5"))
    return stream.getvalue()


def test_a_bar_with_the_time_left_on_a_terminal_after_two_seconds(monkeypatch):
    drawn = bar_output(monkeypatch, Terminal(), 3.0)
    assert "fitting [red]" in drawn and "50%" in drawn and "1:20 left" in drawn and "loss 0.5" in drawn


def test_no_bar_for_quick_work_nor_off_a_terminal(monkeypatch):
    assert bar_output(monkeypatch, Terminal(), 1.9) == ""
    assert bar_output(monkeypatch, io.StringIO(), 30.0) == ""


def test_json_is_one_strict_object(capsys):
    record = {
        "nan": float("nan"), "inf": -np.inf, "array": np.array([1.0, np.nan]), "scalar": np.float32(0.5), "flag": True,
        "path": Path("a/b"), "tuple": (1, None), "nested": {1: {"x": np.int64(3)}}, "text": "ü",
    }  # fmt: skip
    assert emit(record, True)
    out = capsys.readouterr().out
    assert not re.search("NaN|Infinity", out)
    assert json.loads(out) == {
        "nan": None, "inf": None, "array": [1.0, None], "scalar": 0.5, "flag": True,
        "path": "a/b", "tuple": [1, None], "nested": {"1": {"x": 3}}, "text": "ü",
    }  # fmt: skip
    assert not emit(record, False)
    assert capsys.readouterr().out == ""


def test_figures_and_names():
    values = [None, True, 3, 0.123456, "x", [0.25, None], 1e-12]
    assert [figure(value) for value in values] == ["-", "yes", "3", "0.1235", "x", "[0.25, -]", "1e-12"]
    assert [common.duration(seconds) for seconds in (0.2, 59.4, 200, 7400)] == ["0 s", "59 s", "3:20", "2:03:20"]
    names = ["GPPrior", "TabularBNNPrior", "StrokePrior", "Prior"]
    assert [short_name(type(name, (), {})) for name in names] == ["gp", "tabular-bnn", "stroke", "prior"]


def test_output_folder_is_made_or_refused(tmp_path):
    assert output_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.InputError, match="cannot use the folder"):
            output_folder(path)


def test_usage_errors_give_2(cli):
    for words in (("nothing",), ("show",), ("list", "--no-such-option"), ("sample", "x", "--n", "many")):
        code, out, err = cli(*words)
        assert (code, out) == (2, ""), words
        assert "Traceback" not in err


def test_version_and_help(cli):
    from foreknow import __version__

    assert cli("--version") == (0, f"foreknow {__version__}\n", "")
    code, out, err = cli("--help")
    assert (code, err) == (0, "")
    verbs = ("list", "show", "cite", "sample", "prove", "pretrain", "doctor")
    assert all(verb in out for verb in verbs)
    for verb in verbs:
        assert cli(verb, "--help").code == 0
