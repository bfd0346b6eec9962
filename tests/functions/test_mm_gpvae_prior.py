"""The Fourier prior against its kernel, its band and its density; the simulator against its equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.functions import FourierGP, RotatingDigits, rotating_digits
from foreknow.functions.mm_gpvae.prior import JITTER
from foreknow.functions.mm_gpvae.simulator import exemplars_of

# The basis ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bins", [40, 60, 61])
def test_the_basis_is_orthonormal_on_the_whole_circle(n_bins: int) -> None:
    """With a circle of one trial the rows are an orthonormal family; that is what the factors are for."""
    basis = FourierGP(padding=1.0).basis(n_bins)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(len(basis), dtype=torch.float64))


def test_the_spectrum_gives_the_squared_exponential_kernel() -> None:
    """On a long circle the covariance is the kernel and white noise of the floor; the plain sum over pairs of bins."""
    prior, t = FourierGP(12.0, 5.0, floor=1e-12, padding=4.0), torch.arange(50.0, dtype=torch.float64)
    for lengthscale in (6.0, 12.0):
        found = prior.bin_covariance(torch.tensor([lengthscale], dtype=torch.float64), 50)[0]
        kernel = (-0.5 * ((t[:, None] - t) / lengthscale) ** 2).exp()
        torch.testing.assert_close(found, kernel, atol=2e-3, rtol=0)


def test_the_spectrum_written_out_slowly() -> None:
    prior = FourierGP(variance=0.7)
    circle, ell = 1.2 * 60, 14.0
    n = math.floor(circle / (math.pi * 10) * math.sqrt(0.5 * math.log(1e8)))
    assert prior.n_frequencies(60) == n == 6
    found = prior.spectrum(torch.tensor([ell], dtype=torch.float64), 60)[:, 0]
    slow = [
        math.sqrt(2 * math.pi) * 0.7 * ell * math.exp(-0.5 * (2 * math.pi * f / circle) ** 2 * ell**2) + 1e-2
        for f in [*range(n + 1), *range(1, n + 1)]
    ]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64))
    basis = prior.basis(60)
    for f, t in ((0, 5), (3, 17), (6, 59)):
        scale = math.sqrt(circle / 2) * (math.sqrt(2) if f == 0 else 1)
        assert float(basis[f, t]) == pytest.approx(math.cos(2 * math.pi * f * t / circle) / scale)


def test_a_circle_of_one_trial_joins_its_ends_and_padding_parts_them() -> None:
    ell = torch.tensor([10.0], dtype=torch.float64)
    ends = [float(FourierGP(padding=p).bin_covariance(ell, 60)[0, 0, 59]) for p in (1.0, 1.2, 2.0)]
    assert ends[0] > 0.9
    assert ends[1] == pytest.approx(math.exp(-0.5 * 1.3**2), abs=0.02)  # 13 bins around the circle
    assert abs(ends[2]) < 0.01


def test_few_bins_keep_frequencies_below_that_of_alternating_ones() -> None:
    prior = FourierGP(3.0, 1.0)
    for n_bins in (1, 2, 5, 9):
        assert prior.n_frequencies(n_bins) < 1.2 * n_bins / 2
        assert prior.basis(n_bins).shape == (prior.n_coefficients(n_bins), n_bins)
    assert FourierGP().n_coefficients(3) == 1


# As a prior --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [FourierGP(), FourierGP(domain="time"), FourierGP(shuffled=True), FourierGP().off()])
def test_density_is_that_of_a_normal_distribution(prior: FourierGP) -> None:
    values = prior.sample(4, generator=torch_stream(0), dtype=torch.float64).value
    ell = torch.tensor([prior.lengthscale], dtype=torch.float64)
    covariance = prior.bin_covariance(ell, 60)[0] + (0 if prior.domain == "white" else JITTER) * torch.eye(60)
    slow = torch.distributions.MultivariateNormal(torch.zeros(60, dtype=torch.float64), covariance)
    torch.testing.assert_close(prior.log_prob(values), slow.log_prob(values), rtol=1e-6, atol=1e-4)


def test_off_is_independent_and_the_placebo_smooth_in_another_order() -> None:
    def roughness(prior: FourierGP, order: torch.Tensor | None = None) -> float:
        z = prior.sample(200, generator=torch_stream(1)).value
        z = z if order is None else z[:, order.argsort()]
        return float((z[:, 1:] - z[:, :-1]).square().mean() / z.square().mean())

    assert roughness(FourierGP(11.0)) < 0.05
    assert roughness(FourierGP().off()) == pytest.approx(2.0, abs=0.1)
    wrong = FourierGP(11.0, shuffled=True)
    assert roughness(wrong) > 0.3
    assert roughness(wrong, wrong.order(60)) < 0.05


def test_bad_settings_and_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="greater than min_lengthscale"):
        FourierGP(5.0, 5.0)
    with pytest.raises(ConfigError, match="padding"):
        FourierGP(padding=0.9)
    with pytest.raises(ConfigError, match="no diagonal"):
        FourierGP(domain="time").spectrum(torch.ones(1), 60)
    with pytest.raises(InputError, match="60 bins"):
        FourierGP().log_prob(torch.zeros(2, 59))


def test_pictures_of_the_priors() -> None:
    assert len(FourierGP(n_bins=20).picture(3, generator=torch_stream(0)).lines) == 3
    grid = RotatingDigits(n_bins=12, n_neurons=2, size=8).picture(2, generator=torch_stream(0))
    assert len(grid.images) == 2 and len(grid.images[0]) == 10


# The simulation ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    world = RotatingDigits(n_neurons=8, size=12)
    return world, world.sample(60, generator=torch_stream(0, "test"))


def test_latents_have_their_variances_and_are_smooth(drawn) -> None:
    _, draw = drawn
    z = draw.value
    np.testing.assert_allclose(z.square().mean((0, 1)).numpy(), [0.3, 0.5, 0.8], rtol=0.25)
    gap10 = (z[:, 10:] * z[:, :-10]).mean((0, 1)) / z.square().mean((0, 1))
    np.testing.assert_allclose(gap10.numpy(), math.exp(-0.5), atol=0.15)
    rough = RotatingDigits(n_neurons=8, size=6).off().sample(20, generator=torch_stream(0)).value
    assert abs(float((rough[:, 1:] * rough[:, :-1]).mean())) < 0.05


def test_rates_and_counts_follow_the_two_latents_of_neurons(drawn) -> None:
    world, draw = drawn
    loadings, offsets = (part.numpy() for part in world.neurons())
    assert np.abs(loadings).max() <= 1.5 and np.abs(offsets).max() <= 0.5
    z = draw.value.numpy()
    rate = np.exp(z[3, 7, 0] * loadings[2, 0] + z[3, 7, 1] * loadings[2, 1] + offsets[2])
    assert float(draw.info["rates"][3, 7, 2]) == pytest.approx(rate, rel=1e-4)
    spikes, again = draw.info["spikes"], draw.info["spikes_again"]
    assert bool((spikes == spikes.round()).all()) and not torch.equal(spikes, again)
    assert float(spikes.mean()) == pytest.approx(float(draw.info["rates"].mean()), rel=0.05)


def test_images_turn_and_grow() -> None:
    world = RotatingDigits(size=36)
    one = exemplars_of(3, "all")[:1]
    zero = torch.zeros(1)
    still = world.render(one, zero, zero)[0]
    assert still.shape == (36, 36) and float(still.min()) >= 0 and float(still.max()) <= 1
    full = world.render(one, torch.full((1,), 3.0), zero)[0]  # 360 degrees
    torch.testing.assert_close(full, still, atol=2e-2, rtol=0)
    quarter = RotatingDigits(size=36, degrees=90.0).render(one, torch.ones(1), zero)[0]
    turned = min(float((torch.rot90(still, k) - quarter).abs().mean()) for k in (1, -1))
    assert turned < 0.01 < float((still - quarter).abs().mean())
    assert float(world.render(one, zero, torch.tensor([-0.5]))[0].sum()) < 0.4 * float(still.sum())
    mirrored = world.render(one, zero, torch.tensor([-2.0]))[0]  # |1 - 2| = 1: the zoom is no sign
    torch.testing.assert_close(mirrored, still)


def test_parts_share_no_written_digit_and_populations_are_kept() -> None:
    train, test = (set(exemplars_of(3, part).tolist()) for part in ("train", "test"))
    assert not train & test and train | test == set(exemplars_of(3, "all").tolist())
    one, other = rotating_digits(3, 3, n_bins=9, n_neurons=4, size=6, random_state=5)
    assert set(one.exemplars.ravel().tolist()) <= train and set(other.exemplars.ravel().tolist()) <= test
    world = RotatingDigits(n_bins=9, n_neurons=4, size=6, population=5)
    loadings, offsets = (part.numpy() for part in world.neurons())
    for trials in (one, other):
        np.testing.assert_allclose(np.log(trials.rates), trials.latents[..., :2] @ loadings.T + offsets, atol=1e-4)
    again, _ = rotating_digits(3, 3, n_bins=9, n_neurons=4, size=6, random_state=5)
    np.testing.assert_array_equal(again.spikes, one.spikes)


def test_bad_simulations_are_refused() -> None:
    with pytest.raises(ConfigError, match="three numbers"):
        RotatingDigits(variances=(0.1, 0.2))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="digit"):
        RotatingDigits(digit=10)
    with pytest.raises(ConfigError, match="n_bin"):
        rotating_digits(2, 2, n_bin=4)
