"""Scores and their intervals against plain versions."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from foreknow.core.measures import auc_ovo, expected_calibration_error
from foreknow.report.scores import Score, auc_score, log_losses, mean_score, score
from foreknow.viz.quality import wilson


def draws(n=200, k=3, seed=0, strength=1.5):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), truth] += strength
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), truth


def test_values_agree_with_scikit_learn():
    p, truth = draws()
    found = score(p, truth)
    assert found["accuracy"].value == (p.argmax(1) == truth).mean()
    assert found["log_loss"].value == pytest.approx(log_loss(truth, p))
    assert found["auc"].value == pytest.approx(roc_auc_score(truth, p, multi_class="ovo"))
    assert found["auc"].value == pytest.approx(auc_ovo(truth, p))
    assert found["ece"].value == expected_calibration_error(p, truth)
    assert found["brier"].value == pytest.approx(
        np.mean([((row - np.eye(3)[t]) ** 2).sum() for row, t in zip(p, truth)])
    )
    assert 0 < found["ece"].value < 0.2 and np.isnan(found["ece"].low)
    for name in ("accuracy", "auc", "log_loss", "brier"):
        assert found[name].low < found[name].value < found[name].high, name


@pytest.mark.parametrize("k", [2, 3])
def test_the_interval_of_the_auc_is_that_of_resampled_rows(k):
    p, truth = draws(400, k, seed=3)
    found = auc_score(p, truth)
    rng = np.random.default_rng(0)
    values = [auc_score(p[rows], truth[rows]).value for rows in rng.integers(0, 400, (80, 400))]
    width = np.subtract(*np.percentile(values, [97.5, 2.5]))
    assert found.high - found.low == pytest.approx(width, rel=0.3)


def test_classes_that_never_occur_are_left_out_of_the_auc():
    p, truth = draws(k=5)
    truth = np.where(truth > 2, 0, truth)
    assert auc_score(p, truth).value == pytest.approx(auc_ovo(truth, p))
    p[:5] = [0, 0, 0, 0.5, 0.5]
    assert 0.5 < auc_score(p, truth).value < 1


def test_degenerate_rows():
    sure = np.eye(3)[[0, 1, 0, 1]]
    assert auc_score(sure, np.array([0, 1, 0, 1])) == Score(1.0, 1.0, 1.0)  # a class that never occurs
    assert np.isnan(auc_score(sure, np.zeros(4, dtype=int)).value)
    assert log_losses(sure, np.array([1, 1, 1, 1])).max() == pytest.approx(34.539, abs=1e-3)
    assert mean_score(np.array([2.0])).value == 2.0
    assert Score(1.0).to_dict() == {"value": 1.0, "low": None, "high": None}
    low, high = wilson(np.array([0.0, 1.0]), np.array([10, 10]))
    assert low[0] == 0 < high[0] < 0.4 and 0.6 < low[1] < high[1] == 1


def test_the_seed_decides_the_resamples():
    values = np.random.default_rng(0).normal(size=50)
    assert mean_score(values, seed=1) == mean_score(values, seed=1) != mean_score(values, seed=2)
