"""What `TabularClassifier` and `TabularRegressor` share: encoding, members of the ensemble, files."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from torch import Tensor

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int
from foreknow.core.predictive import Predictive
from foreknow.core.prior import Misapplied, Prior, Simulator
from foreknow.core.system import State, System, Tags
from foreknow.data.encoder import EncodingNote, TableEncoder
from foreknow.data.table import Table, as_table
from foreknow.nn.attention import KeysValues
from foreknow.tasks.tabular.features import FeatureMap
from foreknow.tasks.tabular.heads import FittedHeads, Scores
from foreknow.tasks.tabular.network import ClassifierStack, RegressorStack, StackNetwork
from foreknow.tasks.tabular.priors import paper_prior
from foreknow.tasks.tabular.training import SHIPPED
from foreknow.trained import weights_path

if TYPE_CHECKING:
    from foreknow.tasks.tabular.distill import Student
    from foreknow.tasks.tabular.explain import Importance, Shapley


class Member:
    """One member of the ensemble: its context, encoded once.

    The heads are solved in single precision; rows are read in double, so that a row's prediction does not depend
    on the rows that are predicted beside it, to some ten digits.

    Args:
        network: in double precision.
        x: context rows, shape (n, d), of the columns it uses.
        targets: one-hot labels or standardised numbers, shape (n, c).
        is_categorical: columns that hold codes, shape (d,).
        columns: which columns of the encoded table these are, shape (d,).
        balance: of z-scores and ranks, see `FeatureMap`.
        generator: of the random trees.
    """

    def __init__(
        self,
        network: ClassifierStack | RegressorStack,
        x: Tensor,
        targets: Tensor,
        is_categorical: Tensor,
        columns: Tensor,
        balance: float,
        generator: torch.Generator,
    ) -> None:
        self.network, self.columns = network, columns
        self.features = FeatureMap.of(x[None], is_categorical[None], balance)
        context = self.features(x[None])
        self.used = (context != 0).flatten(0, 1).any(dim=0)
        self.used[0] |= ~self.used.any()
        heads = FittedHeads.fit(
            context[..., self.used].float(), targets[None].float(), network.settings.heads, generator
        )
        self.heads = heads.to(torch.float64)
        self.table = network.table_of(self.heads.left_out, targets[None].double())
        self.cache: list[KeysValues] = network.encode(self.heads.left_out, targets[None].double(), self.table)

    def scores(self, x: Tensor) -> Scores:
        """What the heads say about rows of the encoded table, shape (m, d)."""
        return self.heads.predict(self.features(x[None, :, self.columns])[..., self.used])


class TabularEstimator(System):
    """Base of the two estimators; a subclass writes `_targets`, `_predict_encoded` and its task.

    Subclasses share the constructor, so that one setting means one thing.
    """

    tags = Tags(missing_values=True, row_order_invariant=True, column_order_invariant=True)
    chunk_size: ClassVar[int] = 512
    """Rows predicted at a time; memory grows with it times the context rows, and larger blocks leave the cache."""

    def __init__(
        self,
        *,
        n_estimators: int = 1,
        max_rows: int = 2000,
        max_columns: int = 500,
        weights: str = "shipped",
        prior: Prior | str = "paper",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.n_estimators = n_estimators
        self.max_rows = max_rows
        self.max_columns = max_columns
        self.weights = weights
        self.prior = prior
        self.random_state = random_state
        self.device = device

    @abstractmethod
    def _targets(self, y: NDArray[Any]) -> Tensor:
        """Targets of the heads, shape (n, c), of classes or numbers y."""

    @abstractmethod
    def _sample(self, y: NDArray[Any], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """`n` of the rows, in every part of the target."""

    def _check_settings(self) -> None:
        owner = type(self).__name__
        check_int(owner, "n_estimators", self.n_estimators, low=1)
        check_int(owner, "max_rows", self.max_rows, low=16)
        check_int(owner, "max_columns", self.max_columns, low=1)
        if not isinstance(self.weights, str):
            raise ConfigError(f"{owner}: weights must be 'shipped' or a path, got {self.weights!r}.")
        paper = self._paper_prior()
        if isinstance(self.prior, Prior) and self.prior not in (paper, paper.off(), self._wrong_prior()):
            raise ConfigError(
                f"{owner}: prior must be 'paper', 'off' or 'wrong'; its network was fitted to one mixture.",
                hint="Fit a network to your own prior with foreknow.tasks.tabular.training.pretrain_stack, "
                "save it, and pass weights=PATH.",
            )

    def _paper_prior(self) -> Simulator:
        return paper_prior(self._task())

    def _wrong_prior(self) -> Prior:
        return Misapplied(self._paper_prior())

    def _read_X(self, X: object, *, fitting: bool) -> Table:
        return as_table(X, owner=type(self).__name__)

    def _fit(self, X: Table, y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        self.encoder_ = TableEncoder().fit(X)
        encoded = self.encoder_.transform(X)
        if encoded.x.shape[1] == 0:
            raise InputError(
                f"{type(self).__name__}: no usable column is left: all are constant, empty or identifiers.",
                hint="Look at the columns of the table.",
            )
        self._tell_of_samples(*encoded.x.shape)
        self._prepare(encoded.x, encoded.is_categorical, y)

    @property
    def notes_(self) -> list[EncodingNote]:
        """What was dropped or encoded, and why."""
        return list(self.encoder_.notes_)

    def _tell_of_samples(self, n_rows: int, n_columns: int) -> None:
        for n, most, kind in ((n_rows, self.max_rows, "rows"), (n_columns, self.max_columns, "columns")):
            if n > most:
                warnings.warn(
                    f"{type(self).__name__}: the table has {n} {kind}; each of {self.n_estimators} members uses "
                    f"a sample of {most}.",
                    ForeknowWarning,
                    stacklevel=4,
                )

    def _prepare(self, x: NDArray[np.float64], is_categorical: NDArray[np.bool_], y: NDArray[Any]) -> None:
        # Random trees and samples are drawn in an order that the table's contents decide, not that of its rows.
        self._columns, rows = _own_order(x, y)
        self._x, self._is_categorical, self._y = x[rows], is_categorical, y[rows]
        self._centre, self._reach = _middle_and_reach(self._x)
        task = self._task()
        path = weights_path(SHIPPED[task]) if self.weights == "shipped" else self.weights
        network = StackNetwork.from_checkpoint(path, task)
        if self.prior_ == self._wrong_prior():
            network.misapply()
        elif self.prior_ != self._paper_prior():
            network.silence()
        self.network_ = network.to(self.device_).double()
        with torch.inference_mode():
            self.members_ = [self._member(index) for index in range(self.n_estimators)]

    def _member(self, index: int) -> Member:
        rng = numpy_stream(self.seed_, "sample", str(index))
        n, d = self._x.shape
        rows, columns = np.arange(n), self._columns
        if n > self.max_rows:
            rows = np.sort(self._sample(self._y, self.max_rows, rng))
        if d > self.max_columns:
            columns = columns[np.sort(rng.choice(d, self.max_columns, replace=False))]
        place = self.device_
        x = self._scaled(self._x[rows])[:, columns].to(place)
        targets = self._targets(self._y[rows]).to(place)
        categorical = torch.as_tensor(self._is_categorical[columns]).to(place)
        columns_used, generator = torch.as_tensor(columns).to(place), self._stream("trees", str(index))
        balance = _BALANCES[index % len(_BALANCES)]
        return Member(self.network_, x, targets, categorical, columns_used, balance, generator)

    def _scaled(self, x: NDArray[np.float64]) -> Tensor:
        """Rows after moving and scaling every column by the table's middle and largest distance from it."""
        return torch.as_tensor(np.clip((x - self._centre) / self._reach, -1e6, 1e6))

    @abstractmethod
    def _predict_encoded(self, x: NDArray[np.float64]) -> Predictive:
        """Distributions of rows of the encoded table, shape (m, d)."""

    def _predict_dist(self, X: Table) -> Predictive:
        return self._predict_encoded(self.encoder_.transform(X).x)

    def _chunks(self, x: NDArray[np.float64]) -> list[Tensor]:
        """Rows of the encoded table as the members want them, `chunk_size` at a time."""
        return list(torch.split(self._scaled(x).to(self.device_), self.chunk_size))

    def importance(
        self,
        X: object,
        y: object,
        *,
        n_repeats: int = 5,
        random_state: int | None = 0,
        progress: ProgressCallback | None = None,
    ) -> Importance:
        """How much each column matters to the predictions of labelled rows; see `permutation_importance`."""
        from foreknow.tasks.tabular.explain import permutation_importance

        return permutation_importance(self, X, y, n_repeats=n_repeats, random_state=random_state, progress=progress)

    def explain(
        self,
        X: object,
        *,
        background: object = None,
        n_background: int = 16,
        n_permutations: int = 8,
        random_state: int | None = 0,
        progress: ProgressCallback | None = None,
    ) -> Shapley:
        """The share of each column in the prediction of every row; see `shapley_values`."""
        from foreknow.tasks.tabular.explain import shapley_values

        return shapley_values(
            self, X, background=background, n_background=n_background, n_permutations=n_permutations,
            random_state=random_state, progress=progress,
        )  # fmt: skip

    def distill(
        self,
        kind: str = "boosting",
        *,
        n_folds: int = 5,
        n_mixed: int = 2,
        unlabelled: object = None,
        random_state: int | None = 0,
        progress: ProgressCallback | None = None,
    ) -> Student:
        """A small predictor that imitates this one and holds none of its rows; see `Student`."""
        from foreknow.tasks.tabular.distill import Student

        student = Student(clone(self), kind=kind, n_folds=n_folds, n_mixed=n_mixed, random_state=random_state)
        return student.learn(self, unlabelled=unlabelled, progress=progress)

    def _state(self) -> State:
        encoder_tensors, encoder_meta = self.encoder_.state()
        tensors = {f"encoder.{name}": torch.as_tensor(value) for name, value in encoder_tensors.items()}
        tensors["x"] = torch.as_tensor(self._x)
        tensors["is_categorical"] = torch.as_tensor(self._is_categorical)
        tensors["y"] = torch.as_tensor(self._y)
        return State(tensors, {"encoder": encoder_meta}, contains_rows=True)

    def _restore(self, state: State) -> None:
        own = {n.removeprefix("encoder."): t.numpy() for n, t in state.tensors.items() if n.startswith("encoder.")}
        self.encoder_ = TableEncoder.from_state(own, state.meta["encoder"])
        self._prepare(*(state.tensors[name].numpy() for name in ("x", "is_categorical", "y")))

    @classmethod
    def pretrain_shipped(cls, name: str | None = None, **options: Any) -> dict[str, Any]:
        """Train (or go on training) the network this estimator ships; see `foreknow pretrain`."""
        from foreknow.tasks.tabular.training import pretrain_shipped

        return pretrain_shipped(name, **options)


_BALANCES = (0.5, 0.95)
"""Share of z-scores (the rest are ranks) in the distances of even and odd members."""


def _middle_and_reach(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Median of every column and the largest distance from it, 1 where there is none; each of shape (d,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an all-missing column has no median
        middle = np.nan_to_num(np.nanmedian(x, axis=0))
        reach = np.nanmax(np.abs(x - middle), axis=0)
    return middle, np.where(np.isfinite(reach) & (reach > 0), reach, 1.0)


def _own_order(x: NDArray[np.float64], y: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """An order of the columns, and one of the rows, that shuffles and changes of units leave alone."""
    ranks = np.stack([np.unique(column, return_inverse=True)[1] for column in x.T])  # ties share one; NaN the last
    target = np.unique(y, return_inverse=True)[1]
    columns = np.lexsort((ranks.max(axis=1), (ranks**2).sum(axis=1), ranks @ target))
    rows = np.lexsort((*ranks[columns], target))
    return columns.astype(np.int64), rows.astype(np.int64)
