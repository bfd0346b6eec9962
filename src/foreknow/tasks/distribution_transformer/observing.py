"""Observation models: what is seen of a state. Everything random that is not the prior happens here.

A model of one's own is any object with `observe(state, params, *, generator)`, which takes states x (n, d) and the
parameters of their priors (n, p) in double precision and returns a tensor (n, m, c) a channel: m tokens of c numbers
for each state, NaN where there is none. With `log_likelihood(state, observations)` too, filters, importance sampling
and exact posteriors can be asked to compare.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_real
from foreknow.core.records import record

Observations = Mapping[str, Tensor]
"""Channel -> tokens (n, m, c); NaN where a token is missing."""
_LOG_2PI = math.log(2 * math.pi)


@runtime_checkable
class ObservationModel(Protocol):
    """What can be learnt from."""

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations: ...


@runtime_checkable
class HasLikelihood(Protocol):
    """A model whose density is known: states (..., n, d), tokens (n, m, c) -> (..., n), missing tokens left out."""

    def log_likelihood(self, state: Tensor, observations: Observations) -> Tensor: ...


def normal(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    """Standard normal draws with the type and device of `like`."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def uniform(shape: tuple[int, ...], like: Tensor, generator: Generator) -> Tensor:
    """Uniform draws on [0, 1[."""
    return torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def some_of(tokens: Tensor, generator: Generator, least: int = 1) -> Tensor:
    """Tokens (n, m, c) of which each row keeps the first k, k uniform on least..m; the rest become NaN."""
    n, m, _ = tokens.shape
    k = torch.randint(least, m + 1, (n, 1), generator=generator, device=generator.device).to(tokens.device)
    keep = torch.arange(m, device=tokens.device) < k
    return torch.where(keep.unsqueeze(-1), tokens, math.nan)


def _log_normal(x: Tensor, mean: Tensor | float, sd: Tensor | float) -> Tensor:
    scale = torch.as_tensor(sd, dtype=x.dtype, device=x.device)
    return -0.5 * ((x - mean) / scale).square() - scale.log() - 0.5 * _LOG_2PI


def _total(parts: Tensor) -> Tensor:
    """Sum over the last axis; missing tokens, NaN, count nothing."""
    return torch.where(parts.isnan(), 0.0, parts).sum(-1)


@record
@dataclass(frozen=True)
class NormalVariance:
    """Up to `n_max` observations z ~ N(0, x) of a variance x.

    Args:
        n_max: most observations of a task; how many there are is uniform on 1..n_max.
    """

    n_max: int = 1

    def __post_init__(self) -> None:
        check_int("NormalVariance", "n_max", self.n_max, low=1)

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        z = state.sqrt() * normal((len(state), self.n_max), state, generator)
        return {"z": some_of(z.unsqueeze(-1), generator)}

    def log_likelihood(self, state: Tensor, observations: Observations) -> Tensor:
        return _total(_log_normal(observations["z"][..., 0], 0.0, state.sqrt()))


@record
@dataclass(frozen=True)
class LinearSensors:
    """Linear sensors: channel i measures z = h_i . x + e with e ~ N(0, variance_i), up to `n_max` times.

    Args:
        rows: h_i, one a channel, each as long as the state.
        variances: of the noise, one a channel.
        n_max: most measurements of a channel.
        p_absent: how often a channel has none.
    """

    rows: tuple[tuple[float, ...], ...] = ((1.0,), (1.0,))
    variances: tuple[float, ...] = (0.1, 4.0)
    n_max: int = 4
    p_absent: float = 0.3

    def __post_init__(self) -> None:
        owner = "LinearSensors"
        if not self.rows or len(self.rows) != len(self.variances) or len({len(row) for row in self.rows}) != 1:
            raise ConfigError(f"{owner}: rows must be of equal length, with a variance each.")
        for variance in self.variances:
            check_real(owner, "variances", variance, low=0.0, open_low=True)
        check_int(owner, "n_max", self.n_max, low=1)
        check_real(owner, "p_absent", self.p_absent, low=0.0, high=0.95)

    @property
    def channels(self) -> tuple[str, ...]:
        """z_1, z_2, ..."""
        return tuple(f"z_{i + 1}" for i in range(len(self.rows)))

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        found, n = {}, len(state)
        absent = uniform((n, len(self.rows)), state, generator) < self.p_absent
        stay = torch.randint(len(self.rows), (n,), generator=generator, device=generator.device).to(state.device)
        absent[torch.arange(n, device=state.device), stay] = False  # one channel at least
        for i, (name, row, variance) in enumerate(zip(self.channels, self.rows, self.variances)):
            mean = state @ torch.tensor(row, dtype=state.dtype, device=state.device)
            z = mean[:, None] + math.sqrt(variance) * normal((n, self.n_max), state, generator)
            z = some_of(z.unsqueeze(-1), generator)
            found[name] = torch.where(absent[:, i, None, None], math.nan, z)
        return found

    def log_likelihood(self, state: Tensor, observations: Observations) -> Tensor:
        total = torch.zeros(state.shape[:-1], dtype=state.dtype, device=state.device)
        for name, row, variance in zip(self.channels, self.rows, self.variances):
            if name in observations:
                mean = state @ torch.tensor(row, dtype=state.dtype, device=state.device)
                z = observations[name][..., 0]
                total = total + _total(_log_normal(z, mean.unsqueeze(-1), math.sqrt(variance)))
        return total


