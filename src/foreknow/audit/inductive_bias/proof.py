"""The small proofs of `inductive-bias`.

T. Estimators on a loss of known law, L = (1/N) sum_j (z_j + mu_j)^2 / j, N = 200, mu_j ~ N(0, 0.7^2): counting,
   saddlepoint, splitting and the published fit at eps = 0.9, 0.5, 0.3 and 0.1 of E[L].
D. The same on scikit-learn's digits, 100 training and 200 test rows, at 2, 5, 8 and 30 bits.
X. Bits of a random smooth teacher in 1, 2, 4 and 8 dimensions, 64 training rows, eps = 0.3 Var(y); the base space has
   the lengthscale of the teacher, 1, and beside it that of the median distance.
A. Architecture on MNIST-1D: trained convolutional networks (on) against trained MLPs (off), and the same with the
   points of all signals shuffled in one fixed order (wrong), where a convolution knows nothing that is true.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import brentq

from foreknow.audit.inductive_bias.bits import Array
from foreknow.audit.inductive_bias.counting import counting_bits
from foreknow.audit.inductive_bias.kernels import RBF, KernelHypotheses, KernelLaw
from foreknow.audit.inductive_bias.ladder import median_matched_bits
from foreknow.audit.inductive_bias.networks import Factory, NetworkHypotheses, cnn_1d, mlp
from foreknow.audit.inductive_bias.parametric import parametric_bits
from foreknow.audit.inductive_bias.splitting import splitting_bits
from foreknow.common.errors import ForeknowWarning
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Claim, Evidence
from foreknow.core.system import PRESETS

FITS = 0.99
"""Share of the training labels that a network of A must get right to count as fitting them."""
SHARES = (0.9, 0.5, 0.3, 0.1)
LEVELS = (2.0, 5.0, 8.0, 30.0)
DIMENSIONS = (1, 2, 4, 8)
_WHY_SHUFFLED = (
    "Shuffling does not switch the prior off, it makes it wrong: the convolution still shares weights between points "
    "that are no neighbours any more, and loses to the MLP, which sees no order. As losses of one arm hardly vary, the "
    "gap is many bits; the price is a large negative one."
)
DEEP = 20.0
"""Bits beyond which T and D compare with splitting."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much a preset spends.

    Args:
        n_count: losses drawn for counting.
        n_fit: losses the published law is fitted to.
        n_runs, n_particles: of splitting.
        n_train, n_test: signals of MNIST-1D.
        n_draws: trainings per arm.
        n_steps, batch_size, lr: of a training.
        channels, width: of the networks.
    """

    n_count: int
    n_fit: int
    n_runs: int
    n_particles: int
    n_train: int
    n_test: int
    n_draws: int
    n_steps: int
    batch_size: int
    lr: float
    channels: int
    width: int


SIZES = {
    "quick": Sizes(20_000, 1000, 2, 50, 60, 100, 4, 60, 30, 1e-2, 16, 50),
    "small": Sizes(400_000, 10_000, 4, 500, 1000, 1000, 100, 2500, 50, 5e-3, 16, 100),
    # The published number of hypotheses, learning rate and training set of MNIST-1D.
    "paper": Sizes(4_000_000, 10_000, 20, 2000, 4000, 1000, 10_000, 40_000, 100, 1e-3, 32, 100),
}


def prove(*, preset: str = "small", seeds: int = 5, progress: ProgressCallback | None = None) -> Evidence:
    """Run all proofs.

    Args:
        preset: "quick" shrinks draws, particles and trainings so that the path is exercised in seconds.
        seeds: splits of the digits, and teachers per dimension; the loss of known law and the trainings are one each.
        progress: told of finished parts.
    """
    check_option("prove inductive-bias", "preset", preset, PRESETS)
    check_int("prove inductive-bias", "seeds", seeds, low=1)
    sizes = SIZES[preset]
    reporter = Reporter(progress, 100)
    with Stopwatch() as watch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)  # draws that do not fit are counted in the records
        claims_t, arms_t = _known_law(sizes)
        reporter.advance(10, "estimators on a known law")
        claims_d, arms_d = _digits(sizes, seeds)
        reporter.advance(25, "estimators on digits")
        claims_x, arms_x = _dimensions(seeds)
        reporter.advance(30, "dimension")
        claims_a, arms_a, notes = _architecture(sizes, reporter)
        reporter.advance(100, "architecture")
    return Evidence(
        slug="inductive-bias",
        claims=(*claims_t, *claims_d, *claims_x, *claims_a),
        arms=(*arms_t, *arms_d, *arms_x, *arms_a),
        command=f"foreknow prove inductive-bias --preset {preset} --seeds {seeds}",
        seconds=watch.seconds,
        settings={"preset": preset, "seeds": seeds, **vars(sizes)},
        notes=tuple(notes),
    )


# T and D: the estimators -------------------------------------------------------------------------------------------


def known_law(n: int = 200, seed: int = 0) -> KernelLaw:
    """The loss of T."""
    mu = np.random.default_rng(seed).normal(0.0, 0.7, n)
    weights = torch.as_tensor(1 / (n * np.arange(1, n + 1)))
    return KernelLaw(weights, torch.as_tensor(mu)[:, None], 0.0)


def digits_law(seed: int, n_train: int = 100, n_test: int = 200) -> KernelLaw:
    """The loss of RBF hypotheses that fit `n_train` digits, on `n_test` others."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    chosen = numpy_stream(seed, "inductive-bias", "digits").permutation(len(X))[: n_train + n_test]
    X, Y = X[chosen], np.eye(10)[y[chosen]]
    return KernelHypotheses(RBF("median")).condition(X[:n_train], Y[:n_train]).law(X[n_train:], Y[n_train:])


