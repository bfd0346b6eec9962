"""The small proof of `martingale-np`.

F. Functions of one column, trained on RBF tasks: arms CNP (off), NP, BNP, MPNP (on), the placebo; tested on RBF,
   Matern-5/2, t-noise and periodic tasks with 5, 10, 20 and 40 context rows. The attentive arms at fewer steps, on RBF.
   Ceiling: the Gaussian process that generated each task, its hyper-parameters known. Marginal and joint likelihood.
   Beside them, as a record, the networks that ship.
G. The generator: spread over draws against the number of context rows, with and without the pseudo term of the loss;
   the martingale gap. Again with the network that ships.
D. Completion of real handwritten digits (8 x 8), trained and tested on different images; the same five arms.
Y. Real small tables: years of sea temperatures, networks trained on other years, the same five arms and two attentive
   ones. Plain methods, fitted to the same years: the climatology, and a joint normal of the twelve months conditioned
   on those that are known.

Every arm with randomness is measured with as many draws, on target rows only; arms are paired by task and seed.
Held-out tasks come from a stream that no training uses. Networks are trained one a core; finished ones are kept in the
user's cache folder, so that a proof that was stopped goes on, and their training time is counted in.
"""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreknow.common.deps import available
from foreknow.common.files import cache_folder, hash_bytes
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.batch import Batch
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.evidence import Claim, Evidence, n_cores
from foreknow.core.measures import coverage, paired_interval
from foreknow.core.predictive import Gaussian
from foreknow.core.records import to_json
from foreknow.core.system import PRESETS
from foreknow.tasks.martingale_np.network import ConditionalNP, NPSettings
from foreknow.tasks.martingale_np.presets import preset_settings, shipped_network
from foreknow.tasks.martingale_np.real import JointNormal, sea_temperatures, year_rows
from foreknow.tasks.martingale_np.scores import DRAWS, Array, Scores, martingale_gap, score, slope
from foreknow.tasks.martingale_np.tasks import DigitTasks, GPTasks, MartingalePrior
from foreknow.tasks.martingale_np.training import from_checkpoint, pretrain_network, to_checkpoint
from foreknow.trained import shipped

_VERSION = 1  # of what a training makes; part of the cache's key
ARMS = {"MPNP": "martingale", "CNP": "none", "NP": "latent", "BNP": "residual", "placebo": "shuffled"}
"""Arm -> rule."""
ATTENTIVE = {"MPANP": "martingale", "CANP": "none", "ANP": "latent", "BANP": "residual"}
YEARS = (*ARMS, "MPANP", "ANP")
"""Arms that learn from years."""
SHIPPED = {
    "MPNP that ships": "martingale-np", "CNP that ships": "martingale-np-off",
    "placebo that ships": "martingale-np-wrong",
}  # fmt: skip
"""Networks that are measured beside the trained ones -> their files."""
KINDS = ("rbf", "matern52", "t-noise", "periodic")
SIZES = (5, 10, 20, 40)
N_QUERY = 20
_WHY_NARROW = (
    "Bands of networks trained for 1000 steps are a little too narrow; see the arm 'MPNP that ships', trained six "
    "times as long."
)
_WHY_GAP = (
    "No term of the loss asks the generator for a martingale, only for likelihood, and more training is no remedy: see "
    "the arm 'MPNP that ships', trained six times as long. In a trial a pseudo term of weight 1 instead of 0.1 more "
    "than halved the spread over draws after equal steps, and with it the gain in likelihood."
)
_WHY_PLACEBO = (
    "Tasks of this kind were not trained on. What draws know of them by the context may then be wrong, and pseudo data "
    "of another task, which only widen the mixture, may serve as well or better."
)
_WHY_YEARS = (
    "Forty-five years of twelve months are few tasks to learn a generator from, and sixteen test years few to measure "
    "on: see the interval."
)
_WHY_BANDS = (
    "Forty-five years are learnt nearly by heart, and the test years hold the El Nino of 1997, which no other year is "
    "like. In a trial on other years (those from 1985 to 1994, told by the 35 before, seed 1000) bands after 500 steps "
    "covered 0.83 and 0.89 of the targets for 3 and 6 known months, after 250 steps 0.93 and 0.96, at 0.05 nat a month "
    "less: fewer steps are a remedy of width, not of likelihood."
)
_WHY_TIE = (
    "A tie: the interval holds 0. A digit's pixels have much the same noise everywhere, and residuals drawn again "
    "widen the mixture as well as pseudo pixels do."
)
_WHY_NORMAL = (
    "A table of twelve fixed places and forty-five complete rows is the ground of a joint normal: it has mean and "
    "covariance of all months in closed form. A network is told a place as a number and has to find from random months "
    "of the same years which of them go together; for that it would need many more years, or steps, or a task prior "
    "near to them. It is meant for rows at any place and for tables with gaps, where no joint normal can be fitted."
)
_WHY_CLIMATOLOGY = "The climatology sees no month of the year it tells; the conditional normal does."
_WHY_SPREAD = (
    "Here the marginal term alone keeps the pseudo rows in use; in a trial, a pseudo term of weight 1 instead of 0.1 "
    "more than halved the spread."
)
_WHY_ATTENTIVE = (
    "Attentive arms are trained for 300 steps, which is what the budget allows: hardly trained networks are compared."
)
PIXELS = (10, 20, 32)


