"""The base of every system: public methods are final and check, convert, time; a paper writes small hooks.

A constructor stores its arguments unchanged; everything is checked and derived in `fit`; what is learnt ends
in an underscore. So clone, grid search, repr and saving work for every system without a line of its own.
"""

from __future__ import annotations

import inspect
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
from torch import Generator, Tensor

from foreknow.common import errors
from foreknow.common.device import resolve_device
from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import seed_of, seeded_init, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import as_matrix, check_bool, check_known, check_option, check_real
from foreknow.core.card import Card
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.evidence import Evidence
from foreknow.core.pictures import Picture
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.source import ExampleSource, Sample
from foreknow.core.targets import labels_from_json, labels_to_json, read_arrays, read_classes, read_numbers

PRESETS = ("quick", "small", "paper")
"""Sizes of every system: seconds (runs in the suite), <= 10 minutes on 2 cores (the evidence), published."""

TASKS = ("regression", "classification", "array", "none")
"""Kinds of target: a number, a class, an array of any rank for every row, or none."""

LEARNS_FROM = ("rows", "world")


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
        learns_from: "rows", or "world" where `fit` takes something to act in (a simulator) instead of rows.
    """

    transforms: bool = False
    missing_values: bool = False
    row_order_invariant: bool = True
    column_order_invariant: bool = False
    batch_split_invariant: bool = True
    uses_seed: bool = True
    tolerance: float = 1e-4
    learns_from: str = "rows"

    def __post_init__(self) -> None:
        check_option("Tags", "learns_from", self.learns_from, LEARNS_FROM)


@dataclass(frozen=True)
class Example:
    """A tiny configuration with data; all shared tests run on it, each in under two seconds.

    Args:
        name: of the example.
        params: settings.
        X, y: what `fit` takes.
        X_new: rows to predict; those of training if None.
        named: further inputs of `fit`.
    """

    name: str
    params: dict[str, Any]
    X: Any
    y: Any = None
    X_new: Any = None
    named: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What `fit` learnt, for a file: tensors, JSON values, and whether training rows are among the tensors."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    contains_rows: bool = True


@dataclass(frozen=True)
class Applied:
    """What a saved system made of a user's files.

    Args:
        record: for programs, as JSON types.
        table: column names and rows, for people.
        pictures: by name; the command line writes them beside the other files.
        files: what was written.
    """

    record: dict[str, Any]
    table: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


FILE_IN_FOLDER = "system.safetensors"

_FINAL = ("fit", "predict", "predict_proba", "predict_dist", "transform", "save", "load", "report_to")
_CLASSES: dict[str, type[System]] = {}


class System(BaseEstimator, ABC):  # type: ignore[misc]
    """Base class of every system.

    A subclass has a constructor that stores its settings (among them `prior`, `random_state`, `device`), and
    writes `_fit`, `_predict_dist` or `_transform`, `_paper_prior`, `_state`, `_restore` and `examples`.
    """

    card: ClassVar[Card]
    tags: ClassVar[Tags] = Tags()
    fit_inputs: ClassVar[tuple[str, ...]] = ()
    """What `fit` takes besides X and y, by name: live objects such as a network, which are no settings."""
    saves_as: ClassVar[str] = "file"
    """ "file", or "folder" where there is more to keep than one file holds well."""
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

    def _row_shape(self, rows: Any) -> tuple[int, ...] | None:
        """What the rows of `fit` and of `predict` must have in common: their shape, or None where nothing."""
        return tuple(rows.shape[1:]) if hasattr(rows, "shape") else None

    @abstractmethod
    def _paper_prior(self) -> Prior:
        """The prior of the paper, for `prior="paper"`."""

    def _wrong_prior(self) -> Prior:
        """The placebo of the paper, for `prior="wrong"`: as large and as dear as the right one, and mistaken."""
        raise CapabilityError(f"{type(self).__name__} names no wrong prior.", hint="Use prior='off', or pass a Prior.")

    @abstractmethod
    def _fit(self, X: Any, y: NDArray[Any] | None) -> None:
        """Learn from checked data. Classes come as codes 0..k-1, `classes_` is set already.

        A class with `fit_inputs` takes these too, by name; None where the caller gave none.
        """

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

    def _save_folder(self, folder: Path) -> None:
        """Write what `_state` does not hold into the folder of a system that `saves_as` a folder."""

    def _load_folder(self, folder: Path) -> None:
        """Read what `_save_folder` wrote; runs after `_restore`."""

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

    @classmethod
    def priced_from(cls, path: Path) -> Any:
        """A user's file or folder as a source for `price`; by default the rows of what `read_files` reads.

        Systems of tables need not write this: the harness reads tables.
        """
        sample = cls.read_files([path], {})
        return ExampleSource(path.name, sample.X, sample.y, named=sample.named)

    def plain_baselines(self) -> Mapping[str, Callable[[int], Any]]:
        """The strongest simple methods of the field: name -> what builds an unfitted predictor from a seed.

        Systems of tables need not name any: the harness has scikit-learn's and CatBoost.
        """
        return {}

    def losses(self, model: Any, test: Sample) -> Mapping[str, float]:
        """Losses on held-out data, the smaller the better; the first is the one that is priced.

        Systems of tables need not write this: the harness scores their probabilities and numbers.

        Args:
            model: fitted; this system, one of its control arms, or one of `plain_baselines`.
            test: what was held out.
        """
        raise CapabilityError(f"{type(self).__name__} does not say how it is measured.", hint="Write losses().")

    @classmethod
    def read_files(cls, paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
        """A user's files as `fit` takes them, for `foreknow fit`.

        Args:
            paths: as given, maybe none.
            options: further inputs by name, as text.

        Raises:
            InputError, ConfigError: the files cannot be used, or an option is unknown.
        """
        raise CapabilityError(f"{cls.__name__} reads no files.", hint="Use it from Python; its page says how.")

    def apply_files(
        self, inputs: Sequence[str], out: Path, options: Mapping[str, str], progress: ProgressCallback | None = None
    ) -> Applied:
        """Use a fitted system on a user's files, for `foreknow apply`.

        Args:
            inputs: paths, or whatever else the system works on (a query).
            out: folder for the results; it exists.
            options: by name, as text.
            progress: told how far it is.

        Raises:
            InputError, ConfigError: the inputs cannot be used, or an option is unknown.
        """
        raise CapabilityError(f"{type(self).__name__} applies to no files.", hint="Use it from Python.")

    def pictures(self) -> Mapping[str, Picture]:
        """What a fitted system has learnt, to look at; by name."""
        return {}

    # Final public methods ----------------------------------------------------------------------------------

    @final
    def report_to(self, progress: ProgressCallback | None) -> Self:
        """Tell `progress` how far every later `fit` is; None tells nobody."""
        self._progress = progress
        return self

    @final
    def fit(self, X: Any, y: Any = None, **named: Any) -> Self:
        """Check the data and settings, resolve the prior and the device, and learn.

        Args:
            X: rows, shape (n_samples, ...); or the world to act in.
            y: targets, shape (n_samples,), or (n_samples, ...) for arrays; not used by systems without a target.
            **named: the further inputs that the class lists in `fit_inputs`.

        Returns:
            The system itself.

        Raises:
            ConfigError: a setting is not allowed, or an input is unknown.
            InputError: the data cannot be used.
        """
        check_known(f"{type(self).__name__}.fit", named, self.fit_inputs, what="input")
        self._check_settings()
        rows = self._read_X(X, fitting=True)
        self._note_columns(X, rows)
        target = self._read_y(y, len(rows)) if self.tags.learns_from == "rows" else None
        self.prior_ = self._resolve_prior()
        self.device_ = resolve_device(getattr(self, "device", "auto"))
        self.seed_ = seed_of(getattr(self, "random_state", None), type(self).__name__)
        self._reporter: Reporter | None = None
        with Stopwatch() as watch:
            self._fit(rows, target, **{name: named.get(name) for name in self.fit_inputs})
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
        """Write settings and what was learnt to one safetensors file, or to a folder that holds it and more.

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
        shape = getattr(self, "row_shape_", None)
        common = {
            "seed": self.seed_,
            "row_shape": None if shape is None else list(shape),
            "feature_names_in": [str(name) for name in getattr(self, "feature_names_in_", [])],
            "classes": labels_to_json(self.classes_) if hasattr(self, "classes_") else None,
            "prior": to_json(self.prior_),
        }
        config = {"params": to_json(self.get_params(deep=False)), "fitted": common, "meta": state.meta}
        file = Path(path)
        if self.saves_as == "folder":
            _make_folder(file)
            file = file / FILE_IN_FOLDER
        Checkpoint(
            kind=type(self).__name__,
            config=config,
            tensors=state.tensors,
            training={"card": self.card.slug, "fit_seconds": self.fit_seconds_},
            contains_rows=state.contains_rows,
        ).save(file)
        if self.saves_as == "folder":
            self._save_folder(Path(path))
        return Path(path)

    @classmethod
    @final
    def load(cls, path: str | Path, *, device: str | torch.device = "auto") -> Self:
        """Read a system that `save` wrote; runs no code from the file.

        Raises:
            CheckpointError: not such a file, damaged, or of another class.
        """
        folder = Path(path) if Path(path).is_dir() else None
        checkpoint = Checkpoint.load(path if folder is None else folder / FILE_IN_FOLDER)
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
            shape = fitted["row_shape"] if "row_shape" in fitted else [fitted["n_features_in"]]  # the latter until 0.3
            system._set_row_shape(None if shape is None else tuple(int(size) for size in shape))
            if fitted["feature_names_in"]:
                system.feature_names_in_ = np.array(fitted["feature_names_in"], dtype=object)
            if fitted["classes"] is not None:
                system.classes_ = labels_from_json(fitted["classes"])
            system.device_ = resolve_device(device)
            system.fit_seconds_ = float(checkpoint.training.get("fit_seconds", 0.0))
            with seeded_init(0):  # networks draw first weights before they take the stored ones
                system._restore(State(checkpoint.tensors, checkpoint.config["meta"], checkpoint.contains_rows))
                if folder is not None:
                    system._load_folder(folder)
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

    def _tell(self, done: float, total: float, note: str = "") -> None:
        """Say how far `_fit` is; see `report_to`."""
        if getattr(self, "_progress", None) is None:
            return
        if self._reporter is None or self._reporter.total != total:
            self._reporter = Reporter(self._progress, total)
        self._reporter.advance(done, note)

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
            return read_numbers(owner, y, n_rows)
        if task == "array":
            return read_arrays(owner, y, n_rows)
        codes, self.classes_ = read_classes(owner, y, n_rows)
        return codes

    def _read_new(self, X: Any) -> Any:
        self._check_fitted()
        rows = self._read_X(X, fitting=False)
        shape = self._row_shape(rows)
        if None not in (shape, self.row_shape_) and shape != self.row_shape_:
            if shape is not None and len(shape) == 1:
                raise InputError(
                    f"{type(self).__name__}: X has {shape[0]} features, but {type(self).__name__} is expecting "
                    f"{self.n_features_in_} features as input."
                )
            raise InputError(
                f"{type(self).__name__}: rows of shape {shape} came, but it was fitted to rows of shape "
                f"{self.row_shape_}.",
                hint="Bring rows of the same kind, or fit again.",
            )
        return rows

    def _set_row_shape(self, shape: tuple[int, ...] | None) -> None:
        self.row_shape_ = shape
        if shape:
            self.n_features_in_ = int(shape[0])

    def _note_columns(self, X: Any, rows: Any) -> None:
        self._set_row_shape(self._row_shape(rows))
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


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else str(error.strerror)
        raise InputError(f"cannot use the folder {str(path)!r}: {reason}.", hint="Choose another folder.") from error


def load(path: str | Path, *, device: str | torch.device = "auto") -> System:
    """Read any saved system; the class is found by the name in the file's header."""
    from foreknow.core.registry import catalogue

    catalogue()
    return System.load(path, device=device)


def _as_prior(value: object) -> Prior:
    if not isinstance(value, Prior):
        raise CheckpointError(f"the stored prior is a {type(value).__name__}, not a Prior.")
    return value


def _probabilities(dist: Predictive) -> NDArray[np.float64]:
    if not isinstance(dist, Categorical):
        raise CapabilityError(f"class probabilities need a categorical distribution, got {type(dist).__name__}.")
    probs = dist.probs.detach().cpu().numpy().astype(np.float64)
    return np.asarray(probs / probs.sum(axis=-1, keepdims=True))
