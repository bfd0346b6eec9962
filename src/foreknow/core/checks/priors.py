"""The contract of every prior, as plain functions `check_<what>(prior)`, chosen by capability.

What they test with is in `values`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor, nn

from foreknow.common.errors import CapabilityError, ConfigError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.core import prior as contracts
from foreknow.core.batch import Batch
from foreknow.core.checks.base import Suite, expect, refused
from foreknow.core.checks.cards import card_of
from foreknow.core.checks.values import (
    can,
    draw,
    first_tensor,
    integral_by_sampling,
    integral_on_grid,
    module_of,
    n_values,
    parts,
    simulates,
    values_of,
    weights_of,
)
from foreknow.core.checks.watch import Trace, watch
from foreknow.core.prior import CAPABILITIES, Prior, Simulator, Unrelated
from foreknow.core.records import from_json, to_json

PRIORS = Suite()
"""Every check of a prior."""

_LEAST_P = 1e-6
"""Statistical checks fail below this p-value; their draws are seeded, so a verdict never changes by chance."""


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and torch.equal(one[name].nan_to_num(), other[name].nan_to_num())
        for name in one
    )


def _refuse_different(one: NDArray[Any], other: NDArray[Any], what: str) -> None:
    """Fail when a Kolmogorov-Smirnov test is sure that two samples have different distributions."""
    one, other = one[np.isfinite(one)], other[np.isfinite(other)]
    p = float(stats.ks_2samp(one, other, method="asymp").pvalue)
    expect(p >= _LEAST_P, f"{what} (p = {p:.1e}).")


# What it says of itself ------------------------------------------------------------------------------------------


@PRIORS.add()
def check_card_complete(prior: Prior) -> None:
    """The class has a complete card; a control arm has that of its base."""
    card_of(type(prior.base) if isinstance(prior, Unrelated) else type(prior))


@PRIORS.add()
def check_expected_failures_exist(prior: Prior) -> None:
    """Every declared failure names a check."""
    unknown = PRIORS.unknown(type(prior))
    expect(not unknown, f"expected_failures names unknown checks: {', '.join(unknown)}.")


@PRIORS.add(lambda prior: type(prior).examples.__func__ is not Prior.examples.__func__)  # type: ignore[attr-defined]
def check_examples_listed(prior: Prior) -> None:
    """`examples()` gives two to four instances of the class, none of them its own control arm."""
    found = type(prior).examples()
    expect(2 <= len(found) <= 4, f"examples() must give two to four, got {len(found)}.")
    for item in found:
        expect(type(item) is type(prior), f"examples() gave a {type(item).__name__}.")
        expect(item.off() != item, f"off() must remove something, but {item!r} is its own control arm.")


@PRIORS.add()
def check_record_round_trip(prior: Prior) -> None:
    """A frozen dataclass that survives being written as JSON and read again."""
    frozen = dataclasses.is_dataclass(prior) and prior.__dataclass_params__.frozen
    expect(frozen, f"{type(prior).__name__} must be a frozen dataclass.")
    back = from_json(json.loads(json.dumps(to_json(prior), allow_nan=False)))
    expect(type(back) is type(prior) and back == prior, f"{prior!r} came back as {back!r}.")


@PRIORS.add()
def check_capabilities_honest(prior: Prior) -> None:
    """`capabilities()` names exactly the protocols whose methods are there; `require` follows it."""
    said = prior.capabilities()
    there = {name for name, kind in CAPABILITIES.items() if isinstance(prior, kind)}
    expect(said == there, f"capabilities() says {sorted(said)}, its methods say {sorted(there)}.")
    expect(said, "a prior must be able to do something.")
    for name in CAPABILITIES:
        if name in said:
            prior.require(name)
        else:
            refused(f"require({name!r})", CapabilityError, prior.require, name)


# The control arm -------------------------------------------------------------------------------------------------


@PRIORS.add()
def check_off_works(prior: Prior) -> None:
    """`off()` is a prior that can do the same, draws the same shapes, and has nothing left to switch off."""
    off = prior.off()
    expect(isinstance(off, Prior), f"off() gave a {type(off).__name__}, not a Prior.")
    expect(off.off() == off, f"off() of {off!r} must be itself.")
    lost = prior.capabilities() - off.capabilities()
    expect(not lost, f"off() cannot do {', '.join(sorted(lost))}.")
    if "samples" in prior.capabilities():
        on_shapes, off_shapes = ({k: v.shape for k, v in parts(draw(p)).items()} for p in (prior, off))
        expect(on_shapes == off_shapes, f"draws of off() have shapes {off_shapes}, expected {on_shapes}.")


@PRIORS.add(simulates)
def check_off_keeps_targets(prior: Prior) -> None:
    """Switched off, the targets of a task have the same distribution: only their relation to x goes."""
    on, off = (
        torch.cat([t for name, t in parts(draw(p, 400)).items() if name.endswith("_y")], 1)
        for p in (prior, prior.off())
    )
    on, off = on.sort(dim=1).values, off.sort(dim=1).values
    if isinstance(prior.off(), Unrelated):
        expect(torch.equal(on, off), "off() changed the targets of a task, not only their order.")
    for place in (0, -1):
        _refuse_different(on[:, place].numpy(), off[:, place].numpy(), "off() changed the distribution of targets")


# Drawing ---------------------------------------------------------------------------------------------------------


@PRIORS.add(can("samples"))
def check_samples_as_declared(prior: Prior) -> None:
    """Draws are finite, with the shape, precision and device that were asked for."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for dtype in (None, torch.float64):
        for device in devices:
            drawn = draw(prior, 3, dtype=dtype, device=device)
            for name, value in parts(drawn).items():
                expect(value.shape[0] == 3, f"{name} must have leading axis 3, got {tuple(value.shape)}.")
                wanted = dtype or torch.float32
                expect(value.dtype == wanted, f"{name} must be {wanted}, got {value.dtype}.")
                expect(value.device.type == device, f"{name} must be on {device}, got {value.device}.")
                expect(not value.requires_grad, f"{name} must not carry a gradient.")
                may_miss = name.endswith("_x") and isinstance(prior, Simulator) and prior.missing_values
                wrong = value.isinf() if may_miss else ~value.isfinite()
                expect(not wrong.any(), f"{name} must be finite, got {int(wrong.sum())} cells that are not.")
            for key, item in drawn.info.items():
                fits = not isinstance(item, Tensor) or item.shape[:1] == (3,)
                expect(fits, f"info[{key!r}] must have leading axis 3.")
    expect(all(len(value) == 1 for value in parts(draw(prior, 1)).values()), "one draw must have leading axis 1.")


