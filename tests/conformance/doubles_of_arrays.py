"""Doubles that learn from arrays with a caller's network, saved as a folder, or from a world to act in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from doubles import CARD, NormalDouble
from torch import nn

from foreknow.common.errors import CheckpointError, InputError
from foreknow.common.validate import as_array
from foreknow.core.card import Card
from foreknow.core.prior import Prior
from foreknow.core.system import Example, State, System, Tags


class FieldDouble(System):
    """Fields of the caller's network, scaled by ridge regression: a target of arrays, a folder with a text in it."""

    card: ClassVar[Card] = CARD
    tags = Tags(uses_seed=False)
    fit_inputs = ("network",)
    saves_as = "folder"

    def __init__(self, prior="paper", random_state=None, device="auto") -> None:
        self.prior = prior
        self.random_state = random_state
        self.device = device

    def _task(self) -> str:
        return "array"

    def _read_X(self, X, *, fitting) -> Any:
        return as_array("FieldDouble", X, axes=(4,)).astype(np.float64)

    def _paper_prior(self) -> Prior:
        return NormalDouble()

    def _wrong_prior(self) -> Prior:
        return NormalDouble(sd=0.05)

    def _seen(self, X) -> np.ndarray:
        with torch.no_grad():
            return self.network_(torch.from_numpy(np.ascontiguousarray(X))).numpy()

    def _fit(self, X, y, network=None) -> None:
        self.network_ = nn.utils.skip_init(nn.Conv2d, 1, 1, 1).double()
        weights = {"weight": torch.ones(1, 1, 1, 1), "bias": torch.zeros(1)}
        self.network_.load_state_dict(weights if network is None else network.state_dict())
        seen = self._seen(X)
        with np.errstate(over="ignore"):
            largest = float(np.abs(seen).max())
            unit = largest if 0 < largest < np.inf else 1.0
            found = (seen / unit * y).sum() / ((seen / unit) ** 2).sum().clip(1e-12) / (1 + 0.01 / self.prior_.sd)
        self.scale_ = float(found) / unit
        self._tell(1, 1)

    def _predict(self, X) -> np.ndarray:
        return self.scale_ * self._seen(X)

    def _state(self) -> State:
        return State(dict(self.network_.state_dict()), {"scale": self.scale_}, contains_rows=False)

    def _restore(self, state: State) -> None:
        self.network_ = nn.utils.skip_init(nn.Conv2d, 1, 1, 1).double().to(self.device_)
        self.network_.load_state_dict(state.tensors)
        self.scale_ = float(state.meta["scale"])

    def _save_folder(self, folder: Path) -> None:
        (folder / "note.txt").write_text("beside", encoding="utf-8")

    def _load_folder(self, folder: Path) -> None:
        if (folder / "note.txt").read_text(encoding="utf-8") != "beside":
            raise CheckpointError("the note is not what was written.")

    @classmethod
    def examples(cls) -> list[Example]:
        rng = np.random.default_rng(0)
        X, X_new = rng.standard_normal((6, 1, 4, 4)), rng.standard_normal((4, 1, 4, 4))
        network = nn.utils.skip_init(nn.Conv2d, 1, 1, 1).double()
        with torch.no_grad():
            network.weight.fill_(0.5)
            network.bias.fill_(0.0)
        return [Example("fields", {}, X, 2 * X, X_new), Example("given", {}, X, 2 * X, X_new, {"network": network})]


class Slope:
    """A world: the reward is largest for the action minus the observation."""

    def __init__(self, n: int = 2) -> None:
        self.n = n


class WorldDouble(System):
    """A linear policy of a `Slope`."""

    card: ClassVar[Card] = CARD
    tags = Tags(uses_seed=False, learns_from="world")

    def __init__(self, prior="paper", random_state=None, device="auto") -> None:
        self.prior = prior
        self.random_state = random_state
        self.device = device

    def _task(self) -> str:
        return "array"

    def _read_X(self, X, *, fitting) -> Any:
        if not fitting:
            return as_array("WorldDouble", X, axes=(2,))
        if not isinstance(X, Slope):
            raise InputError(f"WorldDouble: a Slope is needed, got a {type(X).__name__}.")
        return X

    def _row_shape(self, rows) -> tuple[int, ...]:
        return (rows.n,) if isinstance(rows, Slope) else tuple(rows.shape[1:])

    def _paper_prior(self) -> Prior:
        return NormalDouble()

    def _fit(self, X, y) -> None:
        self.gain_ = -min(self.prior_.sd, 2.0)

    def _predict(self, X) -> np.ndarray:
        return self.gain_ * X

    def _state(self) -> State:
        return State({}, {"gain": self.gain_}, contains_rows=False)

    def _restore(self, state: State) -> None:
        self.gain_ = float(state.meta["gain"])

    @classmethod
    def examples(cls) -> list[Example]:
        rows = np.random.default_rng(0).standard_normal((5, 2))
        return [Example("two", {}, Slope(), X_new=rows), Example("three", {}, Slope(3), X_new=rows[:, [0, 1, 1]])]


GOOD = (FieldDouble, WorldDouble)
