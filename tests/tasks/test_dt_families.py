"""Families of priors, beliefs and distributions over priors, against torch.distributions and scipy."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats

from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import MultivariateMixture
from foreknow.tasks import Belief, Hyper, MetaPrior, MixtureMeta, MixturePosterior, ParametricMeta
from foreknow.tasks.distribution_transformer.families import (
    FAMILIES,
    MixtureFamily,
    inverse_trigamma,
    log_gamma_draw,
)
from foreknow.tasks.distribution_transformer.supports import from_real, log_slope, to_real

PARAMS = {
    "inverse-gamma": [[2.0, 1.0], [0.3, 4.0]],
    "gamma": [[2.0, 3.0], [0.5, 0.7]],
    "beta": [[2.0, 5.0], [0.7, 0.4]],
    "gaussian-gamma": [[0.5, 1.2, 2.0, 3.0], [-1.0, 0.3, 0.8, 0.5]],
}
PEERS = {
    "inverse-gamma": lambda p: stats.invgamma(p[0], scale=p[1]),
    "gamma": lambda p: stats.gamma(p[0], scale=1 / p[1]),
    "beta": lambda p: stats.beta(p[0], p[1]),
}


@pytest.mark.parametrize("name", PEERS)
def test_densities_are_those_of_scipy_with_the_jacobian(name):
    x = np.array([0.1, 0.35, 0.8])
    for params in PARAMS[name]:
        belief = Belief(FAMILIES[name], params)
        assert np.allclose(belief.log_prob(x).numpy(), PEERS[name](params).logpdf(x), atol=1e-9)


def test_the_pair_is_a_product():
    params = PARAMS["gaussian-gamma"][0]
    x = np.array([[0.2, 0.5], [1.4, 2.0]])
    expected = stats.norm(0.5, 1.2).logpdf(x[:, 0]) + stats.gamma(2.0, scale=1 / 3).logpdf(x[:, 1])
    assert np.allclose(Belief.gaussian_gamma(*params).log_prob(x).numpy(), expected)


@pytest.mark.parametrize("name", PEERS)
def test_draws_follow_the_density(name):
    for params in PARAMS[name]:
        draws = Belief(FAMILIES[name], params).sample(4000, generator=torch_stream(0, name))[:, 0].numpy()
        assert stats.kstest(draws, PEERS[name](params).cdf).pvalue > 1e-4


def test_logarithms_of_gamma_draws_survive_tiny_concentrations():
    draws = log_gamma_draw(torch.full((4000,), 0.01, dtype=torch.float64), torch_stream(0, "tiny"))
    assert bool(draws.isfinite().all())
    mean, sd = math.log(1.0) + float(torch.digamma(torch.tensor(0.01))), 100.0
    assert float(draws.mean()) == pytest.approx(mean, abs=5 * sd / math.sqrt(4000))


@pytest.mark.parametrize("name", FAMILIES)
def test_projection_finds_the_member_with_these_moments(name):
    family = FAMILIES[name]
    params = torch.tensor(PARAMS[name], dtype=torch.float64)
    many = params.expand(200_000, -1, -1).reshape(-1, params.shape[-1])
    t = family.sample(many, torch_stream(0, name)).reshape(200_000, 2, -1)
    away = t - t.mean(0)
    found = family.project(t.mean(0), torch.einsum("nbi,nbj->bij", away, away) / len(t))
    assert torch.allclose(found, params, rtol=0.05, atol=0.02)


def test_inverse_of_trigamma():
    x = torch.tensor([1e-3, 0.1, 1.0, 7.0, 1e4], dtype=torch.float64)
    assert torch.allclose(inverse_trigamma(torch.polygamma(1, x)), x, rtol=1e-8)


def test_supports_go_there_and_back():
    supports = ("positive", "unit", "real")
    x = torch.tensor([[0.01, 0.3, -4.0], [5.0, 0.999, 0.0]], dtype=torch.float64)
    assert torch.allclose(from_real(to_real(x, supports), supports), x)
    x.requires_grad_(True)
    t = to_real(x, supports)
    slopes = torch.autograd.grad(t.sum(), x)[0]
    assert torch.allclose(log_slope(t.detach(), supports), slopes.log().sum(-1))
    with pytest.raises(InputError, match="number 1 must be between 0 and 1"):
        to_real(torch.tensor([[1.0, 1.0, 0.0]]), supports)


# Beliefs ----------------------------------------------------------------------------------------------------


def test_mixtures_pack_and_unpack():
    belief = Belief.mixture([0.25, 0.75], [[0.0, 1.0], [2.0, 3.0]], [[[1.0, 0.2], [0.2, 2.0]]] * 2)
    mix = belief.as_mixture()
    assert mix.log_weights.exp().tolist() == pytest.approx([0.25, 0.75])
    assert torch.allclose(mix.covariances[0], torch.tensor([[1.0, 0.2], [0.2, 2.0]]).double(), atol=1e-4)
    assert belief.family.parameters[:4] == ("log_weight_0", "log_weight_1", "mean_0_0", "mean_0_1")
    assert len(belief.family.parameters) == belief.params.shape[-1] == 12
    assert torch.allclose(belief.family.pack(mix), belief.params)


def test_a_weight_of_zero_is_raised_to_the_least():
    belief = Belief.mixture([0.0, 1.0], [0.0, 1.0], [1.0, 1.0])
    assert bool(belief.params.isfinite().all())
    assert float(belief.as_mixture().log_weights.exp()[0]) == pytest.approx(1e-6, rel=1e-3)


def test_positive_mixtures_are_over_logarithms():
    belief = Belief.normal(0.3, 0.25, supports=("positive",))
    assert float(belief.log_prob(1.7)) == pytest.approx(stats.lognorm(0.5, scale=math.exp(0.3)).logpdf(1.7), abs=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Belief.inverse_gamma(0.0, 1.0), "concentration must be greater than 0"),
        (lambda: Belief.gamma(1.0, float("nan")), "finite"),
        (lambda: Belief.beta([1.0, 2.0], [1.0, 2.0, 3.0]), "do not fit together"),
        (lambda: Belief.mixture([-0.5, 1.5], [0.0, 1.0], [1.0, 1.0]), "weights"),
        (lambda: Belief.mixture([0.5, 0.5], [0.0, 1.0], [1.0, -1.0]), "positive"),
        (lambda: Belief.normal([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]), "positive definite"),
        (lambda: Belief(FAMILIES["gamma"], [1.0, 2.0, 3.0]), "2 parameters"),
        (lambda: Belief.gamma("two", 1.0), "numbers"),
        (lambda: Belief.gamma(2.0, 1.0).log_prob([-1.0]), "greater than 0"),
        (lambda: Belief.gaussian_gamma(0.0, 1.0, 1.0, 1.0).log_prob([1.0, 2.0, 3.0]), "2 numbers"),
    ],
)
def test_bad_beliefs_are_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_only_mixtures_are_mixtures():
    with pytest.raises(CapabilityError, match="no Gaussian mixture"):
        Belief.gamma(1.0, 1.0).as_mixture()


def test_a_posterior_becomes_the_next_prior():
    mix = MultivariateMixture(torch.zeros(1, 1), torch.full((1, 1, 1), 0.4), torch.full((1, 1, 1, 1), 0.3))
    family = FAMILIES["inverse-gamma"]
    posterior = MixturePosterior(mix, family.supports, family)
    prior = posterior.as_prior()
    draws = prior.sample(100_000, generator=torch_stream(0, "x")).log()
    assert float(draws.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(draws.std()) == pytest.approx(0.3, abs=0.01)
    x = np.array([1.2, 0.9])
    assert torch.allclose(
        posterior[0].log_prob(x).double(), torch.as_tensor(stats.lognorm(0.3, scale=math.exp(0.4)).logpdf(x)),
        atol=1e-5,
    )  # fmt: skip
    same = MixturePosterior(mix, ("real",), MixtureFamily(1, ("real",))).as_prior()
    assert torch.allclose(same.as_mixture().means, mix.means.double())


# Distributions over priors ----------------------------------------------------------------------------------


def test_hyper_draws_have_their_distributions():
    for hyper, peer in (
        (Hyper("gamma", 4.0, 6.0), stats.gamma(4.0, scale=1 / 6)),
        (Hyper("uniform", -0.5, 0.5), stats.uniform(-0.5, 1.0)),
        (Hyper("normal", 1.0, 2.0), stats.norm(1.0, 2.0)),
        (Hyper("log-uniform", 0.5, 9.0), stats.loguniform(0.5, 9.0)),
    ):
        draws = hyper.draw(3000, torch_stream(0, hyper.kind)).numpy()
        assert stats.kstest(draws, peer.cdf).pvalue > 1e-4, hyper
    assert float(Hyper("normal", 0.0, 1.0, least=0.2).draw(100, torch_stream(0, "least")).min()) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Hyper("gamma", 0.0, 1.0),
        lambda: Hyper("uniform", 2.0, 1.0),
        lambda: Hyper("normal", 0.0, 0.0),
        lambda: Hyper("cauchy"),
        lambda: ParametricMeta("gamma", (Hyper(),)),
        lambda: ParametricMeta("cauchy"),
        lambda: ParametricMeta(told="everything"),
        lambda: MixtureMeta((0.0,), (1.0, 2.0), (1.0,)),
        lambda: MixtureMeta(narrow=3.0, wide=1.0),
        lambda: MixtureMeta(supports=("round",)),
    ],
)
def test_bad_settings_are_refused(call):
    with pytest.raises(ConfigError):
        call()


def test_priors_drawn_are_broad_and_the_arms_draw_the_same():
    meta = MixtureMeta((0.0, -1.0), (20.0, 1.0), (1.0, 0.5))
    params = meta.draw(2000, torch_stream(0, "meta"))
    mix = meta.family.mixture(params)
    assert bool(params.isfinite().all())
    sd = mix.covariances[..., 0, 0].sqrt()
    assert float(sd.min()) < 0.15 and float(sd.max()) > 1.5  # narrow and wide components
    weights = mix.log_weights.exp()
    assert float(weights.max()) > 0.99 and float(weights.min()) < 1e-3
    for other in (meta.off(), meta.swapped()):
        assert isinstance(other, MetaPrior) and other.told != "parameters"
        assert torch.equal(other.draw(5, torch_stream(0, "meta")), meta.draw(5, torch_stream(0, "meta")))
    assert meta.off() == meta.off().off()


def test_a_meta_prior_of_ones_own_is_a_few_lines():
    @dataclass(frozen=True)
    class Mine(MetaPrior):
        @property
        def family(self):
            return FAMILIES["gamma"]

        def draw(self, n, generator):
            return torch.rand(n, 2, generator=generator, dtype=torch.float64) + 0.5

    drawn = Mine().sample(3, generator=torch_stream(0, "mine"))
    assert drawn.value.shape == (3, 2) and drawn.info["state"].shape == (3, 1)
    assert Mine().off().told == "constant"
    assert len(Mine().picture(4, generator=torch_stream(0, "p")).lines) == 4


@pytest.mark.parametrize("meta", [*ParametricMeta.examples(), *MixtureMeta.examples(),
                                  ParametricMeta("gaussian-gamma", (Hyper("uniform", 0.5, 1.0),) * 4)])  # fmt: skip
def test_pictures_show_densities(meta):
    picture = meta.picture(3, generator=torch_stream(0, "picture"))
    x = np.asarray(picture.x)
    for line in picture.lines.values():
        assert (line >= 0).all() and np.trapezoid(line, x) < 1.01
