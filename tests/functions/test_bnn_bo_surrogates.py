"""Surrogates of bnn-bo against exact posteriors, and what every one of them must do as a model of BoTorch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.functions.bnn_bo import processes
from foreknow.functions.bnn_bo.base import evenly
from foreknow.functions.bnn_bo.networks import EnsembleNet, HMCNet, LaplaceNet, MAPNet, NetworkDraws, SGHMCNet
from foreknow.functions.bnn_bo.prior import NetworkPrior, ProcessPrior, gp_draws, matern, rbf
from foreknow.functions.bnn_bo.processes import DKL, IBNN, GPSurrogate, cholesky, condition, mean_and_noise
from foreknow.functions.bnn_bo.surrogates import SURROGATES, as_surrogate
from foreknow.nn.bayes import FlatNetwork

NAMES = tuple(SURROGATES)


def data(n: int = 12, d: int = 2, m: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch_stream(seed, "data")
    x = torch.rand(n, d, generator=generator, dtype=torch.float64)
    y = torch.stack([torch.sin(3 * x.sum(1) + k) for k in range(m)], 1)
    return x, (y - y.mean(0)) / y.std(0)


def linear(d: int) -> FlatNetwork:
    with seeded_init(0):
        return FlatNetwork(torch.nn.Sequential(torch.nn.Linear(d, 1)))


def exact_linear(x: Tensor, y: Tensor, z: Tensor, prior_var: float, noise_var: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance at z of Bayesian linear regression with a constant."""
    a, b = (torch.cat([rows, torch.ones_like(rows[:, :1])], 1) for rows in (x, z))
    precision = a.T @ a / noise_var + torch.eye(a.shape[1], dtype=x.dtype) / prior_var
    covariance = torch.linalg.inv(precision)
    return b @ covariance @ a.T @ y[:, 0] / noise_var, b @ covariance @ b.T