@record
@dataclass(frozen=True)
class RangeFinder:
    """A range finder that sees the distance to a wall in one dimension, or something else, or nothing.

    State (position, velocity). A measurement is the position with normal noise, or with probability `p_short` an
    exponential short reading, with `p_uniform` anything up to `most`, with `p_most` the largest range itself; the
    largest range is smeared by the noise, so that there is a density. Readings lie in ]-inf, inf[.

    Args:
        sd: of the noise.
        p_short, p_uniform, p_most: clutter.
        short: mean of short readings.
        most: largest range.
        n_max: most measurements at a time.
    """

    sd: float = 0.3
    p_short: float = 0.04
    p_uniform: float = 0.04
    p_most: float = 0.02
    short: float = 4.0
    most: float = 20.0
    n_max: int = 1

    def __post_init__(self) -> None:
        owner = "RangeFinder"
        for name in ("sd", "short", "most"):
            check_real(owner, name, getattr(self, name), low=0.0, open_low=True)
        for name in ("p_short", "p_uniform", "p_most"):
            check_real(owner, name, getattr(self, name), low=0.0, high=0.9)
        check_int(owner, "n_max", self.n_max, low=1)
        if self.p_short + self.p_uniform + self.p_most >= 1:
            raise ConfigError(f"{owner}: the probabilities of clutter must sum to less than 1.")

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        z = self.measure(state[:, :1].expand(-1, self.n_max), generator)
        return {"range": some_of(z.unsqueeze(-1), generator)}

    def measure(self, distance: Tensor, generator: Generator) -> Tensor:
        """Measurements of distances, shape for shape."""
        shape = tuple(distance.shape)
        noise = self.sd * normal(shape, distance, generator)
        kind, u = (uniform(shape, distance, generator) for _ in range(2))
        value = distance + noise
        edge = self.p_short
        value = torch.where(kind < edge, -self.short * (-u).log1p(), value)
        value = torch.where((kind >= edge) & (kind < edge + self.p_uniform), self.most * u, value)
        edge = edge + self.p_uniform
        return torch.where((kind >= edge) & (kind < edge + self.p_most), self.most + noise, value)

    def log_density(self, z: Tensor, distance: Tensor) -> Tensor:
        """Log density of measurements given distances."""
        hit = _log_normal(z, distance, self.sd) + math.log1p(-self.p_short - self.p_uniform - self.p_most)
        floor = torch.full_like(hit, -math.inf)
        inside = (z >= 0) & (z <= self.most)
        short = torch.where(z >= 0, math.log(max(self.p_short, 1e-300) / self.short) - z / self.short, floor)
        flat = torch.where(inside, math.log(max(self.p_uniform, 1e-300) / self.most), floor)
        most = _log_normal(z, self.most, self.sd) + math.log(max(self.p_most, 1e-300))
        return torch.logsumexp(torch.stack(list(torch.broadcast_tensors(hit, short, flat, most))), 0)  # type: ignore[no-untyped-call]

    def log_likelihood(self, state: Tensor, observations: Observations) -> Tensor:
        return _total(self.log_density(observations["range"][..., 0], state[..., :1]))


