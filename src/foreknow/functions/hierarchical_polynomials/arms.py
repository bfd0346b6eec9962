"""What the layerwise network is compared with: tuned kernels, networks trained by Adam, and who knows the feature."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from torch import Tensor, nn

from foreknow.common.rng import numpy_stream, seed_of, seeded_init, torch_stream
from foreknow.functions.hierarchical_polynomials.network import arc_cosine
from foreknow.functions.hierarchical_polynomials.prior import HierarchicalTask
from foreknow.functions.hierarchical_polynomials.ridge import ridge

Floats = NDArray[np.float64]
_HELD_OUT = 0.2


def _kernel(name: str, x: Tensor, other: Tensor) -> Tensor:
    """Kernels of rows of about unit variance a column: "rbf S" (lengthscale S sqrt(d)), "poly P", "arc-cosine"."""
    d = x.shape[1]
    kind, _, number = name.partition(" ")
    if kind == "rbf":
        return torch.exp(-0.5 * torch.cdist(x, other).square() / (float(number) ** 2 * d))
    if kind == "poly":
        return (0.5 + 0.5 * (x @ other.T) / d) ** int(number)
    return arc_cosine(x / math.sqrt(d), other / math.sqrt(d))


class TunedKernelRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Kernel ridge regression; kernel and penalty are chosen on a fifth of the rows, then fitted to all of them.

    Args:
        kernels: to choose from: "rbf S" (lengthscale S sqrt(d)), "poly P" and "arc-cosine".
        penalties: to choose from, in units of the kernel's diagonal.
        random_state: seed of the rows held out.
    """

    def __init__(
        self,
        kernels: tuple[str, ...] = ("rbf 0.5", "rbf 1", "rbf 2", "arc-cosine", "poly 6"),
        penalties: tuple[float, ...] = (1e-3, 0.05, 1.0),
        random_state: int | None = None,
    ) -> None:
        self.kernels = kernels
        self.penalties = penalties
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        x, target = _tensors(X, y)
        self.center_, self.spread_ = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-12)
        x = (x - self.center_) / self.spread_
        self.mean_ = float(target.mean())
        target = target - self.mean_
        order = torch.as_tensor(numpy_stream(self.random_state, "kernel ridge").permutation(len(x)))
        n_held = max(1, int(_HELD_OUT * len(x))) if len(x) > 4 else 0
        held, kept = order[:n_held], order[n_held:]
        scores = {}
        for name in self.kernels if n_held else self.kernels[:1]:
            gram, cross = _kernel(name, x[kept], x[kept]), _kernel(name, x[held], x[kept])
            for penalty in self.penalties:
                alpha = _solved(gram, target[kept], penalty)
                scores[name, penalty] = float((cross @ alpha - target[held]).square().mean()) if n_held else 0.0
        self.kernel_, self.penalty_ = min(scores, key=lambda chosen: scores[chosen])
        self.rows_ = x
        self.alpha_ = _solved(_kernel(self.kernel_, x, x), target, self.penalty_)
        return self

    def predict(self, X: ArrayLike) -> Floats:
        x = (torch.as_tensor(np.asarray(X, dtype=np.float64)) - self.center_) / self.spread_
        return np.asarray(self.mean_ + (_kernel(self.kernel_, x, self.rows_) @ self.alpha_).numpy())


def _solved(gram: Tensor, y: Tensor, penalty: float) -> Tensor:
    shifted = gram.clone()
    shifted.diagonal().add_(penalty * float(gram.diagonal().mean()))
    return torch.cholesky_solve(y[:, None], torch.linalg.cholesky(shifted))[:, 0]


class _TwoLayer(nn.Module):
    def __init__(self, d: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)[:, 0]
        return found


class _ThreeLayer(nn.Module):
    """The network of the paper with all layers free: bottleneck, skip connection and outer layer."""

    def __init__(self, d: int, width: int, outer: int = 64) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(d, width), nn.ReLU(), nn.Linear(width, 1))
        self.outer = nn.Sequential(nn.Linear(1, outer), nn.ReLU(), nn.Linear(outer, 1))

    def forward(self, x: Tensor) -> Tensor:
        g = self.inner(x)
        found: Tensor = (g + self.outer(g))[:, 0]
        return found


