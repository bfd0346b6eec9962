"""The prior of the paper: solution operators of elliptic equations are multigrid cycles."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, nn

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seed_of, seeded_init
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.pictures import ImageGrid
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.physics.mgno.card import CARD
from foreknow.physics.mgno.network import MgConv, MgNO
from foreknow.physics.mgno.poisson import start_network_as_poisson

INITIALS = ("random", "poisson")


@register(CARD)
@dataclass(frozen=True)
class MultigridPrior(Prior):
    """A linear map between fields couples near nodes on a fine grid and far ones on coarser grids.

    Args:
        levels: how many grids there are; with 1 all convolutions stay on the finest, the weights being the same.
        linear: whether cycles are linear; False puts an activation after every step inside, which is a U-Net.
        initial: weights at the start: "random", as published, or "poisson", a classical cycle for Poisson's equation
            (an addition of this library) with a tenth of the random weights added.
        shuffled: the nodes of every coarser grid change places, so that far couplings go astray: the placebo.
    """

    levels: int = 6
    linear: bool = True
    initial: str = "random"
    shuffled: bool = False

    def __post_init__(self) -> None:
        check_int("MultigridPrior", "levels", self.levels, low=1)
        check_bool("MultigridPrior", "linear", self.linear)
        check_option("MultigridPrior", "initial", self.initial, INITIALS)
        check_bool("MultigridPrior", "shuffled", self.shuffled)

    def wire(self, module: nn.Module) -> nn.Module:
        """A new network with this prior's grids and the weights of `module`, or the prior's own start.

        Args:
            module: an `MgNO`.

        Raises:
            ConfigError: another kind of network, or one with fewer stages than this prior has levels.
        """
        if not isinstance(module, MgNO):
            raise ConfigError(f"MultigridPrior: only an MgNO has levels, got a {type(module).__name__}.")
        stages = len(module.settings["smoothing"])
        if self.levels > stages:
            raise ConfigError(
                f"MultigridPrior: {self.levels} levels were asked for, the network has {stages} stages.",
                hint="Give smoothing as many entries as there are levels.",
            )
        settings = {**module.settings, "levels": self.levels, "linear": self.linear, "shuffled": self.shuffled}
        with seeded_init(0):  # drawn and overwritten
            wired = MgNO(**settings)
        first = next(module.parameters())
        wired.to(first.device, first.dtype).load_state_dict(copy.deepcopy(module.state_dict()))
        return start_network_as_poisson(wired) if self.initial == "poisson" else wired

    def off(self) -> Prior:
        return replace(self, levels=1, linear=True, initial="random", shuffled=False)

    def picture(self, n: int, *, generator: Generator) -> ImageGrid:
        """What `n` random linear maps make of a point, with this prior and without: how far they reach."""
        grid, smoothing = 65, (1,) * (self.levels - 1) + (2,)
        point = torch.zeros(1, 1, grid, grid, dtype=torch.float64)
        point[0, 0, grid // 2, grid // 2] = 1.0
        rows = []
        for prior in (self, self.off()):
            assert isinstance(prior, MultigridPrior)
            images = []
            for number in range(n):
                with seeded_init(seed_of(int(generator.initial_seed()), "picture", str(number))), torch.no_grad():
                    cycle = MgConv(
                        1, 8, grid=grid, smoothing=smoothing, levels=prior.levels, linear=prior.linear,
                        shuffled=prior.shuffled,
                    )  # fmt: skip
                    reach = cycle.double()(point)[0].norm(dim=0)
                images.append(np.log10(reach.clamp_min(1e-12 * float(reach.max())).numpy()))
            rows.append(images)
        return ImageGrid(
            rows,
            column_titles=[f"draw {number + 1}" for number in range(n)],
            row_titles=["with the prior", "without"],
            title="What random linear maps make of one point (logarithm of the size)",
            limits=None,
        )

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(2), cls(2, linear=False), cls(2, initial="poisson"), cls(2, shuffled=True)]

    @staticmethod
    def example_module() -> tuple[nn.Module, torch.Tensor]:
        """A network without levels, and fields for it."""
        with seeded_init(0):
            network = MgNO(1, 1, grid=8, channels=2, layers=1, smoothing=(1, 1), levels=1)
        return network, torch.linspace(0, 0.1, 128).view(2, 1, 8, 8)
