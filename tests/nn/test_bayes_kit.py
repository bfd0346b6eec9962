"""The Bayesian-network kit: flat networks, layer priors, ensembles, Laplace, diagnostics."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.nn.bayes import (
    FlatNetwork,
    FlowLayers,
    GaussianLayers,
    GaussianNoise,
    HierarchicalLayers,
    Laplace,
    Softmax,
    effective_sample_size,
    find_modes,
    mlp,
    split_rhat,
)
from foreknow.nn.bayes.diagnostics import rank_normalised
from foreknow.nn.bayes.flows import SylvesterStep
from foreknow.nn.bayes.layers import inverse_gamma


def small(n_in: int = 2, n_out: int = 1, hidden: tuple[int, ...] = (4, 3)) -> FlatNetwork:
    with seeded_init(0):
        return FlatNetwork(mlp(n_in, n_out, hidden))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(seed, "test"), dtype=dtype)


# Flat networks -----------------------------------------------------------------------------------------------------


def test_many_weight_vectors_at_once_equal_one_module_each():
    network = small(2, 3)
    weights, x = normal(5, network.n_weights), normal(7, 2)
    found = network(weights, x)
    for number, row in enumerate(weights):
        assert torch.allclose(network.to_module(row)(x), found[number])
        assert torch.allclose(network.single(row, x), found[number])
        assert torch.equal(network.flatten(network.to_module(row)), row)


def test_vmap_agrees_with_batched_products():
    network = small(2, 3)
    weights, x = normal(5, network.n_weights), normal(7, 2)
    rows = normal(5, 7, 2, seed=1)
    quick = network(weights, x), network.per_chain(weights, rows)
    network._plain = False
    for one, other in zip(quick, (network(weights, x), network.per_chain(weights, rows)), strict=True):
        assert torch.allclose(one, other)


def test_any_module_works():
    with seeded_init(0):
        module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 4, 3, bias=False))
    network = FlatNetwork(module)
    assert [slot.fan_in for slot in network.slots] == [9, 1, 8]
    x = normal(5, 1, 4, 4, dtype=torch.float32)
    weights = network.flatten()[None].expand(2, -1)
    assert torch.allclose(network(weights, x)[1], module(x), atol=1e-6)


def test_bad_networks_are_refused():
    with pytest.raises(ConfigError, match="parameters"):
        FlatNetwork(nn.Tanh())
    with seeded_init(0):
        module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match="running statistics"):
        FlatNetwork(module)
    with pytest.raises(InputError, match="weights"):
        small()(normal(2, 3), normal(4, 2))


# Layer priors ------------------------------------------------------------------------------------------------------


def test_gaussian_layers_density_and_scale():
    network = small(hidden=(64,), n_in=9)
    prior = GaussianLayers(network)
    sd = prior.sd.detach()
    assert float(sd[1]) == pytest.approx(math.log1p(math.e))  # softplus(1) = 1.31, not 1
    assert float(sd[0]) == pytest.approx(math.log1p(math.e) / 3)
    draws = prior.draw(400, torch_stream(0)).detach()
    assert torch.allclose(draws[:, network.slots[0].start : network.slots[0].stop].std(), sd[0], rtol=0.02)
    slow = sum(
        torch.distributions.Normal(0.0, float(sd[i])).log_prob(draws[:3, slot.start : slot.stop]).sum(1)
        for i, slot in enumerate(network.slots)
    )
    assert torch.allclose(prior.log_prob(draws[:3]).detach(), slow, rtol=1e-5)


def test_draws_carry_gradients():
    network = small()
    for prior in (
        GaussianLayers(network),
        HierarchicalLayers(network),
        FlowLayers(network, generator=torch_stream(0)),
    ):
        prior.draw(3, torch_stream(0)).square().sum().backward()
        grads = [parameter.grad for parameter in prior.parameters()]
        assert any(grad is not None and bool((grad != 0).any()) for grad in grads)
        assert all(grad is None or bool(grad.isfinite().all()) for grad in grads)


def test_slopes_are_gradients_of_the_log_density():
    network = small()
    z = normal(3, network.n_weights, dtype=torch.float32)
    hierarchical = HierarchicalLayers(network)
    state = hierarchical.gibbs(z, None, torch_stream(0))
    for prior, given in (
        (GaussianLayers(network), None),
        (hierarchical, state),
        (hierarchical, None),
        (FlowLayers(network, generator=torch_stream(0)), None),
    ):
        leaf = z.clone().requires_grad_(True)
        (slow,) = torch.autograd.grad(prior.log_prob(leaf, given).sum(), leaf)
        assert torch.allclose(prior.slope(z, given), slow, rtol=1e-4, atol=1e-5)


def test_inverse_gamma_moments_and_gradient():
    shape = torch.full((200_000,), 5.0, dtype=torch.float64, requires_grad=True)
    rate = torch.full((200_000,), 2.0, dtype=torch.float64, requires_grad=True)
    draws = inverse_gamma(shape, rate, torch_stream(0))
    assert float(draws.detach().mean()) == pytest.approx(0.5, rel=0.01)
    draws.mean().backward()  # d/da rate / (a - 1) = -rate / (a - 1)^2
    assert float(shape.grad.sum()) == pytest.approx(-2 / 16, rel=0.05)
    assert float(rate.grad.sum()) == pytest.approx(1 / 4, rel=0.02)


def test_gibbs_draws_the_conditional():
    network = FlatNetwork(nn.utils.skip_init(nn.Linear, 4, 25, bias=False))
    prior = HierarchicalLayers(network, shape=3.0, rate=2.0)
    z = normal(1, 100, dtype=torch.float32).expand(20_000, -1)
    variances = prior.gibbs(z, None, torch_stream(0))
    shape, rate = 3 + 50, 2 + 0.5 * float((z[0] * 2).square().sum())  # fan_in 4: weights times 2 have the variance
    assert float(variances.mean()) == pytest.approx(rate / (shape - 1), rel=0.01)


def test_hierarchical_marginal_is_the_integral():
    network = FlatNetwork(nn.utils.skip_init(nn.Linear, 1, 1, bias=False))
    prior = HierarchicalLayers(network, shape=2.0, rate=1.5)
    grid = torch.linspace(-60, 60, 200_001)[:, None]
    density = prior.log_prob(grid).exp().detach()
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1, abs=3e-3)  # the tails reach beyond the grid
    slow = torch.distributions.StudentT(4.0, 0.0, (1.5 / 2) ** 0.5).log_prob(grid[::5000, 0])
    assert torch.allclose(prior.log_prob(grid[::5000]).detach(), slow, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 3])
def test_flow_log_determinant_is_that_of_the_jacobian(rank):
    generator = torch_stream(1)
    step = SylvesterStep(5, rank, generator=generator).double()
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    z = normal(4, 5)
    moved, log_det = step(z)
    for number in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda row: step(row[None])[0][0], z[number])
        sign, slow = torch.linalg.slogdet(jacobian)
        assert float(sign.detach()) == 1.0
        assert float(slow.detach()) == pytest.approx(float(log_det[number].detach()), abs=1e-4)
    assert not torch.allclose(moved, z)


def test_flow_starts_as_its_base_and_has_a_density():
    network = small()
    flow, base = FlowLayers(network, generator=torch_stream(0)), GaussianLayers(network)
    z = normal(6, network.n_weights, dtype=torch.float32)
    assert torch.allclose(flow.weights(z), z * base.sd[base.slot], atol=1e-6)
    assert torch.allclose(flow.log_density(z), base.log_prob(flow.weights(z)), rtol=1e-5)


# Modes and Laplace -------------------------------------------------------------------------------------------------


def linear_task(n: int = 40) -> tuple[FlatNetwork, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A linear model with known posterior: network, x, y, mean, covariance (prior N(0, 1), noise variance 0.1)."""
    network = FlatNetwork(nn.utils.skip_init(nn.Linear, 2, 1))
    x = normal(n, 2)
    rows = torch.cat([x, torch.ones(n, 1)], 1)
    y = rows @ torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64) + 0.1**0.5 * normal(n, seed=3)
    covariance = torch.linalg.inv(rows.T @ rows / 0.1 + torch.eye(3, dtype=torch.float64))
    return network, x, y, covariance @ rows.T @ y / 0.1, covariance


