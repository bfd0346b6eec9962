"""A small student that predicts what a tabular estimator predicts, in microseconds a row and without its rows.

The labels a student learns from are the teacher's soft predictions of rows that it had not seen (out of fold): a
teacher's predictions of its own context are nearer to the targets than those of new rows would be.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import Tags as SklearnTags
from sklearn.utils.metaestimators import available_if
from torch import nn
from torch.nn import functional as F

from foreknow.common.errors import CapabilityError, CheckpointError, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, seed_of, seeded_init
from foreknow.common.validate import check_int, check_option
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.predictive import Categorical
from foreknow.core.records import from_json, to_json
from foreknow.core.system import NotFittedError
from foreknow.core.targets import labels_from_json, labels_to_json
from foreknow.data.encoder import TableEncoder
from foreknow.data.standardizer import Standardizer
from foreknow.data.table import as_table
from foreknow.tasks.tabular.base import TabularEstimator

KINDS = ("boosting", "mlp")


@dataclass(frozen=True)
class Agreement:
    """How well the student does, on rows that neither it nor its teachers had seen.

    Args:
        n_rows: number of these rows.
        measure: of `teacher` and `student`: "log-loss" in nats (lower is better) or "R2" (higher is better).
        teacher: against the truth.
        student: against the truth.
        between: student against teacher: mean Kullback-Leibler divergence from the teacher's probabilities in nats,
            or R2 of the student against the teacher's predictions.
    """

    n_rows: int
    measure: str
    teacher: float
    student: float
    between: float


class Student(BaseEstimator):  # type: ignore[misc]
    """A plain predictor that imitates a `TabularClassifier` or `TabularRegressor`.

    `teacher.distill()` makes one from a fitted teacher; `fit` fits a teacher first. What is lost: a regression
    student predicts the mean only, no intervals; and predictions are those of the teacher only as far as
    `agreement_` says. The file of an "mlp" student holds no training rows (it does hold names of columns and levels,
    medians and scales, and weights that learnt from them). A "boosting" student cannot be saved by this library:
    scikit-learn's trees have no format but pickle.

    Args:
        teacher: an unfitted or fitted estimator; fitted anew by `fit`.
        kind: "boosting" (histogram gradient boosting on soft labels) or "mlp" (two hidden layers, a few arrays).
        n_folds: parts of the table whose labels come from a teacher fitted to the others; and the share of rows,
            one in `n_folds`, on which agreement is measured.
        n_mixed: artificial rows per row, to have more soft labels: each takes a quarter of its cells from another
            row of its fold, and is labelled by the teacher that saw neither.
        random_state: seed of folds, mixed rows and of the student.

    Attributes:
        classes_: the labels, sorted; of a classification only.
        agreement_: an `Agreement`.
    """

    def __init__(
        self,
        teacher: TabularEstimator,
        *,
        kind: str = "boosting",
        n_folds: int = 5,
        n_mixed: int = 2,
        random_state: int | None = None,
    ) -> None:
        self.teacher = teacher
        self.kind = kind
        self.n_folds = n_folds
        self.n_mixed = n_mixed
        self.random_state = random_state

    def fit(self, X: object, y: object) -> Self:
        """Fit a teacher to the rows and learn from it."""
        return self.learn(clone(self.teacher).fit(X, y))

    def learn(
        self, teacher: TabularEstimator, *, unlabelled: object = None, progress: ProgressCallback | None = None
    ) -> Self:
        """Learn from a fitted teacher.

        Args:
            teacher: fitted; stays as it is.
            unlabelled: rows without targets, which the teacher labels; shape (m, n_features).
            progress: told after every teacher that was fitted to a part of the rows.

        Raises:
            ConfigError: a setting is not allowed.
            InputError: fewer rows than twice `n_folds`, or rows that cannot be used.
        """
        check_option("Student", "kind", self.kind, KINDS)
        check_int("Student", "n_folds", self.n_folds, low=2)
        check_int("Student", "n_mixed", self.n_mixed, low=0)
        teacher._check_fitted()
        seed = seed_of(self.random_state, "student")
        x, y = teacher._x, teacher._y
        if len(x) < 2 * self.n_folds:
            raise InputError(f"Student: {len(x)} rows are too few for {self.n_folds} folds.", hint="Use fewer folds.")
        self.encoder_, self.n_features_in_ = teacher.encoder_, teacher.n_features_in_
        if self._classifies():
            self.classes_ = teacher.classes_
        reporter = Reporter(progress, 2 * self.n_folds + 1)
        held = _folds(y, self.n_folds, seed) == 0
        judged = _refit(teacher, x[~held], y[~held])
        reporter.advance(1, "agreement")
        rows, labels = self._lessons(teacher, x[~held], y[~held], seed, reporter, 1)
        trial = _LEARNERS[self.kind].fit(rows, labels, teacher, seed)
        self.agreement_ = _agreement(_outputs(judged, x[held]), trial(x[held]), y[held], self._classifies())
        rows, labels = self._lessons(teacher, x, y, seed, reporter, 1 + self.n_folds)
        if unlabelled is not None:
            more = self.encoder_.transform(as_table(unlabelled, owner="Student")).x
            rows, labels = np.concatenate([rows, more]), np.concatenate([labels, _outputs(teacher, more)])
        self.learner_ = _LEARNERS[self.kind].fit(rows, labels, teacher, seed)
        return self

    def _lessons(
        self,
        teacher: TabularEstimator,
        x: NDArray[np.float64],
        y: NDArray[Any],
        seed: int,
        reporter: Reporter,
        done: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Encoded rows and soft labels of teachers that saw neither them nor what they were mixed of."""
        rng = numpy_stream(seed, "mixed")
        fold = _folds(y, self.n_folds, seed)
        rows, labels = [], []
        for number in range(self.n_folds):
            own = x[fold == number]
            for _ in range(self.n_mixed):
                other = own[rng.permutation(int((fold == number).sum()))]
                rows.append(np.where(rng.uniform(size=other.shape) < _SHARE, other, x[fold == number]))
            rows.append(own)
            part = _refit(teacher, x[fold != number], y[fold != number])
            labels.append(_outputs(part, np.concatenate(rows[-1 - self.n_mixed :])))
            reporter.advance(done + number + 1, "soft labels")
        return np.concatenate(rows), np.concatenate(labels)

    def predict(self, X: object) -> NDArray[Any]:
        """Predicted class or mean of every row, shape (n_samples,)."""
        found = self._raw(X)
        return np.asarray(self.classes_[found.argmax(axis=1)] if self._classifies() else found[:, 0])

    @available_if(lambda self: self._classifies())  # type: ignore[untyped-decorator]
    def predict_proba(self, X: object) -> NDArray[np.float64]:
        """Probability of every class in `classes_`, shape (n_samples, n_classes)."""
        return self._raw(X)

    def score(self, X: object, y: object) -> float:
        """Accuracy, or R2."""
        measure = accuracy_score if self._classifies() else r2_score
        return float(measure(y, self.predict(X)))

    def save(self, path: str | Path) -> Path:
        """Write an "mlp" student to a safetensors file without training rows.

        Raises:
            CapabilityError: of another kind.
        """
        self._check_fitted()
        if not isinstance(self.learner_, Network):
            raise CapabilityError(
                "Student: a 'boosting' student has no file format but pickle, which this library does not write.",
                hint="Use kind='mlp'.",
            )
        tensors, meta = self.encoder_.state()
        settings = self.get_params(deep=False)
        config = {
            "teacher": {"task": self.teacher._task(), "params": to_json(settings.pop("teacher").get_params())},
            "params": to_json(settings),
            "encoder": meta,
            "n_features_in": self.n_features_in_,
            "classes": labels_to_json(self.classes_) if self._classifies() else None,
            "agreement": asdict(self.agreement_),
        }
        arrays = {f"encoder.{name}": value for name, value in tensors.items()}
        arrays |= {f"network.{name}": value for name, value in self.learner_.arrays().items()}
        stored = {name: torch.as_tensor(value) for name, value in arrays.items()}
        Checkpoint(kind="Student", config=config, tensors=stored, contains_rows=False).save(path)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Student:
        """Read a student that `save` wrote; runs no code from the file.

        Raises:
            CheckpointError: not such a file, or damaged.
        """
        from foreknow.tasks.tabular.classifier import TabularClassifier
        from foreknow.tasks.tabular.regressor import TabularRegressor

        teachers = {"classification": TabularClassifier, "regression": TabularRegressor}
        file = Checkpoint.load(path, kind="Student")
        config, arrays = file.config, {name: tensor.numpy() for name, tensor in file.tensors.items()}

        def part(prefix: str) -> dict[str, NDArray[Any]]:
            return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

        try:
            teacher, params = from_json(config["teacher"]["params"]), from_json(config["params"])
            if not isinstance(teacher, dict) or not isinstance(params, dict):
                raise CheckpointError(f"{Path(path).name}: the settings are not a mapping.")
            student = cls(teachers[config["teacher"]["task"]](**teacher), **params)
            student.encoder_ = TableEncoder.from_state(part("encoder."), config["encoder"])
            student.n_features_in_ = int(config["n_features_in"])
            if student._classifies():
                student.classes_ = labels_from_json(config["classes"])
            student.agreement_ = Agreement(**config["agreement"])
            student.learner_ = Network.of_arrays(part("network."))
            n_outputs = len(student.classes_) if student._classifies() else 1
            student.learner_.check(len(student.encoder_.names_), n_outputs)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise CheckpointError(f"{Path(path).name} does not hold a student: {error}") from error
        return student

    def _raw(self, X: object) -> NDArray[np.float64]:
        self._check_fitted()
        table = as_table(X, owner="Student")
        if table.n_columns != self.n_features_in_:
            raise InputError(
                f"Student: X has {table.n_columns} features, but Student is expecting {self.n_features_in_} features "
                "as input."
            )
        return self.learner_(self.encoder_.transform(table).x)

    def _classifies(self) -> bool:
        return self.teacher._task() == "classification"

    def _check_fitted(self) -> None:
        if not hasattr(self, "learner_"):
            raise NotFittedError("This Student instance is not fitted yet.", hint="Call fit(X, y) first.")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "learner_")

    def __sklearn_tags__(self) -> SklearnTags:
        tags = super().__sklearn_tags__()
        own = self.teacher.__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags = own.estimator_type, own.classifier_tags
        tags.regressor_tags, tags.input_tags, tags.target_tags = own.regressor_tags, own.input_tags, own.target_tags
        return tags


