"""Training of field-to-field networks: normalisers, a loss on physical fields, and the best weights by validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.rng import numpy_stream
from foreknow.physics.mgno.losses import LOSSES, least_norm, relative_l2
from foreknow.train.config import TrainConfig
from foreknow.train.loop import StepInfo, train

NORMALISERS = ("none", "gaussian", "pointwise")
_RELATIVE_FLOOR = 1e-5
"""Of a standard deviation: what a node or channel that never varies is divided by, relative to the whole."""


class Normaliser(nn.Module):
    """Mean and standard deviation of fields, learnt from training data: none, per channel, or per node.

    Args:
        kind: one of `NORMALISERS`.
        shape: (C, H, W) of the fields.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, kind: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.kind = kind
        size = shape if kind == "pointwise" else (shape[0], 1, 1)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))

    def learn(self, fields: NDArray[np.floating]) -> Normaliser:
        """Take mean and standard deviation from fields, shape (n, C, H, W)."""
        if self.kind != "none":
            axes = 0 if self.kind == "pointwise" else (0, 2, 3)
            values = np.asarray(fields, dtype=np.float64)
            mean = values.mean(axes, keepdims=True)[0]
            spread = values.std(axes, keepdims=True)[0]
            whole = float(values.std()) or float(np.abs(values).max()) or 1.0
            self.mean.copy_(torch.from_numpy(mean))
            self.scale.copy_(torch.from_numpy(spread + _RELATIVE_FLOOR * whole))
        return self

    def encode(self, fields: Tensor) -> Tensor:
        """Fields without mean and scale."""
        return (fields - self.mean) / self.scale

    def decode(self, fields: Tensor) -> Tensor:
        """The inverse of `encode`."""
        return fields * self.scale + self.mean


class FieldModel(nn.Module):
    """A network between normalisers: physical fields in, physical fields out."""

    def __init__(self, network: nn.Module, inputs: Normaliser, outputs: Normaliser) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs = network, inputs, outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outputs.decode(self.network(self.inputs.encode(x)))
        return out

    @torch.no_grad()
    def predict(self, fields: NDArray[np.floating], batch_size: int = 64) -> NDArray[np.float64]:
        """Predicted fields, batch by batch, in double precision storage."""
        device = next(self.parameters()).device
        parts = [fields[start : start + batch_size] for start in range(0, len(fields), batch_size)]
        given = (torch.tensor(np.ascontiguousarray(part), dtype=torch.float32, device=device) for part in parts)
        found = [self(part).cpu().double().numpy() for part in given]
        return np.concatenate(found)


@dataclass(frozen=True)
class Fitting:
    """How fields are fitted.

    Args:
        loss: a key of `LOSSES`.
        lr: highest learning rate.
        epochs: passes over the data.
        batch_size: fields a step.
        weight_decay: Adam's, added to the gradient.
        warmup: part of the training during which the rate rises, from half its peak.
        final_div: the last rate is this much smaller than the first.
        validation_fraction: of the data, held out to choose the best epoch.
    """

    loss: str
    lr: float
    epochs: int
    batch_size: int
    weight_decay: float = 1e-4
    warmup: float = 0.2
    final_div: float = 100.0
    validation_fraction: float = 0.1


@dataclass(frozen=True)
class Course:
    """How a fit went: the mean relative L2 error of the validation fields after every epoch (none without any)."""

    validation: tuple[float, ...]
    best_epoch: int
    n_train: int


def fit_fields(
    model: FieldModel,
    X: NDArray[np.floating],
    y: NDArray[np.floating],
    fitting: Fitting,
    *,
    seed: int,
    device: torch.device,
    tell: Callable[[float, float, str], object] = lambda done, total, note: None,
) -> Course:
    """Train a model in place and leave it with the weights of its best epoch.

    Args:
        model: its normalisers learn from the training fields.
        X: inputs, shape (n, C, H, W).
        y: outputs, shape (n, C', H, W).
        fitting: the settings.
        seed: of the split and the batches.
        device: where to train.
        tell: told (steps done, steps in all, a note).
    """
    order = numpy_stream(seed, "validation").permutation(len(X))
    n_held = int(fitting.validation_fraction * len(X))
    held, kept = order[:n_held], order[n_held:]
    model.inputs.learn(X[kept])
    model.outputs.learn(y[kept])
    model.to(device)
    unit = float(np.sqrt(np.mean(np.square(y[kept], dtype=np.float64)))) or 1.0  # relative losses do not see it
    inputs, targets = (
        torch.tensor(np.asarray(fields, dtype=np.float64), dtype=torch.float32) for fields in (X[kept], y[kept] / unit)
    )
    floor = least_norm(targets)
    n, size = len(kept), min(fitting.batch_size, len(kept))
    n_batches = -(-n // size)
    loss_of = LOSSES[fitting.loss]

    @lru_cache(maxsize=1)
    def shuffled(epoch: int) -> NDArray[np.int64]:
        return numpy_stream(seed, "epoch", str(epoch)).permutation(n)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        epoch, place = divmod(step, n_batches)
        rows = shuffled(epoch)[place * size : (place + 1) * size]
        return inputs[rows], targets[rows]

    def loss(module: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
        return loss_of(module(pair[0]) / unit, pair[1], floor).sum()

    errors: list[float] = []
    # not state_dict(), in which networks of other libraries hold more than tensors
    weights: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    best: dict[str, Tensor] = {}

    def after(info: StepInfo) -> None:
        tell(info.step, n_batches * fitting.epochs, f"loss {info.loss / size:.4g}")
        if info.step % n_batches:
            return
        if n_held:
            predicted, truth = (torch.as_tensor(fields / unit) for fields in (model.predict(X[held]), y[held]))
            errors.append(float(relative_l2(predicted, truth, floor).mean()))
            if not errors[-1] > min(errors):
                best.update({name: value.detach().clone() for name, value in weights.items()})

    train(
        model,
        loss,
        batch,
        TrainConfig(
            n_steps=n_batches * fitting.epochs,
            lr=fitting.lr,
            optimizer="adam",
            weight_decay=fitting.weight_decay,
            warmup_fraction=fitting.warmup,
            initial_lr_fraction=0.5,
            schedule="onecycle",
            final_lr_fraction=0.5 / fitting.final_div,
            clip_norm=None,
            precision="32",
            log_every=n_batches,
        ),
        device=device,
        on_step=after,
    )
    with torch.no_grad():
        for name, value in best.items():
            weights[name].copy_(value)
    return Course(tuple(errors), int(np.argmin(errors)) + 1 if errors else fitting.epochs, n)
