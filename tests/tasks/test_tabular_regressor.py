"""`TabularRegressor` where its users are: scikit-learn, units, intervals, large tables, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone

import foreknow
from foreknow import TabularRegressor
from foreknow.common.errors import ForeknowWarning
from foreknow.common.rng import numpy_stream

QUICK = TabularRegressor(n_estimators=1, random_state=0)


def friedman(n: int, noise: float = 0.5) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rng = numpy_stream(0, "friedman")
    X = rng.uniform(size=(n, 6))
    return X, 10 * np.sin(np.pi * X[:, 0] * X[:, 1]) + 20 * (X[:, 2] - 0.5) ** 2 + noise * rng.normal(size=n)


@pytest.mark.parametrize("n_estimators", [1, 3])
def test_it_learns_a_surface_and_its_intervals_hold(n_estimators: int) -> None:
    X, y = friedman(300)
    model = TabularRegressor(n_estimators=n_estimators, random_state=0).fit(X[:150], y[:150])
    assert model.score(X[150:], y[150:]) > 0.85
    low, high = model.predict(X[150:], quantiles=[0.05, 0.95]).T
    assert 0.75 < ((low < y[150:]) & (y[150:] < high)).mean() < 0.99
    dist = model.predict_dist(X[150:])
    assert torch.allclose(dist.mean(), torch.as_tensor(model.predict(X[150:])))
    assert torch.allclose(dist.cdf(dist.quantile(0.3)), torch.full((150,), 0.3).double(), atol=1e-6)


def test_the_average_of_members_is_the_average_of_their_distributions() -> None:
    X, y = friedman(120)
    model = TabularRegressor(n_estimators=3, random_state=0).fit(X[:80], y[:80])
    joint = model.predict_dist(X[80:])
    members, single = model.members_, []
    for member in members:
        model.members_ = [member]
        single.append(model.predict_dist(X[80:]))
    at = torch.as_tensor(y[80:])
    averaged = torch.stack([one.cdf(at) for one in single]).mean(dim=0)
    assert torch.allclose(joint.cdf(at), averaged, atol=0.02)
    means = torch.stack([one.mean() for one in single]).mean(dim=0)
    assert torch.allclose(joint.mean(), means, atol=0.02 * float(at.std()))


def test_units_of_the_target_change_nothing_but_the_units() -> None:
    X, y = friedman(80)
    plain = clone(QUICK).fit(X[:60], y[:60]).predict_dist(X[60:])
    for shift, scale in ((1e6, 1e3), (0.0, 1e-200), (0.0, 1e200)):
        moved = clone(QUICK).fit(X[:60], shift + scale * y[:60]).predict_dist(X[60:])
        assert torch.allclose((moved.mean() - shift) / scale, plain.mean(), rtol=1e-3, atol=1e-3)
    truth = torch.as_tensor(y[60:])
    scaled = clone(QUICK).fit(X[:60], 10 * y[:60]).predict_dist(X[60:])
    assert torch.allclose(scaled.log_prob(10 * truth), plain.log_prob(truth) - np.log(10), atol=1e-3)


def test_a_constant_target_is_predicted_as_it_is() -> None:
    X, _ = friedman(30)
    model = clone(QUICK).fit(X, np.full(30, 7.0))
    assert np.allclose(model.predict(X), 7.0, atol=1e-2)


def test_large_tables_are_sampled_over_the_whole_target_with_a_warning() -> None:
    X, y = friedman(400)
    model = TabularRegressor(n_estimators=2, max_rows=50, random_state=0)
    with pytest.warns(ForeknowWarning, match="has 400 rows"):
        model.fit(X, y)
    rows = model._sample(y, 50, numpy_stream(0))
    assert len(set(rows.tolist())) == 50
    quarter = np.searchsorted(np.quantile(y, [0.25, 0.5, 0.75]), y[rows])
    assert np.bincount(quarter).min() >= 11


def test_wide_tables_are_sampled_by_columns_with_a_warning() -> None:
    X, y = friedman(60)
    wide = np.hstack([X, numpy_stream(3).normal(size=(60, 20))])
    model = TabularRegressor(n_estimators=2, max_columns=8, random_state=0)
    with pytest.warns(ForeknowWarning, match="has 26 columns"):
        model.fit(wide, y)
    first, second = (member.columns.tolist() for member in model.members_)
    assert len(first) == len(second) == 8 and first != second
    assert np.isfinite(model.predict(wide)).all()


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    X, y = friedman(60)
    model = TabularRegressor(random_state=0).fit(X, y)
    again = foreknow.load(model.save(tmp_path / "model.safetensors"))
    assert np.array_equal(again.predict(X, quantiles=[0.1, 0.9]), model.predict(X, quantiles=[0.1, 0.9]))


def test_off_reads_the_heads_alone() -> None:
    X, y = friedman(60)
    off = TabularRegressor(prior="off", random_state=0, n_estimators=1).fit(X[:40], y[:40])
    member = off.members_[0]
    scores = member.scores(off._scaled(off.encoder_.transform(off._read_X(X[40:], fitting=False)).x))
    expected = y[:40].mean() + y[:40].std() * scores.heads[0, :, 0, -1].numpy()
    # The bar around the combination is symmetric.
    assert np.allclose(off.predict(X[40:]), expected, atol=1e-6)
