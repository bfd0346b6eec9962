"""The small proofs of `deep-kernel-machine`.

T. Theory: 32 rows, two hidden layers of the squared exponential kernel. Gram matrices of deep Gaussian processes of
   width 64, 256 and 1024, sampled by Langevin dynamics, against those that maximise the objective and the NNGP's.
S. Sparse machines with 100 inducing points and three layers on real tables: nu chosen among 1, 10 and 100 on rows held
   out (a second arm may choose inf too), against nu = inf (NNGP, stopped early in the same way), a sparse Gaussian
   process of gpytorch with a lengthscale a column, and an MLP; the same on a table with 20 columns of noise, and on
   data drawn from the NNGP itself, where there is nothing to gain.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.deps import available
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Claim, Evidence
from foreknow.core.finished import Finished
from foreknow.core.measures import paired_interval
from foreknow.core.system import PRESETS
from foreknow.functions.deep_kernel_machine.arms import plain_arms
from foreknow.functions.deep_kernel_machine.langevin import LangevinSettings, optimal_grams, sample_grams
from foreknow.functions.deep_kernel_machine.prior import DeepKernelPrior
from foreknow.functions.deep_kernel_machine.system import DeepKernelMachine

Floats = NDArray[np.float64]
Record = dict[str, Any]
ON, OFF, EITHER = "deep kernel machine", "NNGP (nu = inf)", "deep kernel machine, inf among its nu"
NUS = (1.0, 10.0, 100.0)
LAYERS, NOISE = 2, 0.05
WHY = (
    "With one target and some 300 rows the objective overfits: it is no bound on the evidence, and a Gram matrix that "
    "leans towards the targets of its own rows raises it; where nu = 100 some tenths of a nat are enough. Tried, on "
    "some of the splits 1000 to 1002: starting from the trained NNGP (before, 100 steps left its noise unlearnt and "
    "the matrices fitted it), L-BFGS, moving the matrices alone (nothing gained), matrices and noise "
    "without scales, the arc-cosine kernel, nu of 30 and 1000, three folds for nu and the steps."
)
WHY_NOISE = (
    "What is free is the Gram matrix of the inducing points, not the weight of a column: the first kernel sees all 33 "
    "columns alike, and with the scales free the machine fits its own rows. A lengthscale a column (SVGP) is the "
    "remedy that works. Tried on splits 1000 and 1001: all that is named above."
)
PLANTED = ("boston and 20 columns of noise", "drawn from the NNGP")


@dataclass(frozen=True)
class Sizes:
    """How much a preset spends.

    Args:
        n_points: rows of T.
        widths: of its processes.
        dynamics: of their sampling.
        most_rows: of a table; more are left out at random.
        inducing, layers, n_warm, n_steps, folds: of the machines.
        n_tables: at most.
    """

    n_points: int
    widths: tuple[int, ...]
    dynamics: LangevinSettings
    most_rows: int
    inducing: int
    layers: int
    n_warm: int
    n_steps: int
    folds: int
    n_tables: int


SIZES = {
    "quick": Sizes(6, (8, 16, 32), LangevinSettings(60, 20, thin=5), 80, 10, 2, 5, 10, 1, 1),
    "small": Sizes(32, (64, 256, 1024), LangevinSettings(1600, 400), 400, 100, 3, 100, 40, 2, 6),
    "paper": Sizes(32, (128, 256, 512, 1024), LangevinSettings(20_000, 5_000), 2000, 300, 3, 300, 300, 3, 6),
}


def prove(*, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
    """Run both proofs.

    Args:
        preset: "quick" shrinks widths, steps and tables so that the path is exercised in seconds.
        seeds: data sets of T, and splits of S.
        progress: told of finished parts.
    """
    check_option("prove deep-kernel-machine", "preset", preset, PRESETS)
    check_int("prove deep-kernel-machine", "seeds", seeds, low=1)
    sizes = SIZES[preset]
    found = tables(sizes.most_rows)
    real = [name for name in found if name not in PLANTED][: sizes.n_tables]
    chosen = {name: data for name, data in found.items() if name in real or (name in PLANTED and preset != "quick")}
    reporter = Reporter(progress, seeds * (len(sizes.widths) + len(chosen)))
    with Stopwatch() as watch:
        finished = Finished(f"deep-kernel-machine-{preset}", Path(__file__).parent, keep=preset != "quick")
        claims, arms = _theory(sizes, seeds, reporter, finished)
        more, cells, notes = _sparse(sizes, seeds, chosen, real, reporter, finished)
    return Evidence(
        slug="deep-kernel-machine",
        claims=(*claims, *more),
        arms=(*arms, *cells),
        command=f"foreknow prove deep-kernel-machine --preset {preset} --seeds {seeds}",
        seconds=watch.seconds + finished.saved_seconds,
        settings={"preset": preset, "seeds": seeds, "nus": list(NUS), "most_rows": sizes.most_rows},
        notes=tuple(notes),
    )


# T --------------------------------------------------------------------------------------------------------


def toy(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (n, 5) and a target (n,) that needs an interaction."""
    x = torch.randn(n, 5, generator=torch_stream(seed, "deep-kernel-machine", "toy"), dtype=torch.float64)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] * x[:, 2]
    return x, (y - y.mean()) / y.std()


