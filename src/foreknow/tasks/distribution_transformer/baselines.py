"""What is compared with: importance sampling, particle and Kalman filters, a Gaussian-sum filter, SVI and NUTS."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.deps import require
from foreknow.common.rng import seed_of, torch_stream
from foreknow.core.predictive import Empirical, Gaussian, MultivariateMixture
from foreknow.tasks.distribution_transformer.families import Family
from foreknow.tasks.distribution_transformer.filtering import LinearMotion, Motion
from foreknow.tasks.distribution_transformer.observing import HasLikelihood, Observations, RangeBearing, RangeFinder
from foreknow.tasks.distribution_transformer.oracles import range_posterior
from foreknow.tasks.distribution_transformer.supports import from_real

Floats = NDArray[np.float64]
_LOG_2PI = math.log(2 * math.pi)
_SHARE_OF_PRIOR = 1e-3


def importance_sampling(
    family: Family,
    params: Tensor,
    model: HasLikelihood,
    observations: Observations,
    n_draws: int,
    generator: torch.Generator,
) -> Empirical:
    """Draws of T(x) from priors (n, p) over one number, weighted by the likelihood; batch (n,)."""
    many = params.expand(n_draws, *params.shape).reshape(-1, params.shape[-1])
    t = family.sample(many, generator).reshape(n_draws, len(params), -1)
    log_weights = model.log_likelihood(from_real(t, family.supports), observations)
    log_weights = torch.nan_to_num(log_weights, nan=-1e30, neginf=-1e30)
    return Empirical(t[..., 0], log_weights.softmax(0))


def with_prior(log_density: Tensor, log_prior: Tensor) -> Tensor:
    """Log density with a thousandth of what was believed at first mixed in.

    Kernels on draws, or a filter that has lost its track, would otherwise pay thousands of nats for one far state.
    """
    return torch.logaddexp(log_density + math.log1p(-_SHARE_OF_PRIOR), log_prior + math.log(_SHARE_OF_PRIOR))


def matched_normal(mean: Tensor, variance: Tensor) -> Gaussian:
    """The normal distribution of T(x) with the exact posterior's moments: a log-normal one of a positive x."""
    return Gaussian(mean, variance.sqrt())


# Filters --------------------------------------------------------------------------------------------------------


@dataclass
class Track:
    """What a filter says of S series at T steps: log density of the true states and estimates.

    Args:
        log_density: shape (T, S).
        mean: estimates, shape (T, S, d).
        seconds: of the whole run, all series side by side.
        cdf: P(position <= the true one), shape (T, S), where it is known.
    """

    log_density: Tensor
    mean: Tensor
    seconds: float = 0.0
    cdf: Tensor | None = None


