"""`foreknow predict`: the main job, from a table to predictions, their quality and a report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
        str,
        typer.Option(
            "--task",
            help="auto, classification or regression. auto goes by the target column: text, true/false, two whole "
            "numbers, and up to 20 whole numbers that make at most 10% of the rows are classes; other numbers are a "
            "quantity (regression).",
        ),
    ] = "auto",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of the cross-validation.")] = 5,
    context_rows: Annotated[
        int | None,
        typer.Option("--context-rows", metavar="N", min=16, help="Most rows a member of the ensemble learns from."),
    ] = None,
    estimators: Annotated[
        int | None, typer.Option("--estimators", metavar="N", min=1, help="Members of the ensemble.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Measure which columns the predictions rest on; write explanations.csv.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(
            "--save", metavar="MODEL", help="Keep the fitted model for `foreknow apply`; it contains the training rows."
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Write no report, and draw no learning curve.")
    ] = False,
    json: Json = False,
) -> None:
    """Predict a column of a table: probabilities per class or numbers with intervals, their quality, and a report.

    Learns from the rows whose target is known and predicts those whose target is empty (or all rows of --test; if
    there is nothing to predict, all rows, each by a model that had not seen it). Writes predictions.csv and
    report.html, replacing files of these names, once both are complete.
    """
    from foreknow.common.device import resolve_device
    from foreknow.common.validate import check_option
    from foreknow.data.readers import read_table
    from foreknow.report.job import predict_table
    from foreknow.report.target import TASKS

    check_option("foreknow predict", "--task", task, TASKS)
    resolve_device(device)
    with ProgressBar("reading") as progress:
        rows = read_table(table, on_progress=progress)
    with ProgressBar("measuring and predicting") as progress:
        job = predict_table(
            rows, target, out=out, test=test, source=table.name, inputs=(table,) if test is None else (table, test),
            n_folds=folds, seed=seed, task=task, context_rows=context_rows, n_estimators=estimators, device=device,
            save=save, with_explanation=explain, write_report=not no_report,
            command=shlex.join(["foreknow", *sys.argv[1:]]), progress=progress,
        )  # fmt: skip
    if not emit(job.to_dict(), json):
        _show(job)


def _show(job: Job) -> None:
    from foreknow.cli.common import figure, show_table
    from foreknow.report.scores import Score
    from foreknow.report.words import headline, percent

    def cell(score: Score | None, form: Callable[[float], str] = "{:.3f}".format) -> str:
        if score is None or score.value != score.value:
            return "-"
        return form(score.value) + ("" if score.low != score.low else f" ({form(score.low)} to {form(score.high)})")

    evaluation = job.evaluation
    columns: dict[str, tuple[str, Callable[[float], str]]] = {
        "accuracy": ("accuracy", percent),
        "AUC": ("auc", "{:.3f}".format),
        "log-loss": ("log_loss", "{:.3f}".format),
        "calibration error": ("ece", "{:.3f}".format),
    }
    if evaluation.task == "regression":
        columns = {"RMSE": ("rmse", figure), "mean absolute error": ("mae", figure), "R2": ("r2", "{:.3f}".format)}
        columns["neg. log density"] = ("nll", "{:.3f}".format)
    show_table(
        f"{job.source}, {evaluation.target.name} ({evaluation.task}): {len(evaluation.rows)} rows, "
        f"{evaluation.n_folds} folds, 95% intervals",
        ["predictor", *columns, "seconds"],
        [[arm.name, *(cell(arm.scores[key], form) for key, form in columns.values()), arm.seconds]
         for arm in evaluation.arms],
    )  # fmt: skip
    for sentence in headline(evaluation, job.curve):
        typer.echo(sentence)
    if job.explanation is not None:
        found = job.explanation
        top = ", ".join(f"{found.names[i]} ({found.mean[i]:.3g})" for i in found.order[:5])
        typer.echo(f"Columns that matter most (loss when shuffled: {found.measure}): {top}.")
    sources = ", ".join(f"{n} {source}" for source, n in job.predictions.sources.items())
    typer.echo(f"{job.predictions_path}: {job.predictions.n_rows} rows ({sources})")
    if job.model_path is not None:
        typer.echo(f"{job.model_path}: the fitted model; it contains the training rows")
    if job.report_path is not None:
        typer.echo(job.report_path)
