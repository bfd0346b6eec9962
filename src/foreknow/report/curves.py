"""Learning curves continued: the record of what was found, and its files (csv, pictures, one HTML page)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.files import write_text
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.core.pictures import Lines
from foreknow.data.curves.curve import Curve
from foreknow.data.curves.direction import looks_minimized
from foreknow.data.readers import write_csv

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
MAX_PICTURED = 24
_AT_ONCE = 128
Pair = tuple[float, float]


@dataclass(frozen=True)
class RunRow:
    """What is known and foreseen of one run; None where nothing is left to foresee."""

    run: str
    last_epoch: float
    value: float
    low: float | None
    median: float | None
    high: float | None
    prob_beats_best: float | None
    decision: str
    reason: str


@dataclass(frozen=True)
class CurveReport:
    """The runs, their forecasts, and what was understood.

    Args:
        rows: one a run, in the order of the files.
        curves: the runs.
        quantiles: run -> epochs (h,) and values (len(LEVELS), h) of the runs with epochs left.
        best: run with the best value, and the value.
        horizon, metric, minimize, bounds, soft_bounds, delta: as used.
        notes: sentences on how the files and settings were understood.
    """

    rows: tuple[RunRow, ...]
    curves: tuple[Curve, ...]
    quantiles: Mapping[str, tuple[Any, Any]]
    best: tuple[str, float]
    horizon: int
    metric: str
    minimize: bool
    bounds: Pair
    soft_bounds: Pair | None
    delta: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The record without the curves, JSON-able."""
        return {
            "metric": self.metric, "minimize": self.minimize, "bounds": list(self.bounds),
            "soft_bounds": None if self.soft_bounds is None else list(self.soft_bounds), "horizon": self.horizon,
            "delta": self.delta, "best": {"run": self.best[0], "value": self.best[1]}, "notes": list(self.notes),
            "runs": [vars(row) for row in self.rows],
        }  # fmt: skip

    def picture(self, curve: Curve) -> Lines:
        """The fan chart of a run."""
        axis: dict[str, Any] = {"measured": curve.epochs}
        lines: dict[str, Any] = {"measured": curve.values}
        bands = {}
        if curve.name in self.quantiles:
            epochs, values = self.quantiles[curve.name]
            for name, low, high in (("median, 90% band", 0, -1), ("median, 50% band", 1, -2)):
                axis[name], lines[name], bands[name] = epochs, values[2], (values[low], values[high])
        if self.best[0] != curve.name:
            name = f"best so far ({self.best[0]})"
            axis[name], lines[name] = np.array([1.0, float(self.horizon)]), np.full(2, self.best[1])
        return Lines(axis, lines, "epoch", self.metric, curve.name, bands)


def report_curves(
    curves: Sequence[Curve],
    *,
    horizon: int | None = None,
    minimize: bool | None = None,
    bounds: Pair | None = None,
    soft_bounds: Pair | None = None,
    delta: float = 0.95,
    device: str = "auto",
    notes: Sequence[str] = (),
    progress: ProgressCallback | None = None,
) -> CurveReport:
    """Continue curves and decide on each run, with defaults that are said in the notes.

    Without `minimize` the metric's name decides (a loss or an error is minimized). Without `bounds` these are (0, 1),
    and (0, inf) for what is minimized; an infinite bound without `soft_bounds` takes 0 and the largest first value of
    the runs. Without `horizon` the longest run's last epoch is taken if another run is shorter.

    Raises:
        InputError: no curves, two of one name, or values outside the bounds.
        ConfigError: the horizon cannot be told.
    """
    from foreknow.tasks.lc_pfn.prior import CurvePrior
    from foreknow.tasks.lc_pfn.stopping import EarlyStopper
    from foreknow.tasks.lc_pfn.system import CurveExtrapolator

    if not curves or not all(map(len, curves)):
        raise InputError("report_curves: one or more curves with values are needed.")
    if len({curve.name for curve in curves}) < len(curves):
        raise InputError("report_curves: two runs have the same name.")
    said, metric = list(notes), curves[0].metric
    if minimize is None:
        minimize = looks_minimized(metric)
        said.append(
            f"{metric!r} is {'a loss or an error: smaller' if minimize else 'not named like a loss: larger'} is better "
            f"(--{'maximize' if minimize else 'minimize'} says otherwise)."
        )
    if bounds is None:
        bounds = (0.0, float("inf")) if minimize else (0.0, 1.0)
        said.append(f"Bounds of the metric: {bounds[0]:g} to {bounds[1]:g} (--bounds).")
    if soft_bounds is None and not np.isfinite(bounds).all():
        soft_bounds = _soft(curves, bounds)
        said.append(f"Most values are expected from {soft_bounds[0]:.4g} to {soft_bounds[1]:.4g} (--soft-bounds).")
    horizon = _horizon(curves, said) if horizon is None else horizon
    extrapolator = CurveExtrapolator(
        CurvePrior.wide(), minimize=minimize, bounds=bounds, soft_bounds=soft_bounds, device=device
    )
    stopper = EarlyStopper(extrapolator, horizon, delta=delta)
    for curve in curves:
        for epoch, value in zip(curve.epochs, curve.values):
            stopper.record(curve.name, float(epoch), float(value))
    best = stopper.best
    assert best is not None  # every curve has a value
    reporter = Reporter(progress, len(curves))
    open_ = [curve for curve in curves if curve.last_epoch < horizon]
    quantiles, chances = {}, {}
    for start in range(0, len(open_), _AT_ONCE):
        forecasts = extrapolator.extrapolate(open_[start : start + _AT_ONCE], horizon)
        for forecast in forecasts if isinstance(forecasts, list) else [forecasts]:
            name = forecast.curve.name
            quantiles[name] = (forecast.epochs, forecast.quantile(LEVELS))
            chances[name] = float(forecast.prob_beats(best[1]).max())
        reporter.advance(min(start + _AT_ONCE, len(open_)))
    decisions = {decision.run: decision for decision in stopper.decide([curve.name for curve in curves])}
    rows = []
    for curve in curves:
        found = decisions[curve.name]
        ends = [float(level[-1]) for level in quantiles[curve.name][1]] if curve.name in quantiles else []
        low, median, high = (ends[0], ends[2], ends[4]) if ends else (None, None, None)
        word = "finished" if curve.last_epoch >= horizon else found.action
        rows.append(
            RunRow(
                curve.name, curve.last_epoch, float(curve.values[-1]), low, median, high, chances.get(curve.name),
                word, found.reason,
            )
        )  # fmt: skip
    return CurveReport(
        tuple(rows), tuple(curves), quantiles, best, horizon, metric, minimize, bounds, soft_bounds, delta,
        tuple(dict.fromkeys(said)),
    )  # fmt: skip


