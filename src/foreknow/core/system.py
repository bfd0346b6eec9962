"""The base of every system: public methods are final and check, convert, time; a paper writes small hooks.

A constructor stores its arguments unchanged; everything is checked and derived in `fit`; what is learnt ends
in an underscore. So clone, grid search, repr and saving work for every system without a line of its own.
"""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import sklearn.exceptions
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags as SklearnTags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from torch import Generator, Tensor

from foreknow.common import errors
from foreknow.common.device import resolve_device
from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import as_matrix, as_vector, check_bool, check_known, check_option, check_real
from foreknow.core.card import Card
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.evidence import Evidence
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json

PRESETS = ("quick", "small", "paper")
"""Sizes of every system: seconds (runs in the suite), <= 10 minutes on 2 cores (the evidence), published."""

TASKS = ("regression", "classification", "none")


class NotFittedError(errors.NotFittedError, sklearn.exceptions.NotFittedError):  # type: ignore[misc]
    """A result was asked for before `fit`; scikit-learn's own error too."""


@dataclass(frozen=True)
class Tags:
    """What a system can do; the shared checks are chosen by these.

    Args:
        transforms: whether `transform` is offered.
        missing_values: whether X may hold NaN.
        row_order_invariant: whether shuffling the rows given to `fit` leaves predictions alone.
        column_order_invariant: whether shuffling the columns does.
        batch_split_invariant: whether predictions of a row do not depend on the rows beside it.
        uses_seed: whether another `random_state` gives another result.
        tolerance: largest absolute difference that counts as equal in these checks.
    """

    transforms: bool = False
    missing_values: bool = False
    row_order_invariant: bool = True
    column_order_invariant: bool = False
    batch_split_invariant: bool = True
    uses_seed: bool = True
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Example:
    """A tiny configuration with data; all shared tests run on it, each in under two seconds."""

    name: str
    params: dict[str, Any]
    X: Any
    y: Any = None
    X_new: Any = None


