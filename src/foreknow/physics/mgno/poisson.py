"""A cycle that starts as textbook multigrid for Poisson's equation; not in the paper, an addition of this library.

With `residual_restriction` the cycle u = MgConv(f) is then the classical one for -Laplacian(u) h^2 = f with the 5-point
stencil: damped Jacobi (0.8) smooths, full weighting restricts, linear interpolation prolongs, and Pi = 0, as a
correction starts from nothing. On a ring and with mirrors it converges as in textbooks. With zeros outside, coarse
grids of such convolutions reach beyond the fine one: with two levels it still converges, with more it does not, and is
a start for training only. Without `residual_restriction` f itself is restricted, and coarse solutions are added up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foreknow.physics.mgno.network import MgConv, MgNO, Prolongation, Restriction, Smoothing

DAMPING = 0.8
_STENCIL = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
_HAT = torch.tensor([0.5, 1.0, 0.5])
_DELTA = torch.zeros(3, 3).index_put((torch.tensor(1), torch.tensor(1)), torch.tensor(1.0))


@torch.no_grad()
def start_as_poisson(cycle: MgConv, *, noise: float = 0.0, gain: float = 1.0) -> MgConv:
    """Overwrite the weights of a cycle by those of classical multigrid, channel by channel.

    Args:
        cycle: changed in place.
        noise: how much of its former weights is added, so that channels do not all learn the same.
        gain: the cycle's result is multiplied by this: S by it, A by its inverse, which changes nothing else.

    Returns:
        The cycle.
    """
    for part in cycle.modules():
        if isinstance(part, Smoothing):
            _set(part.S, _mix(part.S.weight) * _DELTA * (gain * DAMPING / 4), noise)
            if part.A is not None:
                _set(part.A, _mix(part.A.weight) * _STENCIL / gain, noise)
    for restriction, prolongation, stride in zip(cycle.restrict, cycle.prolong, cycle.strides, strict=True):
        assert isinstance(restriction, Restriction) and isinstance(prolongation, Prolongation)
        if restriction.A is not None:
            _set(restriction.A, _mix(restriction.A.weight) * _STENCIL / gain, noise)
        full_weighting = torch.outer(_HAT, _HAT) if stride == 2 else _DELTA  # times h^2 of the coarse grid: 4 / 4
        _set(restriction.R, _mix(restriction.R.weight) * full_weighting, noise)
        _set(restriction.Pi, torch.zeros_like(restriction.Pi.weight), noise)
        _prolong(prolongation, noise)
    return cycle


@torch.no_grad()
def start_network_as_poisson(network: MgNO, *, noise: float = 0.1) -> MgNO:
    """Every cycle of the network as Poisson's, its gain such that the smoothest wave keeps its size."""
    grid = network.settings["grid"]
    lowest = 2 * 4 * torch.sin(torch.tensor(torch.pi / 2 / (grid + 1))).item() ** 2
    for cycle in network.cycles:
        assert isinstance(cycle, MgConv)
        start_as_poisson(cycle, noise=noise, gain=lowest)
    return network


def _mix(weight: Tensor) -> Tensor:
    """Channels to channels, (out, in, 1, 1): repeated where there are more of them, averaged where there are fewer."""
    n_out, n_in = weight.shape[:2]
    rows, columns = torch.arange(n_out), torch.arange(n_in)
    same = rows[:, None] % n_in == columns if n_out >= n_in else columns % n_out == rows[:, None]
    table = same.to(torch.float64)
    return (table / table.sum(1, keepdim=True))[..., None, None]


def _prolong(part: Prolongation, noise: float) -> None:
    weight = part.weight  # (in, out, kernel, kernel)
    kernel = weight.shape[-1]
    line = torch.zeros(kernel, dtype=torch.float64)
    if part.stride == 2:
        line[:3] = _HAT  # with kernel 4 the last entry stays 0: coarse nodes lie on every second fine one
    else:
        line[1] = 1.0
    mixed = _mix(weight.transpose(0, 1)).transpose(0, 1) * torch.outer(line, line)
    weight.copy_(mixed + noise * weight)


def _set(conv: nn.Conv2d, weight: Tensor, noise: float) -> None:
    conv.weight.copy_(weight + noise * conv.weight)
    if conv.bias is not None:
        conv.bias.mul_(noise)
