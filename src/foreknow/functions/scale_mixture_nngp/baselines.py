"""Plain methods of the proof: rows and targets in, distributions of new targets out."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.rng import seeded_init
from foreknow.core.predictive import Gaussian, GaussianMixture, Predictive

Array = NDArray[np.float64]


def sklearn_gp(X: Array, y: Array, X_new: Array) -> Predictive:
    """scikit-learn's Gaussian process, RBF kernel with one lengthscale and noise, by marginal likelihood."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X)
    kernel = ConstantKernel(1.0) * RBF(np.sqrt(X.shape[1])) + WhiteKernel(0.1, (1e-6, 10.0))
    model = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(scaler.transform(X), y)
    mean, sd = model.predict(scaler.transform(X_new), return_std=True)
    return Gaussian(torch.from_numpy(mean), torch.from_numpy(sd).clamp_min(1e-12))


def linear(X: Array, y: Array, X_new: Array) -> Predictive:
    """Bayesian linear regression with fitted precisions."""
    from sklearn.linear_model import BayesianRidge
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(X)
    mean, sd = BayesianRidge().fit(scaler.transform(X), y).predict(scaler.transform(X_new), return_std=True)
    return Gaussian(torch.from_numpy(mean), torch.from_numpy(sd))


def student_noise_gp(X: Array, y: Array, X_new: Array, *, n_steps: int = 150) -> Predictive:
    """A Gaussian process with Student t *noise*, which is another model: each row has a scale of its own.

    Variational, with all training rows as inducing points; the predictive is a fine mixture of normals (the t as a
    mixture over its precision, the latent integrated exactly).
    """
    gpytorch = require("gpytorch", "The Gaussian process with Student t noise")
    center, scale = X.mean(0), np.where(X.std(0) > 0, X.std(0), 1.0)
    x, x_new = (torch.from_numpy((rows - center) / scale) for rows in (X, X_new))
    middle, spread = float(np.median(y)), float(y.std()) or 1.0
    target = torch.from_numpy((y - middle) / spread)

    class Model(gpytorch.models.ApproximateGP):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            posterior = gpytorch.variational.CholeskyVariationalDistribution(len(x))
            strategy = gpytorch.variational.VariationalStrategy(self, x, posterior, learn_inducing_locations=False)
            super().__init__(strategy)
            self.mean_module = gpytorch.means.ConstantMean()
            self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())

        def forward(self, rows: torch.Tensor) -> object:
            return gpytorch.distributions.MultivariateNormal(self.mean_module(rows), self.covar_module(rows))

    model, likelihood = Model().double(), gpytorch.likelihoods.StudentTLikelihood().double()
    model.covar_module.base_kernel.lengthscale = float(np.sqrt(X.shape[1]))
    likelihood.noise = 0.1
    bound = gpytorch.mlls.VariationalELBO(likelihood, model, len(x))
    optimizer = torch.optim.Adam([*model.parameters(), *likelihood.parameters()], lr=0.05)
    model.train()
    with seeded_init(0):  # its variational mean starts at random
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss = -bound(model(x), target)
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        latent = model(x_new)
        df, noise = float(likelihood.deg_free), float(likelihood.noise)
        u = ((torch.arange(200, dtype=torch.float64) + 0.5) / 200).numpy()
        from scipy.special import gammaincinv

        factors = torch.from_numpy(0.5 * df / gammaincinv(0.5 * df, u))  # df / chi-squared, at midpoints
        sds = (latent.variance[:, None] + noise * factors).sqrt()
        mixture = GaussianMixture(torch.zeros_like(sds), latent.mean[:, None].expand_as(sds), sds)
    from foreknow.core.predictive import Affine, Transformed

    return Transformed(mixture, Affine(middle, spread))
