"""What a trial stores: losses at every temperature against plain versions."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from foreknow.common.errors import InputError
from foreknow.core.predictive import Gaussian
from foreknow.pricing.scoring import GRID, MEASURES, SMALLEST, UNCHANGED, score_classes, score_numbers


def probabilities(n=60, k=3, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(k), n)
    return p, np.array([rng.choice(k, p=row) for row in p])


def test_the_grid_is_even_and_holds_one():
    assert GRID[UNCHANGED] == 1 and GRID[0] == pytest.approx(0.05) and GRID[-1] == pytest.approx(20)


def test_classes_at_temperature_one_are_the_usual_measures():
    p, y = probabilities()
    found = score_classes(p, y)
    assert set(found.metrics) == set(MEASURES["classification"])
    assert found.metrics["log_loss"] == pytest.approx(log_loss(y, p))
    assert found.metrics["error"] == pytest.approx((p.argmax(1) != y).mean())
    assert found.metrics["auc_loss"] == pytest.approx(1 - roc_auc_score(y, p, multi_class="ovo"))
    assert found.detail["brier"][UNCHANGED] == pytest.approx(found.metrics["brier"], abs=1e-6)
    assert found.detail["block_loss"] == [] and found.detail["n_block"] == 0


@pytest.mark.parametrize("index", [0, 13, UNCHANGED, 33])
def test_classes_at_any_temperature_match_a_plain_version(index):
    p, y = probabilities()
    found = score_classes(p, y, p_next=p[:7], y_next=y[:7])
    q = p ** (1 / GRID[index])
    q /= q.sum(axis=1, keepdims=True)
    losses = -np.log(np.maximum(q[np.arange(len(y)), y], 1e-300))
    assert found.detail["test_loss"][index] == pytest.approx(losses.mean(), rel=1e-4)
    assert found.detail["block_loss"][index] == pytest.approx(losses[:7].sum(), rel=1e-4)
    sure, right, gap = q.max(1), q.argmax(1) == y, 0.0
    for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15):
        inside = (sure > low) & (sure <= high)
        gap += abs((right[inside] - sure[inside]).sum()) / len(y)
    assert found.detail["ece_15"][index] == pytest.approx(gap, abs=1e-6)
    assert sum(share for _, _, share in found.detail["reliability"][index]) == pytest.approx(1, abs=1e-2)


def test_impossible_rows_cost_a_bounded_amount_and_are_counted():
    p, y = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])
    found = score_classes(p, y)
    assert found.detail["n_clipped"] == 1
    assert found.metrics["log_loss"] == pytest.approx((-np.log(SMALLEST) + np.log(2)) / 2, rel=1e-3)


@pytest.mark.parametrize("index", [10, UNCHANGED, 28])
def test_numbers_at_any_width_match_a_plain_version(index):
    rng = np.random.default_rng(0)
    mean, y = rng.normal(size=50), rng.normal(size=50) * 2
    dist = Gaussian(torch.as_tensor(mean), torch.full((50,), 1.5, dtype=torch.float64))
    found = score_numbers(dist, y, scale=4.0, dist_next=dist, y_next=y)
    wide = stats.norm(mean, 1.5 * GRID[index])
    floor = -np.log(SMALLEST) + np.log(4.0) + np.log(GRID[index])
    losses = np.minimum(-wide.logpdf(y), floor) - np.log(4.0)
    assert found.detail["test_loss"][index] == pytest.approx(losses.mean(), rel=1e-5)
    assert found.detail["block_loss"][index] == pytest.approx(losses.sum(), rel=1e-5)
    assert found.detail["coverage_90"][index] == pytest.approx((np.abs(wide.cdf(y) - 0.5) <= 0.45).mean(), abs=1e-4)
    assert found.metrics["rmse"] == pytest.approx(np.sqrt(np.square(y - mean).mean()) / 4)
    assert found.metrics["mae"] == pytest.approx(np.abs(y - mean).mean() / 4)


def test_units_of_the_target_do_not_matter():
    rng = np.random.default_rng(1)
    mean, y = rng.normal(size=30), rng.normal(size=30)

    def told(unit):
        dist = Gaussian(torch.as_tensor(unit * mean), torch.full((30,), unit, dtype=torch.float64))
        return score_numbers(dist, unit * y, scale=unit)

    assert told(1.0).metrics["log_loss"] == pytest.approx(told(1e4).metrics["log_loss"])
    assert told(1.0).detail["reliability"] == told(1e4).detail["reliability"]


def test_predictions_that_are_no_numbers_are_a_failure():
    with pytest.raises(InputError, match="row 1"):
        score_classes(np.array([[0.5, 0.5], [np.nan, 1.0]]), np.array([0, 1]))
