"""Surrogates of Bayesian optimisation on the same trials: a fit and an acquisition step, relative to BoTorch's GP.

    OMP_NUM_THREADS=1 python benchmarks/bnn_bo.py [--rows 40] [--columns 6] [--repeats 3] [--quick]

The peer is `SingleTaskGP` of BoTorch, called directly. Every surrogate is fitted to the same rows and asked for the
gradient of expected improvement at the same batches of four points. Each number is the median of the repeats.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from foreknow.common.rng import torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.evidence import n_cores
from foreknow.functions import botorch_model
from foreknow.functions.bnn_bo.model import sampler_of
from foreknow.functions.bnn_bo.surrogates import SURROGATES


def seconds(work: Callable[[], Any], repeats: int) -> float:
    work()
    found = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            work()
        found.append(watch.seconds)
    return statistics.median(found)


def peer(x: torch.Tensor, y: torch.Tensor) -> Any:
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.mlls import ExactMarginalLogLikelihood

    model = SingleTaskGP(x, y)
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    return model


def step(model: Any, points: torch.Tensor, best: float) -> None:
    from botorch.acquisition import qExpectedImprovement

    batch = points.clone().requires_grad_(True)
    qExpectedImprovement(model, best, sampler=sampler_of(model, 128, 0))(batch).sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--columns", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args()
    rows, repeats = (15, 1) if options.quick else (options.rows, options.repeats)
    preset = "quick" if options.quick else "small"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    generator = torch_stream(0, "benchmark")
    x = torch.rand(rows, options.columns, generator=generator, dtype=torch.float64)
    y = torch.sin(3 * x.sum(1, keepdim=True))
    points = torch.rand(8, 4, options.columns, generator=generator, dtype=torch.float64)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "botorch", "gpytorch"))
    print(f"{versions}; {n_cores()} cores, 1 thread; {datetime.date.today()}; {rows} rows, {options.columns} columns")
    best = float(y.max())
    fitted = peer(x, y)
    base = seconds(lambda: peer(x, y), repeats), seconds(lambda: step(fitted, points, best), repeats)
    print(f"{'surrogate':22} {'fit, s':>9} {'ratio':>7} {'EI, s':>9} {'ratio':>7}")
    print(f"{'BoTorch SingleTaskGP':22} {base[0]:9.4f} {1:7.2f} {base[1]:9.4f} {1:7.2f}")
    for name in SURROGATES:
        fit = seconds(lambda name=name: botorch_model(name, x, y, preset=preset), repeats)
        model = botorch_model(name, x, y, preset=preset, limit=128)
        ask = seconds(lambda model=model: step(model, points, best), repeats)
        print(f"{name:22} {fit:9.4f} {fit / base[0]:7.2f} {ask:9.4f} {ask / base[1]:7.2f}")


if __name__ == "__main__":
    main()
