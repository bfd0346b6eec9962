"""The network: layers whose linear map is one multigrid V-cycle of learnt 3x3 convolutions.

`Smoothing` is u <- u + S (f - A u), `Restriction` u <- Pi u with f <- R f or R (f - A u), `Prolongation` the P of
u_l <- u_l + P u_{l+1}; `MgConv` is the cycle and `MgNO` the network u <- act(MgConv(u) + Conv1x1(u)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_bool, check_int, check_option

PADDING: dict[str, Any] = {"dirichlet": "zeros", "periodic": "circular", "neumann": "reflect"}
"""Boundary condition -> padding of every convolution."""
NORMS = ("none", "layer", "group")

Smoothings = Sequence[int | Sequence[int]]


def smoothing_pairs(smoothing: object) -> list[tuple[int, int]]:
    """Numbers of smoothings (before, after) the coarser grids, one pair a level; a lone number has none after.

    Raises:
        ConfigError: it is no such list.
    """
    problem = ConfigError(
        f"MgNO: smoothing must hold a number or a pair (before, after) for every level, got {smoothing!r:.80}.",
        hint="For instance (1, 1, 1, 2): four levels, two smoothings on the coarsest.",
    )
    if isinstance(smoothing, str | bytes) or not isinstance(smoothing, Sequence) or not smoothing:
        raise problem
    pairs = []
    for level, item in enumerate(smoothing):
        both = [item, 0] if isinstance(item, int) else list(item) if isinstance(item, Sequence) else []
        if len(both) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in both):
            raise problem
        if level == 0 and both[0] < 1:
            raise ConfigError("MgNO: the finest level must be smoothed at least once before the coarser ones.")
        pairs.append((int(both[0]), int(both[1])))
    return pairs


def grid_sizes(grid: int, n: int) -> list[int]:
    """Nodes a side on each of `n` levels, each half of the one before, rounded up."""
    sizes = [grid]
    for _ in range(n - 1):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def check_grid(grid: int, levels: int, boundary: str) -> None:
    """Refuse grids that cannot be coarsened so often.

    Raises:
        ConfigError: with the number of levels that would do.
    """
    least = 2 if boundary == "neumann" else 1
    possible = 1
    size = grid
    while size > least and (boundary != "periodic" or size % 2 == 0) and (size + 1) // 2 >= least:
        size = (size + 1) // 2
        possible += 1
    if levels > possible:
        why = "a periodic grid is halved only where its side is even" if boundary == "periodic" else "it gets too small"
        raise ConfigError(
            f"MgNO: a grid of {grid} nodes a side cannot have {levels} levels with {boundary} boundary: {why}.",
            hint=f"Use at most {possible} level(s): as many entries in smoothing.",
        )


def _conv(c_in: int, c_out: int, boundary: str, *, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=bias, padding_mode=PADDING[boundary])


class Smoothing(nn.Module):
    """u <- u + S (f - A u); the first one of a cycle starts from u = 0 and has no A."""

    def __init__(self, c_u: int, c_f: int, boundary: str, bias: bool, *, first: bool = False) -> None:
        super().__init__()
        self.A = None if first else _conv(c_u, c_f, boundary, bias=bias)
        self.S = _conv(c_f, c_u, boundary, bias=bias)

    def forward(self, u: Tensor | None, f: Tensor) -> Tensor:
        out: Tensor = self.S(f) if self.A is None or u is None else u + self.S(f - self.A(u))
        return out


class Restriction(nn.Module):
    """To the next level: u <- Pi u, and f <- R f or, with A, R (f - A u)."""

    def __init__(
        self, c_u: Sequence[int], c_f: Sequence[int], boundary: str, bias: bool, residual: bool, stride: int
    ) -> None:
        super().__init__()
        self.A = _conv(c_u[0], c_f[0], boundary, bias=bias) if residual else None
        self.Pi = _conv(c_u[0], c_u[1], boundary, stride=stride)
        self.R = _conv(c_f[0], c_f[1], boundary, stride=stride)

    def forward(self, u: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        return self.Pi(u), self.R(f if self.A is None else f - self.A(u))


class Prolongation(nn.Module):
    """A transposed convolution onto the finer grid: kernel 3 onto 2 n - 1 nodes, kernel 4 onto 2 n.

    What lies outside the coarse grid is what the boundary condition says. With stride 1 the same weights map a grid to
    itself, as the control arm without levels needs.
    """

    def __init__(self, c_in: int, c_out: int, boundary: str, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.boundary, self.stride = boundary, stride
        self.weight = nn.Parameter(torch.empty(c_in, c_out, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, u: Tensor) -> Tensor:
        kernel = self.weight.shape[-1]
        extra = 1 if self.stride == 2 else kernel - 2
        mode = "constant" if self.boundary == "dirichlet" else PADDING[self.boundary]
        around = F.pad(u, (1, extra, 1, extra), mode=mode)
        return F.conv_transpose2d(
            around, self.weight, stride=self.stride, padding=3 if self.stride == 2 else kernel - 1
        )


class FieldNorm(nn.Module):
    """Layer normalisation over channels and grid, with a weight and an offset for every node; tied to its grid.

    On a grid of another size than planned (a control arm's) the weights are repeated.
    """

    def __init__(self, channels: int, grid: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, grid, grid))
        self.bias = nn.Parameter(torch.zeros(1, channels, grid, grid))

    def forward(self, u: Tensor) -> Tensor:
        size = u.shape[-2:]
        weight, bias = (F.interpolate(w, size) if w.shape[-2:] != size else w for w in (self.weight, self.bias))
        return F.layer_norm(u, u.shape[1:]) * weight + bias


def _norm(kind: str, channels: int, grid: int) -> nn.Module:
    if kind == "layer":
        return FieldNorm(channels, grid)
    return nn.GroupNorm(1, channels) if kind == "group" else nn.Identity()


@lru_cache(maxsize=32)
def _shuffled(n: int) -> tuple[Tensor, Tensor]:
    order = torch.randperm(n, generator=torch_stream(0, "mgno", "shuffled grid", str(n)))
    return order, order.argsort()


def _reorder(u: Tensor, back: bool = False) -> Tensor:
    """The nodes of a grid in one fixed random order, or put back from it."""
    order = _shuffled(u.shape[-2] * u.shape[-1])[int(back)].to(u.device)
    return u.flatten(2)[:, :, order].reshape(u.shape)


class MgConv(nn.Module):
    """One V-cycle: a linear map of fields, exactly so without bias and norm.

    Args:
        in_channels: channels of the input, the right-hand side f.
        channels: channels of the result u.
        grid: nodes a side of the finest grid.
        smoothing: numbers of smoothings, one entry a stage; see `smoothing_pairs`.
        levels: how many grids there are; a stage beyond them stays on the coarsest.
        boundary: a key of `PADDING`.
        residual_restriction: restrict f - A u, as classical multigrid does, not f.
        bias: whether A and S add a number to every channel.
        norm: after each prolongation: "none", "layer" or "group".
        grow_channels: the stage l has l + 1 times as many channels.
        linear: False puts a GELU after every step, which makes a U-Net of it.
        shuffled: the nodes of every coarser grid change places.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        grid: int,
        smoothing: Smoothings,
        levels: int,
        boundary: str = "dirichlet",
        residual_restriction: bool = False,
        bias: bool = False,
        norm: str = "none",
        grow_channels: bool = False,
        linear: bool = True,
        shuffled: bool = False,
    ) -> None:
        super().__init__()
        pairs = smoothing_pairs(smoothing)
        n = len(pairs)
        planned = grid_sizes(grid, n)
        growth = [level + 1 if grow_channels else 1 for level in range(n)]
        c_u, c_f = [channels * g for g in growth], [in_channels * g for g in growth]
        strides = [2 if level + 1 < levels else 1 for level in range(n - 1)]
        self.linear, self.shuffled, self.strides = linear, shuffled, strides
        self.before, self.after = (
            nn.ModuleList(
                nn.ModuleList(
                    Smoothing(c_u[level], c_f[level], boundary, bias, first=part == 0 and level == 0 and i == 0)
                    for i in range(pair[part])
                )
                for level, pair in enumerate(pairs)
            )
            for part in (0, 1)
        )
        self.restrict = nn.ModuleList(
            Restriction(c_u[i : i + 2], c_f[i : i + 2], boundary, bias, residual_restriction, strides[i])
            for i in range(n - 1)
        )
        self.prolong = nn.ModuleList(
            Prolongation(c_u[i + 1], c_u[i], boundary, kernel=3 + (planned[i] + 1) % 2, stride=strides[i])
            for i in range(n - 1)
        )
        self.norms = nn.ModuleList(_norm(norm, c_u[i], planned[i]) for i in range(n - 1))

    def forward(self, f: Tensor) -> Tensor:
        """Right-hand sides (b, C, H, W) -> (b, channels, H, W)."""
        act: Callable[[Tensor], Tensor] = nn.Identity() if self.linear else F.gelu
        stages: list[tuple[Tensor, Tensor]] = []
        u: Any = None
        for level, smoothings in enumerate(cast("list[nn.ModuleList]", list(self.before))):
            if level:
                u, f = self.restrict[level - 1](u, f)
                u, f = act(u), act(f)
                if self.shuffled and self.strides[level - 1] == 2:
                    u, f = _reorder(u), _reorder(f)
            for smooth in smoothings:
                u = act(smooth(u, f))
            stages.append((u, f))
        for level, smoothings in reversed(list(enumerate(cast("list[nn.ModuleList]", list(self.after))))):
            fine, f = stages[level]
            if level + 1 < len(stages):
                if self.shuffled and self.strides[level] == 2:
                    u = _reorder(u, back=True)
                u = act(self.norms[level](fine + self.prolong[level](u)))
            for smooth in smoothings:
                u = act(smooth(u, f))
        out: Tensor = u
        return out


