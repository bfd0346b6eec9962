"""The networks that are trained where the user brings none: a small residual network, and one for rows of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foreknow.common.rng import seeded_init


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and a way around them.

    Args:
        n_in, n_out: channels.
        stride: of the first convolution; other than 1, or with more channels, the way around is a 1 x 1 convolution.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, n_in, height, width) -> (n, n_out, height / stride, width / stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network for small images: one convolution, stages of blocks that halve the image, a mean, a layer.

    Args:
        n_channels: of the images.
        n_classes: of the answer.
        widths: channels of the stages.
        n_blocks: of a stage; 2 blocks in each of 3 stages are 14 layers.
    """

    def __init__(
        self, n_channels: int, n_classes: int, *, widths: Sequence[int] = (16, 32, 64), n_blocks: int = 2
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(n_channels, widths[0], 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        for stage, width in enumerate(widths):
            for number in range(n_blocks):
                first = number == 0
                n_in = widths[max(0, stage - 1)] if first else width
                blocks.append(Block(n_in, width, 2 if first and stage else 1))
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores: shape (n, n_channels, height, width) -> (n, n_classes)."""
        y = self.blocks(torch.relu(self.norm(self.stem(x))))
        scores: Tensor = self.head(y.mean((2, 3)))
        return scores


def own_network(row_shape: Sequence[int], n_classes: int, *, width: int, n_blocks: int, seed: int) -> nn.Module:
    """An untrained network for rows of this shape: images, or rows of features.

    Args:
        row_shape: (channels, height, width) or (features,).
        n_classes: of the answer.
        width: channels of the first stage, of which the others are multiples; or a quarter of the hidden units.
        n_blocks: of a stage; or hidden layers.
        seed: of the first weights.
    """
    with seeded_init(seed):
        if len(row_shape) == 3:
            return SmallResNet(row_shape[0], n_classes, widths=(width, 2 * width, 4 * width), n_blocks=n_blocks)
        layers: list[nn.Module] = []
        n_in = row_shape[0]
        for _ in range(n_blocks + 1):
            layers += [nn.Linear(n_in, 4 * width), nn.ReLU()]
            n_in = 4 * width
        return nn.Sequential(*layers, nn.Linear(n_in, n_classes))
