"""Training a proximal network: denoising by the absolute error, then proximal matching with a falling width gamma.

y = x + sigma N(0, I);  L_PM(gamma) = E[1 - exp(-||f(y) - x||^2 / gamma^2)], the norm over the whole row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foreknow.common.rng import torch_stream
from foreknow.train.config import TrainConfig
from foreknow.train.loop import StepInfo, train

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Args:
        loss: "l1", "l2" or "matching".
        n_steps: optimizer steps.
        lr: learning rate.
        gamma: width of proximal matching, in the units of the rows.
    """

    loss: str
    n_steps: int
    lr: float
    gamma: float = math.inf


_IMAGES = ((1 / 8, 0.1, 8.0), (1 / 8, 0.1, 4.0), (1 / 8, 0.1, 2.0), (1 / 8, 0.1, 1.0))
"""Share of the steps, learning rate and gamma, both relative, after half of the steps by L1."""
_VECTORS = (
    (2 / 44, 1.0, 0.5), (2 / 44, 0.1, 0.5), (4 / 44, 0.1, 0.4), (4 / 44, 0.1, 0.3), (4 / 44, 0.01, 0.2),
    (4 / 44, 0.01, 0.1), (4 / 44, 0.001, 0.1),
)  # fmt: skip
"""The same after 10/44 + 10/44 of the steps by L1; gamma relative to sigma sqrt(d)."""


def schedule(
    loss: str, *, for_images: bool, n_steps: int, n_values: int, sigma: float, lr: float = 1e-3, gamma: float = 0.08
) -> list[Stage]:
    """The published stages, stretched to `n_steps`.

    Args:
        loss: of the second half.
        for_images: the published stages of images, or those of the Laplacian.
        n_steps: in all.
        n_values: numbers in a row.
        sigma: of the noise.
        lr: first learning rate.
        gamma: last width for images, times sqrt(n_values).
    """
    if for_images:
        parts = [("l1", 0.5, lr, math.inf)] + [(loss, part, rate * lr, width) for part, rate, width in _IMAGES]
        unit = gamma * math.sqrt(n_values)
    else:
        parts = [("l1", 10 / 44, lr, math.inf), ("l1", 10 / 44, 0.1 * lr, math.inf)]
        parts += [(loss, part, rate * lr, width) for part, rate, width in _VECTORS]
        unit = sigma * math.sqrt(n_values)
    ends = [0]
    for _, part, _, _ in parts:
        ends.append(ends[-1] + part)  # type: ignore[arg-type]
    whole = [round(n_steps * end / ends[-1]) for end in ends]
    return [
        Stage(kind, after - before, rate, width * unit)
        for (kind, _, rate, width), before, after in zip(parts, whole[:-1], whole[1:], strict=True)
        if after > before
    ]


def warm_up(stages: Sequence[Stage]) -> int:
    """How many of the first stages are the same whatever the loss of the second half."""
    return sum(math.isinf(stage.gamma) for stage in stages)


def denoising_loss(loss: str, found: Tensor, clean: Tensor, gamma: float) -> Tensor:
    """The loss of a batch.

    Args:
        loss: "l1" and "l2" average over all numbers; "matching" takes the norm over each row.
        found: f(y), shape (b, ...).
        clean: x.
        gamma: width of proximal matching.
    """
    if loss == "l1":
        return (found - clean).abs().mean()
    if loss == "l2":
        return ((found - clean) ** 2).mean()
    return -torch.expm1(-((found - clean) ** 2).flatten(1).sum(1) / gamma**2).mean()


def train_denoiser(
    network: nn.Module,
    clean: Tensor | Callable[[torch.Generator, int], Tensor],
    stages: Sequence[Stage],
    *,
    sigma: float,
    batch_size: int,
    seed: int,
    device: str | torch.device,
    first_stage: int = 0,
    project: bool = True,
    tell: Tell | None = None,
) -> None:
    """Train `network` in place to denoise rows with normal noise.

    Args:
        network: the denoiser.
        clean: rows to draw batches from, shape (n, ...); or what draws new ones from (generator, how many).
        stages: what to do.
        sigma: of the noise.
        batch_size: rows a step.
        seed: of rows and noise; a batch depends on its stage and number alone.
        device: where to train.
        first_stage: number of the first of `stages` in the whole schedule.
        project: whether `network.project()` follows every step.
        tell: told (finished steps, all steps, a note).
    """
    total, before = sum(stage.n_steps for stage in stages), 0
    for number, stage in enumerate(stages, start=first_stage):

        def batch(step: int, number: int = number) -> tuple[Tensor, Tensor]:
            generator = torch_stream(seed, "batch", str(number), str(step))
            if isinstance(clean, Tensor):
                rows = clean[torch.randint(len(clean), (batch_size,), generator=generator)]
            else:
                rows = clean(generator, batch_size)
            return rows, rows + sigma * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)

        def loss(module: nn.Module, pair: tuple[Tensor, Tensor], stage: Stage = stage) -> Tensor:
            return denoising_loss(stage.loss, module(pair[1]), pair[0], stage.gamma)

        def after(info: StepInfo, before: int = before) -> bool:
            if project:
                network.project()  # type: ignore[operator]
            if tell is not None:
                tell(before + info.step, total, f"loss {info.loss:.3g}")
            return False

        config = TrainConfig(
            n_steps=stage.n_steps, lr=stage.lr, optimizer="adam", warmup_fraction=0.0, schedule="constant",
            clip_norm=None, precision="32", seed=seed, log_every=100,
        )  # fmt: skip
        train(network, loss, batch, config, device=device, on_step=after)
        before += stage.n_steps