@PRIORS.add(simulates)
def check_tables_as_declared(prior: Prior) -> None:
    """Tables have the declared columns; class codes are whole numbers below n_classes; n_context may be 0."""
    for n_context, n_query in ((6, 2), (0, 3), (1, 1)):
        batch = cast(Batch, draw(prior, 3, n_context=n_context, n_query=n_query))
        wanted = (3, n_context, n_query, cast(Simulator, prior).n_features)
        found = (batch.n_tasks, batch.n_context, batch.n_query, batch.n_features)
        expect(found == wanted, f"expected (tasks, context, query, features) {wanted}, got {found}.")
        expect(batch.query_y is not None, "a simulator must know the targets of its query rows.")
    target = getattr(prior, "target", None)
    expect(target in contracts.TARGETS, f"target must be one of {contracts.TARGETS}, got {target!r}.")
    if target == "classification":
        y = torch.cat([value.flatten() for name, value in parts(draw(prior, 64)).items() if name.endswith("_y")])
        n_classes = int(getattr(prior, "n_classes", 0))
        expect(bool((y == y.round()).all()), "class codes must be whole numbers.")
        expect(y.min() >= 0 and y.max() < n_classes, f"class codes must lie in 0..{n_classes - 1}, got {y.max():g}.")


@PRIORS.add(can("samples"))
def check_draws_seeded(prior: Prior) -> None:
    """The generator's seed decides every draw, and each draw moves the generator on."""
    first = parts(draw(prior))
    expect(_same(first, parts(draw(prior))), "the same seed gave another draw.")
    expect(not _same(first, parts(draw(prior, seed=1))), "another seed gave the same draw.")
    sample = inspect.signature(prior.sample).parameters  # type: ignore[attr-defined]
    given = sample.get("generator")
    required = given is not None and given.kind is given.KEYWORD_ONLY and given.default is given.empty
    expect(required, "sample must require the keyword `generator`: a draw without one would use a global state.")


@PRIORS.add(can("samples"))
def check_bad_sizes_refused(prior: Prior) -> None:
    """Sizes that are no positive whole numbers."""
    cases: list[dict[str, Any]] = [{"n": 0}, {"n": -1}, {"n": 2.5}, {"n": "3"}]
    if isinstance(prior, Simulator):
        cases += [{"n": 2, "n_context": -1}, {"n": 2, "n_query": 0}, {"n": 2, "n_context": 1.5}]
    for case in cases:
        refused(f"sample({case})", ConfigError, draw, prior, **case)


