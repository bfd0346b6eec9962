"""The prior of learned proximal networks: how the network is wired and what it is trained to be."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seed_of, seeded_init
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.pictures import Lines
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.signals.learned_proximal.card import CARD
from foreknow.signals.learned_proximal.network import VECTOR, Architecture, ConvexMLP, GradientOfConvex

LOSSES = ("l1", "l2", "matching")
_LEADS_TO = {"l1": "the posterior median", "l2": "the posterior mean", "matching": "the proximal map"}


@register(CARD)
@dataclass(frozen=True)
class ProximalPrior(Prior):
    """What is known of an image is an unknown penalty R, whose exact proximal map is learnt from clean images.

    Args:
        loss: of the second half of training: "matching" gives the proximal map of -sigma^2 log p, "l2" the posterior
            mean, "l1" the posterior median.
        convex: whether the potential is convex, so that the network is a proximal map at all.
        shuffled: whether it learns from rows whose numbers are shuffled in one fixed order, a placebo.
    """

    loss: str = "matching"
    convex: bool = True
    shuffled: bool = False

    def __post_init__(self) -> None:
        check_option("ProximalPrior", "loss", self.loss, LOSSES)
        check_bool("ProximalPrior", "convex", self.convex)
        check_bool("ProximalPrior", "shuffled", self.shuffled)

    def wire(self, module: nn.Module) -> nn.Module:
        """A copy of a `GradientOfConvex` network with first weights for training, convex if the prior is.

        Raises:
            ConfigError: it is another module.
        """
        if not isinstance(module, GradientOfConvex):
            raise ConfigError(f"ProximalPrior: a GradientOfConvex network is needed, got {type(module).__name__}.")
        wired = copy.deepcopy(module)
        if self.convex:
            wired.start_convex()
        return wired

    def example_module(self) -> tuple[nn.Module, Tensor]:
        """A small network and an input, for the shared tests."""
        with seeded_init(0):
            network = ConvexMLP(Architecture("mlp", (4,), **{**VECTOR, "hidden": 8, "strides": (1, 1)}))
        return network, torch.linspace(-1, 1, 32).reshape(8, 4)

    def off(self) -> Prior:
        """The same training by the squared error."""
        return replace(self, loss="l2", shuffled=False)

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """The map of one number that each loss leads to where clean values are Laplacian, and `n` first networks.

        Both spreads are 1. First networks rise everywhere if the prior is convex, whatever their weights; the band
        holds the middle 90% of them.
        """
        check_int("ProximalPrior.picture", "n", n, low=1)
        y = np.linspace(-4, 4, 161)
        exact = laplacian_maps(y)
        goal = f"{_LEADS_TO[self.loss]}, which its loss leads to"
        lines = {goal: exact[self.loss]}
        lines |= {_LEADS_TO[loss]: values for loss, values in exact.items() if loss != self.loss}
        draws = []
        for number in range(n):
            with seeded_init(seed_of(int(generator.initial_seed()), "picture", str(number))):
                network = self.wire(ConvexMLP(Architecture("mlp", (1,), **VECTOR)))
            with torch.no_grad():
                draws.append(network.double()(torch.from_numpy(y)[:, None])[:, 0].numpy())
        first = f"middle of {n} first networks"
        lines[first] = np.median(draws, axis=0)
        bands = {first: (np.quantile(draws, 0.05, axis=0), np.quantile(draws, 0.95, axis=0))}
        kind = "a map that rises everywhere" if self.convex else "any map"
        return Lines(y, lines, "noisy value", "denoised value", f"Known before the data: {kind}", bands)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(loss="l1"), cls(shuffled=True)]


def laplacian_maps(y: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """What each loss gives at y = x + N(0, 1) with x Laplacian of spread 1, were it minimised exactly."""
    x = np.linspace(-14, 14, 5601)
    weight = np.exp(-np.abs(x) - 0.5 * (x - y[:, None]) ** 2)
    share = np.cumsum(weight, axis=1) / weight.sum(1, keepdims=True)
    return {
        "l1": x[(share >= 0.5).argmax(1)],
        "l2": (weight * x).sum(1) / weight.sum(1),
        "matching": np.sign(y) * np.maximum(np.abs(y) - 1, 0),
    }
