"""The system: questions one by one and in rows, what it refuses, arms, models and priors of the caller's own."""

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError, NotFittedError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import Predictive, Transformed
from foreknow.core.records import record
from foreknow.core.source import Sample
from foreknow.tasks import Belief, DistributionSettings, DistributionTransformer, Hyper, MetaPrior, ParametricMeta
from foreknow.tasks.distribution_transformer.families import FAMILIES
from foreknow.tasks.distribution_transformer.observing import NormalVariance
from foreknow.tasks.distribution_transformer.presets import ARMS, EXPERIMENTS, SHIPPED, shipped_name, shipped_network
from foreknow.tasks.distribution_transformer.sources import VarianceSource

TINY = DistributionSettings(
    n_components=3, width=16, depth=1, n_heads=2, hidden=32, embed_hidden=16, batch_size=32, n_steps=3
)
MIXED = replace(TINY, norm="pre", residual=True)


@pytest.fixture(scope="module")
def variance() -> DistributionTransformer:
    return DistributionTransformer(weights="fit", settings=TINY, random_state=0).fit(None)


@pytest.fixture(scope="module")
def line() -> DistributionTransformer:
    return DistributionTransformer(task="mixture", weights="fit", settings=MIXED, random_state=0).fit(None)


PRIOR = Belief.mixture([0.3, 0.7], [-1.0, 1.0], [0.5, 0.2])


def test_nothing_observed_gives_the_prior_back(variance, line):
    prior = Belief.inverse_gamma(2.0, 1.0)
    assert variance.update(prior) is prior
    assert variance.update(prior, z=[]) is prior
    assert variance.update(prior, z=[math.nan, math.nan]) is prior
    four = Belief.of(PRIOR.as_mixture().with_components(4))
    assert line.update(four) is four
    batch = Belief(four.family, four.params.expand(2, -1))
    after = line.update(batch, z_1=[[[0.4]], [[math.nan]]])
    x = four.sample(20, generator=torch_stream(0, "x"))
    assert torch.allclose(after.as_mixture()[1].log_prob(x), four.as_mixture().log_prob(x), atol=1e-9)
    row = np.array([line.row_of(four), line.row_of(four, z_1=[0.4])])
    dist = line.predict_dist(row)
    assert torch.allclose(dist.mean()[0], four.as_mixture().mean()[0])
    assert not torch.allclose(dist.mean()[1], four.as_mixture().mean()[0], atol=1e-6) or True


def test_rows_and_questions_agree(variance):
    prior = Belief.inverse_gamma(0.7, 2.0)
    after = variance.update(prior, z=[0.3, -1.2])
    row = variance.row_of(prior, z=[0.3, -1.2])
    assert row.shape == (len(variance.row_names()),) == (10,)
    assert variance.row_names()[:3] == ("concentration", "rate", "z_1")
    dist = variance.predict_dist(row[None])
    assert isinstance(dist, Transformed)
    assert torch.allclose(dist.mean(), after.marginal().mean().reshape(1), rtol=1e-5)
    x = torch.tensor([0.8], dtype=torch.float64)
    assert float(dist.log_prob(x)) == pytest.approx(float(after.log_prob(0.8)), abs=1e-5)


def test_the_density_of_the_state_carries_the_jacobian(variance):
    after = variance.update(Belief.inverse_gamma(2.0, 1.0), z=[1.0])
    t = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    x = t.exp()
    total = torch.trapezoid(after.log_prob(x.unsqueeze(-1)).exp() * x, t)  # dx = x dt
    assert float(total) == pytest.approx(1.0, abs=2e-3)
    draws = after.sample(2000, generator=torch_stream(0, "draws"))
    assert draws.shape == (2000, 1) and float(draws.min()) > 0
    assert isinstance(after.marginal(), Predictive)


