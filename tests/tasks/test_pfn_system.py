"""The system `pfn` on a user's own rows: scales, limits, settings, files, the shipped networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import foreknow
from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.core.batch import Batch
from foreknow.core.checkpoint import Checkpoint
from foreknow.tasks import PFN, GPPrior, PFNNetwork, PFNSettings
from foreknow.tasks.pfn.presets import ARMS, GP_1D, SHIPPED, prior_of
from foreknow.tasks.pfn.priors.bnn import BNNPrior
from foreknow.trained import weights_path

TINY = PFNSettings(width=16, depth=1, n_heads=2, n_buckets=20, n_rows=16, batch_size=16, n_steps=5)


def curve(n: int = 12) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x = numpy_stream(0, "curve").uniform(size=(n, 1))
    return x, np.sin(6 * x[:, 0])


def test_the_shipped_curve_network_is_close_to_the_mixture_oracle() -> None:
    model = PFN(standardize=False, random_state=0)
    batch = GP_1D.sample(40, n_context=15, n_query=8, generator=torch_stream(7, "held out"))
    assert batch.query_y is not None
    oracle = GP_1D.mixture_oracle(batch, n_samples=300, generator=torch_stream(8)).log_prob(batch.query_y)
    marginal = torch.distributions.Normal(0.0, 1.02).log_prob(batch.query_y).mean()
    ours = []
    for i in range(40):
        one = Batch(batch.context_x[i : i + 1], batch.context_y[i : i + 1], batch.query_x[i : i + 1])
        posterior = model.condition(one.context_x[0].numpy(), one.context_y[0].numpy())
        ours.append(posterior.predict(one.query_x[0].numpy()).log_prob(batch.query_y[i]))
    gap = float((oracle - torch.stack(ours)).mean())
    assert gap < 0.2
    assert float(torch.stack(ours).mean()) > float(marginal) + 0.3


def test_units_of_the_user_change_nothing_but_the_units() -> None:
    x, y = curve()
    new = np.linspace(0, 1, 7)[:, None]
    plain = PFN(random_state=0).fit(x, y).predict_dist(new)
    moved = PFN(random_state=0).fit(1e6 + 1e3 * x, 500 - 1e-3 * y).predict_dist(1e6 + 1e3 * new)
    assert torch.allclose(moved.mean(), 500 - 1e-3 * plain.mean(), atol=2e-5)
    truth = torch.zeros(7)
    mirrored = PFN(random_state=0).fit(x, 10 * y).predict_dist(new)
    assert torch.allclose(mirrored.log_prob(truth), plain.log_prob(truth) - np.log(10), atol=1e-3)


def test_intervals_are_narrow_at_the_data_and_wide_away_from_them() -> None:
    x = np.linspace(0, 0.3, 20)[:, None]
    posterior = PFN(standardize=False).condition(x, np.sin(6 * x[:, 0]))
    low, high = posterior.predict(np.array([[0.15], [0.95]])).interval(0.9)
    assert (high - low)[0] < 0.5 * (high - low)[1]


def test_expected_improvement_prefers_the_promising_side() -> None:
    x = np.linspace(0, 0.5, 15)[:, None]
    dist = PFN(standardize=False).condition(x, 2 * x[:, 0]).predict(np.array([[0.0], [0.55]]))
    gain = dist.ei(1.0)
    assert gain[1] > gain[0] >= 0


def test_no_rows_and_one_row_work() -> None:
    model = PFN(random_state=0)
    empty = model.condition(np.zeros((0, 1)), np.zeros(0)).predict(np.array([[0.5]]))
    assert torch.isfinite(empty.mean()).all()
    one = model.fit([[3.0]], [5.0]).predict_dist([[3.0]])
    assert abs(float(one.mean()[0]) - 5.0) < 1.0


def test_many_queries_are_read_in_pieces() -> None:
    x, y = curve()
    posterior = PFN(random_state=0).condition(x, y)
    new = np.linspace(0, 1, 50)[:, None]
    whole = posterior.predict(new).mean()
    posterior.chunk_size = 7
    assert torch.allclose(posterior.predict(new).mean(), whole, atol=1e-5)


def test_more_rows_than_in_training_warn() -> None:
    x, y = curve(200)
    with pytest.warns(ForeknowWarning, match="200 context rows"):
        PFN(random_state=0).fit(x, y)


def test_too_many_columns_or_classes_are_refused() -> None:
    with pytest.raises(InputError, match="2 columns"):
        PFN().fit(np.ones((5, 2)), np.arange(5.0))
    X = numpy_stream(1).normal(size=(30, 3))
    with pytest.raises(InputError, match="15 classes"):
        PFN(task="classification").fit(X, np.arange(30) % 15)


def test_the_shipped_table_network_beats_guessing() -> None:
    rng = numpy_stream(2)
    X = rng.normal(size=(160, 4))
    y = np.array(["a", "b", "c"])[np.digitize(X[:, 0] + 0.5 * X[:, 1], [-0.5, 0.5])]
    model = PFN(task="classification", random_state=0).fit(X[:100], y[:100])
    probabilities = model.predict_proba(X[100:])
    assert probabilities.shape == (60, 3)
    assert (model.predict(X[100:]) == y[100:]).mean() > 0.6


def test_pretrain_is_used_by_fit_and_condition() -> None:
    prior = GPPrior(n_features=2, lengthscale=0.5)
    model = PFN(prior, weights="fit", settings=TINY, random_state=0).pretrain(n_steps=3)
    network = model.network_
    X = numpy_stream(3).uniform(size=(6, 2))
    model.fit(X, X[:, 0])
    assert model.network_ is network
    model.set_params(random_state=1).fit(X, X[:, 0])
    assert model.network_ is not network


def test_a_network_file_serves_as_weights(tmp_path: Path) -> None:
    prior = GPPrior(lengthscale=0.5)
    x, y = curve()
    model = PFN(prior, settings=TINY, random_state=0).fit(x, y)
    path = model.save_network(tmp_path / "mine.safetensors")
    again = PFN(prior, weights=str(path)).fit(x, y)
    assert np.array_equal(again.predict(x), model.predict(x))
    copy = PFN(weights=str(path)).fit(x, y).save_network(tmp_path / "copy.safetensors")
    assert PFNNetwork.from_checkpoint(copy)[1] == prior
    for other in ("off", GPPrior(lengthscale=0.1)):
        with pytest.raises(ConfigError, match="another prior"):
            PFN(other, weights=str(path)).fit(x, y)
    with pytest.raises(ConfigError, match="holds a network for regression"):
        PFN(task="classification", weights=str(path)).fit(x, y > 0)


def test_saved_system_says_that_it_contains_rows(tmp_path: Path) -> None:
    x, y = curve()
    path = PFN(random_state=0).fit(x, y).save(tmp_path / "model.safetensors")
    assert foreknow.Checkpoint.load(path).contains_rows
    loaded = foreknow.load(path)
    assert np.array_equal(loaded.predict(x), PFN(random_state=0).fit(x, y).predict(x))


def test_the_arms_are_working_objects() -> None:
    x, y = curve()
    off = PFN(prior="off", settings=TINY, random_state=0).fit(x, y)
    untrained = PFN(settings=TINY, random_state=0).untrained().fit(x, y)
    assert np.isfinite(off.predict(x)).all()
    assert np.isfinite(untrained.predict(x)).all()
    assert sum(p.numel() for p in off.network_.parameters()) == sum(p.numel() for p in untrained.network_.parameters())


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"task": "ranking"}, "task"),
        ({"preset": "huge"}, "preset"),
        ({"weights": "shipped", "prior": GPPrior(n_features=1)}, "shipped"),
        ({"prior": BNNPrior()}, "classification tasks"),
        ({"settings": 3}, "PFNSettings"),
        ({"weights": 3}, "weights"),
        ({"prior": "of"}, "off"),
    ],
)
def test_bad_settings_are_refused(params: dict[str, object], message: str) -> None:
    x, y = curve()
    with pytest.raises(ConfigError, match=message):
        PFN(**params).fit(x, y)  # type: ignore[arg-type]


def test_predict_gives_quantiles() -> None:
    x, y = curve()
    model = PFN(random_state=0).fit(x, y)
    found = model.predict(x, quantiles=[0.1, 0.5, 0.9])
    assert found.shape == (len(x), 3) and bool((np.diff(found, axis=1) > 0).all())
    assert np.allclose(found[:, 1], model.predict_dist(x).quantile(0.5))
    with pytest.raises(ConfigError, match="between 0 and 1"):
        model.predict(x, quantiles=[0.0, 0.5])
    with pytest.raises(CapabilityError, match="no quantiles"):
        PFN(task="classification", random_state=0).fit(x, y > 0).predict(x, quantiles=[0.5])


@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("arm", ["off", "wrong"])
def test_shipped_arms_were_fitted_to_the_priors_they_stand_for(task, arm):
    path = weights_path(ARMS[task, arm])
    network, prior = PFNNetwork.from_checkpoint(path)
    shipped, _ = PFNNetwork.from_checkpoint(weights_path(SHIPPED[task]))
    assert prior == prior_of(task, arm)
    steps = [Checkpoint.load(weights_path(name)).training["steps"] for name in (ARMS[task, arm], SHIPPED[task])]
    assert steps[0] == steps[1]
    assert network.settings == replace(shipped.settings, n_steps=network.settings.n_steps)


def test_the_arms_know_less_than_the_network_with_its_prior():
    rng = np.random.default_rng(0)
    losses = {}
    for arm in ("paper", "off", "wrong"):
        found = []
        for _ in range(20):
            x = np.sort(rng.uniform(size=24))[:, None]
            y = np.sin(12 * x[:, 0]) + 0.05 * rng.normal(size=24)
            dist = PFN(prior=arm).fit(x[::2], y[::2]).predict_dist(x[1::2])
            found.append(-float(dist.log_prob(torch.as_tensor(y[1::2])).mean()))
        losses[arm] = np.mean(found)
    assert losses["paper"] < losses["wrong"] < losses["off"]
