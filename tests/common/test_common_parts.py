"""Errors, devices, extras, lazy names, progress and timing."""

import importlib.metadata
import time
from types import SimpleNamespace

import pytest
import torch

from foreknow.common import deps, errors, progress
from foreknow.common.device import has_fast_bf16, resolve_device
from foreknow.common.lazy import lazy_names
from foreknow.common.timing import Stopwatch, peak_memory_mb


def test_errors_are_ours_and_pythons():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ConfigError, ValueError) and issubclass(errors.ConfigError, TypeError)
    assert issubclass(errors.MissingExtraError, ImportError)
    for name in ("ResourceError", "ConvergenceError"):
        assert issubclass(getattr(errors, name), RuntimeError)
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert all(issubclass(kind, errors.ForeknowError | errors.ForeknowWarning) for kind in ours)


def test_an_error_shows_its_hint_on_a_line_of_its_own():
    error = errors.InputError("y is empty.", hint="Give a target.")
    assert (str(error), error.message, error.hint) == ("y is empty.\nGive a target.", "y is empty.", "Give a target.")
    assert str(errors.InputError("y is empty.")) == "y is empty."
    lost = errors.ConvergenceError("not there", statistics={"n_steps": 3})
    assert lost.statistics == {"n_steps": 3} and errors.ConvergenceError("x").statistics == {}


def test_devices():
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert isinstance(has_fast_bf16(torch.device("cpu")), bool)


@pytest.mark.parametrize("bad", ["gpu", "meta", "mps", None, object(), 1.5, ""])
def test_unknown_devices_are_refused(bad):
    with pytest.raises(errors.ConfigError, match="device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got"):
        resolve_device(bad)


def test_absent_devices_are_refused():
    with pytest.raises(errors.ConfigError, match=r"'cuda:99' was asked for, but \d+ CUDA device"):
        resolve_device("cuda:99")


def test_require():
    assert deps.require("json", "Reading") is importlib.import_module("json")
    assert deps.available("json.decoder") and not deps.available("no_such_package_here")
    with pytest.raises(errors.MissingExtraError, match="Reading x needs the package 'no_such_package_here'") as caught:
        deps.require("no_such_package_here.part", "Reading x")
    assert caught.value.hint == "Run: pip install no_such_package_here"


def test_require_names_the_extra(monkeypatch):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(deps.importlib, "import_module", absent)
    monkeypatch.setattr(deps, "available", lambda module: False)
    with pytest.raises(errors.MissingExtraError) as caught:
        deps.require("pyarrow.parquet", "Reading parquet files")
    assert caught.value.hint == "Run: pip install 'foreknow[frames]'"


def test_a_broken_package_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "broken_package_here.py").write_text("raise ImportError('its own reason')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.BrokenPackageError, match="installed but fails: its own reason"):
        deps.require("broken_package_here", "Reading")


def test_lazy_names():
    get, listed = lazy_names("package", {"dumps": "json", "absent": "json"})
    assert listed() == ["absent", "dumps"]
    assert get("dumps")([1]) == "[1]"
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'other'"):
        get("other")
    with pytest.raises(AttributeError, match="absent"):
        get("absent")


def test_progress_estimates_the_time_left(monkeypatch):
    clock = iter([100.0, 100.0, 110.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(clock, 0.0)))
    seen = []
    reporter = progress.Reporter(seen.append, total=4)
    reporter.advance(0)
    reporter.advance(1, "loss 0.5")
    assert seen == [progress.Progress(0, 4), progress.Progress(1, 4, 30.0, "loss 0.5")]
    progress.Reporter(None, total=4).advance(1)


def test_stopwatch_stops():
    with Stopwatch() as watch:
        running = watch.seconds
        time.sleep(0.002)
    stopped = watch.seconds
    assert running < 0.002 <= stopped
    assert watch.seconds == stopped
    assert peak_memory_mb() > 10
