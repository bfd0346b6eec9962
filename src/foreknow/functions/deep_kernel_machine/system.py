"""The system `deep-kernel-machine`: regression and classification with layers of learnt Gram matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import CheckpointError, ConfigError, InputError, ResourceError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import ImageGrid, Picture
from foreknow.core.predictive import Categorical, Gaussian, Predictive
from foreknow.core.prior import Misapplied, Prior
from foreknow.core.registry import register
from foreknow.core.source import Sample
from foreknow.core.system import Example, State, System, Tags
from foreknow.data.numeric import read_numeric
from foreknow.functions.deep_kernel_machine.card import CARD
from foreknow.functions.deep_kernel_machine.kernels import KERNELS
from foreknow.functions.deep_kernel_machine.machine import (
    DIVERGENCES,
    FACTORS,
    DeepKernelNetwork,
    GramChain,
    Passed,
    input_blocks,
)
from foreknow.functions.deep_kernel_machine.prior import DeepKernelPrior, check_nu
from foreknow.functions.deep_kernel_machine.training import Budget, choose, train, warm
from foreknow.nn.inducing import inducing_rows

TASKS = ("regression", "classification")
NUS = (10.0, 100.0, 1000.0, math.inf)
"""What nu="auto" chooses from: with inf, no representation is learnt where none pays."""
MOST_ROWS = 3000
"""Rows beyond which learning on all of them at once, cubic in them, is refused."""
_CHUNK = 8192
_FEWEST_TO_HOLD_OUT = 20
_LEAST_SD = 1e-6


@register(CARD)
class DeepKernelMachine(System):
    """A Gaussian process whose kernel passes through layers, each free to move its Gram matrix at a price.

    With nu = inf it is the Gaussian process of an infinitely wide network; with a finite nu every layer's Gram
    matrix of M inducing points is learnt, and the data follow by the conditionals of Gaussian processes.

    Args:
        prior: a `DeepKernelPrior`, "paper" (made of `layers`, `kernel` and `nu`), "off" (nu = inf) or "wrong" (the
            price is for the distance to the kernel of other points).
        task: "regression" or "classification".
        layers: Gram matrices between input and output.
        kernel: "sqexp", "arccos" (ReLU) or "linear".
        nu: price of a nat of divergence for each output; "auto" chooses on rows held out.
        nus: what "auto" chooses from.
        inducing: number of inducing points, or "full": all rows are (at most 3000).
        learn_inducing: whether inducing points move from where k-means puts them.
        batch_size: rows a step, or None for all; batches use the variational form.
        n_warm: steps of the optimiser with the Gram matrices of the infinitely wide network, for all the rest.
        n_steps: steps thereafter, of everything, at most.
        lr_warm, lr: highest rates of Adam in the two.
        optimizer: "adam", or "lbfgs" (all rows at once).
        early_stopping: learn first on four fifths, to see on the others after how many of `n_steps` to stop; so it is
            done with every nu, inf too.
        folds: how many of the five fifths are held out, in turn, for that and for nu="auto".
        factor: R_l as a lower "cholesky" factor or "square".
        divergence: "exact", or its "taylor" form.
        normalize: divide Gram matrices by their mean diagonal between layers.
        gram_noise: added to the diagonal of G_l, in units of its mean.
        jitter: first jitter of a Cholesky factor, in units of the mean diagonal.
        random_state: seed of inducing points, rows held out and batches.
        device: where to compute.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-2, 2, 40)[:, None]
        >>> model = DeepKernelMachine(nu=100.0, inducing=10, n_steps=20, random_state=0).fit(x, np.sin(3 * x[:, 0]))
        >>> model.predict_dist(x[:2]).mean().shape
        torch.Size([2])

    References:
        yang2023theory.
    """

    tags = Tags(tolerance=1e-3)

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        task: str = "regression",
        layers: int = 3,
        kernel: str = "sqexp",
        nu: float | str = "auto",
        nus: tuple[float, ...] = NUS,
        inducing: int | str = 100,
        learn_inducing: bool = True,
        batch_size: int | None = None,
        n_warm: int = 100,
        n_steps: int = 80,
        lr_warm: float = 0.1,
        lr: float = 0.03,
        optimizer: str = "adam",
        early_stopping: bool = True,
        folds: int = 3,
        factor: str = "cholesky",
        divergence: str = "exact",
        normalize: bool = True,
        gram_noise: float = 0.0,
        jitter: float = 1e-6,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.task = task
        self.layers = layers
        self.kernel = kernel
        self.nu = nu
        self.nus = nus
        self.inducing = inducing
        self.learn_inducing = learn_inducing
        self.batch_size = batch_size
        self.n_warm = n_warm
        self.n_steps = n_steps
        self.lr_warm = lr_warm
        self.lr = lr
        self.optimizer = optimizer
        self.early_stopping = early_stopping
        self.folds = folds
        self.factor = factor
        self.divergence = divergence
        self.normalize = normalize
        self.gram_noise = gram_noise
        self.jitter = jitter
        self.random_state = random_state
        self.device = device

    # Results -------------------------------------------------------------------------------------------------

    @property
    def grams_(self) -> list[NDArray[np.float64]]:
        """The Gram matrices that were learnt, on the inducing points, (M, M) each, first layer first."""
        return [np.asarray(gram.cpu().numpy()) for gram in self._passed().grams]

    def representation_shift_(self) -> NDArray[np.float64]:
        """Divergence of each layer from the infinitely wide network's, KL(N(0, G_l) | N(0, K(G_{l-1}))), in nats."""
        return np.asarray(self._passed().divergences.cpu().numpy())

    def layers_(self, X: Any, y: Any) -> list[dict[str, float]]:
        """What became of rows in each layer.

        Args:
            X: rows.
            y: their targets, numbers or labels.

        Returns:
            For each layer its divergence in nats, the effective rank of the rows' Gram matrix (the exponential of
            the entropy of its spectrum), and its centred alignment (CKA) with y y'.
        """
        rows = self._read_new(X)
        target = np.asarray(y)
        if len(target) != len(rows):
            raise InputError(f"DeepKernelMachine.layers_: {len(rows)} rows and {len(target)} targets.")
        if self._task() == "classification":
            wanted = np.asarray(target[:, None] == self.classes_[None], dtype=np.float64)
        else:
            wanted = target.astype(np.float64)[:, None]
        centred = torch.as_tensor(wanted - wanted.mean(axis=0), device=self.device_)
        with torch.no_grad():
            passed = self.network_.chain(input_blocks(self.network_.inducing, self._scaled(rows)))
        return [
            {
                "divergence": float(divergence),
                "effective_rank": _effective_rank(features),
                "alignment": _alignment(features, centred),
            }
            for divergence, features in zip(passed.divergences, passed.features, strict=True)
        ]

    # Hooks ---------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        owner = "DeepKernelMachine"
        check_option(owner, "task", self.task, TASKS)
        check_int(owner, "layers", self.layers, low=1, high=50)
        check_option(owner, "kernel", self.kernel, KERNELS)
        check_nu(owner, self.nu)
        if not isinstance(self.nus, tuple | list) or not len(self.nus):
            raise ConfigError(f"{owner}: nus must be a tuple of numbers, got {self.nus!r:.60}.")
        for value in self.nus:
            if isinstance(check_nu(owner, value), str):
                raise ConfigError(
                    f"{owner}: nus must hold numbers, got {value!r}.", hint="nu='auto' chooses among nus."
                )
        if isinstance(self.inducing, str):
            check_option(owner, "inducing", self.inducing, ("full",))
        else:
            check_int(owner, "inducing", self.inducing, low=1)
        if self.batch_size is not None:
            check_int(owner, "batch_size", self.batch_size, low=1)
        check_int(owner, "n_warm", self.n_warm, low=0)
        check_int(owner, "n_steps", self.n_steps, low=1)
        check_int(owner, "folds", self.folds, low=1, high=5)
        for name in ("lr_warm", "lr"):
            check_real(owner, name, getattr(self, name), low=0, open_low=True)
        check_option(owner, "optimizer", self.optimizer, ("adam", "lbfgs"))
        check_option(owner, "factor", self.factor, FACTORS)
        check_option(owner, "divergence", self.divergence, DIVERGENCES)
        check_real(owner, "gram_noise", self.gram_noise, low=0)
        check_real(owner, "jitter", self.jitter, low=0, high=1e-2)
        for name in ("learn_inducing", "early_stopping", "normalize"):
            check_bool(owner, name, getattr(self, name))
        if self.optimizer == "lbfgs" and self.batch_size is not None:
            raise ConfigError(f"{owner}: lbfgs needs all rows at once.", hint="Set batch_size=None.")
        self._base()

    def _task(self) -> str:
        return self.task if self.task in TASKS else "regression"

    def _paper_prior(self) -> Prior:
        return DeepKernelPrior(layers=self.layers, kernel=self.kernel, nu=self.nu)

    def _wrong_prior(self) -> Prior:
        return Misapplied(DeepKernelPrior(layers=self.layers, kernel=self.kernel, nu=self.nu))

    def _base(self) -> DeepKernelPrior:
        prior = self._resolve_prior()
        base = prior.base if isinstance(prior, Misapplied) else prior
        if not isinstance(base, DeepKernelPrior):
            raise ConfigError(f"DeepKernelMachine: the prior must be a DeepKernelPrior, got {type(prior).__name__}.")
        return base

    def _fit(self, X: Any, y: NDArray[Any] | None) -> None:
        assert y is not None  # both tasks have targets
        full = isinstance(self.inducing, str)
        if full and len(X) > MOST_ROWS:
            raise ResourceError(
                f"DeepKernelMachine: inducing='full' is cubic in the rows; {len(X)} came, at most {MOST_ROWS} go.",
                hint="Set inducing=200, for instance.",
            )
        order = np.lexsort((y, *X.T))  # so that the order of the rows decides nothing
        X, y = X[order], y[order]
        self.x_shift_, scale = X.mean(axis=0), X.std(axis=0)
        self.x_scale_ = np.where(scale > 1e-12 * np.abs(self.x_shift_), np.where(scale > 0, scale, 1.0), 1.0)
        x, target = self._scaled(X), self._target(y)
        base = self._base()
        nus = [float(value) for value in self.nus] if base.nu == "auto" else [float(base.nu)]
        budget = Budget(
            self.n_warm, self.n_steps, self.lr_warm, self.lr, self.batch_size, max(1, self.n_steps // 20),
            self.optimizer,
        )  # fmt: skip
        self.nu_, self.steps_ = nus[-1], self.n_steps
        self.chosen_from_: list[dict[str, float]] = []
        if (len(nus) > 1 or self.early_stopping) and len(x) >= _FEWEST_TO_HOLD_OUT:
            mixed = torch.as_tensor(numpy_stream(self.seed_, "held out").permutation(len(x)), device=self.device_)
            held = mixed.tensor_split(5)[: self.folds]
            self.nu_, self.steps_, self.chosen_from_ = choose(
                self._build, x, target, nus, budget, generator=self._stream("batches"), held=held,
                stopping=self.early_stopping,
            )  # fmt: skip
        network = warm(self._build(self.nu_, x), x, target, budget, generator=self._stream("batches"))
        train(
            network, x, target, budget, generator=self._stream("batches"), stop_at=self.steps_,
            watch=lambda step: self._tell(step, self.steps_),
        )  # fmt: skip
        self.network_ = network.eval()
        self.holds_rows_ = len(network.inducing) >= len(np.unique(X, axis=0))

    def _target(self, y: NDArray[Any]) -> Tensor:
        if self._task() == "classification":
            self.y_shift_, self.y_scale_ = 0.0, 1.0
            return torch.as_tensor(y, dtype=torch.int64, device=self.device_)
        self.y_shift_, spread = float(y.mean()), float(y.std())
        self.y_scale_ = spread if spread > 1e-12 * abs(self.y_shift_) and spread > 0 else 1.0
        scaled = (y - self.y_shift_) / self.y_scale_
        return torch.as_tensor(scaled[:, None], dtype=torch.float64, device=self.device_)

    def _build(self, nu: float, x: Tensor) -> DeepKernelNetwork:
        full = isinstance(self.inducing, str)
        rows = x.cpu().numpy()
        points = rows if full else inducing_rows(rows, int(self.inducing), seed_of(self.seed_, "k-means"))
        return self._network(len(points), rows.shape[1], nu, torch.as_tensor(points))

    def _network(self, m: int, d: int, nu: float, points: Tensor | None = None) -> DeepKernelNetwork:
        turn = None
        if isinstance(self.prior_, Misapplied) and not math.isinf(nu):
            turn = torch.randperm(m, generator=self._stream("placebo"))
        base = self._base()
        chain = GramChain(
            m, layers=base.layers, kernel=base.kernel, nu=nu, factor=self.factor, divergence=self.divergence,
            normalize=self.normalize, gram_noise=self.gram_noise, jitter=self.jitter, turn=turn,
        )  # fmt: skip
        classes = self._task() == "classification"
        network = DeepKernelNetwork(
            torch.zeros(m, d, dtype=torch.float64) if points is None else points, chain,
            n_outputs=len(self.classes_) if classes else 1, classes=classes, collapsed=self.batch_size is None,
            fixed=isinstance(self.inducing, str) or not self.learn_inducing, generator=self._stream("softmax"),
        )  # fmt: skip
        return network.to(self.device_)

    def _scaled(self, X: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor((X - self.x_shift_) / self.x_scale_, dtype=torch.float64, device=self.device_)

    def _passed(self) -> Passed:
        self._check_fitted()
        with torch.no_grad():
            points = self.network_.inducing
            passed: Passed = self.network_.chain(input_blocks(points, points[:1]))
        return passed

    def _predict_dist(self, X: Any) -> Predictive:
        x = self._scaled(X)
        with torch.no_grad():
            if self._task() == "classification":
                return Categorical(torch.cat([self.network_(rows) for rows in torch.split(x, _CHUNK)]))
            parts = [self.network_.moments(rows) for rows in torch.split(x, _CHUNK)]
            mean, variance = (torch.cat(values)[:, 0] for values in zip(*parts, strict=True))
            sd = (variance.clamp_min(0) + self.network_.log_noise.exp()).sqrt().clamp_min(_LEAST_SD)
        return Gaussian(self.y_shift_ + self.y_scale_ * mean, self.y_scale_ * sd)

    def _state(self) -> State:
        tensors = {f"network.{name}": tensor for name, tensor in self.network_.state_dict().items()}
        tensors |= {"x_shift": torch.as_tensor(self.x_shift_), "x_scale": torch.as_tensor(self.x_scale_)}
        # Infinity is no number of JSON.
        chosen = [{**entry, "nu": _word(entry["nu"]), "loss": _word(entry["loss"])} for entry in self.chosen_from_]
        meta = {
            "nu": _word(self.nu_), "steps": self.steps_, "y_shift": self.y_shift_,
            "y_scale": self.y_scale_, "holds_rows": self.holds_rows_, "chosen_from": chosen,
        }  # fmt: skip
        return State(tensors, meta, contains_rows=self.holds_rows_)

    def _restore(self, state: State) -> None:
        meta, tensors = state.meta, state.tensors
        own = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
        if "inducing" not in own or own["inducing"].ndim != 2:
            raise CheckpointError("the file's network is not that of a DeepKernelMachine.")
        self.x_shift_, self.x_scale_ = tensors["x_shift"].cpu().numpy(), tensors["x_scale"].cpu().numpy()
        self.y_shift_, self.y_scale_ = float(meta["y_shift"]), float(meta["y_scale"])
        self.nu_, self.steps_ = float(meta["nu"]), int(meta["steps"])
        self.holds_rows_ = bool(meta["holds_rows"])
        self.chosen_from_ = [{name: float(value) for name, value in entry.items()} for entry in meta["chosen_from"]]
        m, d = own["inducing"].shape
        network = self._network(m, d, self.nu_)
        network.load_state_dict(own)
        self.network_ = network.eval()

    def pictures(self) -> Mapping[str, Picture]:
        """The Gram matrices of the layers, inducing points in the order of the first one's largest direction."""
        grams = self.grams_
        order = np.argsort(np.linalg.eigh(grams[-1])[1][:, -1])
        images = [gram[order][:, order] for gram in grams]
        titles = [f"layer {i + 1}: {shift:.1f} nats" for i, shift in enumerate(self.representation_shift_())]
        return {"grams": ImageGrid([images], column_titles=titles, title="Learnt Gram matrices", limits=None)}

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "deep-kernel-machine", "examples")
        X, new = rng.normal(size=(30, 2)), rng.normal(size=(6, 2))
        y = np.sin(2 * X[:, 0]) + 0.3 * X[:, 1]
        label = np.where(y > 0, "above", "below")
        small: dict[str, Any] = {"n_warm": 8, "n_steps": 8, "folds": 1, "layers": 2, "inducing": 8, "random_state": 0}
        return [
            Example("sparse", {**small, "nu": 10.0}, X, y, new),
            Example(
                "all rows",
                {**small, "inducing": "full", "nu": 5.0, "kernel": "arccos", "factor": "square", "batch_size": 12},
                X,
                y,
                new,
            ),
            Example("classes", {**small, "task": "classification", "nu": 10.0, "early_stopping": False}, X, label, new),
        ]

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """One csv or parquet file of numbers; `target` names the column, `task=classification` says it holds labels."""
        given = dict(options)
        task = check_option("deep-kernel-machine", "task", given.pop("task", "regression"), TASKS)
        return read_numeric("deep-kernel-machine", paths, given, classes=task == "classification")

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Small tables of scikit-learn."""
        from sklearn import datasets

        if task == "classification":
            return {"wine": datasets.load_wine(return_X_y=True)}
        return {"diabetes": datasets.load_diabetes(return_X_y=True)}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        from foreknow.functions.deep_kernel_machine.arms import plain_arms

        return plain_arms(self._task())

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Gram matrices against those of finite deep Gaussian processes; real tables against NNGP, SVGP and an MLP."""
        from foreknow.functions.deep_kernel_machine.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)


def _word(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _effective_rank(features: Tensor) -> float:
    values = torch.linalg.svdvals(features).square()
    share = (values / values.sum().clamp_min(1e-300)).clamp_min(1e-300)
    return float((-(share * share.log()).sum()).exp())


def _alignment(features: Tensor, target: Tensor) -> float:
    """Linear CKA of features (T, M) and targets (T, C), whose columns are centred."""
    f = features - features.mean(dim=0)
    own = (f.T @ f).norm() * (target.T @ target).norm()
    return float((f.T @ target).square().sum() / own) if float(own) > 0 else 0.0
