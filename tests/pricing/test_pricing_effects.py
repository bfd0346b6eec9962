"""Effects against truth: what intervals cover, how often tests are wrong, and that broken ones would be caught."""

import math

import numpy as np
import pytest
from scipy import stats

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream
from foreknow.pricing.effects import holds, mean_bounds, paired_effect, ratio_effect

N_SIM = 4000
LAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "gamma": lambda rng, shape: rng.gamma(3, size=shape) - 3,
    "heavy": lambda rng, shape: rng.standard_t(3, size=shape),
}


def student(rows, level):
    half = stats.t.isf((1 - level) / 2, rows.shape[1] - 1) * rows.std(1, ddof=1) / math.sqrt(rows.shape[1])
    return rows.mean(1) - half, rows.mean(1) + half


def percentile(rows, level, rng):
    n = rows.shape[1]
    means = rows @ rng.multinomial(n, np.full(n, 1 / n), size=500).T / n
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1)


def covered(ends, truth=0.0):
    return float(((ends[0] <= truth) & (ends[1] >= truth)).mean())


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("law", LAWS)
def test_interval_covers(law, n):
    rng = numpy_stream(n, law)
    rows = LAWS[law](rng, (N_SIM, n))
    assert 0.93 <= covered(mean_bounds(rows, 0.95, n_boot=1000, rng=rng)) <= 0.97


def test_the_bounds_of_that_test_catch_other_intervals():
    rng = numpy_stream(0, "broken")
    five, skewed = rng.normal(size=(N_SIM, 5)), rng.gamma(2, size=(N_SIM, 10)) - 2
    assert covered(percentile(five, 0.95, rng)) < 0.87
    assert covered(student(skewed, 0.95)) < 0.93 < covered(mean_bounds(skewed, 0.95, n_boot=1000, rng=rng))


@pytest.mark.parametrize("n", [5, 10, 20])
def test_exponential_differences_are_covered_as_well_as_the_docs_say(n):
    rng = numpy_stream(n, "exponential")
    share = covered(mean_bounds(rng.exponential(size=(N_SIM, n)), 0.95, n_boot=1000, rng=rng), 1.0)
    assert share == pytest.approx({5: 0.911, 10: 0.934, 20: 0.948}[n], abs=0.015)


def test_paired_effect_is_the_row_of_mean_bounds():
    d = numpy_stream(0).normal(0.3, 1, size=12)
    got = paired_effect(d, level=0.8, rng=numpy_stream(1))
    low, high = mean_bounds(d[None], 0.8, rng=numpy_stream(1))
    assert (got.value, got.low, got.high) == (d.mean(), low[0], high[0])
    assert (got.level, got.n_units, got.equivalent, got.note) == (0.8, 12, None, "") and math.isnan(got.margin)
    assert got == paired_effect(d, level=0.8, rng=numpy_stream(1))
    wider = paired_effect(d, level=0.95, rng=numpy_stream(1))
    assert wider.low < got.low < got.value < got.high < wider.high


def test_mean_bounds_against_a_loop():
    d = numpy_stream(3).gamma(2, size=8)
    low, high = mean_bounds(d[None], 0.9, n_boot=400, rng=numpy_stream(4))
    draws = numpy_stream(4).integers(0, 8, (400, 8))
    z = (d - d.mean()) / d.std(ddof=1)
    t = [z[i].mean() / math.sqrt(0.9 * z[i].var(ddof=1) + 0.1) for i in draws]
    half = stats.t.isf(0.05, 7) / math.sqrt(8)
    lower, upper = np.quantile(t, [0.05, 0.95])
    assert low[0] == pytest.approx(d.mean() - d.std(ddof=1) * max(half, upper))
    assert high[0] == pytest.approx(d.mean() + d.std(ddof=1) * max(half, -lower))


def test_interval_moves_and_scales_with_the_data():
    d = numpy_stream(5).gamma(2, size=7)
    plain, moved = (paired_effect(x, rng=numpy_stream(6)) for x in (d, 1e6 * d - 3e6))
    np.testing.assert_allclose([moved.low, moved.high], [1e6 * plain.low - 3e6, 1e6 * plain.high - 3e6], rtol=1e-9)
    turned = paired_effect(-d, rng=numpy_stream(6))
    np.testing.assert_allclose([turned.low, turned.high], [-plain.high, -plain.low])


def test_large_samples_go_through_in_pieces():
    d = numpy_stream(7).normal(size=500_000)
    got = paired_effect(d, n_boot=20, rng=numpy_stream(8))
    assert got.high - got.low == pytest.approx(2 * 1.96 * d.std() / math.sqrt(len(d)), rel=0.4)


def test_one_unit_and_no_spread():
    one = paired_effect([0.5], margin=1.0, rng=numpy_stream(0))
    assert one.value == 0.5 and math.isnan(one.low) and math.isnan(one.high) and one.equivalent is False
    assert "one unit" in one.note
    same = paired_effect([0.5] * 4, margin=1.0, rng=numpy_stream(0))
    assert same.low == same.high == 0.5 and same.equivalent is True and "no width" in same.note
    assert not holds([-3.0], bound=0.0, side="below", rng=numpy_stream(0))
    ties = paired_effect([0.0] * 8 + [1.0] * 2, rng=numpy_stream(0))  # a third of the resamples have no variance
    assert -0.5 < ties.low < 0.2 < ties.high < 1.5