def _compare(proof: str, law: KernelLaw, targets: Sequence[float], sizes: Sizes, seed: int) -> list[Record]:
    """All estimators at each target."""
    generator = torch_stream(seed, "inductive-bias", proof)
    rng = numpy_stream(seed, "inductive-bias", proof)
    losses = law.sample_losses(sizes.n_count, generator)
    records = []
    for eps in targets:
        counted = counting_bits(losses, eps)
        seconds, found = {}, {}
        for name, estimate in (
            ("saddlepoint", partial(law.bits, eps)),
            ("ncx2", partial(parametric_bits, losses[: sizes.n_fit], eps, rng=rng)),
            ("ncx2_30", partial(parametric_bits, losses[:30], eps, rng=rng)),
            (
                "splitting",
                partial(
                    splitting_bits,
                    law.loss,
                    law.n_latent,
                    eps,
                    n_particles=sizes.n_particles,
                    n_runs=sizes.n_runs,
                    generator=generator,
                ),
            ),
        ):
            start = time.perf_counter()
            found[name] = estimate()
            seconds[name] = time.perf_counter() - start
        records.append(
            {
                "proof": proof,
                "arm": "all estimators",
                "seed": seed,
                "eps": float(eps),
                "counting": counted.value if counted.sign == "=" else math.nan,
                "counting_interval": [counted.low, counted.high],
                "saddlepoint": found["saddlepoint"].value,
                "splitting": found["splitting"].value,
                "splitting_interval": [found["splitting"].low, found["splitting"].high],
                "ncx2": found["ncx2"].value,
                "ncx2_interval": [found["ncx2"].low, found["ncx2"].high],
                "ncx2_of_30_draws": found["ncx2_30"].value,
                "laws": dict(found["ncx2"].spread),
                "seconds_saddlepoint": seconds["saddlepoint"],
                "seconds_splitting": seconds["splitting"],
                "seconds_ncx2": seconds["ncx2"],
            }
        )
    return records


def _known_law(sizes: Sizes) -> tuple[list[Claim], list[Record]]:
    law = known_law()
    records = _compare("T", law, [share * law.mean for share in SHARES], sizes, 0)
    deep = [record for record in records if record["saddlepoint"] > DEEP]
    name = "T: saddlepoint against splitting at about 36 and 137 bits, largest difference"
    return [
        *_against_counting("T", records, sizes),
        Claim(name, _largest(deep, "saddlepoint", "splitting"), high=2.0, unit="bits"),
        Claim(
            "T: share of the exact bits that the published fit finds at about 36 and 137 bits, largest",
            max(record["ncx2"] / record["saddlepoint"] for record in deep),
            high=0.6,
        ),
    ], records