class ParticleFilter:
    """A bootstrap particle filter of many series side by side, with systematic resampling below half the particles.

    Args:
        motion: of the states.
        model: with `log_likelihood`.
        n_particles: a series.
        generator: of all draws.
    """

    def __init__(self, motion: Motion, model: HasLikelihood, n_particles: int, generator: torch.Generator) -> None:
        self.motion, self.model, self.n, self.generator = motion, model, n_particles, generator

    def start(self, belief: MultivariateMixture) -> Self:
        """Draw the first particles from beliefs, batch (S,)."""
        self.states = belief.sample(self.n, generator=self.generator).double()  # (N, S, d)
        self.log_weights = torch.full(self.states.shape[:2], -math.log(self.n), dtype=torch.float64)
        return self

    def step(self, observations: Observations) -> None:
        """Move the particles and weigh them."""
        effective = 1 / (2 * self.log_weights).exp().sum(0)
        poor = effective < 0.5 * self.n
        if bool(poor.any()):
            self._resample(poor)
        self.states = self.motion.move(self.states, self.generator)
        joint = self.log_weights + self.model.log_likelihood(self.states, observations)
        self.log_weights = joint.log_softmax(0)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means (S, d) and covariances (S, d, d)."""
        w = self.log_weights.exp().unsqueeze(-1)
        mean = (w * self.states).sum(0)
        away = self.states - mean
        cov = torch.einsum("nsi,nsj->sij", w * away, away)
        size = cov.diagonal(dim1=-2, dim2=-1).mean(-1).clamp(min=1e-9)
        return mean, cov + 1e-4 * size[:, None, None] * torch.eye(cov.shape[-1], dtype=cov.dtype)

    def log_density(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """At states (S, d): of the normal with the same moments, and of normal kernels with Silverman's bandwidth."""
        mean, cov = self.moments()
        d = cov.shape[-1]
        factor = torch.linalg.cholesky(cov)
        effective = 1 / (2 * self.log_weights).exp().sum(0)
        width = (effective * (d + 2) / 4) ** (-1 / (d + 4))  # (S,)
        log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        white = torch.linalg.solve_triangular(factor, (states - mean).unsqueeze(-1), upper=False)[..., 0]
        normal = -0.5 * white.square().sum(-1) - log_scale - 0.5 * d * _LOG_2PI
        away = (states - self.states).permute(1, 2, 0)  # (S, d, N)
        z = torch.linalg.solve_triangular(factor, away, upper=False) / width[:, None, None]
        kernel = -0.5 * z.square().sum(1) - (log_scale + d * width.log() + 0.5 * d * _LOG_2PI).unsqueeze(-1)
        return normal, torch.logsumexp(kernel + self.log_weights.T, -1)

    def _resample(self, poor: Tensor) -> None:
        """Systematic resampling of the series in `poor`."""
        weights = self.log_weights[:, poor].exp().T  # (s, N)
        u = torch.rand(len(weights), 1, generator=self.generator, dtype=torch.float64)
        points = (torch.arange(self.n, dtype=torch.float64) + u) / self.n
        chosen = torch.searchsorted(weights.cumsum(-1).contiguous(), points).clamp(max=self.n - 1)
        columns = self.states[:, poor].transpose(0, 1)  # (s, N, d)
        picked = columns.gather(1, chosen.unsqueeze(-1).expand_as(columns))
        self.states = self.states.clone()
        self.states[:, poor] = picked.transpose(0, 1)
        self.log_weights = self.log_weights.clone()
        self.log_weights[:, poor] = -math.log(self.n)


class GaussianSumFilter:
    """The exact update of a range with clutter, merged back to `n_components` after every step.

    Args:
        motion: linear.
        finder: of the ranges.
        n_components: kept.
    """

    def __init__(self, motion: Motion, finder: RangeFinder, n_components: int = 8) -> None:
        self.motion, self.finder, self.n = motion, finder, n_components

    def step(self, belief: MultivariateMixture, observations: Observations) -> MultivariateMixture:
        """The belief after one step."""
        moved = self.motion.predict(belief)
        after = range_posterior(moved, self.finder, observations)
        return after.with_components(self.n) if after.n_components > self.n else after


@dataclass(frozen=True)
class Sensor:
    """A number that is seen of a state.

    Args:
        function: state (d,) -> number.
        jacobian: state (d,) -> its derivatives (d,).
        sd: of the noise.
        gate: readings farther than this many standard deviations of the innovation are left out, or None.
        is_angle: whether differences are those of angles, in radians.
    """

    function: Callable[[Floats], float]
    jacobian: Callable[[Floats], Floats]
    sd: float
    gate: float | None = None
    is_angle: bool = False

    def off(self, state: Floats, z: float) -> float:
        """What would be seen in a state, minus what was."""
        gap = float(self.function(state)) - z
        return math.remainder(gap, 2 * math.pi) if self.is_angle else gap


def range_sensors(finder: RangeFinder, gate: float | None) -> dict[str, Sensor]:
    """Of the distance to a wall; clutter is what the gate leaves out."""
    return {"range": Sensor(lambda x: x[0], lambda x: np.eye(len(x))[0], finder.sd, gate)}


def plane_sensors(model: RangeBearing, gate: float | None) -> dict[str, Sensor]:
    """Of distance and angle, seen from the origin of the plane."""

    def radius(x: Floats) -> float:
        return max(math.hypot(x[0], x[1]), 1e-6)

    return {
        "range": Sensor(radius, lambda x: np.array([x[0], x[1], 0.0, 0.0]) / radius(x), model.finder.sd, gate),
        "bearing": Sensor(
            lambda x: math.atan2(x[1], x[0]), lambda x: np.array([-x[1], x[0], 0.0, 0.0]) / radius(x) ** 2,
            model.bearing_sd, is_angle=True,
        ),
    }  # fmt: skip


