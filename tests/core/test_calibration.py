"""Calibration against slow plain versions, a bounded minimiser, and a source whose error is known."""

import math

import numpy as np
import pytest
from scipy import special
from scipy.optimize import minimize_scalar

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import numpy_stream
from foreknow.core.calibration import ece, ks_error, log_loss, mce, reliability_bins, temperature
from foreknow.core.measures import expected_calibration_error

RNG = numpy_stream(0, "calibration")
LOGITS = 2 * RNG.normal(size=(400, 3))
Y = (LOGITS + RNG.gumbel(size=LOGITS.shape)).argmax(1)
P = special.softmax(LOGITS, axis=1)


def plain_ece(stated, right, bins):
    """Equal width, bin by bin and row by row, (lo, hi]."""
    total = 0.0
    for b in range(bins):
        rows = [i for i, r in enumerate(stated) if b / bins < r <= (b + 1) / bins or (b == 0 and r == 0)]
        total += abs(sum(right[i] - stated[i] for i in rows))
    return total / len(stated)


# Temperature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_temperature_against_a_bounded_minimiser(factor):
    def loss(log_t):
        return -special.log_softmax(factor * LOGITS / math.exp(log_t), axis=1)[np.arange(400), Y].mean()

    best = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)), method="bounded", options={"xatol": 1e-9})
    got = temperature(factor * LOGITS, Y)
    assert got == pytest.approx(math.exp(best.x), rel=1e-5)
    assert got == pytest.approx(factor, rel=0.25)
    assert temperature(special.log_softmax(factor * LOGITS, axis=1), Y) == pytest.approx(got)
    assert temperature(factor * LOGITS + RNG.normal(size=(400, 1)), Y) == pytest.approx(got)


def test_temperature_warns_at_the_ends():
    with pytest.warns(ForeknowWarning, match=r"0\.05 taken"):
        assert temperature(LOGITS, LOGITS.argmax(1)) == 0.05  # every row is right
    with pytest.warns(ForeknowWarning, match="20 taken"):
        assert temperature(LOGITS, LOGITS.argmin(1)) == 20.0
    with pytest.warns(ForeknowWarning, match="do not tell"):
        assert temperature(np.ones((5, 3)), [0, 1, 2, 0, 1]) == 1.0
    assert temperature(15 * LOGITS, Y) == pytest.approx(15, rel=0.25)  # exp(20 * 15 * 10) would overflow


# Errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [1, 5, 15, 200])
def test_ece_against_a_loop(bins):
    right = (P.argmax(1) == Y).astype(float)
    assert ece(P, Y, bins) == pytest.approx(plain_ece(P.max(1), right, bins))
    classwise = np.mean([plain_ece(P[:, k], (k == Y).astype(float), bins) for k in range(3)])
    assert ece(P, Y, bins, classwise=True) == pytest.approx(classwise)
    assert ece(P, Y, bins, "mass") == pytest.approx(expected_calibration_error(P, Y, bins))


def test_classwise_by_mass_against_a_loop():
    total = 0.0
    for k in range(3):
        order = np.argsort(P[:, k])
        total += sum(abs(((k == Y) - P[:, k])[b].sum()) for b in np.array_split(order, 10)) / 400
    assert ece(P, Y, 10, "mass", classwise=True) == pytest.approx(total / 3)


def test_bins_are_open_below_and_zero_is_in_the_first():
    p = np.array([[0.6, 0.4], [0.6, 0.4], [0.61, 0.39], [1.0, 0.0], [1.0, 0.0]])
    bins = reliability_bins(p, [0, 1, 0, 0, 0], bins=5)
    np.testing.assert_allclose(bins, [(0.6, 0.5, 0.4), (0.61, 1.0, 0.2), (1.0, 1.0, 0.4)])
    assert ece(p, [0, 1, 0, 0, 0], 5, classwise=True) == pytest.approx(
        np.mean([plain_ece(p[:, k], np.array([0, 1, 0, 0, 0]) == k, 5) for k in range(2)])
    )
    assert mce(p, [0, 1, 0, 0, 0], bins=5) == pytest.approx(0.39)


