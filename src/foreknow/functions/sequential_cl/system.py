"""The system `sequential-cl`: a classifier of classes that arrive task by task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import as_array, check_int, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Lines, Picture
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.system import PRESETS, Example, State, System, Tags
from foreknow.functions.sequential_cl.card import CARD
from foreknow.functions.sequential_cl.prior import PrototypePrior
from foreknow.functions.sequential_cl.prototypes import (
    ProtoSettings,
    PrototypeLearner,
    Prototypes,
    make_encoder,
)
from foreknow.functions.sequential_cl.streams import Scale, read_tasks, split_by_class

TRAINING: dict[str, ProtoSettings] = {
    "quick": ProtoSettings(n_epochs=4, hidden=(32, 16), memory=50),
    "small": ProtoSettings(),
    "paper": ProtoSettings(n_epochs=50, lr=1e-4, memory=1000, hidden=(256, 128), dropout=0.1),
}


@register(CARD)
class ProtoCL(System):
    """A classifier for classes that come one task after another, never told the task when it predicts.

    Every class is a normal cloud around a prototype in an encoder's space. Prototypes and class counts have exact
    posteriors that are updated row by row; the encoder is trained on each task's rows and on a small memory of earlier
    ones. Of use where old rows cannot all be kept. Where they can, train on everything at once instead.

    Args:
        prior: a `PrototypePrior`, "paper", "off" (a softmax head) or "wrong" (prototypes believed to be all at 0, so
            firmly that no scale of the encoder undoes it).
        preset: of training: "quick", "small" or "paper" (split MNIST).
        training: a `ProtoSettings` that replaces the preset's.
        classes_per_task: how `fit` splits the classes, in their order, where it is given no tasks.
        random_state: seed.
        device: "auto", "cpu", "cuda".

    Example:
        >>> import numpy as np
        >>> X = np.repeat(np.eye(4), 20, axis=0) + 0.1 * np.random.default_rng(0).normal(size=(80, 4))
        >>> y = np.repeat(np.arange(4), 20)
        >>> model = ProtoCL(preset="quick", random_state=0).fit(X, y)
        >>> np.round(model.accuracy_matrix_).shape
        (2, 2)

    References: Kessler et al. 2023, section 6.
    """

    tags = Tags(row_order_invariant=False, tolerance=1e-4)
    fit_inputs = ("tasks", "encoder", "test")

    def __init__(
        self,
        prior: Prior | str = "paper",
        *,
        preset: str = "small",
        training: ProtoSettings | None = None,
        classes_per_task: int = 2,
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.prior = prior
        self.preset = preset
        self.training = training
        self.classes_per_task = classes_per_task
        self.random_state = random_state
        self.device = device

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        check_option("ProtoCL", "preset", self.preset, PRESETS)
        check_int("ProtoCL", "classes_per_task", self.classes_per_task, low=1)
        if self.training is not None and not isinstance(self.training, ProtoSettings):
            raise ConfigError(f"ProtoCL: training must be a ProtoSettings, got {type(self.training).__name__}.")

    def _task(self) -> str:
        return "classification"

    def _paper_prior(self) -> PrototypePrior:
        return PrototypePrior()

    def _wrong_prior(self) -> PrototypePrior:
        return PrototypePrior(precision=1e8)  # a milder one only sets the encoder's scale

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        return as_array("ProtoCL", X, axes=(2, 3, 4))

    def _fit(
        self, X: NDArray[Any], y: NDArray[Any] | None, *, tasks: Any = None, encoder: nn.Module | None = None,
        test: Any = None,
    ) -> None:  # fmt: skip
        assert y is not None  # the base class refuses a missing target
        if not isinstance(self.prior_, PrototypePrior):
            raise ConfigError(f"ProtoCL: prior must be a PrototypePrior, got {type(self.prior_).__name__}.")
        if encoder is not None and not isinstance(encoder, nn.Module):
            raise InputError(f"ProtoCL: encoder must be an nn.Module, got {type(encoder).__name__}.")
        codes = y.astype(np.int64)
        self.task_names_: list[Any] | None = None
        if tasks is None:
            number = split_by_class(codes, self.classes_per_task)
        else:
            number, self.task_names_ = read_tasks("ProtoCL", tasks, len(X))
        self._own_encoder = encoder is not None
        settings = self.training or TRAINING[self.preset]
        self._scale = Scale.of(X[number == 0])  # of the first task only: later ones are not known yet
        n_in = int(math.prod(X.shape[1:]))
        made = (
            encoder if encoder is not None else make_encoder(n_in, settings.hidden, settings.dropout, seed=self.seed_)
        )
        self.learner_ = PrototypeLearner(
            made, len(self.classes_), self.prior_, settings, random_state=self.seed_, device=self.device_
        )
        n_tasks = int(number.max()) + 1
        measured = self._measured(X, codes, number, test, n_tasks)
        total = n_tasks * settings.n_epochs
        for task in range(n_tasks):
            own, done = number == task, task * settings.n_epochs

            def told(epoch: int, done: int = done) -> None:
                self._tell(done + epoch, total, "training")

            self.learner_.fit_task(self._scale(X[own]), codes[own], told=told)
            self.learner_.measure([(self._scale(rows), labels) for rows, labels in measured])
        self.n_tasks_ = n_tasks
        self.accuracy_matrix_ = np.array(self.learner_.accuracy_matrix_)

    def _predict_dist(self, X: NDArray[Any]) -> Predictive:
        return Categorical(self.learner_.log_joint(self._scale(X)).double())

    def _state(self) -> State:
        if self._own_encoder:
            raise CapabilityError(
                "ProtoCL: an encoder given to fit is not written to files.", hint="Perceptrons named by hidden are."
            )
        learner = self.learner_
        tensors = {f"encoder.{name}": value for name, value in learner.encoder.state_dict().items()}
        if learner.head is not None:
            tensors |= {"head.weight": learner.head[0], "head.bias": learner.head[1]}
        for name in ("weighted", "precision", "concentration"):
            tensors[name] = getattr(learner.prototypes, name)
        tensors |= {"shift": torch.as_tensor(self._scale.shift), "scale": torch.as_tensor(self._scale.spread)}
        tensors |= {"seen": torch.as_tensor(learner.seen), "accuracy": torch.as_tensor(self.accuracy_matrix_)}
        return State(tensors, {"noise": learner.noise}, contains_rows=False)

    def _restore(self, state: State) -> None:
        tensors = state.tensors
        settings = self.training or TRAINING[self.preset]
        if not isinstance(self.prior_, PrototypePrior) or self.row_shape_ is None:
            raise CheckpointError("the file's prior is no PrototypePrior.")
        made = make_encoder(int(math.prod(self.row_shape_)), settings.hidden, settings.dropout)
        made.load_state_dict({k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")})
        learner = PrototypeLearner(made, len(self.classes_), self.prior_, settings, device=self.device_)
        dim = tensors["weighted"].shape[1]
        if "head.weight" in tensors:
            learner.head = (tensors["head.weight"].to(self.device_), tensors["head.bias"].to(self.device_))
        learner.prototypes = Prototypes(self.prior_, len(self.classes_), dim, float(state.meta["noise"]))
        for name in ("weighted", "precision", "concentration"):
            setattr(learner.prototypes, name, tensors[name].to(self.device_))
        learner.seen = tensors["seen"].numpy()
        learner._raw_noise = torch.tensor(math.log(float(state.meta["noise"])), device=self.device_)
        self.learner_, self._own_encoder, self.task_names_ = learner, False, None
        self.accuracy_matrix_ = tensors["accuracy"].numpy()
        self.n_tasks_ = len(self.accuracy_matrix_)
        self._scale = Scale(tensors["shift"].numpy(), tensors["scale"].numpy())

    def pictures(self) -> Mapping[str, Picture]:
        """Accuracy of every task after every task."""
        if self.n_tasks_ < 2:
            return {}
        steps = np.arange(1, self.n_tasks_ + 1)
        lines = {}
        for task in range(self.n_tasks_):
            known = np.where(steps > task, self.accuracy_matrix_[:, task], np.nan)
            lines[f"task {task + 1}"] = known
        return {"accuracy": Lines(steps, lines, "tasks learnt", "accuracy", "what is remembered of every task")}

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "sequential-cl", "examples")
        y = np.arange(40) % 4
        X = 2 * np.eye(4)[y] + 0.3 * rng.normal(size=(40, 4))
        tiny = {"training": ProtoSettings(n_epochs=3, hidden=(8, 4), memory=8, batch_size=8), "random_state": 0}
        names = np.array(["low", "high"])[(X[:, 0] > 1).astype(int)]
        return [
            Example("four classes, two tasks", tiny, X, y),
            Example("a class a task", {**tiny, "classes_per_task": 1, "prior": PrototypePrior(2.0)}, X[:, :2], names),
        ]

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """scikit-learn's digits, in pairs of classes."""
        from sklearn import datasets

        digits = datasets.load_digits()
        return {"digits in five tasks": (digits.data, digits.target)}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """The same encoder and steps with all rows at once, nearest class means with replay, and streaming LDA.

        The last keeps no row: class means and one covariance, on random ReLU features.
        """
        from foreknow.functions.sequential_cl.streaming import StreamingLDA

        training = self.training or TRAINING[self.preset]
        return {
            "nearest mean, replay": lambda seed: ProtoCL(
                PrototypePrior(head="nearest"), training=training, random_state=seed
            ),
            "all rows at once, softmax": lambda seed: ProtoCL(
                "off", training=training, classes_per_task=10**6, random_state=seed
            ),
            "streaming LDA, frozen features": lambda seed: StreamingLDA(
                classes_per_task=self.classes_per_task, random_state=seed
            ),
        }

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """HMC that forgets, exact inference that forgets, and prototypes on digits in five tasks."""
        from foreknow.functions.sequential_cl.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    # Own machinery -----------------------------------------------------------------------------------------

    def _measured(
        self, X: NDArray[Any], codes: NDArray[np.int64], number: NDArray[np.int64], test: Any, n_tasks: int
    ) -> list[tuple[NDArray[Any], NDArray[np.int64]]]:
        """Rows of every task that accuracy is measured on: those of training, or the caller's (X, y, tasks)."""
        if test is None:
            return [(X[number == task], codes[number == task]) for task in range(n_tasks)]
        if not isinstance(test, tuple) or len(test) != 3:
            raise InputError("ProtoCL: test must be a tuple (X, y, tasks).")
        rows, labels, tasks = self._read_X(test[0], fitting=False), np.asarray(test[1]), np.asarray(test[2])
        if not len(rows) == len(labels) == len(tasks) or not np.isin(labels, self.classes_).all():
            raise InputError("ProtoCL: test must hold as many labels and tasks as rows, of known classes.")
        own = np.searchsorted(self.classes_, labels)
        names = np.arange(n_tasks) if self.task_names_ is None else np.asarray(self.task_names_)
        found = [(rows[tasks == name], own[tasks == name]) for name in names]
        if any(not len(part) for part, _ in found):
            raise InputError("ProtoCL: test must hold rows of every task.")
        return found
