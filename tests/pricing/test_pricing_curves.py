"""Curves with their intervals, and the places where on loses."""

import math

import numpy as np
import pytest

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream
from foreknow.pricing.curves import curve, loses
from foreknow.pricing.effects import paired_effect

RNG = numpy_stream(0, "curves")
VALUES = RNG.normal(size=(8, 4)) + np.array([4.0, 3.0, 2.0, 1.0])


def test_curve_is_an_interval_at_every_size():
    values = VALUES.copy()
    values[:, 1] = math.nan
    got = curve(values, rng=numpy_stream(1))
    np.testing.assert_allclose(got.mean, values.mean(0))
    assert [math.isnan(low) for low in got.low] == [False, True, False, False]
    first = paired_effect(values[:, 0], rng=numpy_stream(1))
    assert (got.low[0], got.high[0]) == pytest.approx((first.low, first.high))
    assert got.units[3][2] == values[3, 2] and len(got.units) == 8
    one = curve(VALUES[:1], rng=numpy_stream(1))
    assert one.mean == tuple(VALUES[0]) and all(math.isnan(end) for end in one.low + one.high)
    nothing = curve(np.full((2, 3), math.nan), rng=numpy_stream(1))
    assert all(math.isnan(number) for number in nothing.mean + nothing.low)


def test_losses_are_found_on_the_bad_side_of_each_measure():
    flat = np.zeros((8, 4))
    noise = 0.1 * RNG.normal(size=(8, 4))
    on = {"log_loss": flat, "accuracy": flat, "only_on": flat}
    better_at_the_end = noise - np.array([0, 0, 0, 2.0])
    others = {
        "off": {"log_loss": noise + 1.0, "accuracy": noise - 1.0},
        "plain": {"log_loss": better_at_the_end, "accuracy": -better_at_the_end},
    }
    found = loses(on, others, [16, 32, 64, 128], higher=("accuracy",), source="digits", rng=numpy_stream(2))
    at_the_end = [loss for loss in found if loss.size == 128]
    assert {(loss.arm, loss.measure) for loss in at_the_end} == {("plain", "log_loss"), ("plain", "accuracy")}
    assert not [loss for loss in found if loss.arm == "off"]
    by_measure = {loss.measure: loss.difference for loss in at_the_end}
    assert by_measure["log_loss"].low > 0 > by_measure["accuracy"].high
    assert by_measure["log_loss"].value == pytest.approx(2.0, abs=0.1) and by_measure["log_loss"].n_units == 8
    assert found[0].source == "digits"
    assert (
        found[0].difference.note.startswith("one of 16 comparisons, not corrected")
        and "0.4 would" in found[0].difference.note
    )


def test_as_many_losses_by_chance_as_stated():
    rng = numpy_stream(3)
    on, other = ({"loss": rng.normal(size=(10, 4000))} for _ in range(2))
    found = loses(on, {"off": other}, np.arange(1, 4001), n_boot=500, rng=rng)
    assert 0.015 < len(found) / 4000 < 0.028
    assert "about 1e+02" in found[0].difference.note


def test_no_loss_without_an_interval():
    on, other = {"loss": np.full((1, 2), 5.0)}, {"loss": np.zeros((1, 2))}
    assert loses(on, {"off": other}, [16, 32], rng=numpy_stream(0)) == ()
    missing = {"loss": np.full((3, 2), math.nan)}
    assert loses({"loss": np.ones((3, 2))}, {"off": missing}, [16, 32], rng=numpy_stream(0)) == ()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda g: curve([1.0, 2.0], rng=g), InputError, "shape"),
        (lambda g: curve(np.empty((0, 2)), rng=g), InputError, "at least one unit"),
        (lambda g: curve([[1.0, math.nan], [1.0, 2.0]], rng=g), InputError, "nan in unit 0 at size number 1"),
        (lambda g: curve([[1.0, math.inf]], rng=g), InputError, "inf in unit 0"),
        (lambda g: curve([[1.0]], level=1.0, rng=g), ConfigError, "level"),
        (lambda g: loses({"a": [[1.0]]}, {"off": {"a": [[1.0, 2.0]]}}, [16], rng=g), InputError, "a must have shape"),
        (lambda g: loses({"a": [[1.0]]}, {"off": {"a": [[1.0]]}}, [16, 32], rng=g), InputError, "a must have shape"),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call(numpy_stream(0))
