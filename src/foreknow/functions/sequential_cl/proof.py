"""The small proof of `sequential-cl`: three measurements.

A: three binary toy tasks and a network of 51 weights; the posterior of one task, as a fitted density, is the prior of
the next. B: exact inference of one mean from tasks that have two. C: digits in five tasks of two classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, seed_of
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Claim, Evidence
from foreknow.core.measures import paired_interval
from foreknow.core.system import PRESETS
from foreknow.functions.sequential_cl.misspecified import NormalMean, logistic_modes
from foreknow.functions.sequential_cl.prior import PrototypePrior
from foreknow.functions.sequential_cl.prototypes import ProtoSettings
from foreknow.functions.sequential_cl.sequential import PUBLISHED, HMCSettings, SequentialBayes
from foreknow.functions.sequential_cl.streaming import StreamingLDA
from foreknow.functions.sequential_cl.streams import toy_stream
from foreknow.functions.sequential_cl.system import TRAINING, ProtoCL
from foreknow.functions.sequential_cl.variational import VariationalClassifier
from foreknow.nn.bayes import mlp

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sizes:
    """Of one preset.

    Args:
        sampler: of part A.
        training: of part C.
        hidden: of the network of part A.
        n_toy, n_rows: tasks of part A, and rows of each.
        toy_seeds: at most so many seeds of part A; the flow gets one.
        density: options of the mixture.
        n_steps: of fine-tuning and variational inference in part A.
        n_variational: of variational inference in part C, at each task.
        memories: replayed rows a task, for the price curve; the training's own is measured anyway.
    """

    sampler: HMCSettings
    training: ProtoSettings
    hidden: tuple[int, ...] = (5, 5)
    n_toy: int = 3
    n_rows: int = 200
    toy_seeds: int = 3
    density: dict[str, Any] = field(default_factory=dict)
    n_steps: int = 800
    n_variational: int = 500
    memories: tuple[int, ...] = (10, 50)


GEOMETRIC = tuple(int(number) for number in np.unique(np.geomspace(1, 500, 20).astype(int)))
SIZES = {
    "quick": Sizes(
        HMCSettings(n_chains=3, n_samples=20, n_burn=20, n_leapfrog=5),
        replace(TRAINING["quick"], n_epochs=1),
        n_toy=2, n_rows=40, toy_seeds=2, density={"n_components": (1, 2)}, n_steps=30, n_variational=10, memories=(10,),
    ),
    "small": Sizes(HMCSettings(n_chains=8, n_samples=200, n_burn=200, n_leapfrog=10), TRAINING["small"]),
    "paper": Sizes(
        PUBLISHED, TRAINING["paper"], hidden=(10, 10), n_toy=5, n_rows=2000, toy_seeds=10,
        density={"n_components": GEOMETRIC, "n_starts": 5, "n_steps": 500},
        n_variational=5000, memories=(10, 50, 200, 500),
    ),
}  # fmt: skip


def prove(*, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
    """Run all three.

    Args:
        preset: "quick" exercises the path in seconds, "small" is the evidence, "paper" has the published numbers.
        seeds: of part C; of part A up to the preset's number.
        progress: told of finished arms.
    """
    check_option("prove sequential-cl", "preset", preset, PRESETS)
    check_int("prove sequential-cl", "seeds", seeds, low=2)
    sizes = SIZES[preset]
    reporter = Reporter(progress, 5 * min(seeds, sizes.toy_seeds) + 2 + seeds)
    with Stopwatch() as watch:
        claims_a, arms_a = prove_toy(sizes, min(seeds, sizes.toy_seeds), reporter)
        claims_b, arms_b = prove_exact()
        claims_c, arms_c = prove_digits(sizes, seeds, reporter)
    return Evidence(
        slug="sequential-cl",
        claims=(*claims_a, *claims_b, *claims_c),
        arms=tuple(arms_a + arms_b + arms_c),
        command=f"foreknow prove sequential-cl --preset {preset} --seeds {seeds}",
        seconds=watch.seconds,
        settings={"preset": preset, "seeds": seeds, "hidden": list(sizes.hidden), "toy_rows": sizes.n_rows},
        notes=NOTES,
    )


STREAMING, VCL, CORESET = "streaming LDA, frozen features", "VCL, one head", "VCL, one head, coreset"
NOTES: tuple[str, ...] = (
    "A: chains of later tasks start at draws of the fitted density. R-hat and ESS are of function values at test rows, "
    "rank-normalised; where the sequential arm's R-hat exceeds 1.1, chains between its narrow modes did not mix, and "
    "its accuracy is that of unmixed chains: A shows that this procedure forgets, not that exact inference does. Only "
    "B is exact.",
    "A: the control resets the prior to N(0, 1/tau) at every task; joint sees all rows so far and is the upper bound.",
    "C: images (1, 8, 8) are scaled by the first task's mean and sd; a fifth of the rows is held out. Memory is rows "
    "kept of each task, out of about 290. Every arm but streaming LDA and VCL has the same encoder and as many epochs.",
    "C: streaming LDA keeps no row: class means and one covariance, on 500 random ReLU features that never move, or on "
    "the pixels. VCL is a network of the same widths with a normal belief over its weights and one head for all "
    "classes; its coreset has as many rows as the other arms' memory and is fitted last.",
    "C: a prior precision of 1e4 at 0, once the placebo, is not wrong: prototypes near 0 only set the encoder's scale, "
    "which training undoes, and the arm is as good as the prior or better. 1e8 cannot be undone in these epochs, and "
    "is the placebo now.",
)


# A ----------------------------------------------------------------------------------------------------------------


def prove_toy(sizes: Sizes, seeds: int, reporter: Reporter) -> tuple[list[Claim], list[dict[str, Any]]]:
    """Every arm on the toy stream."""
    arms: list[dict[str, Any]] = []
    done = 0
    for seed in range(seeds):
        train = toy_stream(n_tasks=sizes.n_toy, n_rows=sizes.n_rows, random_state=seed)
        test = toy_stream(n_tasks=sizes.n_toy, n_rows=1000, random_state=seed_of(seed, "toy test") % 2**31)
        runs = [("joint", "gmm"), ("sequential", "gmm"), ("reset", "gmm"), ("fine-tune", "gmm"), ("vcl", "gmm")]
        for arm, density in (*runs, *([("sequential", "flow")] if seed == 0 else [])):
            experiment = SequentialBayes(
                mlp(2, 1, sizes.hidden, "relu"), arm=arm, density=density, sampler=sizes.sampler, n_steps=sizes.n_steps,
                density_options=sizes.density if density == "gmm" else {}, random_state=seed,
            )  # fmt: skip
            with Stopwatch() as watch:
                experiment.run(train, test)
            last = experiment.accuracy_matrix_[-1]
            name = f"{arm}, {density}" if arm == "sequential" else arm
            arms.append(
                {
                    "proof": "A",
                    "arm": name,
                    "seed": seed,
                    "accuracy": float(last.mean()),
                    "accuracy_task_1": float(last[0]),
                    "accuracy_last_task": float(last[-1]),
                    "rhat": [report.rhat for report in experiment.reports_],
                    "ess": [report.ess for report in experiment.reports_],
                    "accept": [report.accept for report in experiment.reports_],
                    "density_ll": [report.density_ll for report in experiment.reports_],
                    "seconds": watch.seconds,
                }
            )
            done += 1
            reporter.advance(done, f"toy: {name}, seed {seed}")

    def of(arm: str, key: str = "accuracy") -> Array:
        return np.array([row[key] for row in arms if row["arm"] == arm])

    carried = "sequential, gmm"
    return [
        _claim("A: accuracy over tasks at the end, joint HMC", of("joint"), low=0.95),
        _claim("A: accuracy over tasks at the end, sequential HMC with mixtures", of(carried), low=0.6, high=0.8),
        _claim("A: accuracy on task 1 at the end, sequential HMC", of(carried, "accuracy_task_1"), low=0.45, high=0.65),
        _claim("A: accuracy at the end, sequential minus reset prior", of(carried) - of("reset"), low=0.0),
    ], arms


# B ----------------------------------------------------------------------------------------------------------------


def prove_exact() -> tuple[list[Claim], list[dict[str, Any]]]:
    """Exact inference: sequence equals batch, and neither task's mean is found."""
    rng = numpy_stream(0, "sequential-cl", "exact")
    arms: list[dict[str, Any]] = []
    gaps = []
    for n_first, n_second in ((100, 100), (1000, 100), (100, 1000)):
        tasks = [rng.normal(-1, 1, n_first), rng.normal(1, 1, n_second)]
        belief = NormalMean(0.0, 10.0, 1.0)
        last, batch = belief.sequence(tasks)[-1], belief.update(np.concatenate(tasks))
        gaps.append(max(abs(last.mean - batch.mean), abs(last.variance - batch.variance)))
        x = [rng.normal(size=n_first), rng.normal(size=n_second)]
        labels = [(x[0] > -1).astype(float), (x[1] > 1).astype(float)]  # the boundary moves from -1 to 1
        modes = logistic_modes(list(zip(x, labels, strict=True)))
        boundary = -modes[:, 1] / modes[:, 0]
        arms.append(
            {
                "proof": "B",
                "arm": f"means -1 and 1, {n_first} and {n_second} observations",
                "posterior_mean": last.mean,
                "posterior_sd": last.variance**0.5,
                "error_task_1": abs(last.mean + 1),
                "error_task_2": abs(last.mean - 1),
                "logistic_boundary_after_1": float(boundary[0]),
                "logistic_boundary_after_2": float(boundary[1]),
            }
        )
    return [
        Claim("B: largest difference of sequential and batch inference of a mean", max(gaps), high=1e-10),
        Claim(
            "B: error at the nearer of two equally large tasks' means, in posterior sds",
            min(arms[0]["error_task_1"], arms[0]["error_task_2"]) / arms[0]["posterior_sd"],
            low=3.0,
        ),
        Claim("B: with ten times as many rows the first task wins (its error)", arms[1]["error_task_1"], high=0.5),
    ], arms


