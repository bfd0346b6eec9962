"""The system `tabpfn` as published: a network fitted to tables from a prior reads yours in one forward pass."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.progress import ProgressCallback
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.evidence import Evidence
from foreknow.core.predictive import Affine, Categorical, Predictive, Transformed
from foreknow.core.prior import Prior
from foreknow.core.records import from_json, to_json
from foreknow.core.registry import register
from foreknow.core.system import PRESETS, Example, State, System, Tags
from foreknow.data.encoder import EncodingNote, TableEncoder
from foreknow.data.table import Table, as_table
from foreknow.tasks.pfn.priors.mixture import MixturePrior
from foreknow.tasks.tabpfn.card import CARD
from foreknow.tasks.tabpfn.members import Member, Preparation, members
from foreknow.tasks.tabpfn.network import TASKS, RowSettings, TableNetwork, build_network, load_network
from foreknow.tasks.tabpfn.training import (
    FORMS,
    NAMES,
    pretrain_network,
    pretrain_published,
    prior_of,
    recipe_of,
    untrained,
)
from foreknow.tasks.tabular import training as stack
from foreknow.trained import shipped

_PRETRAIN: dict[str, Callable[..., dict[str, Any]]] = {
    **dict.fromkeys((*stack.SHIPPED.values(), *stack.ARMS.values()), stack.pretrain_shipped),
    **dict.fromkeys(NAMES.values(), pretrain_published),
}
"""Name of a network of this paper -> what trains it; the first is the default of `foreknow pretrain tabpfn`."""


@dataclass(eq=False)
class _Encoded:
    """A member of the ensemble with its context encoded.

    Args:
        member: its shifts.
        preparation: of its columns.
        columns: which of the table's columns it sees.
        cache: the network's.
    """

    member: Member
    preparation: Preparation
    columns: NDArray[np.int64]
    cache: Any

    def prepared(self, x: NDArray[np.float64], like: Tensor) -> Tensor:
        """The columns of rows as the network wants them, shape (1, m, d)."""
        z = self.preparation(x[:, self.columns])
        z = np.roll(z, -self.member.column_shift, axis=1)
        return torch.as_tensor(z, dtype=like.dtype, device=like.device)[None]


@lru_cache(maxsize=4)
def _shipped(path: Path) -> TableNetwork:
    """A shipped network, read once; nobody changes it."""
    return load_network(path)[0]


@register(CARD)
class TabPFN(System):
    """TabPFN as published: a transformer fitted to tables drawn from a prior predicts yours in one forward pass.

    Nothing is fitted to your rows. `form="rows"` is the published network, one token per row; `form="cells"` its later
    form, a token per cell, which takes missing values and any number of classes. For best results on real tables use
    `foreknow.TabularClassifier`: the network that ships here is small and was trained briefly.

    Args:
        form: "cells" or "rows".
        task: "classification" or "regression".
        weights: "shipped" (the cell form for classes only), "fit" (train the network of `preset` on draws from the
            prior now), or the path of a file that `foreknow pretrain` wrote.
        preset: sizes and training of "fit": "quick" (seconds), "small" (minutes) or "paper" (a GPU).
        n_estimators: members of the ensemble (published: 32, or 3 for speed): cyclic shifts of columns and classes,
            each without and with a power transform of the columns.
        temperature: class logits are divided by it (published: .8).
        max_rows: most context rows a member is given (published: 1000); of larger tables each member sees a
            stratified sample, with a warning.
        prior: "paper" (the row form: the published bag of priors; the cell form: the package's mixture), or "off": the
            same network untrained, which has learnt nothing from the prior.
        random_state: seed of the ensemble's order, of samples and of "fit".
        device: "auto", "cpu", "cuda".

    Attributes:
        notes_: what was dropped or encoded, and why.
        network_: the network, a `torch.nn.Module`.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from foreknow.tasks import TabPFN
        >>> X, y = load_iris(return_X_y=True)
        >>> model = TabPFN(random_state=0).fit(X[::2], y[::2])
        >>> float((model.predict(X[1::2]) == y[1::2]).mean()) > 0.8
        True

    References: Hollmann et al. 2023.
    """

    tags = Tags(missing_values=True, tolerance=1e-3)
    chunk_size = 1024

    def __init__(
        self,
        form: str = "cells",
        *,
        task: str = "classification",
        weights: str = "shipped",
        preset: str = "small",
        n_estimators: int = 4,
        temperature: float = 0.8,
        max_rows: int = 1000,
        prior: Prior | str = "paper",
        random_state: int | None = None,
        device: str = "auto",
    ) -> None:
        self.form = form
        self.task = task
        self.weights = weights
        self.preset = preset
        self.n_estimators = n_estimators
        self.temperature = temperature
        self.max_rows = max_rows
        self.prior = prior
        self.random_state = random_state
        self.device = device

    # Hooks -------------------------------------------------------------------------------------------------

    def _check_settings(self) -> None:
        check_option("TabPFN", "form", self.form, FORMS)
        check_option("TabPFN", "task", self.task, TASKS)
        check_option("TabPFN", "preset", self.preset, PRESETS)
        check_int("TabPFN", "n_estimators", self.n_estimators, low=1)
        check_int("TabPFN", "max_rows", self.max_rows, low=16)
        check_real("TabPFN", "temperature", self.temperature, low=0.0, open_low=True)
        if not isinstance(self.weights, str):
            raise ConfigError(f"TabPFN: weights must be 'shipped', 'fit' or a path, got {self.weights!r}.")
        if isinstance(self.prior, Prior) and self.prior not in (self._paper_prior(), self._paper_prior().off()):
            raise ConfigError(
                "TabPFN: prior must be 'paper' or 'off'; a network is fitted to one mixture.",
                hint="Fit one to your own with foreknow.tasks.tabpfn.training.pretrain_network, save it, and pass "
                "weights=PATH.",
            )

    def _task(self) -> str:
        return self.task if self.task in TASKS else "classification"

    def _paper_prior(self) -> MixturePrior:
        return prior_of(self.form, self.task)

    def _read_X(self, X: object, *, fitting: bool) -> Table:
        return as_table(X, owner=type(self).__name__)

    def _fit(self, X: Table, y: NDArray[Any] | None) -> None:
        assert y is not None  # the base class refuses a missing target
        self.encoder_ = TableEncoder(owner="TabPFN").fit(X)
        self.network_ = self._network()
        self._prepare(self.encoder_.transform(X).x, y)

    @property
    def notes_(self) -> list[EncodingNote]:
        """What was dropped or encoded, and why."""
        return list(self.encoder_.notes_)

    def _predict_dist(self, X: Table) -> Predictive:
        x = self.encoder_.transform(X).x
        parts = []
        with torch.inference_mode():
            for start in range(0, len(x), self.chunk_size):
                rows = x[start : start + self.chunk_size]
                parts.append(torch.stack([self._probabilities(one, rows) for one in self.members_]).mean(dim=0))
        # The floor is far below what single precision can say of a probability.
        logits = torch.cat(parts).clamp_min(1e-12).log()
        if self.task == "classification":
            return Categorical(logits)
        shift, scale = (torch.tensor(value, dtype=logits.dtype, device=logits.device) for value in self._y_scaling)
        return Transformed(self.network_.distribution(logits), Affine(shift, scale))

    def _state(self) -> State:
        encoder_tensors, encoder_meta = self.encoder_.state()
        tensors = {f"encoder.{name}": torch.as_tensor(value) for name, value in encoder_tensors.items()}
        tensors |= {f"network.{name}": tensor for name, tensor in self.network_.state_dict().items()}
        tensors |= {"x": torch.as_tensor(self._x), "y": torch.as_tensor(self._y)}
        meta = {"encoder": encoder_meta, "settings": to_json(self.network_.settings)}
        return State(tensors, meta, contains_rows=True)

    def _restore(self, state: State) -> None:
        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): t for key, t in state.tensors.items() if key.startswith(name)}

        encoder = {name: tensor.numpy() for name, tensor in part("encoder.").items()}
        self.encoder_ = TableEncoder.from_state(encoder, state.meta["encoder"])
        network = build_network(from_json(state.meta["settings"]))
        network.load_state_dict(part("network."))
        self.network_ = network.eval().to(self.device_)
        self._prepare(state.tensors["x"].numpy(), state.tensors["y"].numpy())

    @classmethod
    def examples(cls) -> list[Example]:
        rng = numpy_stream(0, "tabpfn", "examples")
        X = rng.normal(size=(40, 4))
        three = np.array(["low", "middle", "high"])[np.digitize(X[:, 0] + X[:, 1] ** 2, [0.0, 1.0])]
        quick = {"form": "rows", "weights": "fit", "preset": "quick", "n_estimators": 3, "random_state": 0}
        return [
            Example("shipped cells", {"n_estimators": 2, "random_state": 0}, X, (X[:, 0] > 0).astype(int)),
            Example("rows", quick, X, three),
            Example("numbers", {"task": "regression", **quick}, X, X[:, 0] - X[:, 1] ** 2),
        ]

    @classmethod
    def priced_as(cls, task: str) -> System:
        """The estimator that users of this paper are given: `TabularClassifier` or `TabularRegressor`."""
        from foreknow.tasks.tabular.classifier import TabularClassifier
        from foreknow.tasks.tabular.regressor import TabularRegressor

        return TabularClassifier() if task == "classification" else TabularRegressor()

    @classmethod
    def prove(cls, *, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
        """Real tables, what the prior is worth, a network trained from nothing; see `foreknow prove`."""
        from foreknow.tasks.tabpfn.proof import prove

        return prove(preset=preset, seeds=seeds, progress=progress)

    @classmethod
    def pretrain_shipped(cls, name: str | None = None, **options: Any) -> dict[str, Any]:
        """Train (or go on training) one of the networks of this paper; see `foreknow pretrain`."""
        chosen = next(iter(_PRETRAIN)) if name is None else check_option("tabpfn", "weights", name, tuple(_PRETRAIN))
        return _PRETRAIN[chosen](chosen, **options)

    # Own machinery -----------------------------------------------------------------------------------------

    def _network(self) -> TableNetwork:
        """The network these settings ask for, on the device, in evaluation mode."""
        is_on = self.prior_ == self._paper_prior()
        if self.weights == "fit":
            recipe, prior = recipe_of(self.form, self.task, self.preset), self._paper_prior()
            if is_on:
                network, _ = pretrain_network(recipe, prior, seed=self.seed_, device=self.device_)
            else:
                network = untrained(recipe, prior, seed=self.seed_)
            return network.eval().to(self.device_)
        network = self._stored()
        if not is_on:
            borders = None if network.bar is None else network.bar.borders
            network = build_network(network.settings, seed=self.seed_)
            if network.bar is not None and borders is not None:
                network.bar.set_borders(borders)
        elif self.device_.type != "cpu":
            network = copy.deepcopy(network)
        return network.eval().to(self.device_)

    def _stored(self) -> TableNetwork:
        """The network of a file; nobody changes it."""
        if self.weights == "shipped":
            name = NAMES[self.form, self.task]
            if name not in shipped():
                raise ConfigError(
                    f"TabPFN: no network for form={self.form!r}, task={self.task!r} ships with the package.",
                    hint=f"Train it: foreknow pretrain tabpfn --weights {name} --preset small (or paper, on a GPU); "
                    f"then pass weights='pretrained/tabpfn/{name}.safetensors'.",
                )
            return _shipped(shipped()[name])
        network, _ = load_network(self.weights)
        held = "rows" if isinstance(network.settings, RowSettings) else "cells"
        if (held, network.settings.task) != (self.form, self.task):
            raise ConfigError(
                f"TabPFN: {Path(self.weights).name} holds a network for form={held!r}, task={network.settings.task!r}, "
                f"but form={self.form!r}, task={self.task!r} were asked for."
            )
        return network

    def _prepare(self, x: NDArray[np.float64], y: NDArray[Any]) -> None:
        """Encode the context for every member."""
        self._x, self._y = x, y
        n, p = x.shape
        k = len(self.classes_) if self.task == "classification" else 1
        settings = self.network_.settings
        if isinstance(settings, RowSettings) and k > settings.n_classes:
            raise InputError(
                f"TabPFN: y has {k} classes, this network knows at most {settings.n_classes}.",
                hint="Use form='cells' or foreknow.TabularClassifier, which take any number of classes.",
            )
        middle = float(y.mean()) if k == 1 else 0.0
        spread = float(y.std()) if k == 1 else 1.0
        self._y_scaling = middle, spread if spread > 1e-12 * abs(middle) else 1.0
        said = []
        if n > self.max_rows:
            said.append(f"a stratified sample of {self.max_rows} of {n} rows")
        if p > settings.max_features:
            said.append(f"a random choice of {settings.max_features} of {p} columns")
        if said:
            warnings.warn(
                f"TabPFN: each of {self.n_estimators} members sees {' and '.join(said)}; their answers are averaged.",
                ForeknowWarning,
                stacklevel=4,
            )
        chosen = members(self.n_estimators, min(p, settings.max_features), k, self.seed_)
        with torch.inference_mode():
            self.members_ = [self._encode(member, index, k) for index, member in enumerate(chosen)]

    def _encode(self, member: Member, index: int, k: int) -> _Encoded:
        rows = self._rows_of(index, k)
        columns = np.arange(self._x.shape[1])
        most = self.network_.settings.max_features
        if len(columns) > most:
            columns = np.sort(numpy_stream(self.seed_, "columns", str(index)).permutation(columns)[:most])
        x = self._x[rows]
        preparation = Preparation.of(x[:, columns], power=member.power)
        one = _Encoded(member, preparation, columns, None)
        like = next(self.network_.parameters())
        if k == 1:
            target = (self._y[rows] - self._y_scaling[0]) / self._y_scaling[1]
        else:
            target = (self._y[rows] + member.class_shift) % k
        y = torch.as_tensor(target, dtype=like.dtype, device=like.device)[None]
        one.cache = self.network_.encode(one.prepared(x, like), y, n_classes=None if k == 1 else k)
        return one

    def _rows_of(self, index: int, k: int) -> NDArray[np.int64]:
        """Rows of a member: all, or a sample with the classes (or the tenths of the target) in proportion."""
        n = len(self._x)
        if n <= self.max_rows:
            return np.arange(n)
        order = numpy_stream(self.seed_, "rows", str(index)).permutation(n)
        group = self._y[order]
        if k == 1:
            group = group.argsort().argsort() * 10 // n
        # Position of each row within its group as a share of the group: the smallest shares come first.
        position = np.empty(n)
        for code in np.unique(group):
            own = np.flatnonzero(group == code)
            position[own] = np.arange(len(own)) / len(own)
        chosen: NDArray[np.int64] = np.sort(order[np.argsort(position, kind="stable")[: self.max_rows]])
        return chosen

    def _probabilities(self, one: _Encoded, x: NDArray[np.float64]) -> Tensor:
        """Probabilities of classes, or of buckets, shape (m, k), in double precision."""
        like = next(self.network_.parameters())
        logits = self.network_.read(one.cache, one.prepared(x, like))[0].double()
        if self.task == "classification":
            k = len(self.classes_)
            place = (torch.arange(k, device=logits.device) + one.member.class_shift) % k
            logits = logits[:, place] / self.temperature
        return logits.softmax(dim=-1)