@dataclass(frozen=True)
class Size:
    """How much of everything a preset does."""

    settings: NPSettings
    attentive: NPSettings
    digits: NPSettings
    years: NPSettings
    n_tasks: int
    keep: bool
    draws: int = DRAWS


def sizes_of(preset: str) -> Size:
    """The sizes of a preset."""
    base = preset_settings(preset)
    if preset == "quick":
        few = replace(base, n_steps=6)
        return Size(few, replace(few, attentive=True), replace(few, n_points=64), few, 6, False, 4)
    if preset == "small":
        base = replace(base, n_steps=1000, n_samples=3)
        attentive = replace(base, attentive=True, n_steps=300)
        few = replace(base, n_steps=500)
        return Size(base, attentive, replace(few, n_points=64), few, 100, True)
    return Size(base, replace(base, attentive=True), replace(base, n_points=64), base, 2000, True)


def prove(*, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
    """Run all parts.

    Args:
        preset: "quick" shrinks networks, budgets and task counts so that the path is exercised in seconds.
        seeds: networks trained per arm.
        progress: told of finished trainings.
    """
    check_option("prove martingale-np", "preset", preset, PRESETS)
    check_int("prove martingale-np", "seeds", seeds, low=1)
    size = sizes_of(preset)
    jobs = _jobs(size, seeds)
    with Stopwatch() as watch:
        reporter = Reporter(progress, len(jobs) + 1)
        networks: dict[tuple[str, int], ConditionalNP] = {}
        seconds: dict[str, list[float]] = {}
        earlier = 0.0
        for done, (job, network, spent, kept) in enumerate(_train_all(jobs, size.keep), start=1):
            networks[job.arm, job.seed] = network
            seconds.setdefault(job.arm, []).append(spent)
            earlier += spent if kept else 0.0
            reporter.advance(done, f"trained {done} of {len(jobs)} networks")
        networks |= {(arm, 0): shipped_network(name)[0] for arm, name in SHIPPED.items() if name in shipped()}
        claims, arms = _functions(networks, seconds, size, seeds)
        for part in (_generator, _digits, _years):
            more_claims, more_arms = part(networks, size, seeds)
            claims += more_claims
            arms += more_arms
    notes = [
        f"Every arm with randomness uses {size.draws} draws; likelihoods are of target rows only, in nats a row.",
        "The standard deviation of a network is at least 0.1, which caps its likelihood at 1.38 nat a row.",
        "Read the placebo beside MPNP: what MPNP gains over it is what pseudo data know of the task; the rest of the "
        "gain over CNP comes from training a mixture over draws, whatever they are drawn from.",
        "Equal steps and tasks for all arms of a part; a step of MPNP costs several times one of CNP (see seconds).",
        "No network is near the ceiling: on RBF tasks the exact Gaussian process is above them by, in nats a row, "
        + ", ".join(
            f"{arm['arm']} {arm['gap_to_exact']:.2f}" for arm in arms if arm.get("tasks") == "rbf" and "by_seed" in arm
        )
        + ".",
        f"Small beside the paper: {size.settings.n_steps} steps of {size.settings.batch_size} tasks (preset 'paper': "
        f"{NPSettings.n_steps} of {NPSettings.batch_size}), {size.n_tasks} test tasks for each number of context rows.",
    ]
    if earlier:
        notes.append(f"{earlier:.0f} s of training were done in earlier, interrupted runs of the same command.")
    return Evidence(
        slug="martingale-np",
        claims=tuple(claims),
        arms=tuple(arms),
        command=f"foreknow prove martingale-np --preset {preset} --seeds {seeds}",
        seconds=watch.seconds + earlier,
        settings={
            "preset": preset, "seeds": seeds, "n_tasks": size.n_tasks, "n_query": N_QUERY, "sizes": list(SIZES),
            "network": to_json(size.settings), "attentive": to_json(size.attentive), "draws": size.draws,
        },
        notes=tuple(notes),
    )  # fmt: skip


# Training -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One network to train."""

    arm: str
    seed: int
    prior: MartingalePrior
    settings: NPSettings
    collection: bool = False


def _jobs(size: Size, seeds: int) -> list[Job]:
    jobs = []
    few = replace(size.years, attentive=True, n_steps=size.attentive.n_steps)
    for seed in range(seeds):
        jobs += [Job(arm, seed, MartingalePrior(rule=rule), size.settings) for arm, rule in ARMS.items()]
        jobs += [Job(arm, seed, MartingalePrior(rule=rule), size.attentive) for arm, rule in ATTENTIVE.items()]
        digits = {f"{arm}, digits": MartingalePrior(DigitTasks(), rule) for arm, rule in ARMS.items()}
        jobs += [Job(arm, seed, prior, size.digits) for arm, prior in digits.items()]
        if available("statsmodels"):
            for arm in YEARS:
                rule, settings = (ATTENTIVE[arm], few) if arm in ATTENTIVE else (ARMS[arm], size.years)
                jobs.append(Job(f"{arm}, years", seed, MartingalePrior(rule=rule), settings, True))
    without = replace(size.settings, weight_pseudo=0.0)
    return [*jobs, Job("MPNP without the pseudo term", 0, MartingalePrior(), without)]


def _train_all(jobs: list[Job], keep: bool) -> Iterator[tuple[Job, ConditionalNP, float, bool]]:
    """(job, network, seconds, whether it was kept from before) of every job, one process a core."""
    if not keep:  # seconds of work are not worth processes of their own
        for job in jobs:
            yield job, *_train(job), False
        return
    waiting = [job for job in jobs if not _path(job).is_file()]
    for job in jobs:
        if job not in waiting:
            yield job, *_kept(job), True
    if not waiting:
        return
    with ProcessPoolExecutor(min(len(waiting), n_cores()), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_keep, job) for job in waiting]
        try:
            for job, future in zip(waiting, futures, strict=True):
                future.result()
                yield job, *_kept(job), False
        finally:
            pool.shutdown(cancel_futures=True)


