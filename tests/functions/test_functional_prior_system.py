"""What only `functional-prior` has: critics, measures, targets, matching with a known answer, its posterior."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.core.prior import Prior
from foreknow.core.records import record
from foreknow.functions import BayesianNet, FunctionalPrior, FunctionPrior, GPFunctions, MatchSettings
from foreknow.functions.functional_prior.baselines import DeepEnsemble, PlainGP
from foreknow.functions.functional_prior.matching import Critic, Measurement, train_critic
from foreknow.functions.functional_prior.measures import autocorrelation, energy_distance, interval_score, mmd2
from foreknow.functions.functional_prior.posterior import sample_posterior
from foreknow.functions.functional_prior.proof import SIZES, distance_claims, table_claims
from foreknow.nn.bayes import FlatNetwork, GaussianLayers, GaussianNoise, SGHMCSettings, hmc, mlp

TINY = {
    "matching": MatchSettings(n_outer=2, n_inner=2, n_functions=8, n_points=6, width=8),
    "sampling": SGHMCSettings(n_burn=10, keep_every=2, n_samples=6, n_drop=0, n_chains=2, batch_size=8),
    "hidden": (6,),
    "random_state": 0,
}


@record
@dataclass(frozen=True)
class Lines(FunctionPrior):
    """f(x) = a x with a ~ N(0, slope^2): a target that a user might write."""

    slope: float = 2.0

    def at(self, x: torch.Tensor, n: int, *, generator: torch.Generator) -> torch.Tensor:
        a = self.slope * torch.randn(n, 1, generator=generator, dtype=torch.float64)
        return a * x[:, 0]

    def off(self) -> Prior:
        return self


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(seed, "functional"))


# The critic and the measures ---------------------------------------------------------------------------------------


def test_the_written_out_slope_of_a_critic_is_its_gradient():
    critic = Critic(2, 5, 7, generator=torch_stream(0), device=torch.device("cpu"))
    f = normal(2, 4, 5).requires_grad_(True)
    (slow,) = torch.autograd.grad(critic(f).sum(), f, create_graph=True)
    quick = critic.slope(f)
    assert torch.allclose(quick, slow, atol=1e-6)
    ways = [torch.autograd.grad((g.norm(dim=-1) - 1).square().sum(), critic.parameters[:5], retain_graph=True)
            for g in (quick, slow)]  # fmt: skip
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*ways, strict=True))


def test_a_critic_finds_the_distance_of_shifted_functions():
    one = 0.1 * normal(1, 128, 4)
    settings = MatchSettings(n_inner=300, n_functions=128, n_points=4, width=32, lr_critic=0.05)
    _, objective = train_critic(one + 1.5, one, settings, generator=torch_stream(1))
    assert objective == pytest.approx(3.0, rel=0.15)  # all four values move by 1.5: W1 = 1.5 sqrt(4)


def test_measures_agree_with_plain_loops():
    f, g = normal(6, 3).double(), 0.5 + normal(5, 3, seed=1).double()

    def mean(one, other, kernel):
        pairs = [kernel(a, b) for i, a in enumerate(one) for j, b in enumerate(other) if one is not other or i != j]
        return float(torch.stack(pairs).mean())

    def distance(a, b):
        return (a - b).norm()

    slow = (2 * mean(f, g, distance) - mean(f, f, distance) - mean(g, g, distance)) / 3**0.5
    assert energy_distance(f, g) == pytest.approx(slow, rel=1e-6)
    squares = torch.stack([(a - b).square().sum() for i, a in enumerate(g) for j, b in enumerate(g) if i != j])
    median, total = squares.median(), 0.0
    for factor in (0.25, 1.0, 4.0):

        def kernel(a, b, factor=factor):
            return torch.exp(-0.5 * (a - b).square().sum() / (factor**2 * median))

        total += (mean(f, f, kernel) + mean(g, g, kernel) - 2 * mean(f, g, kernel)) / 3
    assert mmd2(f, g) == pytest.approx(total, rel=1e-6)
    with pytest.raises(InputError, match="functions"):
        mmd2(f, normal(5, 2))


def test_measures_see_no_difference_where_there_is_none():
    f, g, shifted = normal(500, 10), normal(500, 10, seed=1), normal(500, 10, seed=2) + 1
    for measure in (energy_distance, mmd2):
        assert abs(measure(f, g)) < 0.01 < measure(shifted, g) / 5
    low, high, y = (torch.tensor([value]) for value in (0.0, 1.0, 1.5))
    assert float(interval_score(low, high, y)) == pytest.approx(1 + 40 * 0.5)


# Targets -----------------------------------------------------------------------------------------------------------


def test_gp_draws_have_the_kernel_of_the_process():
    x = torch.linspace(0, 2, 5, dtype=torch.float64)[:, None]
    draws = GPFunctions(0.8, variance=2.0).at(x, 40_000, generator=torch_stream(0))
    wanted = 2 * torch.exp(-0.5 * (x - x.T).square() / 0.64)
    assert torch.allclose(torch.cov(draws.T), wanted, atol=0.06)
    white = GPFunctions(0.8, variance=2.0).off().at(x, 40_000, generator=torch_stream(0))
    assert torch.allclose(torch.cov(white.T), 2 * torch.eye(5, dtype=torch.float64), atol=0.06)


def test_the_hyper_prior_is_on_the_logarithm():
    x = torch.zeros(2, 1, dtype=torch.float64)
    draws = GPFunctions(with_hyperprior=True).at(x, 60_000, generator=torch_stream(0))[:, 0]
    assert float(draws.square().mean()) == pytest.approx(np.exp(0.1 + 0.5), rel=0.15)  # the mean of LogNormal(0.1, 1)
    assert GPFunctions().lengthscale_of(8) == 4.0
    assert GPFunctions().stretched(5).lengthscale_of(1) == pytest.approx(5 * 2**0.5)
    for columns in (1, 25):  # the placebo is as much smoother on any table
        assert FunctionalPrior().wrong().target.lengthscale_of(columns) == pytest.approx(5 * (2 * columns) ** 0.5)
    assert GPFunctions(0.6).stretched(2).stretched(3).lengthscale_of(4) == pytest.approx(3.6)


def test_bad_targets_are_refused():
    class Short(Lines):
        def at(self, x, n, *, generator):
            return torch.zeros(n, 1)

    with pytest.raises(InputError, match="shape"):
        Short().sample(2, generator=torch_stream(0))
    with pytest.raises(ConfigError, match="FunctionPrior"):
        FunctionalPrior(FunctionalPrior())
    with pytest.raises(ConfigError, match="lengthscale"):
        GPFunctions("median")
    with pytest.raises(ConfigError, match="stretched"):
        FunctionalPrior(Lines()).wrong()


# Matching ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_matching_finds_the_weights_scale_that_is_known(slope):
    network = FlatNetwork(nn.utils.skip_init(nn.Linear, 1, 1, bias=False))
    settings = MatchSettings(n_outer=60, n_inner=30, n_functions=64, n_points=6, width=16, lr=0.1, lr_critic=0.05)
    history: list[float] = []
    prior = FunctionalPrior(Lines(slope)).match(network, Measurement.grid(-1, 1, 6), settings, history=history)
    assert float(prior.weight_prior(network).sd) == pytest.approx(slope, rel=0.25)
    assert len(history) == 60
    assert len(prior.values) == 1


@pytest.mark.parametrize("family", ["gaussian", "hierarchical", "flow"])
def test_every_family_comes_nearer_to_its_target(family):
    with seeded_init(0):
        network = FlatNetwork(mlp(1, 1, (20,)))
    x = torch.linspace(-2, 2, 15, dtype=torch.float64)[:, None]
    target = GPFunctions(2.0)
    wanted = target.sample(400, x=x, generator=torch_stream(9)).value
    settings = MatchSettings(n_outer=25, n_inner=15, n_functions=64, n_points=12, width=32, lr=0.1)
    on = FunctionalPrior(target, family).match(network, Measurement.grid(-2, 2, 12), settings)
    far, near = (
        energy_distance(prior.sample(400, x=x, network=network, generator=torch_stream(3)).value, wanted)
        for prior in (on.off(), on)
    )
    assert near < far / 5
    assert on.off().match(network, Measurement.grid(-2, 2, 12)) == on.off()
    assert autocorrelation(wanted, 2) > 0.9


def test_values_belong_to_one_network():
    with seeded_init(0):
        small, large = FlatNetwork(mlp(1, 1, (4,))), FlatNetwork(mlp(1, 1, (4, 4)))
    prior = FunctionalPrior(Lines(), values=(1.0, 1.0, 1.0, 1.0))
    assert prior.weight_prior(small).draw(2, torch_stream(0)).shape == (2, small.n_weights)
    with pytest.raises(ConfigError, match="4 values"):
        prior.weight_prior(large)
    with pytest.raises(ConfigError, match="control arm"):
        FunctionalPrior(Lines(), matched=False, values=(1.0,))


def test_matching_happens_where_the_rows_are(monkeypatch):
    seen: set[str] = set()

    def look(prior, *args, **named):
        seen.update(value.device.type for value in (*prior.parameters(), *prior.buffers()))
        raise InterruptedError

    monkeypatch.setattr("foreknow.functions.functional_prior.prior.match_weights", look)
    with pytest.raises(InterruptedError):
        FunctionalPrior(Lines()).match(mlp(1, 1, (3,)), Measurement(torch.zeros(4, 1, device="meta")))
    assert seen == {"meta"}


def test_measurement_rows():
    rows = normal(50, 3)
    taken = Measurement.of_rows(rows).take(100, torch_stream(0))
    assert taken.shape == (100, 3)
    among = (taken[:, None] == rows[None]).all(-1).any(1)
    assert int(among.sum()) == 70 and bool(among[:70].all())
    assert bool((taken <= rows.amax(0)).all()) and bool((taken >= rows.amin(0)).all())
    wide = Measurement.of_rows(normal(5, 101)).take(8, torch_stream(0))
    assert bool((wide[:, None] == normal(5, 101)[None]).all(-1).any(1).all())
    assert torch.equal(Measurement.grid(0, 1, 5).take(99, torch_stream(0))[:, 0], torch.linspace(0, 1, 5))
    with pytest.raises(InputError, match="rows"):
        Measurement.of_rows(torch.zeros(3))


# The posterior -----------------------------------------------------------------------------------------------------


def test_sets_of_data_have_posteriors_of_their_own():
    network = FlatNetwork(nn.utils.skip_init(nn.Linear, 1, 1))
    x = normal(2, 40, 1)
    y = x[..., 0] * torch.tensor([[1.0], [-1.0]]) + 0.1**0.5 * normal(2, 40, seed=1)
    settings = SGHMCSettings(n_burn=800, keep_every=20, n_samples=20, n_drop=5, n_chains=16)
    prior = GaussianLayers(network, sd=1.0, fan_in=False).requires_grad_(False)
    draws = sample_posterior(network, prior, GaussianNoise(0.1), x, y, settings, generator=torch_stream(0))
    assert draws.shape == (32, 20, 2)
    for number in range(2):
        rows = torch.cat([x[number], torch.ones(40, 1)], 1)
        covariance = torch.linalg.inv(rows.T @ rows / 0.1 + torch.eye(2))
        mean, own = covariance @ rows.T @ y[number] / 0.1, draws[16 * number : 16 * (number + 1)].reshape(-1, 2)
        assert torch.allclose(own.mean(0), mean, atol=0.03)
        assert torch.allclose(own.std(0), covariance.diagonal().sqrt(), rtol=0.3)


def test_the_sampler_agrees_with_hmc_on_a_small_network():
    with seeded_init(0):
        network = FlatNetwork(mlp(1, 1, (5,)))
    x = torch.linspace(-1, 1, 20)[:, None]
    y = torch.sin(2 * x[:, 0]) + 0.3 * normal(20)
    prior, noise = GaussianLayers(network).requires_grad_(False), GaussianNoise(0.1)
    settings = SGHMCSettings(n_burn=600, keep_every=40, n_samples=15, n_drop=5, n_chains=24)
    draws = sample_posterior(network, prior, noise, x, y, settings, generator=torch_stream(0)).reshape(-1, 16)
    exact = hmc(
        lambda z: noise.log_prob(network(z, x), y).sum(-1) + prior.log_prob(z),
        prior.start(24, torch_stream(1))[0], n_samples=20, thin=3, n_burn=150, n_leapfrog=12, generator=torch_stream(2),
    )  # fmt: skip
    assert 0.7 < float(exact.accept.mean()) < 0.97
    new = torch.linspace(-2, 2, 9)[:, None]
    f, g = network(draws, new)[..., 0], network(exact.samples.reshape(-1, 16), new)[..., 0]
    assert float((f.mean(0) - g.mean(0)).abs().max()) < 0.25
    assert 0.7 < float((f.std(0) / g.std(0)).mean()) < 1.4


# The system --------------------------------------------------------------------------------------------------------


def test_a_target_that_a_user_wrote():
    x = np.linspace(-1, 1, 12)[:, None]
    model = BayesianNet(Lines(), **TINY).fit(x, 2 * x[:, 0])
    assert model.matched_.target == Lines()
    assert model.matched_.values
    again = BayesianNet(model.matched_, **TINY).fit(x, 2 * x[:, 0])  # what was matched is not matched again
    assert np.array_equal(again.predict(x), model.predict(x))
    assert model.functions(x).shape == (12, 12, 1)
    assert set(model.pictures()) == {"predictive", "prior"}


def test_a_network_of_ones_own_on_images():
    with seeded_init(0):
        network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
    X, y = normal(30, 1, 4, 4).numpy(), np.arange(30) % 3
    model = BayesianNet(task="classification", **TINY).fit(X, y, network=network)
    assert model.predict_proba(X).shape == (30, 3)
    with pytest.raises(CapabilityError, match="not written"):
        model.save("never.safetensors")
    with pytest.raises(InputError, match="network"):
        BayesianNet(task="classification", **TINY).fit(X, y)
    with pytest.raises(InputError, match="measurement"):
        BayesianNet(**TINY).fit(normal(9, 2).numpy(), np.arange(9.0), measurement=normal(9, 3).numpy())


def test_arms_and_settings():
    assert BayesianNet(prior="off")._resolve_prior() == FunctionalPrior(matched=False)
    assert BayesianNet()._wrong_prior().target.lengthscale_of(1) == pytest.approx(5 * 2**0.5)
    with pytest.raises(ConfigError, match="hidden"):
        BayesianNet(hidden=()).fit(np.zeros((4, 1)), np.zeros(4))
    with pytest.raises(ConfigError, match="n_outer"):
        MatchSettings(n_outer=0)
    assert set(SIZES) == {"quick", "small", "paper"}


def test_the_paper_preset_takes_a_step():
    sizes = SIZES["paper"]
    assert sizes.curve.n_points == 200 and sizes.curve_chains.n_samples == 40
    with seeded_init(0):
        network = FlatNetwork(mlp(1, 1, sizes.hidden))
    settings = MatchSettings(n_outer=1, n_inner=1, n_functions=sizes.curve.n_functions, n_points=sizes.curve.n_points)
    assert FunctionalPrior(GPFunctions(1.0)).match(network, Measurement.grid(-6, 6, 200), settings).values


def test_claims_of_distance_and_of_the_table_name_their_controls():
    arms = ("GPi-G", "start of matching", "off: FG, N(0, 1)", "wrong: five times as smooth")
    found = {arm: {"energy_distance": d, "mmd2": d} for arm, d in zip(arms, (0.1, 0.4, 2.0, 0.09), strict=True)}
    verdicts = [claim.verdict for claim in distance_claims(found)]
    assert verdicts == ["held", "held", "failed", "failed", "failed", "failed"]
    assert all(claim.note for claim in distance_claims(found)[2:])
    rows = [
        {"arm": arm, "rmse": rmse + 0.1 * seed, "nll": 2.5, "rhat_median": rhat}
        for seed in range(3)
        for arm, rmse, rhat in (
            ("GPi-G", 2.7, 1.0), ("off: FG, N(0, 1)", 3.4, 1.5), ("FG, N(0, 1 / fan_in)", 3.0, 1.0),
            ("plain: deep ensemble", 2.7, 1.0),
        )
    ]  # fmt: skip
    off, scaled, ensemble = table_claims(rows)
    assert (off.verdict, scaled.verdict, ensemble.verdict) == ("held", "held", "failed")
    assert "1.50" in off.note and "Five networks" in ensemble.note and not scaled.note


def test_plain_methods():
    x = np.linspace(-2, 2, 30)[:, None]
    gp = PlainGP().fit(x, np.sin(2 * x[:, 0]))
    assert np.abs(gp.predict(x) - np.sin(2 * x[:, 0])).max() < 0.1
    labels = np.where(x[:, 0] > 0, "b", "a")
    ensemble = DeepEnsemble((8,), n_steps=100, task="classification").fit(x, labels)
    assert (ensemble.classes_[ensemble.predict_proba(x).argmax(1)] == labels).mean() > 0.9
