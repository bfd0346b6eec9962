"""What is compared with: the last value, a least-squares power law, and the posterior of the same prior by MCMC."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from foreknow.common.deps import require
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.core.predictive import Gaussian, Predictive
from foreknow.tasks.lc_pfn.prior import CurvePrior

Floats = NDArray[np.float64]
_LEAST_SD = 2e-3
_WIDE_SD = 0.1


class LastValue:
    """Every later value is the last one, give or take the usual change from one epoch to the next."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from epochs (n, 1) and values (n,)."""
        epochs, values = np.asarray(X, dtype=np.float64)[:, 0], np.asarray(y, dtype=np.float64)
        values = values[np.argsort(epochs, kind="stable")]
        self.last = float(values[-1])
        spread = float(np.sqrt(np.square(np.diff(values)).mean())) if len(values) > 1 else _WIDE_SD
        self.sd = max(spread, _LEAST_SD)
        return self

    def predict_dist(self, X: ArrayLike) -> Predictive:
        """A normal distribution for each epoch."""
        mean = torch.full((len(np.asarray(X)),), self.last, dtype=torch.float64)
        return Gaussian(mean, torch.full_like(mean, self.sd))


class PowerLaw:
    """Least squares of c - a t^-alpha, with the residuals' standard deviation; the last value below four points."""

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from epochs (n, 1) and values (n,)."""
        from scipy.optimize import OptimizeWarning, curve_fit

        epochs, values = np.asarray(X, dtype=np.float64)[:, 0], np.asarray(y, dtype=np.float64)
        self.fallback = LastValue().fit(X, y)
        self.found: Floats | None = None
        if len(values) < 4:
            return self
        start = [values.max(), max(values.max() - values.min(), 1e-3), 0.5]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # the covariance is not used
            try:
                self.found, _ = curve_fit(
                    _pow3, epochs, values, p0=start, bounds=([-np.inf, -np.inf, 1e-3], [np.inf, np.inf, 10.0])
                )
            except RuntimeError:  # no convergence
                return self
        residuals = values - _pow3(epochs, *self.found)
        self.sd = max(float(np.sqrt(np.square(residuals).sum() / (len(values) - 3))), _LEAST_SD)
        return self

    def predict_dist(self, X: ArrayLike) -> Predictive:
        """A normal distribution for each epoch."""
        if self.found is None:
            return self.fallback.predict_dist(X)
        mean = torch.as_tensor(_pow3(np.asarray(X, dtype=np.float64)[:, 0], *self.found))
        return Gaussian(mean, torch.full_like(mean, self.sd))


def _pow3(t: Floats, c: float, a: float, alpha: float) -> Floats:
    return np.asarray(c - a * t**-alpha)


@dataclass(frozen=True)
class MCMCSettings:
    """Budget of one chain ensemble: the paper's setting is 100 walkers; the small proof takes a smaller one."""

    n_walkers: int = 32
    n_steps: int = 1500
    burn_in: int = 500
    thin: int = 10


def sample_posterior(
    prior: CurvePrior, epochs: Floats, values: Floats, *, settings: MCMCSettings | None = None, seed: int = 0
) -> torch.Tensor:
    """Parameter vectors drawn from the posterior of `prior` by the affine-invariant ensemble, shape (m, d).

    Walkers start around a least-squares fit, as published: the best of 2000 draws from the prior, refined by BFGS,
    with small steps in every direction that stay within the prior; where the fit leaves the prior, around the draw.

    Args:
        prior: of the curves.
        epochs, values: what is known, shape (n,).
        settings: budget.
        seed: of everything random.
    """
    emcee: Any = require("emcee", "Sampling the posterior by MCMC")
    settings = settings or MCMCSettings()
    rng = numpy_stream(seed, "lc-pfn", "mcmc")
    when, seen = torch.as_tensor(epochs), torch.as_tensor(values)

    def log_prob(theta: Floats) -> Floats:
        vectors = torch.as_tensor(theta)
        found = prior.log_density(vectors) + prior.log_likelihood(vectors, when, seen)
        return np.asarray(torch.where(found.isnan(), -torch.inf, found).numpy())

    start = _start(prior, when, seen, log_prob, rng, settings.n_walkers)
    sampler = emcee.EnsembleSampler(settings.n_walkers, start.shape[1], log_prob, vectorize=True)
    sampler.random_state = np.random.RandomState(seed_of(seed, "lc-pfn", "emcee") % 2**32).get_state()
    sampler.run_mcmc(start, settings.n_steps)
    return torch.as_tensor(sampler.get_chain(discard=settings.burn_in, thin=settings.thin, flat=True))


def _start(
    prior: CurvePrior, when: torch.Tensor, seen: torch.Tensor, log_prob: Any, rng: np.random.Generator, n_walkers: int
) -> Floats:
    from scipy.optimize import minimize

    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    draws = prior.sample(2000, generator=generator, dtype=torch.float64).info["theta"]
    error = (prior.curve(draws, when) - seen).square().sum(-1)
    best = draws[error.argmin()].clone()
    sd = (error.min() / max(len(seen), 1)).sqrt().clamp(min=1e-4)
    best[-1] = sd.log()

    def misfit(theta: Floats) -> tuple[float, Floats]:
        vector = torch.tensor(np.append(theta, float(best[-1])), requires_grad=True)
        loss = (prior.curve(vector, when) - seen).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        assert vector.grad is not None  # it was asked for
        return float(loss.detach()), vector.grad[:-1].nan_to_num().numpy()

    centre = best.numpy()
    if len(seen):
        fitted = minimize(misfit, centre[:-1], jac=True, method="BFGS", options={"maxiter": 100})
        residual = max(float(np.sqrt(fitted.fun / len(seen))), 1e-4)
        candidate = np.append(fitted.x, np.log(residual))
        centre = candidate if np.isfinite(log_prob(candidate[None]))[0] else centre
    spread = draws.std(0).numpy()
    walkers: list[Floats] = []
    scale = 0.1
    while len(walkers) < n_walkers:
        tried = centre + scale * spread * rng.standard_normal((4 * n_walkers, len(centre)))
        walkers.extend(tried[np.isfinite(log_prob(tried))])
        scale *= 0.7
        if scale < 1e-6:  # the centre lies on the prior's edge: draws that the prior keeps, the likeliest first
            order = np.argsort(-log_prob(draws.numpy()))
            walkers.extend(draws.numpy()[order[: n_walkers - len(walkers)]])
    return np.stack(walkers[:n_walkers])
