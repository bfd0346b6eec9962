"""How likely and how fast learning-curve extrapolation is, beside MCMC on the same prior and least squares.

Run: `OMP_NUM_THREADS=1 python benchmarks/curves.py [--quick] [--device cpu]`; MCMC needs `pip install foreknow[mcmc]`.
"""

import argparse
import datetime
import platform

import numpy as np
import torch

from foreknow.common.deps import available
from foreknow.common.rng import torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.evidence import n_cores
from foreknow.tasks import CurveExtrapolator, CurvePrior
from foreknow.tasks.lc_pfn import proof

CUT = 20


def seconds_of(work, repeats: int) -> float:
    """Median seconds of `work`, after one warm-up."""
    work()
    spent = []
    for _ in range(repeats):
        with Stopwatch() as watch:
            work()
        spent.append(watch.seconds)
    return float(np.median(spent))


def draw_speed(device: str, n: int) -> None:
    prior, generator = CurvePrior(), torch_stream(0, "benchmark", device=device)
    seconds = seconds_of(lambda: prior.sample(n, generator=generator), 3)
    print(f"prior on {device}: {n / seconds:,.0f} accepted curves a second")


def extrapolate_speed(system: CurveExtrapolator, counts: list[int]) -> None:
    values = CurvePrior().sample(max(counts), generator=torch_stream(1, "benchmark")).value.clamp(0, 1).numpy()
    for n in counts:
        seconds = seconds_of(
            lambda n=n: system.extrapolate(values[:n, :CUT], 50, falling="allow"), 3 if n < 5000 else 1
        )
        print(
            f"extrapolate {n:>6} curves, {CUT} of 50 epochs: {1e3 * seconds:9.1f} ms, {1e3 * seconds / n:.3f} a curve"
        )


def against_peers(n_mcmc: int) -> None:
    sizes = proof.SIZES["small"]
    network = proof.networks()["ours"]
    curves = CurvePrior().sample(n_mcmc, generator=torch_stream(2, "benchmark")).value.double()
    truth = curves[:, CUT : proof.HORIZON]
    seconds = {"network": seconds_of(lambda: proof.predict(network, curves, CUT, proof.HORIZON), 5) / n_mcmc}
    density = {"network": float(proof.predict(network, curves, CUT, proof.HORIZON).log_prob(truth.float()).mean())}
    with Stopwatch() as watch:
        plain = proof._baselines(curves.numpy(), CUT, proof.HORIZON, network.borders)
    seconds["least squares"] = watch.seconds / n_mcmc
    density |= {
        "least squares": float(plain["power law"].log_prob(truth).mean()),
        "last value": float(plain["last value"].log_prob(truth).mean()),
    }
    if available("emcee"):
        with Stopwatch() as watch:
            found = [proof._posterior(sizes, row, CUT, network.borders, seed) for seed, row in enumerate(curves)]
        seconds["MCMC"] = watch.seconds / n_mcmc
        density["MCMC"] = float(np.mean([float(bar.log_prob(y).mean()) for bar, y in zip(found, truth)]))
    for name, value in density.items():
        time = f"{1e3 * seconds[name]:9.2f} ms a curve" if name in seconds else ""
        ratio = f", {seconds[name] / seconds['network']:,.0f} times the network's" if name in seconds else ""
        print(f"{name:<14} log density {value:7.3f} nat a value {time}{ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, python {platform.python_version()}, {n_cores()} cores, {datetime.date.today()}")
    draw_speed(options.device, 20_000 if options.quick else 200_000)
    system = CurveExtrapolator(device=options.device)
    extrapolate_speed(system, [1, 100] if options.quick else [1, 100, 10_000])
    against_peers(3 if options.quick else 30)


if __name__ == "__main__":
    main()