@dataclass(frozen=True)
class State:
    """What `fit` learnt, for a file: tensors, JSON values, and whether training rows are among the tensors."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    contains_rows: bool = True


_FINAL = ("fit", "predict", "predict_proba", "predict_dist", "transform", "save", "load")
_CLASSES: dict[str, type[System]] = {}


class System(BaseEstimator, ABC):  # type: ignore[misc]
    """Base class of every system.

    A subclass has a constructor that stores its settings (among them `prior`, `random_state`, `device`), and
    writes `_fit`, `_predict_dist` or `_transform`, `_paper_prior`, `_state`, `_restore` and `examples`.
    """

    card: ClassVar[Card]
    tags: ClassVar[Tags] = Tags()
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Shared check -> why it must fail; strict (`foreknow.core.checks`)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in _FINAL:
            if name in cls.__dict__:
                raise TypeError(f"{cls.__name__}.{name} is final; write the hook _{name} instead.")
        if not inspect.isabstract(cls):
            known = _CLASSES.get(cls.__name__, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ConfigError(  # a file names its class: two of one name could not be told apart
                    f"two systems are called {cls.__name__!r}: in {known.__module__} and in {cls.__module__}.",
                    hint="Give the new one another name.",
                )
            _CLASSES[cls.__name__] = cls

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        """Refuse bad settings with a ConfigError; runs first in `fit`."""

    def _task(self) -> str:
        """The kind of target, one of `TASKS`; may depend on the settings."""
        return "none"

    def _read_X(self, X: object, *, fitting: bool) -> Any:
        """The rows as `_fit` and `_predict_dist` want them; by default a finite float64 matrix."""
        return as_matrix(type(self).__name__, X, allow_nan=self.tags.missing_values)

    @abstractmethod
    def _paper_prior(self) -> Prior:
        """The prior of the paper, for `prior="paper"`."""

    def _wrong_prior(self) -> Prior:
        """The placebo of the paper, for `prior="wrong"`: as large and as dear as the right one, and mistaken."""
        raise CapabilityError(f"{type(self).__name__} names no wrong prior.", hint="Use prior='off', or pass a Prior.")

    @abstractmethod
    def _fit(self, X: Any, y: NDArray[Any] | None) -> None:
        """Learn from checked data. Classes come as codes 0..k-1, `classes_` is set already."""

    def _predict_dist(self, X: Any) -> Predictive:
        raise CapabilityError(f"{type(self).__name__} gives no predictive distribution.")

    def _predict(self, X: Any) -> NDArray[Any]:
        dist = self._predict_dist(X)
        if self._task() == "classification":
            return np.asarray(self.classes_[_probabilities(dist).argmax(axis=-1)])
        return np.asarray(dist.mean().detach().cpu().numpy(), dtype=np.float64)

    def _transform(self, X: Any) -> NDArray[Any]:
        raise CapabilityError(f"{type(self).__name__} has no transform.")

    def _state(self) -> State:
        raise CapabilityError(f"{type(self).__name__} cannot be saved.")

    def _restore(self, state: State) -> None:
        raise CapabilityError(f"{type(self).__name__} cannot be loaded.")

    @classmethod
    def examples(cls) -> list[Example]:
        """Two or three tiny configurations with data for the shared tests."""
        raise CapabilityError(f"{cls.__name__} names no examples().", hint="See CONTRIBUTING.md.")

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Run the paper's small proof and return what was measured."""
        raise CapabilityError(f"{cls.__name__} has no proof yet.")

    @classmethod
    def priced_as(cls, task: str) -> System:
        """The configuration that `foreknow price` measures on a target of this task; by default the plain one."""
        return cls(**({"task": task} if "task" in cls._get_param_names() else {}))

    @classmethod
    def priced_on(cls, task: str) -> Mapping[str, Any]:
        """Real data that `foreknow price` takes where the user brings none: name -> table pair (X, y) or source.

        Systems of tables need not name any: the harness has scikit-learn's.
        """
        return {}

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """The strongest simple methods of the field: name -> what builds an unfitted predictor from a seed.

        Systems of tables need not name any: the harness has scikit-learn's and CatBoost.
        """
        return {}

    # Final public methods ----------------------------------------------------------------------------------

    @final
    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the data and settings, resolve the prior and the device, and learn.

        Args:
            X: rows, shape (n_samples, n_features).
            y: targets, shape (n_samples,); not used by systems without a target.

        Returns:
            The system itself.

        Raises:
            ConfigError: a setting is not allowed.
            InputError: the data cannot be used.
        """
        self._check_settings()
        rows = self._read_X(X, fitting=True)
        self._note_columns(X, rows)
        target = self._read_y(y, len(rows))
        self.prior_ = self._resolve_prior()
        self.device_ = resolve_device(getattr(self, "device", "auto"))
        self.seed_ = seed_of(getattr(self, "random_state", None), type(self).__name__)
        with Stopwatch() as watch:
            self._fit(rows, target)
        self.fit_seconds_ = watch.seconds
        return self

    @final
    def predict(self, X: Any, *, quantiles: Sequence[float] | None = None) -> NDArray[Any]:
        """Predicted class or mean of every row, shape (n_samples,).

        Args:
            X: rows, shape (n_samples, n_features).
            quantiles: numbers strictly between 0 and 1; the result then holds these quantiles of every row's
                predictive distribution instead, shape (n_samples, n_quantiles).

        Raises:
            ConfigError: a quantile is not between 0 and 1.
            CapabilityError: quantiles of classes were asked for.
        """
        if quantiles is None:
            return self._predict(self._read_new(X))
        if self._task() == "classification":
            raise CapabilityError(f"{type(self).__name__}: classes have no quantiles.", hint="Use predict_proba.")
        levels = [check_real(type(self).__name__, "quantiles", level) for level in quantiles]
        if not levels or min(levels) <= 0 or max(levels) >= 1:
            raise ConfigError(f"{type(self).__name__}: quantiles must be numbers between 0 and 1, got {quantiles!r}.")
        found = self._predict_dist(self._read_new(X)).quantile(torch.tensor(levels, dtype=torch.float64))
        return np.asarray(found.detach().cpu().numpy(), dtype=np.float64)

    @final
    @available_if(lambda self: self._task() == "classification")  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of every class in `classes_`, shape (n_samples, n_classes); rows sum to one."""
        return _probabilities(self._predict_dist(self._read_new(X)))

    @final
    def predict_dist(self, X: Any) -> Predictive:
        """The predictive distribution of every row, batch shape (n_samples,)."""
        return self._predict_dist(self._read_new(X))

    @final
    @available_if(lambda self: self.tags.transforms)  # type: ignore[untyped-decorator]
    def transform(self, X: Any) -> NDArray[Any]:
        """The rows in the system's own representation."""
        return self._transform(self._read_new(X))

    @final
    def save(self, path: str | Path, *, include_rows: bool = True) -> Path:
        """Write settings and what was learnt to one safetensors file.

        The file's header says whether it contains training rows (an in-context model's file does).

        Args:
            path: of the file.
            include_rows: False refuses to write a file that would contain training rows.

        Raises:
            NotFittedError: before `fit`.
            CapabilityError: the file would contain training rows, and `include_rows` is False.
            ConfigError: a setting cannot be written as JSON.
        """
        self._check_fitted()
        state = self._state()
        if state.contains_rows and not check_bool(type(self).__name__, "include_rows", include_rows):
            raise CapabilityError(
                f"{type(self).__name__}: predictions condition on the training rows, so a saved model contains them.",
                hint="The tabular estimators have distill('mlp'): a student's file holds no rows."
                if hasattr(self, "distill")
                else "Save it with include_rows=True, and share the file only where you may share the rows.",
            )
        common = {
            "seed": self.seed_,
            "n_features_in": getattr(self, "n_features_in_", None),
            "feature_names_in": [str(name) for name in getattr(self, "feature_names_in_", [])],
            "classes": _labels_to_json(self.classes_) if hasattr(self, "classes_") else None,
            "prior": to_json(self.prior_),
        }
        config = {"params": to_json(self.get_params(deep=False)), "fitted": common, "meta": state.meta}
        Checkpoint(
            kind=type(self).__name__,
            config=config,
            tensors=state.tensors,
            training={"card": self.card.slug, "fit_seconds": self.fit_seconds_},
            contains_rows=state.contains_rows,
        ).save(path)
        return Path(path)

    @classmethod
    @final
    def load(cls, path: str | Path, *, device: str | torch.device = "auto") -> Self:
        """Read a system that `save` wrote; runs no code from the file.

        Raises:
            CheckpointError: not such a file, damaged, or of another class.
        """
        checkpoint = Checkpoint.load(path)
        if not inspect.isabstract(cls) and checkpoint.kind != cls.__name__:
            raise CheckpointError(
                f"{Path(path).name} holds a {checkpoint.kind}, not a {cls.__name__}.",
                hint="Use foreknow.load(path), which finds the class by itself.",
            )
        kind = _CLASSES.get(checkpoint.kind)
        if kind is None or not issubclass(kind, cls):
            raise CheckpointError(f"{Path(path).name} holds a {checkpoint.kind!r}, which this version does not know.")
        try:
            params = from_json(checkpoint.config["params"])
            fitted = checkpoint.config["fitted"]
            if not isinstance(params, dict):
                raise CheckpointError(f"{Path(path).name}: the settings are not a mapping.")
            check_known(kind.__name__, params, kind._get_param_names())
            system = kind(**params)
            system.prior_ = _as_prior(from_json(fitted["prior"]))
            system.seed_ = int(fitted["seed"])
            if fitted["n_features_in"] is not None:
                system.n_features_in_ = int(fitted["n_features_in"])
            if fitted["feature_names_in"]:
                system.feature_names_in_ = np.array(fitted["feature_names_in"], dtype=object)
            if fitted["classes"] is not None:
                system.classes_ = _labels_from_json(fitted["classes"])
            system.device_ = resolve_device(device)
            system.fit_seconds_ = float(checkpoint.training.get("fit_seconds", 0.0))
            with seeded_init(0):  # networks draw first weights before they take the stored ones
                system._restore(State(checkpoint.tensors, checkpoint.config["meta"], checkpoint.contains_rows))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{Path(path).name} does not fit {kind.__name__}: {error}") from error
        return system

    @final
    def without_prior(self) -> Self:
        """The control arm: a fresh system with the same settings and its prior switched off."""
        params = self.get_params(deep=False)
        return type(self)(**{**params, "prior": "off"})

    @final
    def with_wrong_prior(self) -> Self:
        """The placebo arm: a fresh system with the same settings and a prior that is mistaken.

        Raises:
            CapabilityError: the paper's system names none.
        """
        self._wrong_prior()
        params = self.get_params(deep=False)
        return type(self)(**{**params, "prior": "wrong"})

    # Shared machinery --------------------------------------------------------------------------------------

    def _stream(self, *names: str) -> Generator:
        """The child random stream `names` of this fit, on the processor."""
        return torch_stream(self.seed_, *names)

    def _resolve_prior(self) -> Prior:
        prior: object = getattr(self, "prior", "paper")
        if isinstance(prior, Prior):
            return prior
        if prior is None:
            raise ConfigError(
                f"{type(self).__name__}: prior must be a Prior, 'paper' or 'off', got None.",
                hint="For the control arm without a prior write prior='off'.",
            )
        check_option(type(self).__name__, "prior", prior, ("paper", "off", "wrong"))
        if prior == "wrong":
            return self._wrong_prior()
        return self._paper_prior().off() if prior == "off" else self._paper_prior()

    def _read_y(self, y: Any, n_rows: int) -> NDArray[Any] | None:
        task = self._task()
        owner = type(self).__name__
        if task == "none":
            return None
        if task == "regression":
            vector = as_vector(owner, y, n=n_rows)
            if np.asarray(y).ndim == 2:
                _warn_of_column(owner)
            return vector
        codes, classes = read_classes(owner, y, n_rows)
        self.classes_ = classes
        return codes

    def _read_new(self, X: Any) -> Any:
        self._check_fitted()
        rows = self._read_X(X, fitting=False)
        width = getattr(rows, "shape", (0, None))[1]
        if width is not None and width != self.n_features_in_:
            raise InputError(
                f"{type(self).__name__}: X has {width} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        return rows

    def _note_columns(self, X: Any, rows: Any) -> None:
        self.n_features_in_ = int(rows.shape[1])
        names = getattr(X, "columns", None)
        if names is not None and all(isinstance(name, str) for name in names):
            self.feature_names_in_ = np.array(list(names), dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _check_fitted(self) -> None:
        if not hasattr(self, "seed_"):
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet.", hint="Call fit(X, y) first."
            )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "seed_")

    def __sklearn_tags__(self) -> SklearnTags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.tags.missing_values
        tags.target_tags.required = self._task() != "none"
        return tags