def _theory(
    sizes: Sizes, seeds: int, reporter: Reporter, finished: Finished | None = None
) -> tuple[list[Claim], list[Record]]:
    finished = finished or Finished("", Path(), keep=False)
    records: list[Record] = []
    for seed in range(seeds):
        for j, width in enumerate((0, *sizes.widths)):
            records += finished.part(f"T width {width} seed {seed}", partial(_width, sizes, seed, width))
            reporter.advance(seed * len(sizes.widths) + j, f"width {width}, data set {seed}")

    def errors(width: int) -> Floats:
        """Shape (seeds, layers)."""
        found = [r["error"] for r in records if r["width"] == width]
        return np.array(found).reshape(seeds, LAYERS)

    log = np.log(np.array(sizes.widths, dtype=float))
    log = log - log.mean()
    slopes = np.stack([np.log(errors(width)).mean(axis=1) for width in sizes.widths], axis=1) @ log / (log @ log)
    ratio = (errors(0) / errors(sizes.widths[-1])).mean(axis=1)
    return [
        _mean_claim("T: exponent of the relative error of Gram matrices in the width", slopes, low=-0.7, high=-0.35),
        _mean_claim(
            f"T: distance of the NNGP's Gram matrices over the error at width {sizes.widths[-1]}", ratio, low=2.0
        ),
    ], records


def _width(sizes: Sizes, seed: int, width: int) -> list[Record]:
    """Distances of Gram matrices of a finite width, or of the NNGP's (width 0), from the optimum."""
    x, y = toy(sizes.n_points, seed)
    settings: dict[str, Any] = {"layers": LAYERS, "kernel": "sqexp", "noise": NOISE}
    best = torch.stack(optimal_grams(x, y[:, None], **settings))
    about = {"proof": "T", "arm": "finite width" if width else "NNGP", "width": width, "seed": seed}
    if not width:
        apart = _distance(torch.stack(optimal_grams(x, y[:, None], nu=math.inf, **settings)), best)
        return [{**about, "layer": i + 1, "error": float(apart[i])} for i in range(LAYERS)]
    with Stopwatch() as watch:
        generator = torch_stream(seed, "langevin", str(width))
        drawn = sample_grams(x, y, width, settings=sizes.dynamics, generator=generator, **settings)
    error = np.mean([_distance(sample, best) for sample in drawn.grams], axis=0)
    of_mean = _distance(drawn.grams.mean(dim=0), best)
    # Of samples that have the optimum for their mean and are independent: the error that no sampler can go below.
    exact = [float(((g.trace().square() + g.square().sum()) / width).sqrt() / g.norm()) for g in best]
    return [
        {
            **about, "layer": i + 1, "error": float(error[i]), "error_of_mean": float(of_mean[i]),
            "error_of_exact_samples": exact[i], "n_samples": len(drawn.grams), "acceptance": drawn.acceptance,
            "seconds": watch.seconds,
        }
        for i in range(LAYERS)
    ]  # fmt: skip


def _distance(grams: Tensor, best: Tensor) -> Floats:
    """Relative Frobenius distance of each layer, (layers, P, P) each."""
    return np.asarray(((grams - best).norm(dim=(1, 2)) / best.norm(dim=(1, 2))).numpy())


# S --------------------------------------------------------------------------------------------------------


