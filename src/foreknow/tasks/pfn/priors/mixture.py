"""A prior that does not know which of several priors is the right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_real
from foreknow.core.prior import Prior, Simulator
from foreknow.core.registry import register
from foreknow.tasks.pfn.card import CARD
from foreknow.tasks.pfn.priors.bnn import BNNPrior
from foreknow.tasks.pfn.priors.hyper import uniform


@register(CARD)
@dataclass(frozen=True)
class MixturePrior(Simulator):
    """Each task is drawn from one of several simulators, independently of the other tasks.

    Tasks of one member are drawn together and put back in random places. `info["member"]`, shape (b,),
    says which it was; `n_classes`, `n_features` and `is_categorical` are passed on where members give them.
    Members whose tables do not hold the same columns, kind of target and number of classes are refused.

    Args:
        members: the simulators.
        weights: their shares, positive; they are normalised.
    """

    members: tuple[Simulator, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.members) < 1 or len(self.members) != len(self.weights):
            raise ConfigError(
                f"MixturePrior: needs as many weights as members and at least one, "
                f"got {len(self.members)} member(s) and {len(self.weights)} weight(s)."
            )
        for weight in self.weights:
            check_real("MixturePrior", "weights", weight, low=0, open_low=True)
        kinds = {(m.n_features, m.target, getattr(m, "n_classes", 0)) for m in self.members}
        if len(kinds) > 1:
            raise ConfigError(
                "MixturePrior: all members must agree in (n_features, target, n_classes), "
                f"got {', '.join(map(str, sorted(kinds)))}."
            )

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls((BNNPrior(), BNNPrior(activation="linear")), (0.75, 0.25)), cls((BNNPrior(),), (1.0,))]

    @property
    def n_features(self) -> int:  # type: ignore[override]
        return self.members[0].n_features

    @property
    def n_classes(self) -> int:
        """Largest number of classes of the members, 0 for regression."""
        return int(getattr(self.members[0], "n_classes", 0))

    @property
    def target(self) -> str:  # type: ignore[override]
        return self.members[0].target

    @property
    def view(self) -> str:
        """What a picture of the draws should show: as for the first member."""
        return str(getattr(self.members[0], "view", "table"))

    @property
    def missing_values(self) -> bool:
        """Whether a member's tables may have missing cells."""
        return any(getattr(member, "missing_values", False) for member in self.members)

    def describe(self) -> str:
        """One line for people."""
        total = sum(self.weights)
        parts = (f"{w / total:.0%} {type(m).__name__}" for m, w in zip(self.members, self.weights, strict=True))
        return f"mixture of {', '.join(parts)}"

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        edges = torch.tensor(self.weights, dtype=torch.float64, device=device).cumsum(0)
        u = uniform((n_tasks,), generator, device, torch.float64) * edges[-1]
        member = torch.searchsorted(edges, u, right=True).clamp_max(len(self.members) - 1)
        tables = []
        for index, simulator in enumerate(self.members):
            count = int((member == index).sum())
            if count:
                tables.append(simulator._draw(count, n_rows, generator=generator, device=device, dtype=dtype))
        place = member.argsort(stable=True).argsort()  # task -> its row among the tables in member order
        info = {
            key: torch.cat([info[key] for _, _, info in tables])[place]
            for key in ("n_classes", "n_features", "is_categorical")
            if all(key in info for _, _, info in tables)
        }
        x = torch.cat([x for x, _, _ in tables])[place]
        y = torch.cat([y for _, y, _ in tables])[place]
        return x, y, {**info, "member": member}
