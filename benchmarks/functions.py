"""Gaussian processes on the same work, with their ratios: fit a few hundred rows, then predict.

    python benchmarks/functions.py [--quick] [--rows 200] [--repeats 3]

Compared are `NNGP` (four ReLU layers, Student t and Gaussian), scikit-learn's exact Gaussian process (RBF) and
GPyTorch's (RBF), each fitted by its own marginal likelihood; as surrogates of Bayesian optimisation, BoTorch's standard
Gaussian process and `IBNN`; and the kernel matrix alone. Optimisers differ and so do the numbers of evaluations of the
likelihood: GPyTorch takes 40 steps of Adam, all others stop by their own rule. Every method predicts means and standard
deviations. Every line is the median of the repeats on one thread, with its time relative to that of each peer; kernel
matrices are relative to that of the RBF kernel.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
import warnings
from collections.abc import Callable
from importlib import metadata

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.core.evidence import environment
from foreknow.functions import IBNN, NNGP
from foreknow.nn.infinite import FullyConnected

Array = NDArray[np.float64]
STEPS = 40


def nngp(prior: str) -> Callable[[Array, Array, Array], Array]:
    def found(X: Array, y: Array, X_new: Array) -> Array:
        predictive = NNGP(prior, max_iterations=STEPS, device="cpu").fit(X, y).predict_dist(X_new)
        mean, _ = predictive.mean(), predictive.variance()
        return np.asarray(mean)

    return found


def sklearn_gp(X: Array, y: Array, X_new: Array) -> Array:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel() * RBF() + WhiteKernel(0.1)
    mean: Array = GaussianProcessRegressor(kernel, normalize_y=True).fit(X, y).predict(X_new, return_std=True)[0]
    return mean


def gpytorch_gp(X: Array, y: Array, X_new: Array) -> Array:
    import gpytorch

    x, target = torch.from_numpy(X), torch.from_numpy((y - y.mean()) / y.std())

    class Model(gpytorch.models.ExactGP):  # type: ignore[misc]
        def __init__(self, likelihood: object) -> None:
            super().__init__(x, target, likelihood)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, rows: torch.Tensor) -> object:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(rows), self.covar_module(rows))

    likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
    model = Model(likelihood).double()
    bound = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model.train()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = -bound(model(x), target)
        loss.backward()
        optimizer.step()
    model.eval()
    likelihood.eval()
    with torch.no_grad():
        found = likelihood(model(torch.from_numpy(X_new)))
        mean, _ = found.mean, found.stddev
        return np.asarray(mean) * y.std() + y.mean()


def botorch_gp(X: Array, y: Array, X_new: Array) -> Array:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    low, high = X.min(0), X.max(0)
    model = SingleTaskGP(torch.from_numpy((X - low) / (high - low)), torch.from_numpy(y)[:, None])
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    with torch.no_grad():
        found = model.posterior(torch.from_numpy((X_new - low) / (high - low)), observation_noise=True)
        mean, _ = found.mean, found.variance.sqrt()
        return np.asarray(mean[:, 0])


def ibnn(X: Array, y: Array, X_new: Array) -> Array:
    low, high = X.min(0), X.max(0)
    target = torch.from_numpy((y - y.mean()) / y.std())[:, None]
    fitted = IBNN().fit(torch.from_numpy((X - low) / (high - low)), target, seed=0)
    predictive = fitted.predictive(torch.from_numpy((X_new - low) / (high - low)))
    mean, _ = predictive.mean(), predictive.variance()
    return np.asarray(mean.detach()) * y.std() + y.mean()


METHODS: dict[str, Callable[[Array, Array, Array], Array]] = {
    "gpytorch exact GP": gpytorch_gp,
    "scikit-learn GP": sklearn_gp,
    "BoTorch standard GP": botorch_gp,
    "IBNN (bnn-bo)": ibnn,
    "NNGP, Student t": nngp("paper"),
    "NNGP, Gaussian (off)": nngp("off"),
}

PEERS = ("gpytorch exact GP", "BoTorch standard GP", "scikit-learn GP")


def timed(call: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="60 rows, one repeat")
    given = parser.parse_args()
    if given.quick:
        given.rows, given.repeats = 60, 1
    torch.set_num_threads(1)
    versions = {name: metadata.version(name) for name in ("gpytorch", "botorch")}
    print(json.dumps({**environment(), **versions, "date": str(datetime.date.today())}))
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2 * given.rows, 8))
    y = np.sin(X[:, 0]) + 0.5 * X[:, 1] ** 2 + 0.2 * rng.normal(size=len(X))
    train, test = slice(0, given.rows), slice(given.rows, None)
    warnings.simplefilter("ignore")
    print(f"{given.rows} rows, 8 columns, fit and predict")
    found: dict[str, tuple[float, float]] = {}
    for name, method in METHODS.items():
        method(X[train][:30], y[train][:30], X[test][:5])  # imports and caches
        error = float(np.sqrt(np.mean((method(X[train], y[train], X[test]) - y[test]) ** 2)))
        found[name] = timed(lambda: method(X[train], y[train], X[test]), given.repeats), error  # noqa: B023
    print(f"{'':24s} {'seconds':>8s}   {'/ GPyTorch':>10s} {'/ BoTorch':>10s} {'/ sklearn':>10s}   RMSE")
    for name, (seconds, error) in found.items():
        ratios = " ".join(f"{seconds / found[peer][0]:8.2f} x" for peer in PEERS)
        print(f"{name:24s} {seconds:8.2f}   {ratios}   {error:.3f}")
    x = torch.from_numpy(rng.normal(size=(1000, 8)))
    print("kernel matrix of 1000 rows, seconds and relative to RBF's")
    base = 0.0
    for name, kernel in (
        ("RBF, cdist", lambda: torch.exp(-0.5 * torch.cdist(x, x).square())),
        ("NNGP, ReLU, 4 layers", lambda: FullyConnected(4, "relu", 2.0, 0.1)(x)),
        ("NTK, ReLU, 4 layers", lambda: FullyConnected(4, "relu", 2.0, 0.1).ntk(x)),
        ("NNGP, GELU, 4 layers", lambda: FullyConnected(4, "gelu", 2.0, 0.1)(x)),
    ):
        seconds = timed(kernel, given.repeats)
        base = base or seconds
        print(f"{name:24s} {seconds:8.3f} s {seconds / base:8.2f} x")


if __name__ == "__main__":
    main()
