"""Mixtures of multivariate normals against torch's own, and what filters do with them."""

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import GaussianMixture, MultivariateMixture


def some(b: int = 3, k: int = 4, d: int = 2, seed: int = 0) -> MultivariateMixture:
    generator = torch_stream(seed, "mixtures")
    options = {"generator": generator, "dtype": torch.float64}
    root = torch.randn(b, k, d, d, **options)
    cov = root @ root.mT + 0.3 * torch.eye(d, dtype=torch.float64)
    return MultivariateMixture.from_covariances(torch.randn(b, k, **options), 2 * torch.randn(b, k, d, **options), cov)


def peer(mix: MultivariateMixture) -> MixtureSameFamily:
    parts = MultivariateNormal(mix.means, scale_tril=mix.scale_tril, validate_args=False)
    return MixtureSameFamily(Categorical(logits=mix.logits), parts, validate_args=False)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_density_and_moments_are_those_of_torch(d):
    mix = some(d=d)
    x = torch.randn(7, 3, d, generator=torch_stream(1, "x"), dtype=torch.float64)
    assert torch.allclose(mix.log_prob(x), peer(mix).log_prob(x), atol=1e-10)
    assert torch.allclose(mix.mean(), peer(mix).mean, atol=1e-12)
    assert torch.allclose(mix.covariance().diagonal(dim1=-2, dim2=-1), peer(mix).variance, atol=1e-10)


def test_draws_have_the_moments():
    mix = some()
    draws = mix.sample(20_000, generator=torch_stream(0, "draws"))
    assert draws.shape == (20_000, 3, 2)
    assert torch.allclose(draws.mean(0), mix.mean(), atol=0.1)
    away = draws - draws.mean(0)
    assert torch.allclose(torch.einsum("nbi,nbj->bij", away, away) / 20_000, mix.covariance(), rtol=0.1, atol=0.2)
    again = mix.sample(20_000, generator=torch_stream(0, "draws"))
    assert torch.equal(draws, again)


def test_marginals_are_one_dimensional_mixtures():
    mix = some()
    for index in range(2):
        marginal = mix.marginal(index)
        assert isinstance(marginal, GaussianMixture)
        assert torch.allclose(marginal.mean(), mix.mean()[:, index])
        assert torch.allclose(marginal.variance(), mix.covariance()[:, index, index])
    with pytest.raises(ConfigError, match="index"):
        mix.marginal(2)


def test_linear_maps_act_on_moments():
    mix = some()
    a = torch.tensor([[1.0, 0.5], [0.0, 0.9]], dtype=torch.float64)
    shift, noise = torch.tensor([1.0, -1.0]).double(), 0.2 * torch.eye(2, dtype=torch.float64)
    moved = mix.linear(a, shift=shift, noise=noise)
    assert torch.allclose(moved.mean(), mix.mean() @ a.T + shift)
    assert torch.allclose(moved.covariance(), a @ mix.covariance() @ a.T + noise, rtol=1e-5, atol=1e-5)
    assert torch.equal(moved.log_weights, mix.log_weights)
    scaled = mix.scaled(shift, torch.tensor([2.0, 0.5]).double())
    x = mix.sample(5, generator=torch_stream(0, "x"))
    stretched = shift + torch.tensor([2.0, 0.5]).double() * x
    assert torch.allclose(scaled.log_prob(stretched), mix.log_prob(x), atol=1e-10)  # |det| = 1


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
def test_splitting_and_merging_keep_mean_and_covariance(n):
    mix = some()
    other = mix.with_components(n)
    assert other.n_components == n
    assert torch.allclose(other.mean(), mix.mean(), atol=1e-9)
    assert torch.allclose(other.covariance(), mix.covariance(), rtol=1e-4, atol=1e-4)


def test_a_split_normal_is_nearly_the_same():
    one = MultivariateMixture(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
    four = one.with_components(4)
    x = one.sample(2000, generator=torch_stream(0, "x"))
    assert float((one.log_prob(x) - four.log_prob(x)).mean()) < 0.01
    assert len({round(float(m), 6) for m in four.means[:, 0]}) > 1


def test_matched_normal_has_the_moments():
    mix = some()
    assert mix.matched().n_components == 1
    assert torch.allclose(mix.matched().covariance(), mix.covariance(), rtol=1e-5, atol=1e-4)


def test_weights_that_vanish_do_no_harm():
    mix = MultivariateMixture(torch.tensor([0.0, -torch.inf]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    assert torch.isfinite(mix.log_prob(torch.zeros(1)))
    tiny = MultivariateMixture(torch.tensor([-800.0, -801.0]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    assert float(tiny.log_weights.exp().sum()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("cov", "words"),
    [
        ([[1.0, 2.0], [2.0, 1.0]], "not positive definite"),
        ([[1.0, 0.5], [0.0, 1.0]], "symmetric"),
        ([[-1.0, 0.0], [0.0, 1.0]], "positive"),
        ([[float("nan"), 0.0], [0.0, 1.0]], "NaN"),
    ],
)
def test_what_is_no_covariance_is_refused(cov, words):
    with pytest.raises(InputError, match=words):
        MultivariateMixture.from_covariances(torch.zeros(1), torch.zeros(1, 2), torch.tensor([cov]))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="must agree"):
        MultivariateMixture(torch.zeros(2), torch.zeros(3, 1), torch.ones(3, 1, 1))
    with pytest.raises(InputError, match="diagonal"):
        MultivariateMixture(torch.zeros(1), torch.zeros(1, 1), torch.zeros(1, 1, 1))
    with pytest.raises(InputError, match="must have 2 numbers"):
        some().log_prob(torch.zeros(3))
    with pytest.raises(InputError, match="no batch axis"):
        some()[0][0]
    assert some()[1:].batch_shape == (2,)