@pytest.fixture
def linear_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network surrogate fits a linear model, whose posterior is known."""
    monkeypatch.setattr(NetworkPrior, "network", lambda self, n_in, n_out=1: linear(n_in))


LINEAR = {
    "hmc": (HMCNet((1,), noise_var=0.1, n_chains=6, n_samples=150, n_burn=100, n_leapfrog=10, step=0.05), 0.08),
    "laplace": (LaplaceNet((1,), noise_var=0.1, structure="full", n_draws=4000, n_steps=2000), 0.03),
    "laplace kron": (LaplaceNet((1,), noise_var=0.1, structure="kron", n_draws=4000, n_steps=2000), 0.03),
    "sghmc": (SGHMCNet((1,), noise_var=0.1, n_chains=40, n_steps=1500, n_burn=1000, n_samples=5, batch_size=12), 0.15),
    "map": (MAPNet((1,), noise_var=0.1, n_steps=2000), None),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_model_gives_the_exact_posterior(linear_networks: None, name: str) -> None:
    settings, tolerance = LINEAR[name]
    x, y = data()
    z = torch.tensor([[0.1, 0.9], [0.5, 0.5], [2.0, -1.0]], dtype=torch.float64)
    mean, covariance = exact_linear(x, y, z, 1.0, 0.1)
    fitted = settings.fit(x, y, seed=1)
    values = fitted.functions(z)[..., 0]  # (s, 3)
    if tolerance is None:
        torch.testing.assert_close(values[0], mean, atol=5e-3, rtol=0)
        return
    sd = covariance.diagonal().sqrt()
    assert float(((values.mean(0) - mean) / sd).abs().max()) < 0.3
    found = torch.cov(values.T)
    scale = sd[:, None] * sd
    assert (
        float(((found - covariance) / scale).abs().max()) < 4 * tolerance + 0.15
    )  # joint over the rows, not row by row


def test_the_infinite_network_is_the_exact_process() -> None:
    x, y = data()
    z, _ = data(5, seed=3)
    fitted = IBNN(depth=2).fit(x, y, seed=0)
    kernel, noise, mean = fitted.kernel, float(fitted.noise), float(fitted.mean)
    inverse = torch.linalg.inv(kernel(x) + noise * torch.eye(12, dtype=torch.float64))
    want = mean + kernel(z, x) @ inverse @ (y[:, 0] - mean)
    spread = kernel(z) - kernel(z, x) @ inverse @ kernel(x, z)
    got, covariance = fitted.joint(z)
    torch.testing.assert_close(got[:, 0], want, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(covariance[0], spread, atol=1e-5, rtol=1e-5)


def test_mean_and_noise_maximise_the_likelihood() -> None:
    x, y = data(20)
    y = y + 1.0 * torch.randn(y.shape, generator=torch_stream(1, "noise"), dtype=torch.float64)
    covariance = IBNN(var_w=1.0, var_b=0.1).fit(x, y, seed=0).kernel(x)

    def likelihood(mean: float, noise: float) -> float:
        normal = torch.distributions.MultivariateNormal(
            torch.full((20,), mean, dtype=torch.float64), covariance + noise * torch.eye(20, dtype=torch.float64)
        )
        return float(normal.log_prob(y[:, 0]))

    mean, noise, found = mean_and_noise(*torch.linalg.eigh(covariance), y[:, 0])
    assert found == pytest.approx(likelihood(mean, noise), abs=1e-5)
    for other in ((mean + 0.5, noise), (mean - 0.5, noise), (mean, noise * 1.2), (mean, noise / 1.2)):
        assert likelihood(*other) < found


def test_the_kernel_is_the_published_recursion() -> None:
    x, z = data(4)[0], data(3, seed=2)[0]
    kernel = IBNN(depth=3, var_w=10, var_b=1.6).prior().kernel()
    for i in range(4):
        for j in range(3):
            k, a, b = ((1.6 + 10 * float(u @ v) / 2) for u, v in ((x[i], z[j]), (x[i], x[i]), (z[j], z[j])))
            for _ in range(3):
                t = torch.tensor(k / (a * b) ** 0.5, dtype=torch.float64).clamp(-1 + 1e-7, 1 - 1e-7).acos()
                root = (a * b) ** 0.5
                k = 1.6 + 10 / (2 * torch.pi) * root * float(t.sin() + (torch.pi - t) * t.cos())
                a, b = 1.6 + 5 * a, 1.6 + 5 * b
            assert float(kernel(x[i : i + 1], z[j : j + 1])) == pytest.approx(k, rel=1e-6)


def test_a_wide_network_is_near_the_infinite_one() -> None:
    x = data(3)[0]
    wide = NetworkPrior((200, 200), "relu", 2.0, 0.5, scaled=True)
    values = wide.sample(1500, x=x, generator=torch_stream(0, "wide"), dtype=torch.float64).value
    limit = replace(wide, infinite=True).kernel()(x)
    assert float((torch.cov(values.T) / limit - 1).abs().max()) < 0.25


def test_learnt_features_that_do_nothing_leave_a_matern_process() -> None:
    x, y = data()
    with seeded_init(0):
        network = FlatNetwork(torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False)))
    one = torch.ones(1, dtype=torch.float64)
    fitted = processes.DKLProcess(
        network, x, y, torch.eye(2, dtype=torch.float64).reshape(1, 4), torch.full((1, 2), 0.5, dtype=torch.float64),
        2 * one, 0.01 * one, 0 * one,
    )  # fmt: skip
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    known = GaussianProcessRegressor(ConstantKernel(2.0) * Matern(0.5, nu=2.5), alpha=0.01, optimizer=None)
    z, _ = data(4, seed=5)
    mean, sd = known.fit(x.numpy(), y[:, 0].numpy()).predict(z.numpy(), return_std=True)
    got, covariance = fitted.joint(z)
    torch.testing.assert_close(got[:, 0], torch.as_tensor(mean), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(covariance[0].diagonal(), torch.as_tensor(sd**2), atol=1e-7, rtol=1e-5)


def test_training_a_deep_kernel_raises_its_likelihood() -> None:
    x, y = data(20)
    losses = [DKL((8,), n_pretrain=30, n_steps=n).fit(x, y, seed=0).diagnostics["loss"] for n in (1, 60)]
    assert losses[1] < losses[0]


def test_a_deep_kernel_is_held_by_the_priors_of_its_process() -> None:
    """The density is BoTorch's of 2023, and training follows it: with no data to speak of, to its mode."""
    from gpytorch.priors import GammaPrior

    one, two = (torch.tensor(v, dtype=torch.float64) for v in ([0.3, 0.9], [0.5, 0.4]))
    got = [ProcessPrior("2023").log_density(v, v[0], v[1]) for v in (one, two)]
    want = [
        GammaPrior(3.0, 6.0).log_prob(v).sum()
        + GammaPrior(2.0, 0.15).log_prob(v[0])
        + GammaPrior(1.1, 0.05).log_prob(v[1])
        for v in (one, two)
    ]
    torch.testing.assert_close(got[0] - got[1], (want[0] - want[1]).double(), atol=1e-5, rtol=1e-5)
    with pytest.raises(CapabilityError):
        ProcessPrior().log_density(one, one[0], one[1])
    x, y = data(2)
    fitted = DKL((4,), n_pretrain=1, n_steps=200, lr=0.02).fit(x, y, seed=0)
    assert float((fitted.lengthscale - 2 / 6).abs().max()) < 0.1
    noise = torch.randn(30, 1, generator=torch_stream(0, "noise"), dtype=torch.float64)
    unsure = DKL((16, 16), n_pretrain=30, n_steps=60).fit(data(30)[0], noise, seed=0)
    assert float(unsure.noise) > 0.3  # a network that may explain all rows does not


