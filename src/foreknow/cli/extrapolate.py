"""`foreknow extrapolate`: logs of trainings, continued; which runs to stop."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreknow.cli.common import Device, Interrupted, Json, ProgressBar, emit, output_folder, say, show_table

if TYPE_CHECKING:
    from foreknow.data.curves.files import CurveList
    from foreknow.report.curves import CurveReport

STOP = 3
"""Exit code of `--watch` when the run should be stopped."""


def extrapolate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILES", help="csv, JSON lines, trainer_state.json, TensorBoard files or folders."),
    ] = None,
    horizon: Annotated[int | None, typer.Option("--horizon", min=1, help="Last epoch of the runs.")] = None,
    minimize: Annotated[
        bool | None, typer.Option("--minimize/--maximize", help="Which way is better; else the metric's name decides.")
    ] = None,
    bounds: Annotated[
        str | None, typer.Option("--bounds", metavar="LOW,HIGH", help="Bounds of the metric; inf is allowed.")
    ] = None,
    soft_bounds: Annotated[
        str | None,
        typer.Option("--soft-bounds", metavar="LOW,HIGH", help="Where most values lie; for bounds with inf."),
    ] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Column, key or tag with the values.")] = None,
    epoch: Annotated[str | None, typer.Option("--epoch", help="Column or key with the epochs.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="Column or key with the names of the runs.")] = None,
    layout: Annotated[
        str | None, typer.Option("--layout", help="long, metrics (a column each), runs (a column each), rows (a row).")
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", min=0.0, max=1.0, help="Confidence wanted before a run is given up.")
    ] = 0.95,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Write quantiles.csv, pictures, report.html.")
    ] = None,
    watch: Annotated[
        Path | None, typer.Option("--watch", metavar="FILE", help="Follow this growing log; FILES are to be beaten.")
    ] = None,
    every: Annotated[float, typer.Option("--every", min=0.01, help="Seconds between two looks at --watch.")] = 5.0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Continue learning curves up to a last epoch, and say which runs to stop.

    Example: foreknow extrapolate logs/*.csv --metric val_accuracy --horizon 50 --out forecast

    What was understood of the files is said on stderr. Exit codes: 0 done, 2 your input, 1 ours; with --watch also 3
    when no run of the watched file is worth going on (0: all of them reached the horizon).
    """
    from foreknow.common.device import resolve_device
    from foreknow.common.errors import ConfigError

    resolve_device(device)
    if not files and watch is None:
        raise ConfigError("extrapolate: no file was given.", hint="Name one or more logs, or follow one with --watch.")
    reading: dict[str, Any] = {"metric": metric, "epoch": epoch, "run": run, "layout": layout}
    settings: dict[str, Any] = {
        "horizon": horizon,
        "minimize": minimize,
        "bounds": _pair("--bounds", bounds),
        "soft_bounds": _pair("--soft-bounds", soft_bounds),
        "delta": delta,
        "device": device,
    }
    folder = None if out is None else output_folder(out)
    if watch is not None:
        _watch(watch, files or [], reading, settings, every, folder, json)
        return
    from foreknow.data.curves.files import read_curves

    report = _report(read_curves(files or [], **reading), settings)
    _notes(report, set())
    _show(report, folder, json)


def _report(curves: CurveList, settings: dict[str, Any]) -> CurveReport:
    from foreknow.report.curves import report_curves

    with ProgressBar("extrapolating") as progress:
        return report_curves(curves, **settings, notes=curves.notes, progress=progress)


def _notes(report: CurveReport, seen: set[str]) -> None:
    for note in report.notes:
        if note not in seen:
            seen.add(note)
            say(f"note: {note}")


def _show(report: CurveReport, folder: Path | None, json: bool) -> None:
    from foreknow.report.curves import write_curves

    written = [] if folder is None else write_curves(report, folder)
    if emit({**report.to_dict(), "files": [str(path) for path in written]}, json):
        return
    columns = ("run", "epoch", "value", "5%", "50%", "95%", "P(beats best)", "decision")
    rows = [(r.run, r.last_epoch, r.value, r.low, r.median, r.high, r.prob_beats_best, r.decision) for r in report.rows]
    show_table(f"{report.metric} at epoch {report.horizon}", columns, rows)
    typer.echo(f"best so far: {report.best[1]:.4g} ({report.best[0]})")
    if written:
        typer.echo(f"{written[-1]}: the report; {len(written) - 1} more files beside it")


def _watch(
    path: Path,
    files: list[Path],
    reading: dict[str, Any],
    settings: dict[str, Any],
    every: float,
    folder: Path | None,
    json: bool,
) -> None:
    """Look at the file again and again, as a whole each time: lines may be half-written, and it may begin anew."""
    from foreknow.common.errors import ConfigError, InputError
    from foreknow.data.curves.files import CurveList, read_curves

    if settings["horizon"] is None:
        raise ConfigError("extrapolate: --watch needs the last epoch of the run.", hint="Give it with --horizon.")
    earlier = read_curves(files, **reading) if files else CurveList()
    seen, told = set[str](), dict[str, float]()
    last: tuple[int, int] | str = ""
    waiting = ""
    try:
        while True:
            state = _state(path)
            if state == last:
                time.sleep(every)
                continue
            last = state
            try:
                curves = _joined(earlier, read_curves(path, **reading, growing=True), path)
            except InputError as error:
                if error.message != waiting:
                    waiting = error.message
                    say(f"waiting: {waiting}")
                time.sleep(every)
                continue
            report = _report(curves, settings)
            _notes(report, seen)
            settings["soft_bounds"] = report.soft_bounds  # the same scale for the whole watch
            rows = report.rows[len(earlier) :]
            for row in rows:
                if told.get(row.run) != row.last_epoch:
                    told[row.run] = row.last_epoch
                    say(f"{row.run}: epoch {row.last_epoch:g}, {row.value:.4g}: {row.decision} ({row.reason})")
            if all(row.decision != "go" for row in rows):
                _show(report, folder, json)
                raise typer.Exit(STOP if any(row.decision == "stop" for row in rows) else 0)
            time.sleep(every)
    except KeyboardInterrupt:
        raise Interrupted(f"{path} is no longer watched; nothing was changed.") from None


def _joined(earlier: CurveList, watched: CurveList, path: Path) -> CurveList:
    """The runs to beat and those that are watched, under names of their own."""
    from foreknow.common.errors import ConfigError
    from foreknow.data.curves.curve import Curve
    from foreknow.data.curves.files import CurveList

    if earlier and earlier[0].metric != watched[0].metric:
        raise ConfigError(
            f"the files hold different metrics: {earlier[0].metric!r} and {watched[0].metric!r}.",
            hint="Name one that all have with --metric.",
        )
    taken = {curve.name for curve in earlier}
    own = [
        Curve(c.values, c.epochs, name=f"{path}:{c.name}", metric=c.metric) if c.name in taken else c for c in watched
    ]
    return CurveList([*earlier, *own], [*earlier.notes, *watched.notes])


def _state(path: Path) -> tuple[int, int] | str:
    """What changes when the file does."""
    try:
        found = path.stat()
    except OSError:
        return "missing"
    if path.is_dir():
        parts = sorted(item.stat().st_size for item in path.rglob("*") if item.is_file())
        return len(parts), sum(parts)
    return found.st_size, found.st_mtime_ns


def _pair(option: str, text: str | None) -> tuple[float, float] | None:
    from foreknow.common.errors import ConfigError

    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"{option} takes LOW,HIGH, for instance 0,1 or 0,inf, got {text!r}.") from None
    return low, high
