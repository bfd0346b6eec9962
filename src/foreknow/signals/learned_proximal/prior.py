"""The prior of learned proximal networks: how the network is wired and what it is trained to be."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_bool, check_option
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.signals.learned_proximal.card import CARD
from foreknow.signals.learned_proximal.network import VECTOR, Architecture, ConvexMLP, GradientOfConvex

LOSSES = ("l1", "l2", "matching")


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

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(loss="l1"), cls(shuffled=True)]
