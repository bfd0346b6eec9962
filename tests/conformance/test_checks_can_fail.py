"""Good doubles pass every check; each check fails on a double with just its defect."""

import os
import random

import broken
import doubles
import doubles_of_arrays
import numpy as np
import pytest
from doubles import RidgeDouble

from foreknow.common.errors import ConfigError, InputError
from foreknow.core import checks
from foreknow.core.checks.base import refused
from foreknow.core.checks.cards import cost_problems, evidence_problems, unexplained
from foreknow.core.checks.watch import process_settings, put_back, random_states, watch
from foreknow.core.evidence import Claim, Evidence


@pytest.mark.parametrize("kind", [*doubles.GOOD_PRIORS, *doubles.GOOD_SYSTEMS, *doubles_of_arrays.GOOD])
def test_good_doubles_pass_every_check(kind):
    outcomes = checks.run(kind)
    assert outcomes
    assert {outcome.status for outcome in outcomes} == {"passed"}


@pytest.mark.filterwarnings("ignore:strange:RuntimeWarning", "ignore:A test tried to use socket:UserWarning")
@pytest.mark.parametrize("case", [*broken.SYSTEMS, *broken.PRIORS], ids=lambda case: case.name)
def test_a_defect_fails_its_check_and_no_other(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if case.patch is not None:
        case.patch(monkeypatch)
    states, settings = random_states(), process_settings()
    try:
        outcomes = checks.run(case.kind, raise_failed=False)
    finally:
        put_back(states, settings)
    failed = {outcome.check: outcome.message for outcome in outcomes if outcome.status == "failed"}
    assert failed.keys() == {case.check, *case.also}, "\n".join(failed.values())


def test_every_check_has_a_broken_double():
    assert {case.check for case in broken.SYSTEMS} == set(checks.SYSTEMS.names)
    assert {case.check for case in broken.PRIORS} == set(checks.PRIORS.names)


def test_every_check_applies_to_a_good_double():
    for suite, kinds in ((checks.SYSTEMS, doubles.GOOD_SYSTEMS), (checks.PRIORS, doubles.GOOD_PRIORS)):
        applied = {name for kind in kinds for chosen in checks.checks_of(kind).values() for name, _ in chosen}
        assert applied == set(suite.names)


# Declared failures and the runner --------------------------------------------------------------------------------


def declaring(failures, kind=broken.learns_without_underscore):
    return type(f"Declaring{len(failures)}{kind.__name__}", (kind,), {**broken.SAID, "expected_failures": failures})


def test_a_declared_failure_is_expected():
    outcomes = checks.run(declaring({"settings_left_alone": "shows the mechanism"}))
    assert {o.status for o in outcomes if o.check == "settings_left_alone"} == {"expected"}
    assert {o.status for o in outcomes if o.check != "settings_left_alone"} == {"passed"}


def test_a_declared_failure_may_name_its_example():
    outcomes = checks.run(declaring({"settings_left_alone[numbers]": "shows the mechanism"}), raise_failed=False)
    found = {o.subject: o.status for o in outcomes if o.check == "settings_left_alone"}
    assert found == {"numbers": "expected", "three classes": "failed", "two classes": "failed"}


def test_a_declared_failure_that_passes_is_an_error():
    with pytest.raises(checks.CheckFailed, match=r"no_printing: declared to fail \(once noisy\) but passes"):
        checks.run(declaring({"no_printing": "once noisy"}, RidgeDouble))


def test_run_raises_after_all_checks_and_names_each_failure():
    with pytest.raises(
        checks.CheckFailed, match=r"3 of \d+ checks failed:\n\[numbers\] .*settings_left_alone"
    ) as failure:
        checks.run(broken.learns_without_underscore)
    assert isinstance(failure.value, AssertionError)
    assert str(failure.value).count("must end in '_', got learnt") == 3


def test_checks_are_plain_functions():
    example = RidgeDouble.examples()[0]
    checks.systems.check_fit_returns_self(RidgeDouble(**example.params), example)
    with pytest.raises(checks.CheckFailed, match="must return the system itself"):
        checks.systems.check_fit_returns_self(broken.returns_copy(), example)


def test_refused_wants_the_right_error_and_a_short_message():
    def raises(error):
        raise error

    assert refused("x", InputError, raises, InputError("bad")).message == "bad"
    with pytest.raises(checks.CheckFailed, match="x: expected InputError, but it was accepted"):
        refused("x", InputError, dict, one=1)
    with pytest.raises(checks.CheckFailed, match="x: expected InputError, got ConfigError: bad"):
        refused("x", InputError, raises, ConfigError("bad"))
    with pytest.raises(checks.CheckFailed, match="one to five lines, got 9"):
        refused("x", InputError, raises, InputError("\n".join("123456789")))


# The watcher and the evidence ------------------------------------------------------------------------------------


def test_watch_puts_back_what_it_saw_change():
    before, folder = (random_states(), process_settings()), os.getcwd()
    with watch() as trace:
        random.random()
        np.random.rand()  # noqa: NPY002 - the state under watch
        np.seterr(over="raise")
        os.mkdir("left")
    assert trace.random == ["random", "numpy.random"]
    assert trace.settings == ["numpy.geterr()"]
    assert trace.files == ["left"]
    assert (random_states(), process_settings()) == before
    assert os.getcwd() == folder


def test_watch_puts_back_after_an_error():
    before = random_states()
    with pytest.raises(KeyError), watch():
        random.random()
        raise KeyError
    assert random_states() == before


@pytest.mark.parametrize(
    ("measured", "bounds"),
    [
        (0.5, {"low": 0.4}),
        (0.5, {"low": 0.6}),
        (0.5, {"low": 0.1, "high": 0.4}),
        (-2.0, {"high": -1e-9}),
        (3e-7, {"high": 1e-5}),
    ],
)
def test_evidence_as_written_is_sound(measured, bounds):
    claim = Claim("c", measured, unit="nat", **bounds)
    assert not evidence_problems("x", Evidence("x", (claim,), (), "make", 1.0).to_dict())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"slug": "y"}, "slug is 'y'"),
        ({"verdict": "held"}, "the verdict is 'partly', stored as 'held'"),
        ({"claims": []}, "there is no claim"),
    ],
)
def test_evidence_written_by_hand_is_caught(change, problem):
    stored = Evidence("x", (Claim("a", 1.0, low=0.5), Claim("b", 1.0, high=0.5)), (), "make", 1.0).to_dict()
    assert not evidence_problems("x", stored)
    assert any(problem in found for found in evidence_problems("x", {**stored, **change}))
    del stored["date"]
    assert evidence_problems("x", stored) == ["keys are missing: date"]


@pytest.mark.parametrize(
    ("cost", "seconds", "preset", "sound"),
    [
        ("seconds", 30.0, "small", True),
        ("seconds", 6000.0, "small", False),
        ("minutes", 5.0, "small", False),
        ("hours", 9000.0, "small", True),
        ("minutes", 1e5, "paper", True),
    ],
)
def test_the_cost_on_a_card_must_fit_the_seconds_of_its_proof(cost, seconds, preset, sound):
    assert (not cost_problems(cost, {"seconds": seconds, "settings": {"preset": preset}})) == sound


@pytest.mark.parametrize(("note", "n"), [("", 1), ("The grid is too small.", 0)])
def test_a_failed_claim_must_say_why(note, n):
    claims = (Claim("a", 1.0, low=0.5), Claim("b", 1.0, high=0.5, note=note))
    assert len(unexplained(Evidence("x", claims, (), "make", 1.0).to_dict())) == n
