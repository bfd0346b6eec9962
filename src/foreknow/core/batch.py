"""A batch of tasks: context rows with targets, query rows to predict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foreknow.common.errors import InputError


@dataclass(frozen=True)
class Batch:
    """A batch of tasks that share their shape.

    Args:
        context_x: inputs of the rows whose targets are seen, shape (b, n, d); n may be 0.
        context_y: targets of these rows, shape (b, n); class codes are whole numbers.
        query_x: inputs of the rows to predict, shape (b, m, d).
        query_y: their targets, shape (b, m), or None where they are not known.
        info: what else the simulator wants to say of the draw, tensors with leading axis b.

    Raises:
        InputError: if the shapes do not belong together.
    """

    context_x: Float[Tensor, "b n d"]
    context_y: Float[Tensor, "b n"]
    query_x: Float[Tensor, "b m d"]
    query_y: Float[Tensor, "b m"] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.context_x.ndim != 3 or self.query_x.ndim != 3:
            raise InputError(
                f"Batch: context_x and query_x must have three axes (task, row, column), "
                f"got {tuple(self.context_x.shape)} and {tuple(self.query_x.shape)}."
            )
        b, _, d = self.context_x.shape
        if self.query_x.shape[0] != b or self.query_x.shape[2] != d:
            raise InputError(
                f"Batch: context_x {tuple(self.context_x.shape)} and query_x {tuple(self.query_x.shape)} "
                "must agree in tasks and columns."
            )
        if self.context_y.shape != self.context_x.shape[:2]:
            raise InputError(
                f"Batch: context_y must have shape {tuple(self.context_x.shape[:2])}, "
                f"got {tuple(self.context_y.shape)}."
            )
        if self.query_y is not None and self.query_y.shape != self.query_x.shape[:2]:
            raise InputError(
                f"Batch: query_y must have shape {tuple(self.query_x.shape[:2])}, got {tuple(self.query_y.shape)}."
            )

    @property
    def n_tasks(self) -> int:
        return self.context_x.shape[0]

    @property
    def n_context(self) -> int:
        return self.context_x.shape[1]

    @property
    def n_query(self) -> int:
        return self.query_x.shape[1]

    @property
    def n_features(self) -> int:
        return self.context_x.shape[2]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """The same batch on another device or in another precision (`info` moves device only)."""
        info = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in self.info.items()}
        return replace(
            self,
            context_x=self.context_x.to(device=device, dtype=dtype),
            context_y=self.context_y.to(device=device, dtype=dtype),
            query_x=self.query_x.to(device=device, dtype=dtype),
            query_y=None if self.query_y is None else self.query_y.to(device=device, dtype=dtype),
            info=info,
        )
