"""The prior over prototypes and class frequencies, and its control arms."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.pictures import Lines
from foreknow.core.prior import Draw, Prior
from foreknow.core.registry import register
from foreknow.functions.sequential_cl.card import CARD

HEADS = ("prototypes", "softmax", "nearest")


@register(CARD)
@dataclass(frozen=True)
class PrototypePrior(Prior):
    """Every class has a prototype mu ~ N(0, 1/precision I) in the encoder's space; class frequencies are Dirichlet.

    Args:
        precision: of a prototype before the data.
        concentration: of each class in the Dirichlet, before the data.
        head: "prototypes"; "softmax" is the control arm, a linear layer trained with the encoder; "nearest" keeps the
            class means and drops what the prior adds (infinite precision, equal frequencies).
        dim: numbers of a prototype that `sample` and `log_prob` speak of.
    """

    precision: float = 1.0
    concentration: float = math.exp(0.78)
    head: str = "prototypes"
    dim: int = 2

    def __post_init__(self) -> None:
        check_real("PrototypePrior", "precision", self.precision, low=0, open_low=True)
        check_real("PrototypePrior", "concentration", self.concentration, low=0, open_low=True)
        check_option("PrototypePrior", "head", self.head, HEADS)
        check_int("PrototypePrior", "dim", self.dim, low=1)

    def off(self) -> Prior:
        return replace(self, head="softmax")

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """`n` prototypes, shape (n, dim)."""
        check_int("PrototypePrior", "n", n, low=1)
        z = torch.randn(n, self.dim, generator=generator, device=generator.device, dtype=dtype or torch.float32)
        return Draw((z / self.precision**0.5).to(device or generator.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of prototypes (..., dim), shape (...)."""
        constant = 0.5 * self.dim * math.log(self.precision / (2 * math.pi))
        return constant - 0.5 * self.precision * value.square().sum(-1)

    def describe(self) -> str:
        """One line for people."""
        if self.head == "softmax":
            return "a softmax head, no prototypes"
        return f"prototypes N(0, {1 / self.precision:g}), frequencies Dirichlet({self.concentration:.3g}), {self.head}"

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """What `n` classes look like along one axis of the encoder's space, with S = 0.05."""
        means = self.sample(n, generator=generator).value[:, 0].double().numpy()
        x = np.linspace(-4, 4, 400) / self.precision**0.5
        lines = {
            f"class {number + 1}": np.exp(-0.5 * (x - mean) ** 2 / 0.05) / (2 * np.pi * 0.05) ** 0.5
            for number, mean in enumerate(means)
        }
        return Lines(x, lines, "an axis of the encoder's space", "density", "classes drawn from the prior")

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(precision=4.0, dim=1)]
