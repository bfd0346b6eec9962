"""Samplers of the kit against densities that are known."""

import math

import pytest
import torch
from torch import nn

from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.rng import torch_stream
from foreknow.nn.bayes import (
    FlatNetwork,
    GaussianLayers,
    GaussianNoise,
    SGHMCSettings,
    hmc,
    leapfrog,
    sghmc,
    split_rhat,
)
from foreknow.nn.bayes.hamiltonian import value_and_grad


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(seed, "samplers"), dtype=torch.float64)


COVARIANCE = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, 0.2], [0.0, 0.2, 0.5]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
PRECISION = torch.linalg.inv(COVARIANCE)


def gaussian(z: torch.Tensor) -> torch.Tensor:
    return -0.5 * torch.einsum("cp,pq,cq->c", z - MEAN, PRECISION, z - MEAN)


def test_leapfrog_is_reversible_and_keeps_energy():
    z, momentum = normal(4, 3), normal(4, 3, seed=1)
    mass = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    step = torch.tensor([[0.02], [0.05], [0.01], [0.03]], dtype=torch.float64)
    _, slope = value_and_grad(gaussian, z)
    end, turned, value, there = leapfrog(gaussian, z, momentum, slope, step, 25, mass)
    back, first, _, _ = leapfrog(gaussian, end, -turned, there, step, 25, mass)
    assert torch.allclose(back, z, atol=1e-9)
    assert torch.allclose(first, -momentum, atol=1e-9)
    energy = [v - 0.5 * (mass * p.square()).sum(-1) for v, p in ((gaussian(z), momentum), (value, turned))]
    assert torch.allclose(*energy, atol=0.05)


