"""Optimizers: SGD, Adam and AdamW with sensible decay groups, Muon for hidden matrices, a moving average of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from foreknow.train.config import TrainConfig

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration; they bring singular values to about 0.7-1.2 in five rounds."""


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrices with singular values near 1, by a Newton-Schulz iteration.

    Args:
        matrices: shape (*batch, rows, columns).
        rounds: iterations; five are enough for gradients of networks.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal: each step moves a weight matrix equally in all its directions.

    The update is scaled by `0.2 * sqrt(max(rows, columns))`, so that it has AdamW's usual size and both can
    share one learning rate. Matrices of one shape are handled together.

    Args:
        params: matrices (two axes).
        lr: learning rate.
        momentum: decay of the momentum, used in Nesterov's way.
        weight_decay: decoupled, times the learning rate.
    """

    def __init__(
        self, params: Iterable[Tensor], *, lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        if closure is not None:
            with torch.enable_grad():
                closure()
        for group in self.param_groups:
            same_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape.setdefault(tuple(parameter.shape), []).append((parameter, parameter.grad))
            for shape, pairs in same_shape.items():
                moves = orthogonalize(torch.stack([self._nesterov(p, g, group["momentum"]) for p, g in pairs]))
                scale = 0.2 * max(shape) ** 0.5
                for (parameter, _), move in zip(pairs, moves):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(move, alpha=-group["lr"] * scale)

    def _nesterov(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        buffer = state["momentum"].mul_(momentum).add_(gradient)
        return gradient.add(buffer, alpha=momentum)


def is_hidden_matrix(name: str, parameter: Tensor, exclude: Iterable[str]) -> bool:
    """Whether Muon may have this parameter: a true matrix whose name holds none of the words in `exclude`."""
    return parameter.ndim == 2 and min(parameter.shape) > 1 and not any(word in name for word in exclude)


def build_optimizers(module: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a run: one, or Muon and AdamW. Embedding tables always stay with AdamW."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    optimizers: list[torch.optim.Optimizer] = []
    if config.optimizer == "muon":
        hidden = [p for name, p in named if is_hidden_matrix(name, p, config.muon_exclude) and id(p) not in tables]
        if hidden:
            optimizers.append(Muon(hidden, lr=config.lr, weight_decay=config.weight_decay))
        taken = {id(p) for p in hidden}
        named = [(name, p) for name, p in named if id(p) not in taken]
    groups = [
        {"params": [p for _, p in named if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if groups and config.optimizer == "sgd":
        optimizers.append(torch.optim.SGD(groups, lr=config.lr, momentum=config.betas[0]))
    elif groups:
        fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for _, p in named)
        kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        optimizers.append(kind(groups, lr=config.lr, betas=config.betas, fused=fused))
    return optimizers


class MovingAverage:
    """Exponential moving average of a network's parameters.

    The decay of update t (from 0) is `min(decay, (1 + t) / (10 + t))`, so that the random start is soon forgotten.

    Args:
        module: its parameters are averaged; buffers are not.
        decay: between 0 and 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.n_updates = 0
        self._parameters = dict(module.named_parameters())
        self.averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are now."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        torch._foreach_lerp_(list(self.averages.values()), list(self._parameters.values()), 1 - decay)
        self.n_updates += 1

    @torch.no_grad()
    def write_to_module(self) -> None:
        """Replace the parameters by their averages."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.averages[name])
