"""The sample ratio of power laws whose true ratio is known; censoring, monotone violations, edges."""

import math

import numpy as np
import pytest

from foreknow.common.errors import InputError
from foreknow.common.rng import numpy_stream
from foreknow.pricing.effects import paired_effect
from foreknow.pricing.ratio import sample_ratio

SIZES = np.array([16, 32, 64, 128, 256, 512])


def arms(rng, ratio, units, noise, shared):
    """Losses of on, which acts as if it had `ratio` times the data, and of the other; seeds move both alike."""
    base = 0.3 + shared * rng.normal(size=(units, 1))
    shape = (units, len(SIZES))
    return [base + 3 * (SIZES * factor) ** -0.5 + noise * rng.normal(size=shape) for factor in (ratio, 1.0)]


@pytest.mark.parametrize(("noise", "shared"), [(0.02, 0.05), (0.06, 0.02)])
@pytest.mark.parametrize("ratio", [4.0, 1.0, 1 / 3])
def test_interval_covers_the_true_ratio(ratio, noise, shared):
    rng = numpy_stream(0, str(ratio), str(noise))
    found = [sample_ratio(SIZES, *arms(rng, ratio, 5, noise, shared), n_boot=300, rng=rng) for _ in range(300)]
    assert 0.92 <= np.mean([e.low <= ratio <= e.high for e in found]) <= 0.98
    assert np.median([e.value for e in found]) == pytest.approx(ratio, rel=0.1)
    assert all(e.low <= e.value <= e.high for e in found)


def test_units_must_be_resampled_together():
    """With pairs torn apart the interval is far too wide, which the bounds of the test above would catch."""
    rng = numpy_stream(0, "torn")
    torn, paired = [], []
    for _ in range(120):
        on, other = arms(rng, 4.0, 8, 0.02, 0.1)
        paired.append(sample_ratio(SIZES, on, other, n_boot=300, rng=rng))
        torn.append(sample_ratio(SIZES, on, other[::-1], n_boot=300, rng=rng))
    assert np.mean([e.low <= 4 <= e.high for e in torn]) > 0.985
    width = [np.median([math.log(e.high / e.low) for e in found]) for found in (paired, torn)]
    assert width[1] > 3 * width[0]


def test_exact_curves():
    log_n = np.log2(SIZES / 16)  # 0..5
    other = 10 - np.tile(log_n, (3, 1))
    for shift, expected in ((2.0, 4.0), (0.5, math.sqrt(2)), (0.0, 1.0), (-1.5, 2**-1.5)):
        got = sample_ratio(SIZES, other - shift, other, rng=numpy_stream(0))
        assert got.sign == "=" and got.n_units == 3
        np.testing.assert_allclose([got.value, got.low, got.high], expected, rtol=1e-9)


@pytest.mark.parametrize(("shift", "sign", "value"), [(6.0, ">=", 32.0), (-6.0, "<=", 1 / 32)])
def test_censoring(shift, sign, value):
    rng = numpy_stream(0, "censored")
    other = 10 - np.tile(np.log2(SIZES / 16), (6, 1)) + 0.1 * rng.normal(size=(6, 6))
    got = sample_ratio(SIZES, other - shift, other, rng=rng)
    assert got.sign == sign and got.value == pytest.approx(value)
    edge = got.high if sign == ">=" else got.low
    assert edge == pytest.approx(value)
    assert ("upper end" if sign == ">=" else "lower end") in got.note


def test_an_end_at_the_edge_is_said_though_the_value_is_inside():
    rng = numpy_stream(1, "edge")
    on, other = arms(rng, 8.0, 5, 0.15, 0.0)
    got = sample_ratio(SIZES, on, other, rng=rng)
    assert got.sign == "=" and got.high == pytest.approx(32) and "upper end" in got.note
    certain = sample_ratio(SIZES, *arms(rng, 4.0, 5, 0.01, 0.0), rng=rng)
    assert certain.note == "" and 1 < certain.low < certain.high < 32


def test_swapping_the_arms_inverts_the_ratio():
    rng = numpy_stream(2)
    on, other = arms(rng, 3.0, 7, 0.05, 0.05)
    forth, back = (sample_ratio(SIZES, *pair, rng=numpy_stream(3)) for pair in ((on, other), (other, on)))
    np.testing.assert_allclose([1 / back.value, 1 / back.high, 1 / back.low], [forth.value, forth.low, forth.high])


def test_leaves_out_one_where_the_difference_leaves_out_zero():
    rng, agree, told_apart = numpy_stream(4), 0, 0
    for i in range(60):
        on, other = (np.sort(arm)[:, ::-1] for arm in arms(rng, 1.5, 6, 0.05, 0.05))  # monotone: nothing to average
        ratio = sample_ratio(SIZES, on, other, rng=numpy_stream(i))
        gap = paired_effect(on[:, -1] - other[:, -1], rng=numpy_stream(i))
        agree += (ratio.low > 1 or ratio.high < 1) == (gap.high < 0 or gap.low > 0)
        told_apart += gap.high < 0
    assert agree == 60 and 5 < told_apart < 55


def test_violations_of_monotony_are_averaged_out():
    falling = np.array([[5.0, 4.0, 3.0, 2.0, 1.5, 1.0]])
    bumpy = np.array([[5.0, 3.0, 4.0, 2.0, 1.5, 1.0]])  # as if 3.5 at both sizes
    target = np.array([[6.0, 6.0, 6.0, 6.0, 6.0, 2.75]])
    got = sample_ratio(SIZES, bumpy, target, rng=numpy_stream(0))
    # Between 3.5 at 64 and 2 at 128 the target is met after half of the way.
    assert got.value == pytest.approx(512 / (64 * math.sqrt(2)))
    assert math.isnan(got.low) and "one unit" in got.note
    rising = falling[:, ::-1]
    flat = sample_ratio(SIZES, rising, rising.copy(), rng=numpy_stream(0))
    assert flat.value == 1.0 and flat.sign == "="


def test_equal_arms_are_worth_one_whatever_their_shape():
    rng = numpy_stream(5)
    for noise in (0.0, 0.5, 5.0):
        losses = 5 - np.log(SIZES) / 3 + noise * rng.normal(size=(6, 6))
        got = sample_ratio(SIZES, losses, losses, rng=rng)
        assert got.value == pytest.approx(1.0, abs=1e-9) and got.sign == "="


def test_one_size_has_no_ratio():
    got = sample_ratio([16], np.ones((3, 1)), np.ones((3, 1)), rng=numpy_stream(0))
    assert math.isnan(got.value) and "one size" in got.note


@pytest.mark.parametrize(
    ("sizes", "on", "other", "words"),
    [
        ([16, 16], np.ones((2, 2)), np.ones((2, 2)), "increasing"),
        ([0, 16], np.ones((2, 2)), np.ones((2, 2)), "positive"),
        ([16, 32], np.ones((2, 2)), np.ones((3, 2)), "shape"),
        ([16, 32], np.ones((2, 3)), np.ones((2, 3)), "shape"),
        ([16, 32], [[1.0, math.nan]], [[1.0, 1.0]], "losses_on contains NaN, first at row 0, column 1"),
    ],
)
def test_bad_arguments(sizes, on, other, words):
    with pytest.raises(InputError, match=words):
        sample_ratio(sizes, on, other, rng=numpy_stream(0))
