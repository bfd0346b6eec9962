"""The cycle against a slow plain one, its linearity and symmetries, the control arms, grids it takes and refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.physics import MgConv, MgNO, MultigridPrior
from foreknow.physics.mgno.network import PADDING, grid_sizes, smoothing_pairs
from foreknow.physics.mgno.presets import PRESETS


def fields(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, name), dtype=torch.float64)


def cycle(grid: int = 9, **settings: object) -> MgConv:
    levels = len(settings.setdefault("smoothing", (1, (2, 1), 2)))
    with seeded_init(1):
        return MgConv(2, 3, **{"grid": grid, "levels": levels, **settings}).double()


def n_weights(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# The equations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [8, 9, 11])
@pytest.mark.parametrize("residual", [False, True])
def test_a_cycle_is_what_the_paper_writes(grid: int, residual: bool) -> None:
    """Three levels written out by hand, with torch's own transposed convolution."""
    net = cycle(grid, residual_restriction=residual)
    f0 = fields(2, 2, grid, grid)
    kernels = [3 if n % 2 else 4 for n in grid_sizes(grid, 3)]

    u0 = net.before[0][0].S(f0)
    r0 = f0 - net.restrict[0].A(u0) if residual else f0
    u1, f1 = net.restrict[0].Pi(u0), net.restrict[0].R(r0)
    for smooth in net.before[1]:
        u1 = u1 + smooth.S(f1 - smooth.A(u1))
    r1 = f1 - net.restrict[1].A(u1) if residual else f1
    u2, f2 = net.restrict[1].Pi(u1), net.restrict[1].R(r1)
    for smooth in net.before[2]:
        u2 = u2 + smooth.S(f2 - smooth.A(u2))
    u1 = u1 + F.conv_transpose2d(u2, net.prolong[1].weight, stride=2, padding=1)
    for smooth in net.after[1]:
        u1 = u1 + smooth.S(f1 - smooth.A(u1))
    u0 = u0 + F.conv_transpose2d(u1, net.prolong[0].weight, stride=2, padding=1)

    assert [net.prolong[i].weight.shape[-1] for i in (0, 1)] == kernels[:2]
    torch.testing.assert_close(net(f0), u0)


@pytest.mark.parametrize("boundary", PADDING)
@pytest.mark.parametrize("levels", [1, 3])
def test_a_cycle_is_linear_and_with_activations_inside_it_is_not(boundary: str, levels: int) -> None:
    x, y = fields(2, 2, 8, 8), fields(2, 2, 8, 8, name="y")
    for linear in (True, False):
        net = cycle(8, boundary=boundary, levels=levels, linear=linear)
        gap = (net(2.0 * x - 3.0 * y) - (2.0 * net(x) - 3.0 * net(y))).abs().max()
        assert (gap < 1e-12) == linear


def test_a_bias_makes_it_affine() -> None:
    net = cycle(bias=True)
    x, zero = fields(1, 2, 9, 9), torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    assert net(zero).abs().max() > 1e-3
    torch.testing.assert_close(net(2 * x) - net(zero), 2 * (net(x) - net(zero)))


def test_the_network_is_layers_of_cycle_plus_1x1_convolution() -> None:
    with seeded_init(0):
        net = MgNO(2, 1, grid=9, channels=3, layers=2, smoothing=(1, 2)).double()
    u = x = fields(2, 2, 9, 9)
    for mg, skip in zip(net.cycles, net.skips):
        u = F.gelu(mg(u) + skip(u))
    torch.testing.assert_close(net(x), net.last(u))
    assert net.last.bias is None and net.cycles[1].before[0][0].S.bias is None


def test_a_step_in_time_is_added_to_the_state() -> None:
    with seeded_init(0):
        net = MgNO(grid=8, channels=3, layers=1, smoothing=(1, 2), add_input=True, skip=False).double()
    x = fields(2, 1, 8, 8)
    torch.testing.assert_close(net(x), x + net.last(F.gelu(net.cycles[0](x))))
    with pytest.raises(ConfigError, match="as many channels"):
        MgNO(2, 1, grid=8, smoothing=(1, 2), add_input=True)


