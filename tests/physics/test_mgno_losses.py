"""Relative errors against slow plain versions and fields with known slopes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foreknow.common.errors import ForeknowWarning
from foreknow.common.rng import torch_stream
from foreknow.physics import relative_h1, relative_h1_differences, relative_l2
from foreknow.physics.mgno.losses import LOSSES


def fields(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, name), dtype=torch.float64)


def slow_h1(field: Tensor, limit: int) -> float:
    """The weighted norm by the definition of the Fourier transform, wave by wave."""
    n = field.shape[-1]
    total = 0.0
    x = torch.arange(n, dtype=torch.float64)
    for p in range(n):
        for q in range(n):
            kx, ky = (k if k <= (n - 1) // 2 else k - n for k in (p, q))
            angle = -2 * math.pi * (kx * x[:, None] + ky * x[None]) / n
            size = float((field * angle.cos()).sum() ** 2 + (field * angle.sin()).sum() ** 2)
            kx, ky = (k if abs(k) < limit else 0 for k in (kx, ky))
            total += (1 + kx**2 + ky**2) * size
    return math.sqrt(total)


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("limit", [3, 20])
def test_h1_is_the_weighted_sum_over_waves(n: int, limit: int) -> None:
    predicted, truth = fields(2, 1, n, n), fields(2, 1, n, n, name="y")
    found = relative_h1(predicted, truth, n_weighted=limit)
    for row in range(2):
        slow = slow_h1((predicted - truth)[row, 0], limit) / slow_h1(truth[row, 0], limit)
        assert float(found[row]) == pytest.approx(slow, rel=1e-9)


def test_waves_from_twenty_on_have_weight_one() -> None:
    n = 64
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    truth = torch.ones(1, 1, n, n, dtype=torch.float64)
    error = {k: (k * angle).cos().expand(1, 1, n, n) for k in (19, 20)}
    ratio = {k: float(relative_h1(truth + wave, truth)) for k, wave in error.items()}
    size = float(relative_l2(truth + error[19], truth))
    assert ratio[20] == pytest.approx(size)
    assert ratio[19] == pytest.approx(size * math.sqrt(1 + 19**2))


def test_l2_flattens_channels() -> None:
    predicted, truth = fields(3, 2, 4, 4), fields(3, 2, 4, 4, name="y")
    expected = [(predicted[i] - truth[i]).square().sum().sqrt() / truth[i].square().sum().sqrt() for i in range(3)]
    torch.testing.assert_close(relative_l2(predicted, truth), torch.stack(expected))


def test_differences_of_a_plane() -> None:
    """u = 2 x + 3 y on the unit square has slopes 2 and 3 everywhere."""
    x = torch.linspace(0, 1, 5, dtype=torch.float64)
    plane = (2 * x[:, None] + 3 * x[None])[None, None]
    error = torch.full_like(plane, 0.1)
    expected = 0.1 / math.sqrt(float((plane**2).mean()) + 4 + 9)
    assert float(relative_h1_differences(plane + error, plane)) == pytest.approx(expected)


def test_a_jump_between_opposite_edges_counts_in_the_fourier_loss_only() -> None:
    x = torch.linspace(0, 1, 64, dtype=torch.float64).expand(1, 1, 64, 64)
    ramp, flat = x, torch.ones_like(x)
    by_differences = float(relative_h1_differences(flat + 0.1 * ramp, flat) / relative_l2(flat + 0.1 * ramp, flat))
    assert by_differences == pytest.approx(2.0, rel=0.02)  # sqrt((x^2 + 1) / x^2) in the mean over x^2 = 1 / 3
    smooth = torch.sin(math.pi * x) ** 2
    jumps, closes = (float(relative_h1(flat + f, flat) / relative_l2(flat + f, flat)) for f in (ramp, smooth))
    assert jumps > 1.2 * closes


@pytest.mark.parametrize("name", LOSSES)
def test_targets_of_zeros_have_a_floor(name: str) -> None:
    zero, one = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    assert bool(LOSSES[name](one, zero, 0.5).isfinite().all())
    assert float(LOSSES[name](zero, zero, 0.5)) == 0.0
    with pytest.warns(ForeknowWarning, match="1 target field"):
        found = LOSSES[name](torch.cat([one, one]), torch.cat([zero, one]))
    assert 1.0 <= float(found[0]) < 1e6 and float(found[1]) == 0.0


@pytest.mark.parametrize("name", LOSSES)
def test_the_size_of_fields_does_not_matter(name: str) -> None:
    predicted, truth = fields(2, 1, 6, 6), fields(2, 1, 6, 6, name="y")
    torch.testing.assert_close(LOSSES[name](7 * predicted, 7 * truth), LOSSES[name](predicted, truth))
