"""The small proofs of `distribution-transformer`.

V. Variances with inverse-gamma priors and one observation: the network against the conjugate posterior, beside the same
   network told nothing ("off") or the parameters of another task ("wrong"), the log-normal distribution with the exact
   moments, importance sampling, and on a few tasks SVI and NUTS.
M. Gaussian mixtures seen by linear sensors, against the closed form.
F. Position and velocity from ranges with clutter, a hundred steps: the filter against particle filters, Kalman filters
   and a Gaussian-sum filter. Then daily returns of a real index, where the package `arch` is installed.
Q. A quantum system's number, against its posterior on a grid, and on a few tasks SVI and NUTS.
G. A value of a Gaussian process with an unknown lengthscale, against the sum over lengthscales; SVI and NUTS as in Q.
B. Position and velocity in the plane from ranges and bearings, against particle filters and Kalman filters.
S. Log variances of a factor and of the rest, from returns of three assets, against particle filters.
"""

from __future__ import annotations

from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import check_int, check_option
from foreknow.core.evidence import Evidence
from foreknow.core.system import PRESETS
from foreknow.tasks.distribution_transformer.proof import conjugate, filters, others
from foreknow.tasks.distribution_transformer.proof.common import SIZES


def prove(*, preset: str = "small", seeds: int = 3, progress: ProgressCallback | None = None) -> Evidence:
    """Run all proofs; each is repeated for every seed of tasks, with the networks that ship.

    Args:
        preset: "quick" shrinks counts so that the path is exercised in seconds.
        seeds: of the tasks.
        progress: told of finished parts.
    """
    check_option("prove distribution-transformer", "preset", preset, PRESETS)
    check_int("prove distribution-transformer", "seeds", seeds, low=1)
    sizes = SIZES[preset]
    parts = [
        conjugate.variances, conjugate.mixtures, filters.ranges, filters.returns,
        others.hamiltonians, others.functions, others.planes, others.factors,
    ]  # fmt: skip
    reporter = Reporter(progress, len(parts))
    claims, arms, notes = [], [], []
    with Stopwatch() as watch:
        for done, part in enumerate(parts):
            reporter.advance(done, part.__name__)
            found = part(sizes, seeds)
            claims += found[0]
            arms += found[1]
            notes += found[2]
        reporter.advance(len(parts), "done")
    return Evidence(
        slug="distribution-transformer",
        claims=tuple(claims),
        arms=tuple(arms),
        command=f"foreknow prove distribution-transformer --preset {preset} --seeds {seeds}",
        seconds=watch.seconds,
        settings={"preset": preset, "seeds": seeds},
        notes=tuple(notes),
    )