@record
@dataclass(frozen=True)
class RangeBearing:
    """A range finder and a bearing sensor at the origin of the plane. State (x, y, velocity of x, velocity of y).

    A bearing travels as (sine, cosine), so that nothing happens where the angle wraps.

    Args:
        finder: of the ranges.
        bearing_sd: of the angle, in radians.
        p_absent: how often one of the two is missing.
    """

    finder: RangeFinder = RangeFinder(most=30.0)
    bearing_sd: float = 0.1
    p_absent: float = 0.2

    def __post_init__(self) -> None:
        check_real("RangeBearing", "bearing_sd", self.bearing_sd, low=0.0, open_low=True)
        check_real("RangeBearing", "p_absent", self.p_absent, low=0.0, high=0.9)

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        n = len(state)
        ranges = self.finder.measure(state[:, :2].norm(dim=-1, keepdim=True), generator).unsqueeze(-1)
        angle = torch.atan2(state[:, 1], state[:, 0]) + self.bearing_sd * normal((n,), state, generator)
        bearing = torch.stack([angle.sin(), angle.cos()], -1).unsqueeze(1)
        gone = uniform((n,), state, generator)
        no_range = (gone < self.p_absent / 2)[:, None, None]
        no_bearing = ((gone >= self.p_absent / 2) & (gone < self.p_absent))[:, None, None]
        return {
            "range": torch.where(no_range, math.nan, ranges),
            "bearing": torch.where(no_bearing, math.nan, bearing),
        }

    def log_likelihood(self, state: Tensor, observations: Observations) -> Tensor:
        total = torch.zeros(state.shape[:-1], dtype=state.dtype, device=state.device)
        if "range" in observations:
            distance = state[..., :2].norm(dim=-1, keepdim=True)
            total = total + _total(self.finder.log_density(observations["range"][..., 0], distance))
        if "bearing" in observations:
            seen = torch.atan2(observations["bearing"][..., 0], observations["bearing"][..., 1])
            away = seen - torch.atan2(state[..., 1:2], state[..., :1])
            away = torch.atan2(away.sin(), away.cos())
            total = total + _total(_log_normal(away, 0.0, self.bearing_sd))
        return total


@record
@dataclass(frozen=True)
class Volatility:
    """Returns z ~ N(0, exp h) of a log variance h.

    Args:
        n_max: most returns at a time.
    """

    n_max: int = 1

    def __post_init__(self) -> None:
        check_int("Volatility", "n_max", self.n_max, low=1)

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        z = (0.5 * state).exp() * normal((len(state), self.n_max), state, generator)
        return {"return": some_of(z.unsqueeze(-1), generator)}

    def log_likelihood(self, state: Tensor, observations: Observations) -> Tensor:
        return _total(_log_normal(observations["return"][..., 0], 0.0, (0.5 * state).exp()))


@record
@dataclass(frozen=True)
class FactorVolatility:
    """Returns of several assets, z ~ N(0, b b^T exp h_1 + diag(s^2) exp h_2): a common factor and the rest.

    Args:
        loadings: b, one an asset.
        idiosyncratic: s, one an asset.
    """

    loadings: tuple[float, ...] = (1.0, 0.8, 0.6)
    idiosyncratic: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if len(self.loadings) != len(self.idiosyncratic) or not self.loadings:
            raise ConfigError("FactorVolatility: loadings and idiosyncratic must be as long as one another.")
        for value in self.idiosyncratic:
            check_real("FactorVolatility", "idiosyncratic", value, low=0.0, open_low=True)

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        b, s = (torch.tensor(v, dtype=state.dtype, device=state.device) for v in (self.loadings, self.idiosyncratic))
        factor = (0.5 * state[:, :1]).exp() * normal((len(state), 1), state, generator)
        rest = (0.5 * state[:, 1:2]).exp() * s * normal((len(state), len(s)), state, generator)
        return {"returns": (b * factor + rest).unsqueeze(1)}

    def log_likelihood(self, state: Tensor, observations: Observations) -> Tensor:
        b, s = (torch.tensor(v, dtype=state.dtype, device=state.device) for v in (self.loadings, self.idiosyncratic))
        common, own = state[..., :1].exp(), state[..., 1:2].exp() * s.square()  # (..., 1), (..., c)
        z = observations["returns"]  # (n, m, c)
        own_z, b_z = (z.square() / own.unsqueeze(-2)).sum(-1), (z * b / own.unsqueeze(-2)).sum(-1)  # (..., m)
        inner = 1 + common * (b.square() / own).sum(-1, keepdim=True)
        quadratic = own_z - common * b_z.square() / inner
        log_det = own.log().sum(-1, keepdim=True) + inner.log()
        return _total(-0.5 * (quadratic + log_det + len(s) * _LOG_2PI))