class MgNO(nn.Module):
    """Multigrid neural operator: layers of a V-cycle plus a 1x1 convolution, with a GELU after their sum.

    Args:
        in_channels: channels of the input field.
        out_channels: channels of the output field.
        grid: nodes a side that it is made for; see `check_size` for others.
        channels: channels inside.
        layers: V-cycles.
        smoothing: numbers of smoothings, one entry a stage; see `smoothing_pairs`.
        levels: how many grids there are, by default one for every stage. With fewer, the weights are the same and the
            stages beyond stay on the coarsest grid: with 1, all convolutions are on the finest.
        boundary: "dirichlet" (zero padding), "periodic" (circular) or "neumann" (reflecting).
        residual_restriction: restrict f - A u, as classical multigrid does, not f.
        bias: whether the convolutions A and S of a cycle have a bias; the cycle is then affine.
        norm: after each prolongation: "none"; "layer", tied to the grid; "group", which is not.
        grow_channels: the stage l of a cycle has l + 1 times as many channels.
        skip: whether layers have the 1x1 convolution beside the cycle.
        add_input: whether the input is added to the output, for steps in time.
        linear: False puts activations inside the cycles: a U-Net.
        shuffled: the nodes of every coarser grid change places: a placebo.

    Raises:
        ConfigError: a setting is not allowed, or the grid cannot be halved so often.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        grid: int,
        channels: int = 24,
        layers: int = 5,
        smoothing: Smoothings = (1, 1, 1, 1, 1, 2),
        levels: int | None = None,
        boundary: str = "dirichlet",
        residual_restriction: bool = False,
        bias: bool = False,
        norm: str = "none",
        grow_channels: bool = False,
        skip: bool = True,
        add_input: bool = False,
        linear: bool = True,
        shuffled: bool = False,
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "grid": grid}
        for name, value in {**counts, "channels": channels, "layers": layers}.items():
            check_int("MgNO", name, value, low=1)
        check_option("MgNO", "boundary", boundary, tuple(PADDING))
        check_option("MgNO", "norm", norm, NORMS)
        flags = {"residual_restriction": residual_restriction, "bias": bias, "grow_channels": grow_channels}
        for name, flag in {**flags, "skip": skip, "add_input": add_input}.items():
            check_bool("MgNO", name, flag)
        n_stages = len(smoothing_pairs(smoothing))
        self.levels = check_int("MgNO", "levels", n_stages if levels is None else levels, low=1, high=n_stages)
        check_grid(grid, self.levels, boundary)
        if add_input and in_channels != out_channels:
            raise ConfigError(
                f"MgNO: add_input needs as many channels out as in, got {out_channels} and {in_channels}."
            )
        cycle: dict[str, Any] = {
            "grid": grid, "smoothing": smoothing, "levels": self.levels, "boundary": boundary, "bias": bias,
            "residual_restriction": residual_restriction, "norm": norm, "grow_channels": grow_channels,
            "linear": linear, "shuffled": shuffled,
        }  # fmt: skip
        self.settings: dict[str, Any] = {
            **cycle, "in_channels": in_channels, "out_channels": out_channels, "channels": channels, "layers": layers,
            "skip": skip, "add_input": add_input,
        }  # fmt: skip
        widths = [in_channels] + [channels] * layers
        self.cycles = nn.ModuleList(MgConv(c, channels, **cycle) for c in widths[:-1])
        self.skips = nn.ModuleList(nn.Conv2d(c, channels, 1) if skip else nn.Identity() for c in widths[:-1])
        self.last = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Fields (b, in_channels, n, n) -> (b, out_channels, n, n)."""
        u = x
        for cycle, skip in zip(self.cycles, self.skips, strict=True):
            u = F.gelu(cycle(u) + skip(u) if self.settings["skip"] else cycle(u))
        out: Tensor = self.last(u)
        return x + out if self.settings["add_input"] else out

    def check_size(self, size: tuple[int, ...]) -> None:
        """Refuse a grid (H, W) that this network cannot take.

        Another grid than the one it was made for needs sides that are even and odd at the same levels, as the
        prolongations onto them differ, and no part that is tied to the grid.

        Raises:
            InputError: with the reason.
        """
        grid, levels = self.settings["grid"], self.levels
        if len(set(size)) != 1:
            raise InputError(f"MgNO: fields must be square, got {' x '.join(map(str, size))} nodes.")
        if size[0] == grid:
            return
        if self.settings["norm"] == "layer" or self.settings["shuffled"]:
            part = "norm='layer'" if self.settings["norm"] == "layer" else "a shuffled grid"
            raise InputError(
                f"MgNO: with {part} it is tied to {grid} nodes a side, got {size[0]}.",
                hint="norm='group' is not tied to the grid.",
            )
        made, given = (grid_sizes(n, levels)[:-1] for n in (grid, size[0]))
        if [n % 2 for n in made] != [n % 2 for n in given]:
            raise InputError(
                f"MgNO: a grid of {size[0]} nodes a side is halved {given}, the one it was made for {made}; both must "
                "be odd, or even, at the same levels.",
                hint="Grids of 2^k + 1 nodes fit each other, and so do grids of 2^k.",
            )
        try:
            check_grid(size[0], levels, self.settings["boundary"])
        except ConfigError as error:
            raise InputError(error.message) from error
