"""`foreknow apply`: a saved model on new rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foreknow.cli.common import Device, Json, ProgressBar, emit


def apply(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A saved model: of `foreknow predict --save`, or of save() in Python."),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="New rows: .csv, .tsv or .parquet, whatever the size.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="CSV", help="File to write the predictions to.")] = Path(
        "predictions.csv"
    ),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Predict new rows by a saved model: probabilities per class, or numbers with quantiles.

    The file must have the columns that the model learnt from; others are ignored. It is read in pieces, and the
    predictions appear once all are there. Nothing in the model file is executed.
    """
    from foreknow.common.device import resolve_device
    from foreknow.report.apply import apply_model

    resolve_device(device)
    with ProgressBar("predicting") as progress:
        done = apply_model(model, file, out, device=device, progress=progress)
    if not emit(done.to_dict(), json):
        what = f"{len(done.classes)} classes" if done.classes else "numbers with quantiles"
        typer.echo(f"{done.path}: {done.predictions.n_rows} rows of {done.file} ({done.system}, {what})")
