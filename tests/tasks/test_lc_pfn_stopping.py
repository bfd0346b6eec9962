"""The early stopper: its rule, its memory, and what it refuses."""

from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from curve_stand_in import PowerForecaster

from foreknow import CurveExtrapolator
from foreknow.common.errors import ConfigError, InputError
from foreknow.tasks.lc_pfn.stopping import EarlyStopper

EPOCHS = np.arange(1, 31)
GOOD, BAD = 0.9 - 0.4 * EPOCHS**-1.0, 0.5 - 0.3 * EPOCHS**-1.0


def fed(stopper, run, values):
    return [stopper.update(run, epoch, value) for epoch, value in enumerate(values, start=1)]


def test_a_hopeless_run_is_stopped_by_the_published_rule_and_a_good_one_is_not():
    forecaster = PowerForecaster()
    stopper = EarlyStopper(forecaster, 30, delta=0.95)
    assert not any(decision.stop for decision in fed(stopper, "good", GOOD))  # nothing to beat
    assert (stopper.runs, stopper.best, forecaster.calls) == ({"good": "finished"}, ("good", GOOD[-1]), 0)
    for epoch, value in enumerate(BAD, start=1):
        decision = stopper.update("bad", epoch, value)
        if epoch < stopper.min_epochs:
            assert (decision.action, decision.probability) == ("go", None)
            continue
        chance = PowerForecaster().extrapolate([stopper.curve("bad")], 30)[0].prob_beats(GOOD[-1]).max()
        assert decision.probability == pytest.approx(chance)
        assert decision.stop == (chance <= 0.05)
        if decision.stop:
            break
    assert decision.stop and decision.best_run == "good"
    assert stopper.update("bad", epoch + 1, 0.99).stop, "what is stopped stays stopped"
    assert not any(decision.stop for decision in fed(stopper, "better", GOOD + 0.05))


def test_one_pass_for_many_runs_gives_what_single_updates_give():
    forecaster = PowerForecaster()
    many, single = EarlyStopper(forecaster, 30), EarlyStopper(PowerForecaster(), 30)
    for stopper in (many, single):
        fed(stopper, "good", GOOD[:20])
    curves = {"a": GOOD - 0.2, "b": BAD, "c": BAD - 0.1}
    for epoch in range(1, 7):
        calls = forecaster.calls
        together = many.update_many([(run, epoch, values[epoch - 1]) for run, values in curves.items()])
        assert forecaster.calls - calls <= 1
        alone = [single.update(run, epoch, values[epoch - 1]) for run, values in curves.items()]
        assert [d.action for d in together] == [d.action for d in alone]
        for one, other in zip(together, alone, strict=True):
            assert one.probability == pytest.approx(other.probability, abs=1e-6) if one.probability else True
    assert [decision.run for decision in many.decide()] == [n for n, s in many.runs.items() if s == "running"]


def test_the_run_that_is_best_goes_on_and_so_does_a_lonely_one():
    stopper = EarlyStopper(PowerForecaster(sd=1e-3), 30, delta=0.0, min_epochs=1)
    assert not any(decision.stop for decision in fed(stopper, "a", np.full(10, 0.7)))
    assert stopper.update("b", 1, 0.1).stop
    assert not stopper.update("a", 11, 0.6).stop
    assert "best" in stopper.update("a", 12, 0.6).reason


def test_smaller_is_better_where_the_extrapolator_says_so():
    stopper = EarlyStopper(PowerForecaster(minimize=True), 30)
    fed(stopper, "good", 1 - GOOD)
    assert stopper.best == ("good", pytest.approx(1 - GOOD[-1]))
    assert fed(stopper, "bad", 1 - BAD[:12])[-1].stop


def test_patience_counts_updates_in_a_row():
    swift, slow = (EarlyStopper(PowerForecaster(), 30, patience=p) for p in (1, 3))
    stops = []
    for stopper in (swift, slow):
        fed(stopper, "good", GOOD)
        stops.append(next(d.epoch for d in fed(stopper, "bad", BAD) if d.stop))
    assert stops[1] == stops[0] + 2


