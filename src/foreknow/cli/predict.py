"""`foreknow predict`: the main job, from a table to predictions, their quality and a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foreknow.cli.common import Device, Json, ProgressBar, Seed, emit

if TYPE_CHECKING:
    from foreknow.report.job import Job


def predict(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Table to learn from: .csv, .tsv or .parquet.")],
    target: Annotated[str, typer.Option("--target", "-t", metavar="COL", help="Column to predict.")],
    test: Annotated[
        Path | None,
        typer.Option("--test", metavar="FILE", help="Predict all rows of this file, whatever its size, instead."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results; made if need be.")
    ] = Path("."),
    task: Annotated[
        str, typer.Option("--task", help="auto, classification or regression; auto looks at the target column.")
    ] = "auto",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")] = 5,
    seed: Seed = 0,
    device: Device = "auto",
    no_report: Annotated[bool, typer.Option("--no-report", help="Write predictions.csv only.")] = False,
    json: Json = False,
) -> None:
    """Predict a column of a table: probabilities per class, their measured quality, and a report.

    Learns from the rows whose target is known and predicts those whose target is empty (or all rows of --test; if
    there is nothing to predict, all rows, each by a model that had not seen it). Writes predictions.csv and
    report.html, replacing files of these names, once both are complete.
    """
    from foreknow.common.device import resolve_device
    from foreknow.common.validate import check_option
    from foreknow.data.readers import read_table
    from foreknow.report.job import predict_table
    from foreknow.report.target import TASKS
    from foreknow.tasks import TabularClassifier

    check_option("foreknow predict", "--task", task, TASKS)
    resolve_device(device)
    classifier: Any = TabularClassifier
    with ProgressBar("reading") as progress:
        rows = read_table(table, on_progress=progress)
    with ProgressBar("measuring and predicting") as progress:
        job = predict_table(
            rows, target, predictor=classifier(random_state=seed, device=device), out=out, test=test,
            source=table.name, inputs=(table,) if test is None else (table, test), n_folds=folds, seed=seed, task=task,
            write_report=not no_report, command=shlex.join(["foreknow", *sys.argv[1:]]), progress=progress,
        )  # fmt: skip
    if not emit(job.to_dict(), json):
        _show(job)


def _show(job: Job) -> None:
    from foreknow.cli.common import show_table
    from foreknow.report.scores import Score
    from foreknow.report.words import headline, percent

    def cell(score: Score, *, share: bool = False) -> str:
        form = percent if share else "{:.3f}".format
        return form(score.value) + ("" if score.low != score.low else f" ({form(score.low)} to {form(score.high)})")

    evaluation = job.evaluation
    show_table(
        f"{job.source}, {evaluation.target.name}: {len(evaluation.rows)} rows, {evaluation.n_folds} folds, "
        "95% intervals",
        ["predictor", "accuracy", "AUC", "log-loss", "calibration error", "seconds"],
        [
            [
                arm.name, cell(arm.scores["accuracy"], share=True), cell(arm.scores["auc"]),
                cell(arm.scores["log_loss"]), cell(arm.scores["ece"]), arm.seconds,
            ]
            for arm in evaluation.arms
        ],
    )  # fmt: skip
    for sentence in headline(evaluation):
        typer.echo(sentence)
    sources = ", ".join(f"{n} {source}" for source, n in job.predictions.sources.items())
    typer.echo(f"{job.predictions_path}: {job.predictions.n_rows} rows ({sources})")
    if job.report_path is not None:
        typer.echo(job.report_path)