def _train(job: Job, state: Path | None = None) -> tuple[ConditionalNP, float]:
    """The network of a job and the seconds it took; with a state to go on from, if it should be kept."""
    if job.collection:
        with Stopwatch() as watch:
            network = _years_system(job).network_
        return network, watch.seconds
    network, result = pretrain_network(
        job.prior,
        job.settings,
        rule=job.prior.rule,
        seed=job.seed,
        device="cpu",
        checkpoint_path=state,
        resume=state is not None,
    )
    return network, result.seconds


def _path(job: Job) -> Path:
    key = json.dumps([_VERSION, torch.__version__, to_json(job.prior), to_json(job.settings), job.seed, job.collection])
    return cache_folder() / f"martingale-np-{hash_bytes(key.encode())[:20]}.safetensors"


def _keep(job: Job) -> None:
    """Train, in a process of the proof's own, and leave the network in the cache."""
    torch.set_num_threads(1)
    path = _path(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = path.with_suffix(".state")
    network, seconds = _train(job, state)
    to_checkpoint(network, job.prior, {"seconds": seconds, "arm": job.arm}).save(path)
    state.unlink(missing_ok=True)


def _kept(job: Job) -> tuple[ConditionalNP, float]:
    checkpoint = Checkpoint.load(_path(job), kind="NeuralProcess")
    return from_checkpoint(checkpoint)[0], float(checkpoint.training["seconds"])


# F: functions ---------------------------------------------------------------------------------------------


def _functions(
    networks: dict[tuple[str, int], ConditionalNP], seconds: dict[str, list[float]], size: Size, seeds: int
) -> tuple[list[Claim], list[dict[str, Any]]]:
    arms: list[dict[str, Any]] = []
    found: dict[tuple[str, str], Scores] = {}
    for kind in KINDS:
        tests = [_held_out(GPTasks.named(kind), n, size.n_tasks) for n in SIZES]
        ceiling = None if kind == "t-noise" else np.concatenate([_exact(GPTasks.named(kind), batch) for batch in tests])
        for arm in (*ARMS, *(ATTENTIVE if kind == "rbf" else ()), *SHIPPED):  # the attentive ones are dear
            own = [networks[arm, seed] for seed in range(seeds) if (arm, seed) in networks]
            if not own:
                continue
            by_seed = [Scores.joined([score(network, batch, draws=size.draws) for batch in tests]) for network in own]
            mean = found[kind, arm] = _mean_of(by_seed)
            low, high = _interval(mean.marginal)
            arms.append(
                {
                    "part": "F", "arm": arm, "tasks": kind, "trained_on": "rbf", "seeds": len(own),
                    "log_likelihood_marginal": float(mean.marginal.mean()), "interval": [low, high],
                    "by_seed": [float(s.marginal.mean()) for s in by_seed],
                    "by_context": _by_context(mean.marginal),
                    "log_likelihood_joint": float(mean.joint.mean()),
                    "log_likelihood_without_draws": float(mean.amortised.mean()),
                    "rmse": float(math.sqrt(mean.squared.mean())), "coverage_90": float(mean.covered.mean()),
                    "spread_over_draws": float(mean.spread.mean()),
                    "gap_to_exact": None if ceiling is None else float((ceiling - mean.marginal).mean()),
                    "seconds_training": float(np.mean(seconds[arm])) if arm in seconds else None,
                }
            )  # fmt: skip
        if ceiling is not None:
            arms.append(
                {"part": "F", "arm": "exact GP", "tasks": kind, "log_likelihood_marginal": float(ceiling.mean()),
                 "by_context": _by_context(ceiling)}
            )  # fmt: skip
        with_pseudo, without, placebo = (found[kind, arm] for arm in ("MPNP", "CNP", "placebo"))
        arms.append(
            {
                "part": "F", "arm": "placebo", "tasks": kind, "what": "share of MPNP's gain over CNP",
                "marginal": _share(with_pseudo.marginal, without.marginal, placebo.marginal),
                "joint": _share(with_pseudo.joint, without.joint, placebo.joint),
            }
        )  # fmt: skip
    on, off = found["rbf", "MPNP"], found["rbf", "CNP"]
    gain, joint = on.marginal - off.marginal, on.joint - off.joint
    claims = [
        _claim("F: MPNP - CNP, marginal log-likelihood on RBF tasks", gain, low=0.05),
        _claim("F: MPNP - CNP, joint log-likelihood on RBF tasks", joint, low=0.05),
        _claim("F: how much larger the gain of the joint likelihood is", joint - gain, low=0.0),
        _claim("F: MPNP - NP, marginal, RBF", on.marginal - found["rbf", "NP"].marginal, low=0.0),
        _claim("F: MPNP - BNP, marginal, RBF", on.marginal - found["rbf", "BNP"].marginal, low=0.0),
        _claim("F: MPNP - placebo, marginal, RBF", on.marginal - found["rbf", "placebo"].marginal, low=0.0),
    ]
    for kind in KINDS[1:]:
        ours = found[kind, "MPNP"].marginal
        claims += [
            _claim(f"F: MPNP - CNP, marginal, {kind}", ours - found[kind, "CNP"].marginal, low=0.0),
            _claim(
                f"F: MPNP - placebo, marginal, {kind}", ours - found[kind, "placebo"].marginal, low=0.0,
                why=_WHY_PLACEBO,
            ),
        ]  # fmt: skip
    for other in ("CANP", "ANP", "BANP"):
        difference = found["rbf", "MPANP"].marginal - found["rbf", other].marginal
        claims.append(_claim(f"F: MPANP - {other}, marginal, RBF", difference, low=0.0, why=_WHY_ATTENTIVE))
    ratio = math.sqrt(on.squared.mean() / off.squared.mean())
    claims += [
        Claim("F: root mean square error of MPNP over that of CNP, RBF", ratio, low=0.95, high=1.05),
        _claim("F: coverage of the 90% bands of MPNP, RBF", on.covered, low=0.87, high=0.93, unit="", why=_WHY_NARROW),
    ]
    return claims, arms


def _share(on: Array, off: Array, placebo: Array) -> float:
    """What part of the gain of `on` over `off` the placebo brings too."""
    return float((placebo - off).mean() / (on - off).mean())


def _by_context(values: Array) -> dict[str, float]:
    parts = np.split(values, len(SIZES))
    return {str(n): float(part.mean()) for n, part in zip(SIZES, parts, strict=True)}


def _held_out(tasks: GPTasks, n: int, n_tasks: int) -> Batch:
    generator = torch_stream(20_230_419, "held out", str(n), tasks.kernel)
    return tasks.sample(n_tasks, n_context=n, n_query=N_QUERY, generator=generator)


def _exact(tasks: GPTasks, batch: Batch) -> Array:
    assert batch.query_y is not None
    return np.asarray(tasks.exact(batch).log_prob(batch.query_y).mean(dim=1).double().numpy())


# G: the generator -----------------------------------------------------------------------------------------


def _generator(
    networks: dict[tuple[str, int], ConditionalNP], size: Size, seeds: int
) -> tuple[list[Claim], list[dict[str, Any]]]:
    tests = {n: _held_out(GPTasks(), n, min(200, size.n_tasks)) for n in SIZES}
    own = [("MPNP", seed, networks["MPNP", seed]) for seed in range(seeds)]
    ships = [(arm, seed, network) for (arm, seed), network in networks.items() if arm == "MPNP that ships"]
    without = networks["MPNP without the pseudo term", 0]
    arms: list[dict[str, Any]] = []
    slopes: dict[str, list[float]] = {}
    shares: dict[str, list[float]] = {}
    gaps: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for arm, seed, network in (*own, *ships):
        spreads = []
        for n, batch in tests.items():
            found = score(network, batch, draws=size.draws)
            spreads.append(float(found.spread.mean()))
            shares.setdefault(arm, []).append(float((found.spread / found.sd).mean()))
            gap = martingale_gap(network, batch, draws=size.draws)
            each = float(gap.mean.mean()), float(gap.variation.mean()), float(gap.sd_ratio.mean())
            gaps.setdefault((arm, n), []).append(each)
        slopes.setdefault(arm, []).append(slope(np.array(SIZES, dtype=np.float64), np.array(spreads)))
        arms.append(
            {"part": "G", "arm": arm, "seed": seed, "spread_by_context": dict(zip(map(str, SIZES), spreads)),
             "slope": slopes[arm][-1]}
        )  # fmt: skip
    both = [
        np.mean([score(one, batch, draws=size.draws).spread.mean() for batch in tests.values()])
        for one in (networks["MPNP", 0], without)
    ]
    lowered = float(both[1] / max(float(both[0]), 1e-12))
    for arm in ("MPNP", "MPNP without the pseudo term"):
        scores = [score(networks[arm, 0], batch, draws=size.draws) for batch in tests.values()]
        arms.append(
            {
                "part": "G", "arm": arm, "seed": 0, "what": "weight of the pseudo term",
                "spread": float(np.mean([s.spread.mean() for s in scores])),
                "log_likelihood_marginal": float(np.mean([s.marginal.mean() for s in scores])),
                "log_likelihood_joint": float(np.mean([s.joint.mean() for s in scores])),
                "log_likelihood_without_draws": float(np.mean([s.amortised.mean() for s in scores])),
            }
        )  # fmt: skip
    for (arm, n), values in gaps.items():
        mean, variation, ratio = (float(value) for value in np.mean(values, axis=0))
        arms.append(
            {"part": "G", "arm": arm, "n": n, "gap_of_means_in_sd": mean, "total_variation": variation,
             "sd_ratio": ratio}
        )  # fmt: skip
    total = float(np.mean([[each[1] for each in gaps["MPNP", n]] for n in SIZES]))
    claims = [
        Claim(
            "G: slope of ln variance over draws against ln context rows, largest of the seeds",
            max(slopes["MPNP"]),
            high=0.0,
        ),
        Claim("G: spread over draws as a share of the predictive deviation", float(np.mean(shares["MPNP"])), low=0.01),
        Claim("G: spread over draws without the pseudo term, relative to with it", lowered, high=1.0, note=_WHY_SPREAD),
        Claim("G: martingale gap, total variation of the next target's predictive", total, high=0.1, note=_WHY_GAP),
    ]
    return claims, arms


# D: digits ------------------------------------------------------------------------------------------------


def _digits(
    networks: dict[tuple[str, int], ConditionalNP], size: Size, seeds: int
) -> tuple[list[Claim], list[dict[str, Any]]]:
    test = DigitTasks(part="test")
    tests = []
    for n in PIXELS:
        generator = torch_stream(0, "martingale-np", "digits", str(n))
        tests.append(test.sample(min(300, size.n_tasks), n_context=n, n_query=64 - n, generator=generator))
    found: dict[str, Scores] = {}
    arms: list[dict[str, Any]] = []
    for arm in ARMS:
        own = [networks[f"{arm}, digits", seed] for seed in range(seeds)]
        by_seed = [Scores.joined([score(network, batch, draws=size.draws) for batch in tests]) for network in own]
        mean = found[arm] = _mean_of(by_seed)
        arms.append(
            {
                "part": "D", "arm": f"{arm}, digits", "log_likelihood_marginal": float(mean.marginal.mean()),
                "interval": list(_interval(mean.marginal)), "log_likelihood_joint": float(mean.joint.mean()),
                "rmse": float(math.sqrt(mean.squared.mean())), "coverage_90": float(mean.covered.mean()),
                "by_seed": [float(s.marginal.mean()) for s in by_seed],
            }
        )  # fmt: skip
    on, off = found["MPNP"], found["CNP"]
    return [
        _claim("D: MPNP - CNP, marginal log-likelihood a pixel of real digits", on.marginal - off.marginal, low=0.0),
        _claim("D: MPNP - CNP, joint log-likelihood a pixel of real digits", on.joint - off.joint, low=0.0),
        *(
            _claim(
                f"D: MPNP - {other}, marginal, real digits", on.marginal - found[other].marginal, low=0.0, why=_WHY_TIE
            )
            for other in ("NP", "BNP", "placebo")
        ),
    ], arms


# Y: years -------------------------------------------------------------------------------------------------

_FIRST_TEST_YEAR = 45
_KNOWN_MONTHS = (3, 6)


def _years_system(job: Job) -> Any:
    """A system trained on the first 45 years."""
    from foreknow.tasks.martingale_np.system import MartingaleNP

    x, y, years = year_rows(sea_temperatures()[:_FIRST_TEST_YEAR])
    system = MartingaleNP(
        job.prior, attentive=job.settings.attentive, settings=job.settings, weights="fit", n_samples=DRAWS,
        random_state=job.seed,
    )  # fmt: skip
    return system.fit(x, y, tasks=years)


def _years(
    networks: dict[tuple[str, int], ConditionalNP], size: Size, seeds: int
) -> tuple[list[Claim], list[dict[str, Any]]]:
    if ("MPNP, years", 0) not in networks:
        return [], [{"part": "Y", "skipped": "statsmodels, which ships the record, is not installed"}]
    years = sea_temperatures()
    train, test = years[:_FIRST_TEST_YEAR], years[_FIRST_TEST_YEAR:]
    shift, scale = train.mean(), train.std()
    x_all, _, _ = year_rows(train)
    months = (np.arange(1.0, 13) - x_all.mean()) / x_all.std()
    rng = numpy_stream(0, "martingale-np", "years")
    repeats = 2 if size.n_tasks < 100 else 10
    normal, spread = JointNormal(train), train.std(axis=0, ddof=1)
    likelihood: dict[str, list[Array]] = {}
    covered: dict[str, list[Array]] = {}

    def note(arm: str, log_prob: Array, inside: Array) -> None:
        likelihood.setdefault(arm, []).append(log_prob)
        covered.setdefault(arm, []).append(inside)

    for n in _KNOWN_MONTHS:
        order = np.stack([rng.permutation(12) for _ in range(repeats * len(test))])
        values = np.take_along_axis(np.tile(test, (repeats, 1)), order, axis=1)  # the placebo's donor: another year
        x, y = torch.as_tensor(months[order]).float()[..., None], torch.as_tensor((values - shift) / scale).float()
        batch = Batch(x[:, :n], y[:, :n], x[:, n:], y[:, n:])
        for arm in YEARS:
            own = [score(networks[f"{arm}, years", seed], batch, draws=size.draws) for seed in range(seeds)]
            mean = _mean_of(own)
            note(f"{arm}, years", mean.marginal - math.log(scale), mean.covered)
        known, asked = order[:, :n], order[:, n:]
        told = [normal.given(*each) for each in zip(known, values[:, :n], asked, strict=True)]
        for arm, dists in {
            "climatology": [Gaussian(*map(torch.as_tensor, (train.mean(axis=0)[at], spread[at]))) for at in asked],
            "conditional normal": told,
        }.items():
            pairs = list(zip(dists, torch.as_tensor(values[:, n:]), strict=True))
            note(
                arm,
                np.array([float(dist.log_prob(target).mean()) for dist, target in pairs]),
                np.array([coverage(dist, target, 0.9) for dist, target in pairs]),
            )

    def by_year(parts: list[Array]) -> Array:
        found: Array = np.stack(parts).reshape(len(_KNOWN_MONTHS), repeats, len(test)).mean(axis=(0, 1))
        return found

    arms: list[dict[str, Any]] = [
        {
            "part": "Y", "arm": arm, "log_likelihood_marginal": float(np.mean(parts)), "tasks": int(np.size(parts)),
            "by_known_months": {str(n): float(part.mean()) for n, part in zip(_KNOWN_MONTHS, parts, strict=True)},
            "coverage_90": float(np.mean(covered[arm])),
        }
        for arm, parts in likelihood.items()
    ]  # fmt: skip
    year = {arm: by_year(parts) for arm, parts in likelihood.items()}
    on, inside = year["MPNP, years"], by_year(covered["MPNP, years"])
    claims = [
        _claim(
            "Y: MPNP - CNP, log-likelihood a month of unseen years", on - year["CNP, years"], low=0.0, why=_WHY_YEARS
        ),
        *(
            _claim(f"Y: MPNP - {other}, log-likelihood a month", on - year[f"{other}, years"], low=0.0, why=_WHY_YEARS)
            for other in ("NP", "BNP", "placebo")
        ),
        _claim(
            "Y: MPANP - ANP, log-likelihood a month", year["MPANP, years"] - year["ANP, years"], low=0.0,
            why=_WHY_ATTENTIVE,
        ),
        _claim(
            "Y: MPNP - climatology, log-likelihood a month", on - year["climatology"], low=0.0, note=_WHY_CLIMATOLOGY
        ),
        _claim(
            "Y: MPNP - conditional normal, log-likelihood a month", on - year["conditional normal"], low=0.0,
            why=_WHY_NORMAL,
        ),
        _claim("Y: coverage of the 90% intervals of MPNP", inside, low=0.87, high=0.93, unit="", why=_WHY_BANDS),
    ]  # fmt: skip
    return claims, arms


# Shared ---------------------------------------------------------------------------------------------------


def _mean_of(by_seed: list[Scores]) -> Scores:
    """Every task's scores averaged over seeds."""
    return Scores(*(np.mean([getattr(one, name) for one in by_seed], axis=0) for name in Scores.__dataclass_fields__))


def _interval(values: Array) -> tuple[float, float]:
    """95% interval of the mean over tasks (bootstrap)."""
    found = paired_interval(values, rng=numpy_stream(0, "bootstrap", "martingale-np"), n_boot=1000)
    return found.low, found.high


def _claim(name: str, values: Array, *, unit: str = "nat", why: str = "", **rest: Any) -> Claim:
    """A claim on the mean over tasks; `why` is its note where it fails."""
    claim = Claim(name, float(values.mean()), interval=_interval(values), unit=unit, **rest)
    return replace(claim, note=why) if why and claim.verdict == "failed" else claim