def test_an_ensemble_is_the_kit_on_parts_of_the_rows() -> None:
    x, y = data()
    fitted = EnsembleNet((4,), n_members=3, n_steps=50).fit(x, y, seed=0)
    assert fitted.functions(x).shape == (3, 12, 1)
    assert float(fitted.noise) == pytest.approx(float((fitted.functions(x) - y).square().mean()), rel=1e-9)


def test_laplace_functions_are_linear_in_the_weights() -> None:
    x, y = data()
    fitted = LaplaceNet((5,), n_steps=50, n_draws=4).fit(x, y, seed=0)
    twice = NetworkDraws(fitted.network, 2 * fitted.weights - fitted.mode, fitted.noise, fitted.mode)
    base = fitted.network(fitted.mode[None], x)
    torch.testing.assert_close(twice.functions(x) - base, 2 * (fitted.functions(x) - base))
    step = 1e-6 * (fitted.weights - fitted.mode)
    difference = (fitted.network(fitted.mode + step, x) - fitted.network(fitted.mode - step, x)) / 2e-6
    torch.testing.assert_close(fitted.functions(x) - base, difference, atol=1e-6, rtol=1e-5)


def test_the_grid_takes_what_held_back_rows_find_likely() -> None:
    x, y = data(20)
    settings = LaplaceNet((6,), n_steps=100, n_draws=16, grid=((1.0, 0.05), (1.0, 1e-6)))
    found = settings.fit(x, y, seed=0).diagnostics
    assert found["noise_var"] == 0.05
    pair = IBNN(grid=((10.0, 1.6), (1e-4, 1e-4))).fit(x, y, seed=0)
    assert pair.kernel.w_var == 10.0


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_posterior_and_it_survives_its_own_state(name: str) -> None:
    x, y = data(10, m=2)
    settings = SURROGATES[name]["quick"]
    one, two = (settings.fit(x, y, seed=3) for _ in range(2))
    z, _ = data(4, seed=9)
    tensors, meta = one.state()
    again = settings.restore({k: v.clone() for k, v in tensors.items()}, meta)
    for m in range(2):
        want = one.predictive(z, m).mean()
        assert torch.equal(want, two.predictive(z, m).mean())
        torch.testing.assert_close(want, again.predictive(z, m).mean(), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_constant_outcomes_and_repeated_rows(name: str) -> None:
    x = data(8)[0][[0, 0, 0, 1, 1, 2, 3, 3]]
    fitted = SURROGATES[name]["quick"].fit(x, torch.zeros(8, 1, dtype=torch.float64), seed=0)
    dist = fitted.predictive(x)
    assert bool(dist.mean().isfinite().all() and dist.variance().isfinite().all())


def test_priors_go_in_and_out_of_surrogates() -> None:
    for name in NAMES:
        settings = SURROGATES[name]["small"]
        assert settings.with_prior(settings.prior()) == settings
    off = IBNN().with_prior(IBNN().prior().off())
    assert isinstance(off, MAPNet)
    assert off.prior() == off.prior().off()
    wrong = GPSurrogate().with_prior(ProcessPrior().wrong())
    assert wrong == GPSurrogate(lengthscale=100.0)
    for settings, prior in (
        (IBNN(), ProcessPrior()), (IBNN(), NetworkPrior()), (GPSurrogate(), NetworkPrior()), (HMCNet(), ProcessPrior()),
        (DKL(), NetworkPrior()), (HMCNet(), NetworkPrior(bias_var=2.0)), (HMCNet(), IBNN().prior()),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            settings.with_prior(prior)


def test_a_long_lengthscale_flattens_the_process() -> None:
    x, y = data()
    flat = GPSurrogate(lengthscale=100.0).fit(x, y, seed=0).predictive(x).mean()
    fair = GPSurrogate().fit(x, y, seed=0).predictive(x).mean()
    assert float((fair - y[:, 0]).abs().mean()) < 0.5 * float((flat - y[:, 0]).abs().mean())


def test_kernels_and_draws() -> None:
    from sklearn.gaussian_process.kernels import RBF, Matern

    x, z = (part.numpy() for part in (data(5)[0], data(4, seed=1)[0]))
    torch.testing.assert_close(rbf(torch.tensor(x), torch.tensor(z)), torch.as_tensor(RBF(1.0)(x, z)))
    torch.testing.assert_close(matern(torch.tensor(x), torch.tensor(z)), torch.as_tensor(Matern(1.0, nu=2.5)(x, z)))
    covariance = rbf(torch.tensor(x), torch.tensor(x))
    draws = gp_draws(covariance, 20_000, torch_stream(0, "draws"))
    assert float((torch.cov(draws.T) - covariance).abs().max()) < 0.05


def test_conditioning_and_factors() -> None:
    x = data(6)[0]
    covariance = rbf(x, x)
    mean, left = condition(covariance, covariance, cholesky(covariance + 1e-9 * torch.eye(6)), x[:, 0])
    torch.testing.assert_close(mean, x[:, 0], atol=1e-3, rtol=0)
    assert float(left.abs().max()) < 1e-3
    singular = torch.ones(4, 4, dtype=torch.float64)
    factor = cholesky(singular)
    torch.testing.assert_close(factor @ factor.T, singular, atol=1e-6, rtol=0)
    assert evenly(5, None).tolist() == [0, 1, 2, 3, 4]
    assert evenly(9, 3).tolist() == [0, 4, 8]


def test_bad_settings() -> None:
    for make in (
        lambda: HMCNet(n_samples=1), lambda: SGHMCNet(n_steps=10, n_burn=10), lambda: EnsembleNet(subset=0.0),
        lambda: LaplaceNet(structure="none"), lambda: IBNN(depth=0), lambda: IBNN(activation="sin"),
        lambda: GPSurrogate("2020"), lambda: DKL(lr=0.0), lambda: NetworkPrior(infinite=True), lambda: NetworkPrior(()),
        lambda: MAPNet(grid=((1.0,),)), lambda: IBNN(grid=((1.0, -1.0),)), lambda: ProcessPrior(lengthscale=0.0),
        lambda: as_surrogate("x", "gpp"), lambda: as_surrogate("x", 3), lambda: HMCNet(start="here"),
    ):  # fmt: skip
        with pytest.raises((ConfigError, InputError)):
            make()