_SHARE = 0.25
"""Share of the cells that a mixed row takes from its other parent."""


class Learner(Protocol):
    """Encoded rows, shape (m, d) -> class probabilities (m, k), or numbers (m, 1)."""

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]: ...

    @classmethod
    def fit(cls, x: NDArray[np.float64], labels: NDArray[np.float64], teacher: TabularEstimator, seed: int) -> Learner:
        """Learn soft labels, shape (n, k) or (n, 1)."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Histogram gradient boosting. Soft labels are rows that come once per class, weighted by its probability."""

    model: Any
    n_outputs: int

    @classmethod
    def fit(cls, x: NDArray[np.float64], labels: NDArray[np.float64], teacher: TabularEstimator, seed: int) -> Trees:
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        common: dict[str, Any] = {
            "categorical_features": teacher._is_categorical, "random_state": seed % 2**32, "early_stopping": False
        }  # fmt: skip
        k = labels.shape[1]
        if teacher._task() == "regression":
            return cls(HistGradientBoostingRegressor(**common).fit(x, labels[:, 0]), 1)
        weights, codes = labels.ravel(), np.tile(np.arange(k), len(x))
        used = weights > 1e-4
        model = HistGradientBoostingClassifier(**common)
        return cls(model.fit(np.repeat(x, k, axis=0)[used], codes[used], sample_weight=weights[used]), k)

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        if not hasattr(self.model, "classes_"):
            return np.asarray(self.model.predict(x)[:, None])
        found = np.zeros((len(x), self.n_outputs))
        found[:, self.model.classes_] = self.model.predict_proba(x)
        return found