# Boundaries --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["none", "group"])
def test_on_a_ring_a_shifted_field_gives_the_shifted_result(norm: str) -> None:
    net = cycle(16, boundary="periodic", norm=norm)
    x = fields(1, 2, 16, 16)
    shifted = net(x.roll((4, 8), (2, 3)))  # by whole nodes of the coarsest grid
    torch.testing.assert_close(shifted, net(x).roll((4, 8), (2, 3)))
    zeros = cycle(16, boundary="dirichlet")
    assert (zeros(x.roll(4, 2)) - zeros(x).roll(4, 2)).abs().max() > 1e-3


def test_with_reflecting_boundary_a_mirror_image_gives_the_mirror_image() -> None:
    net = cycle(9, boundary="neumann")
    for part in net.modules():  # kernels that do not tell left from right
        if isinstance(getattr(part, "weight", None), nn.Parameter):
            part.weight.data = part.weight.data + part.weight.data.flip(-1)
    x = fields(1, 2, 9, 9)
    torch.testing.assert_close(net(x.flip(-1)), net(x).flip(-1))


def test_a_field_continued_by_mirrors_is_a_ring() -> None:
    """Reflecting padding is the even continuation: the same convolutions on the doubled ring give the same result."""
    mirror, ring = (cycle(n, boundary=b, smoothing=(3,)) for n, b in ((9, "neumann"), (16, "periodic")))
    ring.load_state_dict(mirror.state_dict())
    for part in (mirror, ring):
        for conv in part.modules():
            if isinstance(conv, nn.Conv2d):
                w = conv.weight.data
                conv.weight.data = w + w.flip(-1) + w.flip(-2) + w.flip((-1, -2))
    x = fields(1, 2, 9, 9)
    across = torch.cat([x, x[..., 1:-1].flip(-1)], -1)
    doubled = torch.cat([across, across[..., 1:-1, :].flip(-2)], -2)
    torch.testing.assert_close(ring(doubled)[..., :9, :9], mirror(x))


# Control arms ------------------------------------------------------------------------------------------------------