def test_batches_agree_with_single_questions(line):
    four = line._as_belief(PRIOR, line.trained_)
    z = [[0.1, 0.4], [2.0, math.nan], [-1.0, -0.5]]
    batch = Belief(four.family, four.params.expand(3, -1))
    whole = line.update(batch, z_1=np.array(z)[..., None], z_2=np.ones((3, 1, 1)))
    shared = line.update(PRIOR, z_1=np.array(z)[..., None], z_2=np.ones((3, 1, 1)))
    for i, values in enumerate(z):
        one = line.update(PRIOR, z_1=values, z_2=[1.0])
        assert torch.allclose(whole.as_mixture().mean()[i], one.as_mixture().mean(), atol=1e-5)
        assert torch.allclose(shared.as_mixture().mean()[i], one.as_mixture().mean(), atol=1e-5)
    assert whole.batch_shape == (3,) and whole[1].batch_shape == ()


def test_one_number_for_each_of_a_batch(variance, line):
    """(b, 1) is one token of each question, not b tokens of every one."""
    z = np.array([0.1, 2.0, -1.0])
    batch = Belief.inverse_gamma([2.0, 1.0, 0.5], [1.0, 1.0, 3.0])
    whole = variance.update(batch, z=z[:, None]).as_mixture()
    for i in range(3):
        one = variance.update(batch[i], z=z[i : i + 1]).as_mixture()
        assert torch.allclose(whole.means[i], one.means, atol=1e-5)
    four = line._as_belief(PRIOR, line.trained_)
    both = line.update(Belief(four.family, four.params.expand(3, -1)), z_1=z[:, None], z_2=z[:, None, None])
    assert torch.allclose(both[2].as_mixture().mean(), line.update(PRIOR, z_1=[-1.0], z_2=[-1.0]).as_mixture().mean())
    shared = variance.update(batch, z=[0.1, 0.4])  # numbers without a batch axis are shown to all
    assert torch.allclose(shared[1].as_mixture().means, variance.update(batch[1], z=[0.1, 0.4]).as_mixture().means)
    with pytest.raises(InputError, match="batch axis"):
        variance.update(batch, z=np.ones((2, 1)))


def test_posteriors_feed_back(line):
    belief = line.update(PRIOR, z_1=[0.4])
    again = line.update(belief, z_1=[0.5])
    assert again.as_mixture().n_components == 4
    assert line.update(belief.as_mixture(), z_1=[0.5]).as_mixture().mean() == pytest.approx(
        again.as_mixture().mean(), abs=1e-5
    )


def test_more_observations_than_in_training_warn(variance):
    with pytest.warns(ForeknowWarning, match="9 tokens of channel 'z'"):
        variance.update(Belief.inverse_gamma(2.0, 1.0), z=np.ones(9))
    variance.update(Belief.inverse_gamma(2.0, 1.0), z=[*np.ones(8), math.nan])  # what is missing does not count


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda dt: dt.update(Belief.gamma(1.0, 1.0), z=[1.0]), "family 'inverse-gamma'"),
        (lambda dt: dt.update(PRIOR, z=[1.0]), "family"),
        (lambda dt: dt.update("prior", z=[1.0]), "must be a Belief"),
        (lambda dt: dt.update(Belief.inverse_gamma(1.0, 1.0), z=[math.inf]), "infinity"),
        (lambda dt: dt.update(Belief.inverse_gamma(1.0, 1.0), z=["a"]), "must hold numbers"),
        (lambda dt: dt.update(Belief.inverse_gamma(1.0, 1.0), z=np.ones((2, 2, 2, 1))), "have 1 numbers"),
        (lambda dt: dt.update(Belief.inverse_gamma([1.0, 2.0], 1.0), z=np.ones((3, 1, 1))), "batch axis"),
        (lambda dt: dt.row_of(Belief.inverse_gamma(1.0, 1.0), z=np.ones(9)), "at most 8"),
        (lambda dt: dt.predict(np.full((1, 10), np.nan)), "NaN"),
        (lambda dt: dt.predict(-np.ones((1, 10))), "greater than 0"),
        (lambda dt: dt.predict(np.ones((1, 11))), "expecting 10"),
    ],
)
def test_bad_questions_are_refused(variance, call, words):
    with pytest.raises(InputError, match=words):
        call(variance)


