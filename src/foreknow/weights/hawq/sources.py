"""Data for the price: rows to calibrate and fine-tune with, a network trained on others, and a plain method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import nn

from foreknow.common.errors import InputError
from foreknow.common.rng import numpy_stream, seed_of, seeded_init
from foreknow.core.source import ExampleSource, Split
from foreknow.data.fashion_mnist import FOLDER, fashion_mnist
from foreknow.nn.cost import storage_mib
from foreknow.train.config import TrainConfig
from foreknow.train.loop import train
from foreknow.weights.hawq.allocation import BitPlan
from foreknow.weights.hawq.networks import SmallResNet

Images = tuple[NDArray[np.float32], NDArray[np.int64]]


def trained_network(
    x: NDArray[np.float32], y: NDArray[np.int64], *, width: int, n_steps: int, batch_size: int, seed: int,
    n_blocks: int = 2, progress: Any = None,
) -> nn.Module:  # fmt: skip
    """A residual network trained on images in floating point.

    Args:
        x: images, shape (n, channels, height, width).
        y: class codes.
        width: channels of the first stage.
        n_steps: of AdamW.
        batch_size: images in a batch.
        seed: of first weights and batches.
        n_blocks: of a stage; 2 make 14 layers.
        progress: told how far it is.
    """
    with seeded_init(seed_of(seed, "hawq", "network")):
        net = SmallResNet(x.shape[1], int(y.max()) + 1, widths=(width, 2 * width, 4 * width), n_blocks=n_blocks)
    rows, labels = torch.from_numpy(x), torch.from_numpy(y)
    config = TrainConfig(n_steps=n_steps, lr=5e-3, weight_decay=1e-2, precision="32")

    def batch(k: int) -> tuple[torch.Tensor, torch.Tensor]:
        per_pass = max(1, len(rows) // batch_size)
        order = numpy_stream(seed, "hawq", "pass", str(k // per_pass)).permutation(len(rows))
        chosen = torch.from_numpy(order[k % per_pass * batch_size :][:batch_size])
        return rows[chosen], labels[chosen]

    train(
        net, lambda module, b: nn.functional.cross_entropy(module(b[0]), b[1]), batch, config, device="cpu",
        progress=progress,
    )  # fmt: skip
    return net.eval()


@dataclass(frozen=True)
class TrainedSource:
    """Images whose first part trained a network, which the second part quantises; a source for `price`.

    Args:
        name: shown in reports.
        load: () -> images, one half of which trains the network, and labels.
        n_network: images that train it.
        n_steps: of that training.
        width: of the network.
    """

    name: str
    load: Callable[[], Images]
    n_network: int
    n_steps: int
    width: int

    task = "none"
    unit = "images"

    @cached_property
    def _rows(self) -> ExampleSource:
        x, y = self.load()
        left = slice(self.n_network, None)
        return ExampleSource(self.name, x[left], y[left], unit=self.unit, n_test=min(2000, len(x[left]) // 2), n_min=64)

    @property
    def content_hash(self) -> str:
        return f"{self._rows.content_hash}-{self.n_network}-{self.n_steps}-{self.width}"

    @property
    def n_min(self) -> int:
        return self._rows.n_min

    @property
    def n_max(self) -> int:
        return self._rows.n_max

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """Images to calibrate and fine-tune with, with the trained network beside them, and test images."""
        found = self._rows.split(size, seed)
        named = {"model": _network_of(self)}
        return Split(type(found.train)(found.train.X, found.train.y, named), found.test)

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {**self._rows.describe(), "network": f"trained on {self.n_network} other images, {self.n_steps} steps"}

    def network(self) -> nn.Module:
        """The trained network."""
        x, y = self.load()
        return trained_network(
            x[: self.n_network], y[: self.n_network], width=self.width, n_steps=self.n_steps, batch_size=64, seed=0
        )


@cache
def _network_of(source: TrainedSource) -> nn.Module:
    return source.network()


def digits() -> Images:
    """The 1797 digits of scikit-learn, 8 x 8, in a fixed random order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = numpy_stream(0, "hawq", "digits").permutation(len(data.target))
    x = (data.images[order][:, None] / 16).astype(np.float32)
    return x, data.target[order].astype(np.int64)


def clothes() -> Images:
    """The first 20000 training images of Fashion-MNIST, scaled to [0, 1]."""
    data = fashion_mnist()
    return (data.x[:20_000, None] / np.float32(255)).astype(np.float32), data.y[:20_000]


def sources() -> Mapping[str, TrainedSource]:
    """What there is to be had here."""
    found = {"digits": TrainedSource("digits", digits, n_network=700, n_steps=200, width=8)}
    if FOLDER.is_dir():
        found["fashion-mnist"] = TrainedSource("fashion-mnist", clothes, n_network=10_000, n_steps=400, width=16)
    return found


def uniform_bits(plan: BitPlan) -> dict[str, int]:
    """The same bits for every layer that has a choice: those whose size is nearest to that of a plan's budget."""
    layers = plan.sensitivity.layers
    choices = sorted({b for layer in layers if len(layer.error) > 1 for b in layer.error})
    limit = plan.limits.get("size_mb", plan.cost["size_mb"])

    def assignment(b: int) -> dict[str, int]:
        return {layer.layer: b if b in layer.error else min(layer.error) for layer in layers}

    def gap(b: int) -> float:
        bits = assignment(b)
        return abs(sum(storage_mib(layer.n_weights, bits[layer.layer]) for layer in layers) - limit)

    return assignment(min(choices, key=gap))


class UniformBits:
    """`DyadicQuantizer` with the same bits for every layer, for the price.

    Sizes grow evenly with bits, so a budget of a fraction f has the uniform bits next to lowest + f (highest - lowest);
    under other budgets the most bits that keep within them are taken.

    Args:
        system: whose settings are taken.
        seed: of its streams.
    """

    def __init__(self, system: Any, seed: int) -> None:
        self.system = clone(system).set_params(random_state=seed, prior="paper")

    def fit(self, X: Any, y: Any, **named: Any) -> Self:
        """Quantise as the system would, with uniform bits."""
        bits, fraction = sorted(self.system.bits), self.system.fraction
        wanted = bits[0] + fraction * (bits[-1] - bits[0])
        if all(getattr(self.system, name) is None for name in ("size_mb", "gbops", "latency_ms")):
            bits = [min(bits, key=lambda b: abs(b - wanted))]
        for b in reversed(bits):
            try:
                self.system.set_params(bits=(b,)).fit(X, y, **named)
                break
            except InputError:  # above the budget
                if b == bits[0]:
                    raise
        self.classes_ = self.system.classes_
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of every class."""
        return np.asarray(self.system.predict_proba(X))
