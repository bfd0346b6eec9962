"""What the checks of systems share: fresh and fitted copies of a system, and its outputs as arrays."""

from __future__ import annotations

import contextlib
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.errors import CapabilityError
from foreknow.common.timing import Stopwatch
from foreknow.core.checks import inputs
from foreknow.core.checks.base import CheckFailed, Suite, expect
from foreknow.core.checks.watch import Trace, watch
from foreknow.core.predictive import Categorical
from foreknow.core.system import Example, System

SYSTEMS = Suite()
"""Every check of a system."""

Outputs = dict[str, NDArray[Any]]


def rebuild(system: System, **changes: Any) -> System:
    """A fresh system with the same settings and a fixed seed, but for `changes`."""
    params = system.get_params(deep=False)
    if params.get("random_state", 0) is None:
        params["random_state"] = 0
    return type(system)(**{**params, **changes})


def outputs(system: System, X: Any) -> Outputs:
    """What a fitted system says of `X`, as arrays of finite numbers with one row per row of `X`."""
    found: Outputs = {}
    try:
        dist = system.predict_dist(X)
    except CapabilityError:
        if not system.tags.transforms:
            found["predict"] = np.asarray(system.predict(X))
    else:
        if isinstance(dist, Categorical):
            found["probabilities"] = dist.probs.detach().cpu().numpy()
        else:
            levels = torch.tensor([0.1, 0.9], dtype=torch.float64)
            found["mean"] = dist.mean().detach().cpu().numpy()
            found["quantiles"] = dist.quantile(levels).detach().cpu().numpy()
    if system.tags.transforms:
        found["transform"] = np.asarray(system.transform(X))
    for name, values in found.items():
        expect(len(values) == inputs.n_rows(X), f"{name}: expected {inputs.n_rows(X)} rows, got shape {values.shape}.")
        wrong = int((~np.isfinite(values)).sum()) if values.dtype.kind in "fc" else 0
        expect(wrong == 0, f"{name}: expected finite numbers, got {wrong} that are not.")
    return found


def expect_same(one: Outputs, other: Outputs, tolerance: float, what: str) -> None:
    """Two sets of outputs are equal within `tolerance` (bit for bit where it is 0)."""
    expect(one.keys() == other.keys(), f"{what}: outputs {sorted(one)} became {sorted(other)}.")
    for name in one:
        gap = _gap(one[name], other[name])
        expect(gap <= tolerance, f"{what}: {name} differs by {gap:.3g}, allowed is {tolerance:g}.")


def differ(one: Outputs, other: Outputs) -> bool:
    """Whether any output differs."""
    return any(_gap(one[name], other[name]) > 0 for name in one)


def _gap(one: NDArray[Any], other: NDArray[Any]) -> float:
    if one.shape != other.shape:
        raise CheckFailed(f"the shape {one.shape} became {other.shape}.")
    if one.dtype.kind not in "fiu":
        return 0.0 if bool((one == other).all()) else float("inf")
    if one.size == 0:
        return 0.0
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())


@dataclass
class Observed:
    """One fitted copy of a system, its outputs, and what fitting, predicting and saving did to the process."""

    system: System
    outputs: Outputs
    trace: Trace
    seconds: float

    @property
    def exact(self) -> float:
        """Tolerance for results that must repeat: none on the processor, the system's own on a GPU."""
        return 0.0 if self.system.device_.type == "cpu" else self.system.tags.tolerance


_OBSERVED: weakref.WeakKeyDictionary[System, Observed] = weakref.WeakKeyDictionary()


def observe(system: System, example: Example) -> Observed:
    """Fit, predict, save and load a copy of `system` under watch; once per instance, callers must only read."""
    if system not in _OBSERVED:
        fitted = rebuild(system)
        with tempfile.TemporaryDirectory() as folder, watch() as trace, Stopwatch() as time:
            fitted.fit(example.X, example.y, **example.named)
            found = outputs(fitted, inputs.new_rows(example))
            seconds = time.seconds
            with contextlib.suppress(Exception):  # what goes wrong here is the matter of the checks of saving
                type(system).load(fitted.save(Path(folder) / "system.safetensors"), device=fitted.device_)
        _OBSERVED[system] = Observed(fitted, found, trace, seconds)
    return _OBSERVED[system]


def fitted_outputs(system: System, example: Example, **changes: Any) -> Outputs:
    """Outputs of a fresh copy of `system` with `changes`, fitted on the example."""
    fresh = rebuild(system, **changes).fit(example.X, example.y, **example.named)
    return outputs(fresh, inputs.new_rows(example))


def saves(system: System, example: Example) -> bool:
    """Whether the system can be saved."""
    return type(system)._state is not System._state


def tensors_within(root: object) -> Iterator[tuple[str, Tensor]]:
    """Path and value of every tensor reachable from `root` through attributes, mappings and sequences."""
    stack: list[tuple[str, object]] = [(type(root).__name__, root)]
    seen: set[int] = set()
    while stack:
        path, value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield path, value
        elif isinstance(value, dict):
            stack += [(f"{path}[{key!r}]", item) for key, item in value.items()]
        elif isinstance(value, list | tuple | set | frozenset):
            stack += [(f"{path}[{number}]", item) for number, item in enumerate(value)]
        elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable_code(value):
            stack += [(f"{path}.{name}", item) for name, item in vars(value).items()]


def callable_code(value: object) -> bool:
    """Whether `value` is code rather than state (a function, method or module file)."""
    return type(value).__name__ in ("function", "builtin_function_or_method", "method", "module", "type")


def budget(system: System) -> dict[str, int]:
    """What a fitted system spent, as far as it shows: network parameters, and learnt counts `n_*_`."""
    parameters = {id(value): value.numel() for _, value in tensors_within(system) if isinstance(value, nn.Parameter)}
    counts = {
        name: int(value)
        for name, value in vars(system).items()
        if name.startswith("n_") and name.endswith("_") and isinstance(value, int | np.integer)
    }
    return {"network parameters": sum(parameters.values()), **counts}
