"""Proof F: a filter over ranges with clutter, and one over real returns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreknow.common.deps import available, require
from foreknow.common.rng import torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.evidence import Claim
from foreknow.core.predictive import MultivariateMixture
from foreknow.tasks.distribution_transformer.baselines import (
    GaussianSumFilter,
    KalmanTracker,
    ParticleFilter,
    Sensor,
    Track,
    range_sensors,
    with_prior,
)
from foreknow.tasks.distribution_transformer.beliefs import Belief
from foreknow.tasks.distribution_transformer.filtering import DTFilter, LinearMotion
from foreknow.tasks.distribution_transformer.observing import (
    HasLikelihood,
    ObservationModel,
    Observations,
    RangeFinder,
    Volatility,
)
from foreknow.tasks.distribution_transformer.presets import experiment
from foreknow.tasks.distribution_transformer.proof.common import Floats, Part, Record, Sizes, mean_claim
from foreknow.tasks.distribution_transformer.system import DistributionTransformer
from foreknow.tasks.distribution_transformer.volatility import (
    StochasticVolatility,
    filter_returns,
    kalman_beliefs,
    predictive_log_density,
)

_PULL, _DRAG, _CENTRE, _PUSH = 0.02, 0.1, 10.0, 0.2
_START = ([10.0, 0.0], [[9.0, 0.0], [0.0, 0.25]])
_LOG_2PI = math.log(2 * math.pi)
_OURS = "ours"
_N_REAL_PARTICLES = 10_000
_GATE = 3.0  # the best of 2, 2.5, 3, 3.5 and 4 on seeds 1000 to 1002
_WHY_KALMAN = (
    "F: the sensor is linear, so that the extended and the unscented Kalman filter are one and the same, and one runs; "
    "in B both do. Their gate is the best of several on other seeds."
)
KALMAN = ("extended", "unscented")


def swing() -> LinearMotion:
    """Position and velocity of something that is pulled back to the middle of the range, with friction and pushes."""
    return LinearMotion(
        [[1.0, 1.0], [-_PULL, 1 - _DRAG]],
        [[1e-4, 0.0], [0.0, _PUSH**2]],
        [0.0, _PULL * _CENTRE],
    )


def simulate(
    motion: LinearMotion, model: ObservationModel, start: MultivariateMixture, n_steps: int, seed: int
) -> tuple[Tensor, list[Observations]]:
    """True states (T, S, d) of S series that begin as `start` says, and what is seen of them at each step."""
    generator = torch_stream(seed, "distribution-transformer", "tracks")
    state = start.sample(1, generator=generator)[0].double()
    states, seen = [], []
    for _ in range(n_steps):
        state = motion.move(state, generator)
        states.append(state)
        seen.append(model.observe(state, state, generator=generator))
    return torch.stack(states), seen


def start_belief(n: int, start: tuple[Any, Any] = _START) -> MultivariateMixture:
    """What all filters believe of n series at first: a normal's mean and covariance."""
    one = Belief.normal(*start).as_mixture()
    return MultivariateMixture(*(t.expand(n, *t.shape) for t in one._tensors()))


