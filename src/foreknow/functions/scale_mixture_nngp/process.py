"""Regression with a scale mixture of Gaussian processes: settings, marginal likelihood, fit, prediction.

C = r K + noise I, with K the NNGP kernel of a network whose last layer has variance 1, and r the size of that layer;
targets given s2 are N(0, s2 C). Everything is float64, on standardised inputs and targets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from foreknow.common.errors import ConvergenceError
from foreknow.core.predictive import Predictive
from foreknow.core.records import record
from foreknow.functions.scale_mixture_nngp.prior import FixedScale, InverseGamma, ScalePrior
from foreknow.nn.infinite import Convolutional, FullyConnected
from foreknow.nn.linalg import jittered_cholesky

BOUNDS = {"w_var": (0.05, 30.0), "b_var": (1e-4, 10.0), "readout_var": (1e-6, 1e6), "noise": (1e-6, 10.0)}
STARTS = ((2.0, 0.5, 0.1), (2.0, 0.5, 0.01), (2.0, 2.0, 0.01), (2.0, 0.1, 1e-3))
"""w_var, b_var and noise that the search may begin at besides the given ones: the likeliest is taken."""
PRIOR_BOUNDS = (0.05, 1e4)


@record
@dataclass(frozen=True)
class WideArchitecture:
    """The network whose infinite width is taken.

    Args:
        depth: hidden layers, or convolutions.
        activation: name of the activation.
        residual: whether hidden layers add to what they get.
        image_shape: (channels, height, width) of rows that are images; None for plain rows.
        readout: for images, "flatten" or "pool".
    """

    depth: int = 4
    activation: str = "relu"
    residual: bool = False
    image_shape: tuple[int, int, int] | None = None
    readout: str = "flatten"

    def kernel(self, w_var: Any, b_var: Any) -> FullyConnected | Convolutional:
        """The kernel, its last layer of variance 1 and without a bias."""
        if self.image_shape is None:
            return FullyConnected(self.depth, self.activation, w_var, b_var, 1.0, 0.0, self.residual)
        return Convolutional(
            self.depth,
            self.activation,
            w_var,
            b_var,
            readout=self.readout,
            readout_w_var=1.0,
            readout_b_var=0.0,
            residual=self.residual,
        )

    def shaped(self, x: Tensor) -> Tensor:
        """Rows as the kernel wants them."""
        return x if self.image_shape is None else x.reshape(len(x), *self.image_shape)


@record
@dataclass(frozen=True)
class NNGPSettings:
    """What the marginal likelihood is maximised over.

    Args:
        w_var, b_var: of the hidden layers; weights of variance 1 at first.
        readout_var: size of the last layer.
        noise: variance of the noise, in units of s2.
        prior: of the last layer's variance s2.
    """

    w_var: float = 1.0
    b_var: float = 0.01
    readout_var: float = 1.0
    noise: float = 0.1
    prior: ScalePrior = field(default_factory=InverseGamma)


def fit_hyper(
    architecture: WideArchitecture,
    start: NNGPSettings,
    x: Tensor,
    y: Tensor,
    *,
    fit_prior: bool,
    max_iterations: int,
    n_draws: int,
) -> tuple[NNGPSettings, float, int]:
    """Hyper-parameters at a maximum of the marginal likelihood, its log per row there, and evaluations used.

    The scale of a prior that is `known`, and its parameters, are left alone.
    """
    free = ["w_var", "b_var", "noise"] + ([] if start.prior.known else ["readout_var"])
    names = list(start.prior.parameters) if fit_prior and not start.prior.known else []
    if isinstance(start.prior, FixedScale):
        names = []  # the same as readout_var
    bounds = [BOUNDS[name] for name in free] + [PRIOR_BOUNDS] * len(names)
    first = [getattr(start, name) for name in free] + [start.prior.parameters[name] for name in names]
    low, high = np.log(np.array(bounds)).T
    rows, best = architecture.shaped(x), (np.inf, np.clip(np.log(first), low, high))
    n_calls = 0

    def objective(theta: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        nonlocal best, n_calls
        n_calls += 1
        values = torch.from_numpy(theta).requires_grad_()
        given = dict(zip([*free, *names], values.exp()))
        loss = -_log_marginal(architecture, start, given, names, rows, y, n_draws) / len(y)
        if not bool(loss.isfinite()):
            return 1e10, np.zeros_like(theta)
        (gradient,) = torch.autograd.grad(loss, values)
        value = loss.item()
        if value < best[0]:
            best = (value, theta.copy())
        return value, np.nan_to_num(gradient.numpy())

    def value(theta: np.ndarray[Any, Any]) -> float:
        given = dict(zip([*free, *names], torch.from_numpy(theta).exp()))
        found = -_log_marginal(architecture, start, given, names, rows, y, n_draws).item() / len(y)
        return found if np.isfinite(found) else 1e10

    candidates = [best[1]]
    for guess, size in product(STARTS, (0.1, 1.0)):
        values = {**dict(zip(("w_var", "b_var", "noise"), guess)), "readout_var": size}
        theta = best[1].copy()
        theta[: len(free)] = np.log([values[name] for name in free])
        candidates.append(np.clip(theta, low, high))
    optimize.minimize(
        objective, min(candidates, key=value), jac=True, method="L-BFGS-B", bounds=list(zip(low, high)),
        options={"maxiter": max_iterations, "ftol": 1e-7, "gtol": 1e-4},
    )  # fmt: skip
    if not np.isfinite(best[0]):
        raise ConvergenceError("NNGP: no setting of the kernel gives a finite likelihood.", hint="Look at the inputs.")
    found = dict(zip([*free, *names], (float(value) for value in np.exp(best[1]))))
    prior = start.prior.with_parameters({name: found[name] for name in names})
    return replace(start, **{name: found[name] for name in free}, prior=prior), -best[0], n_calls


def grid_hyper(
    architecture: WideArchitecture, start: NNGPSettings, x: Tensor, y: Tensor, *, fit_prior: bool, n_draws: int
) -> tuple[NNGPSettings, float, int]:
    """The likeliest point of the released grid: w_std, b_std, noise from 1e-6 to 1e4, and a, b in {1, 2, 3}.

    One eigendecomposition of the kernel serves all noises, scales and priors.
    """
    rows, n = architecture.shaped(x), len(y)
    noises = torch.logspace(-6, 4, 11, dtype=torch.float64)
    sizes = torch.ones(1, dtype=torch.float64)
    if not start.prior.known:
        sizes = torch.logspace(-2, 2, 9, dtype=torch.float64)
    priors = [start.prior]
    if fit_prior and isinstance(start.prior, InverseGamma) and not start.prior.known:
        priors = [InverseGamma(a, b) for a, b in product((1.0, 2.0, 3.0), repeat=2)]
    best, best_value, n_calls = start, -np.inf, 0
    for w_std, b_std in product((0.7, 1.0, 1.4, 2.0), (0.0, 0.1, 0.3, 1.0)):
        values, vectors = torch.linalg.eigh(architecture.kernel(w_std**2, b_std**2)(rows))
        squares = (vectors.T @ y).square()
        # Relative to the largest value, since a kernel of exact rank has eigenvalues below 0 by rounding.
        values = values.clamp_min(1e-12 * float(values[-1]))
        for size in sizes.tolist():
            spectrum = size * values + noises[:, None]  # (noises, n)
            q, log_det = (squares / spectrum).sum(1), spectrum.log().sum(1)
            for prior in priors:
                n_calls += len(noises)
                found = torch.stack([prior.log_marginal(*pair, n, n_draws=n_draws) for pair in zip(q, log_det)])
                if float(found.max()) > best_value:
                    best_value = float(found.max())
                    best = NNGPSettings(w_std**2, b_std**2, size, float(noises[found.argmax()]), prior)
    return best, best_value / n, n_calls


def _log_marginal(
    architecture: WideArchitecture,
    start: NNGPSettings,
    given: dict[str, Tensor],
    names: list[str],
    rows: Tensor,
    y: Tensor,
    n_draws: int,
) -> Tensor:
    factor = _factor(architecture, start, given, rows)
    white = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
    log_det = 2 * factor.diagonal().log().sum()
    parameters = [given.get(name, value) for name, value in start.prior.parameters.items()] if names else []
    return start.prior.log_marginal(white.square().sum(), log_det, len(y), *parameters, n_draws=n_draws)


def _factor(architecture: WideArchitecture, hyper: NNGPSettings, given: dict[str, Tensor], rows: Tensor) -> Tensor:
    kernel = architecture.kernel(given.get("w_var", hyper.w_var), given.get("b_var", hyper.b_var))
    k = given.get("readout_var", hyper.readout_var) * kernel(rows)
    eye = torch.eye(len(k), dtype=k.dtype, device=k.device)
    return jittered_cholesky(k + given.get("noise", hyper.noise) * eye)


class Process:
    """A scale mixture of Gaussian processes that has seen rows and targets.

    Args:
        architecture: the network.
        hyper: its settings and the prior of the scale.
        x: rows, shape (n, d), float64.
        y: targets, shape (n,), float64.
        n_draws: of importance sampling.
        importance: whether to sample even where the prior has a closed form.
    """

    def __init__(
        self,
        architecture: WideArchitecture,
        hyper: NNGPSettings,
        x: Tensor,
        y: Tensor,
        *,
        n_draws: int = 500,
        importance: bool = False,
    ) -> None:
        self.architecture, self.hyper, self.x, self.y, self.n_draws = architecture, hyper, x, y, n_draws
        self.importance = importance
        self.factor = _factor(architecture, hyper, {}, architecture.shaped(x))
        self.alpha = torch.cholesky_solve(y[:, None], self.factor)[:, 0]
        self.q = (y * self.alpha).sum()
        self.log_det = 2 * self.factor.diagonal().log().sum()

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (noise included) of each row's target, in units of s2 = 1."""
        kernel, size = self.architecture.kernel(self.hyper.w_var, self.hyper.b_var), self.hyper.readout_var
        means, variances = [], []
        for some in torch.split(x, 2000):
            rows = self.architecture.shaped(some)
            cross = size * kernel(rows, self.architecture.shaped(self.x))
            half = torch.linalg.solve_triangular(self.factor, cross.T, upper=False)
            prior = size * kernel.diag(rows)
            floor = 1e-12 * prior + torch.finfo(x.dtype).tiny
            means.append(cross @ self.alpha)
            variances.append(torch.maximum(prior - half.square().sum(0), floor) + self.hyper.noise)
        return torch.cat(means), torch.cat(variances)

    def predict(self, x: Tensor) -> Predictive:
        """The distribution of each row's target."""
        mean, variance = self.moments(x)
        prior = self.hyper.prior
        predictive = prior.sampled_predictive if self.importance else prior.predictive
        return predictive(mean, variance, self.q, self.log_det, len(self.y), n_draws=self.n_draws)

    @property
    def log_marginal(self) -> float:
        """Log marginal likelihood of the targets."""
        prior = self.hyper.prior
        marginal = prior.sampled_log_marginal if self.importance else prior.log_marginal
        return float(marginal(self.q, self.log_det, len(self.y), n_draws=self.n_draws))
