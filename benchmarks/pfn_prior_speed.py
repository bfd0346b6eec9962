"""How many tables per second each prior of the system `pfn` draws on one core.

Run: `OMP_NUM_THREADS=1 python benchmarks/pfn_prior_speed.py [--seconds 2] [--device cpu]`
"""

import argparse
import platform

import torch

from foreknow.common.rng import torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.prior import Simulator
from foreknow.tasks import BNNPrior, GPPrior, MixturePrior, StrokePrior, TabularBNNPrior, TabularGPPrior

CASES: list[tuple[str, Simulator, int, int]] = [
    ("GP, 1 column, known", GPPrior.small_fixed(), 128, 30),
    ("GP, 1 column, unknown lengthscale", GPPrior.small_mix(), 128, 30),
    ("GP, 5 columns, as published", GPPrior.published_fixed(), 32, 200),
    ("GP mix, 5 columns, as published", GPPrior.published_mix(), 32, 200),
    ("GP, 5 columns, long tables", GPPrior.published_fixed(), 2, 2010),
    ("network, 3 columns, width 5", BNNPrior.small(), 256, 100),
    ("network, 8 columns, width 64", BNNPrior.big(), 256, 100),
    ("tabular network, as published", TabularBNNPrior(), 128, 100),
    ("tabular network, 20 columns, all on", TabularBNNPrior.for_tables(), 128, 100),
    ("tabular network, 8 columns, all on", TabularBNNPrior.for_tables(n_features=8), 128, 100),
    ("tabular GP, as published", TabularGPPrior(), 128, 100),
    ("tabular GP, 20 columns", TabularGPPrior(n_features=20), 128, 100),
    (
        "half tabular network, half GP, 20 columns",
        MixturePrior((TabularBNNPrior(n_features=20), TabularGPPrior(n_features=20)), (0.5, 0.5)),
        128,
        100,
    ),
    ("strokes, 5-way 5-shot", StrokePrior(), 64, 26),
]


def tables_per_second(prior: Simulator, n_tasks: int, n_rows: int, seconds: float, device: str) -> float:
    generator = torch_stream(0, "speed", device=device)

    def draw() -> None:
        prior.sample(n_tasks, n_context=n_rows - 1, n_query=1, generator=generator)
        if device != "cpu":
            torch.cuda.synchronize()

    draw()
    n = 0
    with Stopwatch() as watch:
        while watch.seconds < seconds:
            draw()
            n += n_tasks
    return n / watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="time per prior")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, device {options.device}, 1 thread, float32")
    print(f"{'prior':42} {'tables':>6} {'rows':>5} {'columns':>7} {'tables/s':>10} {'rows/s':>12}")
    for name, prior, n_tasks, n_rows in CASES:
        rate = tables_per_second(prior, n_tasks, n_rows, options.seconds, options.device)
        print(f"{name:42} {n_tasks:6d} {n_rows:5d} {prior.n_features:7d} {rate:10,.0f} {rate * n_rows:12,.0f}")


if __name__ == "__main__":
    main()