@seeded_init(0)
@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"helmholtz"}))
def test_every_arm_has_the_same_weights(preset: str) -> None:
    shape = PRESETS[preset]
    names = ("smoothing", "boundary", "residual_restriction", "bias", "norm", "grow_channels", "skip", "add_input")
    settings = {name: getattr(shape, name) for name in names}
    plain = MgNO(grid=32, channels=4, layers=2, levels=1, **settings)
    prior = MultigridPrior(4)
    for arm in (prior, prior.off(), MultigridPrior(4, linear=False), MultigridPrior(4, shuffled=True)):
        wired = arm.wire(plain)
        assert n_weights(wired) == n_weights(plain)
        for name, value in plain.state_dict().items():
            assert torch.equal(wired.state_dict()[name], value)
        assert wired(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("grid", [64, 65])
def test_the_control_arm_sees_a_few_nodes_and_the_prior_the_whole_grid(grid: int) -> None:
    reach = {}
    for levels in (1, 5):
        net = cycle(grid, smoothing=(1, 1, 1, 1, 2), levels=levels)
        point = torch.zeros(1, 2, grid, grid, dtype=torch.float64)
        point[..., 0, 0] = 1.0
        reach[levels] = int((net(point).abs().sum((0, 1)) > 0).any(0).nonzero().max())
    assert reach[1] < grid // 2
    assert reach[5] == grid - 1


def test_shuffled_grids_are_put_back() -> None:
    """With nothing learnt on the coarse grids but copies, the order of their nodes cannot matter."""
    nets = [cycle(8, smoothing=(1, 1), shuffled=shuffled) for shuffled in (False, True)]
    for net in nets:
        for conv in (*net.before[1][0].children(), net.restrict[0].Pi):
            conv.weight.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0.0  # the middle is left
    x = fields(1, 2, 8, 8)
    torch.testing.assert_close(nets[0](x), nets[1](x))
    assert (cycle(8)(x) - cycle(8, shuffled=True)(x)).abs().max() > 1e-3


@seeded_init(0)
def test_only_its_own_kind_of_network_is_wired() -> None:
    with pytest.raises(ConfigError, match="MgNO"):
        MultigridPrior(2).wire(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="3 levels"):
        MultigridPrior(3).wire(MgNO(grid=8, smoothing=(1, 1)))


# Published sizes ---------------------------------------------------------------------------------------------------


@seeded_init(0)
@pytest.mark.parametrize(("layers", "millions"), [(4, 0.573), (5, 0.739)])
def test_weights_of_the_published_networks(layers: int, millions: float) -> None:
    """Counted from the released classes, with kernels of 4."""
    assert round(n_weights(MgNO(grid=256, channels=24, layers=layers)) / 1e6, 3) == millions


@seeded_init(0)
@pytest.mark.parametrize(
    ("grid", "kernels"), [(211, [3, 4, 3, 3, 4]), (256, [4] * 5), (128, [4] * 5), (65, [3] * 5), (129, [3] * 5)]
)
def test_kernels_follow_the_grid(grid: int, kernels: list[int]) -> None:
    """(3, 4, 3, 3, 4) is what the released class for smooth coefficients writes down."""
    net = MgConv(1, 2, grid=grid, smoothing=(1, 1, 1, 1, 1, 2), levels=6)
    assert [part.weight.shape[-1] for part in net.prolong] == kernels


@seeded_init(0)
def test_growing_channels() -> None:
    net = MgConv(2, 5, grid=16, smoothing=(1, 1, 2), levels=3, grow_channels=True, norm="layer")
    assert [part[0].S.weight.shape[:2] for part in net.before] == [(5, 2), (10, 4), (15, 6)]
    assert net(torch.zeros(1, 2, 16, 16)).shape == (1, 5, 16, 16)


# Grids it takes and refuses ----------------------------------------------------------------------------------------


@seeded_init(0)
def test_other_resolutions() -> None:
    net = MgNO(grid=33, channels=2, layers=1, smoothing=(1, 1, 1, 2))
    net.check_size((65, 65))
    assert net(torch.zeros(1, 1, 65, 65)).shape == (1, 1, 65, 65)
    for size, words in (((64, 64), "odd, or even"), ((33, 32), "square"), ((39, 39), "odd, or even")):
        with pytest.raises(InputError, match=words):
            net.check_size(size)
    for settings in ({"norm": "layer"}, {"shuffled": True}):
        tied = MgNO(grid=33, channels=2, layers=1, smoothing=(1, 2), **settings)
        with pytest.raises(InputError, match="tied to 33"):
            tied.check_size((65, 65))


@seeded_init(0)
@pytest.mark.parametrize(
    ("grid", "levels", "boundary", "most"),
    [
        (33, 7, "dirichlet", 7),
        (8, 5, "dirichlet", 4),
        (12, 4, "periodic", 3),
        (33, 2, "periodic", 1),
        (9, 5, "neumann", 4),
    ],
)
def test_grids_that_cannot_be_halved_so_often(grid: int, levels: int, boundary: str, most: int) -> None:
    if levels <= most:
        assert MgNO(grid=grid, channels=1, smoothing=(1,) * levels, boundary=boundary).levels == levels
        return
    with pytest.raises(ConfigError, match=f"at most {most} level"):
        MgNO(grid=grid, channels=1, smoothing=(1,) * levels, boundary=boundary)
    net = MgNO(grid=grid, channels=1, layers=1, smoothing=(1,) * most, boundary=boundary)
    assert net(torch.zeros(1, 1, grid, grid)).shape == (1, 1, grid, grid)


@pytest.mark.parametrize("bad", [(), "12", (0, 1), (1, -1), (1, (1, 2, 3)), (1, 2.0), ((0, 1), 1), (True,), 3])
def test_smoothings_that_are_none(bad: object) -> None:
    with pytest.raises(ConfigError):
        smoothing_pairs(bad)


def test_smoothings() -> None:
    assert smoothing_pairs((1, (2, 1), 2)) == [(1, 0), (2, 1), (2, 0)]
