"""How near and how fast posteriors by one pass are, beside NUTS and SVI; and filters beside particles.

Run: `OMP_NUM_THREADS=1 python benchmarks/distribution_transformer.py [--quick]`; SVI and NUTS need
`pip install foreknow[bayes]`.
"""

import argparse
import datetime
import platform

import numpy as np
import torch

from foreknow.common.deps import available
from foreknow.core.evidence import n_cores
from foreknow.tasks.distribution_transformer.proof import conjugate, filters, programs
from foreknow.tasks.distribution_transformer.proof.common import SIZES


def mean_of(rows, arm, key, what=None):
    """Over the records of the main tasks, or of those with a `what`."""
    found = [row[key] for row in rows if row.get("arm") == arm and key in row and row.get("what") == what]
    return float(np.mean(found)) if found else float("nan")


def one_update(sizes) -> None:
    _, rows, notes = conjugate.variances(sizes, 1)
    batch = next(row["one_of_a_batch"] for row in rows if row.get("what") == "milliseconds")
    single = next(row["one_task"] for row in rows if row.get("what") == "milliseconds")
    print(f"one update: {single:.2f} ms alone, {batch:.4f} ms in a batch of {sizes.n_tasks}")
    print(f"{'ours':<34} KL {mean_of(rows, 'ours', 'kl'):.4f} nat")
    print(f"{'matched log-normal':<34} KL {mean_of(rows, 'matched log-normal', 'kl'):.4f} nat")
    for arm in ("SVI", "NUTS"):
        if available("pyro"):
            ms = mean_of(rows, arm, "ms_a_task", programs.WHAT)
            kl, ours = (mean_of(rows, name, "kl", programs.WHAT) for name in (arm, "ours"))
            print(f"{arm:<34} KL {kl:.4f} nat (ours there {ours:.4f}), {ms:.0f} ms, {ms / single:,.0f} times ours")
    ms = mean_of(rows, "importance sampling, 1000 draws", "ms_a_task")
    kl = mean_of(rows, "importance sampling, 1000 draws", "kl")
    print(
        f"{'importance sampling, 1000 draws':<34} KL {kl:.4f} nat, {ms:.3f} ms, {ms / batch:.1f} times ours in a batch"
    )
    for note in notes:
        print(note)


def a_filter(sizes) -> None:
    _, rows, notes = filters.ranges(sizes, 1)
    ours = mean_of(rows, "ours", "ms_a_step")
    for row in rows:
        if "ms_a_step" in row:
            print(
                f"{row['arm']:<34} log density {row['log_density']:7.3f} nat, rmse {row['rmse']:.3f}, "
                f"{row['ms_a_step']:.4f} ms a step and series, {row['ms_a_step'] / ours:.1f} times ours"
            )
    for note in notes:
        print(note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, python {platform.python_version()}, {n_cores()} cores, {datetime.date.today()}")
    sizes = SIZES["quick" if options.quick else "small"]
    one_update(sizes)
    a_filter(sizes)


if __name__ == "__main__":
    main()
