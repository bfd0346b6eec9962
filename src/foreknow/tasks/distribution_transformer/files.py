"""The system on the command line: tables of questions, series of returns, series of ranges."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.files import atomic_path
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.validate import check_known, check_option
from foreknow.core.pictures import Lines
from foreknow.core.source import Sample
from foreknow.core.system import Applied
from foreknow.data.readers import read_table
from foreknow.data.table import Table

if TYPE_CHECKING:
    from foreknow.tasks.distribution_transformer.system import DistributionTransformer

Floats = NDArray[np.float64]
KINDS = ("log-returns", "prices", "returns")
_LEVELS = (0.05, 0.5, 0.95)


def read(paths: Sequence[Path], options: Mapping[str, str]) -> Sample:
    """Nothing is read: the network is trained on simulations, or ships.

    Raises:
        InputError: a file was given.
    """
    owner = "foreknow fit distribution-transformer"
    check_known(owner, options, (), what="option")
    if paths:
        raise InputError(
            f"{owner}: the network learns from simulations and reads no files, got {paths[0].name!r}.",
            hint="Run it without files (--set task=volatility), then: foreknow apply MODEL returns.csv",
        )
    return Sample(None)


def apply(
    system: DistributionTransformer,
    inputs: Sequence[str],
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None,
) -> Applied:
    """Use the network on one table: returns, ranges, or questions with a column for every parameter and observation."""
    if len(inputs) != 1:
        raise InputError(f"foreknow apply: one table is wanted, got {len(inputs)} inputs.")
    table = read_table(inputs[0])
    if system.task == "volatility":
        return _returns(system, table, out, options, progress)
    if system.task == "range":
        return _ranges(system, table, out, options, progress)
    return _questions(system, table, out, options)


def _returns(
    system: DistributionTransformer,
    table: Table,
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None,
) -> Applied:
    """Volatility of every day; options: `column`, `kind` (returns, log-returns, prices), `persistence`, `sd`, `first`.

    The parameters are estimated on the first `first` rows, on all of them if it is not given: then the volatility of a
    day knows its future through them.
    """
    from foreknow.tasks.distribution_transformer.volatility import StochasticVolatility, filter_returns

    owner = "foreknow apply (volatility)"
    check_known(owner, options, ("column", "first", "kind", "persistence", "sd"), what="option")
    name, values = _series(owner, table, options.get("column"))
    kind = check_option(owner, "kind", options.get("kind", "returns"), KINDS)
    if kind == "prices":
        if not (values[np.isfinite(values)] > 0).all():
            raise InputError(f"{owner}: prices must be greater than 0.", hint="Use --with kind=returns.")
        values = np.concatenate([[np.nan], np.diff(np.log(values))])
    elif kind == "returns" and np.nanmin(values) > 0 and np.nanmedian(values) > 1:
        raise InputError(
            f"{owner}: every number of {name!r} is positive, as prices are.",
            hint="Use --with kind=prices, or kind=log-returns if these are returns.",
        )
    n_first = min(_count(owner, "first", options["first"]), len(values)) if "first" in options else len(values)
    model = StochasticVolatility.estimate(values[:n_first])
    given = {key: _number(owner, key, options[key]) for key in ("persistence", "sd") if key in options}
    if given:
        model = StochasticVolatility(
            model.mean, model.level, **{"persistence": model.persistence, "sd": model.sd, **given}
        )
    found = filter_returns(system, values, model, progress=progress)
    days = np.arange(1, len(values) + 1)
    span = "all days" if n_first == len(values) else f"the first {n_first}"
    path = out / "volatility.csv"
    rows = zip(days, values, found.low, found.median, found.high, found.log_density)
    _write(path, ("row", "return", "low", "median", "high", "log_density"), rows)
    record = {
        "column": name,
        "kind": kind,
        "n_returns": int(np.isfinite(values).sum()),
        "parameters_from_rows": n_first,
        "mean": model.mean,
        "level": model.level,
        "persistence": model.persistence,
        "sd": model.sd,
        "log_density": float(np.nanmean(found.log_density)),
        "last": {"low": float(found.low[-1]), "median": float(found.median[-1]), "high": float(found.high[-1])},
    }
    picture = Lines(
        days,
        {"size of the return": np.abs(values - model.mean), "volatility": found.median},
        "row",
        "standard deviation of a return",
        title=f"Volatility of {name}, given the past of each day and parameters from {span} (band: 90%)",
        bands={"volatility": (found.low, found.high)},
    )
    last = range(max(0, len(days) - 5), len(days))
    table_rows = [[str(days[i]), *(f"{v[i]:.4g}" for v in (values, found.low, found.median, found.high))] for i in last]
    return Applied(record, (["row", "return", "5%", "volatility", "95%"], table_rows), {"volatility": picture}, (path,))


def _ranges(
    system: DistributionTransformer,
    table: Table,
    out: Path,
    options: Mapping[str, str],
    progress: ProgressCallback | None,
) -> Applied:
    """Position and velocity of every row; options: `column`, `step_s`, `acceleration` (sd of its changes a step)."""
    from foreknow.tasks.distribution_transformer.beliefs import Belief
    from foreknow.tasks.distribution_transformer.filtering import DTFilter, LinearMotion
    from foreknow.tasks.distribution_transformer.presets import experiment
    from foreknow.tasks.distribution_transformer.volatility import join

    owner = "foreknow apply (range)"
    check_known(owner, options, ("acceleration", "column", "step_s"), what="option")
    name, values = _series(owner, table, options.get("column"))
    dt = _number(owner, "step_s", options.get("step_s", "1"))
    push = _number(owner, "acceleration", options.get("acceleration", "0.2"))
    model: Any = experiment("range").model
    seen = values[np.isfinite(values)]
    if (seen < -3 * model.sd).any() or (seen > model.most + 5 * model.sd).any():
        raise InputError(
            f"{owner}: ranges must lie in 0..{model.most:g}, got {seen.min():g}..{seen.max():g}.",
            hint="Bring them to the units of the network, or train one with RangeFinder(most=..., sd=...).",
        )
    noise = push**2 * np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]]) + 1e-6 * np.eye(2)
    start = Belief.normal([float(np.median(seen)), 0.0], np.diag([9.0, 0.25]))
    flt = DTFilter(system, LinearMotion([[1.0, dt], [0.0, 1.0]], noise), start=start)
    reporter, beliefs = Reporter(progress, len(values)), []
    for i, value in enumerate(values):
        beliefs.append(flt.step(None if np.isnan(value) else value))
        reporter.advance(i + 1)
    whole = join(beliefs)
    columns: list[Floats] = []
    for index in range(2):
        columns += [whole.marginal(index).quantile(torch.tensor(_LEVELS, dtype=torch.float64)).numpy()]
    path, steps = out / "position.csv", np.arange(1, len(values) + 1)
    heads = [f"{what}_{level}" for what in ("position", "velocity") for level in ("low", "median", "high")]
    _write(path, ("row", "range", *heads), np.column_stack([steps, values, *columns]))
    low, median, high = columns[0].T
    picture = Lines(
        steps, {"range": values, "position": median}, "row", name, title="Position from ranges (band: 90%)",
        bands={"position": (low, high)},
    )  # fmt: skip
    record = {"column": name, "n_ranges": len(seen), "step_s": dt, "acceleration": push}
    rows = [[str(steps[-1]), f"{low[-1]:.4g}", f"{median[-1]:.4g}", f"{high[-1]:.4g}"]]
    return Applied(record, (["row", "5%", "position", "95%"], rows), {"position": picture}, (path,))


def _questions(system: DistributionTransformer, table: Table, out: Path, options: Mapping[str, str]) -> Applied:
    """A row a question: the prior's parameters and the observations, in columns named as `row_names` has them."""
    check_known("foreknow apply", options, (), what="option")
    names = system.row_names()
    n_params = len(system._ready().family.parameters)
    missing = [name for name in names[:n_params] if name not in table.names]
    if missing:
        raise InputError(
            f"foreknow apply: the table lacks {', '.join(missing[:5])}.",
            hint=f"Columns: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}; observations may be absent.",
        )
    unknown = [name for name in table.names if name not in names]
    if unknown:
        raise InputError(f"foreknow apply: unknown columns {', '.join(unknown[:5])}; known: {', '.join(names[:12])}.")
    rows = np.full((table.n_rows, len(names)), np.nan)
    for i, name in enumerate(names):
        if name in table.names:
            rows[:, i] = _numbers(name, table)
    dist = system.predict_dist(rows)
    found = dist.quantile(torch.tensor(_LEVELS, dtype=torch.float64)).numpy().reshape(len(rows), -1, 3)
    columns = [f"{level}_{j + 1}" for j in range(found.shape[1]) for level in ("low", "median", "high")]
    path = out / "posteriors.csv"
    _write(path, ("row", *columns), np.column_stack([np.arange(1, len(rows) + 1), found.reshape(len(rows), -1)]))
    shown = [[str(i + 1), *(f"{v:.4g}" for v in found[i, 0])] for i in range(min(len(rows), 10))]
    return Applied({"n_rows": len(rows)}, (["row", "5%", "median", "95%"], shown), {}, (path,))


