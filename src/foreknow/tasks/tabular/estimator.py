"""`TabularClassifier`: class probabilities for small tables, no tuning, nothing downloaded."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from torch import Tensor
from torch.nn import functional as F

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int
from foreknow.core.predictive import Categorical, Predictive
from foreknow.core.prior import Prior
from foreknow.core.registry import register
from foreknow.core.system import Example, State, System, Tags
from foreknow.data.encoder import EncodingNote, TableEncoder
from foreknow.data.table import Table, as_table
from foreknow.nn.attention import KeysValues
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabular.features import FeatureMap
from foreknow.tasks.tabular.heads import FittedHeads
from foreknow.tasks.tabular.network import StackNetwork, class_frequency
from foreknow.tasks.tabular.priors import paper_prior
from foreknow.tasks.tabular.training import SHIPPED
from foreknow.trained import weights_path


class _Member:
    """One member of the ensemble: its context, encoded once.

    The heads are solved in single precision; rows are read in double, so that a row's probabilities do not
    depend on the rows that are predicted beside it, to some ten digits.
    """

    def __init__(
        self, network: StackNetwork, x: Tensor, codes: Tensor, is_categorical: Tensor, n_classes: int, generator: Any
    ) -> None:
        self.features = FeatureMap.of(x[None], is_categorical[None])
        context = self.features(x[None])
        self.used = (context != 0).flatten(0, 1).any(dim=0)
        self.used[0] |= ~self.used.any()
        labels = F.one_hot(codes, n_classes)[None].float()
        heads = FittedHeads.fit(context[..., self.used].float(), labels, network.settings.heads, generator)
        self.heads = heads.to(torch.float64)
        self.network = network
        self.frequency = class_frequency(labels.double())
        self.cache: list[KeysValues] = network.encode(self.heads.left_out, labels.double(), self.frequency)

    def logits(self, x: Tensor) -> Tensor:
        """Class logits of rows, shape (m, k)."""
        scores = self.heads.predict(self.features(x[None])[..., self.used])
        return self.network.read(self.cache, scores, self.frequency)[0]


@register(CARD, main=False)
class TabularClassifier(ClassifierMixin, System):  # type: ignore[misc]
    """Class probabilities for small tables by one forward pass; nothing is tuned or downloaded.

    `fit` encodes the table, solves some twenty closed-form predictors with leave-one-out scores, and lets a shipped
    network read these scores; the network was fitted to tables drawn from open priors. Text, categories, booleans,
    dates and missing values go in as they are. Best from some 50 to 2000 rows; beyond `max_rows` each member of the
    ensemble sees a stratified sample, with a warning.

    Args:
        n_estimators: members of the ensemble, which differ in their random trees and, on large tables, rows.
        max_rows: most context rows a member uses; cost grows with its cube.
        weights: "shipped" or the path of a network file.
        prior: "paper" (the mixture the network was fitted to; see `foreknow sample`), or "off": the network's
            reading is switched off and the heads are averaged.
        random_state: seed of the random trees and row samples.
        device: "auto", "cpu", "cuda".

    Attributes:
        classes_: the labels, sorted.
        notes_: what was dropped or encoded, and why.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from foreknow import TabularClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> float(TabularClassifier(random_state=0).fit(X[::2], y[::2]).score(X[1::2], y[1::2])) > 0.9
        True
    """

    tags = Tags(missing_values=True, row_order_invariant=True, column_order_invariant=True, tolerance=0.1)
    chunk_size = 2048

    def __init__(
        self,
        *,
        n_estimators: int = 2,
        max_rows: int = 2000,
        weights: str = "shipped",
        prior: Prior | str = "paper",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.n_estimators = n_estimators
        self.max_rows = max_rows
        self.weights = weights
        self.prior = prior
        self.random_state = random_state
        self.device = device

    def _check_settings(self) -> None:
        check_int("TabularClassifier", "n_estimators", self.n_estimators, low=1)
        check_int("TabularClassifier", "max_rows", self.max_rows, low=16)
        if not isinstance(self.weights, str):
            raise ConfigError(f"TabularClassifier: weights must be 'shipped' or a path, got {self.weights!r}.")
        if isinstance(self.prior, Prior) and self.prior not in (paper_prior(), paper_prior().off()):
            raise ConfigError(
                "TabularClassifier: prior must be 'paper' or 'off'; its network was fitted to one mixture.",
                hint="Fit a network to your own prior with foreknow.tasks.tabular.training.pretrain_stack, "
                "save it, and pass weights=PATH.",
            )

    def _task(self) -> str:
        return "classification"

    def _paper_prior(self) -> Prior:
        return paper_prior()

    def _read_X(self, X: object, *, fitting: bool) -> Table:
        return as_table(X, owner=type(self).__name__)

    def _fit(self, X: Table, y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        self.encoder_ = TableEncoder().fit(X)
        encoded = self.encoder_.transform(X)
        if encoded.x.shape[1] == 0:
            raise InputError(
                "TabularClassifier: no usable column is left: all are constant, empty or identifiers.",
                hint="Look at the columns of the table.",
            )
        self._prepare(encoded.x, encoded.is_categorical, y)

    @property
    def notes_(self) -> list[EncodingNote]:
        """What was dropped or encoded, and why."""
        return list(self.encoder_.notes_)

    def _prepare(self, x: NDArray[np.float64], is_categorical: NDArray[np.bool_], codes: NDArray[Any]) -> None:
        self._x, self._is_categorical, self._codes = x, is_categorical, codes
        network = StackNetwork.from_checkpoint(weights_path(SHIPPED) if self.weights == "shipped" else self.weights)
        if self.prior_ != paper_prior():
            network.silence()
        self.network_ = network.to(self.device_).double()
        if len(x) > self.max_rows:
            warnings.warn(
                f"TabularClassifier: {len(x)} rows were given; each of {self.n_estimators} members uses a stratified "
                f"sample of {self.max_rows}.",
                ForeknowWarning,
                stacklevel=4,
            )
        with torch.inference_mode():
            self.members_ = [self._member(index) for index in range(self.n_estimators)]

    def _member(self, index: int) -> _Member:
        rows = self._rows_of(index)
        place = self.device_
        x = _to_tensor(self._x[rows], self._x).to(place)
        codes = torch.as_tensor(self._codes[rows]).to(place)
        categorical = torch.as_tensor(self._is_categorical).to(place)
        return _Member(self.network_, x, codes, categorical, len(self.classes_), self._stream("trees", str(index)))

    def _rows_of(self, index: int) -> NDArray[np.int64]:
        """Rows of a member: all, or a stratified sample with every class in it."""
        n = len(self._x)
        if n <= self.max_rows:
            return np.arange(n)
        order = numpy_stream(self.seed_, "rows", str(index)).permutation(n)
        codes = self._codes[order]
        # Position of each row within its class as a share of the class: the smallest shares come first.
        position = np.empty(n)
        for code in range(len(self.classes_)):
            own = np.flatnonzero(codes == code)
            position[own] = (np.arange(len(own)) + 0.0) / len(own)
        return np.sort(order[np.argsort(position, kind="stable")[: self.max_rows]])

    def _predict_dist(self, X: Table) -> Predictive:
        x = self.encoder_.transform(X).x
        with torch.inference_mode():
            parts = []
            for start in range(0, len(x), self.chunk_size):
                rows = _to_tensor(x[start : start + self.chunk_size], self._x).to(self.device_)
                probs = torch.stack([torch.softmax(member.logits(rows), -1) for member in self.members_])
                parts.append(probs.mean(dim=0))
            return Categorical(torch.cat(parts).clamp_min(1e-12).log())

    def _state(self) -> State:
        encoder_tensors, encoder_meta = self.encoder_.state()
        tensors = {f"encoder.{name}": torch.as_tensor(value) for name, value in encoder_tensors.items()}
        tensors["x"] = torch.as_tensor(self._x)
        tensors["is_categorical"] = torch.as_tensor(self._is_categorical)
        tensors["codes"] = torch.as_tensor(self._codes)
        return State(tensors, {"encoder": encoder_meta}, contains_rows=True)

    def _restore(self, state: State) -> None:
        own = {n.removeprefix("encoder."): t.numpy() for n, t in state.tensors.items() if n.startswith("encoder.")}
        self.encoder_ = TableEncoder.from_state(own, state.meta["encoder"])
        self._prepare(*(state.tensors[name].numpy() for name in ("x", "is_categorical", "codes")))

    @classmethod
    def pretrain_shipped(cls, name: str | None = None, **options: Any) -> dict[str, Any]:
        """Train (or go on training) the network this system ships; see `foreknow pretrain`."""
        from foreknow.tasks.tabular.training import pretrain_shipped

        return pretrain_shipped(name, **options)

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "tabular", "examples")
        X = rng.normal(size=(40, 4))
        three = np.array(["low", "middle", "high"])[np.digitize(X[:, 0] + X[:, 1] ** 2, [0.0, 1.0])]
        return [
            Example("two classes", {"n_estimators": 1, "random_state": 0}, X, (X[:, 0] > 0).astype(int)),
            Example("three classes", {"n_estimators": 2, "random_state": 0}, X, three),
        ]


def _to_tensor(x: NDArray[np.float64], context: NDArray[np.float64]) -> Tensor:
    """Rows after moving and scaling every column by the context's middle and largest distance from it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an all-missing column has no median
        middle = np.nan_to_num(np.nanmedian(context, axis=0))
        spread = np.nanmax(np.abs(context - middle), axis=0)
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    return torch.as_tensor(np.clip((x - middle) / spread, -1e6, 1e6))