# Tests -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["normal", "heavy"])
@pytest.mark.parametrize("n", [5, 20])
def test_held_is_rarely_said_at_the_boundary(law, n):
    rng = numpy_stream(n, "holds", law)
    rows = 0.7 + LAWS[law](rng, (1200, n))
    for side in ("below", "above"):
        said = np.mean([holds(d, bound=0.7, side=side, n_boot=400, rng=rng) for d in rows])
        assert 0.02 <= said <= 0.06, (side, said)  # 5% and two standard errors of the simulation


def test_held_is_said_too_often_for_skewed_differences_as_the_docs_say():
    rng = numpy_stream(0, "skewed")
    low, high = mean_bounds(rng.gamma(2, size=(N_SIM, 5)) - 2, 0.9, n_boot=1000, rng=rng)
    assert 0.07 < (high < 0).mean() < 0.11
    assert (low > 0).mean() < 0.03


def test_held_has_power_and_a_broken_test_would_show():
    rng = numpy_stream(0, "power")
    rows = rng.normal(-1, 0.5, size=(300, 5))
    assert np.mean([holds(d, bound=0.0, side="below", n_boot=400, rng=rng) for d in rows]) > 0.9
    assert not any(holds(d, bound=0.0, side="above", n_boot=400, rng=rng) for d in rows)
    null = rng.normal(size=(N_SIM, 5))
    assert (percentile(null, 0.9, rng)[1] < 0).mean() > 0.08


def test_equivalence_has_its_size_and_power():
    rng = numpy_stream(0, "equivalence")

    def shown(truth, n):
        d = rng.normal(truth, 0.5, size=(600, n))
        return np.mean([paired_effect(x, margin=1.0, n_boot=300, rng=rng).equivalent for x in d])

    for n in (5, 20):
        assert shown(1.0, n) <= 0.06
        assert shown(-1.0, n) <= 0.06
    assert shown(0.0, 5) > 0.75
    assert shown(0.5, 20) > 0.95
    assert shown(1.5, 20) == 0.0


# Ratios ------------------------------------------------------------------------------------------------------------


def test_ratio_of_geometric_means():
    rng = numpy_stream(0, "ratio")
    speed = rng.lognormal(0, 1.0, size=(400, 8))
    top, bottom = (speed * rng.lognormal(mu, 0.2, size=speed.shape) for mu in (math.log(3), 0.0))
    found = [ratio_effect(a, b, n_boot=400, rng=rng) for a, b in zip(top, bottom)]
    assert found[0].value == pytest.approx(stats.gmean(top[0]) / stats.gmean(bottom[0]))
    assert 0.93 <= np.mean([e.low <= 3 <= e.high for e in found]) <= 0.98
    back = ratio_effect(bottom[0], top[0], rng=numpy_stream(1))
    forth = ratio_effect(top[0], bottom[0], rng=numpy_stream(1))
    np.testing.assert_allclose([1 / back.value, 1 / back.high, 1 / back.low], [forth.value, forth.low, forth.high])


def test_ratio_without_an_answer():
    zero = ratio_effect([1.0, 2.0], [0.0, 1.0], rng=numpy_stream(0))
    assert math.isnan(zero.value) and "1 of 2" in zero.note and zero.n_units == 2
    one = ratio_effect([3.0], [2.0], rng=numpy_stream(0))
    assert one.value == pytest.approx(1.5) and math.isnan(one.low) and "one unit" in one.note


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda g: paired_effect([], rng=g), InputError, "differences is empty"),
        (lambda g: paired_effect([1.0, math.nan], rng=g), InputError, "NaN, first at row 1"),
        (lambda g: paired_effect([1.0, math.inf], rng=g), InputError, "infinity"),
        (lambda g: paired_effect([1.0, 2.0], level=1.0, rng=g), ConfigError, "less than 1"),
        (lambda g: paired_effect([1.0, 2.0], level=0, rng=g), ConfigError, "level"),
        (lambda g: paired_effect([1.0, 2.0], margin=0.0, rng=g), ConfigError, "margin"),
        (lambda g: paired_effect([1.0, 2.0], n_boot=0, rng=g), ConfigError, "n_boot"),
        (lambda g: holds([1.0, 2.0], bound=0, side="left", rng=g), ConfigError, "side"),
        (lambda g: holds([1.0, 2.0], bound=math.nan, side="below", rng=g), ConfigError, "bound"),
        (lambda g: holds([1.0, 2.0], bound=0, side="below", alpha=0.5, rng=g), ConfigError, "less than 0.5"),
        (lambda g: ratio_effect([1.0, 2.0], [1.0], rng=g), InputError, "paired"),
        (lambda g: ratio_effect([1.0, -2.0], [1.0, 1.0], rng=g), InputError, ">= 0"),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call(numpy_stream(0))
