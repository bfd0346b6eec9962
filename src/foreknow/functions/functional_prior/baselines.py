"""The field's plain methods beside a matched prior: deep ensembles and Gaussian processes."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.rng import seed_of, torch_stream
from foreknow.core.predictive import Categorical, Gaussian, GaussianMixture, Predictive
from foreknow.functions.functional_prior.scaling import Scaling
from foreknow.nn.bayes import FlatNetwork, GaussianNoise, Likelihood, Softmax, find_modes, mlp


class DeepEnsemble:
    """Networks trained from several random starts by maximum likelihood (Lakshminarayanan et al. 2017).

    Args:
        hidden: widths.
        n_members: networks.
        noise_variance: of a standardised target.
        n_steps: of Adam.
        task: "regression" or "classification".
        random_state: seed.
        standardize: inputs and target.
    """

    def __init__(
        self, hidden: tuple[int, ...] = (100,), *, n_members: int = 5, noise_variance: float = 0.1, n_steps: int = 1000,
        task: str = "regression", random_state: int = 0, standardize: bool = True,
    ) -> None:  # fmt: skip
        self.hidden, self.n_members, self.noise_variance = hidden, n_members, noise_variance
        self.n_steps, self.task, self.random_state, self.standardize = n_steps, task, random_state, standardize

    def fit(self, X: Any, y: Any) -> Self:
        rows = np.asarray(X, dtype=np.float64)
        likelihood: Likelihood = GaussianNoise(self.noise_variance)
        codes: NDArray[Any] = np.asarray(y)
        if self.task == "classification":
            self.classes_, codes = np.unique(codes, return_inverse=True)
            likelihood = Softmax(max(2, len(self.classes_)))
        codes = codes.astype(np.float64)
        self._scaling = Scaling.of(rows, codes, x=self.standardize, y=self.standardize and self.task == "regression")
        starts = []
        for member in range(self.n_members):  # PyTorch's own initial weights, one network at a time
            seed = seed_of(self.random_state, "ensemble", str(member))
            network = FlatNetwork(mlp(rows.shape[1], likelihood.n_outputs, self.hidden, seed=seed))
            starts.append(network.flatten())
        self._network, self._likelihood = network, likelihood
        self._weights = find_modes(
            network, likelihood, self._scaling.inputs(rows), self._scaling.targets(codes), start=torch.stack(starts),
            n_steps=self.n_steps, generator=torch_stream(self.random_state, "ensemble"),
        )  # fmt: skip
        return self

    def predict_dist(self, X: Any) -> Predictive:
        with torch.no_grad():
            outputs = self._network(self._weights, self._scaling.inputs(np.asarray(X, dtype=np.float64)))
        return predictive(outputs, self._likelihood, self._scaling)

    def predict(self, X: Any) -> NDArray[np.float64]:
        return np.asarray(self.predict_dist(X).mean().numpy())

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        dist = self.predict_dist(X)
        assert isinstance(dist, Categorical)
        return np.asarray(dist.probs.numpy())[:, : len(self.classes_)]


class PlainGP:
    """scikit-learn's Gaussian process on standardised columns, its scales and noise by maximum marginal likelihood."""

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

        rows, target = np.asarray(X, dtype=np.float64), np.asarray(y, dtype=np.float64)
        self._scaling = Scaling.of(rows, target)
        start = np.full(rows.shape[1], (2 * rows.shape[1]) ** 0.5)
        kernel = ConstantKernel(1.0) * RBF(start, (1e-1, 1e3)) + WhiteKernel(0.1, (1e-5, 1e1))
        self._gp = GaussianProcessRegressor(kernel, random_state=self.random_state)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a lengthscale at its bound only says that a column does not matter
            self._gp.fit(self._scaling.inputs(rows).double().numpy(), self._scaling.targets(target).double().numpy())
        return self

    def predict_dist(self, X: Any) -> Predictive:
        rows = self._scaling.inputs(np.asarray(X, dtype=np.float64)).double().numpy()
        mean, sd = self._gp.predict(rows, return_std=True)
        scale, shift = self._scaling.y_scale, self._scaling.y_shift
        return Gaussian(torch.as_tensor(shift + scale * mean), torch.as_tensor(np.maximum(scale * sd, 1e-9 * scale)))

    def predict(self, X: Any) -> NDArray[np.float64]:
        return np.asarray(self.predict_dist(X).mean().numpy())


def predictive(outputs: torch.Tensor, likelihood: Likelihood, scaling: Scaling) -> Predictive:
    """What draws of the outputs (draws, n, n_outputs) say of the targets, in the user's units."""
    if isinstance(likelihood, GaussianNoise):
        means = scaling.y_shift + scaling.y_scale * outputs[..., 0].double().T  # (n, draws)
        sds = torch.full_like(means, scaling.y_scale * likelihood.variance**0.5)
        return GaussianMixture(torch.zeros_like(means), means, sds)
    log_p = outputs.double().log_softmax(-1)
    return Categorical(torch.logsumexp(log_p, 0) - torch.log(torch.tensor(float(len(log_p)))))
