"""Exact posteriors where there are some: conjugate pairs in closed form, numbers on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from foreknow.core.predictive import Gaussian, GaussianMixture, MultivariateMixture
from foreknow.tasks.distribution_transformer.families import Family
from foreknow.tasks.distribution_transformer.observing import (
    GPData,
    HasLikelihood,
    LinearSensors,
    Observations,
    RangeFinder,
)
from foreknow.tasks.distribution_transformer.supports import from_real


def inverse_gamma_posterior(params: Tensor, z: Tensor) -> Tensor:
    """Parameters after z ~ N(0, x): concentration + n / 2, rate + sum z^2 / 2.

    Args:
        params: concentration and rate, shape (n, 2).
        z: observations, shape (n, m); NaN where there is none.
    """
    z = z.to(params)
    there = ~z.isnan()
    squares = torch.where(there, z, 0.0).square().sum(-1)
    return torch.stack([params[:, 0] + 0.5 * there.sum(-1), params[:, 1] + 0.5 * squares], -1)


def linear_gaussian_posterior(
    prior: MultivariateMixture, matrix: Tensor, noise: Tensor, z: Tensor
) -> MultivariateMixture:
    """A Gaussian mixture after z = H x + e, e ~ N(0, noise): Kalman's update of every component, weights by evidence.

    Args:
        prior: mixtures, batch shape (n,).
        matrix: H, shape (m, d).
        noise: covariance of e, shape (m, m).
        z: shape (n, m); NaN where there is none.
    """
    h, r, z = matrix.to(prior.means), noise.to(prior.means), z.to(prior.means)
    there = ~z.isnan()
    z = torch.where(there, z, 0.0)
    h = torch.where(there.unsqueeze(-1), h, 0.0).unsqueeze(1)  # (n, 1, m, d): a missing row says nothing
    both = (there.unsqueeze(-1) & there.unsqueeze(-2)).unsqueeze(1)
    eye = torch.eye(r.shape[0], dtype=r.dtype, device=r.device)
    r = torch.where(both, r, torch.where(eye > 0, eye, 0.0))  # ... and has a unit variance of its own
    cov = prior.covariances  # (n, k, d, d)
    s = h @ cov @ h.mT + r
    gain = torch.linalg.solve(s, h @ cov).mT  # (n, k, d, m)
    innovation = z.unsqueeze(1) - (h @ prior.means.unsqueeze(-1))[..., 0]  # (n, k, m)
    factor = torch.linalg.cholesky(s)
    white = torch.linalg.solve_triangular(factor, innovation.unsqueeze(-1), upper=False)[..., 0]
    evidence = -0.5 * white.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    means = prior.means + (gain @ innovation.unsqueeze(-1))[..., 0]
    shrink = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device) - gain @ h
    after = shrink @ cov @ shrink.mT + gain @ r @ gain.mT  # Joseph's form stays positive definite
    return MultivariateMixture.from_covariances(prior.log_weights + evidence, means, after)


def sensors_posterior(
    prior: MultivariateMixture, sensors: LinearSensors, observations: Observations
) -> MultivariateMixture:
    """The closed form for all measurements of `LinearSensors`."""
    rows, variances, values = [], [], []
    for name, row, variance in zip(sensors.channels, sensors.rows, sensors.variances):
        if name in observations:
            z = observations[name][..., 0]
            rows += [row] * z.shape[1]
            variances += [variance] * z.shape[1]
            values.append(z)
    matrix, noise = torch.tensor(rows, dtype=torch.float64), torch.diag(torch.tensor(variances, dtype=torch.float64))
    return linear_gaussian_posterior(prior, matrix, noise, torch.cat(values, 1))


def range_posterior(prior: MultivariateMixture, finder: RangeFinder, observations: Observations) -> MultivariateMixture:
    """A mixture over (position, ...) after ranges with clutter, exactly: each range doubles the components.

    The clutter's density does not depend on the state, so the posterior is that of a hit (Kalman's update of every
    component) and the prior itself, weighted by their evidences.
    """
    z = observations["range"][..., 0]  # (n, m)
    h = torch.zeros(1, prior.n_dims, dtype=torch.float64)
    h[0, 0] = 1.0
    noise = torch.tensor([[finder.sd**2]], dtype=torch.float64)
    far = torch.full_like(z, 1e6)  # where a hit has no density, only the clutter's is left
    clutter, p_hit = finder.log_density(z, far), 1 - finder.p_short - finder.p_uniform - finder.p_most
    for i in range(z.shape[1]):
        seen = z[:, i : i + 1]
        there = ~seen.isnan()
        hit = linear_gaussian_posterior(prior, h, noise, seen)
        sd = (prior.covariances[..., 0, 0] + finder.sd**2).sqrt()
        gap = (torch.where(there, seen, 0.0) - prior.means[..., 0]) / sd
        evidence = -0.5 * gap.square() - sd.log() - 0.5 * math.log(2 * math.pi) + math.log(p_hit)
        evidence = torch.where(there, evidence, 0.0)
        miss = torch.where(there, clutter[:, i : i + 1], -math.inf)
        prior = MultivariateMixture(
            torch.cat([prior.log_weights + evidence, (prior.log_weights + miss).clamp(min=-700.0)], -1),
            torch.cat([hit.means, prior.means], -2),
            torch.cat([hit.scale_tril, prior.scale_tril], -3),
        )
    return prior


class GridPosterior:
    """The posterior of a one-dimensional state on an even grid of T(x), one a task: exact up to the grid.

    Args:
        t: grid points, shape (g, n).
        log_density: of T(x) there, normalised, shape (g, n).
    """

    def __init__(self, t: Tensor, log_density: Tensor) -> None:
        self.t = t
        self.step = t[1] - t[0]
        self.log_density = log_density - (torch.logsumexp(log_density, 0) + self.step.log())

    @classmethod
    def of(
        cls, family: Family, params: Tensor, model: HasLikelihood, observations: Observations, n_points: int = 1001
    ) -> GridPosterior:
        """Prior times likelihood for priors (n, p) over one number; the grid is refined once to where the mass is."""
        low = torch.full((len(params),), -60.0, dtype=torch.float64)
        high = torch.full((len(params),), 60.0, dtype=torch.float64)
        for _ in range(4):
            t = low + (high - low) * torch.linspace(0, 1, n_points, dtype=torch.float64)[:, None]
            x = from_real(t.unsqueeze(-1), family.supports)
            joint = family.log_prob(params.expand(n_points, -1, -1), t.unsqueeze(-1))
            joint = torch.nan_to_num(joint + model.log_likelihood(x, observations), nan=-1e30, neginf=-1e30)
            found = cls(t, joint)
            inside = joint > joint.amax(0) - 40.0
            first = inside.to(torch.uint8).argmax(0)
            last = n_points - 1 - inside.flip(0).to(torch.uint8).argmax(0)
            columns = torch.arange(len(params))
            low, high = t[(first - 1).clamp(min=0), columns], t[(last + 1).clamp(max=n_points - 1), columns]
        return found

    def mean_of(self, values: Tensor) -> Tensor:
        """Expectation of values (g, n) given at the grid points, shape (n,)."""
        return (self.log_density.exp() * values).sum(0) * self.step

    def cdf(self, t: Tensor) -> Tensor:
        """P(T(x) <= t) for t of shape (n,)."""
        mass = self.log_density.exp() * self.step
        return (mass * ((t - self.t) / self.step + 0.5).clamp(0, 1)).sum(0)

    def log_prob(self, t: Tensor) -> Tensor:
        """Log density of T(x) at t (n,), by linear interpolation."""
        place = ((t - self.t[0]) / self.step).clamp(0, len(self.t) - 1 - 1e-9)
        index, columns = place.floor().long(), torch.arange(t.shape[-1])
        share = place - index
        below, above = self.log_density[index, columns], self.log_density[index + 1, columns]
        return below + share * (above - below)

    def divergence(self, log_density: Tensor) -> Tensor:
        """KL(this || q) from log q at the grid points, shape (n,)."""
        return self.mean_of(torch.where(self.log_density > -80, self.log_density - log_density, 0.0))


class GPPosterior:
    """Posteriors of a Gaussian process's value, its lengthscale on a grid of its logarithm: exact up to the grid.

    Args:
        model: of the data.
        params: mean and standard deviation of the value, concentration and rate of the lengthscale, shape (n, 4).
        observations: "data" (n, m, 2) and "query" (n, 1, 1).
        n_points: of each grid, which spans `n_sds` standard deviations of the prior's log lengthscale each way.
    """

    def __init__(
        self, model: GPData, params: Tensor, observations: Observations, n_points: int = 301, n_sds: float = 5.0
    ) -> None:
        a, rate = params[:, 2], params[:, 3]
        middle, sd = torch.digamma(a) - rate.log(), torch.polygamma(1, a).sqrt()
        steps = torch.linspace(-n_sds, n_sds, n_points, dtype=torch.float64)
        self.log_lengths = middle + sd * steps[:, None]  # (g, n)
        prior = a * (rate.log() + self.log_lengths) - rate * self.log_lengths.exp() - torch.lgamma(a)
        self.prior_mean = a / rate
        parts = [
            model.log_posterior_grid(
                params[i], {k: v[i : i + 1] for k, v in observations.items()}, self.log_lengths[:, i].exp()
            )
            for i in range(len(params))
        ]
        evidence, self.means, self.sds = (torch.stack(part, -1) for part in zip(*parts))
        self.log_weights = (evidence + prior).log_softmax(0)
        self.log_step = (sd * (steps[1] - steps[0])).log()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the value, shape (n,)."""
        return torch.logsumexp(self.log_weights + _log_normal(value, self.means, self.sds), 0)

    def log_prob_of_both(self, state: Tensor) -> Tensor:
        """Log density of the value and of the lengthscale's logarithm, at (n, 2): the nearest point of the grid."""
        nearest = (self.log_lengths - state[:, 1]).abs().argmin(0), torch.arange(len(state))
        density: Tensor = self.log_weights[nearest] - self.log_step
        return density + _log_normal(state[:, 0], self.means[nearest], self.sds[nearest])

    def of_task(self, i: int) -> GaussianMixture:
        """The value of one task, a component for every lengthscale of the grid."""
        return GaussianMixture(self.log_weights[:, i], self.means[:, i], self.sds[:, i])

    def at_mode(self) -> Gaussian:
        """The value given the lengthscale with the most probable logarithm."""
        return self._at(self.log_weights.argmax(0))

    def at_prior_mean(self) -> Gaussian:
        """The value given the prior mean of the lengthscale."""
        return self._at((self.log_lengths - self.prior_mean.log()).abs().argmin(0))

    def _at(self, point: Tensor) -> Gaussian:
        index = point, torch.arange(len(point))
        return Gaussian(self.means[index], self.sds[index])


def _log_normal(x: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return -0.5 * ((x - mean) / sd).square() - sd.log() - 0.5 * math.log(2 * math.pi)
