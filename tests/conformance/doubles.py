"""Small systems and priors that keep every contract; the broken ones are mutations of these."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.card import Card
from foreknow.core.predictive import Categorical, Gaussian, Predictive
from foreknow.core.prior import Draw, Prior, Simulator
from foreknow.core.records import record
from foreknow.core.system import Example, State, System, Tags

CARD = Card(
    slug="conformance-double",
    title="A double for the shared checks",
    authors=("Nobody, Ann",),
    year=2024,
    venue="tests",
    room="audit",
    prior="The weights are small numbers around zero.",
    control="The precision of the weights goes to almost nothing.",
    inputs="A table of numbers.",
    outputs="Numbers or classes.",
    cost="seconds",
    tier="study",
    bibtex="@misc{nobody2024, title = {A double}, year = {2024}}",
    limits=("Of no use outside the tests.",),
)


# Priors ----------------------------------------------------------------------------------------------------------


def as_draw(
    n: object, event: tuple[int, ...], generator: Generator, device: object, dtype: torch.dtype | None
) -> Tensor:
    count = check_int("Double", "n", n, low=1)
    return torch.randn(count, *event, generator=generator, device=device or generator.device, dtype=dtype)


def check_step(step: float | Tensor) -> None:
    if not bool((torch.as_tensor(step) > 0).all()):
        raise ConfigError(f"prox: step must be positive, got {step!r}.")


@record
@dataclass(frozen=True)
class NormalDouble(Prior):
    """Independent normal numbers: samples, density, penalty and proximal map."""

    card: ClassVar[Card] = CARD
    sd: float = 1.0
    size: int = 1

    def sample(self, n, *, generator, device=None, dtype=None) -> Draw:
        return Draw(self.sd * as_draw(n, (self.size,), generator, device, dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.penalty(value) - self.size * math.log(self.sd * math.sqrt(2 * math.pi))

    def penalty(self, value: Tensor) -> Tensor:
        return 0.5 * ((value / self.sd) ** 2).sum(-1)

    def grad(self, value: Tensor) -> Tensor:
        return value / self.sd**2

    def prox(self, value: Tensor, step: float | Tensor) -> Tensor:
        check_step(step)
        return value / (1 + step / self.sd**2)

    def off(self) -> Prior:
        return type(self)(1e3, self.size)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(0.5, 1), cls(2.0, 3)]


@record
@dataclass(frozen=True)
class SparseDouble(Prior):
    """The sum of absolute values: penalty and soft threshold."""

    card: ClassVar[Card] = CARD
    weight: float = 1.0

    def penalty(self, value: Tensor) -> Tensor:
        return self.weight * value.abs().sum(-1)

    def grad(self, value: Tensor) -> Tensor:
        return self.weight * value.sign()

    def prox(self, value: Tensor, step: float | Tensor) -> Tensor:
        check_step(step)
        return value.sign() * (value.abs() - self.weight * step).clamp_min(0)

    def off(self) -> Prior:
        return type(self)(0.0)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(0.5), cls(1.5)]


class MaskedLinear(nn.Module):
    """A linear layer whose weights are multiplied by a mask in every pass; the bias is one shared number."""

    def __init__(self, linear: nn.Linear, mask: Tensor, tie: bool) -> None:
        super().__init__()
        self.register_buffer("mask", mask.to(linear.weight))
        self.weight = nn.Parameter(linear.weight.detach() * self.mask)
        self.bias = nn.Parameter(linear.bias.detach()[:1].clone() if tie else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight * self.mask, self.bias.expand(len(self.mask)))


@record
@dataclass(frozen=True)
class BandDouble(Prior):
    """Only weights near the diagonal exist: wired into a linear layer."""

    card: ClassVar[Card] = CARD
    width: int = 0

    def wire(self, module: nn.Module) -> nn.Module:
        n = module.weight.shape[0]
        rows = torch.arange(n)
        return MaskedLinear(module, (rows[:, None] - rows).abs() <= self.width, tie=self.width < n)

    def off(self) -> Prior:
        return type(self)(10**6)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(0), cls(1)]


@record
@dataclass(frozen=True)
class ChoiceDouble(Prior):
    """A set of allowed depths."""

    card: ClassVar[Card] = CARD
    depths: tuple[int, ...] = (1, 2)

    def space(self) -> object:
        return {"depth": self.depths}

    def off(self) -> Prior:
        return type(self)(tuple(range(10)))

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls((3,))]


@record
@dataclass(frozen=True)
class LinearDouble(Simulator):
    """Tables whose target is a noisy linear function of their columns."""

    card: ClassVar[Card] = CARD
    n_features: int = 2
    noise: float = 0.1

    def _draw(self, n_tasks, n_rows, *, generator, device, dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
        options = {"generator": generator, "device": device, "dtype": dtype}
        x = torch.randn(n_tasks, n_rows, self.n_features, **options)
        slope = torch.randn(n_tasks, self.n_features, 1, **options)
        y = (x @ slope)[..., 0] + self.noise * torch.randn(n_tasks, n_rows, **options)
        return x, y, {"slope": slope[..., 0]}

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(1, 0.5)]


@record
@dataclass(frozen=True)
class SignDouble(LinearDouble):
    """The same with the sign of the target as the class."""

    target: ClassVar[str] = "classification"
    n_classes: int = 2

    def _draw(self, n_tasks, n_rows, *, generator, device, dtype) -> tuple[Tensor, Tensor, dict[str, Any]]:
        x, y, info = super()._draw(n_tasks, n_rows, generator=generator, device=device, dtype=dtype)
        return x, (y > 0).to(dtype), info

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(1, 0.5)]


GOOD_PRIORS = (NormalDouble, SparseDouble, BandDouble, ChoiceDouble, LinearDouble, SignDouble)


# Systems ---------------------------------------------------------------------------------------------------------


class RidgeDouble(System):
    """Linear regression, or regression on classes, with a normal prior on the weights: no seed matters."""

    card: ClassVar[Card] = CARD
    tags = Tags(transforms=True, column_order_invariant=True, uses_seed=False)

    def __init__(self, task="regression", noise=0.5, prior="paper", random_state=None, device="auto") -> None:
        self.task = task
        self.noise = noise
        self.prior = prior
        self.random_state = random_state
        self.device = device

    def _check_settings(self) -> None:
        check_option("RidgeDouble", "task", self.task, ("regression", "classification"))
        check_real("RidgeDouble", "noise", self.noise, low=0, open_low=True)

    def _task(self) -> str:
        return "classification" if self.task == "classification" else "regression"

    def _paper_prior(self) -> Prior:
        return NormalDouble()

    def _wrong_prior(self) -> Prior:
        return NormalDouble(sd=0.05)

    def _features(self, X: np.ndarray) -> Tensor:
        rows = torch.from_numpy((np.array(X, dtype=np.float64) - self.center_) / self.scale_)
        return torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)

    def _fit(self, X, y) -> None:
        self.center_, self.scale_ = X.mean(0), np.where(np.ptp(X, axis=0) > 0, np.ptp(X, axis=0), 1.0)
        with np.errstate(over="ignore"):
            self.y_scale_ = 1.0 if self.task == "classification" else float(np.abs(y).max()) or 1.0
        columns = np.eye(int(y.max()) + 1)[y] if self.task == "classification" else (y / self.y_scale_)[:, None]
        A = self._features(X)
        gram = A.T @ A + (self.noise / self.prior_.sd) ** 2 * torch.eye(A.shape[1], dtype=torch.float64)
        self.coef_ = torch.linalg.solve(gram, A.T @ torch.from_numpy(columns))

    def _predict_dist(self, X) -> Predictive:
        found = self._features(X) @ self.coef_
        if self.task == "classification":
            return Categorical(4 * found)
        mean = found[:, 0] * self.y_scale_
        return Gaussian(mean, torch.full_like(mean, self.noise * self.y_scale_))

    def _transform(self, X) -> np.ndarray:
        return (self._features(X) @ self.coef_).numpy()

    def _state(self) -> State:
        shift = torch.from_numpy(np.stack([self.center_, self.scale_]))
        return State({"coef": self.coef_, "shift": shift}, {"y_scale": self.y_scale_}, contains_rows=False)

    def _restore(self, state: State) -> None:
        self.coef_ = state.tensors["coef"].to(self.device_)
        self.center_, self.scale_ = (row.copy() for row in state.tensors["shift"].numpy())
        self.y_scale_ = float(state.meta["y_scale"])

    @classmethod
    def examples(cls) -> list[Example]:
        rng = np.random.default_rng(0)
        X, X_new = rng.standard_normal((24, 3)), rng.standard_normal((9, 3))
        y = X @ np.array([1.0, -2.0, 0.5])
        return [
            Example("numbers", {}, X, y, X_new),
            Example("three classes", {"task": "classification"}, X, np.digitize(y, [-1.0, 1.0]) + 5, X_new),
            Example("two classes", {"task": "classification"}, X, (y > 0).astype(int)),
        ]


class FeaturesDouble(RidgeDouble):
    """Ridge on random features with gradient steps: the seed matters, missing cells are allowed."""

    tags = Tags(missing_values=True, uses_seed=True)

    def __init__(
        self, task="regression", noise=0.5, n_steps=5, prior="paper", random_state=None, device="auto"
    ) -> None:
        super().__init__(task, noise, prior, random_state, device)
        self.n_steps = n_steps

    def _check_settings(self) -> None:
        super()._check_settings()
        check_int("FeaturesDouble", "n_steps", self.n_steps, low=1)

    def _features(self, X: np.ndarray) -> Tensor:
        with torch.no_grad():
            rows = super()._features(np.where(np.isnan(X), self.center_, X))
            return torch.cat([rows[:, :-1], self.network_(rows[:, :-1])], dim=1)

    def _fit(self, X, y) -> None:
        self.network_ = nn.utils.skip_init(nn.Linear, X.shape[1], 4).double()
        stream = self._stream("features")
        with torch.no_grad():
            for parameter in self.network_.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=stream, dtype=torch.float64))
        self.n_steps_ = self.n_steps
        seen = np.isfinite(X)
        filled = np.where(seen, X, np.where(seen, X, 0.0).sum(0) / np.maximum(seen.sum(0), 1))
        super()._fit(filled, y)

    def _state(self) -> State:
        state = super()._state()
        return State({**state.tensors, **self.network_.state_dict()}, state.meta, contains_rows=False)

    def _restore(self, state: State) -> None:
        super()._restore(state)
        weight = state.tensors["weight"]
        self.network_ = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0]).double()
        self.network_.load_state_dict({"weight": weight, "bias": state.tensors["bias"]})


GOOD_SYSTEMS = (RidgeDouble, FeaturesDouble)
