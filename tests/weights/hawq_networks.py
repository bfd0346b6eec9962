"""Small networks with everything that can become integers."""

import torch
from torch import Tensor, nn

from foreknow.common.rng import seeded_init
from foreknow.weights import QuantizedNetwork, SmallResNet
from foreknow.weights.hawq.networks import own_network
from foreknow.weights.hawq.reading import read


class Mixed(nn.Module):
    """Groups, dilation, ReLU6, pools with padding, concatenation, in-place addition, dropout, no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.c = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.cap = nn.ReLU6(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.mean = nn.AvgPool2d(2, 2, 1)
        self.drop = nn.Dropout(0.5)
        self.d = nn.Linear(16 * 16, 16)
        self.e = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pool(self.cap(self.a(x)))
        left, right = self.cap(self.b(h)), self.c(h)
        right += h
        h = self.mean(torch.cat([left, right], dim=1))
        h = self.d(self.drop(h.view(h.size(0), -1)))
        return self.e(torch.relu(h))


class Thin(nn.Module):
    """Depthwise convolution, an addition of accumulators, two scores of means, and a pool that does not pad."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, 2)
        self.norm = nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.point = nn.Conv2d(4, 3, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x))
        return self.pool(self.point(self.deep(h) + h)).flatten(1)


SHAPES = {"resnet": (2, 14, 14), "mixed": (2, 12, 12), "thin": (2, 9, 9), "features": (5,)}


def build(name: str) -> nn.Module:
    """A network with statistics of normalisation that are not those of the start, and a dead channel."""
    with seeded_init(0):
        if name == "resnet":
            net: nn.Module = SmallResNet(2, 5, widths=(4, 8, 8), n_blocks=1)
        elif name == "features":
            net = own_network((5,), 3, width=4, n_blocks=2, seed=0)
        else:
            net = Mixed() if name == "mixed" else Thin()
        net.train()
        for _ in range(5):
            net(2 * torch.rand(32, *SHAPES[name]) - 0.5)
        first = next(p for p in net.parameters() if p.ndim > 1)
        with torch.no_grad():
            first[1] = 0.0
    return net.eval()


def rows(name: str, n: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(n, *SHAPES[name], generator=torch.Generator().manual_seed(seed)) - 0.5


def quantized(name: str, bits: int = 8, **settings) -> QuantizedNetwork:
    """Calibrated, with `bits` wherever there is a choice."""
    network = QuantizedNetwork(read(build(name), SHAPES[name]), **settings)
    network.set_bits({layer: 8 if layer in network.plan.edges else bits for layer in network.bits})
    network.calibrate(rows(name, 64).split(32))
    return network.eval()
