"""What deep kernel machines are compared with: a sparse Gaussian process of gpytorch, and a network."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin

from foreknow.common.deps import available, require
from foreknow.common.rng import numpy_stream, seed_of, seeded_init
from foreknow.core.predictive import Gaussian
from foreknow.nn.inducing import inducing_rows

Floats = NDArray[np.float64]


class _Scaled(RegressorMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Standardised columns and targets around `_learn` and `_moments`."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        rows, target = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        self.x_shift_, scale = rows.mean(axis=0), rows.std(axis=0)
        self.x_scale_ = np.where(scale > 0, scale, 1.0)
        self.y_shift_, self.y_scale_ = float(target.mean()), float(target.std()) or 1.0
        self._learn((rows - self.x_shift_) / self.x_scale_, (target - self.y_shift_) / self.y_scale_)
        return self

    def predict_dist(self, X: ArrayLike) -> Gaussian:
        rows = (np.asarray(X, dtype=np.float64) - self.x_shift_) / self.x_scale_
        mean, sd = self._moments(rows)
        return Gaussian(
            torch.as_tensor(self.y_shift_ + self.y_scale_ * mean), torch.as_tensor(self.y_scale_ * np.maximum(sd, 1e-6))
        )

    def predict(self, X: ArrayLike) -> Floats:
        return np.asarray(self.predict_dist(X).mean().numpy())

    @abstractmethod
    def _learn(self, X: Floats, y: Floats) -> None:
        """Learn from standardised rows and targets."""

    @abstractmethod
    def _moments(self, X: Floats) -> tuple[Floats, Floats]:
        """Means and standard deviations of standardised targets."""


class SparseGP(_Scaled):
    """Stochastic variational Gaussian process of gpytorch: squared exponential with a lengthscale a column.

    Args:
        inducing: number of inducing points.
        n_steps, lr: of Adam, on all rows.
        random_state: seed of the inducing points.
    """

    def __init__(self, inducing: int = 100, n_steps: int = 400, lr: float = 0.05, random_state: int | None = None):
        self.inducing = inducing
        self.n_steps = n_steps
        self.lr = lr
        self.random_state = random_state

    def _learn(self, X: Floats, y: Floats) -> None:
        gpytorch = require("gpytorch", "The sparse Gaussian process")
        points = torch.as_tensor(inducing_rows(X, self.inducing, seed_of(self.random_state, "k-means")))
        x, target = torch.as_tensor(X), torch.as_tensor(y)

        class Model(gpytorch.models.ApproximateGP):  # type: ignore[name-defined, misc]
            def __init__(self) -> None:
                law = gpytorch.variational.CholeskyVariationalDistribution(len(points))
                super().__init__(gpytorch.variational.VariationalStrategy(self, points, law))
                self.mean_module = gpytorch.means.ConstantMean()
                base = gpytorch.kernels.RBFKernel(ard_num_dims=points.shape[1])
                base.lengthscale = math.sqrt(points.shape[1])
                self.covar_module = gpytorch.kernels.ScaleKernel(base)

            def forward(self, rows: torch.Tensor) -> Any:
                return gpytorch.distributions.MultivariateNormal(self.mean_module(rows), self.covar_module(rows))

        with seeded_init(seed_of(self.random_state, "start")):
            model, likelihood = Model().double(), gpytorch.likelihoods.GaussianLikelihood().double()
            likelihood.noise = 0.1
            bound = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(x))
            optimiser = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=self.lr)
            for _ in range(self.n_steps):
                optimiser.zero_grad()
                loss = -bound(model(x), target)
                torch.autograd.backward(loss)
                optimiser.step()
        self.model_, self.likelihood_ = model.eval(), likelihood.eval()

    def _moments(self, X: Floats) -> tuple[Floats, Floats]:
        with torch.no_grad():
            found = self.likelihood_(self.model_(torch.as_tensor(X)))
        return np.asarray(found.mean.numpy()), np.asarray(found.variance.sqrt().numpy())


class MLP(_Scaled):
    """Two hidden layers of scikit-learn, stopped early; its normal has the spread of the rows it did not learn from.

    Args:
        width: of each layer.
        random_state: seed.
    """

    def __init__(self, width: int = 100, random_state: int | None = None) -> None:
        self.width = width
        self.random_state = random_state

    def _learn(self, X: Floats, y: Floats) -> None:
        from sklearn.neural_network import MLPRegressor

        seed = seed_of(self.random_state, "mlp") % 2**32
        order = numpy_stream(self.random_state, "mlp").permutation(len(y))
        held, kept = order[: max(1, len(y) // 5)], order[max(1, len(y) // 5) :]
        settings: dict[str, Any] = {
            "hidden_layer_sizes": (self.width, self.width), "alpha": 1e-2, "early_stopping": len(y) >= 20,
            "max_iter": 300, "random_state": seed,
        }  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = MLPRegressor(**settings).fit(X[kept] if len(kept) else X, y[kept] if len(kept) else y)
            self.spread_ = float(np.sqrt(np.mean((first.predict(X[held]) - y[held]) ** 2)))
            self.network_ = MLPRegressor(**settings).fit(X, y)

    def _moments(self, X: Floats) -> tuple[Floats, Floats]:
        mean = self.network_.predict(X)
        return np.asarray(mean), np.full(len(X), self.spread_)


def plain_arms(task: str) -> Mapping[str, Callable[[int], Any]]:
    """The comparisons of a price: name -> what builds one from a seed."""
    if task == "classification":
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return {
            "logistic regression": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            "histogram boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
        }
    found: dict[str, Callable[[int], Any]] = {"MLP": lambda seed: MLP(random_state=seed)}
    if available("gpytorch"):
        found["SVGP"] = lambda seed: SparseGP(random_state=seed)
    return found
