"""`foreknow apply`: a saved system on new data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from foreknow.cli.common import Device, Json, ProgressBar, emit, options, output_folder, show_table


def apply(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="What was saved: by `foreknow fit`, `foreknow predict --save`, or save() in Python."
        ),
    ],
    data: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA", help="New rows (.csv, .tsv, .parquet), or what the system's page says."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="PATH", help="File of predictions (predictions.csv), or folder of results (applied)."
        ),
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME=VALUE", help="An option of the system, such as task=deblur; repeatable."),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Use a saved system on new data: predict the rows of a table, or whatever else the system does.

    A table must have the columns that the model learnt from; others are ignored. It is read in pieces, and the
    predictions appear once all are there. Nothing in the model file is executed.
    """
    from foreknow.common.device import resolve_device
    from foreknow.common.errors import ConfigError, InputError
    from foreknow.core.system import System, load

    resolve_device(device)
    system, given = load(model, device=device), options("--with", with_)
    if type(system).apply_files is not System.apply_files:
        _apply_own(system, data or [], out or Path("applied"), given, json)
        return
    if given:
        raise ConfigError(f"{type(system).__name__} has no options, got --with {' '.join(given)}.")
    if not data or len(data) != 1:
        raise InputError(f"{type(system).__name__} takes one file of rows, got {len(data or [])}.")
    _predict_rows(model, Path(data[0]), out or Path("predictions.csv"), device, json)


def _predict_rows(model: Path, file: Path, out: Path, device: str, json: bool) -> None:
    from foreknow.report.apply import apply_model

    with ProgressBar("predicting") as progress:
        done = apply_model(model, file, out, device=device, progress=progress)
    if not emit(done.to_dict(), json):
        what = f"{len(done.classes)} classes" if done.classes else "numbers with quantiles"
        typer.echo(f"{done.path}: {done.predictions.n_rows} rows of {done.file} ({done.system}, {what})")


def _apply_own(system: Any, data: list[str], out: Path, given: dict[str, str], json: bool) -> None:
    from foreknow.viz.pictures import save_picture

    folder = output_folder(out)
    with ProgressBar(f"applying {system.card.slug}") as progress:
        done = system.apply_files(data, folder, given, progress)
    drawn = [save_picture(picture, folder / name) for name, picture in done.pictures.items()]
    files = [str(path) for path in (*done.files, *drawn)]
    if emit({**done.record, "system": type(system).__name__, "written_to": files}, json):
        return
    if done.table is not None:
        show_table("", *done.table)
    for path in files:
        typer.echo(path)