def tables(most: int) -> dict[str, tuple[Floats, Floats]]:
    """Real tables of packages that are installed, at most `most` rows each, then the two planted ones."""
    from sklearn import datasets

    found: dict[str, tuple[Floats, Floats]] = {"diabetes": datasets.load_diabetes(return_X_y=True)}
    if available("mlxtend"):
        from foreknow.common.deps import require

        data = require("mlxtend.data", "These tables")
        found["boston"] = data.boston_housing_data()
        mpg, y = data.autompg_data()
        mpg = np.asarray(mpg, dtype=np.float64)
        known = np.isfinite(mpg).all(axis=0)  # the names of the cars are a column of NaN
        found["autompg"] = (mpg[:, known], np.asarray(y, dtype=np.float64))
    if available("statsmodels"):
        found |= _statsmodels()
    if "boston" in found:
        X, y = found["boston"]
        noise = numpy_stream(0, "deep-kernel-machine", "noise columns").standard_normal((len(X), 20))
        found["boston and 20 columns of noise"] = (np.concatenate([X, noise], axis=1), y)
    drawn = DeepKernelPrior(n_features=5, layers=3, noise=0.05).sample(
        1, n_context=500, n_query=1, generator=torch_stream(0, "deep-kernel-machine", "drawn"), dtype=torch.float64
    )
    found["drawn from the NNGP"] = (drawn.context_x[0].numpy(), drawn.context_y[0].numpy())
    cut = {}
    for name, (X, y) in found.items():
        rows = numpy_stream(0, "deep-kernel-machine", "rows", name).permutation(len(y))[:most]
        cut[name] = (np.asarray(X, dtype=np.float64)[rows], np.asarray(y, dtype=np.float64)[rows])
    return cut


def _statsmodels() -> dict[str, tuple[Floats, Floats]]:
    from foreknow.common.deps import require

    sets = require("statsmodels.datasets", "These tables")
    star = sets.star98.load_pandas().data
    share = star["NABOVE"] / (star["NABOVE"] + star["NBELOW"])
    fair = sets.fair.load_pandas().data
    visits = sets.randhie.load_pandas().data
    return {
        "star98": (star.drop(columns=["NABOVE", "NBELOW"]).to_numpy(float), share.to_numpy(float)),
        "fair": (fair.drop(columns=["affairs"]).to_numpy(float), np.log1p(fair["affairs"].to_numpy(float))),
        "randhie": (visits.drop(columns=["mdvis"]).to_numpy(float), np.log1p(visits["mdvis"].to_numpy(float))),
    }


def machines(sizes: Sizes) -> dict[str, Callable[[int], Any]]:
    """All arms of S, by name: what builds one from a seed."""
    settings: dict[str, Any] = {
        "inducing": sizes.inducing, "layers": sizes.layers, "n_warm": sizes.n_warm, "n_steps": sizes.n_steps,
        "folds": sizes.folds,
    }  # fmt: skip
    return {
        ON: lambda seed: DeepKernelMachine(nus=NUS, **settings, random_state=seed),
        OFF: lambda seed: DeepKernelMachine("off", **settings, random_state=seed),
        **plain_arms("regression"),
    }


def _sparse(
    sizes: Sizes,
    seeds: int,
    data: dict[str, tuple[Floats, Floats]],
    real: Sequence[str],
    reporter: Reporter,
    finished: Finished,
) -> tuple[list[Claim], list[Record], list[str]]:
    records: list[Record] = []
    arms = machines(sizes)
    before = seeds * len(sizes.widths)
    for number, (name, (X, y)) in enumerate(data.items()):
        for seed in range(seeds):
            records += finished.part(f"S {name} seed {seed}", partial(_split, name, X, y, seed, arms))
            reporter.advance(before + number * seeds + seed + 1, f"{name}, split {seed}")
    gains = {name: _gains(records, name, ON) for name in data}
    better = sum(float(gains[name].mean()) >= 0 for name in real)
    means = np.array([gains[name].mean() for name in real])
    claims = [
        _noted(
            Claim(f"S: tables of {len(real)} with a log density no worse than the NNGP's", float(better), low=4.0), WHY
        ),
        _noted(_mean_claim("S: gain in log density over the NNGP, mean of tables", means, low=0.02, unit="nat"), WHY),
    ]
    for name, words, low, high, why in (
        ("boston and 20 columns of noise", "S: the same with 20 columns of noise on boston", 0.1, None, WHY_NOISE),
        ("drawn from the NNGP", "S: the same on data drawn from the NNGP (nothing to gain)", -0.05, 0.05, WHY),
    ):
        if name in gains:
            claims.append(_noted(_mean_claim(words, gains[name], low=low, high=high, unit="nat"), why))
    notes = [_summary(records, real, ON), _summary(records, real, EITHER)]
    notes.append(
        "S: rates, steps, folds and the order of training were chosen on splits 1000 to 1002 of the same tables."
    )
    if len(real) < 6 and sizes.n_tables >= 6:
        notes.append(
            f"S: only {len(real)} real tables were found; the packages mlxtend and statsmodels bring the others."
        )
    if "SVGP" not in arms:
        notes.append("S: gpytorch is not installed, so the sparse Gaussian process was not measured (foreknow[bo]).")
    return claims, records, notes


