"""`foreknow price`: with the prior, without it, with a wrong one, and the plain methods, on one's own data."""

from __future__ import annotations

import json as json_format
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreknow.cli.common import Interrupted, Json, ProgressBar, Slug, emit, output_folder, say

if TYPE_CHECKING:
    from foreknow.pricing.schedule import Plan

WORTH_SAYING_S = 20.0
"""Expected times below this are not announced."""


def price(
    slug: Slug,
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DATA]...", help="Table (csv or parquet); several are the units of the intervals."),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="Column to predict.")] = None,
    task: Annotated[str, typer.Option("--task", help="auto, classification or regression.")] = "auto",
    groups: Annotated[
        str | None, typer.Option("--groups", help="Column that names each row's source; a source is never split.")
    ] = None,
    arms: Annotated[
        str | None, typer.Option("--arms", help="Arms, with commas: on,off,wrong,plain or names of plain methods.")
    ] = None,
    sizes: Annotated[str | None, typer.Option("--sizes", help="Training sizes, with commas: 16,32,64.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=2, help="Number of shuffles; five or more are wanted.")] = 5,
    budget: Annotated[str | None, typer.Option("--budget", help="Time to stop after: 90s, 10m, 2h.")] = None,
    measure: Annotated[
        str | None,
        typer.Option("--measure", help="Loss that is priced: log_loss (recalibrated), log_loss_as_is, rmse, brier..."),
    ] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Differences of the loss below this count as none (tested).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for report, JSON and the store of cells.")] = Path(
        "price"
    ),
    store: Annotated[Path | None, typer.Option("--store", help="SQLite file of cells; OUT/cells.sqlite.")] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="Write all cells of the store as .csv, .json or .parquet.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="local or ray.")] = "local",
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes, one thread each.")] = 1,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run cells again that failed.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say how long it would take.")] = False,
    json: Json = False,
) -> None:
    """Put a price on a prior: the system with it, without it, with a wrong one, and plain methods, on the same splits.

    Finished cells are kept in the store: a run that was interrupted goes on where it stopped, and the same command
    again only draws the report.
    """
    from foreknow.cli.price_table import show_price
    from foreknow.common.files import write_text
    from foreknow.pricing.store import Store
    from foreknow.pricing.study import design

    study = design(
        slug, _data(data), target=target, task=task, groups=groups, arms=_words(arms), sizes=_numbers(sizes),
        seeds=seeds,
    )  # fmt: skip
    folder = output_folder(out)
    file = store or folder / "cells.sqlite"
    if plan:
        ahead = study.plan(file, n_workers=workers)
        if not emit(vars(ahead), json):
            typer.echo(ahead.text())
        return
    try:
        with ProgressBar(f"pricing {slug}") as progress:
            price = study.run(
                budget=budget, measure=measure, margin=margin, store=file, engine=engine, n_workers=workers,
                retry_failed=retry_failed, progress=progress, on_plan=_tell,
                command=shlex.join(["foreknow", *sys.argv[1:]]),
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted(f"finished cells are kept in {file}; the same command goes on from there.") from None
    if export is not None:
        with Store.open(file) as cells:
            cells.export(export)
    record, numbers = price.to_dict(), folder / "price.json"
    write_text(numbers, json_format.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    written = {"report": str(price.report(folder / "report.html")), "json": str(numbers), "store": str(file)}
    if not emit({**record, "written_to": written}, json):
        show_price(record)
        typer.echo("\n" + "   ".join(f"{name}: {path}" for name, path in written.items()))


def _tell(ahead: Plan) -> None:
    if ahead.n_left and ahead.seconds > WORTH_SAYING_S:
        say(ahead.text())


def _data(paths: list[Path] | None) -> Any:
    from foreknow.common.errors import InputError

    if not paths:
        return None
    if len(paths) == 1:
        return paths[0]
    if len(set(paths)) < len(paths):
        raise InputError("the same file was given twice; each table is a unit of the intervals and counts once.")
    names = [path.name for path in paths]
    return {path.name if names.count(path.name) == 1 else str(path): path for path in paths}


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str | None) -> list[int] | None:
    from foreknow.common.errors import ConfigError

    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"--sizes must be whole numbers with commas, got {text!r}.", hint="Try 16,32,64.") from None