@PRIORS.add(simulates)
def check_stream_resumable(prior: Prior) -> None:
    """Batch k of a stream depends on its seed and k only, wherever the stream starts."""
    stream = functools.partial(cast(Simulator, prior).stream, 2, n_context=4, n_query=2)
    straight = [parts(batch) for batch in islice(stream(seed=5), 3)]
    late = parts(next(stream(seed=5, start=2)))
    expect(_same(straight[2], late), "a stream started at batch 2 differs from one that came to it.")
    expect(not _same(straight[0], straight[1]), "two batches of a stream are the same.")
    other = parts(next(stream(seed=6)))
    expect(not _same(straight[0], other), "a stream with another seed is the same.")


@PRIORS.add(simulates)
def check_rows_exchangeable(prior: Prior) -> None:
    """The first and the last row of a table have the same distribution, so every split is a fair one."""
    batch = cast(Batch, draw(prior, 600, n_context=7, n_query=1))
    assert batch.query_y is not None
    _refuse_different(batch.context_y[:, 0].numpy(), batch.query_y[:, 0].numpy(), "targets depend on the row number")
    for column in range(min(batch.n_features, 3)):
        first, last = batch.context_x[:, 0, column].numpy(), batch.query_x[:, 0, column].numpy()
        _refuse_different(first, last, f"column {column} depends on the row number")


# Densities and penalties -----------------------------------------------------------------------------------------


@PRIORS.add(lambda prior: not simulates(prior) and (can("density")(prior) or can("penalty")(prior)))
def check_one_number_per_value(prior: Prior) -> None:
    """`log_prob` and `penalty` give one finite number per value, in the value's precision."""
    values = values_of(prior, 6)
    for name in ("log_prob", "penalty"):
        if hasattr(prior, name):
            for given in (values, values.float()):
                found = getattr(prior, name)(given)
                expect(found.shape == (6,), f"{name} must give shape (6,), got {tuple(found.shape)}.")
                expect(found.dtype == given.dtype, f"{name} of {given.dtype} values must be so, got {found.dtype}.")
                expect(bool(found.isfinite().all()), f"{name} must be finite at draws.")


@PRIORS.add(lambda prior: can("density")(prior) and not simulates(prior) and n_values(prior) <= 8)
def check_density_normalised(prior: Prior) -> None:
    """The density integrates to one: on a grid for one number, by importance sampling up to eight."""
    if n_values(prior) == 1:
        total = float(integral_on_grid(prior)[1][-1])
        expect(abs(total - 1) < 5e-3, f"the density must integrate to 1, got {total:.4f} on a grid.")
        return
    total, error = integral_by_sampling(cast(contracts.HasDensity, prior), values_of(prior, 4096))
    expect(error < 0.1, f"importance sampling says too little of the density (error {error:.2g}).")
    near = abs(total - 1) < 5 * error + 0.01
    expect(near, f"the density must integrate to 1, got {total:.3f} +- {error:.3f} by importance sampling.")


@PRIORS.add(lambda prior: can("density", "samples")(prior) and not simulates(prior) and n_values(prior) == 1)
def check_draws_follow_density(prior: Prior) -> None:
    """Draws of a single number have the distribution that the density says."""
    points, cumulative = integral_on_grid(prior)
    draws = values_of(prior, 2000, seed=1).flatten().numpy()
    p = float(stats.kstest(np.interp(draws, points, cumulative / cumulative[-1]), "uniform", method="asymp").pvalue)
    expect(p >= _LEAST_P, f"draws do not follow log_prob (p = {p:.1e}).")


@PRIORS.add(lambda prior: can("density", "penalty")(prior) and not simulates(prior))
def check_penalty_is_minus_log_density(prior: Prior) -> None:
    """The penalty is the negative log density up to a constant."""
    values = values_of(prior, 32)
    total = prior.penalty(values) + prior.log_prob(values)  # type: ignore[attr-defined]
    spread = float(total.max() - total.min())
    expect(spread < 1e-6 * (1 + float(total.abs().max())), f"penalty + log_prob varies by {spread:.3g}.")