def test_values_that_are_not_finite_are_gaps_and_do_not_win():
    stopper = EarlyStopper(PowerForecaster(), 30)
    fed(stopper, "a", [0.3, float("nan"), float("inf"), 0.5])
    assert stopper.best == ("a", 0.5)
    np.testing.assert_array_equal(stopper.curve("a").epochs, [1, 4])
    assert not stopper.update("b", 1, float("nan")).stop


def test_a_run_taken_up_again_forgets_what_came_later():
    stopper = EarlyStopper(PowerForecaster(), 30)
    fed(stopper, "a", [0.1, 0.2, 0.9])
    stopper.update("a", 2, 0.25)
    np.testing.assert_array_equal(stopper.curve("a").values, [0.1, 0.25])
    assert stopper.best == ("a", 0.25)


def test_state_survives_json_and_decides_alike():
    one, other = EarlyStopper(PowerForecaster(), 30, patience=2), EarlyStopper(PowerForecaster(), 30, patience=2)
    fed(one, "good", GOOD[:25])
    fed(one, "bad", [*BAD[:4], float("nan")])
    other.load_state_dict(json.loads(json.dumps(one.state_dict(), allow_nan=False)))
    for stopper in (one, copy.deepcopy(one), other):
        stopper.finish("good")
    assert one.state_dict() == other.state_dict()
    assert one.update("bad", 6, BAD[5]) == other.update("bad", 6, BAD[5])
    other.record("own", 1, 0.2)
    other.load_state_dict(one.state_dict(), keep_others=True)
    assert list(other.runs) == ["good", "bad", "own"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 9}, "no state"),
        ({"horizon": 31}, "horizon=31"),
        ({"minimize": True}, "minimize=True"),
        ({"runs": {"a": {"epochs": [1]}}}, "cannot be read"),
        ({"runs": {"a": {"epochs": [2, 1], "values": [0.1, 0.2], "status": "running", "strikes": 0}}}, "increase"),
        ({"runs": {"a": {"epochs": [1], "values": [0.1], "status": "odd", "strikes": 0}}}, "status 'odd'"),
        ({"runs": {"a": {"epochs": [], "values": [], "status": "running", "strikes": -1}}}, "strikes"),
    ],
)
def test_a_wrong_state_is_refused_and_changes_nothing(change, said):
    stopper = EarlyStopper(PowerForecaster(), 30)
    stopper.record("kept", 1, 0.5)
    with pytest.raises((InputError, ConfigError), match=said):
        stopper.load_state_dict({**stopper.state_dict(), **change})
    assert list(stopper.runs) == ["kept"]


def test_bad_settings_and_bad_values_are_refused():
    for settings in ({"delta": 1.5}, {"min_epochs": 0}, {"patience": 0}, {"horizon": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            EarlyStopper(PowerForecaster(), **{"horizon": 30, **settings})
    with pytest.raises(ConfigError, match="CurveExtrapolator"):
        EarlyStopper("small", 30)
    stopper = EarlyStopper(PowerForecaster(), 30)
    for run, epoch, value, said in [("", 1, 0.5, "named"), ("a", 0, 0.5, "from 1"), ("a", 1, "high", "no number")]:
        with pytest.raises(InputError, match=said):
            stopper.update(run, epoch, value)
    with pytest.raises(ConfigError, match="unknown run"):
        stopper.curve("nobody")


def test_threads_may_share_it():
    stopper = EarlyStopper(PowerForecaster(), 30)
    fed(stopper, "good", GOOD)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: fed(stopper, f"run {i}", BAD[:12])[-1].stop, range(8)))
    assert all(found) and len(stopper.runs) == 9


def test_the_real_extrapolator_stops_the_hopeless_and_spares_the_good():
    stopper = EarlyStopper(CurveExtrapolator(), 30)
    fed(stopper, "good", GOOD)
    assert fed(stopper, "bad", BAD[:15])[-1].stop
    assert not fed(stopper, "better", np.minimum(GOOD[:15] + 0.05, 1))[-1].stop
    with pytest.raises(InputError, match=r"bounds|outside"):
        fed(stopper, "percent", [10.0, 20.0, 30.0, 40.0])