def ranges(sizes: Sizes, seeds: int) -> Part:
    """Filters of `n_series` series side by side, over `n_steps` steps."""
    motion, finder = swing(), experiment("range").model
    assert isinstance(finder, RangeFinder)
    system = DistributionTransformer(task="range", random_state=0).fit(None)
    scores: dict[str, list[Floats]] = {}
    seconds: dict[str, list[float]] = {}
    rows: list[Record] = []
    start = start_belief(sizes.n_series)
    for seed in range(seeds):
        states, seen = simulate(motion, finder, start, sizes.n_steps, seed)
        tracks = {_OURS: our_track(system, motion, start, states, seen)}
        tracks["ours, anchored"] = our_track(system, motion, start, states, seen, anchor="moments", model=finder)
        for n in sizes.n_particles:
            tracks[f"particles, {n}"] = particle_track(motion, finder, n, start, states, seen, seed)
        tracks["Gaussian sum, 8 components"] = sum_track(motion, finder, 8, states, seen)
        tracks |= kalman_tracks(motion, range_sensors(finder, _GATE), start, states, seen, KALMAN[:1])
        for name, track in tracks.items():
            scores.setdefault(name, []).append(track.log_density.mean(0).numpy())
            seconds.setdefault(name, []).append(track.seconds)
            rows.append(track_record("F", name, seed, track, states))
    reference, fastest = f"particles, {sizes.n_particles[-2]}", f"particles, {sizes.n_particles[-1]}"
    gain = [ours - theirs for ours, theirs in zip(scores[_OURS], scores[reference])]
    ratio = float(np.median(seconds[fastest]) / np.median(seconds[_OURS]))
    means = {name: float(np.mean([np.mean(v) for v in values])) for name, values in scores.items()}
    enough = [n for n in sizes.n_particles if means[f"particles, {n}"] >= means[_OURS]]
    rows.append(
        {
            "proof": "F", "arm": _OURS, "what": "particles that a filter needs to be as good",
            "n": enough[0] if enough else None,
            "note": "" if enough else f"more than {sizes.n_particles[-1]}",
        }
    )  # fmt: skip
    rows += alone("F", system, motion, finder, sizes.n_particles[-1], start, states, seen)
    claims = [
        mean_claim(
            f"F: log density of the true state, network minus {sizes.n_particles[-2]} particles",
            gain,
            low=0.0,
            unit="nat",
        ),
        Claim(
            f"F: seconds of {sizes.n_particles[-1]} particles over those of the network, {sizes.n_series} series side "
            "by side",
            ratio,
            low=10.0,
        ),
    ]
    errors = {name: [row["rmse"] for row in rows if row["arm"] == name and "rmse" in row] for name in scores}
    worse = sum(ours > theirs for ours, theirs in zip(errors[_OURS], errors[reference]))
    notes = [
        f"F: the root mean square error of the position is larger than that of {sizes.n_particles[-2]} particles on "
        f"{worse} of {seeds} seeds ({np.mean(errors[_OURS]):.3f} against {np.mean(errors[reference]):.3f}); with "
        f"moment checks it is {np.mean(errors['ours, anchored']):.3f}.",
        _WHY_KALMAN if available("filterpy") else "F, B: filterpy is not installed: Kalman filters were not measured.",
    ]
    return claims, rows, notes


def our_track(
    system: DistributionTransformer,
    motion: LinearMotion,
    start: MultivariateMixture,
    states: Tensor,
    seen: list[Observations],
    **options: Any,
) -> Track:
    """The distribution transformer's filter."""
    flt = DTFilter(system, motion, start=start, **options)
    with Stopwatch() as watch:
        beliefs = flt.run(seen)
    return _mixture_track(beliefs, states, watch.seconds)


def sum_track(motion: LinearMotion, finder: RangeFinder, n: int, states: Tensor, seen: list[Observations]) -> Track:
    """The Gaussian-sum filter with the exact update."""
    flt, belief, beliefs = GaussianSumFilter(motion, finder, n), start_belief(states.shape[1]), []
    belief = belief.to(dtype=torch.float64)
    with Stopwatch() as watch:
        for z in seen:
            belief = flt.step(belief, z)
            beliefs.append(belief)
    return _mixture_track(beliefs, states, watch.seconds)


def particle_track(
    motion: LinearMotion,
    model: HasLikelihood,
    n: int,
    start: MultivariateMixture,
    states: Tensor,
    seen: list[Observations],
    seed: int,
) -> Track:
    """A bootstrap particle filter; its density is the better of two estimates, which is generous to it."""
    generator = torch_stream(seed, "distribution-transformer", "particles", str(n))
    flt = ParticleFilter(motion, model, n, generator).start(start)
    normal, kernel, means = [], [], []
    seconds = 0.0
    for truth, z in zip(states, seen):
        with Stopwatch() as watch:
            flt.step(z)
            means.append(flt.moments()[0])
        seconds += watch.seconds  # the density at the truth is no part of filtering
        both = flt.log_density(truth)
        normal.append(both[0])
        kernel.append(both[1])
    wide = torch.stack([start.log_prob(truth) for truth in states])
    mixed = [with_prior(torch.stack(v), wide) for v in (normal, kernel)]
    found = max(mixed, key=lambda v: float(v.mean()))
    return Track(found, torch.stack(means), seconds)