def test_modes_of_a_linear_model_are_its_posterior_mean():
    network, x, y, mean, _ = linear_task()
    prior = GaussianLayers(network, sd=1.0, fan_in=False).double().requires_grad_(False)
    found = find_modes(
        network, GaussianNoise(0.1), x, y, start=normal(3, 3), prior=prior, n_steps=800, lr=0.05,
        generator=torch_stream(0),
    )  # fmt: skip
    assert torch.allclose(found, mean.expand(3, -1), atol=1e-3)


@pytest.mark.parametrize("structure", ["full", "last", "kron"])
def test_laplace_of_a_linear_model_is_exact(structure):
    network, x, _, mean, covariance = linear_task()
    laplace = Laplace(network, GaussianNoise(0.1), mean, x, structure=structure)
    new = normal(6, 2, seed=9)
    centre, variance = laplace.predict(new)
    rows = torch.cat([new, torch.ones(6, 1)], 1)
    assert torch.allclose(centre[:, 0], rows @ mean)
    assert torch.allclose(variance[:, 0, 0], torch.einsum("np,pq,nq->n", rows, covariance, rows), rtol=1e-6)
    draws = laplace.sample(20_000, torch_stream(0))
    assert torch.allclose(torch.cov(draws.T), covariance, atol=2e-4)


def test_laplace_full_is_the_gauss_newton_matrix():
    network = small(2, 3, (3,))
    mode, x = normal(network.n_weights), normal(8, 2)
    likelihood = Softmax(3)
    found = Laplace(network, likelihood, mode, x, prior_precision=0.5)
    slow = 0.5 * torch.eye(network.n_weights, dtype=torch.float64)
    for row in x:
        jacobian = torch.autograd.functional.jacobian(lambda w, row=row: network(w[None], row[None])[0, 0], mode)
        p = network(mode[None], row[None])[0, 0].softmax(-1)
        slow = slow + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    assert torch.allclose(found.precision, slow, atol=1e-8)
    diagonal = Laplace(network, likelihood, mode, x, prior_precision=0.5, structure="diag")
    assert torch.allclose(diagonal.precision, slow.diagonal(), atol=1e-8)
    hessian = torch.autograd.functional.hessian(lambda f: -f.log_softmax(-1)[0, 1], normal(1, 3))[0, :, 0]
    assert torch.allclose(likelihood.curvature(normal(1, 3))[0], hessian, atol=1e-8)