# C ----------------------------------------------------------------------------------------------------------------


def prove_digits(sizes: Sizes, seeds: int, reporter: Reporter) -> tuple[list[Claim], list[dict[str, Any]]]:
    """Class-incremental digits."""
    from sklearn import datasets

    digits = datasets.load_digits()
    X, y = digits.data.reshape(-1, 1, 8, 8), digits.target
    training = sizes.training
    prototypes, nearest = PrototypePrior(), PrototypePrior(head="nearest")
    runs: list[tuple[str, int, Callable[[int], Any]]] = []

    def add(arm: str, prior: PrototypePrior | str, settings: ProtoSettings, per_task: int = 2) -> None:
        runs.append(
            (
                arm,
                settings.memory,
                lambda seed: ProtoCL(prior, training=settings, classes_per_task=per_task, random_state=seed),
            )
        )

    add("ProtoCL", prototypes, training)
    add("ProtoCL, S = 0.5", prototypes, replace(training, noise=0.5))
    add("ProtoCL, S learnt", prototypes, replace(training, learn_noise=True))
    add("ProtoCL, no replay", prototypes, replace(training, memory=0))
    add("off: softmax, replay", "off", training)
    add("softmax, no replay", "off", replace(training, memory=0))
    add("nearest mean, replay", nearest, training)
    add("wrong: prototypes at 0, precision 1e8", "wrong", training)
    add("prototypes near 0, precision 1e4", PrototypePrior(precision=1e4), training)
    add("offline softmax", "off", training, 10)
    for memory in sizes.memories:
        if memory != training.memory:
            add(f"ProtoCL, memory {memory}", prototypes, replace(training, memory=memory))
            add(f"softmax, memory {memory}", "off", replace(training, memory=memory))
    runs.append((STREAMING, 0, lambda seed: StreamingLDA(random_state=seed)))
    runs.append(("streaming LDA, pixels", 0, lambda seed: StreamingLDA(0, random_state=seed)))

    def variational(memory: int) -> Callable[[int], Any]:
        return lambda seed: VariationalClassifier(
            training.hidden, memory, n_steps=sizes.n_variational, random_state=seed
        )

    runs += [(VCL, 0, variational(0)), (CORESET, training.memory, variational(training.memory))]
    arms: list[dict[str, Any]] = []
    for seed in range(seeds):
        order = numpy_stream(seed, "sequential-cl", "digits").permutation(len(X))
        known, held = order[len(X) // 5 :], order[: len(X) // 5]
        for arm, memory, make in runs:
            with Stopwatch() as watch:
                model = make(seed).fit(X[known], y[known])
            predicted = model.predict_proba(X[held])
            right = predicted.argmax(1) == y[held]
            arms.append(
                {
                    "proof": "C",
                    "arm": arm,
                    "memory": memory,
                    "seed": seed,
                    "accuracy": float(right.mean()),
                    "nll": float(-np.log(np.clip(predicted[np.arange(len(held)), y[held]], 1e-12, 1)).mean()),
                    "accuracy_task_1": float(right[y[held] < 2].mean()),
                    "seconds": watch.seconds,
                }
            )
        reporter.advance(reporter.total - seeds + seed + 1, f"digits, seed {seed}")

    def of(arm: str) -> Array:
        return np.array([row["accuracy"] for row in arms if row["arm"] == arm])

    against_softmax = _claim(
        "C: digits, accuracy of ProtoCL minus softmax with replay",
        of("ProtoCL") - of("off: softmax, replay"),
        low=-0.01,
    )
    if against_softmax.verdict == "held" and against_softmax.measured < 0:
        against_softmax = replace(
            against_softmax, note="ProtoCL is behind: held only through the margin of one point that was expected."
        )
    against_streaming = _claim(
        "C: digits, accuracy of ProtoCL minus streaming LDA on frozen features", of("ProtoCL") - of(STREAMING), low=0.0
    )
    if against_streaming.verdict == "failed":
        against_streaming = replace(against_streaming, note=_WHY_STREAMING)
    return [
        against_softmax,
        _claim(
            "C: digits, accuracy of ProtoCL minus softmax without replay",
            of("ProtoCL") - of("softmax, no replay"),
            low=0.4,
        ),
        _claim("C: digits, accuracy of softmax without replay", of("softmax, no replay"), low=0.1, high=0.3),
        against_streaming,
        _claim("C: digits, accuracy of ProtoCL minus VCL with one head", of("ProtoCL") - of(VCL), low=0.4),
        _claim(
            "C: digits, accuracy of ProtoCL minus VCL with a coreset of as many rows",
            of("ProtoCL") - of(CORESET),
            low=0.0,
        ),
    ], arms


_WHY_STREAMING = (
    "Streaming LDA wins without keeping a row: its features are frozen, so that nothing drifts, and on digits random "
    "ReLU features are good enough. Wider S and learnt S, which help ProtoCL, do not close the gap. A trained encoder "
    "pays where frozen features are poor, which digits do not show."
)


def _claim(name: str, values: Sequence[float] | Array, *, low: float | None = None, high: float | None = None) -> Claim:
    span = paired_interval(values, rng=numpy_stream(0, "sequential-cl", name))
    return Claim(name, span.mean, low, high, (span.low, span.high))