def _digits(sizes: Sizes, seeds: int) -> tuple[list[Claim], list[Record]]:
    records: list[Record] = []
    for seed in range(seeds):
        law = digits_law(seed)
        records += _compare("D", law, [quantile(law, level) for level in LEVELS], sizes, seed)
    deep = [record for record in records if record["saddlepoint"] > DEEP]
    gaps = np.array([record["saddlepoint"] / record["splitting"] - 1 for record in deep])
    ratios = np.array([record["ncx2"] / record["saddlepoint"] for record in deep])
    return [
        *_against_counting("D", records, sizes),
        Claim("D: saddlepoint within 2% of splitting at 30 bits, mean over splits", abs(gaps.mean()), high=0.02,
              interval=_interval(gaps)),
        Claim("D: share of 30 exact bits that the published fit finds", ratios.mean(), high=0.95,
              interval=_interval(ratios)),
    ], records  # fmt: skip


def quantile(law: KernelLaw, bits: float) -> float:
    """The loss that this many bits reach, by the saddlepoint formula."""
    floor, mean = law.constant, law.mean

    def gap(share: float) -> float:
        return law.bits(floor + share * (mean - floor)).value - bits

    return floor + float(brentq(gap, 1e-6, 1.0)) * (mean - floor)


def _against_counting(proof: str, records: Sequence[Record], sizes: Sizes) -> list[Claim]:
    near = [r for r in records if r["saddlepoint"] <= math.log2(sizes.n_count) - 3]
    return [
        Claim(f"{proof}: saddlepoint against counting, largest difference", _largest(near, "saddlepoint", "counting"),
              high=0.5, unit="bits"),
        Claim(f"{proof}: splitting against counting, largest difference", _largest(near, "splitting", "counting"),
              high=1.0, unit="bits"),
    ]  # fmt: skip


def _largest(records: Sequence[Record], one: str, other: str) -> float:
    return max((abs(record[one] - record[other]) for record in records), default=math.nan)


# X: dimension ------------------------------------------------------------------------------------------------------


def teacher_law(
    d: int, seed: int, lengthscale: float | str, n_train: int = 64, n_test: int = 100
) -> tuple[KernelLaw, float]:
    """The loss of RBF hypotheses on a random smooth function of lengthscale 1, x ~ N(0, I_d), and Var(y)."""
    rng = numpy_stream(seed, "inductive-bias", "teacher", str(d))
    x = rng.normal(size=(n_train + n_test, d))
    waves, phases = rng.normal(size=(d, 500)), rng.uniform(0, 2 * math.pi, 500)
    y = np.cos(x @ waves + phases) @ rng.normal(size=500) * math.sqrt(2 / 500)
    fitting = KernelHypotheses(RBF(lengthscale)).condition(x[:n_train], y[:n_train])
    return fitting.law(x[n_train:], y[n_train:]), float(y[n_train:].var())


def _dimensions(seeds: int) -> tuple[list[Claim], list[Record]]:
    records: list[Record] = []
    table: dict[float | str, list[list[float]]] = {1.0: [], "median": []}
    for lengthscale, rows in table.items():
        for seed in range(seeds):
            rows.append([])
            for d in DIMENSIONS:
                law, variance = teacher_law(d, seed, lengthscale)
                rows[-1].append(law.bits(0.3 * variance).value)
                records.append({"proof": "X", "arm": f"{d} dimensions", "seed": seed, "lengthscale": lengthscale,
                                "bits": rows[-1][-1], "expected_loss_per_variance": law.mean / variance})  # fmt: skip
    known, median = (np.array(rows) for rows in table.values())
    growth = known[:, -1] - known[:, 0]
    never_falls = [float((np.diff(bits, axis=1) >= 0).all(1).mean()) for bits in (known, median)]
    return [
        Claim("X: share of seeds whose bits never fall from 1 to 2, 4, 8 dimensions", never_falls[0], low=1.0),
        Claim("X: bits in 8 dimensions minus bits in 1", float(growth.mean()), low=1.0, interval=_interval(growth),
              unit="bits"),
        Claim("X: the first again, lengthscale of the median distance", never_falls[1], low=1.0,
              note="The median distance grows with the dimension, the teacher's lengthscale does not: in 4 dimensions "
              "the hypotheses are too smooth for the teacher, swing widely between the rows they fit, and miss by "
              "more than in 8."),
    ], records  # fmt: skip


