"""Observation models against their densities, and the exact posteriors against one another."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import MultivariateMixture
from foreknow.tasks.distribution_transformer.families import FAMILIES, InverseGammaFamily
from foreknow.tasks.distribution_transformer.observing import (
    FactorVolatility,
    GPData,
    HasLikelihood,
    LinearSensors,
    NormalVariance,
    ObservationModel,
    RangeBearing,
    RangeFinder,
    TwoLevel,
    Volatility,
    some_of,
)
from foreknow.tasks.distribution_transformer.oracles import (
    GPPosterior,
    GridPosterior,
    inverse_gamma_posterior,
    linear_gaussian_posterior,
    range_posterior,
    sensors_posterior,
)
from foreknow.tasks.distribution_transformer.presets import EXPERIMENTS
from foreknow.tasks.distribution_transformer.prior import MixtureMeta
from foreknow.tasks.distribution_transformer.training import draw_tasks


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_experiments_draw_finite_tasks(task):
    found = EXPERIMENTS[task]
    assert isinstance(found.model, ObservationModel)
    assert isinstance(found.model, HasLikelihood) or task == "gp"
    tasks = draw_tasks(found.meta, found.model, 300, torch_stream(0, task))
    assert bool(tasks.target.isfinite().all()) and bool(tasks.params.isfinite().all())
    there = torch.cat([~value.isnan().any(-1) for value in tasks.tokens.values()], 1)
    assert bool(there.any(1).all())  # a task without an observation would teach nothing
    for value in tasks.tokens.values():
        assert not bool(value.isinf().any())


def test_each_row_keeps_the_first_few_tokens():
    kept = some_of(torch.zeros(2000, 5, 1), torch_stream(0, "some"))
    counts = (~kept[..., 0].isnan()).sum(1)
    assert counts.unique().tolist() == [1, 2, 3, 4, 5]
    assert not bool((kept[:, 1:, 0].isnan() < kept[:, :-1, 0].isnan()).any())


def test_ranges_have_the_density_that_is_said():
    finder = RangeFinder(sd=0.5, p_short=0.1, p_uniform=0.2, p_most=0.1)
    z = torch.linspace(-4, 60, 64_001, dtype=torch.float64)
    density = finder.log_density(z, torch.tensor(7.0, dtype=torch.float64)).exp()
    assert float(torch.trapezoid(density, z)) == pytest.approx(1.0, abs=1e-3)
    drawn = finder.measure(torch.full((20_000,), 7.0, dtype=torch.float64), torch_stream(0, "z"))
    for low, high in ((-1.0, 2.0), (2.0, 6.5), (6.5, 7.5), (7.5, 18.0), (18.0, 22.0)):
        inside = (z >= low) & (z < high)
        expected = float(torch.trapezoid(density[inside], z[inside]))
        assert float(((drawn >= low) & (drawn < high)).double().mean()) == pytest.approx(expected, abs=0.012)


def test_bearings_do_not_mind_where_the_angle_wraps():
    model = RangeBearing()
    state = torch.tensor([[-5.0, 1e-3, 0.0, 0.0], [-5.0, -1e-3, 0.0, 0.0]], dtype=torch.float64)
    angle = torch.tensor([math.pi - 1e-3, -math.pi + 1e-3], dtype=torch.float64)
    for a in angle:
        token = torch.stack([a.sin(), a.cos()]).reshape(1, 1, 2).expand(2, 1, 2)
        found = model.log_likelihood(state, {"bearing": token})
        assert torch.allclose(found[0], found[1], atol=1e-2)
        assert float(found[0]) == pytest.approx(stats.norm(0, 0.1).logpdf(0.0), abs=1e-2)
    seen = model.observe(state.repeat(500, 1), state, generator=torch_stream(0, "bearing"))["bearing"]
    seen = seen[~seen.isnan().any(-1)]
    assert torch.allclose(seen.square().sum(-1), torch.ones(len(seen), dtype=torch.float64))


def test_several_assets_have_the_covariance_of_the_factor():
    model = FactorVolatility((1.0, 0.5), (0.3, 0.7))
    state = torch.tensor([[0.4, -0.6]], dtype=torch.float64)
    b, s = np.array([1.0, 0.5]), np.array([0.3, 0.7])
    cov = np.outer(b, b) * math.exp(0.4) + np.diag(s**2) * math.exp(-0.6)
    z = torch.tensor([[[0.3, -0.8]]], dtype=torch.float64)
    expected = stats.multivariate_normal(np.zeros(2), cov).logpdf([0.3, -0.8])
    assert float(model.log_likelihood(state, {"returns": z})[0]) == pytest.approx(expected)
    drawn = model.observe(state.expand(20_000, 2), state, generator=torch_stream(0, "r"))["returns"][:, 0]
    assert np.allclose(np.cov(drawn.numpy().T), cov, atol=0.05)


def test_two_level_chances_are_those_of_the_matrix_exponential():
    delta, t = 0.3, 2.7
    start = np.array([1.0, 1.0]) / math.sqrt(2)
    hamiltonian = delta * np.array([[0, 1], [1, 0]]) + (1 - delta) * np.array([[1, 0], [0, -1]])
    amplitude = linalg.expm(-1j * hamiltonian * t) @ start
    found = TwoLevel().chance(
        torch.tensor([[delta]], dtype=torch.float64),
        torch.tensor([[t]], dtype=torch.float64),
        torch.as_tensor(start).reshape(1, 1, 2),
    )
    assert float(found) == pytest.approx(abs(amplitude[0]) ** 2, abs=1e-12)


def test_gp_data_and_its_oracle_agree_with_the_joint_process():
    model = GPData(4)
    params = torch.tensor([[0.2, 1.1, 2.0, 4.0]], dtype=torch.float64)
    state = torch.tensor([[0.7, 0.3]], dtype=torch.float64)
    seen = model.observe(state.expand(4000, 2), params.expand(4000, 4), generator=torch_stream(0, "gp"))
    x, query = seen["data"][:1, :, 0], seen["query"][:1, :, 0]
    every = torch.cat([query, x], 1)[0].numpy()
    kernel = 1.1**2 * np.exp(-0.5 * ((every[:, None] - every[None]) / 0.3) ** 2)
    noise = np.diag([1e-12] + [0.1**2] * 4)
    mean, factor = model._given(state, params, x, query)
    cov = kernel + noise
    expected = 0.2 + cov[1:, 0] / cov[0, 0] * (0.7 - 0.2)
    assert np.allclose(mean[0].numpy(), expected, atol=1e-6)
    conditional = cov[1:, 1:] - np.outer(cov[1:, 0], cov[0, 1:]) / cov[0, 0]
    assert np.allclose((factor @ factor.mT)[0].numpy(), conditional, atol=1e-6)
    one = {"data": seen["data"][:1], "query": seen["query"][:1]}
    evidence, after, sd = model.log_posterior_grid(params[0], one, torch.tensor([0.3], dtype=torch.float64))
    y = seen["data"][0, :, 1].numpy() - 0.2
    assert float(evidence) == pytest.approx(stats.multivariate_normal(np.zeros(4), cov[1:, 1:]).logpdf(y), abs=1e-4)
    solved = np.linalg.solve(cov[1:, 1:], cov[1:, 0])
    assert float(after) == pytest.approx(0.2 + solved @ y, abs=1e-4)
    assert float(sd) == pytest.approx(math.sqrt(1.1**2 - solved @ cov[1:, 0]), abs=1e-3)


def test_the_sum_over_lengthscales_is_the_posterior():
    """Against self-normalised importance sampling from the prior, and as a density: it integrates to one."""
    model = GPData(4)
    params = torch.tensor([[0.2, 1.1, 2.0, 4.0], [-0.3, 0.9, 5.0, 9.0]], dtype=torch.float64)
    state = torch.tensor([[0.7, 0.3], [-0.5, 0.6]], dtype=torch.float64)
    seen = model.observe(state, params, generator=torch_stream(1, "gp"))
    exact = GPPosterior(model, params, seen)
    values = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    density = torch.stack([exact.log_prob(v.expand(2)) for v in values]).exp()
    assert torch.allclose(density.sum(0) * (values[1] - values[0]), torch.ones(2, dtype=torch.float64), atol=1e-3)
    rng = np.random.default_rng(0)
    for i, (mean, sd, a, rate) in enumerate(params.tolist()):
        every = np.concatenate([seen["query"][i, :, 0].numpy(), seen["data"][i, :, 0].numpy()])
        y = seen["data"][i, :, 1].numpy() - mean
        weights, heights = [], []
        for length in rng.gamma(a, 1 / rate, size=4000):
            cov = sd**2 * np.exp(-0.5 * ((every[:, None] - every[None]) / length) ** 2)
            inner = cov[1:, 1:] + 0.1**2 * np.eye(4)
            solved = np.linalg.solve(inner, cov[1:, 0])
            weights.append(stats.multivariate_normal(np.zeros(4), inner).pdf(y))
            spread = math.sqrt(sd**2 - solved @ cov[1:, 0])
            heights.append(stats.norm(mean + solved @ y, spread).pdf(float(state[i, 0])))
        expected = math.log(np.average(heights, weights=weights))
        assert float(exact.log_prob(state[:, 0])[i]) == pytest.approx(expected, abs=0.05)
    both = torch.stack([state[:, 0].expand(301, 2), exact.log_lengths], -1)
    total = torch.stack([exact.log_prob_of_both(row) for row in both]).exp().sum(0) * exact.log_step.exp()
    assert torch.allclose(total.log(), exact.log_prob(state[:, 0]), atol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda: NormalVariance(0),
        lambda: LinearSensors(((1.0,), (1.0, 2.0)), (1.0, 1.0)),
        lambda: LinearSensors(((1.0,),), (0.0,)),
        lambda: RangeFinder(p_short=0.5, p_uniform=0.5),
        lambda: RangeBearing(bearing_sd=0.0),
        lambda: FactorVolatility((1.0,), (0.5, 0.5)),
        lambda: GPData(noise=0.0),
        lambda: Volatility(0),
    ],
)
def test_bad_models_are_refused(call):
    with pytest.raises(ConfigError):
        call()


# Exact posteriors -------------------------------------------------------------------------------------------


def test_conjugate_variances_by_hand_and_on_a_grid():
    params = torch.tensor([[2.0, 1.0], [0.7, 3.0]], dtype=torch.float64)
    z = torch.tensor([[0.3, -1.2], [4.0, math.nan]], dtype=torch.float64)
    after = inverse_gamma_posterior(params, z)
    assert after.tolist() == [[3.0, pytest.approx(1 + (0.09 + 1.44) / 2)], [1.2, 11.0]]
    grid = GridPosterior.of(InverseGammaFamily(), params, NormalVariance(2), {"z": z.unsqueeze(-1)})
    exact = InverseGammaFamily().log_prob(after, grid.t.unsqueeze(-1))
    assert float(grid.divergence(exact).abs().max()) < 1e-5
    truth = torch.tensor([0.1, 0.4], dtype=torch.float64)
    peer = [stats.invgamma(a, scale=b).cdf(math.exp(t)) for (a, b), t in zip(after.tolist(), truth.tolist())]
    assert grid.cdf(truth).tolist() == pytest.approx(peer, abs=5e-3)
    assert torch.allclose(grid.log_prob(truth), InverseGammaFamily().log_prob(after, truth.unsqueeze(-1)), atol=5e-3)


def some_mixtures(d: int, n: int = 3) -> MultivariateMixture:
    meta = MixtureMeta((-2.0,) * d, (2.0,) * d, (1.0,) * d, n_components=3)
    return meta.family.mixture(meta.draw(n, torch_stream(1, "mixtures")))


def test_mixtures_after_linear_sensors_are_prior_times_likelihood():
    prior, sensors = some_mixtures(1), LinearSensors(((1.0,), (-0.5,)), (0.1, 4.0), n_max=2)
    z = {
        "z_1": torch.tensor([[0.4, math.nan], [math.nan, math.nan], [1.0, 1.2]]).unsqueeze(-1).double(),
        "z_2": torch.tensor([[2.0, -1.0], [0.3, math.nan], [math.nan, math.nan]]).unsqueeze(-1).double(),
    }
    after = sensors_posterior(prior, sensors, z)
    t = torch.linspace(-20, 20, 40_001, dtype=torch.float64)[:, None, None].expand(-1, 3, 1)
    joint = prior.log_prob(t) + sensors.log_likelihood(t, z)
    known = joint - (torch.logsumexp(joint, 0) + math.log(1e-3))
    heavy = known > -20
    assert float((after.log_prob(t) - known)[heavy].abs().max()) < 1e-2


def test_one_component_is_kalmans_update():
    prior = some_mixtures(2, 1)
    one = MultivariateMixture(prior.logits[:, :1], prior.means[:, :1], prior.scale_tril[:, :1])
    h, r = torch.tensor([[1.0, 0.5]]).double(), torch.tensor([[0.3]]).double()
    after = linear_gaussian_posterior(one, h, r, torch.tensor([[0.7]]).double())
    cov, mean = one.covariances[0, 0].numpy(), one.means[0, 0].numpy()
    precision = np.linalg.inv(cov) + h.numpy().T @ h.numpy() / 0.3
    expected = np.linalg.solve(precision, np.linalg.solve(cov, mean) + h.numpy()[0] * 0.7 / 0.3)
    assert np.allclose(after.means[0, 0].numpy(), expected, atol=1e-5)
    assert np.allclose(after.covariances[0, 0].numpy(), np.linalg.inv(precision), atol=1e-5)


def test_nothing_observed_leaves_mixtures_as_they_are():
    prior = some_mixtures(2)
    nothing = torch.full((3, 1), math.nan, dtype=torch.float64)
    after = linear_gaussian_posterior(prior, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.1]]), nothing)
    x = prior.sample(50, generator=torch_stream(0, "x"))
    assert torch.allclose(after.log_prob(x), prior.log_prob(x), atol=1e-3)
    same = range_posterior(prior, RangeFinder(), {"range": nothing.unsqueeze(-1)})
    assert torch.allclose(same.log_prob(x), prior.log_prob(x), atol=1e-3)


def test_mixtures_after_ranges_with_clutter_are_prior_times_likelihood():
    prior, finder = some_mixtures(1), RangeFinder(n_max=2)
    z = {"range": torch.tensor([[1.5, math.nan], [9.0, 0.2], [19.5, math.nan]]).unsqueeze(-1).double()}
    after = range_posterior(prior, finder, z)
    assert after.n_components == 12
    t = torch.linspace(-20, 20, 40_001, dtype=torch.float64)[:, None, None].expand(-1, 3, 1)
    joint = prior.log_prob(t) + finder.log_likelihood(t, z)
    known = joint - (torch.logsumexp(joint, 0) + math.log(1e-3))
    heavy = known > -20
    assert float((after.log_prob(t) - known)[heavy].abs().max()) < 1e-2


def test_a_grid_gives_the_posterior_of_a_volatility():
    model, family = Volatility(), MixtureMeta(n_components=1).family
    params = family.pack(MultivariateMixture(torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.full((1, 1, 1, 1), 0.8)))
    grid = GridPosterior.of(family, params, model, {"return": torch.tensor([[[2.5]]]).double()})
    h = 0.8 * torch.randn(200_000, generator=torch_stream(0, "h"), dtype=torch.float64)
    weight = torch.exp(-0.5 * (h + 2.5**2 * (-h).exp()))
    assert float(grid.mean_of(grid.t)) == pytest.approx(float((weight * h).sum() / weight.sum()), abs=0.01)
    assert FAMILIES["gamma"].n_dims == 1
