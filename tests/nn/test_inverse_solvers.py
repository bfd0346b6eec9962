"""Solvers against closed forms, their certificates, and the denoisers beside them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_tv_chambolle

from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.nn.inverse import (
    SOLVERS,
    Blur,
    Certificate,
    Denoising,
    DnCNN,
    PatchAverage,
    TotalVariation,
    admm,
    as_denoiser,
    gaussian_kernel,
    hqs,
    largest_slope,
    pgd,
    psnr,
    ssim,
    total_variation,
)

BLUR = Blur(gaussian_kernel(0.7), padding="circular")


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch_stream(seed, "image"), dtype=torch.float64)


def ridge(x):
    """The proximal map of |x|^2 / 2."""
    return x / 2


def test_admm_and_gradient_steps_reach_the_ridge_solution() -> None:
    y = BLUR.A(image(2, 1, 12, 12))
    # ADMM with rho = 0.5, scale = 1 minimises 2 * 1/2 |Ax - y|^2 + 1/2 |x|^2; the gradient step is eta
    exact = BLUR.prox_l2(torch.zeros_like(y), y, 2.0)
    found, certificate = admm(y, BLUR, ridge, rho=0.5, n_iterations=200, tolerance=1e-8)
    assert certificate.converged and certificate.decreasing
    assert torch.allclose(found, exact, atol=1e-6)
    eta = 0.9
    found, certificate = pgd(y, BLUR, ridge, step_size=eta, n_iterations=500, tolerance=1e-9)
    assert certificate.converged
    assert torch.allclose(found, BLUR.prox_l2(torch.zeros_like(y), y, eta), atol=1e-6)


def test_half_quadratic_splitting_solves_its_relaxation() -> None:
    y = image(1, 1, 6, 6)
    found, certificate = hqs(y, Denoising(), ridge, rho=1.0, n_iterations=100, tolerance=1e-10)
    # min 1/2 |x - y|^2 + 1/2 |x - z|^2 + 1/2 |z|^2: x = (y + z) / 2, z = x / 2, so z = y / 3
    assert certificate.converged
    assert torch.allclose(found, y / 3, atol=1e-8)


def test_any_physics_with_the_three_methods_will_do() -> None:
    y = BLUR.A(image(1, 1, 8, 8))
    strange = SimpleNamespace(A=BLUR.A, A_adjoint=BLUR.A_adjoint, prox_l2=BLUR.prox_l2)
    for name, solve in SOLVERS.items():
        assert torch.allclose(solve(y, strange, ridge)[0], solve(y, BLUR, ridge)[0], atol=1e-3), name


def test_denoisers_and_priors_of_other_libraries_are_called_in_their_way() -> None:
    x = image(1, 1, 4, 4)
    assert torch.equal(as_denoiser(lambda x, sigma: sigma * x, 0.5)(x), x / 2)
    prior = SimpleNamespace(prox=lambda x, sigma, *, gamma: (gamma + sigma) * x)
    assert torch.equal(as_denoiser(prior, 0.5)(x), 1.5 * x)
    with pytest.raises(ConfigError, match="prior with prox"):
        as_denoiser(3, 0.1)


def test_a_map_that_expands_is_caught() -> None:
    y = image(1, 1, 4, 4)
    with pytest.raises(ConvergenceError, match="no numbers") as caught:
        pgd(y, Denoising(), lambda x: 1e30 * x**3, n_iterations=30)
    assert caught.value.statistics["iteration"] > 0
    _, certificate = pgd(y, Denoising(), lambda x: -30 * x, n_iterations=30, step_size=0.1)
    assert not certificate.converged and not certificate.decreasing


def test_bad_settings_and_measurements_are_refused() -> None:
    y = image(1, 1, 4, 4)
    for options in ({"rho": 0.0}, {"scale": -1.0}, {"n_iterations": 0}, {"tolerance": float("nan")}):
        with pytest.raises(ConfigError):
            admm(y, Denoising(), ridge, **options)
    with pytest.raises(InputError, match="finite"):
        admm(y * float("nan"), Denoising(), ridge)


def test_iterations_are_told_and_stop_at_the_tolerance() -> None:
    told = []
    _, certificate = hqs(image(1, 1, 4, 4), Denoising(), ridge, n_iterations=50, on_step=told.append)
    assert told == list(range(1, len(certificate.changes) + 1))
    assert len(told) < 50 and certificate.changes[-1] < 1e-4 <= certificate.changes[-2]


@pytest.mark.parametrize(
    ("changes", "falls"),
    [((1.0, 0.5, 0.2, 0.1), True), ((1.0, 0.5, 0.2, 0.4), False), ((1.0, 0.5, 0.001, 0.003), False)],
)
def test_a_certificate_says_whether_changes_fall(changes, falls) -> None:
    assert Certificate("admm", changes, 0.0015, 0.0).decreasing is falls


def test_the_largest_slope_of_a_linear_map_is_its_largest_eigenvalue() -> None:
    root = torch.randn(5, 5, generator=torch_stream(0), dtype=torch.float64)
    matrix = root @ root.T
    found = largest_slope(lambda x: x @ matrix, torch.zeros(2, 5, dtype=torch.float64), n_iterations=200)
    assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-6)


# Denoisers ---------------------------------------------------------------------------------------------------------


def test_total_variation_agrees_with_scikit_image_and_beats_its_neighbours() -> None:
    x = image(2, 2, 12, 10)
    weight = 0.15
    found = TotalVariation(weight, n_iterations=2000)(x)
    expected = denoise_tv_chambolle(x[1, 0].numpy(), weight=weight, eps=1e-12, max_num_iter=20_000)
    assert np.allclose(found[1, 0], expected, atol=2e-3)

    def cost(z):
        return weight * total_variation(z) + 0.5 * ((z - x) ** 2).flatten(1).sum(1)

    for seed in range(5):
        other = found + 0.01 * (image(*x.shape, seed=seed + 1) - 0.5)
        assert bool((cost(other) > cost(found)).all())


def test_total_variation_of_a_step_is_its_height_times_its_length() -> None:
    x = torch.zeros(1, 1, 5, 4)
    x[..., 2:] = 0.5
    assert float(total_variation(x)) == pytest.approx(5 * 0.5)


def test_patches_average_to_the_denoiser_itself_where_it_is_local() -> None:
    x = image(2, 1, 13, 18)
    found = PatchAverage(torch.nn.Identity(), (5, 6))(x)
    assert torch.allclose(found, x)
    with pytest.raises(InputError, match="at least 5 x 6"):
        PatchAverage(torch.nn.Identity(), (5, 6))(x[..., :4, :])


@pytest.mark.parametrize("size", [2000, 130_000])
def test_a_residual_network_has_about_the_parameters_asked_for(size) -> None:
    with seeded_init(0):
        network = DnCNN.of_size(size, channels=3)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(size, rel=0.1)
    assert network(image(1, 3, 7, 7).float()).shape == (1, 3, 7, 7)


def test_quality_is_as_defined() -> None:
    x = image(2, 1, 9, 9).numpy()
    assert psnr(x + 0.1, x) == pytest.approx([20, 20])
    assert ssim(x, x) == pytest.approx([1, 1])
    assert (ssim(x[::-1], x) < 0.9).all()
    with pytest.raises(InputError, match="differ"):
        psnr(x, x[:1])
