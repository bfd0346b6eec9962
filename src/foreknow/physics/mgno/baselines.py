"""What operator networks are compared with: the mean field, ridge regression of principal components, and an FNO."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.deps import require
from foreknow.common.device import resolve_device
from foreknow.common.rng import seed_of, seeded_init
from foreknow.common.validate import check_option
from foreknow.nn.fno import FNO, with_position
from foreknow.physics.mgno.training import FieldModel, Fitting, Normaliser, fit_fields

Array = NDArray[np.floating[Any]]
LIBRARIES = ("foreknow", "neuralop")
FNO_LR = 8e-3
"""The highest learning rate of Fourier operators, chosen on other data (other seeds) than what they are shown on."""


class MeanField:
    """The mean of the training outputs, whatever the input."""

    def fit(self, X: Array, y: Array) -> MeanField:
        self.mean_ = np.mean(y, axis=0)
        return self

    def predict(self, X: Array) -> Array:
        return np.repeat(self.mean_[None], len(X), axis=0)


class PCARidge:
    """Ridge regression from all nodes of the inputs to all of the outputs; its strength by exact leave-one-out.

    It is solved in principal components, all that there are: they save memory and change nothing.
    """

    def fit(self, X: Array, y: Array) -> PCARidge:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import RidgeCV

        self.shape_ = y.shape[1:]
        self.inputs_, self.outputs_ = (
            PCA(max(1, min(len(X) - 1, fields[0].size)), svd_solver="full").fit(fields.reshape(len(X), -1))
            for fields in (X, y)
        )
        scores = self.inputs_.transform(X.reshape(len(X), -1))
        largest = float(np.square(scores).sum(0).max()) or 1.0
        self.model_ = RidgeCV(largest * np.geomspace(1e-6, 10.0, 15))
        self.model_.fit(scores, self.outputs_.transform(y.reshape(len(y), -1)))
        return self

    def predict(self, X: Array) -> Array:
        scores = self.model_.predict(self.inputs_.transform(X.reshape(len(X), -1))).reshape(len(X), -1)
        fields: Array = self.outputs_.inverse_transform(scores).reshape(len(X), *self.shape_)
        return fields


class FNORegressor:
    """A Fourier neural operator trained as MgNO is: same loss, epochs, batches and choice of the best epoch.

    Args:
        fitting: how it is trained.
        width, modes, layers: of the network.
        library: whose network it is, "foreknow" or "neuralop" (the package neuraloperator, where it is installed); both
            see the position of every node as two channels more.
        random_state: seed.
        device: where to compute.
    """

    def __init__(
        self,
        fitting: Fitting,
        *,
        width: int = 24,
        modes: int = 12,
        layers: int = 4,
        library: str = "foreknow",
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.fitting = fitting
        self.width, self.modes, self.layers = width, modes, layers
        self.library = check_option("FNORegressor", "library", library, LIBRARIES)
        self.random_state, self.device = random_state, device

    def fit(self, X: Array, y: Array) -> FNORegressor:
        seed = seed_of(self.random_state, "FNORegressor")
        with seeded_init(seed):
            network = self._network(X.shape[1], y.shape[1], min(self.modes, X.shape[2] // 2))
        normalisers = (Normaliser("gaussian", fields.shape[1:]) for fields in (X, y))
        self.model_ = FieldModel(network, *normalisers)
        fit_fields(self.model_, X, y, self.fitting, seed=seed, device=resolve_device(self.device))
        return self

    def _network(self, c_in: int, c_out: int, modes: int) -> nn.Module:
        if self.library == "foreknow":
            return FNO(c_in, c_out, width=self.width, modes=modes, layers=self.layers)
        with warnings.catch_warnings():  # it changes the filters of warnings when it is imported
            models = require("neuralop.models", "The FNO of neuraloperator")
            network: nn.Module = models.FNO(
                n_modes=(2 * modes, 2 * modes), in_channels=c_in + 2, out_channels=c_out, hidden_channels=self.width,
                n_layers=self.layers,
            )  # fmt: skip
        return _Placed(network)

    def predict(self, X: Array) -> Array:
        return self.model_.predict(X)


class _Placed(nn.Module):
    """A network that is given the position beside the fields."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(with_position(x))
        return found
