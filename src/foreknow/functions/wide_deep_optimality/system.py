"""Classifiers: the deep tangent kernel of a designed activation at finite depth, and its limit."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.system import Example, State, System, Tags
from foreknow.data.standardizer import Standardizer
from foreknow.functions.wide_deep_optimality.card import CARD
from foreknow.functions.wide_deep_optimality.prior import (
    ActivationPrior,
    DesignedActivation,
    NamedActivation,
    SingularActivation,
    hilbert_scores,
)
from foreknow.nn.infinite import DeepKernelTable, deep_kernels
from foreknow.nn.linalg import jittered_cholesky

SPHERES = ("append-normalise", "normalise", "given")
RULES = ("auto", "regression", "votes")
MAX_SOLVED = 5000
EXACT_DEPTH = 64
"""Up to which regressions have the kernel itself: so shallow, Gram matrices are too close to singular for a table."""
_CELLS = 4_000_000
_JITTER = 1e-10


class _SphereClassifier(System):
    """Votes of training rows on a sphere; a subclass says which activation and depth."""

    tags = Tags(uses_seed=False)
    prior: Prior | str
    sphere: str
    dim: int | str

    @abstractmethod
    def _depth(self) -> int | None:
        """Layers, or None for the limit."""

    def _rule(self) -> str:
        return "votes"

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = type(self).__name__
        check_option(owner, "sphere", self.sphere, SPHERES)
        if self.dim != "auto":
            check_int(owner, "dim", self.dim, low=1)

    def _task(self) -> str:
        return "classification"

    def _paper_prior(self) -> Prior:
        return SingularActivation()

    def _wrong_prior(self) -> Prior:
        return SingularActivation(factor=0.25)

    def _fit(self, X: NDArray[np.float64], y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        if not isinstance(self.prior_, ActivationPrior):
            raise ConfigError(
                f"{type(self).__name__}: the prior must be an activation, got {type(self.prior_).__name__}.",
                hint="Use SingularActivation(), HermiteActivation(...) or NamedActivation('relu').",
            )
        self.scaling_ = Standardizer.fit(X, clip=1e3) if self.sphere == "append-normalise" else None
        points = self._to_sphere(X)
        self.dim_ = self._dimension(X.shape[1])
        # Rows that are alike become one with the sum of their votes, in an order that does not depend on the table's.
        unique, place = np.unique(points, axis=0, return_inverse=True)
        votes = np.zeros((len(unique), len(self.classes_)))
        np.add.at(votes, (place.reshape(-1), y), 1.0)
        self.points_ = torch.from_numpy(unique).to(self.device_)
        self.votes_ = torch.from_numpy(votes).to(self.device_)
        self._prepare()
        self.weights_ = self._solve() if self._rule() == "regression" else self.votes_

    def _prepare(self) -> None:
        assert isinstance(self.prior_, ActivationPrior)
        self.activation_: DesignedActivation = self.prior_.at(self.dim_)
        self.regime_ = self.activation_.regime()
        depth = self._depth()
        self.table_ = None if depth is None else DeepKernelTable(self.activation_.dual, depth)

    def _solve(self) -> Tensor:
        """K^-1 Y with the kernel over its diagonal and the shares of the classes as Y, shape (n, n_classes)."""
        if len(self.points_) > MAX_SOLVED:
            raise InputError(
                f"{type(self).__name__}: the regression is cubic in the rows; {len(self.points_)} came, at most "
                f"{MAX_SOLVED} are accepted.",
                hint="Use rule='votes', which deep singular kernels agree with.",
            )
        assert self.table_ is not None
        rows = []
        for part in torch.split(self.points_, self._block()):
            log_k, sign = self._kernel(_distances(part, self.points_))
            rows.append(sign * (log_k - self.table_.log_k_diagonal).exp())
        gram = torch.cat(rows)
        gram.diagonal().add_(_JITTER)
        factor = jittered_cholesky(gram)
        if not bool(factor.isfinite().all()):
            raise ConvergenceError(
                f"{type(self).__name__}: the tangent kernel of {len(gram)} rows at depth {self._depth()} is too "
                "close to singular to be solved.",
                hint="Use rule='votes', fewer rows or a deeper network.",
                statistics={"rows": float(len(gram))},
            )
        shares = self.votes_ / self.votes_.sum(1, keepdim=True)
        return torch.cholesky_solve(shares, factor)

    def _kernel(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Log |K| and sign of K of pairs of rows so far apart."""
        depth, delta = self._depth(), 0.5 * distance.square()
        assert depth is not None and self.table_ is not None  # the limit has a formula of its own
        if depth > EXACT_DEPTH or self._rule() == "votes":
            return self.table_(delta)
        found = deep_kernels(self.activation_.dual, delta, depth)
        return found.log_ntk, found.sign_ntk

    def _block(self) -> int:
        """How many rows meet all training rows at once."""
        return max(1, _CELLS // len(self.points_))

    def _predict_dist(self, X: NDArray[np.float64]) -> Predictive:
        x = torch.from_numpy(self._to_sphere(X)).to(self.device_)
        return Categorical(torch.cat([self._scores(rows) for rows in torch.split(x, self._block())]))

    def _scores(self, x: Tensor) -> Tensor:
        """Log shares of the classes, shape (m, n_classes), up to one number a row."""
        distance = _distances(x, self.points_)
        if self.table_ is None:
            if self.activation_.even:
                distance = torch.minimum(distance, _distances(-x, self.points_))
            return hilbert_scores(distance, self.votes_, self.activation_.alpha)
        log_k, sign = self._kernel(distance)
        top = log_k.amax(1, keepdim=True)
        score = (sign * (log_k - top).exp()) @ self.weights_
        size = score.abs().amax(1, keepdim=True).clamp_min(1e-300)
        # Negative votes count as none; where all are negative the least negative is the likeliest.
        score = torch.where(score.amax(1, keepdim=True) > 0, score, score + 2 * size)
        return (score / size).clamp_min(1e-9).log()

    def _to_sphere(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        owner = type(self).__name__
        if self.scaling_ is not None:
            z = self.scaling_.transform(X) / math.sqrt(X.shape[1])
            z = np.concatenate([z, np.ones((len(X), 1))], axis=1)
            return np.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))
        size = np.abs(X).max(axis=1, keepdims=True)
        if (size == 0).any():
            row = int(np.flatnonzero(size[:, 0] == 0)[0])
            raise InputError(
                f"{owner}: row {row} is 0 and has no place on the sphere.", hint="Use sphere='append-normalise'."
            )
        scaled = X / size  # squares of the values themselves could overflow
        norm = np.linalg.norm(scaled, axis=1, keepdims=True)
        if self.sphere == "given" and (np.abs(norm * size - 1) > 1e-6).any():
            row = int(np.flatnonzero(np.abs(norm * size - 1)[:, 0] > 1e-6)[0])
            raise InputError(
                f"{owner}: sphere='given' wants rows of norm 1, row {row} has {float((norm * size)[row, 0]):.6g}.",
                hint="Use sphere='normalise' or 'append-normalise'.",
            )
        if X.shape[1] < 2:
            raise InputError(f"{owner}: one column is no sphere.", hint="Use sphere='append-normalise'.")
        return np.asarray(scaled / norm)

    def _dimension(self, n_columns: int) -> int:
        if isinstance(self.dim, str):
            return n_columns if self.sphere == "append-normalise" else n_columns - 1
        return int(self.dim)

    def _state(self) -> State:
        tensors = {"points": self.points_, "votes": self.votes_, "weights": self.weights_}
        if self.scaling_ is not None:
            tensors["center"] = torch.from_numpy(self.scaling_.center)
            tensors["scale"] = torch.from_numpy(self.scaling_.scale)
        return State(tensors, {"dim": self.dim_}, contains_rows=True)

    def _restore(self, state: State) -> None:
        self.dim_ = int(state.meta["dim"])
        self.points_, self.votes_, self.weights_ = (
            state.tensors[name].to(self.device_) for name in ("points", "votes", "weights")
        )
        self.scaling_ = None
        if "center" in state.tensors:
            center, scale = (state.tensors[name].cpu().numpy() for name in ("center", "scale"))
            self.scaling_ = Standardizer(center, scale, clip=1e3)
        self._prepare()

    def pictures(self) -> Mapping[str, Picture]:
        """The kernel over the distance, at a few depths and in the limit, and the activation."""
        return {"kernel": kernel_picture(self.activation_), "activation": activation_picture(self.activation_)}

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Tables of few columns, where the exponent is not yet the nearest neighbour's."""
        from sklearn import datasets

        X, y = datasets.load_iris(return_X_y=True)
        return {"iris": (X, y), "wine": datasets.load_wine(return_X_y=True)}


