"""Kernel and network hypotheses: the law of their loss, what they fit, and what is said where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from foreknow.audit import RBF, KernelHypotheses, NetworkHypotheses, White, cnn_1d, counting_bits, mlp
from foreknow.audit.inductive_bias import kernels
from foreknow.common.errors import CapabilityError, ConfigError, ConvergenceError, ForeknowWarning, InputError
from foreknow.common.rng import torch_stream


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(70, 4))
    return X, np.stack([np.sin(X.sum(1)), X[:, 0] * X[:, 1]], axis=1)


# Kernels -------------------------------------------------------------------------------------------------------------


def test_the_law_is_that_of_functions_drawn_by_brute_force(table):
    X, Y = table
    fitting = KernelHypotheses(RBF(1.5)).condition(X[:40], Y[:40])
    law = fitting.law(X[40:], Y[40:])
    k = np.exp(-0.5 * np.square(X[:, None] - X).sum(-1) / 1.5**2)
    inner, cross = k[:40, :40], k[40:, :40]
    mean = cross @ np.linalg.solve(inner, Y[:40])
    covariance = k[40:, 40:] - cross @ np.linalg.solve(inner, cross.T)
    rng = np.random.default_rng(1)
    f = mean + np.einsum("ij,sjk->sik", np.linalg.cholesky(covariance), rng.normal(size=(20_000, 30, 2)))
    losses = np.square(f - Y[40:]).mean((1, 2))
    drawn = law.sample_losses(20_000, torch_stream(0, "losses"))
    assert law.mean == pytest.approx(losses.mean(), rel=0.01)
    assert (drawn.mean(), drawn.std()) == pytest.approx((losses.mean(), losses.std()), rel=0.03)
    for level in (0.3, 0.05, 0.005):
        eps = float(np.quantile(losses, level))
        counted = counting_bits(losses, eps, 0.999)
        assert counted.low - 0.03 < law.bits(eps).value < counted.high + 0.03
        assert fitting.bits(X[40:], Y[40:], eps) == law.bits(eps).value
    assert fitting.bits(X[40:], Y[40:], [0.1, 0.2]).shape == (2,)
    z = torch.randn(20_000, law.n_latent, generator=torch_stream(1, "z"), dtype=torch.float64)
    assert float(law.loss(z).mean()) == pytest.approx(law.mean, rel=0.01)
    assert fitting.sample_losses(5, torch_stream(0, "s"), X_test=X[40:], Y_test=Y[40:]).shape == (5,)


def test_every_hypothesis_fits_the_training_data(table):
    X, Y = table
    fitting = KernelHypotheses().condition(X[:40], Y[:40])
    assert fitting.jitter == 0
    assert fitting.train_loss < 1e-20
    mean, variance = fitting.moments(X[:40])
    assert mean.numpy() == pytest.approx(Y[:40], abs=1e-8)
    assert float(variance.max()) < 1e-8


def test_the_median_lengthscale_follows_the_data(table):
    X, Y = table
    distances = np.linalg.norm(X[:, None] - X, axis=-1)[np.triu_indices(70, 1)]
    kernel = RBF("median").resolve(torch.as_tensor(X))
    assert kernel.lengthscale == pytest.approx(np.median(distances), rel=1e-2)
    assert KernelHypotheses().condition(1e6 * X, Y).law(1e6 * X + 1e5, Y).mean == pytest.approx(
        KernelHypotheses().condition(X, Y).law(X + 0.1, Y).mean, rel=1e-6
    )


def test_duplicates_get_jitter_and_a_word(table):
    X, Y = table
    X, Y = np.concatenate([X[:30], X[:5]]), np.concatenate([Y[:30], Y[:5]])
    with pytest.warns(ForeknowWarning, match=r"singular .* 1.0e-06 was added"):
        fitting = KernelHypotheses().condition(X, Y)
    assert 0 < fitting.train_loss < 1e-6


def test_a_lengthscale_that_makes_the_kernel_the_identity_is_named(table):
    X, Y = table
    fitting = KernelHypotheses(RBF(0.01)).condition(X[:40], Y[:40])
    with pytest.warns(ForeknowWarning, match="too short"):
        law = fitting.law(X[40:], Y[40:])
    assert law.mean == pytest.approx(1 + np.square(Y[40:]).mean())
    white = KernelHypotheses(White()).condition(X[:40], Y[:40]).law(X[40:], Y[40:])  # the same on purpose: no warning
    assert white.mean == pytest.approx(law.mean)


def test_conjugate_gradients_agree_with_the_factor(table, monkeypatch):
    X, Y = table
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(160, 5)), rng.normal(size=160)
    monkeypatch.setattr(kernels, "_PRECONDITIONER", 40)
    direct = KernelHypotheses(RBF(1.0)).condition(X[:120], Y[:120]).law(X[120:], Y[120:])
    steps = KernelHypotheses(RBF(1.0), n_direct=10).condition(X[:120], Y[:120])
    assert steps.factor is None
    assert steps.law(X[120:], Y[120:]).bits(0.9).value == pytest.approx(direct.bits(0.9).value, rel=1e-3)
    assert steps.train_loss < 1e-8
    with pytest.raises(ConvergenceError, match="conjugate gradients"):
        kernels._conjugate_gradients(RBF(1.0), steps.x, 1e-6, steps.y, n_steps=1)


def test_kernel_data_that_cannot_be_used_are_refused(table):
    X, Y = table
    fitting = KernelHypotheses().condition(X[:40], Y[:40])
    with pytest.raises(InputError, match="all hypotheses agree"):
        fitting.law(X[:3], Y[:3])
    with pytest.raises(InputError, match="columns"):
        fitting.law(X[40:, :2], Y[40:])
    with pytest.raises(InputError, match="1 outputs"):
        fitting.law(X[40:], Y[40:, 0])
    with pytest.raises(InputError, match="rows"):
        KernelHypotheses().condition(X, Y[:3])
    with pytest.raises(InputError, match="two different"):
        KernelHypotheses().condition(np.ones((4, 2)), np.arange(4.0))
    with pytest.raises(ConfigError, match="kernel"):
        KernelHypotheses("rbf")
    with pytest.raises(ConfigError, match="lengthscale"):
        RBF(0.0)


def test_directions_that_no_hypothesis_varies_in_bound_the_loss(table):
    X, Y = table
    X_test, Y_test = np.concatenate([X[:3], X[40:]]), np.concatenate([Y[:3] + 1.0, Y[40:]])
    law = KernelHypotheses().condition(X[:40], Y[:40]).law(X_test, Y_test)
    assert law.constant == pytest.approx(3 / len(X_test), rel=1e-6)  # three known rows, each off by one
    with pytest.raises(InputError, match="infinitely many bits"):
        law.bits(0.9 * law.constant)


# Networks ------------------------------------------------------------------------------------------------------------


def test_stacked_training_is_that_of_each_network_alone(table):
    X, Y = table
    hypotheses = NetworkHypotheses(lambda: mlp(4, 2, width=8, depth=1), n_steps=20, batch_size=16, chunk=2)
    together = hypotheses.condition(X[:40], Y[:40], n_draws=3, random_state=0)
    from foreknow.common.rng import seed_of

    root = seed_of(0, "networks")
    module = hypotheses._module(seed_of(root, "weights", "1"))
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-3)
    order, x, y = torch_stream(root, "order", "1"), torch.as_tensor(X[:40]).float(), torch.as_tensor(Y[:40]).float()
    for step in range(20):
        if step % 2 == 0:
            rows = torch.randperm(40, generator=order)
        chosen = rows[(step % 2) * 16 :][:16]
        optimiser.zero_grad()
        (module(x[chosen]) - y[chosen]).square().mean().backward()
        optimiser.step()
    alone = module(torch.as_tensor(X[40:]).float()).detach().numpy()
    assert together.predict(X[40:])[1] == pytest.approx(alone, abs=1e-5)
    losses = together.all_losses(X[40:], Y[40:])
    assert losses[1] == pytest.approx(np.square(alone - Y[40:]).mean(), rel=1e-4)
    assert len(set(losses)) == 3


def test_draws_repeat_and_do_not_depend_on_how_many_are_drawn(table):
    X, Y = table
    hypotheses = NetworkHypotheses(lambda: cnn_1d(4, 2, channels=4), n_steps=3, device="cpu")
    few, many = (hypotheses.condition(X, Y, n_draws=n, random_state=5).predict(X) for n in (2, 4))
    assert few == pytest.approx(many[:2], abs=1e-6)


def test_draws_that_do_not_fit_are_flagged_and_left_out(table):
    X, Y = table
    hypotheses = NetworkHypotheses(lambda: mlp(4, 2, width=60), n_steps=120, lr=1e-2, batch_size=40)
    found = hypotheses.condition(X[:40], Y[:40], n_draws=4, random_state=0)
    assert found.fits.all()
    assert len(found.losses(X[40:], Y[40:])) == 4
    from dataclasses import replace

    strict = replace(found, max_train_loss=float(np.sort(found.train_losses)[1]))
    with pytest.warns(ForeknowWarning, match="2 of 4 draws do not fit"):
        assert len(strict.losses(X[40:], Y[40:])) == 2
    with pytest.raises(InputError, match="no draw fits"):
        replace(found, max_train_loss=0.0).losses(X[40:], Y[40:])
    with pytest.raises(InputError, match="draw 0 diverged"):
        replace(found, train_losses=np.array([np.nan, 0, 0, 0])).losses(X[40:], Y[40:])


@pytest.mark.parametrize(
    ("factory", "error", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.1)), CapabilityError, "Dropout"),
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), CapabilityError, "BatchNorm1d"),
        (lambda: 3, ConfigError, "nn.Module"),
    ],
)
def test_networks_that_cannot_be_trained_side_by_side_are_refused(table, factory, error, words):
    with pytest.raises(error, match=words):
        NetworkHypotheses(factory, n_steps=1).condition(*table, n_draws=2)


def test_network_settings_are_checked():
    with pytest.raises(ConfigError, match="n_steps"):
        NetworkHypotheses(lambda: mlp(1, 1), n_steps=0)
    with pytest.raises(ConfigError, match="factory"):
        NetworkHypotheses({})
