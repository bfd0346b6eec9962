"""Prototypical Bayesian continual learning: encoder, recursive posterior of prototypes, replay.

State of class c: Q_c = Lambda_c mu_c, Lambda_c, alpha_c. A row adds phi / S to Q_c, 1 / S to Lambda_c, 1 to alpha_c.
log p(phi, c) = -1/2 [ |phi - mu_c|^2 / v_c + d ln v_c + d ln 2 pi ] + ln(alpha_c / sum alpha), v_c = 1 / Lambda_c + S.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from foreknow.common.errors import InputError
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.common.validate import check_bool, check_int, check_real
from foreknow.core.records import record
from foreknow.functions.sequential_cl.prior import PrototypePrior
from foreknow.functions.sequential_cl.streams import as_codes


@record
@dataclass(frozen=True)
class ProtoSettings:
    """Training of the encoder.

    Args:
        n_epochs: passes over each task's rows.
        batch_size: rows a step.
        lr, weight_decay: of Adam.
        memory: rows of each task that are kept for replay; 0 keeps none.
        noise: variance S of a class's embeddings on each axis.
        learn_noise: tune S with the encoder.
        hidden: widths of the encoder, the last of them its space; an encoder given to `fit` replaces it.
        dropout: of the encoder's hidden layers.
    """

    n_epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    memory: int = 200
    noise: float = 0.05
    learn_noise: bool = False
    hidden: tuple[int, ...] = (128, 64)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name, low in (("n_epochs", 1), ("batch_size", 1), ("memory", 0)):
            check_int("ProtoSettings", name, getattr(self, name), low=low)
        check_real("ProtoSettings", "lr", self.lr, low=0, open_low=True)
        check_real("ProtoSettings", "weight_decay", self.weight_decay, low=0)
        check_real("ProtoSettings", "noise", self.noise, low=0, open_low=True)
        check_bool("ProtoSettings", "learn_noise", self.learn_noise)
        check_real("ProtoSettings", "dropout", self.dropout, low=0, high=0.99)
        if not isinstance(self.hidden, tuple) or not self.hidden:
            raise InputError(f"ProtoSettings: hidden must be a tuple of widths, got {self.hidden!r}.")
        for width in self.hidden:
            check_int("ProtoSettings", "hidden", width, low=1)


class Prototypes:
    """The posterior of all classes' prototypes and frequencies; recursive, and never touched by prediction.

    Args:
        prior: before the data.
        n_classes, dim: sizes.
        noise: S.
    """

    def __init__(self, prior: PrototypePrior, n_classes: int, dim: int, noise: float) -> None:
        self.prior, self.noise = prior, noise
        self.weighted = torch.zeros(n_classes, dim)  # Q
        self.precision = torch.full((n_classes,), prior.precision)  # Lambda
        self.concentration = torch.full((n_classes,), prior.concentration)  # alpha

    def update(self, phi: Tensor, y: Tensor) -> None:
        """Add rows: embeddings (n, dim) and codes (n,)."""
        counts = torch.bincount(y, minlength=len(self.precision)).to(self.precision)
        self.weighted = self.weighted.index_add(0, y, phi.detach() / self.noise)
        self.precision = self.precision + counts / self.noise
        self.concentration = self.concentration + counts

    @property
    def means(self) -> Tensor:
        """Posterior means of the prototypes (n_classes, dim)."""
        return self.weighted / self.precision[:, None]

    def to(self, device: torch.device) -> Prototypes:
        for name in ("weighted", "precision", "concentration"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def log_joint(self, phi: Tensor, noise: Tensor | float | None = None) -> Tensor:
        """Log p(phi, c) for every class, shape (n, n_classes)."""
        s = self.noise if noise is None else noise
        nearest = self.prior.head == "nearest"
        dim = phi.shape[-1]
        seen = (self.precision - self.prior.precision).clamp_min(1e-12)  # what the rows alone say
        means = self.weighted / seen[:, None] if nearest else self.means
        variance = torch.zeros_like(self.precision) + s if nearest else 1 / self.precision + s
        squares = torch.cdist(phi, means).square()
        logs = -0.5 * (squares / variance + dim * variance.log() + dim * math.log(2 * math.pi))
        if nearest:
            return logs
        return logs + (self.concentration / self.concentration.sum()).log()


class PrototypeLearner:
    """Learns task after task; a plain object over an encoder, which `ProtoCL` wraps.

    Args:
        encoder: rows to embeddings (n, dim).
        n_classes: of all tasks together.
        prior: a `PrototypePrior`.
        settings: of training.
        random_state: seed.
        device: where to compute.
    """

    def __init__(
        self, encoder: nn.Module, n_classes: int, prior: PrototypePrior | None = None,
        settings: ProtoSettings | None = None, *, random_state: int = 0, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.prior, self.settings = prior or PrototypePrior(), settings or ProtoSettings()
        self.n_classes = check_int("PrototypeLearner", "n_classes", n_classes, low=1)
        self.device, self.random_state = torch.device(device), random_state
        self.encoder = copy.deepcopy(encoder).to(self.device)
        self.seen = np.zeros(self.n_classes, dtype=np.int64)
        self.n_tasks = 0
        self._memory_x: Tensor | None = None
        self._memory_y: Tensor | None = None
        self.head: tuple[Tensor, Tensor] | None = None  # weight and bias: as many numbers as prototypes have
        self._raw_noise = torch.tensor(math.log(self.settings.noise), device=self.device)
        self.accuracy_matrix_: list[list[float]] = []
        self.prototypes: Prototypes | None = None

    @property
    def noise(self) -> float:
        return float(self._raw_noise.detach().exp())

    def fit_task(
        self, X: Tensor | NDArray[np.float64], y: NDArray[np.int64], *, told: Callable[[int], None] | None = None
    ) -> PrototypeLearner:
        """Learn a task's rows; classes may be new or known.

        Args:
            X: rows, as the encoder takes them.
            y: codes 0..n_classes-1.
            told: called after every epoch.
        """
        x = torch.as_tensor(X, dtype=torch.float32, device=self.device)
        codes = torch.as_tensor(as_codes("PrototypeLearner.fit_task", y, len(x), self.n_classes), device=self.device)
        generator = torch_stream(self.random_state, "task", str(self.n_tasks))
        self.n_tasks += 1
        self.seen += np.bincount(codes.cpu().numpy(), minlength=self.n_classes)
        all_x, all_y, repeats = self._with_memory(x, codes)
        with seeded_init(seed_of(self.random_state, "dropout", str(self.n_tasks))):  # dropout takes no generator
            self._train(all_x, all_y, len(x), repeats, generator, told)
        self._remember(x, codes, generator)
        return self

    def log_joint(self, X: Tensor | NDArray[np.float64]) -> Tensor:
        """Unnormalised log probabilities of all classes, shape (n, n_classes); -inf for classes never seen."""
        x = torch.as_tensor(X, dtype=torch.float32, device=self.device)
        self.encoder.eval()
        with torch.no_grad():
            parts = [self._logits(self.encoder(rows)) for rows in torch.split(x, 4096)]
            logits = torch.cat(parts) if len(x) else torch.zeros(0, self.n_classes, device=self.device)
        unseen = torch.as_tensor(self.seen == 0, device=self.device)
        return logits.masked_fill(unseen, -math.inf)

    def predict_proba(self, X: Tensor | NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of every class, without knowing the task; 0 for classes never seen."""
        return np.asarray(self.log_joint(X).double().softmax(-1).cpu().numpy())

    def measure(self, tasks: Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]) -> list[float]:
        """Accuracy on each task's rows, appended to `accuracy_matrix_`."""
        row = [float((self.predict_proba(X).argmax(1) == y).mean()) for X, y in tasks]
        self.accuracy_matrix_.append(row)
        return row

    # Own machinery -----------------------------------------------------------------------------------------

    def _logits(self, phi: Tensor, noise: Tensor | None = None) -> Tensor:
        if self.prior.head == "softmax":
            assert self.head is not None
            return nn.functional.linear(phi, *self.head)
        assert self.prototypes is not None  # there is one after the first task
        return self.prototypes.log_joint(phi, noise)

    def _with_memory(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int]:
        """New rows, then remembered ones, and how often the latter are repeated to be about as many."""
        if self._memory_x is None or self._memory_y is None:
            return x, y, 0
        repeats = max(1, round(len(x) / len(self._memory_x)))
        return torch.cat([x, self._memory_x]), torch.cat([y, self._memory_y]), repeats

    def _remember(self, x: Tensor, y: Tensor, generator: Generator) -> None:
        if not self.settings.memory:
            return
        order = torch.randperm(len(x), generator=generator).to(self.device)[: self.settings.memory]
        parts = [(x[order], y[order])]
        if self._memory_x is not None and self._memory_y is not None:
            parts.insert(0, (self._memory_x, self._memory_y))
        self._memory_x, self._memory_y = (torch.cat([part[i] for part in parts]) for i in range(2))

    def recompute(self, x: Tensor, y: Tensor) -> int:
        """Prototypes from the prior and the rows at hand, once; old classes without rows keep what they had.

        Returns:
            How many numbers an embedding has.
        """
        self.encoder.eval()
        with torch.no_grad():
            phi = torch.cat([self.encoder(rows) for rows in torch.split(x, 4096)])
        fresh = Prototypes(self.prior, self.n_classes, phi.shape[1], self.noise).to(self.device)
        fresh.update(phi, y)
        absent = torch.as_tensor(self.seen > 0, device=self.device) & (torch.bincount(y, minlength=self.n_classes) == 0)
        if self.prototypes is not None and bool(absent.any()):
            for name in ("weighted", "precision"):
                getattr(fresh, name)[absent] = getattr(self.prototypes, name)[absent]
        seen = torch.as_tensor(self.seen, device=self.device)
        fresh.concentration = self.prior.concentration + seen.to(fresh.concentration)
        self.prototypes = fresh
        return int(phi.shape[1])

    def _train(
        self, x: Tensor, y: Tensor, n_new: int, repeats: int, generator: Generator, told: Callable[[int], None] | None
    ) -> None:
        settings, device = self.settings, self.device
        new, old = torch.arange(n_new), torch.arange(n_new, len(x)).repeat(repeats)
        rows = torch.cat([new, old])
        dim = self.recompute(x, y)
        if self.prior.head == "softmax":
            with seeded_init(self.random_state):
                fresh = nn.Linear(dim, self.n_classes).to(device)
            weight, bias = (fresh.weight, fresh.bias) if self.head is None else self.head
            self.head = (weight.detach().clone().requires_grad_(True), bias.detach().clone().requires_grad_(True))
        parameters = [*self.encoder.parameters(), *(self.head or ())]
        if settings.learn_noise:
            self._raw_noise = self._raw_noise.detach().clone().requires_grad_(True)
            parameters.append(self._raw_noise)
        optimiser = torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        for epoch in range(settings.n_epochs):
            if epoch and self.prior.head != "softmax":
                self.recompute(x, y)
            self.encoder.train()
            order = rows[torch.randperm(len(rows), generator=generator)].to(device)
            for batch in torch.split(order, settings.batch_size):
                noise = self._raw_noise.exp() if settings.learn_noise else None
                loss = nn.functional.cross_entropy(self._logits(self.encoder(x[batch]), noise), y[batch])
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            if told is not None:
                told(epoch + 1)
        self._raw_noise = self._raw_noise.detach()
        if self.head is not None:
            self.head = (self.head[0].detach(), self.head[1].detach())
        self.recompute(x, y)
        self.encoder.eval()


def make_encoder(n_in: int, hidden: Sequence[int], dropout: float = 0.0, *, seed: int = 0) -> nn.Sequential:
    """A ReLU perceptron whose last width is the embedding."""
    parts: list[nn.Module] = [nn.Flatten()]
    with seeded_init(seed):
        for number, width in enumerate(hidden):
            parts.append(nn.Linear(n_in, width))
            if number < len(hidden) - 1:
                parts += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
            n_in = width
    return nn.Sequential(*parts)