def test_kronecker_is_exact_for_one_row_and_refuses_convolutions():
    network = small(2, 1, (3,))
    mode, x = normal(network.n_weights), normal(1, 2)
    full = Laplace(network, GaussianNoise(0.1), mode, x).precision
    kron = Laplace(network, GaussianNoise(0.1), mode, x, structure="kron")
    new = normal(4, 2, seed=4)
    first = kron._kron[0].index
    block = torch.linalg.inv(full[first][:, first])
    jacobian = kron._jacobian(new)[..., first]
    assert torch.allclose(kron._kron[0].covariance(jacobian), jacobian @ block @ jacobian.transpose(1, 2), rtol=1e-5)
    with seeded_init(0):
        conv = FlatNetwork(nn.Sequential(nn.Conv2d(1, 1, 2), nn.Flatten(), nn.Linear(1, 1)))
    with pytest.raises(ConfigError, match="linear layers"):
        Laplace(conv, GaussianNoise(0.1), conv.flatten(), normal(2, 1, 2, 2, dtype=torch.float32), structure="kron")


# Diagnostics -------------------------------------------------------------------------------------------------------


def slow_rhat(draws: np.ndarray) -> float:
    halves = [half for chain in draws for half in (chain[: len(chain) // 2], chain[-(len(chain) // 2) :])]
    n = len(halves[0])
    within = np.mean([np.var(half, ddof=1) for half in halves])
    between = n * np.var([np.mean(half) for half in halves], ddof=1)
    return float(np.sqrt(((n - 1) / n * within + between / n) / within))


def slow_ess(draws: np.ndarray) -> float:
    halves = np.array([half for chain in draws for half in (chain[: len(chain) // 2], chain[-(len(chain) // 2) :])])
    m, n = halves.shape
    covariance = np.zeros(n)
    for half in halves:
        centred = half - half.mean()
        covariance += np.array([np.sum(centred[: n - lag] * centred[lag:]) / n for lag in range(n)]) / m
    within = covariance[0] * n / (n - 1)
    total = within * (n - 1) / n + halves.mean(1).var(ddof=1)
    rho = 1 - (within - covariance * n / (n - 1)) / total
    rho[0] = 1
    time, least = -1.0, math.inf
    for lag in range(0, n - 1, 2):
        pair = rho[lag] + rho[lag + 1]
        if pair <= 0:
            break
        least = min(least, pair)
        time += 2 * least
    return m * n / max(time, 1 / math.log10(m * n))


def autoregressive(rho: float, seed: int = 0) -> np.ndarray:
    noise = normal(4, 301, seed=seed).numpy()
    for t in range(1, 301):
        noise[:, t] = rho * noise[:, t - 1] + math.sqrt(1 - rho**2) * noise[:, t]
    return noise


@pytest.mark.parametrize("rho", [0.0, 0.7, -0.5])
def test_diagnostics_agree_with_plain_formulas(rho):
    draws = autoregressive(rho)
    shifted = draws + np.arange(4)[:, None]
    both = torch.as_tensor(np.stack([draws, shifted], -1))
    for number, each in enumerate((draws, shifted)):
        assert float(split_rhat(both)[number]) == pytest.approx(slow_rhat(each), rel=1e-9)
        assert float(effective_sample_size(both)[number]) == pytest.approx(slow_ess(each), rel=1e-6)


def test_diagnostics_know_good_and_bad_chains():
    good = torch.as_tensor(autoregressive(0.8))
    assert float(effective_sample_size(good)) == pytest.approx(4 * 300 * (1 - 0.8) / (1 + 0.8), rel=0.5)
    assert float(split_rhat(torch.as_tensor(autoregressive(0.0)))) < 1.02
    assert float(split_rhat(good + torch.arange(4.0)[:, None])) > 1.3
    constant = torch.ones(3, 10)
    assert float(split_rhat(constant)) == 1.0
    assert float(effective_sample_size(constant)) == 30.0
    heavy = normal(4, 300).div(normal(4, 300, seed=5))  # Cauchy: moments do not exist, ranks do
    assert float(split_rhat(heavy, rank=True)) < 1.03
    assert float(rank_normalised(heavy).std()) == pytest.approx(1, abs=0.01)
    with pytest.raises(InputError, match="4 draws"):
        split_rhat(torch.zeros(2, 3))


def test_diagnostics_agree_with_pyro():
    stats = pytest.importorskip("pyro.ops.stats")
    draws = torch.as_tensor(autoregressive(0.6))[:, :300]
    assert float(split_rhat(draws)) == pytest.approx(
        float(stats.split_gelman_rubin(draws, chain_dim=0, sample_dim=1)), rel=1e-6
    )
