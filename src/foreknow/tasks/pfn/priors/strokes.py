"""Straight strokes as a prior over handwritten characters, for few-shot image classification (Omniglot).

Müller et al. (2022), `priors/stroke.py` of the released code, whose sizes in pixels of a 28 x 28 image are
the constants below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from foreknow.common.validate import check_int
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.tasks.pfn.card import CARD
from foreknow.tasks.pfn.priors.hyper import integers, uniform

_STROKES = 3  # at most, per class
_LENGTH, _START, _WIDTH = (5, 20), (2, 25), (1, 4)
_OFFSET, _END_JITTER = 4, 2
_INK = (200, 254)  # of 255
_TAP = 0.02  # a kernel (tap, 1 - 2 tap, tap) has the variance of a blur of radius 0.2
_IMAGES = 256  # rendered at a time, few enough for the cache


@register(CARD)
@dataclass(frozen=True)
class StrokePrior(Simulator):
    """Images of classes that are one to three straight strokes each.

    A class fixes the start, direction and length of its strokes (inside the image). An image moves them
    together by up to 4 pixels, each end point by up to 2, and draws them 1 to 4 pixels wide with ink
    that varies per pixel, then blurs a little. Columns are pixels, row by row, in [0, 1].

    The first `n_classes * n_shot` rows hold each class `n_shot` times in random order, later rows have
    independent uniform labels. Draw with `n_context = prior.n_support` for the few-shot setting: context
    rows are then exchangeable given that each class is seen equally often, and queries are independent
    of each other. With `n_shot=0` all labels are independent and any split is fair.

    Args:
        n_classes: classes per task ("ways").
        n_shot: images of each class among the first rows.
        size: height and width in pixels; lengths scale with it.
    """

    n_classes: int = 5
    n_shot: int = 5
    size: int = 28

    target: ClassVar[str] = "classification"
    view: ClassVar[str] = "images"

    def __post_init__(self) -> None:
        check_int("StrokePrior", "n_classes", self.n_classes, low=2)
        check_int("StrokePrior", "n_shot", self.n_shot, low=0)
        check_int("StrokePrior", "size", self.size, low=8)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(n_classes=2, n_shot=1, size=12), cls(n_classes=3, n_shot=0, size=8)]

    @property
    def n_features(self) -> int:  # type: ignore[override]
        return self.size**2

    @property
    def n_support(self) -> int:
        """Context rows of the few-shot setting."""
        return self.n_classes * self.n_shot

    def describe(self) -> str:
        """One line for people."""
        return (
            f"few-shot images of {self.size} x {self.size} pixels: {self.n_classes} classes of one to three "
            f"straight strokes, {self.n_shot} image(s) of each to learn from"
        )

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        label = self._labels(n_tasks, n_rows, generator, device)
        start, step = self._strokes(n_tasks * self.n_classes, generator, device, dtype)  # (tasks * classes, 3, 2)
        n_strokes = integers(1, _STROKES, (n_tasks * self.n_classes,), generator, device)
        kind = (label + self.n_classes * torch.arange(n_tasks, device=device)[:, None]).flatten()  # (images,)
        parts = [self._images(start[k], step[k], n_strokes[k], generator) for k in torch.split(kind, _IMAGES)]
        x = torch.cat(parts).reshape(n_tasks, n_rows, self.n_features)
        info = {
            "n_classes": torch.full((n_tasks,), self.n_classes, device=device),
            "n_features": torch.full((n_tasks,), self.n_features, device=device),
        }
        return x, label.to(dtype), info

    def _labels(self, n_tasks: int, n_rows: int, generator: Generator, device: torch.device) -> Tensor:
        order = uniform((n_tasks, self.n_support), generator, device, torch.float32).argsort(dim=1)
        free = integers(0, self.n_classes - 1, (n_tasks, max(0, n_rows - self.n_support)), generator, device)
        return torch.cat([order % self.n_classes, free], dim=1)[:, :n_rows]

    def _pixels(self, at_28: int) -> int:
        return self.size * at_28 // 28

    def _strokes(self, n: int, generator: Generator, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Start points and steps (n, 3, 2) of strokes that end inside the image.

        As released: a start and length get three random directions; the first that stays inside is kept,
        and if none does, start and length are drawn again.
        """
        start = torch.empty(n * _STROKES, 2, device=device, dtype=dtype)
        step = torch.empty_like(start)
        pending = torch.arange(n * _STROKES, device=device)
        while pending.numel():
            k = pending.numel()
            begin = integers(self._pixels(_START[0]), self._pixels(_START[1]), (k, 1, 2), generator, device).to(dtype)
            length = integers(self._pixels(_LENGTH[0]), self._pixels(_LENGTH[1]), (k, 1, 1), generator, device)
            angle = 2 * math.pi * uniform((k, 3), generator, device, dtype)
            move = length.to(dtype) * torch.stack([angle.cos(), angle.sin()], dim=-1)  # (k, 3 tries, 2)
            end = begin + move
            inside = ((end >= 0) & (end <= self.size - 1)).all(dim=-1)
            first, found = inside.long().argmax(dim=1), inside.any(dim=1)
            start[pending[found]] = begin[found, 0]
            step[pending[found]] = move[torch.arange(k, device=device), first][found]
            pending = pending[~found]
        return start.reshape(n, _STROKES, 2), step.reshape(n, _STROKES, 2)

    def _images(self, start: Tensor, step: Tensor, n_strokes: Tensor, generator: Generator) -> Tensor:
        """Images (k, size, size) of strokes (k, 3, 2), the first `n_strokes` (k,) of each."""
        k, device, dtype = len(start), start.device, start.dtype
        jitter, offset = self._pixels(_END_JITTER), self._pixels(_OFFSET)
        width = integers(max(1, self._pixels(_WIDTH[0])), max(1, self._pixels(_WIDTH[1])), (k,), generator, device)
        start = start + integers(-offset, offset, (k, 1, 2), generator, device)
        end = (start + step + integers(-jitter, jitter, (k, _STROKES, 2), generator, device)).round()
        is_ink = ink(start, end, width, n_strokes, self.size)
        image = is_ink * integers(*_INK, tuple(is_ink.shape), generator, device).to(dtype) / 255
        taps = torch.tensor([_TAP, 1 - 2 * _TAP, _TAP], device=device, dtype=dtype)
        return F.conv2d(image.unsqueeze(1), torch.outer(taps, taps)[None, None], padding=1).squeeze(1)