class KalmanTracker:
    """filterpy's extended or unscented Kalman filter, one sensor after the other; a sensor's noise is that of a hit.

    Args:
        motion: linear.
        sensors: by name.
        kind: "extended" or "unscented".
    """

    def __init__(self, motion: LinearMotion, sensors: Mapping[str, Sensor], kind: str) -> None:
        self.motion, self.sensors, self.kind = motion, sensors, kind

    def run(self, mean: Floats, cov: Floats, seen: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        """Means (T, d) and covariances (T, d, d) of one series of readings (T,) a sensor, NaN where there is none."""
        flt = self._filter(mean, cov)
        means, covs = [], []
        for t in range(len(next(iter(seen.values())))):
            flt.predict()
            for name, sensor in self.sensors.items():
                z, row = float(seen[name][t]), sensor.jacobian(flt.x)
                sd = math.sqrt(row @ flt.P @ row + sensor.sd**2)
                if math.isfinite(z) and (sensor.gate is None or abs(sensor.off(flt.x, z)) <= sensor.gate * sd):
                    self._update(flt, sensor, z)
            means.append(np.array(flt.x, dtype=np.float64))
            covs.append(np.array(flt.P, dtype=np.float64))
        return np.stack(means), np.stack(covs)

    def _filter(self, mean: Floats, cov: Floats) -> Any:
        kalman: Any = require("filterpy.kalman", "The Kalman filters to compare with")
        a, d = self.motion.matrix.numpy(), self.motion.n_dims
        shift = np.zeros(d) if self.motion.shift is None else self.motion.shift.numpy()
        if self.kind == "extended":
            flt = kalman.ExtendedKalmanFilter(dim_x=d, dim_z=1)
            flt.predict_x = lambda u: setattr(flt, "x", a @ flt.x + shift)
            flt.F = a
        else:
            points = kalman.MerweScaledSigmaPoints(d, alpha=0.5, beta=2.0, kappa=0.0)
            flt = kalman.UnscentedKalmanFilter(d, 1, dt=1.0, hx=None, fx=lambda x, dt: a @ x + shift, points=points)
        flt.x, flt.P, flt.Q = mean.copy(), cov.copy(), self.motion.noise.numpy()
        return flt

    def _update(self, flt: Any, sensor: Sensor, z: float) -> None:
        """The reading as a difference of 0, so that angles near it do not wrap."""

        def off(x: Floats) -> Floats:
            return np.array([sensor.off(x, z)])

        noise = np.array([[sensor.sd**2]])
        if self.kind == "extended":
            flt.update(np.zeros(1), lambda x: sensor.jacobian(x)[None], off, R=noise)
        else:
            flt.sigmas_f = flt.points_fn.sigma_points(flt.x, flt.P)
            flt.update(np.zeros(1), R=noise, hx=off)
        flt.P = 0.5 * (flt.P + flt.P.T)


# Probabilistic programs -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProgramBudget:
    """Steps of SVI; warm-up and draws of NUTS."""

    svi_steps: int = 300
    lr: float = 0.05
    warmup: int = 100
    draws: int = 300


LogDensity = Callable[[Tensor], Tensor]
"""Unnormalised log density of T(x) (d,) -> a number."""


def svi(log_density: LogDensity, start: Tensor, *, budget: ProgramBudget, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (d,) of the normal guide of T(x) that pyro's SVI finds."""
    pyro: Any = require("pyro", "SVI")
    infer: Any = require("pyro.infer", "SVI")
    dist: Any = require("pyro.distributions", "SVI")
    optim: Any = require("pyro.optim", "SVI")
    with _own_random_state(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyro.clear_param_store()

        def model() -> None:
            t = pyro.sample("t", dist.Normal(torch.zeros_like(start), 1e3).to_event(1).mask(False))
            pyro.factor("density", log_density(t))

        def guide() -> None:
            mean = pyro.param("mean", start.clone())
            log_sd = pyro.param("log_sd", torch.zeros_like(start))
            pyro.sample("t", dist.Normal(mean, log_sd.exp()).to_event(1))

        engine = infer.SVI(model, guide, optim.Adam({"lr": budget.lr}), infer.Trace_ELBO(num_particles=4))
        for _ in range(budget.svi_steps):
            engine.step()
        found = pyro.param("mean").detach().clone(), pyro.param("log_sd").detach().exp().clone()
        pyro.clear_param_store()
    return found


def nuts(log_density: LogDensity, start: Tensor, *, budget: ProgramBudget, seed: int) -> Tensor:
    """Draws of T(x), shape (n, d), by pyro's NUTS."""
    infer: Any = require("pyro.infer", "NUTS")
    with _own_random_state(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kernel = infer.NUTS(potential_fn=lambda values: -log_density(values["t"]))
        chain = infer.MCMC(
            kernel, budget.draws, warmup_steps=budget.warmup, initial_params={"t": start.clone()},
            disable_progbar=True, num_chains=1,
        )  # fmt: skip
        chain.run()
        draws: Tensor = chain.get_samples()["t"]
    return draws.reshape(len(draws), -1).detach()


class _own_random_state:
    """pyro draws from the global generators: they are seeded for the time being, and put back."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        import random

        self.kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *error: object) -> None:
        import random

        torch.set_rng_state(self.kept[0])
        np.random.set_state(self.kept[1])  # noqa: NPY002
        random.setstate(self.kept[2])


# Plain methods for a price ---------------------------------------------------------------------------------------


class RowsOfVariance(ABC):
    """Base of the plain methods for the variance task: they read the rows that `predict` of the system takes.

    A row holds concentration, rate, and up to `n` observations with NaN where there is none.
    """

    def fit(self, X: Any, y: Any = None) -> Self:
        """Nothing is learnt."""
        return self

    @abstractmethod
    def log_prob(self, X: Floats, x: Tensor) -> Tensor:
        """Log density of variances x (n,), given rows (n, 2 + observations)."""


class ExactVariance(RowsOfVariance):
    """The conjugate posterior itself, as a grid's quantiles would have it: the floor of every loss."""

    def log_prob(self, X: Floats, x: Tensor) -> Tensor:
        """Log density of variances."""
        from foreknow.tasks.distribution_transformer.families import InverseGammaFamily
        from foreknow.tasks.distribution_transformer.oracles import inverse_gamma_posterior

        rows = torch.as_tensor(X)
        after = inverse_gamma_posterior(rows[:, :2], rows[:, 2:])
        return InverseGammaFamily().log_prob(after, x.log().unsqueeze(-1)) - x.log()


class LogNormalVariance(RowsOfVariance):
    """The log-normal distribution with the exact posterior's moments of log x."""

    def log_prob(self, X: Floats, x: Tensor) -> Tensor:
        """Log density of variances."""
        from foreknow.tasks.distribution_transformer.oracles import inverse_gamma_posterior

        rows = torch.as_tensor(X)
        a, b = inverse_gamma_posterior(rows[:, :2], rows[:, 2:]).unbind(-1)
        dist = matched_normal(b.log() - torch.digamma(a), torch.polygamma(1, a))
        return dist.log_prob(x.log()) - x.log()


class SampledVariance(RowsOfVariance):
    """Importance sampling from the prior with 1000 draws: kernels on them, and a thousandth of the prior."""

    def __init__(self, seed: int, n_draws: int = 1000) -> None:
        self.seed, self.n_draws = seed, n_draws

    def log_prob(self, X: Floats, x: Tensor) -> Tensor:
        """Log density of variances."""
        from foreknow.tasks.distribution_transformer.families import InverseGammaFamily
        from foreknow.tasks.distribution_transformer.observing import NormalVariance

        rows = torch.as_tensor(X)
        generator = torch_stream(seed_of(self.seed, "sampled-variance"), "draws")
        family, t = InverseGammaFamily(), x.log()
        dist = importance_sampling(
            family, rows[:, :2], NormalVariance(), {"z": rows[:, 2:, None]}, self.n_draws, generator
        )
        return with_prior(dist.log_prob(t), family.log_prob(rows[:, :2], t.unsqueeze(-1))) - t


PLAIN_VARIANCE: Mapping[str, Callable[[int], RowsOfVariance]] = {
    "conjugate posterior": lambda seed: ExactVariance(),
    "matched log-normal": lambda seed: LogNormalVariance(),
    "importance sampling, 1000 draws": lambda seed: SampledVariance(seed),
}
"""Plain methods for the variance task."""