def test_reliability_bins_agree_with_ece_and_mce():
    confidence, right, share = np.array(reliability_bins(P, Y)).T
    assert share.sum() == pytest.approx(1)
    assert (share * np.abs(right - confidence)).sum() == pytest.approx(ece(P, Y))
    assert np.abs(right - confidence).max() == mce(P, Y)
    assert (share * right).sum() == pytest.approx((P.argmax(1) == Y).mean())


def test_ks_error_against_a_loop_and_with_ties():
    order = np.argsort(P.max(1))
    gaps = ((P.argmax(1) == Y) - P.max(1))[order]
    assert ks_error(P, Y) == pytest.approx(max(abs(gaps[: i + 1].sum()) for i in range(400)) / 400)
    tied = np.tile([0.6, 0.4], (50, 1))
    y = np.array([0] * 30 + [1] * 20)
    for rows in (y, y[::-1], RNG.permutation(y)):
        assert ks_error(tied, rows) == pytest.approx(0, abs=1e-12)


def test_log_loss_counts_what_it_clips():
    assert log_loss(P, Y) == (pytest.approx(-np.log(P[np.arange(400), Y]).mean()), 0)
    assert log_loss([[1.0, 0.0], [0.5, 0.5]], [1, 0], floor=1e-6) == (
        pytest.approx((6 * math.log(10) + math.log(2)) / 2),
        1,
    )


def test_bias_of_a_calibrated_source_is_what_is_known_and_debiasing_takes_some():
    """At 200 rows the mean gap of a bin with m rows is sqrt(2 / pi) times its standard deviation."""
    rng = numpy_stream(1)
    plain, debiased, many, expected = [], [], [], []
    for _ in range(200):
        p = rng.dirichlet([1.0, 1.0, 1.0], size=200)
        y = (np.cumsum(p, 1) < rng.random((200, 1))).sum(1)
        plain.append(ece(p, y))
        debiased.append(ece(p, y, debias=True))
        many.append(ece(p, y, 200))
        index, stated = np.ceil(p.max(1) * 15), p.max(1)
        sums = [math.sqrt((stated * (1 - stated))[index == b].sum()) for b in np.unique(index)]
        expected.append(math.sqrt(2 / math.pi) * sum(sums) / 200)
    assert np.mean(plain) == pytest.approx(np.mean(expected), rel=0.06)
    assert np.mean(debiased) < 0.7 * np.mean(plain)
    assert np.mean(many) > 2.5 * np.mean(plain)


def test_error_of_a_warped_source_is_found():
    rng = numpy_stream(2)
    p = rng.dirichlet([1.0, 1.0, 1.0], size=20_000)
    y = (np.cumsum(p, 1) < rng.random((20_000, 1))).sum(1)
    warped = p**2 / (p**2).sum(1, keepdims=True)
    true = np.abs(warped.max(1) - p[np.arange(20_000), warped.argmax(1)]).mean()
    for found in (ece(warped, y), ece(warped, y, 15, "mass"), ece(warped, y, debias=True), ks_error(warped, y)):
        assert found == pytest.approx(true, abs=0.012)
    assert temperature(np.log(warped), y) == pytest.approx(2, rel=0.05)
    assert ks_error(p, y) < 0.015


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ece(LOGITS, Y), InputError, "sum to 1"),
        (lambda: ece([[0.2, 0.9]], [0]), InputError, "row 0"),
        (lambda: mce(LOGITS, Y), InputError, "sum to 1"),
        (lambda: ks_error(LOGITS, Y), InputError, "sum to 1"),
        (lambda: log_loss(LOGITS, Y), InputError, "sum to 1"),
        (lambda: reliability_bins(LOGITS, Y), InputError, "sum to 1"),
        (lambda: ece(P, Y, 0), ConfigError, "bins"),
        (lambda: mce(P, Y, 0), ConfigError, "bins"),
        (lambda: reliability_bins(P, Y, 0), ConfigError, "bins"),
        (lambda: ece(P, Y, scheme="depth"), ConfigError, "scheme"),
        (lambda: log_loss(P, Y, floor=0.0), ConfigError, "floor"),
        (lambda: temperature(np.full((2, 2), math.nan), [0, 1]), InputError, "NaN"),
        (lambda: temperature(LOGITS, Y[:3]), InputError, r"shape \(400,\)"),
        (lambda: temperature(LOGITS, np.full(400, 3)), InputError, "0..2"),
        (lambda: temperature(np.empty((0, 2)), []), InputError, "minimum of 1"),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
