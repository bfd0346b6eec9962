import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

from foreknow.common.errors import CapabilityError, InputError
from foreknow.common.rng import torch_stream
from foreknow.nn.linalg import jittered_cholesky as cholesky
from foreknow.tasks import Fixed, Gamma, GPPrior
from foreknow.tasks.pfn.priors.gp import KERNELS, posterior_moments


def rng(seed: int = 0) -> torch.Generator:
    return torch_stream(seed, "test")


def plain_kernel(kernel: str, r: np.ndarray) -> np.ndarray:
    if kernel == "rbf":
        return np.exp(-0.5 * r**2)
    return Matern(1.0, nu={"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}[kernel])(r[:, None], [[0.0]])[:, 0]


@pytest.mark.parametrize("kernel", KERNELS)
def test_covariance_of_many_draws_is_the_kernel(kernel: str) -> None:
    prior = GPPrior(n_features=2, kernel=kernel, lengthscale=0.4, outputscale=2.0, noise=0.3)
    batch = prior.sample(40_000, n_context=1, n_query=1, generator=rng())
    y = torch.cat([batch.context_y, batch.query_y], dim=1).double().numpy()
    r = (batch.context_x - batch.query_x).norm(dim=-1)[:, 0].double().numpy() / 0.4
    assert abs((y**2).mean() - 2.3) < 0.05
    for low, high in ((0.0, 0.5), (0.5, 1.2), (1.2, 5.0)):
        inside = (r >= low) & (r < high)
        error = (y[:, 0] * y[:, 1] - 2.0 * plain_kernel(kernel, r))[inside]
        assert abs(error.mean()) < 4 * error.std() / math.sqrt(inside.sum())


def sklearn_gp(kernel: str, lengthscale, outputscale: float, noise: float) -> GaussianProcessRegressor:
    nu = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}
    shape = RBF(lengthscale) if kernel == "rbf" else Matern(lengthscale, nu=nu[kernel])
    return GaussianProcessRegressor(ConstantKernel(outputscale) * shape, alpha=noise, optimizer=None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_exact_posterior_is_scikit_learns(kernel: str) -> None:
    prior = GPPrior(n_features=3, kernel=kernel, lengthscale=0.7, outputscale=1.7, noise=0.02)
    batch = prior.sample(2, n_context=12, n_query=6, generator=rng(), dtype=torch.float64)
    mean, sd = prior._exact_moments(batch)
    scales = torch.tensor([[0.3, 0.7, 1.5]] * 2, dtype=torch.float64)
    two = torch.ones(2, dtype=torch.float64)
    rows = (batch.context_x, batch.context_y, batch.query_x)
    ard = posterior_moments(kernel, *rows, scales, 1.7 * two, 0.02 * two)
    for task in range(2):
        x, y, q = (value[task].numpy() for value in rows)
        peer = sklearn_gp(kernel, 0.7, 1.7, 0.02).fit(x, y)
        peer_mean, peer_sd = peer.predict(q, return_std=True)
        np.testing.assert_allclose(mean[task], peer_mean, atol=1e-6)
        np.testing.assert_allclose(sd[task], np.sqrt(peer_sd**2 + 0.02), atol=1e-6)
        peer = sklearn_gp(kernel, [0.3, 0.7, 1.5], 1.7, 0.02).fit(x, y)
        np.testing.assert_allclose(ard[0][task], peer.predict(q), atol=1e-6)
        np.testing.assert_allclose(ard[2][task], peer.log_marginal_likelihood(), atol=1e-6)


def test_without_context_the_oracles_are_the_prior_predictive() -> None:
    prior = GPPrior(outputscale=2.0, noise=0.5)
    mean, sd = prior._exact_moments(prior.sample(3, n_context=0, n_query=2, generator=rng()))
    assert torch.equal(mean, torch.zeros(3, 2)) and torch.allclose(sd, torch.full((3, 2), math.sqrt(2.5)))
    mixed = replace(prior, noise=Gamma(3.0, 6.0))
    log_weights, means, sds = mixed._mixture_moments(
        mixed.sample(3, n_context=0, n_query=2, generator=rng()), 7, rng(1)
    )
    assert torch.allclose(log_weights, torch.full((3, 7), -math.log(7)))
    assert torch.equal(means, torch.zeros(3, 2, 7)) and sds.min() > math.sqrt(2.0) and sds.std() > 0


def test_mixture_of_a_point_mass_is_the_exact_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = GPPrior(n_features=2, kernel="matern32")
    batch = prior.sample(4, n_context=6, n_query=3, generator=rng())
    monkeypatch.setattr("foreknow.tasks.pfn.priors.gp._ORACLE_CELLS", 1)  # one task at a time
    log_weights, means, sds = prior._mixture_moments(batch, 5, rng())
    mean, sd = prior._exact_moments(batch)
    assert torch.allclose(log_weights.exp().sum(dim=1), torch.ones(4))
    assert torch.allclose(means, mean[..., None].expand_as(means), atol=1e-6)
    assert torch.allclose(sds, sd[..., None].expand_as(sds), atol=1e-6)


def test_mixture_oracle_is_the_integral_over_the_lengthscale() -> None:
    prior = GPPrior.small_mix()
    batch = prior.sample(1, n_context=4, n_query=1, generator=rng(3), dtype=torch.float64)
    log_weights, means, sds = prior._mixture_moments(batch, 20_000, rng())
    y = batch.query_y[..., None]
    density = (log_weights[:, None].exp() * torch.distributions.Normal(means, sds).log_prob(y).exp()).sum()
    grid = torch.linspace(0.005, 4.0, 2000, dtype=torch.float64)
    one = torch.ones_like(grid)
    rows = (batch.context_x, batch.context_y, batch.query_x)
    mean, sd, log_marginal = posterior_moments("rbf", *rows, grid[:, None], one, 0.01 * one)
    weight = torch.softmax(log_marginal + torch.tensor(scipy.stats.gamma(3, scale=1 / 6).logpdf(grid)), 0)
    exact = (weight * torch.distributions.Normal(mean, sd).log_prob(batch.query_y).exp()[:, 0]).sum()
    assert density.log().item() == pytest.approx(exact.log().item(), abs=0.03)


def test_oracles_return_predictive_distributions() -> None:
    prior = GPPrior.small_fixed()
    batch = prior.sample(200, n_context=8, n_query=4, generator=rng())
    exact = prior.exact(batch).log_prob(batch.query_y)
    mean, sd = prior._exact_moments(batch)
    assert torch.allclose(exact, torch.distributions.Normal(mean, sd).log_prob(batch.query_y), atol=1e-5)
    wrong = prior.misspecified().exact(batch).log_prob(batch.query_y)
    mixed = GPPrior.small_mix().mixture_oracle(batch, generator=rng()).log_prob(batch.query_y)
    assert exact.shape == mixed.shape == (200, 4)
    assert exact.mean() > mixed.mean() > wrong.mean()


def test_oracles_refuse_what_they_cannot_do() -> None:
    batch = GPPrior(n_features=2).sample(1, generator=rng())
    with pytest.raises(CapabilityError, match="mixture_oracle"):
        GPPrior.published_mix(2)._exact_moments(batch)
    with pytest.raises(InputError, match=r"2 column\(s\), the prior 1"):
        GPPrior()._exact_moments(batch)


def test_the_wrong_prior_is_five_times_too_long() -> None:
    assert GPPrior.small_fixed().misspecified() == replace(GPPrior.small_fixed(), lengthscale=Fixed(1.0))
    assert GPPrior.small_mix().misspecified().lengthscale == Gamma(3.0, 6.0 / 5.0)


def test_singular_covariances_get_jitter_and_hopeless_ones_nan() -> None:
    k = torch.stack([torch.ones(4, 4), torch.eye(4), -torch.eye(4)])
    factor = cholesky(k)
    assert torch.allclose(factor[0] @ factor[0].T, k[0], atol=1e-4) and torch.equal(factor[1], k[1])
    assert factor[2].isnan().all()
    assert torch.equal(k[0], torch.ones(4, 4))
    smooth = GPPrior(lengthscale=5.0, noise=0.0).sample(4, n_context=50, n_query=50, generator=rng())
    assert smooth.query_y.isfinite().all()
