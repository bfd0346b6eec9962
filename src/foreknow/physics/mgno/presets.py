"""Named configurations: those of the paper's released commands, and a small one for a processor."""

from __future__ import annotations

from dataclasses import dataclass

from foreknow.core.records import record
from foreknow.physics.mgno.training import Fitting


@record
@dataclass(frozen=True)
class Configuration:
    """A network and how it is trained.

    Args:
        layers, channels, smoothing, boundary, residual_restriction, bias, norm, grow_channels, skip, add_input: of the
            network, see `MgNO`.
        normalise_x, normalise_y: "none", "gaussian" (a mean and a scale per channel) or "pointwise" (per node).
        loss: "h1", "l2" or "h1-differences".
        lr, batch_size, epochs, weight_decay, warmup, final_div, validation_fraction: of the training, see `Fitting`.
    """

    layers: int
    channels: int
    smoothing: tuple[int | tuple[int, int], ...]
    boundary: str = "dirichlet"
    residual_restriction: bool = False
    bias: bool = False
    norm: str = "none"
    grow_channels: bool = False
    skip: bool = True
    add_input: bool = False
    normalise_x: str = "gaussian"
    normalise_y: str = "gaussian"
    loss: str = "h1"
    lr: float = 5e-4
    batch_size: int = 8
    epochs: int = 500
    weight_decay: float = 1e-4
    warmup: float = 0.2
    final_div: float = 100.0
    validation_fraction: float = 0.1

    def fitting(self) -> Fitting:
        """How it is trained."""
        return Fitting(
            self.loss, self.lr, self.epochs, self.batch_size, self.weight_decay, self.warmup, self.final_div,
            self.validation_fraction,
        )  # fmt: skip


_SIX = (1, 1, 1, 1, 1, 2)

PRESETS: dict[str, Configuration] = {
    "small": Configuration(3, 16, (1, 1, 1, 2), lr=2e-3, batch_size=4, epochs=60),
    "darcy-smooth": Configuration(5, 24, _SIX, normalise_x="pointwise", normalise_y="pointwise"),
    "darcy-rough": Configuration(4, 24, _SIX, normalise_x="none"),
    "darcy-multiscale": Configuration(4, 24, _SIX),
    "navier-stokes": Configuration(
        5, 32, (1, 1, 1, 2, 2), boundary="periodic", bias=True, norm="layer", skip=False, add_input=True,
        normalise_x="none", normalise_y="none", loss="l2", lr=1e-3, batch_size=500, weight_decay=1e-5, warmup=0.1,
        final_div=50.0,
    ),
    "helmholtz": Configuration(
        4, 20, (1, 1, 1, 1, 2), boundary="neumann", bias=True, norm="layer", grow_channels=True, skip=False,
        normalise_x="pointwise", normalise_y="pointwise", loss="h1-differences", lr=3e-4, batch_size=10, epochs=100,
        weight_decay=1e-5,
    ),
    "pipe": Configuration(
        5, 24, (1, 1, 1, 1, (1, 1), 2), normalise_x="none", normalise_y="none", loss="l2", lr=3e-4, batch_size=4
    ),
}  # fmt: skip
"""Name -> configuration. All but "small" are the released ones."""
