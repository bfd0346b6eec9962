"""A prior as an object: what it can do is a set of small protocols, and it can be switched off.

Concrete priors are frozen dataclasses, so that their settings print, compare and save themselves
(`foreknow.core.records`).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn

from foreknow.common.errors import CapabilityError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_int, check_option
from foreknow.core.batch import Batch
from foreknow.core.card import Card
from foreknow.core.pictures import Picture
from foreknow.core.records import record


@dataclass(frozen=True)
class Draw:
    """Draws from a prior: `value` with leading axis n, and what else is known of them."""

    value: Tensor
    info: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Samples(Protocol):
    """A prior that can be drawn from."""

    def sample(
        self,
        n: int,
        *,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw | Batch: ...


@runtime_checkable
class HasDensity(Protocol):
    """A prior with a normalised density."""

    def log_prob(self, value: Tensor) -> Tensor: ...


@runtime_checkable
class HasPenalty(Protocol):
    """A prior known by its negative log density up to a constant."""

    def penalty(self, value: Tensor) -> Tensor: ...

    def grad(self, value: Tensor) -> Tensor: ...


@runtime_checkable
class HasProx(Protocol):
    """A prior known by its proximal map."""

    def prox(self, value: Tensor, step: float | Tensor) -> Tensor: ...


@runtime_checkable
class Shapes(Protocol):
    """A prior that is wired into a module: masks, tied weights, initialisation."""

    def wire(self, module: nn.Module) -> nn.Module: ...


@runtime_checkable
class Restricts(Protocol):
    """A prior over networks or settings."""

    def space(self) -> object: ...


@runtime_checkable
class Pictured(Protocol):
    """A prior that shows by itself what it believes; `foreknow sample` draws it."""

    def picture(self, n: int, *, generator: Generator) -> Picture: ...


CAPABILITIES: dict[str, type] = {
    "samples": Samples,
    "density": HasDensity,
    "penalty": HasPenalty,
    "prox": HasProx,
    "shapes": Shapes,
    "restricts": Restricts,
}


class Prior(ABC):
    """What is known before the data."""

    card: ClassVar[Card]
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Shared check -> why it must fail; strict (`foreknow.core.checks`)."""

    @abstractmethod
    def off(self) -> Prior:
        """The control arm: a working object that keeps width, data and budget and removes only the prior."""

    def capabilities(self) -> frozenset[str]:
        """Names of what this prior can do, keys of `CAPABILITIES`."""
        return frozenset(name for name, kind in CAPABILITIES.items() if isinstance(self, kind))

    def require(self, capability: str) -> None:
        """Raise a CapabilityError unless this prior has `capability`."""
        if capability not in self.capabilities():
            raise CapabilityError(
                f"{type(self).__name__} cannot do {capability!r}; "
                f"it can do: {', '.join(sorted(self.capabilities())) or 'nothing'}."
            )

    @classmethod
    def examples(cls) -> list[Prior]:
        """Two to four tiny instances for the shared tests."""
        raise CapabilityError(
            f"{cls.__name__} names no examples().",
            hint="Return two to four tiny instances; see CONTRIBUTING.md.",
        )


TARGETS = ("regression", "classification")


class Simulator(Prior):
    """A prior over whole tasks: each draw is a table of rows with targets.

    Rows of a task are exchangeable, so any split into context and query is a fair one. A subclass is a
    frozen dataclass with the fields `n_features`, for classification `n_classes`, and where cells may be
    missing `p_missing`; it writes `_draw`.
    """

    n_features: int
    target: ClassVar[str] = "regression"

    @abstractmethod
    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """`(x, y, info)` with shapes (n_tasks, n_rows, n_features) and (n_tasks, n_rows)."""

    @property
    def missing_values(self) -> bool:
        """Whether inputs may hold NaN."""
        return float(getattr(self, "p_missing", 0.0)) > 0

    def sample(
        self,
        n: int,
        *,
        n_context: int = 32,
        n_query: int = 32,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Batch:
        """Draw `n` tasks.

        Args:
            n: number of tasks, at least 1.
            n_context: rows whose targets are seen, may be 0.
            n_query: rows to predict, at least 1.
            generator: source of all randomness; its device is used unless `device` says otherwise.
            device: where the tensors live.
            dtype: floating type, float32 by default.

        Returns:
            Batch whose targets of classification are codes 0..n_classes-1 stored as floats.
        """
        owner = type(self).__name__
        check_int(owner, "n", n, low=1)
        check_int(owner, "n_context", n_context, low=0)
        check_int(owner, "n_query", n_query, low=1)
        place = torch.device(device) if device is not None else generator.device
        x, y, info = self._draw(n, n_context + n_query, generator=generator, device=place, dtype=dtype or torch.float32)
        return Batch(x[:, :n_context], y[:, :n_context], x[:, n_context:], y[:, n_context:], info)

    def stream(
        self,
        batch_size: int,
        *,
        seed: int,
        n_context: int,
        n_query: int,
        start: int = 0,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """Endless batches from number `start`; batch k depends on `seed` and k only, so any stream can be resumed."""
        check_int(type(self).__name__, "start", start, low=0)
        for step in itertools.count(start):
            generator = torch_stream(seed, "stream", str(step), device=device)
            yield self.sample(batch_size, n_context=n_context, n_query=n_query, generator=generator)

    def off(self) -> Prior:
        """The same tables with targets shuffled over their rows: the marginals stay, what x says of y goes."""
        return Unrelated(self)


@dataclass(frozen=True)
class _Derived(Simulator):
    """A simulator made of another one, `base`: the same rows, columns and kind of target."""

    base: Simulator

    def __post_init__(self) -> None:
        check_option(type(self).__name__, "base.target", self.base.target, TARGETS)

    @property
    def card(self) -> Card:  # type: ignore[override]
        return self.base.card

    @property
    def n_features(self) -> int:  # type: ignore[override]
        return self.base.n_features

    @property
    def target(self) -> str:  # type: ignore[override]
        return self.base.target

    @property
    def n_classes(self) -> int:
        """Largest number of classes of the base simulator."""
        return int(getattr(self.base, "n_classes", 0))

    @property
    def missing_values(self) -> bool:
        """Whether the base's tables may have missing cells."""
        return bool(getattr(self.base, "missing_values", False))


@record
@dataclass(frozen=True)
class Unrelated(_Derived):
    """The control arm of any simulator: its draws, with the targets of each task shuffled over the rows."""

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        x, y, info = self.base._draw(n_tasks, n_rows, generator=generator, device=device, dtype=dtype)
        order = torch.rand(n_tasks, n_rows, generator=generator, device=generator.device).argsort(dim=1)
        return x, y.gather(1, order.to(y.device)), info

    def off(self) -> Prior:
        return self


@record
@dataclass(frozen=True)
class Misapplied(_Derived):
    """A placebo: the base's own draws, but what a network learnt from them is applied to other parts than it was of.

    The system says which parts change places. Size, training and cost of the network stay exactly the same.
    """

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        return self.base._draw(n_tasks, n_rows, generator=generator, device=device, dtype=dtype)

    def off(self) -> Prior:
        return self.base.off()
