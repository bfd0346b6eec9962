"""The prior: where the loss is curved, rounding is dear."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Generator

from foreknow.common.rng import seed_of
from foreknow.common.validate import check_int, check_option
from foreknow.core.pictures import ImageGrid
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.weights.hawq.card import CARD

TRACES = ("hessian", "one", "random")
Array = NDArray[np.float64]


@register(CARD)
@dataclass(frozen=True)
class CurvaturePrior(Prior):
    """What rounding a layer costs: Omega(b) = mean curvature x squared rounding error at b bits.

    Args:
        trace: "hessian", the mean curvature of the loss along the layer's weights; "one", the same for all layers;
            "random", each layer is given the Omega of another one, drawn at random.
    """

    trace: str = "hessian"

    def __post_init__(self) -> None:
        check_option("CurvaturePrior", "trace", self.trace, TRACES)

    def space(self) -> dict[str, str]:
        """How assignments of bits are ranked: the smaller the sum over layers, the better."""
        return {
            "hessian": {"omega": "Tr(H) / n * |Q(W) - W|^2"},
            "one": {"omega": "|Q(W) - W|^2"},
            "random": {"omega": "Tr(H) / n * |Q(W) - W|^2 of another layer"},
        }[self.trace]

    def omega(self, curvature: Array, error: Array, rng: np.random.Generator) -> Array:
        """The cost of rounding, shape (layers, bits).

        Args:
            curvature: Tr(H_i) / n_i of every layer, shape (layers,); what noise made negative counts as 0.
            error: |Q_b(W_i) - W_i|^2, shape (layers, bits).
            rng: of the random assignment.
        """
        if self.trace == "one":
            return error
        omega: Array = np.maximum(curvature, 0.0)[:, None] * error
        if self.trace == "hessian" or len(omega) < 2:
            return omega
        cycle = rng.permutation(len(omega))  # one cycle through all layers: none keeps its own
        moved = np.empty_like(omega)
        moved[cycle] = omega[np.roll(cycle, 1)]
        return moved

    def off(self) -> Prior:
        return replace(self, trace="one")

    def picture(self, n: int, *, generator: Generator) -> ImageGrid:
        """Bits of the 19 layers of ResNet18 by their published sensitivities under `n` budgets of size.

        Beside them those without the curvature. Budgets are even shares of the way from all 4 bits to all 8.
        """
        from foreknow.weights.hawq.allocation import allocate_bits
        from foreknow.weights.hawq.proof import published_sensitivity

        check_int("CurvaturePrior.picture", "n", n, low=1)
        sensitivity = published_sensitivity()[0]
        seed = seed_of(int(generator.initial_seed()), "picture")
        images = []
        for prior in (self, CurvaturePrior("one")):
            rows = [
                list(
                    allocate_bits(
                        sensitivity, fraction={"size_mb": share}, prior=prior, random_state=seed
                    ).bits.values()
                )
                for share in np.arange(n, 0, -1) / (n + 1)
            ]
            images.append((1 - np.array(rows) / 8).repeat(max(1, round(19 / n)), axis=0))
        return ImageGrid(
            [images],
            ["by this prior", "without the curvature"],
            ["budget, tight below"],
            "Bits of ResNet18, first layer left: black is 8, grey 4",
        )

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls("random")]