@PRIORS.add(can("penalty"))
def check_gradient_matches_differences(prior: Prior) -> None:
    """`grad` against central differences of `penalty` along random directions."""
    values, penalty = values_of(prior, 8), cast(contracts.HasPenalty, prior)
    slope = penalty.grad(values)
    expect(slope.shape == values.shape, f"grad must have shape {tuple(values.shape)}, got {tuple(slope.shape)}.")
    expect(slope.dtype == values.dtype, f"grad must be {values.dtype}, got {slope.dtype}.")
    for number in range(4):
        way = torch.randn(values.shape, generator=torch_stream(number, "way"), dtype=torch.float64)
        step = 1e-6
        change = (penalty.penalty(values + step * way) - penalty.penalty(values - step * way)) / (2 * step)
        said = (slope * way).flatten(1).sum(1)
        gap = float(((change - said).abs() / (1 + said.abs())).max())
        expect(gap < 1e-4, f"grad differs from finite differences by {gap:.3g} (relative).")


# Proximal maps ---------------------------------------------------------------------------------------------------


@PRIORS.add(can("prox"))
def check_prox_well_formed(prior: Prior) -> None:
    """The map keeps shape and precision, takes its step as a number or a tensor, and refuses steps <= 0."""
    values, prox = values_of(prior, 4), cast(contracts.HasProx, prior).prox
    for given in (values, values.float()):
        found = prox(given, 0.5)
        expect(found.shape == given.shape and found.dtype == given.dtype, "prox must keep shape and precision.")
        expect(bool(found.isfinite().all()), "prox must be finite.")
    gap = float((prox(values, 0.5) - prox(values, torch.tensor(0.5, dtype=torch.float64))).abs().max())
    expect(gap < 1e-9, f"a step given as a tensor changes the result by {gap:.3g}.")
    for step in (0.0, -1.0, math.nan):
        refused(f"prox with step {step}", ConfigError, prox, values, step)


@PRIORS.add(can("prox"))
def check_prox_firmly_non_expansive(prior: Prior) -> None:
    """|p - q|^2 <= <p - q, x - y> for p = prox(x), q = prox(y); true of every convex penalty."""
    prox = cast(contracts.HasProx, prior).prox
    for step in (0.1, 1.0, 10.0):
        one, other = (3 * values_of(prior, 64, seed=seed).flatten(1) for seed in (1, 2))
        shape = values_of(prior, 64).shape
        moved = (prox(one.reshape(shape), step) - prox(other.reshape(shape), step)).flatten(1)
        excess = float(((moved**2).sum(1) - (moved * (one - other)).sum(1)).max())
        expect(excess < 1e-6 * (1 + float((moved**2).sum(1).max())), f"step {step}: exceeded by {excess:.3g}.")


@PRIORS.add(can("prox", "penalty"))
def check_prox_optimal(prior: Prior) -> None:
    """prox(v, s) minimises penalty(z) + |z - v|^2 / (2 s): no random neighbour and no plain solver does better."""
    prox, penalty = cast(contracts.HasProx, prior).prox, cast(contracts.HasPenalty, prior).penalty
    rng = numpy_stream(0, "neighbours")
    for number, step in enumerate((0.3, 2.0)):
        value = 2 * values_of(prior, 1, seed=number)
        shape, size = value.shape[1:], value.numel()

        def cost(points: NDArray[Any], value: Tensor = value, step: float = step) -> NDArray[Any]:
            z = torch.from_numpy(points).reshape(-1, *value.shape[1:])
            near = ((z - value) ** 2).flatten(1).sum(1) / (2 * step)
            return np.asarray((penalty(z) + near).detach().numpy())

        best = prox(value, step).reshape(1, *shape).detach().numpy().reshape(1, size)
        reached = float(cost(best)[0])
        tried = [best + scale * rng.standard_normal((200, size)) for scale in (1.0, 0.1, 0.01, 0.001)]
        tried.append(np.where(np.eye(size, dtype=bool), 0.0, best))
        if size <= 12:
            starts = (best[0], value.numpy().reshape(-1), np.zeros(size))
            objective = lambda z, cost=cost: float(cost(z[None])[0])  # noqa: E731
            tried += [optimize.minimize(objective, start, method="Powell").x[None] for start in starts]
        lower = min(float(cost(points).min()) for points in tried)
        gap = reached - lower
        expect(gap <= 1e-6 * (1 + abs(lower)), f"step {step}: prox reaches {reached:.6g}, but {lower:.6g} is possible.")


# Wiring ----------------------------------------------------------------------------------------------------------