def load(path: str | Path, *, device: str | torch.device = "auto") -> System:
    """Read any saved system; the class is found by the name in the file's header."""
    from foreknow.core.registry import catalogue

    catalogue()
    return System.load(path, device=device)


def read_classes(owner: str, y: Any, n_rows: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Codes 0..k-1 and the sorted labels of a classification target.

    Raises:
        InputError: no target, wrong length or shape, missing labels, numbers that are not classes, or one class only.
    """
    if y is None:
        raise InputError(f"{owner}: requires y to be passed, but the target y is None.")
    try:
        labels = np.asarray(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{owner}: y cannot be read as an array of labels: {error}") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        _warn_of_column(owner)
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(f"{owner}: y must have one axis, got shape {labels.shape}.")
    if len(labels) != n_rows:
        raise InputError(
            f"{owner}: Found input variables with inconsistent numbers of samples: "
            f"X has {n_rows} rows, y has {len(labels)}."
        )
    missing = np.array([_is_missing(value) for value in labels.tolist()], dtype=bool)
    if missing.any():
        raise InputError(
            f"{owner}: y contains NaN or None, first at row {int(missing.argmax())} ({int(missing.sum())} in all).",
            hint="Fit on the rows whose target is known.",
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise InputError(f"{owner}: y contains infinity.")
    try:
        check_classification_targets(labels)
        classes, codes = np.unique(labels, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"{owner}: {error}", hint="Class labels must be all text or all whole numbers.") from error
    if len(classes) < 2:
        raise InputError(
            f"{owner}: y holds one class only ({classes[0]!r}); at least two classes are needed.",
            hint="Check the target column.",
        )
    return codes.astype(np.int64), classes


def _warn_of_column(owner: str) -> None:
    warnings.warn(
        f"A column-vector y was passed when a 1d array was expected; {owner} uses its one column.",
        sklearn.exceptions.DataConversionWarning,
        stacklevel=5,
    )


def _is_missing(label: object) -> bool:
    """None, NaN, NaT, and pandas.NA (whose comparisons are neither true nor false)."""
    return label is None or type(label).__name__ == "NAType" or bool(label != label)


def _as_prior(value: object) -> Prior:
    if not isinstance(value, Prior):
        raise CheckpointError(f"the stored prior is a {type(value).__name__}, not a Prior.")
    return value


def _probabilities(dist: Predictive) -> NDArray[np.float64]:
    if not isinstance(dist, Categorical):
        raise CapabilityError(f"class probabilities need a categorical distribution, got {type(dist).__name__}.")
    probs = dist.probs.detach().cpu().numpy().astype(np.float64)
    return np.asarray(probs / probs.sum(axis=-1, keepdims=True))


def _labels_to_json(classes: NDArray[Any]) -> dict[str, Any]:
    kind = {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(classes.dtype.kind, "object")
    return {"dtype": kind, "values": classes.tolist()}


def _labels_from_json(stored: dict[str, Any]) -> NDArray[Any]:
    kinds: dict[str, Callable[[list[Any]], NDArray[Any]]] = {
        "bool": lambda values: np.array(values, dtype=bool),
        "int": lambda values: np.array(values, dtype=np.int64),
        "float": lambda values: np.array(values, dtype=np.float64),
        "object": lambda values: np.array(values, dtype=object),
    }
    return kinds[stored["dtype"]](stored["values"])
