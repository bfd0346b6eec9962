"""Trials in files: read for a fit, and the next ones written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_known, check_option
from foreknow.core.pictures import Lines
from foreknow.core.source import Sample
from foreknow.core.system import Applied
from foreknow.data.readers import read_table, write_csv
from foreknow.data.table import Column, Table
from foreknow.functions.bnn_bo.acquisition import SINGLE, SearchSettings, propose
from foreknow.functions.bnn_bo.model import wrap
from foreknow.functions.bnn_bo.optimiser import FAILED, best_so_far
from foreknow.functions.bnn_bo.space import Choice, Floats, Integer, Parameter, Real, Space

if TYPE_CHECKING:
    from foreknow.functions.bnn_bo.system import SurrogateRegressor

READ = ("target", "goal", "space", "failed")
APPLY = ("batch", "acquisition", "seed")
SEARCH = SearchSettings(n_restarts=4, n_raw=64, n_iterations=50)


def read_trials(paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
    """Trials of one table as `SurrogateRegressor.fit` takes them; see `SurrogateRegressor.read_files`."""
    owner = "fit bnn-bo"
    check_known(owner, options, READ, what="option")
    if len(paths) != 1:
        raise InputError(f"{owner}: takes one table of trials, got {len(paths)} files.")
    table = read_table(paths[0])
    target = options.get("target", table.names[-1])
    goal = check_option(owner, "goal", options.get("goal", "minimize"), ("minimize", "maximize"))
    failed = check_option(owner, "failed", options.get("failed", "worst"), FAILED)
    result = table.column(target)
    if result.kind != "numeric":
        raise InputError(
            f"{owner}: the results {target!r} are {result.kind}, not numbers.", hint="--with target=COLUMN"
        )
    if table.n_columns < 2:
        raise InputError(f"{owner}: {paths[0].name} has no column besides {target!r}.")
    settings = table.drop([target])
    space = Space.parse(options["space"]) if "space" in options else _seen(settings)
    codes = space.codes(_points(settings, space))
    y = result.values.astype(np.float64)
    known = np.isfinite(y)
    if not known.any():
        raise InputError(f"{owner}: no trial has a result in column {target!r}.")
    if failed == "drop":
        codes, y = codes[known], y[known]
    else:
        y = np.where(known, y, y[known].max() if goal == "minimize" else y[known].min())
    return Sample(codes, y, {"space": space, "goal": goal})


def _points(table: Table, space: Space) -> list[dict[str, Any]]:
    columns: dict[str, list[Any]] = {}
    for name, parameter in zip(space.names, space.parameters, strict=True):
        column = table.column(name)
        if column.missing.any():
            raise InputError(
                f"column {name!r}: row {int(np.flatnonzero(column.missing)[0])} is empty.",
                hint="Leave such trials out.",
            )
        columns[name] = [_cell(column, value, parameter) for value in column.values.tolist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _cell(column: Column, value: Any, parameter: Parameter) -> Any:
    if not isinstance(parameter, Choice):
        if column.kind not in ("numeric", "boolean"):
            raise InputError(f"column {column.name!r} holds {column.kind} values, the space says numbers.")
        return value
    for known in parameter.values:
        same = bool(value) == known if isinstance(known, bool) and column.kind == "boolean" else value == known
        if same or str(value) == str(known):
            return known
    raise InputError(f"column {column.name!r}: {value!r} is none of {parameter.values!r}.")


def _seen(table: Table) -> Space:
    """The space that the trials span: ranges of numbers, and the values of the rest."""
    found: dict[str, Parameter] = {}
    for column in table.columns:
        known = column.values[~column.missing]
        if column.kind in ("categorical", "boolean"):
            values = [bool(v) if column.kind == "boolean" else str(v) for v in sorted(set(known.tolist()))]
            if len(values) < 2:
                raise InputError(f"column {column.name!r} has one value only.", hint="Drop it, or give a space.")
            found[column.name] = Choice(tuple(values))
            continue
        low, high = float(known.min()), float(known.max())
        if high <= low:
            raise InputError(f"column {column.name!r} has one value only.", hint="Drop it, or give --with space=...")
        whole = bool((known == np.round(known)).all())
        found[column.name] = Integer(round(low), round(high)) if whole else Real(low, high)
    return Space.of(found)


def next_trials(system: SurrogateRegressor, inputs: Sequence[str], out: Path, options: Mapping[str, str]) -> Applied:
    """The next trials by a fitted surrogate; see `SurrogateRegressor.apply_files`."""
    owner = "apply bnn-bo"
    check_known(owner, options, APPLY, what="option")
    batch, seed = (
        _whole(owner, "batch", options.get("batch", "4"), 1),
        _whole(owner, "seed", options.get("seed", "0"), 0),
    )
    acquisition = check_option(owner, "acquisition", options.get("acquisition", "qei"), SINGLE)
    space = system.space_
    if space is None:
        raise InputError(f"{owner}: the model was fitted without a space.", hint="Fit it by `foreknow fit bnn-bo`.")
    if len(inputs) > 1:
        raise InputError(f"{owner}: takes no file, or one of candidates, got {len(inputs)}.")
    seen = system.X_.numpy()
    if inputs:
        codes = space.codes(_points(read_table(inputs[0]), space), owner=owner)
        order = np.argsort(-_improvement(system, codes), kind="stable")[:batch]
        codes = codes[order]
    else:
        codes = _search(system, space, seen, batch, acquisition, seed)
    dist = system.predict_dist(codes)
    low, high = (value.numpy() for value in dist.interval(0.9))
    points = space.points(codes)
    columns = {name: [point[name] for point in points] for name in space.names}
    columns |= {"expected": dist.mean().tolist(), "low": low.tolist(), "high": high.tolist()}
    file = out / "candidates.csv"
    write_csv(file, columns)
    y = system.y_.numpy()
    minimize = system.goal_ == "minimize"
    best = int(y.argmin() if minimize else y.argmax())
    record = {
        "candidates": points, "expected": columns["expected"], "interval_90": [low.tolist(), high.tolist()],
        "best": {"point": space.points(seen[best : best + 1])[0], "value": float(y[best]), "trial": best},
        "n_trials": len(y), "goal": system.goal_, "acquisition": "expected improvement" if inputs else acquisition,
        "diagnostics": system.diagnostics_,
    }  # fmt: skip
    rows = [[_text(values[i]) for values in columns.values()] for i in range(len(points))]
    return Applied(record, (list(columns), rows), {"best": best_picture(y, minimize)}, (file,))


def _search(system: SurrogateRegressor, space: Space, seen: Floats, batch: int, acquisition: str, seed: int) -> Floats:
    sign = system._sign()
    shift, scale = (torch.tensor([value], dtype=torch.float64) for value in (system._shift, system._scale))
    model = wrap(system._fitted, shift, scale, limit=SEARCH.n_samples)
    return propose(
        model, space, acquisition, x=space.encode(seen), y=sign * system.y_[:, None], q=batch, seen=seen,
        settings=SEARCH, seed=seed,
    )  # fmt: skip


def _improvement(system: SurrogateRegressor, codes: Floats) -> Floats:
    """Expected improvement of each row on the best trial."""
    minimize = system.goal_ == "minimize"
    best = float(system.y_.min() if minimize else system.y_.max())
    return np.asarray(system.predict_dist(codes).ei(best, maximize=not minimize).numpy())


def best_picture(y: Floats, minimize: bool) -> Lines:
    """The best value after each trial."""
    trial = np.arange(1, len(y) + 1)
    return Lines(trial, {"best so far": best_so_far(y, minimize), "trial": y}, "trial", "value", "best value so far")


def _whole(owner: str, name: str, text: str, low: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(f"{owner}: {name} must be a whole number, got {text!r}.") from None
    if value < low:
        raise ConfigError(f"{owner}: {name} must be at least {low}, got {value}.")
    return value


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
