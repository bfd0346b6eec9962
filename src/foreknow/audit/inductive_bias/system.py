"""The system `inductive-bias`: the hypotheses of a base space that fit the data, and the bits a task needs beyond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from foreknow.audit.inductive_bias.bits import Bits, BitsCurve, check_eps
from foreknow.audit.inductive_bias.card import CARD
from foreknow.audit.inductive_bias.kernels import RBF, FittingKernel, KernelHypotheses, KernelLaw, White
from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import as_vector, check_int, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.predictive import Categorical, Gaussian, Predictive
from foreknow.core.prior import Prior, Simulator, Unrelated
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.system import Example, State, System, Tags

_LEAST_SD = 1e-6
"""Standard deviation of a prediction at a training row, in units of the prior's."""
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


@register(CARD)
@dataclass(frozen=True)
class KernelPrior(Simulator):
    """The base space: functions of a Gaussian process with mean 0 and variance 1, seen without noise.

    Args:
        n_features: columns of x, whose rows are standard normal in draws.
        kernel: an `RBF`.
    """

    n_features: int = 1
    kernel: RBF = field(default_factory=RBF)

    target: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        check_int("KernelPrior", "n_features", self.n_features, low=1)
        if not isinstance(self.kernel, RBF):
            raise ConfigError(f"KernelPrior: kernel must be an RBF, got {self.kernel!r:.80}.")

    def _draw(
        self, n_tasks: int, n_rows: int, *, generator: Generator, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        shape = (n_tasks, n_rows, self.n_features)
        x, z = (torch.randn(size, generator=generator, device=generator.device).double() for size in (shape, shape[:2]))
        y = torch.empty_like(z)
        eye = 1e-6 * torch.eye(n_rows).to(x)
        for rows, noise, out in zip(x, z, y, strict=True):
            kernel = self.kernel if n_rows > 1 else RBF(1.0)
            out.copy_(torch.linalg.cholesky(kernel.resolve(rows)(rows, rows) + eye) @ noise)
        return x.to(device, dtype), y.to(device, dtype), {}

    @classmethod
    def examples(cls) -> list[Prior]:
        return [cls(), cls(n_features=3, kernel=RBF(0.5))]

    def describe(self) -> str:
        """One line for people."""
        return f"Gaussian process on {self.n_features} feature(s), RBF kernel, lengthscale {self.kernel.lengthscale}"


@register(CARD)
class InductiveBias(System):
    """How many bits of further knowledge a task needs beyond fitting its training data within a base space.

    `fit` conditions the base space on the training data. `predict` is the mean of the hypotheses that fit, `bits` the
    -log2 of the share of them that reach a loss on test rows, without sampling.

    Args:
        prior: a `KernelPrior`, "paper" (lengthscale of the median heuristic) or "off" (white kernel).
        task: "regression", or "classification" by one-hot targets.
        random_state: not used, since nothing here is random; every system has it.
        device: where to compute.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(0, 1, 40)[:, None]
        >>> model = InductiveBias().fit(x[::4], np.sin(6 * x[::4, 0]))
        >>> round(model.bits(x[1::4], np.sin(6 * x[1::4, 0]), eps=0.001).value, 1) < 30
        True

    References:
        boopathy2024towards.
    """

    tags = Tags(uses_seed=False)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        task: str = "regression",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.task = task
        self.random_state = random_state
        self.device = device

    # Results -------------------------------------------------------------------------------------------------

    def law(self, X_test: ArrayLike, y_test: ArrayLike) -> KernelLaw:
        """The law of the test loss, the mean squared error (in standardised units of a numeric target).

        Raises:
            NotFittedError: before `fit`.
            InputError: the test data cannot be used, or hold classes that training did not.
        """
        rows = self._read_new(X_test)
        if self._task() == "classification":
            known = np.isin(np.asarray(y_test), self.classes_)
            if not known.all():
                raise InputError(
                    f"InductiveBias: y_test holds classes that training did not, first at row {(~known).argmax()}."
                )
            target = np.eye(len(self.classes_))[np.searchsorted(self.classes_, np.asarray(y_test))]
        else:
            target = (as_vector("InductiveBias", y_test, name="y_test", n=len(rows)) - self.shift_) / self.scale_
        return self.fitting_.law(rows, target)

    def bits(self, X_test: ArrayLike, y_test: ArrayLike, eps: float) -> Bits:
        """Bits needed to reach the loss `eps` on the test rows.

        Args:
            X_test: rows, shape (N, n_features).
            y_test: their targets, shape (N,).
            eps: mean squared error, in squared units of the target; of one-hot vectors for classes.

        Raises:
            NotFittedError: before `fit`.
            InputError: no hypothesis reaches eps, or the test data cannot be used.
        """
        return self.curve(X_test, y_test, [eps]).bits[0]

    def curve(self, X_test: ArrayLike, y_test: ArrayLike, eps: Sequence[float] | None = None) -> BitsCurve:
        """Bits against the target loss; steeper is harder.

        Args:
            X_test: rows, shape (N, n_features).
            y_test: their targets, shape (N,).
            eps: target losses; by default sixteen from a twentieth of the expected loss up to it.
        """
        law, unit = self.law(X_test, y_test), self.scale_**2
        if eps is None:
            eps = [float(v) for v in unit * (law.constant + np.geomspace(0.05, 1.0, 16) * (law.mean - law.constant))]
        targets = tuple(check_eps("InductiveBias", value, noise=unit * law.constant) for value in eps)
        return BitsCurve(targets, tuple(law.bits(value / unit) for value in targets))

    # Hooks ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        check_option("InductiveBias", "task", self.task, ("regression", "classification"))
        self._kernel()

    def _task(self) -> str:
        return self.task

    def _paper_prior(self) -> Prior:
        return KernelPrior()

    def _fit(self, X: Any, y: NDArray[Any] | None) -> None:
        assert y is not None  # both tasks have targets
        self.shift_, self.scale_ = 0.0, 1.0
        if self._task() == "classification":
            target = np.eye(len(self.classes_))[y]
        else:
            self.shift_ = float(y.mean())
            spread = float(y.std())
            self.scale_ = spread if spread > 1e-12 * abs(self.shift_) and spread > 0 else 1.0
            target = ((y - self.shift_) / self.scale_)[:, None]
        self.fitting_ = KernelHypotheses(self._kernel(), device=self.device_).condition(X, target)

    def _predict_dist(self, X: Any) -> Predictive:
        mean, variance = self.fitting_.moments(X)
        sd = variance.sqrt().clamp_min(_LEAST_SD)
        if self._task() == "classification":
            return Categorical(_share_largest(mean, sd).clamp_min(1e-12).log())
        return Gaussian(self.shift_ + self.scale_ * mean[:, 0], self.scale_ * sd)

    def _state(self) -> State:
        fitting = self.fitting_
        meta = {
            "kernel": to_json(fitting.kernel),
            "jitter": fitting.jitter,
            "direct": fitting.factor is not None,
            "shift": self.shift_,
            "scale": self.scale_,
        }
        return State({"x": fitting.x, "y": fitting.y, "alpha": fitting.alpha}, meta, contains_rows=True)

    def _restore(self, state: State) -> None:
        kernel = from_json(state.meta["kernel"])
        if not isinstance(kernel, RBF | White):
            raise CheckpointError("the file holds no kernel of InductiveBias.")
        tensors = {name: value.to(self.device_) for name, value in state.tensors.items()}
        self.shift_, self.scale_ = float(state.meta["shift"]), float(state.meta["scale"])
        jitter, factor = float(state.meta["jitter"]), None
        if state.meta["direct"]:
            k = kernel(tensors["x"], tensors["x"])
            factor = torch.linalg.cholesky(k + jitter * torch.eye(len(k)).to(k) if jitter else k)
        self.fitting_ = FittingKernel(kernel, tensors["x"], tensors["y"], tensors["alpha"], factor, jitter)

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "inductive-bias", "examples")
        X = rng.normal(size=(24, 3))
        y = X[:, 0] - X[:, 1] ** 2
        label = np.where(X[:, 0] + X[:, 1] > 0, "above", "below")
        new = rng.normal(size=(9, 3))
        return [
            Example("numbers", {"random_state": 0}, X, y, new),
            Example("classes", {"task": "classification", "random_state": 0}, X, label, new),
            Example("short lengthscale", {"prior": KernelPrior(3, RBF(0.7)), "random_state": 0}, X, y, new),
        ]

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 5, progress: ProgressCallback | None = None) -> Evidence:
        """Small proofs: estimators against each other, bits against dimension, a network's prior against none."""
        from foreknow.audit.inductive_bias.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    def _kernel(self) -> RBF | White:
        prior = self._resolve_prior()
        if isinstance(prior, KernelPrior):
            return prior.kernel
        if isinstance(prior, Unrelated) and isinstance(prior.base, KernelPrior):
            return White()
        raise ConfigError(
            f"InductiveBias: the prior must be a KernelPrior or its off(), got {type(prior).__name__}.",
            hint="Sampled hypotheses of any other kind go through price_bits or median_matched_bits.",
        )


def _share_largest(mean: Tensor, sd: Tensor) -> Tensor:
    """Share of hypotheses whose output for a class is the largest: outputs N(mean, sd^2), independent; (N, k)."""
    nodes = torch.as_tensor(_NODES).to(mean)
    gap = (mean[:, :, None] - mean[:, None, :]) / sd[:, None, None]  # class against class, (N, k, k)
    above = torch.special.log_ndtr(gap[..., None] + nodes)  # (N, k, k, nodes)
    above.diagonal(dim1=1, dim2=2).zero_()
    share: Tensor = above.sum(2).exp() @ torch.as_tensor(_WEIGHTS).to(mean)
    return share / share.sum(1, keepdim=True)