def _split(name: str, X: Floats, y: Floats, seed: int, arms: Mapping[str, Callable[[int], Any]]) -> list[Record]:
    """All arms on one split of a table."""
    order = numpy_stream(seed, "deep-kernel-machine", "split", name).permutation(len(y))
    test, train = order[: len(y) // 5], order[len(y) // 5 :]
    found = []
    for arm, make in arms.items():
        with warnings.catch_warnings(), Stopwatch() as watch:
            warnings.simplefilter("ignore")
            model = make(seed).fit(X[train], y[train])
        record: Record = {
            "proof": "S", "arm": arm, "data": name, "seed": seed, "n_train": len(train),
            **_scores(model, X[test], y[test], float(y[train].std())), "seconds": watch.seconds,
        }  # fmt: skip
        if arm in (ON, OFF):
            losses = [entry["loss"] for entry in model.chosen_from_ if entry["steps"] > 0]
            record |= {
                # Infinity is no number of JSON.
                "nu": model.nu_ if math.isfinite(model.nu_) else "inf", "steps": model.steps_,
                "divergence": float(model.representation_shift_().sum()), "held_out_loss": min(losses, default=None),
            }  # fmt: skip
        found.append(record)
    on, off = found[0], found[1]  # both with the same rows held out: what one machine with all these nu would take
    wide = on["held_out_loss"] is not None and off["held_out_loss"] <= on["held_out_loss"]
    found.append({**(off if wide else on), "arm": EITHER})
    return found


def _scores(model: Any, X: Floats, y: Floats, scale: float) -> Record:
    """Negative log density in nats of the standardised target, and the root mean squared error in its units."""
    dist = model.predict_dist(X)
    density = float(dist.log_prob(torch.as_tensor(y)).double().mean()) + math.log(scale)
    error = float(np.sqrt(np.mean((dist.mean().double().numpy() - y) ** 2))) / scale
    return {"nll": -density, "rmse": error}


def _gains(records: Sequence[Record], name: str, arm: str, key: str = "nll") -> Floats:
    """NLL of the NNGP minus that of an arm, one a split."""
    off, on = (np.array([r[key] for r in records if r["data"] == name and r["arm"] == which]) for which in (OFF, arm))
    return np.asarray(off - on)


def _summary(records: Sequence[Record], real: Sequence[str], arm: str) -> str:
    """What an arm gained over the NNGP on the real tables."""
    density = [float(_gains(records, name, arm).mean()) for name in real]
    error = [float(_gains(records, name, arm, "rmse").mean()) for name in real]
    worse = sum(gain < 0 for gain in density)
    same = sum(r["arm"] == EITHER and r["data"] in real and r["nu"] == "inf" for r in records)
    said = f"S: {arm}: mean gain {np.mean(density):+.3f} nat and {np.mean(error):+.4f} in the root mean squared error "
    said += f"over the NNGP, worse in log density on {worse} of {len(real)} tables"
    return (
        f"{said}; inf was chosen on {same} of {len(real) * _splits(records)} splits." if arm == EITHER else f"{said}."
    )


def _splits(records: Sequence[Record]) -> int:
    return len({r["seed"] for r in records})


def _noted(claim: Claim, why: str) -> Claim:
    """With the explanation, where it failed."""
    return claim if claim.verdict == "held" else replace(claim, note=why)


def _mean_claim(
    name: str, values: Floats, *, low: float | None = None, high: float | None = None, unit: str = ""
) -> Claim:
    """A claim about a mean of independent units, with its bootstrap interval where there are several."""
    interval = None
    if len(values) > 1:
        span = paired_interval(values, rng=numpy_stream(0, "deep-kernel-machine", name))
        interval = (span.low, span.high)
    return Claim(name, float(values.mean()), low=low, high=high, interval=interval, unit=unit)