def test_leapfrog_keeps_volume():
    def move(state: torch.Tensor) -> torch.Tensor:
        z, momentum = state[None, :3], state[None, 3:]
        scale, mass = torch.full((1, 1), 0.1, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
        for _ in range(3):  # written out, since `leapfrog` itself cuts the graph
            momentum = momentum + 0.5 * scale * (MEAN - z) @ PRECISION
            z = z + scale * mass * momentum
            momentum = momentum + 0.5 * scale * (MEAN - z) @ PRECISION
        return torch.cat([z[0], momentum[0]])

    state = normal(6)
    jacobian = torch.autograd.functional.jacobian(move, state)
    assert float(torch.linalg.det(jacobian)) == pytest.approx(1.0, abs=1e-9)
    z, momentum = state[None, :3], state[None, 3:]
    _, slope = value_and_grad(gaussian, z)
    end, turned, _, _ = leapfrog(
        gaussian,
        z,
        momentum,
        slope,
        torch.full((1, 1), 0.1, dtype=torch.float64),
        3,
        torch.ones(3, dtype=torch.float64),
    )
    assert torch.allclose(torch.cat([end[0], turned[0]]), move(state))


@pytest.mark.parametrize("adapt_mass", [False, True])
def test_hmc_recovers_a_gaussian(adapt_mass):
    found = hmc(
        gaussian, normal(64, 3), n_samples=60, n_burn=200, n_leapfrog=12, step=0.5, target=0.8, adapt_mass=adapt_mass,
        generator=torch_stream(0),
    )  # fmt: skip
    draws = found.samples.reshape(-1, 3)
    assert float(split_rhat(found.samples).max()) < 1.05
    assert torch.allclose(draws.mean(0), MEAN, atol=0.12)
    assert torch.allclose(torch.cov(draws.T), COVARIANCE, atol=0.25)
    assert 0.7 < float(found.accept.mean()) < 0.92
    assert torch.allclose(found.log_prob[:, -1], gaussian(found.samples[:, -1]))
    assert float(found.divergent.max()) == 0.0


@pytest.mark.parametrize("target", [0.65, 0.9])
def test_step_sizes_reach_the_target(target):
    found = hmc(
        gaussian, normal(32, 3), n_samples=100, n_burn=300, n_leapfrog=8, target=target, generator=torch_stream(1)
    )
    assert float(found.accept.mean()) == pytest.approx(target, abs=0.12)


def test_a_fixed_step_and_thinning():
    found = hmc(gaussian, normal(2, 3), n_samples=5, n_burn=0, thin=3, step=0.1, target=None, generator=torch_stream(0))
    assert found.samples.shape == (2, 5, 3)
    assert found.step.tolist() == pytest.approx([0.1, 0.1])


def test_walls_of_the_density_are_never_crossed():
    def half(z: torch.Tensor) -> torch.Tensor:
        return torch.where(z[:, 0] > 0, -z.sum(-1), torch.full_like(z[:, 0], -math.inf))

    found = hmc(half, normal(16, 1).abs(), n_samples=200, n_burn=200, step=0.3, generator=torch_stream(0))
    assert float(found.samples.min()) > 0
    assert float(found.samples.mean()) == pytest.approx(1.0, abs=0.15)
    with pytest.raises(ConvergenceError, match="start"):
        hmc(half, -normal(2, 1).abs(), n_samples=1, n_burn=0, generator=torch_stream(0))
    with pytest.raises(InputError, match="chains"):
        hmc(half, normal(2), n_samples=1, n_burn=0, generator=torch_stream(0))


def linear_task(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    x = normal(n, 2).float()
    rows = torch.cat([x, torch.ones(n, 1)], 1)
    y = rows @ torch.tensor([1.0, -0.5, 0.3]) + 0.1**0.5 * normal(n, seed=3).float()
    covariance = torch.linalg.inv(rows.T @ rows / 0.1 + torch.eye(3))
    return x, y, covariance @ rows.T @ y / 0.1, covariance


def run_sghmc(n: int, settings: SGHMCSettings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    network = FlatNetwork(nn.utils.skip_init(nn.Linear, 2, 1))
    x, y, mean, covariance = linear_task(n)
    prior, noise, generator = GaussianLayers(network, sd=1.0, fan_in=False), GaussianNoise(0.1), torch_stream(5)

    def gradient(z: torch.Tensor) -> torch.Tensor:
        rows = torch.randint(n, (len(z), 32), generator=generator)
        leaf = z.detach().requires_grad_(True)
        potential = -noise.log_prob(network.per_chain(leaf, x[rows]), y[rows]).mean(1) - prior.log_prob(leaf) / n
        return torch.autograd.grad(potential.sum(), leaf)[0]

    start = prior.start(settings.n_chains, generator)[0]
    return sghmc(gradient, start, settings, n_rows=n, generator=generator), mean, covariance


def test_sghmc_recovers_a_conjugate_posterior():
    settings = SGHMCSettings(n_burn=1000, keep_every=40, n_samples=30, n_drop=5, n_chains=64)
    draws, mean, covariance = run_sghmc(64, settings)
    assert draws.shape == (64, 30, 3)
    flat, sd = draws.reshape(-1, 3), covariance.diagonal().sqrt()
    assert float(((flat.mean(0) - mean) / sd).abs().max()) < 0.2
    assert torch.allclose(flat.std(0), sd, rtol=0.2)
    assert float(split_rhat(draws).max()) < 1.1


def test_a_step_not_divided_by_sqrt_n_is_no_posterior():
    settings = SGHMCSettings(n_burn=500, keep_every=20, n_samples=10, n_drop=5, n_chains=64, scale_lr=False)
    draws, _, covariance = run_sghmc(64, settings)
    assert float((draws.reshape(-1, 3).std(0) / covariance.diagonal().sqrt()).min()) > 2


def test_sghmc_follows_the_published_recursion():
    settings = SGHMCSettings(n_burn=3, keep_every=1, n_samples=2, n_drop=0, n_chains=1, scale_lr=False, lr=0.1)
    start = torch.tensor([[0.7, -0.2]])
    found = sghmc(lambda z: z, start, settings, n_rows=10, generator=torch_stream(0))
    generator, z = torch_stream(0), start.clone()
    momentum, tau, g, v = torch.zeros(2), torch.ones(2), torch.ones(2), torch.ones(2)
    for number in range(5):
        slope = z[0]
        if number < 3:
            tau = tau + 1 - tau * g**2 / v
            g = g + (slope - g) / (tau + 1)
            v = v + (slope**2 - v) / (tau + 1)
        minv = 1 / v.sqrt()
        sd = (2 * 0.1**2 * 0.01 * minv - 0.1**4).clamp(min=1e-16).sqrt()
        noise = torch.randn(1, 2, generator=generator)[0]
        momentum = momentum - 0.1**2 * minv * slope * 10 - 0.01 * momentum + sd * noise
        z = z + momentum
        if number >= 3:
            assert torch.allclose(found[0, number - 3], z[0], atol=1e-6)


def test_sghmc_says_when_it_diverges():
    settings = SGHMCSettings(n_burn=0, keep_every=100, n_samples=1, n_drop=0, n_chains=1, scale_lr=False, lr=1.0)
    with pytest.raises(ConvergenceError, match="finite"):
        sghmc(lambda z: 1e10 * z, torch.ones(1, 2), settings, n_rows=1000, generator=torch_stream(0))
    with pytest.raises(ConfigError, match="lr"):
        SGHMCSettings(lr=0.0)