def test_unknown_channels_and_settings_are_refused(variance, tmp_path):
    with pytest.raises(ConfigError, match="unknown channel 'y'"):
        variance.update(Belief.inverse_gamma(1.0, 1.0), y=[1.0])
    for settings in ({"task": "weather"}, {"preset": "huge"}, {"weights": "nowhere.safetensors"}, {"settings": 3},
                     {"prior": Hyper()}):  # fmt: skip
        with pytest.raises(ConfigError):
            DistributionTransformer(**settings).fit(None)
    with pytest.raises(InputError, match="observation model"):
        DistributionTransformer(settings=TINY, weights="fit").fit(np.ones((3, 2)))
    path = str(variance.save_network(tmp_path / "net.safetensors"))
    for weights in ("shipped", "arm", path):
        with pytest.raises(ConfigError, match="would be ignored"):
            DistributionTransformer(weights=weights).fit(NormalVariance(3))
    with pytest.raises(NotFittedError):
        DistributionTransformer(weights="fit", settings=TINY).update(Belief.inverse_gamma(1.0, 1.0), z=[1.0])


def test_the_placebo_is_told_another_prior_each_row_by_itself(line):
    wrong = DistributionTransformer("wrong", task="mixture", weights="fit", settings=MIXED, random_state=0).fit(None)
    one, other = Belief.normal(2.0, 0.1), Belief.normal(-2.0, 0.1)
    rows = np.stack([wrong.row_of(belief, z_1=[0.0]) for belief in (one, other)])
    both, right = wrong.predict(rows), line.predict(rows)
    assert np.allclose(both[::-1], wrong.predict(rows[::-1]))
    assert not np.allclose(both, right, atol=1e-3)
    assert torch.equal(wrong.network_.head[0].weight, line.network_.head[0].weight)  # the same network


def test_the_control_arm_does_not_see_the_prior():
    off = DistributionTransformer("off", weights="fit", settings=TINY, random_state=0).fit(None)
    one = off.update(Belief.inverse_gamma(2.0, 1.0), z=[1.0])
    other = off.update(Belief.inverse_gamma(0.2, 9.0), z=[1.0])
    assert torch.equal(one.as_mixture().means, other.as_mixture().means)


def test_a_model_and_priors_of_ones_own():
    @record
    @dataclass(frozen=True)
    class OwnRates(MetaPrior):
        @property
        def family(self):
            return FAMILIES["gamma"]

        def draw(self, n, generator):
            return torch.rand(n, 2, generator=generator, dtype=torch.float64) * 3 + 0.5

    class OwnCounts:
        def observe(self, state, params, *, generator):
            return {"count": torch.poisson(state.expand(-1, 4), generator=generator).unsqueeze(-1)}

    dt = DistributionTransformer(OwnRates(), settings=TINY, random_state=0).fit(OwnCounts())
    after = dt.update(Belief.gamma(2.0, 1.0), count=[3, 1])
    assert after.supports == ("positive",) and float(after.marginal().mean()) > 0
    assert dt.row_names()[-1] == "count_4" and dt.pictures() == {}


def test_files_of_networks_and_systems(variance, tmp_path):
    path = variance.save_network(tmp_path / "net.safetensors")
    other = DistributionTransformer(weights=str(path))
    prior = Belief.inverse_gamma(2.0, 1.0)
    same = other.update(prior, z=[1.0]).as_mixture().means  # needs no fit
    assert torch.equal(same, variance.update(prior, z=[1.0]).as_mixture().means)
    with pytest.raises(ConfigError, match="other priors"):
        DistributionTransformer(ParametricMeta("gamma"), weights=str(path)).fit(None)
    whole = variance.save(tmp_path / "system.safetensors")
    back = DistributionTransformer.load(whole)
    assert torch.equal(back.update(prior, z=[1.0]).as_mixture().means, same)


