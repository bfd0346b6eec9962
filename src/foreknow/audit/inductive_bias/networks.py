"""Hypotheses found by training: one network from many seeds, all trained side by side (phase 1b of the paper).

The paper trains S networks, each with its own initial weights and order of the data, by Adam on the squared error of
one-hot targets, and keeps the test loss of each. Here the weights of all are stacked and trained as one batch.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from foreknow.audit.inductive_bias.bits import Array
from foreknow.audit.inductive_bias.kernels import _targets
from foreknow.common.device import resolve_device
from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.common.validate import as_matrix, check_int, check_real

Factory = Callable[[], nn.Module]


def mlp(n_features: int, n_outputs: int, *, width: int = 100, depth: int = 2) -> nn.Module:
    """A network of `depth` hidden layers of ReLU units."""
    sizes = [n_features] + [width] * depth
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], n_outputs))


def cnn_1d(n_features: int, n_outputs: int, *, channels: int = 16) -> nn.Module:
    """Two convolutions of stride 2 with ReLU units over the columns, the second of twice the channels, then linear."""
    length = -(-n_features // 4)
    return nn.Sequential(
        nn.Unflatten(1, (1, n_features)),
        nn.Conv1d(1, channels, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv1d(channels, 2 * channels, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * channels * length, n_outputs),
    )


@dataclass(frozen=True)
class NetworkHypotheses:
    """Networks trained from independent seeds.

    Args:
        factory: makes the network: any `nn.Module` of rows (n, d) -> outputs (n, k) without dropout and running
            statistics; its first weights come from torch's own initialisation under a seed of each draw.
        n_steps: training steps.
        batch_size: rows of a step, drawn without replacement within an epoch, in an order of each draw's own.
        lr: step size of Adam.
        max_misfit: mean squared training error, as a share of the variance of the targets, above which a draw does
            not count as fitting the training data.
        chunk: networks trained side by side, which bounds the memory.
        device: where to train, in single precision.
    """

    factory: Factory
    n_steps: int = 1000
    batch_size: int = 100
    lr: float = 1e-3
    max_misfit: float = 0.05
    chunk: int = 100
    device: str = "auto"

    def __post_init__(self) -> None:
        owner = "NetworkHypotheses"
        if not callable(self.factory):
            raise ConfigError(f"{owner}: factory must make an nn.Module when called, got {self.factory!r:.80}.")
        for name in ("n_steps", "batch_size", "chunk"):
            check_int(owner, name, getattr(self, name), low=1)
        for name in ("lr", "max_misfit"):
            check_real(owner, name, getattr(self, name), low=0, open_low=True)

    def condition(
        self,
        X: ArrayLike,
        Y: ArrayLike,
        *,
        n_draws: int = 100,
        random_state: object = None,
        progress: ProgressCallback | None = None,
    ) -> FittingNetworks:
        """Train `n_draws` networks on the training data.

        Args:
            X: rows, shape (n, d).
            Y: targets, shape (n,) or (n, k); one-hot for classes.
            n_draws: networks.
            random_state: of initial weights and orders; draw i depends on it and i only.
            progress: told of finished steps.

        Raises:
            InputError: the data cannot be used.
            CapabilityError: the network has layers that draw numbers or keep running statistics.
        """
        owner = "NetworkHypotheses"
        check_int(owner, "n_draws", n_draws, low=1)
        device = resolve_device(self.device)
        x = torch.as_tensor(as_matrix(owner, X), dtype=torch.float32, device=device)
        y = torch.as_tensor(_targets(owner, Y, len(x), "Y"), dtype=torch.float32, device=device)
        root = seed_of(random_state, "networks")
        reporter = Reporter(progress, n_draws * self.n_steps)
        parts: list[dict[str, Tensor]] = []
        for start in range(0, n_draws, self.chunk):
            draws = range(start, min(start + self.chunk, n_draws))
            parts.append(self._train(x, y, root, draws, lambda done: reporter.advance(start * self.n_steps + done)))  # noqa: B023
        weights = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        base = self._module(0)
        fitted = FittingNetworks(base, weights, np.zeros(n_draws), 0.0)
        losses = fitted.all_losses(X, Y)
        limit = self.max_misfit * float(y.var(dim=0, unbiased=False).mean())
        return FittingNetworks(base, weights, losses, limit)

    def _module(self, seed: int) -> nn.Module:
        with seeded_init(seed):
            module = self.factory()
        if not isinstance(module, nn.Module):
            raise ConfigError(f"NetworkHypotheses: factory must make an nn.Module, got {type(module).__name__}.")
        for part in module.modules():
            if isinstance(part, nn.modules.dropout._DropoutNd | nn.modules.batchnorm._NormBase):
                raise CapabilityError(
                    f"NetworkHypotheses: {type(part).__name__} draws numbers or keeps statistics while it trains, "
                    "which networks trained side by side cannot.",
                    hint="Leave the layer out, or use LayerNorm or GroupNorm.",
                )
        return module.to(resolve_device(self.device))

    def _train(self, x: Tensor, y: Tensor, root: int, draws: range, report: Callable[[int], None]) -> dict[str, Tensor]:
        modules = [self._module(seed_of(root, "weights", str(i))) for i in draws]
        weights, buffers = stack_module_state(modules)
        base = modules[0]

        def loss(own: dict[str, Tensor], fixed: dict[str, Tensor], rows: Tensor, targets: Tensor) -> Tensor:
            error: Tensor = functional_call(base, (own, fixed), (rows,)) - targets
            return error.square().mean()

        losses = vmap(loss)
        optimiser = torch.optim.Adam(weights.values(), lr=self.lr, foreach=True)
        generators = [torch_stream(root, "order", str(i)) for i in draws]
        size = min(self.batch_size, len(x))
        per_epoch = len(x) // size
        for step in range(self.n_steps):
            if step % per_epoch == 0:
                orders = torch.stack([torch.randperm(len(x), generator=g) for g in generators]).to(x.device)
            chosen = orders[:, (step % per_epoch) * size :][:, :size]  # (draws, size)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(losses(weights, buffers, x[chosen], y[chosen]).sum())
            optimiser.step()
            report((step + 1) * len(draws))
        return {name: value.detach() for name, value in {**weights, **buffers}.items()}


@dataclass(frozen=True)
class FittingNetworks:
    """Trained networks.

    Args:
        module: one of them, for its structure.
        weights: stacked, leading axis n_draws.
        train_losses: mean squared training error of each draw, shape (n_draws,).
        max_train_loss: above it a draw does not fit the training data.
    """

    module: nn.Module
    weights: dict[str, Tensor] = field(repr=False)
    train_losses: Array
    max_train_loss: float

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Which draws fit the training data, shape (n_draws,)."""
        return np.asarray(self.train_losses <= self.max_train_loss)

    def predict(self, X: ArrayLike) -> Array:
        """Outputs of every draw, shape (n_draws, n, k)."""
        place = next(iter(self.weights.values()))
        x = torch.as_tensor(as_matrix("FittingNetworks", X), dtype=place.dtype, device=place.device)

        def run(own: dict[str, Tensor]) -> Any:
            return functional_call(self.module, own, (x,))

        with torch.no_grad():
            parts = [vmap(run)({n: w[i : i + 50] for n, w in self.weights.items()}) for i in range(0, len(place), 50)]
        return np.asarray(torch.cat(parts).double().cpu().numpy())

    def all_losses(self, X: ArrayLike, Y: ArrayLike) -> Array:
        """Mean squared error of every draw, whether it fits or not, shape (n_draws,)."""
        outputs = self.predict(X)
        return np.asarray(np.square(outputs - _targets("FittingNetworks", Y, outputs.shape[1], "Y")).mean((1, 2)))

    def losses(self, X: ArrayLike, Y: ArrayLike) -> Array:
        """Test losses of the draws that fit the training data; the others are left out with a warning.

        Raises:
            InputError: no draw fits, or a training diverged.
        """
        found, fits = self.all_losses(X, Y), self.fits
        if not np.isfinite(self.train_losses).all():
            bad = int(np.flatnonzero(~np.isfinite(self.train_losses))[0])
            raise InputError(f"FittingNetworks: the training of draw {bad} diverged.", hint="Use a smaller lr.")
        if not fits.any():
            raise InputError(
                f"FittingNetworks: no draw fits the training data: the smallest training loss is "
                f"{self.train_losses.min():.3g}, allowed is {self.max_train_loss:.3g}.",
                hint="Train for more steps; bits are defined among hypotheses that fit.",
            )
        if not fits.all():
            warnings.warn(
                f"FittingNetworks: {int((~fits).sum())} of {len(fits)} draws do not fit the training data (training "
                f"loss above {self.max_train_loss:.3g}) and are left out.",
                ForeknowWarning,
                stacklevel=2,
            )
        return found[fits]
