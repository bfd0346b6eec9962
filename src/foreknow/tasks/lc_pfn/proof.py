"""The small proofs of `lc-pfn`.

P. Curves drawn from the prior, cut at 10, 20 and 40 of 50 epochs: the network against the posterior of the same prior
   sampled by MCMC (on fewer curves), a least-squares power law and the last value; all densities on the same buckets.
R. Runs of small networks on ten tasks; where they are found, runs on Fashion-MNIST and mean sample-size curves (LCDB).
S. Early stopping: the runs of a task compete in random order; a run is given up when the chance of beating the best so
   far is at most 5% at every epoch left. Against successive halving and running everything.

In P and R the arms of the prior ("paper", "uniform", "shuffled") are networks of equal size, trained for equally many
steps; the network that ships ("ours") is larger and was trained longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.deps import available
from foreknow.common.errors import InputError
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, seed_of, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Claim, Evidence
from foreknow.core.measures import paired_interval
from foreknow.core.predictive import Bar
from foreknow.core.system import PRESETS
from foreknow.tasks.lc_pfn.baselines import LastValue, MCMCSettings, PowerLaw, sample_posterior
from foreknow.tasks.lc_pfn.forecast import CurveForecast, Floats
from foreknow.tasks.lc_pfn.network import CurveNetwork, inputs
from foreknow.tasks.lc_pfn.normalizer import within_unit
from foreknow.tasks.lc_pfn.presets import ARMS, prior_of, shipped_network
from foreknow.tasks.lc_pfn.prior import CurvePrior
from foreknow.tasks.lc_pfn.runs import CLOTHES, TASKS, Runs, database_curves, database_file, trained_runs
from foreknow.tasks.lc_pfn.stopping_rule import should_stop
from foreknow.tasks.lc_pfn.system import CurveExtrapolator

HORIZON = 50
CUTS = (10, 20, 40)
REAL_CUTS = (5, 10, 15, 25, 40)
FROM_EPOCH = 3
"""First epoch at which a run may be given up."""
DELTA = 0.95
_LEAST_MASS = 1e-6
_LATE = 0.4  # share of its whole rise that a run which rises late has behind it at the cut
_WHY_NARROW = (
    "The intervals miss runs that hardly move at first and rise later, as networks with small learning rates do; "
    "see their coverage beside that of the other runs. The three families of the prior are steepest at the start. That "
    "is the prior, not the network: on a sample of these runs, sampling its posterior by MCMC covered no more. Longer "
    "training did not help; three more families that can stay flat before they rise do (CurvePrior.wide)."
)
_WIDE = "wider prior, not the paper's"
_SAMPLES = 400  # of a posterior
_NAMES = {"paper": "paper, equal budget", "off": "uniform, equal budget", "wrong": "shuffled, equal budget"}

Record = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much a preset spends: prior curves and MCMC curves a seed, and runs a task."""

    n_curves: int
    n_mcmc: int
    n_runs: int
    mcmc: MCMCSettings


SIZES = {
    "quick": Sizes(6, 1, 2, MCMCSettings(n_steps=60, burn_in=20, thin=2)),
    "small": Sizes(200, 10, 30, MCMCSettings()),
    "paper": Sizes(1000, 100, 100, MCMCSettings(n_walkers=100, n_steps=4000, burn_in=500, thin=10)),
}


@dataclass(frozen=True)
class Scores:
    """Measures of one arm, one number a curve: mean log density, squared error of the mean, share within 90%."""

    log_density: Floats
    squared_error: Floats
    covered: Floats
    final_error: Floats

    @classmethod
    def of(cls, bar: Bar, truth: Tensor) -> Scores:
        """Of distributions and truths of shape (b, m)."""
        found = bar.cdf(truth).double()
        error = (bar.mean() - truth).double()
        median = bar.quantile(0.5).double()[:, -1]
        return cls(
            bar.log_prob(truth).double().mean(1).numpy(),
            error.square().mean(1).numpy(),
            ((found > 0.05) & (found < 0.95)).double().mean(1).numpy(),
            (median - truth[:, -1]).abs().numpy(),
        )

    def where(self, chosen: NDArray[np.bool_]) -> Scores:
        """Of some of the curves."""
        return Scores(*(getattr(self, name)[chosen] for name in Scores.__dataclass_fields__))

    def record(self, **about: Any) -> Record:
        """One cell of the evidence."""
        return {
            **about,
            "log_density": float(self.log_density.mean()),
            "mse": float(self.squared_error.mean()),
            "coverage_90": float(self.covered.mean()),
            "final_error": float(self.final_error.mean()),
            "n_curves": len(self.log_density),
        }


