"""A network as a function of one flat weight vector, for many vectors at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_int, check_option

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "softplus": nn.Softplus, "silu": nn.SiLU,
}  # fmt: skip
_ELEMENTWISE = (*(type(make()) for make in ACTIVATIONS.values()), nn.LeakyReLU, nn.Sigmoid, nn.Identity)


def mlp(
    n_in: int, n_out: int, hidden: Sequence[int] = (50,), activation: str = "tanh", *, seed: int = 0
) -> nn.Sequential:
    """A plain multilayer perceptron; PyTorch's own first weights, drawn from `seed`."""
    check_option("mlp", "activation", activation, tuple(ACTIVATIONS))
    widths = [check_int("mlp", "width", width, low=1) for width in (n_in, *hidden, n_out)]
    parts: list[nn.Module] = []
    with seeded_init(seed):
        for width, following in pairwise(widths):
            parts += [nn.Linear(width, following), ACTIVATIONS[activation]()]
    return nn.Sequential(*parts[:-1])


@dataclass(frozen=True)
class Slot:
    """Where one tensor of the network lies in the flat vector.

    Args:
        name: of the parameter.
        start, stop: its numbers in the flat vector.
        shape: of the parameter.
        fan_in: inputs that a unit sums over; 1 for biases and other vectors.
    """

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]
    fan_in: int


class FlatNetwork:
    """`module` as a function of weight vectors: (chains, n_weights) and rows give (chains, rows, outputs).

    A plain perceptron is computed by batched matrix products, anything else by `torch.func` under `vmap`.
    The module is copied, so the caller's stays as it is; it is used in evaluation mode.

    Args:
        module: any network of one input whose parameters are all floating point.

    Raises:
        ConfigError: it has no parameters, or parts that cannot be computed for many weights at once.
    """

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, nn.Module) or not any(True for _ in module.parameters()):
            raise ConfigError(f"FlatNetwork: expected a network with parameters, got {type(module).__name__}.")
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
                raise ConfigError(
                    "FlatNetwork: batch normalisation keeps running statistics, which no weight prior describes.",
                    hint="Use group or layer normalisation.",
                )
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        slots, start = [], 0
        for name, value in self.module.named_parameters():
            fan_in = value[0].numel() if value.ndim > 1 else 1
            slots.append(Slot(name, start, start + value.numel(), tuple(value.shape), fan_in))
            start += value.numel()
        self.slots: tuple[Slot, ...] = tuple(slots)
        self.n_weights = start
        self._sizes = [slot.stop - slot.start for slot in slots]
        self._plain = _is_perceptron(self.module)

    def to(self, device: torch.device | str) -> FlatNetwork:
        """Move what the network keeps besides weights (buffers), in place."""
        self.module.to(device)
        return self

    def flatten(self, module: nn.Module | None = None) -> Tensor:
        """The weights of `module` (or of the network as given), shape (n_weights,)."""
        parameters = (self.module if module is None else module).parameters()
        return torch.cat([value.detach().reshape(-1) for value in parameters])

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """Parameters by name, shape (*batch, *shape), of flat weights (*batch, n_weights)."""
        self._check(weights)
        batch = weights.shape[:-1]
        return {slot.name: weights[..., slot.start : slot.stop].reshape(*batch, *slot.shape) for slot in self.slots}

    def to_module(self, weights: Tensor) -> nn.Module:
        """A network of its own with these weights, shape (n_weights,)."""
        module = copy.deepcopy(self.module).to(weights.dtype)
        module.load_state_dict({**module.state_dict(), **self.unflatten(weights.detach())})
        return module.requires_grad_(True)

    def __call__(self, weights: Tensor, x: Tensor) -> Tensor:
        """Outputs, shape (chains, n, *out).

        Args:
            weights: shape (chains, n_weights).
            x: rows that all chains share, (n, ...).
        """
        if self._plain:
            return self._perceptron(weights, x.expand(weights.shape[0], *x.shape))
        out: Tensor = vmap(lambda part: functional_call(self.module, part, (x,)))(self.unflatten(weights))
        return out

    def per_chain(self, weights: Tensor, x: Tensor) -> Tensor:
        """The same where every chain has rows of its own, shape (chains, n, ...)."""
        if self._plain:
            return self._perceptron(weights, x)
        call = vmap(lambda part, rows: functional_call(self.module, part, (rows,)))
        out: Tensor = call(self.unflatten(weights), x)
        return out

    def single(self, weights: Tensor, x: Tensor) -> Tensor:
        """Outputs of one weight vector (n_weights,) by `functional_call`: what `torch.func` differentiates."""
        out: Tensor = functional_call(self.module, self.unflatten(weights), (x,))
        return out

    def _perceptron(self, weights: Tensor, h: Tensor) -> Tensor:
        self._check(weights)
        # split once: slices would each carry a gradient as large as all weights
        parts = iter(zip(torch.split(weights, self._sizes, dim=1), self.slots, strict=True))
        for part in self.module:  # type: ignore[attr-defined]
            if not isinstance(part, nn.Linear):
                h = part(h)
                continue
            flat, slot = next(parts)
            matrix = flat.reshape(-1, *slot.shape).transpose(1, 2)
            h = torch.bmm(h, matrix) if part.bias is None else torch.baddbmm(next(parts)[0].unsqueeze(1), h, matrix)
        return h

    def _check(self, weights: Tensor) -> None:
        if weights.shape[-1] != self.n_weights:
            raise InputError(f"FlatNetwork: expected {self.n_weights} weights, got shape {tuple(weights.shape)}.")


def _is_perceptron(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and all(isinstance(part, (nn.Linear, *_ELEMENTWISE)) for part in module)
