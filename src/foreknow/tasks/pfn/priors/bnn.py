"""The two-layer network prior of Müller et al. (2022), compared there with NUTS and variational inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from foreknow.common.validate import check_int, check_option
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.tasks.pfn.card import CARD
from foreknow.tasks.pfn.priors.hyper import Tables, normal, redraw_non_finite

ACTIVATIONS = ("tanh", "linear")


@register(CARD)
@dataclass(frozen=True)
class BNNPrior(Simulator):
    """Labels drawn from the softmax of a random network with two linear layers.

    All weights and biases are standard normal, and so is x. The paper speaks of a network; its released
    code puts nothing between the two layers, so the classes are then separated by planes
    (`activation="linear"`). `info["logits"]`, shape (b, rows, n_classes), holds the class scores.

    Args:
        n_features: columns of x.
        width: hidden units.
        n_classes: number of classes, at least 2.
        activation: "tanh", or "linear" as in the released code.
    """

    n_features: int = 3
    width: int = 5
    n_classes: int = 2
    activation: str = "tanh"

    target: ClassVar[str] = "classification"
    view: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        check_int("BNNPrior", "n_features", self.n_features, low=1)
        check_int("BNNPrior", "width", self.width, low=1)
        check_int("BNNPrior", "n_classes", self.n_classes, low=2)
        check_option("BNNPrior", "activation", self.activation, ACTIVATIONS)

    @classmethod
    def small(cls, activation: str = "tanh") -> BNNPrior:
        """The paper's small network: 3 features, width 5."""
        return cls(n_features=3, width=5, activation=activation)

    @classmethod
    def big(cls, activation: str = "tanh") -> BNNPrior:
        """The paper's big network: 8 features, width 64."""
        return cls(n_features=8, width=64, activation=activation)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(n_features=1, width=1, activation="linear"), cls(n_features=2, width=3, n_classes=4)]

    def describe(self) -> str:
        """One line for people."""
        return (
            f"random network: {self.n_features} features, {self.width} {self.activation} units, "
            f"{self.n_classes} classes; all weights standard normal"
        )

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        d, h, c = self.n_features, self.width, self.n_classes

        def draw(n: int) -> Tables:
            x = normal((n, n_rows, d), generator, device, dtype)
            w1 = normal((n, d, h), generator, device, dtype)
            b1 = normal((n, 1, h), generator, device, dtype)
            w2 = normal((n, h, c), generator, device, dtype)
            b2 = normal((n, 1, c), generator, device, dtype)
            hidden = torch.baddbmm(b1, x, w1)
            logits = torch.baddbmm(b2, hidden.tanh() if self.activation == "tanh" else hidden, w2)  # (n, rows, c)
            waiting = torch.empty(logits.shape, device=generator.device, dtype=dtype).exponential_(generator=generator)
            # The class whose exponential clock of rate exp(logit) rings first is a draw from the softmax.
            y = (logits - waiting.to(device).log()).argmax(dim=-1).to(dtype)
            n_classes, n_features = (torch.full((n,), value, device=device) for value in (c, d))
            return x, y, {"logits": logits, "n_classes": n_classes, "n_features": n_features}

        return redraw_non_finite("BNNPrior", draw, n_tasks)