@register(CARD)
class DeepNTKClassifier(_SphereClassifier):
    """The infinitely wide network with a designed activation, as a classifier, at any depth or in the limit.

    Args:
        prior: the activation: "paper" (alpha = dimension), "off" (ReLU), "wrong" (alpha a quarter of it), or an object.
        depth: layers, or "inf" for the limit.
        rule: "regression" solves for the tangent kernel's fit, "votes" sums the kernel over the rows, "auto" solves
            at finite depth up to 2000 rows and votes else (where the two agree once the kernel is nearly diagonal).
        sphere: "append-normalise" (columns standardised and divided by the root of their number, a 1 appended, rows
            divided by their norm), "normalise" (rows divided by their norm) or "given" (they have norm 1).
        dim: dimension of the sphere that the data fill; "auto" is that of the map.
        random_state: not used: nothing here is random.
        device: where to compute, in float64.

    Example:
        >>> from foreknow.functions import DeepNTKClassifier
        >>> x = [[0.0, 0.0], [0.1, 0.2], [1.0, 1.0], [0.9, 1.1]]
        >>> DeepNTKClassifier(depth=20).fit(x, list("aabb")).predict([[0.05, 0.1], [1.0, 0.9]]).tolist()
        ['a', 'b']
    """

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        depth: int | str = "inf",
        rule: str = "auto",
        sphere: str = "append-normalise",
        dim: int | str = "auto",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.depth = depth
        self.rule = rule
        self.sphere = sphere
        self.dim = dim
        self.random_state = random_state
        self.device = device

    def _check_settings(self) -> None:
        super()._check_settings()
        check_option("DeepNTKClassifier", "rule", self.rule, RULES)
        if self.depth != "inf":
            check_int("DeepNTKClassifier", "depth", self.depth, low=1)
        if self.rule == "regression" and self.depth == "inf":
            raise ConfigError("DeepNTKClassifier: in the limit the kernel is diagonal and the rule is 'votes'.")

    def _depth(self) -> int | None:
        return None if isinstance(self.depth, str) else int(self.depth)

    def _rule(self) -> str:
        if self.rule != "auto":
            return self.rule
        return "votes" if self._depth() is None or len(self.points_) > 2000 else "regression"

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "deep-ntk", "examples")
        X = rng.normal(size=(24, 2))
        y = np.where(X[:, 0] + 0.3 * X[:, 1] > 0, "right", "left")
        three = np.digitize(X[:, 1], [-0.5, 0.5])
        X_new = rng.normal(size=(12, 2))
        return [
            Example("limit", {"random_state": 0}, X, y, X_new),
            Example("two hundred layers", {"depth": 200, "random_state": 0}, X, three, X_new),
            Example("votes of erf", {"prior": NamedActivation("erf"), "depth": 10, "rule": "votes"}, X, y, X_new),
        ]

    @classmethod
    def priced_as(cls, task: str) -> System:
        """At 200 layers: in the limit the arm without the prior would be class frequencies and no classifier."""
        return cls(depth=200)

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Exponents, excess risk against sample size, the three regimes, finite networks."""
        from foreknow.functions.wide_deep_optimality.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)


@register(CARD, main=False)
class HilbertKernelClassifier(_SphereClassifier):
    """The limit in closed form: votes weighted by |x - x_i|^-alpha (Devroye, Gyorfi and Krzyzak 1998).

    Args:
        prior: "paper" (alpha as the next setting says), "off" (majority), "wrong" (a quarter of the dimension), or an
            activation, whose exponent is taken.
        alpha: exponent, or "dim" for the dimension of the sphere, the only choice that is always consistent.
        sphere, dim: as for `DeepNTKClassifier`.
        random_state: not used: nothing here is random.
        device: where to compute, in float64.
    """

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        alpha: float | str = "dim",
        sphere: str = "append-normalise",
        dim: int | str = "auto",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.alpha = alpha
        self.sphere = sphere
        self.dim = dim
        self.random_state = random_state
        self.device = device

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.alpha != "dim":
            check_real("HilbertKernelClassifier", "alpha", self.alpha, low=0, open_low=True)

    def _paper_prior(self) -> Prior:
        if isinstance(self.alpha, str):
            return SingularActivation()
        return SingularActivation(factor=float(self.alpha), dim=1)  # alpha whatever the data's dimension

    def _depth(self) -> int | None:
        return None

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "hilbert", "examples")
        X = rng.normal(size=(24, 3))
        y = np.digitize(X[:, 0], [-0.5, 0.5])
        X_new = rng.normal(size=(12, 3))
        on_sphere = X / np.linalg.norm(X, axis=1, keepdims=True)
        return [
            Example("alpha is the dimension", {"random_state": 0}, X, y, X_new),
            Example("alpha of one's own", {"alpha": 1.5, "sphere": "normalise"}, on_sphere, y, X_new),
        ]


def kernel_picture(activation: DesignedActivation) -> Lines:
    """The deep tangent kernel over the distance, each line divided by its value at distance 1."""
    r = torch.logspace(-2, math.log10(1.4), 80, dtype=torch.float64)
    lines = {}
    for depth in (10, 100, 1000, 10_000):
        found = deep_kernels(activation.dual, 0.5 * torch.cat([r, torch.ones(1).to(r)]).square(), depth)
        log_k = found.log_ntk - found.log_ntk[-1]
        lines[f"{depth} layers"] = (log_k[:-1] / math.log(10)).numpy()
    alpha = activation.alpha
    if 0 < alpha < math.inf:
        lines[f"limit |x - x'|^-{alpha:.3g}"] = (-alpha * r.log10()).numpy()
    title = f"{activation.regime()}, alpha = {alpha:.3g}"
    return Lines(r.log10().numpy(), lines, "log10 distance on the sphere", "log10 kernel over its value at 1", title)


def activation_picture(activation: DesignedActivation) -> Lines:
    """The activation itself."""
    u = torch.linspace(-3, 3, 121, dtype=torch.float64)
    return Lines(u.numpy(), {"phi": activation.function(u).numpy()}, "u", "phi(u)", title=repr(activation))


def _distances(a: Tensor, b: Tensor) -> Tensor:
    # The quick matrix form of cdist loses the digits of nearby rows, which decide.
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
