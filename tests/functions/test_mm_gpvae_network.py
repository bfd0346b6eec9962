"""The lower bound against slow plain versions, how posteriors join, and what a missing recording leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, Poisson, kl_divergence

from foreknow.common.rng import seeded_init, torch_stream
from foreknow.functions import GPVAE, FourierGP
from foreknow.functions.mm_gpvae.inference import (
    expected_gaussian,
    expected_poisson,
    fuse,
    kl_diagonal,
    kl_full,
)

F64 = torch.float64


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch_stream(seed, "test"), dtype=F64)


# Divergences -------------------------------------------------------------------------------------------------------


def test_diagonal_divergence_is_the_exact_one_of_gaussians() -> None:
    """Against torch.distributions; the released code has (m + s)^2 / c where (m^2 + s^2) / c is right."""
    mean, log_sd, variance = randn(4, 7), randn(4, 7, seed=1), randn(4, 7, seed=2).exp()
    exact = kl_divergence(Normal(mean, log_sd.exp()), Normal(torch.zeros_like(mean), variance.sqrt()))
    torch.testing.assert_close(kl_diagonal(mean, log_sd, variance), exact)
    released = 0.5 * ((mean + log_sd.exp()).square() / variance - 1 + variance.log()) - log_sd
    assert float((released - exact).abs().max()) > 0.1
    assert float(kl_diagonal(torch.zeros(3), 0.5 * torch.ones(3), torch.ones(3).exp()).abs().max()) < 1e-6


def test_full_divergence_is_the_exact_one_of_gaussians() -> None:
    """Against torch.distributions, half the log determinant included."""
    prior = FourierGP(domain="time", n_bins=9, min_lengthscale=2.0, lengthscale=4.0)
    covariance = prior.bin_covariance(torch.tensor([3.0, 5.0], dtype=F64), 9)
    mean, log_sd = randn(2, 9, 2), 0.3 * randn(2, 9, 2, seed=1)
    found = kl_full(mean, log_sd, covariance)
    for b in range(2):
        for p in range(2):
            posterior = MultivariateNormal(mean[b, :, p], torch.diag((2 * log_sd[b, :, p]).exp()))
            exact = kl_divergence(posterior, MultivariateNormal(torch.zeros(9, dtype=F64), covariance[p]))
            assert float(found[b, p]) == pytest.approx(float(exact), rel=1e-8)


def test_closed_form_expectations_against_many_draws() -> None:
    counts, mean, variance = torch.tensor([0.0, 2.0, 5.0], dtype=F64), torch.tensor([-0.5, 0.4, 1.2], dtype=F64), 0.3
    log_rate = mean + variance**0.5 * randn(200_000, 3)
    slow = Poisson(log_rate.exp()).log_prob(counts).mean(0)
    torch.testing.assert_close(
        expected_poisson(counts, mean, torch.full((3,), variance, dtype=F64)), slow, atol=2e-2, rtol=0
    )
    noise = torch.tensor(0.7, dtype=F64)
    slow = Normal(log_rate, noise.sqrt()).log_prob(counts).mean(0)
    found = expected_gaussian(counts, mean, torch.full((3,), variance, dtype=F64), noise.log())
    torch.testing.assert_close(found, slow, atol=5e-2, rtol=1e-2)


# Joining -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["mean", "poe"])
def test_one_recording_alone_is_used_as_it_is(how: str) -> None:
    """The present one, not an average with zeros; and gradients stay finite."""
    means, log_sds = randn(2, 3, 5, 2).requires_grad_(), randn(2, 3, 5, 2, seed=1).requires_grad_()
    present = torch.tensor([[1, 1, 0], [1, 0, 1]])
    mean, log_sd = fuse(means, log_sds, present, how)
    torch.testing.assert_close(mean[1], means[0, 1])
    torch.testing.assert_close(mean[2], means[1, 2])
    torch.testing.assert_close(log_sd[2], log_sds[1, 2])
    (mean.sum() + log_sd.sum()).backward()
    assert bool(means.grad.isfinite().all()) and bool(log_sds.grad.isfinite().all())


def test_both_recordings_are_averaged_or_multiplied() -> None:
    means, log_sds = randn(2, 1, 4, 1), randn(2, 1, 4, 1, seed=1)
    present = torch.ones(2, 1)
    mean, log_sd = fuse(means, log_sds, present, "mean")
    torch.testing.assert_close(mean, means.mean(0))
    torch.testing.assert_close(log_sd, log_sds.mean(0))
    mean, log_sd = fuse(means, log_sds, present, "poe")
    precision = (-2 * log_sds).exp()
    torch.testing.assert_close((-2 * log_sd).exp(), precision.sum(0))
    torch.testing.assert_close(mean, (precision * means).sum(0) / precision.sum(0))


# The network -------------------------------------------------------------------------------------------------------


def build(prior: FourierGP, **changes: object) -> GPVAE:
    with seeded_init(0):
        return GPVAE(
            prior, n_bins=12, n_neurons=5, n_values=6, blocks=(1, 2, 1), hidden_neural=(7, 4), hidden_behavior=(8, 5),
            behavior_variance=1.0, **changes,
        )  # fmt: skip


PRIOR = FourierGP(6.0, 3.0)


@pytest.fixture
def data():
    spikes = torch.poisson(torch.full((3, 12, 5), 1.5), generator=torch_stream(0))
    return spikes, randn(3, 12, 6).float(), torch.ones(3, 12)


@pytest.mark.parametrize("prior", [PRIOR, replace(PRIOR, domain="time"), PRIOR.off(), replace(PRIOR, shuffled=True)])
def test_every_arm_has_as_many_weights_and_the_same_first_ones(prior: FourierGP) -> None:
    one, other = build(PRIOR), build(prior)
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert a.shape == b.shape, name
        if "basis" not in name:
            torch.testing.assert_close(a, b)


def test_blocks_reach_only_their_own_decoders(data) -> None:
    """The neural latent moves rates only, the behavioural one behaviour only, a shared one both."""
    network = build(PRIOR)
    z = torch.zeros(1, 12, 4)
    for latent, (neural, behavior) in enumerate([(True, False), (True, True), (True, True), (False, True)]):
        moved = z.clone()
        moved[..., latent] = 1.0
        rates = network.neural_decoder(moved[..., network.of_neurons]) - network.neural_decoder(
            z[..., network.of_neurons]
        )
        assert bool(rates.abs().max() > 1e-6) == neural
        assert bool((network.decode_behavior(moved) - network.decode_behavior(z)).abs().max() > 1e-6) == behavior


def test_what_only_a_missing_recording_has_stays_at_its_prior(data) -> None:
    spikes, behavior, seen = data
    network = build(PRIOR)
    with torch.no_grad():
        alone = network.encode(spikes, None, seen)
        both = network.encode(spikes, behavior, seen)
        hidden = network.encode(spikes, behavior, seen, torch.tensor([[1, 1, 0], [0, 1, 1]]))
        behaviour_alone = network.encode(None, behavior, seen)
    variance = network.prior.spectrum(network.lengthscales, 12).detach()
    assert float(alone.mean[..., 3].abs().max()) == 0
    torch.testing.assert_close((2 * alone.log_sd[0, :, 3]).exp(), variance[:, 3])
    kl = kl_diagonal(alone.mean, alone.log_sd, variance)
    assert float(kl[..., 3].abs().max()) < 1e-5
    torch.testing.assert_close(hidden.mean[0, :, :3], alone.mean[0, :, :3])  # shared latents of one recording alone
    torch.testing.assert_close(hidden.mean[0, :, 3], both.mean[0, :, 3])  # while the private ones keep theirs
    torch.testing.assert_close(hidden.mean[1], both.mean[1])
    torch.testing.assert_close(hidden.mean[2, :, 1:], behaviour_alone.mean[2, :, 1:])


def test_bins_after_the_end_of_a_trial_are_not_looked_at(data) -> None:
    """Other numbers there change neither posterior nor bound."""
    spikes, behavior, seen = data
    network = build(PRIOR)
    seen[1, 8:] = 0
    other = [part.clone() for part in (spikes, behavior)]
    other[0][1, 8:], other[1][1, 8:] = 9.0, -4.0
    bounds = [
        network.bound(*pair, seen, generator=torch_stream(3, "noise")).total.detach()
        for pair in ((spikes, behavior), other)
    ]
    torch.testing.assert_close(*bounds)


def test_the_bound_written_out_slowly(data) -> None:
    """Sums over trials, bins, neurons and coefficients in plain loops, with the same draw."""
    spikes, behavior, seen = data
    network = build(PRIOR)
    with torch.no_grad():
        found = network.bound(spikes, behavior, seen, generator=torch_stream(3, "noise"))
        q = network.encode(spikes, behavior, seen)
        noise = torch.randn(q.mean.shape, generator=torch_stream(3, "noise"))
        w, basis = q.mean + q.log_sd.exp() * noise, network.basis
        c = network.prior.spectrum(network.lengthscales, 12)
        weight, offset = network.neural_decoder.weight, network.neural_decoder.bias
        b = 1
        neural = of_behavior = divergence = 0.0
        for t in range(12):
            for n in range(5):
                a = float(offset[n]) + sum(float(weight[n, p] * (basis[:, t] @ q.mean[b, :, p])) for p in range(3))
                v = sum(float(weight[n, p] ** 2 * (basis[:, t] ** 2 @ (2 * q.log_sd[b, :, p]).exp())) for p in range(3))
                y = spikes[b, t, n]
                neural += float(y * a - torch.tensor(a + v / 2).exp() - torch.lgamma(y + 1))
            z = torch.stack([basis[:, t] @ w[b, :, p] for p in (1, 2, 3)])
            sd = (0.5 * network.log_variance).exp()
            of_behavior += float(Normal(network.behavior_decoder(z), sd).log_prob(behavior[b, t]).sum())
        for p in range(4):
            exact = kl_divergence(Normal(q.mean[b, :, p], q.log_sd[b, :, p].exp()), Normal(0.0, c[:, p].sqrt()))
            divergence += float(exact.sum())
    assert float(found.neural[b]) == pytest.approx(neural, rel=1e-4)
    assert float(found.behavior[b]) == pytest.approx(of_behavior, rel=1e-4)
    assert float(found.kl[b]) == pytest.approx(divergence, rel=1e-4)


def test_lengthscales_cannot_fall_below_the_smallest() -> None:
    network = build(PRIOR)
    with torch.no_grad():
        network.raw_lengthscale.fill_(-50.0)
    assert float(network.lengthscales.detach().min()) >= 3.0
    torch.testing.assert_close(build(PRIOR).lengthscales.detach(), torch.full((4,), 6.0))


def test_three_groups_hold_every_weight_once() -> None:
    network = build(PRIOR)
    groups = network.groups()
    held = [id(p) for group in groups.values() for p in group]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in network.parameters() if p.requires_grad}
    assert id(network.raw_lengthscale) in {id(p) for p in groups["decoder"]}
    assert id(network.log_variance) in {id(p) for p in groups["decoder"]}
    assert id(network.behavior_encoder.mean.weight) in {id(p) for p in groups["behavior"]}
