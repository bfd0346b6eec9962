"""Proofs Q, G, B and S: the other published experiments, against what is exact or a particle filter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreknow.common.rng import torch_stream
from foreknow.core.evidence import Claim
from foreknow.core.predictive import Gaussian, MultivariateMixture
from foreknow.tasks.distribution_transformer.baselines import matched_normal, plane_sensors
from foreknow.tasks.distribution_transformer.families import Family
from foreknow.tasks.distribution_transformer.filtering import LinearMotion
from foreknow.tasks.distribution_transformer.observing import GPData, TwoLevel
from foreknow.tasks.distribution_transformer.oracles import GPPosterior, GridPosterior
from foreknow.tasks.distribution_transformer.presets import experiment
from foreknow.tasks.distribution_transformer.proof.common import Floats, Part, Record, Sizes, mean_claim
from foreknow.tasks.distribution_transformer.proof.conjugate import (
    NAMES,
    milliseconds,
    pick,
    posterior,
    tasks_of,
    told,
)
from foreknow.tasks.distribution_transformer.proof.filters import (
    alone,
    kalman_tracks,
    our_track,
    particle_track,
    simulate,
    start_belief,
    track_record,
)
from foreknow.tasks.distribution_transformer.proof.programs import Question, beside
from foreknow.tasks.distribution_transformer.training import Tasks

_OURS = NAMES["on"]
_WHY_QUANTUM = (
    "The bound is ours. The posteriors have several modes in the log odds; a network half as wide (32) was at 0.051 "
    "nat on the first tasks, this one of 64 at 0.041. The published one has six blocks and saw ten million tasks, the "
    "one that ships one million."
)
_WHY_FUNCTIONS = (
    "Noise of 0.1 leaves narrow posteriors that the network must find by attention over ten points. One of three "
    "blocks and two heads was 0.21 nat behind the exact density on the first tasks, the one that ships (five blocks, "
    "four heads) 0.14. The published one has six blocks, a width of 256, twenty components, and saw thirty million "
    "tasks; ours 1.5 million, and its loss still fell when training ended. Mixing the answers to a task and its three "
    "mirror images took off 0.008 to 0.034 nat on seeds 1000 to 1002 and left 0.08 to 0.14."
)
_WHY_FILTERS = (
    "A state of few numbers that is seen plainly is what particle filters are good at: a thousand of them are near the "
    "exact answer here, see ten thousand in the records. The error of the network adds up over the steps."
)
_PLANE_REST = (6.0, 4.0)
_GATE = 4.0  # the best of 2.5, 3, 4 and none for the extended filter on seeds 1000 to 1002
_PULL, _DRAG, _PUSH = 0.02, 0.1, 0.2
_STAY, _SHAKE = (0.98, 0.95), (0.2, 0.25)


def _few(n: int) -> int:
    """A fifth: grids and particles in many dimensions are dear."""
    return max(4, n // 5)


def hamiltonians(sizes: Sizes, seeds: int) -> Part:
    """Q: a number between 0 and 1 with a beta prior, ten binary measurements as published, against a grid."""
    family = experiment("quantum").meta.family
    systems = {name: told(name, "quantum") for name in ("on", "wrong")}
    rows: list[Record] = []
    behind: list[Floats] = []
    gain: list[Floats] = []
    for seed in range(seeds):
        tasks = tasks_of("quantum", TwoLevel(10), _few(sizes.n_tasks), seed)
        assert tasks.exact is not None and tasks.state is not None
        truth = tasks.state[:, 0]
        grid = GridPosterior.of(family, tasks.exact, TwoLevel(10), {k: v.double() for k, v in tasks.tokens.items()})
        mean = grid.mean_of(grid.t)
        normal = matched_normal(mean, grid.mean_of((grid.t - mean).square()).clamp(min=1e-12))
        found: dict[str, tuple[Tensor, Tensor]] = {
            "exact, on a grid": (grid.log_density, grid.log_prob(truth)),
            "matched normal": (normal.log_prob(grid.t), normal.log_prob(truth)),
            "the prior itself": (_prior_density(family, tasks.exact, grid.t),
                                 family.log_prob(tasks.exact, tasks.state)),
        }  # fmt: skip
        for name, system in systems.items():
            after = posterior(system, tasks).marginal(0)
            found[NAMES[name]] = (after.log_prob(grid.t), after.log_prob(truth))
        for name, (everywhere, there) in found.items():
            kl = grid.divergence(everywhere)
            rows.append({"proof": "Q", "arm": name, "seed": seed, "n_tasks": len(truth), "kl": float(kl.mean()),
                         "kl_median": float(kl.median()), "log_density": float(there.mean())})  # fmt: skip
        n = few_programs(sizes)
        one = milliseconds("Q", systems["on"], tasks)
        questions = [_quantum_question(family, tasks, grid, i) for i in range(n)]
        rows += beside("Q", seed, questions, posterior(systems["on"], pick(tasks, list(range(n)))), one["one_task"],
                       sizes.programs)  # fmt: skip
        behind.append(grid.divergence(found[_OURS][0]).numpy())
        gain.append((grid.divergence(found["matched normal"][0]) - grid.divergence(found[_OURS][0])).numpy())
    rows.append(one)
    claims = explained(
        _WHY_QUANTUM,
        mean_claim("Q: KL from the posterior on a grid to the network's", behind, high=0.05, unit="nat"),
        mean_claim("Q: KL to the normal with the exact moments of the log odds, minus KL to the network's", gain,
                   low=0.0, unit="nat"),
    )  # fmt: skip
    return claims, rows, []


def few_programs(sizes: Sizes) -> int:
    """Tasks for SVI and NUTS where a density is dear."""
    return max(1, sizes.n_programs // 3)


def _quantum_question(family: Family, tasks: Tasks, grid: GridPosterior, i: int) -> Question:
    """The i-th task, with the same draws of times and starts as its posterior on the grid."""
    assert tasks.exact is not None and tasks.state is not None
    model, params = TwoLevel(10), tasks.exact[i]
    tokens = tasks.tokens["measurement"].double()
    times, starts = (torch.stack([one[i] for one in part]) for part in zip(*model.actual(tokens)))  # (64, m), ...

    def density(t: Tensor) -> Tensor:
        chance = model.chance(t.sigmoid().expand(len(times), 1), times, starts).mean(0, keepdim=True)
        return family.log_prob(params, t) + model.log_outcomes(chance, tokens[i : i + 1])[0]

    keep = grid.log_density[:, i] > -80
    t, known = grid.t[keep, i], grid.log_density[keep, i]
    return Question(
        density, torch.zeros(1, dtype=torch.float64), t, known.exp() * grid.step[i], known, tasks.state[i, 0],
        lambda t: family.log_prob(params.expand(len(t), -1), t.unsqueeze(-1)),
    )  # fmt: skip


def explained(why: str, *claims: Claim) -> list[Claim]:
    """The claims, with the reason where they failed."""
    return [replace(claim, note=why) if claim.verdict == "failed" else claim for claim in claims]


def _prior_density(family: Family, params: Tensor, t: Tensor) -> Tensor:
    return family.log_prob(params.expand(len(t), *params.shape), t.unsqueeze(-1))


def functions(sizes: Sizes, seeds: int) -> Part:
    """G: a value of a function given ten noisy ones, the lengthscale unknown: log density of the true value."""
    systems = {name: told(name, "gp") for name in ("on", "wrong")}
    model = GPData(10)
    rows: list[Record] = []
    behind: list[Floats] = []
    gain: list[Floats] = []
    for seed in range(seeds):
        tasks = tasks_of("gp", model, _few(sizes.n_tasks), seed)
        assert tasks.exact is not None and tasks.state is not None
        exact = GPPosterior(model, tasks.exact, {k: v.double() for k, v in tasks.tokens.items()})
        value = tasks.state[:, 0]
        found = {
            "exact, over a grid of lengthscales": exact.log_prob(value),
            "most probable lengthscale": exact.at_mode().log_prob(value),
            "prior mean of the lengthscale": exact.at_prior_mean().log_prob(value),
            "the prior itself": Gaussian(tasks.exact[:, 0], tasks.exact[:, 1]).log_prob(value),
        }
        both: dict[str, Tensor] = {"exact, over a grid of lengthscales": exact.log_prob_of_both(tasks.state)}
        for name, system in systems.items():
            after = posterior(system, tasks)
            found[NAMES[name]] = after.marginal(0).log_prob(value)
            both[NAMES[name]] = after.log_prob(tasks.state)
        for name, there in found.items():
            rows.append({"proof": "G", "arm": name, "seed": seed, "n_tasks": len(value),
                         "log_density": float(there.mean())})  # fmt: skip
            if name in both:
                rows[-1]["log_density_with_lengthscale"] = float(both[name].mean())
        n = few_programs(sizes)
        one = milliseconds("G", systems["on"], tasks)
        questions = [_function_question(model, tasks, exact, i, seed) for i in range(n)]
        rows += beside("G", seed, questions, posterior(systems["on"], pick(tasks, list(range(n)))), one["one_task"],
                       sizes.programs)  # fmt: skip
        behind.append((found["exact, over a grid of lengthscales"] - found[_OURS]).numpy())
        gain.append((found[_OURS] - found["most probable lengthscale"]).numpy())
    rows.append(one)
    claims = explained(
        _WHY_FUNCTIONS,
        mean_claim("G: log density of the value, exact minus network", behind, high=0.1, unit="nat"),
        mean_claim("G: the same, network minus the process with the most probable lengthscale", gain, low=0.0,
                   unit="nat"),
    )  # fmt: skip
    return claims, rows, []


def _function_question(model: GPData, tasks: Tasks, exact: GPPosterior, i: int, seed: int) -> Question:
    """The i-th task; its scores are of the value."""
    assert tasks.exact is not None and tasks.state is not None
    family, params = experiment("gp").meta.family, tasks.exact[i]
    seen = {name: value[i : i + 1].double() for name, value in tasks.tokens.items()}

    def density(t: Tensor) -> Tensor:
        state = torch.stack([t[0], t[1].exp()]).unsqueeze(0)
        return family.log_prob(params, t) + model.log_density(state, params.unsqueeze(0), seen)[0]

    mix = exact.of_task(i)
    t = mix.sample(2000, generator=torch_stream(seed, "programs", "gp", str(i)))
    return Question(
        density, torch.stack([params[0], exact.prior_mean[i].log()]), t, torch.full((len(t),), 1 / len(t)),
        mix.log_prob(t), tasks.state[i, 0], Gaussian(params[0], params[1]).log_prob,
    )  # fmt: skip


# Filters --------------------------------------------------------------------------------------------------------


def orbit() -> LinearMotion:
    """Position and velocity in the plane of something that is pulled to a point, with friction and pushes."""
    eye = torch.eye(2)
    matrix = torch.cat([torch.cat([eye, eye], 1), torch.cat([-_PULL * eye, (1 - _DRAG) * eye], 1)])
    return LinearMotion(
        matrix.tolist(),
        np.diag([1e-4, 1e-4, _PUSH**2, _PUSH**2]).tolist(),
        [0.0, 0.0, *(_PULL * at for at in _PLANE_REST)],
    )


def unrest() -> LinearMotion:
    """Two log variances that wander around 0."""
    return LinearMotion(np.diag(_STAY).tolist(), np.diag(np.square(_SHAKE)).tolist())


def planes(sizes: Sizes, seeds: int) -> Part:
    """B: position and velocity in the plane from ranges with clutter and bearings, either of which may be missing."""
    start = start_belief(_few(sizes.n_series), ([*_PLANE_REST, 0.0, 0.0], np.diag([9.0, 9.0, 0.25, 0.25]).tolist()))
    return _against_particles("B", "range-bearing", orbit(), start, sizes, seeds, gate=_GATE)


def factors(sizes: Sizes, seeds: int) -> Part:
    """S: log variances of a factor and of the rest, from returns of three assets."""
    wide = np.square(_SHAKE) / (1 - np.square(_STAY))
    start = start_belief(_few(sizes.n_series), ([0.0, 0.0], np.diag(wide).tolist()))
    return _against_particles("S", "factor-volatility", unrest(), start, sizes, seeds)


def _against_particles(
    proof: str,
    task: str,
    motion: LinearMotion,
    start: MultivariateMixture,
    sizes: Sizes,
    seeds: int,
    *,
    gate: float | None = None,
) -> Part:
    """The network's filter and bootstrap particle filters, with half as many steps as in F; Kalman's with a `gate`."""
    model: Any = experiment(task).model
    system = told("on", task)
    gains: list[Floats] = []
    seconds: dict[str, list[float]] = {}
    rows: list[Record] = []
    for seed in range(seeds):
        states, seen = simulate(motion, model, start, max(2, sizes.n_steps // 2), seed)
        tracks = {_OURS: our_track(system, motion, start, states, seen)}
        for n in sizes.n_particles:
            tracks[f"particles, {n}"] = particle_track(motion, model, n, start, states, seen, seed)
        if gate is not None:
            tracks |= kalman_tracks(motion, plane_sensors(model, gate), start, states, seen)
        for name, track in tracks.items():
            rows.append(track_record(proof, name, seed, track, states))
            seconds.setdefault(name, []).append(track.seconds)
        reference = tracks[f"particles, {sizes.n_particles[-2]}"]
        gains.append((tracks[_OURS].log_density - reference.log_density).mean(0).numpy())
    rows += alone(proof, system, motion, model, sizes.n_particles[-1], start, states, seen)
    most = f"particles, {sizes.n_particles[-1]}"
    claims = explained(
        _WHY_FILTERS,
        mean_claim(f"{proof}: log density of the true state, network minus {sizes.n_particles[-2]} particles",
                   gains, low=0.0, unit="nat"),
        Claim(f"{proof}: seconds of {sizes.n_particles[-1]} particles over those of the network, "
              f"{states.shape[1]} series side by side",
              float(np.median(seconds[most]) / np.median(seconds[_OURS])), low=10.0),
    )  # fmt: skip
    return claims, rows, []
