"""The small proof of `scale-mixture-nngp`.

Tables: six real regression sets, random splits, as they are (clean), with a tenth of all targets moved by five
deviations (outliers), and trained on one end of the first principal component, tested on the other (shift). The t
process, the Burr mixture and the Gaussian process have the same kernel, and are fitted by the same procedure.
Theory: outputs of finite networks against the Student t. Own data: tasks drawn from the process itself.
Digits: classification of clean and corrupted images, with the random and with the fixed scale.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Claim, Evidence
from foreknow.core.finished import Finished
from foreknow.core.predictive import Gaussian, Predictive
from foreknow.core.system import PRESETS
from foreknow.functions.scale_mixture_nngp.baselines import linear, sklearn_gp, student_noise_gp
from foreknow.functions.scale_mixture_nngp.classifier import NNGPClassifier
from foreknow.functions.scale_mixture_nngp.ensembles import finite_ensemble, trained_moments
from foreknow.functions.scale_mixture_nngp.prior import BurrXII, FixedScale, InverseGamma, ScalePrior
from foreknow.functions.scale_mixture_nngp.process import NNGPSettings, Process, WideArchitecture
from foreknow.functions.scale_mixture_nngp.sets import REGRESSION, SMALL, corrupted_digits
from foreknow.functions.scale_mixture_nngp.system import NNGP
from foreknow.nn.infinite import FullyConnected
from foreknow.nn.linalg import jittered_cholesky

Array = NDArray[np.float64]
CONDITIONS = ("clean", "outliers", "shift")


@dataclass(frozen=True)
class Sizes:
    """How much is measured: splits a seed, training rows, networks, tasks, digits."""

    splits: int
    hard_splits: int
    n_train: int
    iterations: int
    n_networks: int
    width: int
    n_tasks: int
    digits: int
    epochs: int
    test_draws: int
    sets: int


SIZES = {
    "quick": Sizes(1, 1, 30, 5, 300, 64, 20, 40, 3, 100, 1),
    "small": Sizes(4, 2, 60, 40, 2000, 512, 300, 200, 300, 10_000, 6),
    "paper": Sizes(10, 10, 500, 200, 10_000, 512, 2000, 1000, 300, 10_000, 6),
}

SYSTEMS: dict[str, dict[str, Any]] = {
    "nngp": {"prior": "off"},
    "t": {"prior": "paper"},
    "burr": {"prior": BurrXII(2.0, 1.0)},
    "t-fitted": {"prior": "paper", "fit_prior": True},
    "nngp-fixed-scale": {"prior": FixedScale(1.0, known=True)},
}
PLAIN: dict[str, Callable[[Array, Array, Array], Predictive]] = {
    "sklearn-gp": sklearn_gp,
    "student-noise-gp": student_noise_gp,
    "linear": linear,
}
EVERYWHERE = ("nngp", "t", "burr")


def prove(*, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
    """Run all parts.

    Args:
        preset: "quick" takes seconds, "small" some ten minutes on one core.
        seeds: of the digits and the synthetic tasks; the splits of the tables are given by the preset.
        progress: told of finished fits.
    """
    check_option("prove scale-mixture-nngp", "preset", preset, PRESETS)
    check_int("prove scale-mixture-nngp", "seeds", seeds, low=1)
    sizes = SIZES[preset]
    with Stopwatch() as watch:
        reporter = Reporter(progress, 100)
        finished = Finished(f"scale-mixture-nngp-{preset}", Path(__file__).parent, keep=preset != "quick")
        digits = measure_digits(sizes, seeds, reporter, finished)
        cells = measure_tables(sizes, reporter, finished)
        reporter.advance(90, "finite networks")
        theory, theory_arms = check_theory(sizes, finished)
        own, own_arms = measure_own_data(sizes, seeds)
    return Evidence(
        slug="scale-mixture-nngp",
        claims=(*table_claims(cells), *theory, *own, *digit_claims(digits)),
        arms=tuple(summaries(cells) + theory_arms + own_arms + digits),
        command=f"foreknow prove scale-mixture-nngp --preset {preset} --seeds {seeds}",
        seconds=watch.seconds + finished.saved_seconds,
        settings={"preset": preset, "seeds": seeds, **vars(sizes), "set_names": list(REGRESSION)[: sizes.sets]},
        notes=NOTES,
    )


NOTES = (
    "Sets: boston and autompg (mlxtend), diabetes (scikit-learn), engel, ccard and statecrime (statsmodels). Servo, "
    "concrete and yacht of the published list are in no installed package and were replaced before anything was run.",
    "t and burr keep a = b = 2 and c = 2, k = 1; t-fitted fits a and b as published. Hyper-parameters otherwise have "
    "the same start, bounds and optimiser; nngp has a tuned scale.",
)


_WHY_FITTED = (
    "Fitted with all else, a and b grow to their bound: a mixture is never likelier than its best component, so the t "
    "process becomes the Gaussian one. Kept at a = b = 2 it does not; nor does the released grid, where a is at most 3."
)
_WHY_TAILS = (
    "With n rows the predictive distribution has 2a + n degrees of freedom, which from some fifty rows on is close to "
    "normal: it gains little, or much in single splits (most of ccard's gain on clean rows is one of them). What the "
    "training rows show of the scale both processes learn. Burr scales, and a and b fitted, were tried and change "
    "nothing of it. Outliers want a scale a row, as student-noise-gp has."
)
_WHY_DIGITS = (
    "A tie: trained to the end, both processes predict the same to a thousandth of a nat. Hundreds of labels leave "
    "little doubt about one number (its variational posterior has a shape of some 240, a spread of 6%), and the size "
    "that the Gaussian process learns does the same work without the two nats of the bound that the t process pays for "
    "its own prior. Tried on other draws of the digits (seeds 1000 and 1001): a wide start of that posterior and 2.7 "
    "times the steps (the same end); a posterior whose mean moves with the scale (the same bound, no gain); one that "
    "is diagonal before whitening, as published (after 400 epochs a bound lower by 60 nats and more in both); a "
    "mixture over eight fixed sizes, each weighted by its bound and a prior around the best one (within .0005 nat of "
    "that one). Stopped after 30 steps the t process was .14 nat behind on clean digits: it learns its scale slower."
)


# Tables ---------------------------------------------------------------------------------------------------------

Cells = list[dict[str, Any]]


def measure_tables(sizes: Sizes, reporter: Reporter, finished: Finished) -> Cells:
    """One record per set, condition, split and arm."""
    cells: Cells = []
    names = list(REGRESSION)[: sizes.sets]
    total = len(names) * (sizes.splits + 2 * sizes.hard_splits)
    done = 0
    for name in names:
        for condition in CONDITIONS:
            for split in range(sizes.splits if condition == "clean" else sizes.hard_splits):
                measure = partial(_cell, sizes, name, condition, split)
                cells += finished.part(f"{name}, {condition}, split {split}", measure)
                done += 1
                reporter.advance(40 + 50 * done / total, f"{name}, {condition}")
    return cells


def _cell(sizes: Sizes, name: str, condition: str, split: int) -> Cells:
    """All arms on one split of one set."""
    X, y = REGRESSION[name]()
    train, test = _split(X, condition, sizes.n_train, numpy_stream(split, "split", name, condition))
    if condition == "outliers":
        y = y.copy()
        _add_outliers(y, numpy_stream(split, "outliers", name))
    arms = [*EVERYWHERE]
    if condition == "clean" and split < sizes.hard_splits:
        arms = [*SYSTEMS, *PLAIN]
    elif condition == "outliers":
        arms += PLAIN
    about = {"set": name, "condition": condition, "split": split}
    fitted = {arm: _fit(arm, X[train], y[train], X[test], sizes.iterations) for arm in arms}
    return [{**about, "arm": arm, **score(dist, y[test])} for arm, dist in fitted.items()]


def _fit(arm: str, X: Array, y: Array, X_new: Array, iterations: int) -> Predictive:
    if arm in PLAIN:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PLAIN[arm](X, y, X_new)
    return NNGP(max_iterations=iterations, device="cpu", **SYSTEMS[arm]).fit(X, y).predict_dist(X_new)


def score(dist: Predictive, y: Array) -> dict[str, float]:
    """Mean negative log density, root mean square error and coverage of the central 90% interval."""
    target = torch.from_numpy(y)
    low, high = dist.interval(0.9)
    return {
        "nll": float(-dist.log_prob(target).mean()),
        "rmse": float((dist.quantile(0.5) - target).square().mean().sqrt()),
        "coverage": float(((target >= low) & (target <= high)).double().mean()),
    }


def _split(X: Array, condition: str, n_train: int, rng: np.random.Generator) -> tuple[Any, Any]:
    order = rng.permutation(len(X))
    n_test = max(10, len(X) // 3)
    if condition == "shift":
        z = (X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1.0)
        along = z @ np.linalg.svd(z, full_matrices=False)[2][0]
        order = order[np.argsort(along[order] >= np.quantile(along, 2 / 3), kind="stable")]
        inner, outer = order[: len(X) - n_test], order[len(X) - n_test :]
        return inner[rng.permutation(len(inner))[:n_train]], outer
    return order[n_test:][:n_train], order[:n_test]


def _add_outliers(y: Array, rng: np.random.Generator) -> None:
    """Move a tenth of the targets by five standard deviations, up or down."""
    chosen = rng.permutation(len(y))[: max(1, round(0.1 * len(y)))]
    y[chosen] += 5 * y.std() * rng.choice([-1.0, 1.0], len(chosen))


def _gains(cells: Cells, arm: str, base: str, condition: str, names: Any, measure: str = "nll") -> dict[str, Array]:
    """For every set the paired differences base - arm, one a split."""
    table = {(c["set"], c["split"], c["arm"]): c[measure] for c in cells if c["condition"] == condition}
    found: dict[str, Array] = {}
    for name in names:
        splits = sorted(
            {key[1] for key in table if key[0] == name and key[2] == arm} & {k[1] for k in table if k[2] == base}
        )
        if splits:
            found[name] = np.array([table[name, s, base] - table[name, s, arm] for s in splits])
    return found


def table_claims(cells: Cells) -> list[Claim]:
    """The dossier's expectations, t process against the tuned-scale Gaussian process."""
    names = list(dict.fromkeys(cell["set"] for cell in cells))
    few, others = [n for n in names if n in SMALL] or names, [n for n in names if n not in SMALL] or names
    claims = []
    ratio = {
        n: np.mean([c["rmse"] for c in cells if (c["set"], c["arm"], c["condition"]) == (n, "t", "clean")])
        / np.mean([c["rmse"] for c in cells if (c["set"], c["arm"], c["condition"]) == (n, "nngp", "clean")])
        for n in names
    }
    claims.append(Claim("RMSE of t over nngp, mean of the sets", float(np.mean(list(ratio.values()))), 0.98, 1.02))
    for arm in ("t", "burr"):
        gains = _gains(cells, arm, "nngp", "clean", names)
        won = sum(bool(g.mean() >= 0) for g in gains.values())
        claims.append(Claim(f"sets on which {arm} has no larger NLL than nngp", won, low=len(names) // 2 + 1))
    for label, arm, condition, chosen, low in (
        ("small sets, clean", "t", "clean", few, 0.02),
        ("outliers", "t", "outliers", names, 0.02),
        ("shifted inputs", "t", "shift", names, 0.0),
        ("small sets, clean, a and b fitted too", "t-fitted", "clean", few, 0.02),
    ):
        gains = _gains(cells, arm, "nngp", condition, chosen)
        mean, interval = _over_sets(gains)
        note = (_WHY_FITTED if arm == "t-fitted" else _WHY_TAILS) if mean < low else ""
        claims.append(
            Claim(f"NLL of nngp minus {arm}: {label}", mean, low=low, interval=interval, unit="nat", note=note)
        )
    gains = _gains(cells, "t", "nngp", "clean", others)
    worst = max(float(-g.mean()) for g in gains.values())
    claims.append(Claim("largest harm on a larger set, NLL of t minus nngp", worst, high=0.02, unit="nat"))
    coverage = float(np.mean([c["coverage"] for c in cells if c["arm"] == "t" and c["condition"] == "clean"]))
    claims.append(Claim("coverage of 90% intervals of t, clean", coverage, 0.86, 0.94))
    return claims


def _over_sets(gains: dict[str, Array]) -> tuple[float, tuple[float, float] | None]:
    """Mean over sets of the mean over splits, with a 95% t interval from the splits (Satterthwaite's degrees)."""
    means = np.array([g.mean() for g in gains.values()])
    if any(len(g) < 2 for g in gains.values()):
        return float(means.mean()), None
    squares = np.array([g.var(ddof=1) / len(g) for g in gains.values()])
    mean, total = float(means.mean()), float(squares.sum())
    if total == 0:
        return mean, (mean, mean)
    degrees = total**2 / sum(v**2 / (len(g) - 1) for v, g in zip(squares, gains.values(), strict=True))
    error = float(stats.t.ppf(0.975, degrees)) * math.sqrt(total) / len(gains)
    return mean, (mean - error, mean + error)


def summaries(cells: Cells) -> Cells:
    """Means over the splits of every set, condition and arm."""
    keys = list(dict.fromkeys((c["set"], c["condition"], c["arm"]) for c in cells))
    rows = []
    for key in keys:
        chosen = [c for c in cells if (c["set"], c["condition"], c["arm"]) == key]
        means = {m: float(np.mean([c[m] for c in chosen])) for m in ("nll", "rmse", "coverage")}
        rows.append({"set": key[0], "condition": key[1], "arm": key[2], "splits": len(chosen), **means})
    return rows


# Theory -----------------------------------------------------------------------------------------------------------


def check_theory(sizes: Sizes, finished: Finished | None = None) -> tuple[list[Claim], Cells]:
    """Kolmogorov-Smirnov tests of outputs of finite networks, s2 ~ IG(2, 2): untrained, and with fitted readouts."""
    finished = finished or Finished("", Path(), keep=False)
    arms = finished.part("theory", partial(_networks, sizes))
    claims: list[Claim] = []
    for arm in arms:
        claims += [
            Claim(f"{arm['arm']} networks: p of the Student t with 4 degrees of freedom", arm["p_student_t"], low=0.01),
            Claim(f"{arm['arm']} networks: p of a normal of the same variance", arm["p_normal"], high=0.01),
        ]
    return claims, arms


def _networks(sizes: Sizes) -> Cells:
    kernel = FullyConnected(4, "relu", 2.0, 0.1, 1.0, 0.0)
    prior = InverseGamma(2.0, 2.0)
    generator = torch_stream(0, "theory")
    x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    y = torch.sin(2 * x[:4, 0])
    arms: Cells = []
    for name, targets in (("untrained", None), ("readout trained", (x[:4], y))):
        f = finite_ensemble(
            kernel, prior, x[5:], n=sizes.n_networks, width=sizes.width, generator=generator, targets=targets
        )[:, 0]
        mean, covariance = trained_moments(kernel, x[:4], y, x[5:], training="none" if targets is None else "readout")
        z = ((f - mean) / covariance[0, 0].sqrt()).numpy()
        p_t = float(stats.kstest(z, stats.t(4).cdf).pvalue)
        p_normal = float(stats.kstest(z, stats.norm(scale=z.std()).cdf).pvalue)
        arms.append({"arm": name, "part": "theory", "p_student_t": p_t, "p_normal": p_normal, "n": len(z)})
    return arms


# Data of the process itself ---------------------------------------------------------------------------------------


def measure_own_data(sizes: Sizes, seeds: int) -> tuple[list[Claim], Cells]:
    """Tasks of 6 training rows whose scale was drawn from IG(2, 2), all other settings known."""
    architecture, prior = WideArchitecture(2, "relu"), InverseGamma(2.0, 2.0)
    hyper = NNGPSettings(2.0, 0.1, 1.0, 0.01, prior)
    n, n_test = 6, 20
    losses: dict[str, list[float]] = {"t": [], "fixed scale": [], "tuned scale": []}
    for seed in range(seeds):
        generator = torch_stream(seed, "own data")
        for _ in range(max(1, sizes.n_tasks // seeds)):
            x = torch.randn(n + n_test, 2, generator=generator, dtype=torch.float64)
            k = architecture.kernel(2.0, 0.1)(x) + 0.01 * torch.eye(n + n_test, dtype=torch.float64)
            z = torch.randn(n + n_test, 1, generator=generator, dtype=torch.float64)
            s2 = prior.sample_scales(1, generator=generator)
            y = (s2.sqrt() * (jittered_cholesky(k) @ z))[:, 0]
            process = Process(architecture, hyper, x[:n], y[:n])
            mean, variance = process.moments(x[n:])
            arms: dict[str, Predictive] = {
                "t": process.predict(x[n:]),
                "fixed scale": Gaussian(mean, variance.sqrt()),
                "tuned scale": Gaussian(mean, (process.q / n * variance).sqrt()),
            }
            for arm, dist in arms.items():
                losses[arm].append(float(-dist.log_prob(y[n:]).mean()))
    table = {arm: np.array(values) for arm, values in losses.items()}
    claims = []
    for arm, low in (("fixed scale", 0.1), ("tuned scale", 0.1)):
        gain = table[arm] - table["t"]
        error = 1.96 * gain.std() / math.sqrt(len(gain))
        interval = (float(gain.mean() - error), float(gain.mean() + error))
        claims.append(
            Claim(f"own data, 6 rows: NLL of {arm} minus t", float(gain.mean()), low=low, interval=interval, unit="nat")
        )
    return claims, [{"part": "own data", "arm": arm, "nll": float(v.mean()), "n": len(v)} for arm, v in table.items()]


# Digits -----------------------------------------------------------------------------------------------------------


DIGIT_ARMS: dict[str, ScalePrior | str] = {
    "svtp": "paper",
    "svgp": "off",
    "svtp, size 1": InverseGamma(known=True),
    "svgp, size 1": FixedScale(known=True),
}
"""Those of size 1 do not learn the size of the last layer beside s2: the Gaussian one has no scale to learn at all."""


def measure_digits(sizes: Sizes, seeds: int, reporter: Reporter, finished: Finished) -> Cells:
    """Error and NLL of the sparse t process and the sparse Gaussian process on clean and corrupted digits."""
    rows: Cells = []
    for seed in range(seeds):
        for arm in DIGIT_ARMS:
            rows += finished.part(f"digits, seed {seed}, {arm}", partial(_digits, sizes, seed, arm))
            reporter.advance(40 * (seed + 1) / seeds, f"digits, {arm}")
    return rows


def _digits(sizes: Sizes, seed: int, arm: str) -> Cells:
    """One arm on one draw of the digits; all arms see the same batches and the same draws of the latents."""
    train, tests = corrupted_digits(sizes.digits, 300 if sizes.digits > 100 else 60, seed)
    model = NNGPClassifier(
        DIGIT_ARMS[arm],
        image_shape=(1, 8, 8),
        n_inducing=min(100, sizes.digits // 3),
        n_epochs=sizes.epochs,
        n_test_samples=sizes.test_draws,
        random_state=seed,
        device="cpu",
    ).fit(*train)
    rows: Cells = []
    shape, scale = (float(value) for value in model.network_.shape_and_scale())
    size = float(model.network_.log_readout_var.exp()) * scale / shape
    for corruption, (X, y) in tests.items():
        log_p = np.log(np.clip(model.predict_proba(X), 1e-12, None))
        nll = -log_p[np.arange(len(y)), np.searchsorted(model.classes_, y)].mean()
        error = float((model.classes_[log_p.argmax(1)] != y).mean())
        about = {"part": "digits", "arm": arm, "corruption": corruption, "seed": seed}
        rows.append({**about, "nll": float(nll), "error": error, "bound": model.bound_, "size": size})
        if "svtp" in arm:
            rows[-1]["shape"] = shape
    return rows


def digit_claims(rows: Cells) -> list[Claim]:
    """NLL of the sparse Gaussian process minus that of the sparse t process."""
    claims = []
    for label, chosen in (("clean", ["clean"]), ("corrupted", sorted({r["corruption"] for r in rows} - {"clean"}))):
        gains = _digit_gains(rows, chosen, "svgp", "svtp")
        interval = None
        if len(gains) > 1:
            error = float(stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / math.sqrt(len(gains)))
            interval = (float(gains.mean()) - error, float(gains.mean()) + error)
        mean = float(gains.mean())
        note = ""
        if mean < 0.01:
            untuned = float(_digit_gains(rows, chosen, "svgp, size 1", "svtp, size 1").mean())
            note = (
                _WHY_DIGITS
                + f" With the size of the last layer fixed at 1 in both, the t process gains {untuned:.2f} nat."
            )
        claims.append(
            Claim(f"{label} digits: NLL of svgp minus svtp", mean, 0.0, interval=interval, unit="nat", note=note)
        )
    return claims


def _digit_gains(rows: Cells, corruptions: list[str], base: str, arm: str) -> Array:
    """Differences base - arm in NLL, the mean of these corruptions, one a seed."""
    table = {(r["corruption"], r["seed"], r["arm"]): r["nll"] for r in rows}
    seeds = sorted({r["seed"] for r in rows})
    return np.array([np.mean([table[c, s, base] - table[c, s, arm] for c in corruptions]) for s in seeds])