def kalman_tracks(
    motion: LinearMotion,
    sensors: Mapping[str, Sensor],
    start: MultivariateMixture,
    states: Tensor,
    seen: list[Observations],
    kinds: Sequence[str] = KALMAN,
) -> dict[str, Track]:
    """Filterpy's filters, where it is installed, one series after the other; the prior is mixed in as for particles."""
    if not available("filterpy"):
        return {}
    readings = {name: torch.stack([_reading(z[name]) for z in seen]).numpy() for name in sensors}  # (T, S)
    mean, cov = start.mean()[0].double().numpy(), start.covariance()[0].double().numpy()
    wide = torch.stack([start.log_prob(truth) for truth in states])
    tracks = {}
    for kind in kinds:
        flt = KalmanTracker(motion, sensors, kind)
        with Stopwatch() as watch:
            found = [flt.run(mean, cov, {k: v[:, i] for k, v in readings.items()}) for i in range(states.shape[1])]
        means, covs = (torch.as_tensor(np.stack(part, 1)) for part in zip(*found))
        normal = MultivariateMixture.from_covariances(
            torch.zeros(*means.shape[:2], 1, dtype=means.dtype), means.unsqueeze(-2), covs.unsqueeze(-3)
        )
        tracks[f"{kind} Kalman"] = Track(with_prior(normal.log_prob(states), wide), means, watch.seconds)
    return tracks


def _reading(tokens: Tensor) -> Tensor:
    """One number a series of tokens (S, 1, c): a sine and a cosine are an angle."""
    return tokens[:, 0, 0] if tokens.shape[-1] == 1 else torch.atan2(tokens[:, 0, 0], tokens[:, 0, 1])


def _mixture_track(beliefs: list[MultivariateMixture], states: Tensor, seconds: float) -> Track:
    density = torch.stack([mix.log_prob(truth) for mix, truth in zip(beliefs, states)])
    cdf = torch.stack([mix.marginal(0).cdf(truth[:, 0]) for mix, truth in zip(beliefs, states)])
    return Track(density, torch.stack([mix.mean() for mix in beliefs]), seconds, cdf)


def track_record(proof: str, name: str, seed: int, track: Track, states: Tensor) -> Record:
    """What is kept of a track; the error and the intervals are of the state's first number."""
    n = track.mean.shape[1]
    error = track.mean[..., 0] - states[:, :n, 0]
    row: Record = {
        "proof": proof, "arm": name, "seed": seed, "n_series": n, "log_density": float(track.log_density.mean()),
        "rmse": float(error.square().mean().sqrt()),
        "ms_a_step": 1000 * track.seconds / (states.shape[0] * states.shape[1]),
    }  # fmt: skip
    if track.cdf is not None:
        row["coverage_90"] = float(((track.cdf > 0.05) & (track.cdf < 0.95)).double().mean())
    return row


def alone(
    proof: str,
    system: DistributionTransformer,
    motion: LinearMotion,
    model: HasLikelihood,
    n: int,
    start: MultivariateMixture,
    states: Tensor,
    seen: list[Observations],
) -> list[Record]:
    """Milliseconds a step of the network and of particles where one series runs alone."""
    first, at = start[:1], states[:, :1]
    few: list[Observations] = [{name: value[:1] for name, value in z.items()} for z in seen]
    tracks = {
        _OURS: our_track(system, motion, first, at, few),
        f"particles, {n}": particle_track(motion, model, n, first, at, few, 0),
    }
    return [
        {"proof": proof, "arm": name, "what": "one series alone", "ms_a_step": 1000 * track.seconds / len(seen)}
        for name, track in tracks.items()
    ]


