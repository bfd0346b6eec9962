"""Operators of inverse problems: adjoints, proximal maps of the data, known values, and what is refused."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.nn.inverse import (
    Blur,
    CompressedSensing,
    Denoising,
    FastCompressedSensing,
    GaussianNoise,
    Inpainting,
    Tomography,
    conjugate_gradients,
    gaussian_kernel,
)

SHAPE = (2, 9, 9)


def lopsided() -> torch.Tensor:
    return torch.tensor([[0.1, 0.0, 0.3], [0.2, 0.3, 0.0], [0.0, 0.05, 0.05]])


OPERATORS = {
    "denoising": lambda: Denoising(),
    "blur, circular": lambda: Blur(lopsided(), padding="circular"),
    "blur, reflect": lambda: Blur(lopsided(), padding="reflect"),
    "inpainting": lambda: Inpainting(torch.rand(1, 9, 9, generator=torch_stream(0)) < 0.5),
    "compressed sensing": lambda: CompressedSensing(40, SHAPE, generator=torch_stream(0)),
    "compressed sensing, fast": lambda: FastCompressedSensing(40, SHAPE, generator=torch_stream(0)),
    "tomography": lambda: Tomography(7, 9),
}
each = pytest.mark.parametrize("make", OPERATORS.values(), ids=list(OPERATORS))


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch_stream(seed, "x"), dtype=torch.float64)


@each
def test_the_adjoint_is_one(make) -> None:
    physics, x = make(), draw(3, *SHAPE)
    y = physics.A(x)
    other = draw(*y.shape, seed=1)
    left, right = (physics.A(x) * other).flatten(1).sum(1), (x * physics.A_adjoint(other)).flatten(1).sum(1)
    assert torch.allclose(left, right, rtol=1e-9)
    assert physics.A_adjoint(other).shape == x.shape


@each
@pytest.mark.parametrize("gamma", [0.3, 10.0])
def test_prox_of_the_data_is_where_its_gradient_vanishes(make, gamma) -> None:
    physics, z = make(), draw(3, *SHAPE)
    y = physics.A(draw(3, *SHAPE, seed=2))
    x = physics.prox_l2(z, y, gamma)
    slope = gamma * physics.A_adjoint(physics.A(x) - y) + x - z
    assert float(slope.norm() / (z + gamma * physics.A_adjoint(y)).norm()) < 1e-3


@each
def test_noise_is_of_the_size_asked_for_and_seeded(make) -> None:
    physics = make()
    physics.noise_model = GaussianNoise(0.5)
    x = draw(64, *SHAPE)
    y = physics(x, generator=torch_stream(3))
    assert torch.equal(y, physics(x, generator=torch_stream(3)))
    noise = (y - physics.A(x))[physics.A(torch.ones_like(x)) != 0]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.05)
    with pytest.raises(ConfigError, match="generator"):
        physics(x)


@each
def test_the_norm_is_the_largest_singular_value_squared(make) -> None:
    physics = make()
    basis = torch.eye(math.prod(SHAPE), dtype=torch.float64).reshape(-1, *SHAPE)
    exact = float(torch.linalg.matrix_norm(physics.A(basis).flatten(1), 2)) ** 2
    assert physics.norm(SHAPE, n_iterations=200) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(("padding", "mode"), [("circular", "grid-wrap"), ("reflect", "mirror")])
def test_blur_is_the_convolution_of_scipy(padding, mode) -> None:
    x = draw(1, 1, 9, 9)
    expected = ndimage.convolve(x[0, 0].numpy(), lopsided().double().numpy(), mode=mode)
    assert np.allclose(Blur(lopsided(), padding=padding).A(x)[0, 0], expected)


def test_fft_and_conjugate_gradients_agree() -> None:
    physics, z, y = Blur(gaussian_kernel(0.8), padding="circular"), draw(2, 1, 16, 16), draw(2, 1, 16, 16, seed=1)
    slow = super(Blur, physics).prox_l2(z, y, 2.0)
    assert torch.allclose(physics.prox_l2(z, y, 2.0), slow, atol=1e-3)


def test_a_kernel_larger_than_the_image_wraps_round_it() -> None:
    physics, z, y = Blur(gaussian_kernel(4.0), padding="circular"), draw(1, 1, 28, 28), draw(1, 1, 28, 28, seed=1)
    assert physics.kernel.shape == (33, 33)
    slow = super(Blur, physics).prox_l2(z, y, 2.0)
    assert torch.allclose(physics.prox_l2(z, y, 2.0), slow, atol=1e-3)


def test_compressed_sensing_gives_the_image_of_least_norm() -> None:
    physics = CompressedSensing(40, SHAPE, generator=torch_stream(0))
    x = draw(3, *SHAPE)
    found = physics.A_dagger(physics.A(x))
    assert torch.allclose(physics.A(found), physics.A(x), atol=1e-6)
    assert bool((found.flatten(1).norm(dim=1) < x.flatten(1).norm(dim=1)).all())
    by_steps = super(CompressedSensing, physics).A_dagger(physics.A(x))
    assert torch.allclose(found, by_steps, atol=1e-3)


def test_fast_projections_are_perpendicular_and_spread_over_all_pixels() -> None:
    physics = FastCompressedSensing(40, SHAPE, generator=torch_stream(0))
    pixels = torch.eye(math.prod(SHAPE), dtype=torch.float64).reshape(-1, *SHAPE)
    matrix = physics.A(pixels).T  # as many columns as pixels
    assert torch.allclose(matrix @ matrix.T, physics.gain * torch.eye(40, dtype=torch.float64), atol=1e-9)
    assert float(matrix.abs().max()) < 1.42 / math.sqrt(40)  # no pixel is much of a projection
    x = draw(3, *SHAPE)
    found = physics.A_dagger(physics.A(x))
    assert torch.allclose(found, super(FastCompressedSensing, physics).A_dagger(physics.A(x)), atol=1e-3)
    whole = FastCompressedSensing(math.prod(SHAPE), SHAPE, generator=torch_stream(1))
    assert torch.allclose(whole.A_dagger(whole.A(x)), x)
    slow = super(FastCompressedSensing, physics).prox_l2(x, physics.A(2 * x), 2.0)
    assert torch.allclose(physics.prox_l2(x, physics.A(2 * x), 2.0), slow, atol=1e-3)


def test_projections_of_a_disc_are_its_chords_and_are_back_projected() -> None:
    size, radius = 65, 20.0
    axis = torch.arange(size) - size // 2
    disc = ((axis[:, None] ** 2 + axis[None] ** 2) <= radius**2).double()[None, None]
    physics = Tomography(60, size)
    y = physics.A(disc)
    chord = 2 * (radius**2 - axis.double() ** 2).clamp_min(0).sqrt()
    inside = axis.abs() < 0.8 * radius
    assert float((y[0, 0, :, inside] - chord[inside]).abs().max()) < 2.0
    found = physics.A_dagger(y)[0, 0]
    middle = slice(size // 2 - 8, size // 2 + 9)
    assert float(found[middle, middle].mean()) == pytest.approx(1, abs=0.05)
    assert float(found[2:8, 28:36].abs().mean()) < 0.1


def test_conjugate_gradients_solve_each_of_a_batch() -> None:
    roots = draw(3, 6, 6)
    matrices = roots @ roots.mT + torch.eye(6, dtype=torch.float64) * torch.tensor([0.1, 1.0, 10.0])[:, None, None]
    right = draw(3, 6, seed=1)
    right[1] = 0
    found = conjugate_gradients(lambda v: (matrices @ v[..., None])[..., 0], right, n_iterations=60, tolerance=1e-10)
    assert torch.allclose(found, torch.linalg.solve(matrices, right), atol=1e-6)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda: Blur(torch.ones(2, 3)), ConfigError),
        (lambda: Blur(lopsided(), padding="zero"), ConfigError),
        (lambda: Blur(gaussian_kernel(2.0)).A(torch.zeros(1, 1, 6, 6)), InputError),
        (lambda: CompressedSensing(3, SHAPE, generator=torch_stream(0)).A(torch.zeros(1, 1, 3, 3)), InputError),
        (lambda: FastCompressedSensing(3, SHAPE, generator=torch_stream(0)).A(torch.zeros(1, 1, 3, 3)), InputError),
        (lambda: FastCompressedSensing(163, SHAPE, generator=torch_stream(0)), ConfigError),
        (lambda: Tomography(3, 9).A(torch.zeros(1, 1, 9, 8)), InputError),
        (lambda: gaussian_kernel(0.0), ConfigError),
    ],
)
def test_what_cannot_be_is_refused(act, error) -> None:
    with pytest.raises(error):
        act()