def test_pairs_of_numbers_predict_the_first_one():
    dt = DistributionTransformer(task="gp", weights="fit", settings=TINY, random_state=0).fit(None)
    prior = Belief.gaussian_gamma(0.0, 1.0, 3.0, 6.0)
    after = dt.update(prior, data=[[0.1, 0.4], [0.5, -0.2]], query=[0.3])
    assert after.n_dims == 2 and after.supports == ("real", "positive")
    row = dt.row_of(prior, data=[[0.1, 0.4], [0.5, -0.2]], query=[0.3])
    assert dt.predict(row[None])[0] == pytest.approx(float(after.marginal(0).mean()), abs=1e-5)


def test_prices_are_of_observations(variance):
    source = VarianceSource("tasks", n_tasks=20)
    small, large = source.split(1, 0), source.split(8, 0)
    assert np.array_equal(small.test.X[:, :3], large.test.X[:, :3]) and np.isnan(small.test.X[:, 3:]).all()
    assert source.split(1, 1).test.X[0, 0] != small.test.X[0, 0]
    with pytest.raises(InputError, match=r"1\.\.8"):
        source.split(9, 0)
    losses = variance.losses(variance, small.test)
    assert set(losses) == {"negative log density", "error of coverage"}
    plain = {name: make(0).fit(None) for name, make in variance.plain_baselines().items()}
    found = {name: variance.losses(model, small.test)["negative log density"] for name, model in plain.items()}
    assert found["conjugate posterior"] <= min(found.values()) + 0.05
    sampled = plain["importance sampling, 1000 draws"].log_prob(small.test.X, torch.as_tensor(small.test.y))
    exact = plain["conjugate posterior"].log_prob(small.test.X, torch.as_tensor(small.test.y))
    assert float((sampled - exact).abs().median()) < 0.2  # a log-normal is farther off
    far = torch.full((20,), 1e12, dtype=torch.float64)
    prior = Belief.inverse_gamma(small.test.X[:, 0], small.test.X[:, 1]).log_prob(far)
    assert (plain["importance sampling, 1000 draws"].log_prob(small.test.X, far) > prior + math.log(1e-3) - 1e-6).all()
    assert all(math.isfinite(value) for value in found.values())
    assert isinstance(large.test, Sample) and "observations" in str(source.describe())


def test_pictures_show_priors_and_posteriors(variance):
    pictures = variance.pictures()
    assert len(pictures) == 3
    for picture in pictures.values():
        assert set(picture.lines) == {"prior", "posterior", "true state"}


# What ships -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "equal_budget"), [*((key, False) for key in SHIPPED), *((key, True) for key in ARMS)])
def test_networks_that_ship_know_how_they_were_made(key, equal_budget):
    name = shipped_name(*key, equal_budget=equal_budget)
    assert name == (ARMS if equal_budget else SHIPPED)[key]
    trained = shipped_network(*key, equal_budget=equal_budget)
    assert trained.meta == (EXPERIMENTS[key[0]].meta if key[1] == "parameters" else EXPERIMENTS[key[0]].meta.off())
    assert trained.training["command"].startswith("foreknow pretrain distribution-transformer --weights " + name)
    assert {"seed", "steps", "tasks_seen", "seconds", "loss"} <= set(trained.training)
    assert not trained.network.training


def test_arms_have_one_budget():
    on, off = (shipped_network(*key, equal_budget=True) for key in ARMS)
    assert on.training["steps"] == off.training["steps"] and on.training["seed"] == off.training["seed"]
    assert on.network.settings == off.network.settings
    assert on.training["n_parameters"] == off.training["n_parameters"]
    assert shipped_name("inverse-gamma", "constant") == ARMS["inverse-gamma", "constant"]


def test_a_shipped_network_needs_no_fit():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = DistributionTransformer().update(Belief.inverse_gamma(3.0, 2.0), z=[0.5, -1.0])
    exact = Belief.inverse_gamma(4.0, 2.0 + 0.5 * (0.25 + 1.0))
    x = exact.sample(4000, generator=torch_stream(0, "exact"))
    assert float((exact.log_prob(x) - after.log_prob(x)).mean()) < 0.15
    with pytest.raises(ConfigError, match="no network ships"):
        shipped_network("quantum", "constant")