def ink(start: Tensor, end: Tensor, width: Tensor, n_strokes: Tensor, size: int) -> Tensor:
    """Which pixels (k, size, size) lie within half a width of a stroke.

    Args:
        start: column and row of each stroke's start, shape (k, strokes, 2).
        end: of its end, shape (k, strokes, 2).
        width: in pixels, shape (k,).
        n_strokes: how many of each image's strokes are drawn, shape (k,).
        size: height and width of the images.
    """
    pixel = torch.arange(size, device=start.device, dtype=start.dtype)
    # A line an even number of pixels wide runs between pixel centres, one of odd width through them.
    begin = start + 0.5 * (width % 2 == 0).to(start.dtype)[:, None, None]
    reach = (width.to(start.dtype) / 2).square()[:, None, None]
    is_ink = torch.zeros(len(start), size, size, dtype=torch.bool, device=start.device)
    for stroke in range(start.shape[1]):
        x0, y0 = begin[:, stroke, :, None, None].unbind(1)  # (k, 1, 1) each
        dx, dy = (end - start)[:, stroke, :, None, None].unbind(1)
        across, down = pixel[None, None, :] - x0, pixel[None, :, None] - y0  # (k, 1, size), (k, size, 1)
        along = (across * dx + down * dy).div_((dx**2 + dy**2).clamp_min(1e-6)).clamp_(0, 1)
        distance = (across - along * dx).square_().add_((down - along * dy).square_())
        is_ink |= (distance <= reach) & (stroke < n_strokes)[:, None, None]
    return is_ink