class AdamNetwork(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A network trained by Adam on batches, stopped where the loss on a fifth of the rows was least.

    Args:
        layers: 2 (no bottleneck), or 3: the network of the paper with all layers trained jointly.
        width: of the first hidden layer.
        n_steps: of Adam.
        lr: its first rate; it falls to zero as a cosine.
        random_state: seed.
    """

    def __init__(
        self, layers: int = 3, width: int = 256, n_steps: int = 1000, lr: float = 3e-3, random_state: int | None = None
    ) -> None:
        self.layers = layers
        self.width = width
        self.n_steps = n_steps
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        x, target = (value.float() for value in _tensors(X, y))
        self.center_, self.spread_ = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-12)
        self.shift_, self.scale_ = float(target.mean()), float(target.std(correction=0).clamp_min(1e-12))
        x, target = (x - self.center_) / self.spread_, (target - self.shift_) / self.scale_
        generator = torch_stream(self.random_state, "adam")
        order = torch.randperm(len(x), generator=generator)
        n_held = max(1, int(_HELD_OUT * len(x)))
        held, kept = order[:n_held], order[n_held:] if len(x) > 4 else order
        with seeded_init(seed_of(self.random_state, "weights")):
            network = (_TwoLayer if self.layers == 2 else _ThreeLayer)(x.shape[1], self.width)
        optimiser = torch.optim.Adam(network.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.n_steps)
        best, state = math.inf, network.state_dict()
        for step in range(self.n_steps):
            rows = kept[torch.randint(len(kept), (min(256, len(kept)),), generator=generator)]
            loss = (network(x[rows]) - target[rows]).square().mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            if step % 25 == 24 or step == self.n_steps - 1:
                with torch.no_grad():
                    found = float((network(x[held]) - target[held]).square().mean())
                if found < best:
                    best, state = found, {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(state)
        self.network_ = network.eval()
        return self

    def predict(self, X: ArrayLike) -> Floats:
        x = (torch.as_tensor(np.asarray(X, dtype=np.float32)) - self.center_) / self.spread_
        with torch.no_grad():
            return np.asarray(self.shift_ + self.scale_ * self.network_(x).double().numpy())


class Oracle(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """The outer layer on the true feature: what is left to learn when the first stage is perfect.

    Args:
        task: the target.
        width: of the outer layer.
        random_state: seed of its neurons.
    """

    def __init__(self, task: HierarchicalTask, width: int = 300, random_state: int | None = None) -> None:
        self.task = task
        self.width = width
        self.random_state = random_state

    def _basis(self, X: ArrayLike) -> Tensor:
        p = torch.as_tensor(self.task.feature(X))[:, None]
        return torch.relu(p * self.signs_ + self.thresholds_) / math.sqrt(self.width)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        rng = numpy_stream(self.random_state, "oracle")
        self.signs_ = torch.as_tensor(rng.choice([-1.0, 1.0], self.width))
        self.thresholds_ = torch.as_tensor(rng.uniform(-3.0, 3.0, self.width))
        target = torch.as_tensor(np.asarray(y, dtype=np.float64))
        self.mean_ = float(target.mean())
        self.weights_ = ridge(self._basis(X), target - self.mean_).weights
        return self

    def predict(self, X: ArrayLike) -> Floats:
        return np.asarray(self.mean_ + (self._basis(X) @ self.weights_).numpy())


def plain_arms() -> Mapping[str, Callable[[int], Any]]:
    """The comparisons of a price: name -> what builds one from a seed."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    return {
        "kernel ridge": lambda seed: TunedKernelRidge(random_state=seed),
        "two layers, Adam": lambda seed: AdamNetwork(2, random_state=seed),
        "three layers, Adam": lambda seed: AdamNetwork(3, random_state=seed),
        "histogram boosting": lambda seed: HistGradientBoostingRegressor(random_state=seed),
    }


def _tensors(X: ArrayLike, y: ArrayLike) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(np.asarray(X, dtype=np.float64)), torch.as_tensor(np.asarray(y, dtype=np.float64))