def returns(sizes: Sizes, seeds: int) -> Part:
    """Daily log returns of an index: density of each return given those before it. Parameters by quasi-likelihood.

    The last `n_returns` are filtered; the parameters come from the returns before these, as far as there are any.
    """
    if not available("arch"):
        return [], [], ["F: the package arch is not installed, so no real returns were filtered."]
    prices = np.asarray(require("arch.data.sp500", "Real returns").load()["Adj Close"], dtype=np.float64)
    every = 100 * np.diff(np.log(prices))
    n = min(sizes.n_returns, len(every) // 2)
    past, values = every[:-n][-2000:], every[-n:]
    model = StochasticVolatility.estimate(past)
    system = DistributionTransformer(task="volatility", random_state=0).fit(None)
    with Stopwatch() as watch:
        ours = filter_returns(system, values, model).log_density
    rows: list[Record] = [_real("ours", ours, watch.seconds)]
    z = torch.as_tensor(model.standardised(values))
    with Stopwatch() as watch:
        sampled = particle_returns(model, z, _N_REAL_PARTICLES if n > 100 else 200) - 0.5 * model.level
    rows.append(_real(f"particles, {_N_REAL_PARTICLES}", sampled, watch.seconds))
    with Stopwatch() as watch:
        kalman = kalman_returns(model, values)
    rows.append(_real("Kalman of log squares", kalman, watch.seconds))
    sd = past.std()
    constant = -0.5 * (np.square((values - past.mean()) / sd) + _LOG_2PI) - np.log(sd)
    rows.append(_real("constant variance", constant, 0.0))
    garch = _garch(past, values)
    rows.append(_real("GARCH(1, 1), parameters kept", garch, 0.0))
    rows.append({"proof": "F", "data": "S&P 500", "what": "parameters", "mean": model.mean, "level": model.level,
                 "persistence": model.persistence, "sd": model.sd})  # fmt: skip
    claim = mean_claim(
        "F: log density of the next real return, network minus 10000 particles of the same model", [ours - sampled],
        low=-0.02, unit="nat",
    )  # fmt: skip
    return [claim], rows, []


def particle_returns(model: StochasticVolatility, z: Tensor, n: int) -> Floats:
    """Log density of standardised returns (T,), each given those before it, by a particle filter."""
    generator = torch_stream(0, "distribution-transformer", "returns")
    one = model.start().as_mixture()
    flt = ParticleFilter(model.motion(), Volatility(), n, generator)
    flt.start(MultivariateMixture(*(t.unsqueeze(0) for t in one._tensors())))
    found = []
    for value in z:
        effective = float(1 / (2 * flt.log_weights).exp().sum(0))
        if effective < 0.5 * n:
            flt._resample(torch.ones(1, dtype=torch.bool))
        flt.states = flt.motion.move(flt.states, generator)
        joint = flt.log_weights + flt.model.log_likelihood(flt.states, {"return": value.reshape(1, 1, 1)})
        found.append(float(torch.logsumexp(joint, 0)))
        flt.log_weights = joint.log_softmax(0)
    return np.array(found)


def kalman_returns(model: StochasticVolatility, values: Floats) -> Floats:
    """The same, given the normal beliefs of the Kalman filter over log squares."""
    z = model.standardised(values)
    y = np.log(np.maximum(z * z, 1e-6)) + 1.2703628454614782
    means, variances, _ = kalman_beliefs(y, model.persistence, model.sd)
    beliefs = MultivariateMixture.from_covariances(
        torch.zeros(len(z), 1, dtype=torch.float64), torch.as_tensor(means)[:, None, None],
        torch.as_tensor(variances)[:, None, None, None],
    )  # fmt: skip
    return predictive_log_density(beliefs.marginal(0), torch.as_tensor(z)).numpy() - 0.5 * model.level


def _garch(past: Floats, values: Floats) -> Floats:
    """GARCH(1, 1) with a constant mean and normal innovations, fitted to the past and kept."""
    arch: Any = require("arch", "GARCH")
    fitted = arch.arch_model(past, mean="Constant", vol="GARCH", p=1, q=1).fit(disp="off")
    mu, omega, alpha, beta = (float(fitted.params[name]) for name in ("mu", "omega", "alpha[1]", "beta[1]"))
    variance = float(fitted.conditional_volatility[-1] ** 2)
    last, found = past[-1] - mu, []
    for value in values:
        variance = omega + alpha * last**2 + beta * variance
        last = value - mu
        found.append(-0.5 * (last**2 / variance + math.log(2 * math.pi * variance)))
    return np.array(found)


def _real(name: str, density: Floats, seconds: float) -> Record:
    return {
        "proof": "F", "data": "S&P 500, daily log returns in percent", "arm": name, "n_returns": len(density),
        "log_density": float(density.mean()), "ms_a_step": 1000 * seconds / len(density),
    }  # fmt: skip
