"""How many tables per second each prior over tables draws, by itself and mixed as in training.

Run: `OMP_NUM_THREADS=1 python benchmarks/prior_speed.py [--quick] [--seconds 2] [--device cpu]`
"""

import argparse
import platform
from datetime import date

import torch

from foreknow.common.rng import torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.prior import Simulator
from foreknow.tasks.tabular.priors import members_and_weights, paper_prior


def tables_per_second(prior: Simulator, n_tables: int, n_rows: int, seconds: float, device: str) -> float:
    generator = torch_stream(0, "speed", device=device)

    def draw() -> None:
        prior.sample(n_tables, n_context=n_rows // 2, n_query=n_rows - n_rows // 2, generator=generator)
        if device != "cpu":
            torch.cuda.synchronize()

    draw()
    n = 0
    with Stopwatch() as watch:
        while watch.seconds < seconds:
            draw()
            n += n_tables
    return n / watch.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the time")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per prior")
    parser.add_argument("--tables", type=int, default=128, help="tables per call")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    seconds = options.seconds / 5 if options.quick else options.seconds
    torch.set_num_threads(1)
    where = platform.processor() or platform.machine()
    print(f"{date.today()}, torch {torch.__version__}, {where}, device {options.device}, 1 thread, float32")
    print(f"{options.rows} rows x {options.columns} columns, {options.tables} tables a call, tables/s")
    print(f"{'prior':16} {'2 classes':>10} {'10 classes':>10} {'number':>10}")
    rows: dict[str, list[float]] = {}
    for task, n_classes in (("classification", 2), ("classification", 10), ("regression", 2)):
        sizes = {"n_features": options.columns, "n_classes": n_classes}
        members = members_and_weights(task, **sizes)[0]
        cases = [(type(member).__name__, member) for member in members]
        for name, prior in [*cases, ("mixture", paper_prior(task, **sizes))]:
            rate = tables_per_second(prior, options.tables, options.rows, seconds, options.device)
            rows.setdefault(name, []).append(rate)
    for name, rates in rows.items():
        print(f"{name:16} {' '.join(f'{rate:10,.0f}' for rate in rates)}")


if __name__ == "__main__":
    main()