# A: architecture ---------------------------------------------------------------------------------------------------


def _architecture(sizes: Sizes, reporter: Reporter) -> tuple[list[Claim], list[Record], list[str]]:
    from foreknow.data.mnist1d import mnist1d

    data = mnist1d()
    shuffled = numpy_stream(0, "inductive-bias", "shuffle").permutation(data.x.shape[1])
    n_out = int(data.y.max()) + 1
    networks: dict[str, Factory] = {
        "cnn": lambda: cnn_1d(len(shuffled), n_out, channels=sizes.channels),
        "mlp": lambda: mlp(len(shuffled), n_out, width=sizes.width),
    }
    arms = (
        ("on", "cnn", np.arange(len(shuffled))),
        ("wrong", "cnn", shuffled),
        ("off", "mlp", np.arange(len(shuffled))),
    )
    records: list[Record] = []
    losses: dict[str, Array] = {}
    errors: dict[str, Array] = {}
    truth, y_test = data.y[: sizes.n_train], data.y_test[: sizes.n_test]
    for number, (arm, network, order) in enumerate(arms):
        hypotheses = NetworkHypotheses(
            networks[network], n_steps=sizes.n_steps, batch_size=sizes.batch_size, lr=sizes.lr, chunk=25
        )
        x, x_test = data.x[: sizes.n_train, order], data.x_test[: sizes.n_test, order]
        with Stopwatch() as watch:
            found = hypotheses.condition(x, np.eye(n_out)[truth], n_draws=sizes.n_draws, random_state=0)
        reporter.advance(30 + 23 * (number + 1), f"trained {sizes.n_draws} networks, {arm}")
        right = (found.predict(x).argmax(2) == truth).mean(1)
        outputs = found.predict(x_test)
        fits = right >= FITS
        keep = fits if fits.sum() >= 2 else np.ones(sizes.n_draws, dtype=bool)
        losses[arm] = np.square(outputs - np.eye(n_out)[y_test]).mean((1, 2))[keep]
        errors[arm] = (outputs.argmax(2) != y_test).mean(1)[keep]
        records.append(
            {
                "proof": "A",
                "arm": arm,
                "network": network,
                "n": sizes.n_train,
                "n_draws": sizes.n_draws,
                "n_fitting": int(fits.sum()),
                "train_accuracy": float(right.mean()),
                "train_loss": float(found.train_losses.mean()),
                "test_loss": float(np.median(losses[arm])),
                "test_loss_sd": float(losses[arm].std()),
                "test_error": float(np.median(errors[arm])),
                "seconds_per_training": watch.seconds / sizes.n_draws,
            }
        )
    rng = numpy_stream(0, "inductive-bias", "architecture")
    claims = []
    for measure, sample in (("squared error", losses), ("error rate", errors)):
        price = {arm: median_matched_bits(sample[arm], sample["off"], rng=rng) for arm in ("on", "wrong")}
        records += [
            {"proof": "A", "arm": f"{arm} against off", "measure": measure, **price[arm].to_dict()} for arm in price
        ]
        claims += [
            Claim(f"A: median-matched bits of convolution, {measure}", price["on"].value, low=1.0, unit="bits",
                  interval=_bounds(price["on"].low, price["on"].high)),
            Claim(f"A: size of the same with shuffled points, {measure}", abs(price["wrong"].value), high=1.0,
                  unit="bits", note=_WHY_SHUFFLED),
        ]  # fmt: skip
    notes = [
        f"A: bits of {arm}, {r['measure']}: {r['sign']} {r['value']:.3g}; {r['note']}."
        for r in records
        if "measure" in r
        for arm in [r["arm"]]
    ]
    return claims, records, notes


def _bounds(low: float, high: float) -> tuple[float, float] | None:
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def _interval(values: Array) -> tuple[float, float] | None:
    """95% interval of the mean over seeds, by Student's t."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half