@dataclass(frozen=True, eq=False)
class Network:
    """Two hidden layers in numpy: standardised numbers, flags of missing cells, one input per level of a category.

    Args:
        center, scale: of the encoded columns, shape (d,).
        levels: number of levels of a category, 0 for a number, shape (d,).
        flagged: columns whose missing cells have an input of their own, shape (d,).
        weights, biases: of the three layers, (n_in, n_out) and (n_out,), float32.
        target: location and scale of the numbers that were learnt, shape (2,); empty for probabilities.
    """

    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    levels: NDArray[np.int64]
    flagged: NDArray[np.bool_]
    weights: tuple[NDArray[np.float32], ...]
    biases: tuple[NDArray[np.float32], ...]
    target: NDArray[np.float64]

    @classmethod
    def fit(cls, x: NDArray[np.float64], labels: NDArray[np.float64], teacher: TabularEstimator, seed: int) -> Network:
        scaler = Standardizer.fit(x, clip=_CLIP)
        highest = np.where(np.isnan(x), -1, x).max(axis=0)
        levels = np.where(teacher._is_categorical, highest + 1, 0).astype(np.int64)
        flagged = np.asarray(np.isnan(x).any(axis=0))
        empty = cls(scaler.center, scaler.scale, levels, flagged, (), (), np.zeros(0))
        inputs = torch.as_tensor(empty.inputs(x))
        target = np.zeros(0)
        if teacher._task() == "regression":
            spread = float(labels.std())
            target = np.array([labels.mean(), spread if spread > 0 else 1.0])
            labels = (labels - target[0]) / target[1]
        goal = torch.as_tensor(labels, dtype=torch.float32)
        with seeded_init(seed):
            sizes = [inputs.shape[1], _WIDTH, _WIDTH, labels.shape[1]]
            layers = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        network = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_STEPS)
        rng = numpy_stream(seed, "batches")
        with torch.enable_grad():
            for _ in range(_STEPS):
                rows = torch.as_tensor(rng.integers(len(inputs), size=min(_BATCH, len(inputs))))
                found = network(inputs[rows])
                error = F.mse_loss(found, goal[rows]) if len(target) else F.cross_entropy(found, goal[rows])
                optimiser.zero_grad()
                error.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                schedule.step()
        weights = tuple(layer.weight.detach().numpy().T.copy() for layer in layers)
        biases = tuple(layer.bias.detach().numpy().copy() for layer in layers)
        return cls(scaler.center, scaler.scale, levels, flagged, weights, biases, target)

    def inputs(self, x: NDArray[np.float64]) -> NDArray[np.float32]:
        """What the first layer sees of encoded rows, shape (m, p)."""
        number = self.levels == 0
        scaled = Standardizer(self.center[number], self.scale[number], _CLIP).transform(x[:, number])
        hot = [x[:, [j]] == np.arange(self.levels[j]) for j in np.flatnonzero(~number)]
        parts = [np.nan_to_num(scaled), np.isnan(x[:, self.flagged]), *hot]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = []
        for rows in np.array_split(x, max(1, len(x) // 4096)):
            hidden = self.inputs(rows)
            for weight, bias in zip(self.weights[:-1], self.biases[:-1]):
                hidden = np.maximum(hidden @ weight + bias, 0)
            parts.append((hidden @ self.weights[-1] + self.biases[-1]).astype(np.float64))
        found = np.concatenate(parts)
        if len(self.target):
            return np.asarray(found * self.target[1] + self.target[0])
        found = np.exp(found - found.max(axis=1, keepdims=True))
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that it is, by name."""
        own: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        own |= {f"weight{i}": weight for i, weight in enumerate(self.weights)}
        return own | {f"bias{i}": bias for i, bias in enumerate(self.biases)}

    @classmethod
    def of_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Network:
        """The inverse of `arrays`."""
        layers = {name: tuple(arrays[f"{name}{i}"] for i in range(3)) for name in ("weight", "bias")}
        own = {name: arrays[name] for name in _ARRAYS}
        return cls(**own, weights=layers["weight"], biases=layers["bias"])

    def check(self, n_columns: int, n_outputs: int) -> None:
        """Raise CheckpointError if the arrays do not belong together."""
        sizes = [self.center, self.scale, self.levels, self.flagged]
        n_inputs = int((self.levels == 0).sum() + self.flagged.sum() + self.levels.clip(0, 10_000).sum())
        widths = [n_inputs, *(len(bias) for bias in self.biases)]
        fits = all(weight.shape == pair for weight, pair in zip(self.weights, pairwise(widths)))
        if any(size.shape != (n_columns,) for size in sizes) or not fits or widths[-1] != n_outputs:
            raise CheckpointError("the arrays of the student's network do not belong together.")


_ARRAYS = ("center", "scale", "levels", "flagged", "target")
_CLIP, _WIDTH, _STEPS, _BATCH, _RATE = 10.0, 64, 600, 256, 5e-3
_LEARNERS: dict[str, type[Learner]] = {"boosting": Trees, "mlp": Network}


def _folds(y: NDArray[Any], n_folds: int, seed: int) -> NDArray[np.int64]:
    """Number of the fold of every row; every part of the target is dealt out evenly."""
    order = numpy_stream(seed, "folds").permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    fold = np.empty(len(y), dtype=np.int64)
    fold[order] = np.arange(len(y)) % n_folds
    return fold


def _refit(teacher: TabularEstimator, x: NDArray[np.float64], y: NDArray[Any]) -> TabularEstimator:
    """The teacher with some of its encoded rows as context."""
    part = copy.copy(teacher)
    part._prepare(x, teacher._is_categorical, y)
    return part


def _outputs(teacher: TabularEstimator, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Class probabilities (m, k) or means (m, 1) of encoded rows."""
    dist = teacher._predict_encoded(x)
    found = dist.probs if isinstance(dist, Categorical) else dist.mean()[:, None]
    return found.cpu().numpy().astype(np.float64)


def _agreement(
    teacher: NDArray[np.float64], student: NDArray[np.float64], y: NDArray[Any], classifies: bool
) -> Agreement:
    if not classifies:
        truth, theirs, ours = y.astype(np.float64), teacher[:, 0], student[:, 0]
        scores = (r2_score(truth, theirs), r2_score(truth, ours), r2_score(theirs, ours))
        return Agreement(len(y), "R2", *map(float, scores))
    theirs, ours = np.log(teacher.clip(1e-12)), np.log(student.clip(1e-12))
    at = np.arange(len(y)), y
    between = float((teacher * (theirs - ours)).sum(axis=1).mean())
    return Agreement(len(y), "log-loss", float(-theirs[at].mean()), float(-ours[at].mean()), between)
