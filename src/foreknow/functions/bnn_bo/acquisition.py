"""Which points to try next: acquisition functions of BoTorch over any of the surrogates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreknow.common.errors import ForeknowWarning
from foreknow.common.rng import seed_of, seeded_init
from foreknow.common.validate import check_int
from foreknow.core.records import record
from foreknow.functions.bnn_bo.extra import bo, quiet
from foreknow.functions.bnn_bo.model import sampler_of
from foreknow.functions.bnn_bo.space import Floats, Space

SINGLE = ("qei", "qlogei", "greedy")
MULTIPLE = ("qehvi",)
ACQUISITIONS = (*SINGLE, *MULTIPLE)
_POOL = 256
_NEAR = 1e-6


@record
@dataclass(frozen=True)
class SearchSettings:
    """How hard the acquisition function is optimised, the same for every surrogate; as published by default.

    Args:
        n_restarts: starts of L-BFGS.
        n_raw: points that these are chosen from.
        n_iterations: of L-BFGS.
        n_samples: of the posterior in an acquisition value; weight samples are thinned to as many.
    """

    n_restarts: int = 2
    n_raw: int = 16
    n_iterations: int = 10
    n_samples: int = 128

    def __post_init__(self) -> None:
        for name in ("n_restarts", "n_raw", "n_iterations", "n_samples"):
            check_int("SearchSettings", name, getattr(self, name), low=1)


def propose(
    model: Any,
    space: Space,
    acquisition: str,
    *,
    x: Tensor,
    y: Tensor,
    q: int,
    seen: Floats,
    pending: Tensor | None = None,
    reference: Tensor | None = None,
    settings: SearchSettings,
    seed: int,
) -> Floats:
    """Codes (q, d) of the points to try next.

    Args:
        model: BoTorch's, on the unit cube.
        space: of the points.
        acquisition: one of `ACQUISITIONS`.
        x, y: evaluated rows of the unit cube (n, columns) and outcomes (n, m), larger is better.
        q: how many.
        seen: codes that were evaluated or are under way; none is proposed again while others are left.
        pending: rows of the unit cube under way.
        reference: point that is worse than all of interest, (m,), for several outcomes.
        settings: of the search.
        seed: of starts and samples.
    """
    with seeded_init(seed_of(seed, "acquisition")), quiet(), _few_iterations():
        function = _function(model, acquisition, x, y, pending, reference, settings, seed_of(seed, "samples") % 2**31)
        codes = _optimise(function, space, q, acquisition, settings, seed_of(seed, "starts") % 2**31)
        with torch.no_grad():
            return _distinct(function, space, codes, seen, q, seed)


def _function(
    model: Any, acquisition: str, x: Tensor, y: Tensor, pending: Tensor | None, reference: Tensor | None,
    settings: SearchSettings, seed: int,
) -> Any:  # fmt: skip
    sampler = sampler_of(model, settings.n_samples, seed)
    if acquisition == "greedy":
        return bo("botorch.acquisition.analytic").PosteriorMean(model)
    if acquisition == "qehvi":
        boxes = bo("botorch.utils.multi_objective.box_decompositions.non_dominated")
        expected = bo("botorch.acquisition.multi_objective.monte_carlo")
        assert reference is not None  # the optimiser sets one
        with torch.no_grad():
            partition = boxes.FastNondominatedPartitioning(reference, model.posterior(x).mean)
        return expected.qExpectedHypervolumeImprovement(
            model, reference.tolist(), partition, sampler=sampler, X_pending=pending
        )
    best = float(y[:, 0].max())
    if acquisition == "qlogei":
        log_ei = bo("botorch.acquisition.logei")
        return log_ei.qLogExpectedImprovement(model, best, sampler=sampler, X_pending=pending)
    monte_carlo = bo("botorch.acquisition.monte_carlo")
    return monte_carlo.qExpectedImprovement(model, best, sampler=sampler, X_pending=pending)


def _optimise(function: Any, space: Space, q: int, acquisition: str, settings: SearchSettings, seed: int) -> Floats:
    """Codes of the best points found; whole numbers and categories are relaxed for L-BFGS and compared when rounded."""
    optim = bo("botorch.optim")
    d, greedy = space.n_columns, acquisition == "greedy"
    bounds = torch.stack([torch.zeros(d, dtype=torch.float64), torch.ones(d, dtype=torch.float64)])
    options = {"batch_limit": 1, "maxiter": settings.n_iterations, "seed": seed}
    restarts = max(settings.n_restarts, q) if greedy else settings.n_restarts
    points, _ = optim.optimize_acqf(
        function, bounds, q=1 if greedy else q, num_restarts=restarts, raw_samples=max(settings.n_raw, restarts),
        options=options, return_best_only=not greedy and space.smooth,
    )  # fmt: skip
    points = points.detach()
    if not greedy and not space.smooth:
        rounded = torch.stack([space.encode(space.decode(part)) for part in points])
        with torch.no_grad():
            points = points[int(function(rounded).argmax())]
    return space.decode(points.reshape(-1, d))


def _distinct(function: Any, space: Space, codes: Floats, seen: Floats, q: int, seed: int) -> Floats:
    """`q` codes, with the best of a pool of fresh points in the place of those that were seen or proposed twice."""
    known = list(space.encode(seen).numpy()) if len(seen) else []
    kept: list[Floats] = []
    for row in codes:
        unit = space.encode(row[None]).numpy()[0]
        if len(kept) < q and not any(np.abs(unit - other).max() < _NEAR for other in known):
            kept.append(row)
            known.append(unit)
    if len(kept) < q:
        pool = space.draw(_POOL, seed=seed_of(seed, "pool") % 2**31)
        units = space.encode(pool)
        values = torch.cat([function(part[:, None, :]) for part in torch.split(units, 64)])
        for i in values.argsort(descending=True).tolist():
            unit = units[i].numpy()
            if len(kept) < q and not any(np.abs(unit - other).max() < _NEAR for other in known):
                kept.append(pool[i])
                known.append(unit)
    if len(kept) < q:
        warnings.warn(
            f"no {q} points were found that were not tried before; {q - len(kept)} of them come again.",
            ForeknowWarning,
            stacklevel=4,
        )
        again = [*codes, *space.draw(q, seed=seed_of(seed, "again") % 2**31)]
        kept += again[: q - len(kept)]
    return np.stack(kept)


@contextmanager
def _few_iterations() -> Iterator[None]:
    """Without the warnings that L-BFGS stopped early: at its limit, or between points that round to the same."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimization failed", category=RuntimeWarning)
        yield