def _series(owner: str, table: Table, column: str | None) -> tuple[str, Floats]:
    """The one column of numbers, or the one that is named."""
    if column is not None:
        if column not in table.names:
            raise ConfigError(f"{owner}: there is no column {column!r}; there are {', '.join(table.names)}.")
        return column, _numbers(column, table)
    numeric = [one.name for one in table.columns if one.kind == "numeric"]
    if len(numeric) != 1:
        raise ConfigError(
            f"{owner}: the table has {len(numeric)} columns of numbers ({', '.join(numeric[:8])}).",
            hint="Say which: --with column=NAME",
        )
    return numeric[0], _numbers(numeric[0], table)


def _numbers(name: str, table: Table) -> Floats:
    try:
        return np.asarray(table.column(name).values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"the column {name!r} does not hold numbers ({error}).") from error


def _number(owner: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise ConfigError(f"{owner}: {name} must be a number greater than 0, got {text!r}.")
    return value


def _count(owner: str, name: str, text: str) -> int:
    value = _number(owner, name, text)
    if value != int(value):
        raise ConfigError(f"{owner}: {name} must be a whole number, got {text!r}.")
    return int(value)


def _write(path: Path, head: Sequence[str], rows: Any) -> None:
    """A csv in one step; whole numbers are written as such, NaN as an empty cell."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for row in rows:
            writer.writerow([_cell(float(value)) for value in row])


def _cell(value: float) -> str:
    if np.isnan(value):
        return ""
    return str(int(value)) if value == int(value) and abs(value) < 1e9 else f"{value:.8g}"