def prove(*, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
    """Run the three proofs; P and S are repeated for every seed.

    Args:
        preset: "quick" shrinks counts so that the path is exercised in seconds.
        seeds: of curves, posteriors and orders.
        progress: told of finished parts.
    """
    check_option("prove lc-pfn", "preset", preset, PRESETS)
    check_int("prove lc-pfn", "seeds", seeds, low=1)
    sizes = SIZES[preset]
    n_chains = seeds * len(CUTS) * sizes.n_mcmc * available("emcee")
    total = n_chains + len(TASKS) * sizes.n_runs // 10 + 30 * seeds
    reporter = Reporter(progress, total)
    with Stopwatch() as watch:
        claims, arms, notes = _prior_curves(sizes, seeds, reporter)
        runs = trained_runs(
            sizes.n_runs,
            HORIZON,
            keep=preset != "quick",
            tell=lambda done, of: reporter.advance(n_chains + done // 10, f"trained {done} of {of} networks"),
        )
        for part in (_real_curves(runs, reporter), _stopping(runs, seeds, reporter), _clothes(sizes), _database()):
            claims, arms, notes = claims + part[0], arms + part[1], notes + part[2]
        reporter.advance(total, "done")
    return Evidence(
        slug="lc-pfn",
        claims=tuple(claims),
        arms=tuple(arms),
        command=f"foreknow prove lc-pfn --preset {preset} --seeds {seeds}",
        seconds=watch.seconds,
        settings={"preset": preset, "seeds": seeds, "horizon": HORIZON, "delta": DELTA, "from_epoch": FROM_EPOCH},
        notes=tuple(notes),
    )


Part = tuple[list[Claim], list[Record], list[str]]


def networks() -> dict[str, CurveNetwork]:
    """The network that ships, and the three arms of equal size and budget."""
    arms = {_NAMES[arm]: shipped_network(arm, equal_budget=True)[0] for arm in ARMS}
    return {"ours": shipped_network("paper")[0], **arms}


def _real_networks() -> dict[str, CurveNetwork]:
    return {**networks(), _WIDE: shipped_network(CurvePrior.wide())[0]}


def predict(network: CurveNetwork, values: Tensor, cut: int, horizon: int) -> Bar:
    """Distributions (b, horizon - cut) at epochs cut+1..horizon, given epochs 1..cut of `values` (b, >= cut)."""
    b = len(values)
    with torch.inference_mode():
        logits = network(
            inputs(torch.arange(1.0, cut + 1), b),
            values[:, :cut].float(),
            inputs(torch.arange(cut + 1.0, horizon + 1), b),
        )
    return network.distribution(logits)


def on_buckets(mean: Tensor, sd: Tensor, borders: Tensor) -> Bar:
    """A mixture over the first axis of normals (s, *batch) as probabilities of the network's buckets."""
    inner = borders[1:-1].double()
    z = (inner - mean[..., None]) / sd[..., None]
    upto = torch.special.ndtr(z).mean(0)
    edge = torch.zeros_like(upto[..., :1])
    mass = torch.cat([edge, upto, edge + 1], dim=-1).diff(dim=-1)
    return Bar(mass.clamp(min=_LEAST_MASS).log(), borders.double())


def _baselines(values: Floats, cut: int, horizon: int, borders: Tensor) -> dict[str, Bar]:
    """The last value and the power law for every curve (b, >= cut), on the buckets."""
    seen, later = np.arange(1.0, cut + 1)[:, None], np.arange(cut + 1.0, horizon + 1)[:, None]
    found = {}
    for name, kind in (("last value", LastValue), ("power law", PowerLaw)):
        normals = [kind().fit(seen, row[:cut]).predict_dist(later) for row in values]
        mean = torch.stack([normal.mean() for normal in normals])
        sd = torch.stack([normal.variance().sqrt() for normal in normals])
        found[name] = on_buckets(mean[None], sd[None], borders)
    return found


# P --------------------------------------------------------------------------------------------------------


def _prior_curves(sizes: Sizes, seeds: int, reporter: Reporter) -> Part:
    prior, nets = prior_of("paper"), networks()
    borders = nets["ours"].borders
    scores: dict[tuple[str, int], list[Scores]] = {}
    behind: list[float] = []
    seconds: dict[str, list[float]] = {"ours": [], "ours, one curve": [], "MCMC": []}
    ours_there: list[Scores] = []
    mcmc: list[Scores] = []
    done = 0
    for seed in range(seeds):
        curves = prior.sample(sizes.n_curves, generator=torch_stream(seed, "lc-pfn", "proof")).value.double()
        for cut in CUTS:
            truth = curves[:, cut:HORIZON]
            bars = {name: predict(network, curves, cut, HORIZON) for name, network in nets.items()}
            with Stopwatch() as watch:
                predict(nets["ours"], curves, cut, HORIZON)
            seconds["ours"].append(watch.seconds / len(curves))
            bars |= _baselines(curves.numpy(), cut, HORIZON, borders)
            for name, bar in bars.items():
                scores.setdefault((name, cut), []).append(Scores.of(bar, truth.to(bar.dtype)))
            if not available("emcee"):
                continue
            for i in range(sizes.n_mcmc):
                one = curves[i : i + 1]
                with Stopwatch() as watch:
                    bar = _posterior(sizes, one[0], cut, borders, seed_of(seed, "proof", str(cut), str(i)))
                seconds["MCMC"].append(watch.seconds)
                with Stopwatch() as watch:
                    own = predict(nets["ours"], one, cut, HORIZON)
                seconds["ours, one curve"].append(watch.seconds)
                mcmc.append(Scores.of(bar, one[:, cut:HORIZON]))
                ours_there.append(Scores.of(own, one[:, cut:HORIZON].float()))
                behind.append(float((ours_there[-1].log_density - mcmc[-1].log_density)[0]))
                done += 1
                reporter.advance(done, f"{done} posteriors sampled")
    arms = [_joined(parts).record(proof="P", arm=name, cut=cut) for (name, cut), parts in scores.items()]
    if not behind:
        return [], arms, ["P: the package emcee is not installed, so MCMC was not measured (foreknow[mcmc])."]
    times = {name: float(np.median(spent)) for name, spent in seconds.items()}
    arms += [
        _joined(mcmc).record(proof="P", arm="MCMC", cut="all", seconds=times["MCMC"]),
        _joined(ours_there).record(
            proof="P", arm="ours, on the curves of MCMC", cut="all", seconds=times["ours, one curve"]
        ),
    ]
    claims = [
        _mean_claim(
            "P: log density a value, network minus MCMC of the same prior", np.array(behind), low=0.0, unit="nat"
        ),
        Claim(
            "P: seconds of MCMC over those of the network in one pass, a curve",
            times["MCMC"] / times["ours"],
            low=1000.0,
        ),
    ]
    return claims, arms, []


def _posterior(sizes: Sizes, values: Tensor, cut: int, borders: Tensor, seed: int) -> Bar:
    """The posterior predictive by MCMC on the network's buckets, batch (1, horizon - cut)."""
    prior = prior_of("paper")
    seen = np.arange(1.0, cut + 1)
    theta = sample_posterior(prior, seen, values[:cut].numpy(), settings=sizes.mcmc, seed=seed)
    theta = theta[:: max(1, len(theta) // _SAMPLES)]
    later = torch.arange(cut + 1.0, HORIZON + 1, dtype=torch.float64)
    mean = prior.curve(theta, later)[:, None]
    return on_buckets(mean, theta[:, -1:].exp()[:, None].expand_as(mean), borders)


# R --------------------------------------------------------------------------------------------------------


def _real_curves(runs: Runs, reporter: Reporter) -> Part:
    nets = _real_networks()
    values = torch.as_tensor(runs.values)
    arms: list[Record] = []
    gains, covered, covered_wide = [], [], []
    for cut in REAL_CUTS:
        scores = _score_real(nets, values, cut)
        arms += [score.record(proof="R", arm=name, cut=cut) for name, score in scores.items()]
        risen = runs.values[:, cut - 1] - runs.values[:, 0]
        late = risen < _LATE * (runs.values[:, -1] - runs.values[:, 0])
        for name, part in (("ours, runs that rise late", late), ("ours, the other runs", ~late)):
            if part.any():
                arms.append(scores["ours"].where(part).record(proof="R", arm=name, cut=cut))
        covered.append(scores["ours"].covered)
        covered_wide.append(scores[_WIDE].covered)
        if cut <= 0.3 * HORIZON:
            gains.append(scores["last value"].final_error - scores["ours"].final_error)
    coverage = _mean_claim("R: coverage of 90% intervals of real runs", _mean(covered), low=0.82, high=0.98)
    claims = [
        _mean_claim("R: error of the final accuracy, last value minus network, cuts up to 30%", _mean(gains), low=0.0),
        coverage if coverage.verdict == "held" else replace(coverage, note=_WHY_NARROW),
        _mean_claim(f"R: the same with the {_WIDE}", _mean(covered_wide), low=0.82, high=0.98),
    ]
    return claims, arms, []


def _score_real(nets: dict[str, CurveNetwork], values: Tensor, cut: int) -> dict[str, Scores]:
    """Scores of all arms on curves (b, T), conditioned on [0, 1] as all of them know."""
    horizon = values.shape[1]
    bars = {name: predict(network, values, cut, horizon) for name, network in nets.items()}
    bars |= _baselines(values.numpy(), cut, horizon, nets["ours"].borders)
    truth = values[:, cut:]
    return {name: Scores.of(inside := within_unit(bar), truth.to(inside.dtype)) for name, bar in bars.items()}


def _clothes(sizes: Sizes) -> Part:
    """Runs on Fashion-MNIST, where its files are; a record only, like that of LCDB."""
    try:
        runs = trained_runs(sizes.n_runs, HORIZON, tasks=CLOTHES, keep=sizes.n_runs > 10)
    except InputError as error:
        return [], [], [f"R: {error} Runs on images of clothes were not measured."]
    nets, values = _real_networks(), torch.as_tensor(runs.values)
    arms = [
        score.record(proof="R", arm=name, cut=cut, data="Fashion-MNIST")
        for cut in REAL_CUTS
        for name, score in _score_real(nets, values, cut).items()
    ]
    return [], arms, []


def _database() -> Part:
    """Mean sample-size curves of LCDB, index = rank of the training size; a record only, the claims are on epochs."""
    path = database_file()
    if path is None:
        return [], [], ["R: LCDB was not found (package lcdb, or FOREKNOW_LCDB=path of database-accuracy.csv)."]
    curves = [curve[:16] for curve in database_curves(path, least=16)]
    order = numpy_stream(0, "lc-pfn", "lcdb").permutation(len(curves))[:1000]
    values = torch.as_tensor(np.clip(np.stack([curves[i] for i in order]), 0.0, 1.0))
    arms = [
        score.record(proof="R", arm=name, cut=cut, data="LCDB, 16 sample sizes")
        for cut in (4, 8, 12)
        for name, score in _score_real(_real_networks(), values, cut).items()
    ]
    return [], arms, []


# S --------------------------------------------------------------------------------------------------------


def _stopping(runs: Runs, seeds: int, reporter: Reporter) -> Part:
    chances = _forecasts(CurveExtrapolator(), runs.values)
    wide = _forecasts(CurveExtrapolator(CurvePrior.wide()), runs.values)
    arms: list[Record] = []
    speedups, regrets = [], []
    for task in range(len(TASKS)):
        group = np.flatnonzero(runs.task == task)
        best = float(runs.values[group].max())
        cells: dict[str, list[tuple[float, float]]] = {}
        for seed in range(seeds):
            order = numpy_stream(seed, "lc-pfn", "order", TASKS[task]).permutation(group)
            for name, (cost, reached) in {
                "ours": replay(runs.values[order], [chances[i] for i in order]),
                _WIDE: replay(runs.values[order], [wide[i] for i in order]),
                "successive halving": successive_halving(runs.values[order]),
                "run everything": (runs.values[group].size, best),
            }.items():
                cells.setdefault(name, []).append((runs.values[group].size / cost, 100 * (best - reached)))
        for name, found in cells.items():
            speedup, regret = (float(value) for value in np.mean(found, axis=0))
            arms.append({"proof": "S", "arm": name, "task": TASKS[task], "speed_up": speedup, "regret_points": regret})
            if name == "ours":
                speedups.append(speedup)
                regrets.append(regret)
    claims = [
        _mean_claim("S: epochs of running everything over epochs run, mean of tasks", np.array(speedups), low=1.5),
        _mean_claim("S: accuracy lost to the best run, mean of tasks", np.array(regrets), high=0.5, unit="points"),
    ]
    return claims, arms, []


def _forecasts(system: CurveExtrapolator, values: Floats) -> list[list[CurveForecast]]:
    """Per run, a forecast after each epoch from FROM_EPOCH to the last but one."""
    horizon = values.shape[1]
    cuts = range(FROM_EPOCH, horizon)
    every = [row[:cut] for row in values for cut in cuts]
    found = system.extrapolate(every, horizon, falling="allow")
    assert isinstance(found, list)  # many curves were given
    return [found[i : i + len(cuts)] for i in range(0, len(found), len(cuts))]


def replay(values: Floats, forecasts: list[list[CurveForecast]]) -> tuple[int, float]:
    """Epochs run and best value seen when runs (n, T) come one after the other and hopeless ones are given up."""
    best, cost = -math.inf, 0
    for row, own in zip(values, forecasts, strict=True):
        n_run = len(row)
        before = best
        for epoch in range(FROM_EPOCH, len(row)):
            level = max(before, float(row[:epoch].max()))
            if math.isfinite(before) and should_stop(own[epoch - FROM_EPOCH].prob_beats(level), delta=DELTA):
                n_run = epoch
                break
        cost += n_run
        best = max(best, float(row[:n_run].max()))
    return cost, best


def successive_halving(values: Floats, eta: int = 3) -> tuple[int, float]:
    """Epochs run and best value seen: of n runs the best third goes on, to three times as many epochs each time."""
    n, horizon = values.shape
    n_rungs = max(1, math.floor(math.log(n, eta)))
    alive, spent, cost, best = np.arange(n), 0, 0, -math.inf
    for rung in range(n_rungs, -1, -1):
        budget = max(1, horizon // eta**rung)
        cost += len(alive) * (budget - spent)
        best = max(best, float(values[alive, :budget].max()))
        alive = alive[np.argsort(-values[alive, budget - 1], kind="stable")[: max(1, len(alive) // eta)]]
        spent = budget
    return cost, best


# Shared ---------------------------------------------------------------------------------------------------


def _joined(parts: list[Scores]) -> Scores:
    return Scores(*(np.concatenate([getattr(part, name) for part in parts]) for name in Scores.__dataclass_fields__))


def _mean(parts: list[Floats]) -> Floats:
    """The mean of parts, one number a curve."""
    return np.asarray(np.mean(parts, axis=0))


def _mean_claim(name: str, values: Floats, **bounds: Any) -> Claim:
    if len(values) < 2:
        return Claim(name, float(values.mean()), **bounds)
    found = paired_interval(values, rng=numpy_stream(0, "bootstrap", "lc-pfn", name))
    return Claim(name, found.mean, interval=(found.low, found.high), **bounds)
