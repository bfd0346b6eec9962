"""How fast `pfn` answers, against scikit-learn's Gaussian process and a Markov chain, all in one run.

Run: `OMP_NUM_THREADS=1 python benchmarks/pfn_speed.py [--tasks 20] [--quick]`

Every method sees the same curves of 20 points (unknown lengthscale and noise) and predicts 8 queries. The chain is
random-walk Metropolis over the two hyper-parameters in log space: 500 steps of warm-up, 500 kept, every tenth used.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch
from scipy.special import gammaln

from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.tasks import PFN
from foreknow.tasks.pfn.presets import GP_1D
from foreknow.tasks.pfn.priors.gp import posterior_moments
from foreknow.tasks.pfn.proof import _mle2

N_CONTEXT, N_QUERY = 20, 8


def main() -> None:
    """Print one table of times and likelihoods, and one of cached against uncached queries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="3 tasks")
    options = parser.parse_args()
    n_tasks = 3 if options.quick else options.tasks
    batch = GP_1D.sample(n_tasks, n_context=N_CONTEXT, n_query=N_QUERY, generator=torch_stream(5, "benchmark"))
    assert batch.query_y is not None
    model = PFN(standardize=False)
    x0, y0 = batch.context_x[0].numpy(), batch.context_y[0].numpy()
    network = model.fit(x0, y0).network_
    seconds, nll = [], []
    for i in range(n_tasks):
        start = time.perf_counter()
        posterior = model.condition(batch.context_x[i].numpy(), batch.context_y[i].numpy())
        dist = posterior.predict(batch.query_x[i].numpy())
        seconds.append(time.perf_counter() - start)
        nll.append(-float(dist.log_prob(batch.query_y[i]).mean()))
    with torch.inference_mode():
        start = time.perf_counter()
        network(batch.context_x, batch.context_y, batch.query_x)
        batched = (time.perf_counter() - start) / n_tasks
    mle_nll, mle_seconds = _mle2(batch)
    chains = [chain(batch, i) for i in range(n_tasks)]
    ours = float(np.median(seconds))
    print(f"{'method':36}{'ms a task':>12}{'times pfn':>12}{'NLL':>9}")
    for name, each, value in (
        ("pfn, one task at a time", ours, np.mean(nll)),
        ("pfn, tasks in one batch", batched, np.mean(nll)),
        ("scikit-learn GP, MLE-II, 2 restarts", mle_seconds, mle_nll.mean()),
        ("Metropolis, 1000 steps", np.median([c[0] for c in chains]), np.mean([c[1] for c in chains])),
    ):
        print(f"{name:36}{1e3 * each:12.2f}{each / ours:12.1f}{value:9.3f}")
    query = batch.query_x[0, :1].numpy()
    posterior = model.condition(x0, y0)
    cached = median_seconds(lambda: posterior.predict(query))
    uncached = median_seconds(lambda: model.condition(x0, y0).predict(query))
    print(f"\none query: cached {1e3 * cached:.2f} ms, uncached {1e3 * uncached:.2f} ms, ratio {uncached / cached:.1f}")


def chain(batch: object, index: int) -> tuple[float, float]:
    """Seconds and mean NLL of a Metropolis chain on one task."""
    x, y = batch.context_x[index].double(), batch.context_y[index].double()  # type: ignore[attr-defined]
    q, t = batch.query_x[index].double(), batch.query_y[index].double()  # type: ignore[attr-defined]
    rng = numpy_stream(0, "chain", str(index))
    one = torch.ones(1, dtype=torch.float64)

    def moments(log_l: float, log_s: float) -> tuple[torch.Tensor, torch.Tensor, float]:
        scale, noise = math.exp(log_l) * torch.ones(1, 1, dtype=torch.float64), math.exp(log_s) * one
        mean, sd, evidence = posterior_moments("rbf", x[None], y[None], q[None], scale, one, noise)
        # Gamma(3, 6) and Gamma(1, 20), with the Jacobian of the logarithm.
        prior = 3 * log_l - 6 * math.exp(log_l) - gammaln(3) + 3 * math.log(6) + log_s - 20 * math.exp(log_s)
        return mean[0], sd[0], float(evidence) + prior

    start = time.perf_counter()
    state = np.log([0.5, 0.05])
    current = moments(*state)
    kept = []
    for step in range(1000):
        proposal = state + 0.4 * rng.normal(size=2)
        new = moments(*proposal)
        if math.log(rng.uniform()) < new[2] - current[2]:
            state, current = proposal, new
        if step >= 500 and step % 10 == 0:
            kept.append(current[:2])
    means, sds = (torch.stack(part) for part in zip(*kept))
    log_density = torch.distributions.Normal(means, sds).log_prob(t).logsumexp(0) - math.log(len(kept))
    return time.perf_counter() - start, -float(log_density.mean())


def median_seconds(work: object, repeats: int = 50) -> float:
    """Median seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()  # type: ignore[operator]
        times.append(time.perf_counter() - start)
    return float(np.median(times))


if __name__ == "__main__":
    main()
