"""Measures against slow plain versions and known answers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.core.measures import (
    auc_ovo,
    brier,
    coverage,
    crps_from_quantiles,
    expected_calibration_error,
    nll,
    paired_interval,
    pit,
)
from foreknow.core.predictive import Gaussian

RNG = numpy_stream(0, "measures")
LOGITS = RNG.normal(size=(300, 4))
P = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
Y = np.array([RNG.choice(4, p=p) for p in P])


def test_likelihood_pit_and_coverage_of_a_true_model():
    dist = Gaussian(torch.linspace(-2, 2, 4000, dtype=torch.float64), 0.7)
    y = dist.sample(1, generator=torch_stream(0))[0]
    assert torch.equal(nll(dist, y), -dist.log_prob(y))
    assert abs(float(nll(dist, y).mean()) - (0.5 + 0.5 * math.log(2 * math.pi * 0.49))) < 0.05
    assert stats.kstest(pit(dist, y).numpy(), "uniform").pvalue > 1e-3
    assert abs(coverage(dist, y, 0.9) - 0.9) < 0.02
    narrow = Gaussian(dist.loc, 0.35)
    assert coverage(narrow, y, 0.9) < 0.65
    low, _ = dist.interval(0.9)
    assert coverage(dist, low, 0.9) == 1.0 and coverage(dist, low - 1e-9, 0.9) == 0.0


def test_crps_of_many_quantiles_is_the_closed_form():
    mean, sd, y = np.array([0.0, 1.0, -2.0]), np.array([1.0, 0.3, 2.0]), np.array([0.5, 1.4, 4.0])
    z = (y - mean) / sd
    exact = sd * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    for k, rtol in ((20, 3e-2), (2000, 5e-4)):
        levels = (np.arange(k) + 0.5) / k
        quantiles = mean[:, None] + sd[:, None] * stats.norm.ppf(levels)
        np.testing.assert_allclose(crps_from_quantiles(levels, quantiles, y), exact, rtol=rtol)
    assert crps_from_quantiles([0.5], [[3.0]], [1.0]).tolist() == [2.0]  # the median alone: absolute error


def test_calibration_error_against_a_loop():
    confidence, right = P.max(1), P.argmax(1) == Y
    order = np.argsort(confidence)
    plain = sum(abs((right[b] - confidence[b]).sum()) for b in np.array_split(order, 10)) / len(Y)
    assert expected_calibration_error(P, Y, n_bins=10) == pytest.approx(plain, rel=1e-9)
    shuffled = RNG.permutation(len(Y))
    assert expected_calibration_error(P[shuffled], Y[shuffled]) == pytest.approx(expected_calibration_error(P, Y))


def test_calibration_error_keeps_ties_in_one_bin():
    probs = np.tile([0.6, 0.4], (50, 1))
    y = np.array([0] * 30 + [1] * 20)  # right 60% of the time: no error, in whatever order the rows come
    assert expected_calibration_error(probs, y) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(np.eye(2)[[0, 0, 1]], [1, 1, 1]) == pytest.approx(2 / 3)


def test_brier_against_a_loop():
    plain = np.mean([sum((p[c] - (c == code)) ** 2 for c in range(4)) for p, code in zip(P, Y)])
    assert brier(P, Y) == pytest.approx(plain)
    assert brier([[0.0, 1.0]], [0]) == 2.0 and brier([[1.0, 0.0]], [0]) == 0.0


def test_auc_is_scikit_learns_when_all_classes_are_there():
    assert auc_ovo(Y, P) == pytest.approx(roc_auc_score(Y, P, multi_class="ovo"))
    two = P[:, :2] / P[:, :2].sum(1, keepdims=True)
    y = (two[:, 1] > 0.5).astype(int)
    assert auc_ovo(y, two) == 1.0 and auc_ovo(1 - y, two) == 0.0


def test_auc_without_some_classes():
    rows = Y != 2
    kept = P[rows][:, [0, 1, 3]]
    expected = roc_auc_score(Y[rows], kept / kept.sum(1, keepdims=True), multi_class="ovo")
    assert auc_ovo(Y[rows], P[rows]) == pytest.approx(expected)
    rows = np.isin(Y, [1, 3])
    expected = roc_auc_score(Y[rows] == 3, P[rows, 3] / (P[rows, 1] + P[rows, 3]))
    assert auc_ovo(Y[rows], P[rows]) == pytest.approx(expected)
    assert math.isnan(auc_ovo(Y[Y == 0], P[Y == 0]))
    assert auc_ovo([0, 1], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]) == 0.5


def test_paired_interval():
    d = RNG.normal(1.0, 2.0, size=80)
    got = paired_interval(d, rng=numpy_stream(1))
    plain_rng = numpy_stream(1)
    plain = [np.mean([d[i] for i in plain_rng.integers(0, 80, 80)]) for _ in range(2000)]
    np.testing.assert_allclose([got.low, got.high], np.quantile(plain, [0.025, 0.975]), rtol=1e-12)
    assert got.mean == d.mean() and got.n_units == 80 and got.level == 0.95
    assert paired_interval(d, 0.5, rng=numpy_stream(1)).low > got.low
    assert paired_interval([0.3, 0.3], rng=numpy_stream(0)).low == pytest.approx(0.3)
    large = paired_interval(np.ones(3_000_000), n_boot=3, rng=numpy_stream(0))
    assert large.low == large.high == 1.0


def test_paired_interval_covers():
    rng = numpy_stream(2)
    hits = 0
    for _ in range(300):
        got = paired_interval(rng.normal(size=30), 0.9, 400, rng=rng)
        hits += got.low <= 0 <= got.high
    assert 0.82 < hits / 300 < 0.96


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: crps_from_quantiles([0.5, 0.4], [[0.0, 0.0]], [0.0]), ConfigError, "increasing"),
        (lambda: crps_from_quantiles([0.0, 0.4], [[0.0, 0.0]], [0.0]), ConfigError, "increasing"),
        (lambda: crps_from_quantiles([0.5], [0.0], [0.0]), InputError, "shape"),
        (lambda: brier(P, Y[:3]), InputError, "shape"),
        (lambda: brier(np.zeros((0, 3)), []), InputError, "n >= 1"),
        (lambda: brier([[0.7, 0.7]], [0]), InputError, "row 0"),
        (lambda: brier([[1.0, 0.0], [math.nan, 1.0]], [0, 0]), InputError, "row 1"),
        (lambda: brier([[0.5, 0.5]], [2]), InputError, "codes 0..1"),
        (lambda: auc_ovo([0.5], [[0.5, 0.5]]), InputError, "codes"),
        (lambda: auc_ovo(["a"], [[0.5, 0.5]]), InputError, "codes"),
        (lambda: brier([[0.5, 0.5]], [math.nan]), InputError, "codes"),
        (lambda: expected_calibration_error(P, Y, 0), ConfigError, "n_bins"),
        (lambda: paired_interval([1.0], rng=numpy_stream(0)), InputError, "at least 2"),
        (lambda: paired_interval([1.0, math.nan], rng=numpy_stream(0)), InputError, "finite"),
        (lambda: paired_interval([1.0, 2.0], level=1.0, rng=numpy_stream(0)), ConfigError, "less than 1"),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