@record
@dataclass(frozen=True)
class TwoLevel:
    """A two-level quantum system with Hamiltonian delta sigma_x + (1 - delta) sigma_z, measured ten times.

    A start is (1, 0), (0, 1) or (1, 1), measured with noise and normalised; after a time near 1, 2, ..., 5 the first
    level is found or not. A token holds the nominal time, the nominal start, and the outcome, 1 or 0.

    Args:
        n_max: measurements.
        time_sd: of the actual time around the nominal one.
        start_variance: of the actual start's entries around the nominal ones.
        vary: whether the number of measurements is uniform on 1..n_max.
    """

    n_max: int = 10
    time_sd: float = 0.05
    start_variance: float = 0.01
    vary: bool = False

    def __post_init__(self) -> None:
        check_int("TwoLevel", "n_max", self.n_max, low=1)
        check_real("TwoLevel", "time_sd", self.time_sd, low=0.0)
        check_real("TwoLevel", "start_variance", self.start_variance, low=0.0)

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        n, m = len(state), self.n_max
        times, start = self.design(n, state, generator)
        p = self.chance(state, *self._actual(times, start, generator))
        outcome = (uniform((n, m), state, generator) < p).to(state)
        tokens = torch.cat([times.unsqueeze(-1), start, outcome.unsqueeze(-1)], -1)
        return {"measurement": some_of(tokens, generator) if self.vary else tokens}

    def design(self, n: int, like: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        """Nominal times (n, m), the whole numbers 1 to 5, and starts (n, m, 2)."""
        place = {"generator": generator, "device": generator.device}
        times = torch.randint(1, 6, (n, self.n_max), **place).to(like)  # type: ignore[call-overload]
        which = torch.randint(3, (n, self.n_max), **place).to(like.device)  # type: ignore[call-overload]
        starts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=like.dtype, device=like.device)
        return times, starts[which]

    def _actual(self, times: Tensor, start: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        actual = times + self.time_sd * normal(tuple(times.shape), times, generator)
        moved = start + math.sqrt(self.start_variance) * normal(tuple(start.shape), start, generator)
        return actual, moved / moved.norm(dim=-1, keepdim=True).clamp(min=1e-9)

    def chance(self, state: Tensor, times: Tensor, start: Tensor) -> Tensor:
        """Probability of the first level, for states (..., n, 1), times (n, m) and normalised starts (n, m, 2)."""
        delta = state
        omega = (delta.square() + (1 - delta).square()).sqrt()
        cosine, sine = (omega * times).cos(), (omega * times).sin()
        real = cosine * start[..., 0]
        imaginary = -sine * ((1 - delta) / omega * start[..., 0] + delta / omega * start[..., 1])
        return (real.square() + imaginary.square()).clamp(0.0, 1.0)

    def log_likelihood(self, state: Tensor, observations: Observations, n_noise: int = 64) -> Tensor:
        """Log likelihood, averaged over `n_noise` fixed draws of the unknown times and starts."""
        tokens = observations["measurement"]
        total: Tensor | float = 0.0
        for times, start in self.actual(tokens, n_noise):
            total = total + self.chance(state, times, start) / n_noise
        return self.log_outcomes(torch.as_tensor(total), tokens)

    def actual(self, tokens: Tensor, n_noise: int = 64) -> Iterator[tuple[Tensor, Tensor]]:
        """The fixed draws of actual times (n, m) and starts (n, m, 2), `n_noise` times."""
        generator = torch.Generator(device=tokens.device).manual_seed(0)
        for _ in range(n_noise):
            yield self._actual(tokens[..., 0], tokens[..., 1:3], generator)

    def log_outcomes(self, chance: Tensor, tokens: Tensor) -> Tensor:
        """Log probability of the outcomes (..., n), given that of the first level (..., n, m)."""
        p, outcome = chance.clamp(1e-9, 1 - 1e-9), tokens[..., 3]
        return _total(torch.where(outcome > 0.5, p.log(), (-p).log1p()) + 0 * outcome)


@record
@dataclass(frozen=True)
class GPData:
    """Noisy values of a function drawn from a Gaussian process, around the value that is asked for.

    State (value y* at the query, lengthscale). The process has the mean and the standard deviation of the prior's first
    two parameters (mean, sd of y*) and a squared-exponential kernel. Channels: "data", tokens (x, y); "query", one
    token (x*).

    Args:
        n_max: data points, x uniform on [0, 1].
        noise: standard deviation of the values.
        vary: whether the number of data points is uniform on 1..n_max.
    """

    n_max: int = 10
    noise: float = 0.1
    vary: bool = False

    def __post_init__(self) -> None:
        check_int("GPData", "n_max", self.n_max, low=1)
        check_real("GPData", "noise", self.noise, low=0.0, open_low=True)

    def observe(self, state: Tensor, params: Tensor, *, generator: Generator) -> Observations:
        n = len(state)
        x, query = uniform((n, self.n_max), state, generator), uniform((n, 1), state, generator)
        mean, factor = self._given(state, params, x, query)
        y = mean + (factor @ normal((n, self.n_max, 1), state, generator))[..., 0]
        data = torch.stack([x, y], -1)
        return {"data": some_of(data, generator) if self.vary else data, "query": query.unsqueeze(-1)}

    def _given(self, state: Tensor, params: Tensor, x: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (n, m) of the data and a factor of their covariance, given y* and the lengthscale."""
        length, prior_mean, scale = state[:, 1:, None], params[:, :1], params[:, 1:2, None]
        k_xx = scale.square() * (-0.5 * ((x[:, :, None] - x[:, None, :]) / length).square()).exp()
        k_xq = (-0.5 * ((x - query) / state[:, 1:]).square()).exp()  # correlation with y*
        mean = prior_mean + k_xq * (state[:, :1] - prior_mean)
        cov = k_xx - scale.square() * k_xq[:, :, None] * k_xq[:, None, :]
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return mean, torch.linalg.cholesky(cov + (self.noise**2 + 1e-8) * eye)

    def log_density(self, state: Tensor, params: Tensor, observations: Observations) -> Tensor:
        """Log density of the data (n,), given states (n, 2) and parameters (n, 4); no token may be missing."""
        x, y = observations["data"].unbind(-1)
        mean, factor = self._given(state, params, x, observations["query"][..., 0])
        white = torch.linalg.solve_triangular(factor, (y - mean).unsqueeze(-1), upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        density: Tensor = -0.5 * white.square().sum(-1) - log_det - 0.5 * x.shape[-1] * _LOG_2PI
        return density

    def log_posterior_grid(
        self, params: Tensor, observations: Observations, lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For one task: the evidence of each lengthscale (g,), and mean and sd of y* under it; the oracle's parts."""
        data, query = observations["data"][0], observations["query"][0, :, 0]
        data = data[~data.isnan().any(-1)]
        x, y = data[:, 0], data[:, 1] - params[0]
        g = lengths[:, None, None]
        k_xx = params[1].square() * (-0.5 * ((x[:, None] - x[None, :]) / g).square()).exp()
        k_xq = params[1].square() * (-0.5 * ((x - query) / lengths[:, None]).square()).exp()
        eye = torch.eye(len(x), dtype=x.dtype)
        factor = torch.linalg.cholesky(k_xx + (self.noise**2 + 1e-8) * eye)
        whitened = torch.linalg.solve_triangular(factor, y.expand(len(lengths), -1).unsqueeze(-1), upper=False)[..., 0]
        weight = torch.linalg.solve_triangular(factor, k_xq.unsqueeze(-1), upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        evidence = -0.5 * whitened.square().sum(-1) - log_det - 0.5 * len(x) * _LOG_2PI
        mean = params[0] + (weight * whitened).sum(-1)
        variance = (params[1].square() - weight.square().sum(-1)).clamp(min=1e-10)
        return evidence, mean, variance.sqrt()