@PRIORS.add(can("shapes"))
def check_wire_leaves_original(prior: Prior) -> None:
    """`wire` gives a new module; the one passed in keeps its weights and its outputs."""
    module, given = module_of(prior)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    output = first_tensor(module(given)).detach().clone()
    wired = cast(contracts.Shapes, prior).wire(module)
    expect(isinstance(wired, nn.Module), f"wire gave a {type(wired).__name__}, not a module.")
    expect(wired is not module, "wire must return a new module.")
    shared = {id(p) for p in module.parameters()} & {id(p) for p in wired.parameters()}
    expect(not shared, "the new module shares parameters with the one passed in.")
    after = module.state_dict()
    kept = state.keys() == after.keys() and all(torch.equal(state[name], after[name]) for name in state)
    expect(kept and torch.equal(output, first_tensor(module(given))), "wire changed the module passed in.")


@PRIORS.add(can("shapes"))
def check_wire_acts_as_declared(prior: Prior) -> None:
    """Wiring changes what the module computes or how it starts, unless the prior is a control arm."""
    module, given = module_of(prior)
    wired = cast(contracts.Shapes, prior).wire(module)
    output = first_tensor(wired(given))
    expect(bool(output.isfinite().all()), "the wired module gives numbers that are not finite.")
    expect(output.shape == first_tensor(module(given)).shape, f"the wired module gives shape {tuple(output.shape)}.")
    if prior.off() != prior:
        before, after = weights_of(module), weights_of(wired)
        same = before.shape == after.shape and torch.equal(before, after)
        expect(not same or not torch.equal(output, first_tensor(module(given))), "wire changed nothing.")


@PRIORS.add(can("shapes"))
def check_structure_survives_training(prior: Prior) -> None:
    """Weights that wiring set to zero stay zero, and those it made equal stay equal, while SGD moves the rest."""
    module, given = module_of(prior)
    wired = cast(contracts.Shapes, prior).wire(module)
    before = weights_of(wired)
    optimiser = torch.optim.SGD(wired.parameters(), lr=0.05, momentum=0.9)
    goal = torch.randn(first_tensor(wired(given)).shape, generator=torch_stream(1, "goal"), dtype=torch.float64)
    for _ in range(3):
        optimiser.zero_grad()
        ((first_tensor(wired(given)) - goal) ** 2).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    wired(given)
    after = weights_of(wired)
    expect(not torch.equal(before, after), "three steps of SGD moved no weight.")
    expect(bool((after[before == 0] == 0).all()), "a weight that wiring set to zero moved in training.")
    _, groups = torch.unique(before, return_inverse=True)
    low = torch.full((int(groups.max()) + 1,), math.inf, dtype=torch.float64).scatter_reduce(0, groups, after, "amin")
    high = torch.full_like(low, -math.inf).scatter_reduce(0, groups, after, "amax")
    expect(bool((high - low <= 1e-9).all()), "weights that wiring tied came apart in training.")


@PRIORS.add(can("restricts"))
def check_space_given(prior: Prior) -> None:
    """`space()` gives the same space each time."""
    space = prior.space()  # type: ignore[attr-defined]
    expect(space is not None, "space() must return a space.")
    expect(repr(space) == repr(prior.space()), "space() must be the same each time.")  # type: ignore[attr-defined]


# The process it runs in ------------------------------------------------------------------------------------------


def _exercise(prior: Prior) -> Trace:
    """What using everything the prior can do did to the process."""
    with watch() as trace:
        prior.off()
        if "samples" in prior.capabilities():
            draw(prior)
        if not isinstance(prior, Simulator):
            for name, more in (("log_prob", ()), ("penalty", ()), ("grad", ()), ("prox", (0.5,))):
                if hasattr(prior, name):
                    getattr(prior, name)(values_of(prior, 3), *more)
        if "shapes" in prior.capabilities():
            cast(contracts.Shapes, prior).wire(module_of(prior)[0])
    return trace


@PRIORS.add()
def check_global_random_state_untouched(prior: Prior) -> None:
    """All randomness comes from the generator that was passed."""
    changed = _exercise(prior).random
    expect(not changed, f"the global random state of {', '.join(changed)} was used; draw from the generator instead.")


@PRIORS.add()
def check_process_untouched(prior: Prior) -> None:
    """No settings changed, nothing printed, no file, no connection, no warning but the library's own."""
    trace = _exercise(prior)
    for what, found in (
        ("global settings were changed", trace.settings),
        ("something was printed", trace.printed),
        ("files were written", trace.files),
        ("the network was reached for", trace.connections),
        ("there were foreign warnings", trace.foreign_warnings),
    ):
        expect(not found, f"{what}: {found!r:.80}.")
