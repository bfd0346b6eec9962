"""The Fourier neural operator against a slow sum over waves."""

from __future__ import annotations

import math

import pytest
import torch

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.nn import FNO, SpectralConv


@pytest.mark.parametrize("n", [8, 9])
def test_spectral_convolution_is_a_sum_over_waves(n: int) -> None:
    """Every kept wave is analysed, mixed and put back by hand; real fields also hold the conjugate waves."""
    modes = 3
    with seeded_init(0):
        layer = SpectralConv(2, 3, modes).double()
    x = torch.randn(1, 2, n, n, generator=torch_stream(0, "x"), dtype=torch.float64)
    place = torch.arange(n, dtype=torch.float64)
    weight = torch.view_as_complex(layer.weight.detach())
    expected = torch.zeros(3, n, n, dtype=torch.float64)
    for row in (*range(modes), *range(-modes, 0)):
        for column in range(modes):
            wave = torch.exp(2j * math.pi * (row * place[:, None] + column * place[None]) / n)
            analysed = (x[0] * wave.conj()).sum((1, 2))
            mixed = torch.einsum("i,io->o", analysed, weight[0 if row >= 0 else 1, :, :, row, column])
            back = mixed[:, None, None] * wave / n**2
            # column 0 is its own conjugate's column: the inverse transform takes the real part once
            expected += back.real * (1 if column == 0 else 2)
    torch.testing.assert_close(layer(x)[0], expected)


def test_waves_beyond_the_modes_are_dropped() -> None:
    with seeded_init(0):
        layer = SpectralConv(1, 1, 2)
    angle = 2 * math.pi * torch.arange(16) / 16
    assert layer((5 * angle).cos().expand(1, 1, 16, 16)).abs().max() < 1e-5
    assert layer(angle.cos().expand(1, 1, 16, 16)).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="4 nodes"):
        layer(torch.zeros(1, 1, 3, 3))


def test_the_network_takes_any_grid_that_carries_its_waves() -> None:
    with seeded_init(0):
        net = FNO(2, 3, width=4, modes=3, layers=2)
    for n in (6, 9, 16):
        assert net(torch.zeros(2, 2, n, n)).shape == (2, 3, n, n)


def test_a_smooth_field_looks_the_same_on_a_finer_grid() -> None:
    """Layers act on functions: on nodes that two grids share, the same wave gives nearly the same output."""
    with seeded_init(0):
        layer = SpectralConv(1, 1, 4).double()
    found = []
    for n in (16, 32):
        angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
        found.append(layer((angle[:, None].cos() + (2 * angle).sin()[None])[None, None])[..., :: n // 16, :: n // 16])
    torch.testing.assert_close(found[0], found[1])
