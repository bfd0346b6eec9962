"""What the statistics of a price cover, in simulations where the truth is known.

Run: `OMP_NUM_THREADS=1 python benchmarks/price_statistics.py [--quick]`

Prints the tables of docs/price-statistics.md: coverage of the interval of a paired effect beside three others, errors
of the one-sided tests, coverage of the sample ratio, widths of the prior on temperatures, bias of calibration errors.
"""

import argparse
import platform
from collections.abc import Callable, Iterable
from datetime import date

import numpy as np
import scipy
from scipy import special, stats
from sklearn.isotonic import isotonic_regression

from foreknow.common.rng import numpy_stream
from foreknow.core.calibration import ece, ks_error
from foreknow.pricing import codes
from foreknow.pricing.effects import mean_bounds
from foreknow.pricing.ratio import sample_ratio
from foreknow.pricing.scoring import GRID, UNCHANGED

Array = np.ndarray
Draw = Callable[[np.random.Generator, tuple[int, int]], Array]

LAWS: dict[str, Draw] = {  # all with mean 0
    "normal": lambda rng, shape: rng.normal(size=shape),
    "gamma(4)": lambda rng, shape: rng.gamma(4, size=shape) - 4,
    "gamma(2)": lambda rng, shape: rng.gamma(2, size=shape) - 2,
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "Student t, 3 df": lambda rng, shape: rng.standard_t(3, size=shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "gamma(2) - 1.5 gamma(2)": lambda rng, shape: rng.gamma(2, size=shape) - 1.5 * rng.gamma(2, size=shape) + 1,
    "1 unit in 10 fails": lambda rng, shape: 0.1 * rng.normal(size=shape) + (rng.random(shape) < 0.1) - 0.1,
}
UNITS = (5, 10, 20, 50)
SIZES = np.array([16.0, 32, 64, 128, 256, 512])


def table(title: str, head: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    print(f"\n{title}\n")
    head = list(head)
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(str(cell) for cell in row) + " |", flush=True)


# Effects ----------------------------------------------------------------------------------------------------


def others(rows: Array, level: float, n_boot: int, rng: np.random.Generator) -> dict[str, tuple[Array, Array]]:
    """Ends of three other intervals: percentile, expanded percentile, Student's t."""
    n = rows.shape[1]
    means = rows @ rng.multinomial(n, np.full(n, 1 / n), size=n_boot).T / n
    tail = (1 - level) / 2
    t = stats.t.isf(tail, n - 1)
    wider = stats.norm.sf(t * np.sqrt(n / (n - 1)))
    half = t * rows.std(1, ddof=1) / np.sqrt(n)
    return {
        "percentile": tuple(np.quantile(means, [tail, 1 - tail], axis=1)),
        "expanded": tuple(np.quantile(means, [wider, 1 - wider], axis=1)),
        "Student": (rows.mean(1) - half, rows.mean(1) + half),
    }


def effects(n_sim: int, rng: np.random.Generator) -> None:
    rows = []
    for law, draw in LAWS.items():
        cells = [law]
        for n in UNITS:
            d = draw(rng, (n_sim, n))
            ends = {"ours": mean_bounds(d, 0.95, rng=rng), **others(d, 0.95, 2000, rng)}
            cells.append(" / ".join(f"{100 * ((low <= 0) & (high >= 0)).mean():.1f}" for low, high in ends.values()))
        rows.append(cells)
    head = ["differences", *(f"{n} units" for n in UNITS)]
    table(f"Coverage of 95% intervals, %: ours / percentile / expanded / Student; {n_sim} simulations", head, rows)


def tests(n_sim: int, alpha: float, rng: np.random.Generator) -> None:
    rows = []
    for law, draw in LAWS.items():
        cells = [law]
        for n in UNITS:
            low, high = mean_bounds(draw(rng, (n_sim, n)), 1 - 2 * alpha, rng=rng)
            cells.append(f"{100 * (high < 0).mean():.1f} / {100 * (low > 0).mean():.1f}")
        rows.append(cells)
    head = ["differences", *(f"{n} units" for n in UNITS)]
    table(
        f"`holds` at alpha {alpha:.0%}: false positives where the mean lies on the bound, %: below / above", head, rows
    )


def equivalence(n_sim: int, rng: np.random.Generator) -> None:
    rows = []
    for true, word in ((1.0, "on the margin"), (0.5, "half the margin"), (0.0, "none")):
        for sd in (0.5, 1.0):
            cells = [word, sd]
            for n in UNITS:
                low, high = mean_bounds(true + sd * rng.normal(size=(n_sim, n)), 0.9, rng=rng)
                cells.append(f"{100 * ((low > -1) & (high < 1)).mean():.1f}")
            rows.append(cells)
    head = ["true difference", "sd / margin", *(f"{n} units" for n in UNITS)]
    table("Equivalence shown, %, normal differences (the first two lines are errors)", head, rows)


# Ratio ----------------------------------------------------------------------------------------------------


def power_law(
    rng: np.random.Generator, ratio: float, units: int, noise: float, shared: float, sizes: Array = SIZES
) -> tuple[Array, Array]:
    """Losses of both arms, of which on acts as if it had `ratio` times the data; seeds move both alike."""
    base = shared * rng.normal(size=(units, 1)) + 0.3
    shape = (units, len(sizes))
    on, off = (base + 3 * (sizes * factor) ** -0.5 + noise * rng.normal(size=shape) for factor in (ratio, 1.0))
    return on, off


def percentile_ratio(on: Array, off: Array, n_boot: int, rng: np.random.Generator) -> tuple[float, float]:
    """The plain alternative: percentiles of the ratio over resamples of the units."""
    log_n, found = np.log(SIZES), []
    for index in rng.integers(0, len(on), (n_boot, len(on))):
        f, g = (isotonic_regression(arm[index].mean(0), increasing=False) for arm in (on, off))
        better, target, sign = (f, g[-1], 1) if f[-1] <= g[-1] else (g, f[-1], -1)
        found.append(sign * (log_n[-1] - np.interp(-target, -better, log_n)))
    low, high = np.exp(np.quantile(found, [0.025, 0.975]))
    return low, high


def ratios(n_sim: int, rng: np.random.Generator) -> None:
    rows = []
    for ratio in (4.0, 1.5, 1.0, 1 / 3):
        for noise, shared in ((0.02, 0.05), (0.06, 0.02), (0.15, 0.0)):
            cells: list[object] = [f"{ratio:.2g}", noise, shared]
            for units in (5, 10, 20):
                hits, plain_hits, values, width = 0, 0, [], []
                for i in range(n_sim):
                    on, off = power_law(rng, ratio, units, noise, shared)
                    got = sample_ratio(SIZES, on, off, n_boot=1000, rng=rng)
                    hits += got.low <= ratio <= got.high
                    values.append(got.value)
                    width.append(got.high / got.low)
                    if i < n_sim // 5:
                        low, high = percentile_ratio(on, off, 200, rng)
                        plain_hits += low <= ratio <= high
                shares = f"{100 * hits / n_sim:.1f} / {100 * plain_hits / (n_sim // 5):.0f}"
                cells.append(f"{shares}, median {np.median(values):.2f}, width {np.median(width):.2g}x")
            rows.append(cells)
    head = ["true ratio", "noise", "shared", "5 units", "10 units", "20 units"]
    table(f"Sample ratio: coverage of 95% intervals, %, ours / percentile; {n_sim} simulations", head, rows)
    rows = []
    for step in (2, 4, 8):
        sizes = 16.0 * step ** np.arange(4)
        on, off = power_law(rng, 3.0, 2, 0.0, 0.0, sizes)
        rows.append([step, f"{sample_ratio(sizes, on, off, rng=rng).value:.2f}"])
    table(
        "Reading a power law off by lines in log n: a true ratio of 3, no noise", ["step between sizes", "read"], rows
    )


# Codes ----------------------------------------------------------------------------------------------------


def stream(rng: np.random.Generator, n_sim: int, factor: float, scale: float, n_classes: int) -> tuple[Array, Array]:
    """Block losses (n_sim, blocks, G) of logits that are `factor` times too large, and the code length of the truth."""
    losses, truth = [], []
    for n in (8, 8, 16, 32, 64, 128):
        z = scale * rng.normal(size=(n_sim, n, n_classes))
        y = (z + rng.gumbel(size=z.shape)).argmax(-1)[..., None]
        cost = [-np.take_along_axis(special.log_softmax(f * z, -1), y, -1).sum((1, 2)) for f in (1, *(factor / GRID))]
        truth.append(cost[0])
        losses.append(np.stack(cost[1:], 1))
    return np.stack(losses, 1), np.sum(truth, 0)


def priors(n_sim: int, rng: np.random.Generator) -> None:
    rows = []
    for scale, n_classes in ((1.5, 3), (4.0, 2), (3.0, 10)):
        for factor in (1.0, 3.0, 0.5, 6.0):
            losses, truth = stream(rng, n_sim, factor, scale, n_classes)
            past = np.cumsum(losses, 1) - losses
            cells = [f"{n_classes} classes, logits {scale:g}", factor]
            cells.append(f"{losses[:, :, UNCHANGED].sum() / truth.sum():.3f}")
            for width in (1.25, 1.65, 2.0, 2.7, 7.4, np.inf):
                index = (past + np.log(GRID) ** 2 / (2 * np.log(width) ** 2)).argmin(-1)
                index[:, 0] = UNCHANGED
                coded = np.take_along_axis(losses, index[..., None], -1)[..., 0].sum(1)
                cells.append(f"{coded.sum() / truth.sum():.3f}")
            shipped = [codes.code_length(unit, [8, 8, 16, 32, 64, 128]).bits * np.log(2) for unit in losses]
            rows.append([*cells, f"{np.sum(shipped) / truth.sum():.3f}"])
    head = ["stream", "logits times", "as they are", *(f"factor {w:g}" for w in (1.25, 1.65, 2.0, 2.7, 7.4, np.inf))]
    table("Code length over that of the truth, by the width of the prior on T", [*head, "shipped"], rows)


# Calibration errors -----------------------------------------------------------------------------------------


def calibration(n_sim: int, rng: np.random.Generator) -> None:
    rows = []
    for warp in (1.0, 2.0):
        p = rng.dirichlet([1.0, 1.0, 1.0], size=1_000_000)
        stated = p**warp / (p**warp).sum(1, keepdims=True)
        true = abs(stated.max(1) - np.take_along_axis(p, stated.argmax(1)[:, None], 1)[:, 0]).mean()
        for n in (200, 1000, 10_000):
            cells = [warp, f"{true:.4f}", n]
            found: dict[str, list[float]] = {}
            for _ in range(n_sim):
                pick = rng.integers(0, len(p), n)
                y = (np.cumsum(p[pick], 1) < rng.random((n, 1))).sum(1)
                for bins in (15, 500):
                    for debias in (False, True):
                        found.setdefault(f"{bins}{debias}", []).append(ece(stated[pick], y, bins, debias=debias))
                found.setdefault("mass", []).append(ece(stated[pick], y, 15, "mass"))
                found.setdefault("ks", []).append(ks_error(stated[pick], y))
            rows.append([*cells, *(f"{np.mean(values):.4f}" for values in found.values())])
    names = ["ece 15", "debiased", "ece 500", "debiased", "ece 15 by mass", "ks_error"]
    table("Calibration errors, means", ["logits times", "true error", "rows", *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the simulations")
    quick = parser.parse_args().quick
    where = platform.processor() or platform.machine()
    print(f"{date.today()}, numpy {np.__version__}, scipy {scipy.__version__}, {where}")
    effects(1000 if quick else 10_000, numpy_stream(0, "effects"))
    for alpha in (0.05, 0.02):
        tests(1000 if quick else 10_000, alpha, numpy_stream(0, "tests"))
    equivalence(1000 if quick else 10_000, numpy_stream(0, "equivalence"))
    ratios(40 if quick else 500, numpy_stream(0, "ratios"))
    priors(100 if quick else 1000, numpy_stream(0, "priors"))
    calibration(10 if quick else 100, numpy_stream(0, "calibration"))


if __name__ == "__main__":
    main()
