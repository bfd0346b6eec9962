"""Variational continual learning (Nguyen et al. 2018): a factorised normal over the weights, the last one as prior."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Generator, Tensor
from torch.nn.functional import softplus

from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_int
from foreknow.functions.sequential_cl.streams import Scale, split_by_class
from foreknow.nn.bayes import FlatNetwork, Likelihood, Softmax, mlp

Belief = tuple[Tensor, Tensor]
"""Means and standard deviations of all weights."""
_FIRST_RAW = -4.0  # softplus(-4) = 0.018


def kl_normal(mean: Tensor, sd: Tensor, other_mean: Tensor, other_sd: Tensor) -> Tensor:
    """KL divergence of factorised normals, summed."""
    ratio = (sd / other_sd).square()
    return 0.5 * (ratio + ((mean - other_mean) / other_sd).square() - 1 - ratio.log()).sum()


def fit_normal(
    network: FlatNetwork, likelihood: Likelihood, x: Tensor, y: Tensor, *, before: Belief, mean: Tensor, n_steps: int,
    generator: Generator, n_draws: int = 8, lr: float = 1e-2, batch_size: int | None = None, raw: Tensor | None = None,
) -> Belief:  # fmt: skip
    """The factorised normal nearest to the posterior of one task, by Adam on the evidence bound.

    Args:
        network, likelihood: of the rows x (n, ...) and targets y (n,).
        before: the prior.
        mean: first means.
        n_steps: of Adam.
        generator: of weights and batches.
        n_draws: weight vectors a step.
        lr: rate of Adam.
        batch_size: rows a step; None takes all.
        raw: first standard deviations before softplus; by default all 0.018.
    """
    mean = mean.clone().requires_grad_(True)
    raw = torch.full_like(mean, _FIRST_RAW) if raw is None else raw.clone()
    raw = raw.detach().requires_grad_(True)
    optimiser = torch.optim.Adam([mean, raw], lr=lr)
    for _ in range(n_steps):
        sd = softplus(raw)
        z = mean + sd * torch.randn(n_draws, len(mean), generator=generator)
        rows, codes, share = x, y, 1.0
        if batch_size is not None and batch_size < len(x):
            chosen = torch.randint(len(x), (batch_size,), generator=generator)
            rows, codes, share = x[chosen], y[chosen], len(x) / batch_size
        fit = share * likelihood.log_prob(network(z, rows), codes).sum(-1).mean()
        loss = kl_normal(mean, sd, *before) - fit
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return mean.detach(), softplus(raw).detach()


class VariationalClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Classes that arrive task by task, one head for all, weights with a normal belief that goes from task to task.

    Before the first task a weight is N(0, 1 / fan_in). With a memory, so many random rows of each task are a coreset:
    the belief is carried without them, and fitted to all of them before it predicts.

    Args:
        hidden: widths.
        memory: rows of each task in the coreset.
        classes_per_task: how the classes are split, in their order.
        n_steps: of Adam at each task and on the coreset, on batches of 64 rows.
        lr: its rate.
        random_state: seed.
    """

    def __init__(
        self, hidden: tuple[int, ...] = (128, 64), memory: int = 0, classes_per_task: int = 2, n_steps: int = 500,
        lr: float = 1e-2, random_state: int = 0,
    ) -> None:  # fmt: skip
        self.hidden = hidden
        self.memory = memory
        self.classes_per_task = classes_per_task
        self.n_steps = n_steps
        self.lr = lr
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn the tasks of rows (n, ...) one after another."""
        check_int("VariationalClassifier", "memory", self.memory, low=0)
        check_int("VariationalClassifier", "n_steps", self.n_steps, low=1)
        rows = np.asarray(X, dtype=np.float64)
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        number = split_by_class(codes, self.classes_per_task)
        self.scale_ = Scale.of(rows[number == 0])
        x, targets = self._rows(rows), torch.as_tensor(codes)
        seed = self.random_state
        self.network_ = FlatNetwork(mlp(x.shape[1], max(2, len(self.classes_)), self.hidden, "relu", seed=seed))
        first = self.network_.flatten()
        self._generator = torch_stream(seed, "variational")
        sd = torch.cat([first.new_full((slot.stop - slot.start,), slot.fan_in**-0.5) for slot in self.network_.slots])
        belief: Belief = torch.zeros_like(first), sd
        kept: list[Tensor] = []
        mean = first
        for task in range(int(number.max()) + 1):
            own = torch.as_tensor(np.flatnonzero(number == task))
            own = own[torch.randperm(len(own), generator=self._generator)]
            kept.append(own[: min(self.memory, len(own) - 1)])
            own = own[len(kept[-1]) :]
            belief = self._fitted(x[own], targets[own], belief, mean, None)
            mean = belief[0]
        if self.memory:
            coreset = torch.cat(kept)
            raw = belief[1].expm1().log()  # the inverse of softplus
            belief = self._fitted(x[coreset], targets[coreset], belief, mean, raw)
        self.belief_ = belief
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Mean probabilities over 100 draws of the weights."""
        generator = torch_stream(self.random_state, "variational draws")
        z = self.belief_[0] + self.belief_[1] * torch.randn(100, len(self.belief_[0]), generator=generator)
        with torch.no_grad():
            logits = self.network_(z, self._rows(np.asarray(X, dtype=np.float64))).double()
        return np.asarray(logits[..., : len(self.classes_)].softmax(-1).mean(0).numpy())

    def predict(self, X: ArrayLike) -> NDArray[np.generic]:
        return np.asarray(self.classes_[self.predict_proba(X).argmax(1)])

    def _rows(self, X: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor(self.scale_(X).reshape(len(X), math.prod(X.shape[1:])), dtype=torch.float32)

    def _fitted(self, x: Tensor, y: Tensor, before: Belief, mean: Tensor, raw: Tensor | None) -> Belief:
        likelihood = Softmax(max(2, len(self.classes_)))
        return fit_normal(
            self.network_, likelihood, x, y, before=before, mean=mean, n_steps=self.n_steps, generator=self._generator,
            n_draws=1, lr=self.lr, batch_size=64, raw=raw,
        )  # fmt: skip