def write_curves(report: CurveReport, folder: Path) -> list[Path]:
    """Write quantiles.csv, a picture a run (up to MAX_PICTURED) and report.html into a folder that exists."""
    from markupsafe import Markup

    from foreknow.report.html import page_environment
    from foreknow.viz import style
    from foreknow.viz.pictures import draw_picture, save_picture

    table: dict[str, list[Any]] = {name: [] for name in ("run", "epoch", *(f"quantile_{level:g}" for level in LEVELS))}
    for name, (epochs, values) in report.quantiles.items():
        for at, column in zip(epochs, values.T):
            for key, cell in zip(table, (name, float(at), *map(float, column))):
                table[key].append(cell)
    path = folder / "quantiles.csv"
    write_csv(path, table)
    written = [path]
    pictured = sorted(report.curves, key=lambda curve: curve.name not in report.quantiles)[:MAX_PICTURED]
    drawn = []
    for i, curve in enumerate(pictured, start=1):
        picture = report.picture(curve)
        word = re.sub(r"[^A-Za-z0-9]+", "-", curve.name).strip("-")[:40] or "run"
        written.append(save_picture(picture, folder / f"run-{i:02d}-{word}.png"))
        label = f"Measured values of {curve.name}, and quantiles of those to come."
        drawn.append((curve.name, Markup(style.to_svg(draw_picture(picture), name=f"fan-{i}", label=label))))
    page = page_environment().get_template("curves.html").render(
        report=report, pictures=drawn, n_hidden=len(report.curves) - len(drawn),
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip
    write_text(folder / "report.html", page)
    return [*written, folder / "report.html"]


def _soft(curves: Sequence[Curve], bounds: Pair) -> Pair:
    """A range from the first values of the runs, which is all that a running training cannot change any more."""
    first = [float(curve.values[0]) for curve in curves]
    low = bounds[0] if np.isfinite(bounds[0]) else min(first)
    high = bounds[1] if np.isfinite(bounds[1]) else max(first)
    if not low < high:
        raise ConfigError(
            f"the range in which most values are expected cannot be told from the first values ({low:g} to {high:g}).",
            hint="Give it with --soft-bounds LOW,HIGH.",
        )
    return low, high


def _horizon(curves: Sequence[Curve], said: list[str]) -> int:
    ends = [curve.last_epoch for curve in curves]
    if min(ends) >= max(ends):
        raise ConfigError(
            f"all runs end at epoch {max(ends):g}, so it is open up to which epoch they are to be continued.",
            hint="Give the last epoch of the runs with --horizon.",
        )
    said.append(f"Horizon: epoch {max(ends):g}, the end of the longest run (--horizon).")
    return int(np.ceil(max(ends)))
