"""The main job from a table to two files: `predictions.csv` and `report.html`."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.files import atomic_path
from foreknow.common.progress import ProgressCallback, Reporter
from foreknow.common.timing import Stopwatch
from foreknow.core.evidence import environment
from foreknow.data.table import Table, as_table
from foreknow.report.baselines import Baseline
from foreknow.report.curve import LearningCurve, learning_curve
from foreknow.report.evaluate import MAX_ROWS, Evaluation, evaluate, recorded_warnings, warn
from foreknow.report.explain import N_EXPLAINED, Explanation, explain
from foreknow.report.forecast import reader_of
from foreknow.report.new_rows import CHUNK_ROWS, NewRows
from foreknow.report.predictions import Predictions, PredictionWriter, open_predictions
from foreknow.report.target import Target, read_target

PREDICTIONS, REPORT, EXPLANATIONS = "predictions.csv", "report.html", "explanations.csv"
FITTED_CLASSES = 10


@dataclass(frozen=True)
class Job:
    """What `predict_table` did.

    Args:
        source: name of the table, for people.
        table: all rows, with the target.
        evaluation: quality by cross-validation.
        predictions: what is known of the predictions.
        notes: what the predictor dropped or encoded: records with `column`, `action` and `reason`.
        predictions_path: the file of predictions.
        report_path: the report, or None.
        model_path: the saved model, or None.
        curve: quality against the number of rows; None without a report.
        explanation: what the predictions rest on, where asked for; its rows are in `explanations.csv`.
        test: name of the test file, or None.
        command: the command that repeats this, or empty.
        environment: machine and versions.
        warnings: what was changed or left out on the caller's behalf, one sentence each.
        seconds: wall-clock time.
    """

    source: str
    table: Table
    evaluation: Evaluation
    predictions: Predictions
    notes: tuple[Any, ...]
    predictions_path: Path
    report_path: Path | None
    model_path: Path | None
    curve: LearningCurve | None
    explanation: Explanation | None
    test: str | None
    command: str
    environment: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The record in JSON types, without the table and the predictions themselves."""
        held_out = self.predictions.held_out
        classes = self.evaluation.target.classes
        counts = self.predictions.class_counts
        return {
            "table": self.source,
            "n_rows": self.table.n_rows,
            "n_features": self.table.n_columns - 1,
            "quality": self.evaluation.to_dict(),
            "predictions": {
                "path": str(self.predictions_path),
                "n_rows": self.predictions.n_rows,
                "sources": self.predictions.sources,
                "classes": {name: int(n) for name, n in zip(classes, counts, strict=True)},
                "held_out": held_out.to_dict() if held_out else None,
            },
            "learning_curve": self.curve.to_dict() if self.curve else None,
            "explanation": self.explanation.to_dict() if self.explanation else None,
            "model": None if self.model_path is None else {"path": str(self.model_path), "contains_rows": True},
            "report": None if self.report_path is None else str(self.report_path),
            "notes": [{"column": n.column, "action": n.action, "reason": n.reason} for n in self.notes],
            "warnings": list(self.warnings),
            "seed": self.evaluation.seed,
            "command": self.command,
            "environment": dict(self.environment),
            "seconds": round(self.seconds, 3),
        }


def predict_table(
    table: Any,
    target: str,
    *,
    out: str | Path,
    predictor: Any = None,
    test: str | Path | None = None,
    source: str = "the table",
    inputs: tuple[str | Path, ...] = (),
    baselines: Mapping[str, Baseline] | None = None,
    n_folds: int = 5,
    seed: int = 0,
    task: str = "auto",
    max_rows: int = MAX_ROWS,
    context_rows: int | None = None,
    n_estimators: int | None = None,
    device: str = "auto",
    save: str | Path | None = None,
    with_explanation: bool = False,
    write_report: bool = True,
    command: str = "",
    progress: ProgressCallback | None = None,
) -> Job:
    """Measure, predict and report; writes `out/predictions.csv` and `out/report.html`.

    Predicted are all rows of `test`, else the rows whose target is empty; if there are none, every row gets the
    prediction of a model that had not seen it (out-of-fold). Files of these names are replaced, each in one
    step at the very end; after an error or Ctrl-C the old ones are still there.

    Args:
        table: features and target: a `Table`, or whatever `as_table` reads.
        target: name of the target column.
        out: folder to write to; made if need be.
        predictor: unfitted classifier or regressor, see `evaluate`; by default `TabularClassifier` or
            `TabularRegressor`. `notes_` is read after `fit` if it has it.
        test: file whose rows to predict, read in pieces of `CHUNK_ROWS` rows. It must have all feature columns;
            where it has the target too, the quality on it is measured.
        source: what to call the table in the report.
        inputs: files that must not be replaced by the results.
        baselines, n_folds, seed, task, max_rows: see `evaluate`.
        context_rows: most rows that a member of the default predictor learns from (its `max_rows`).
        n_estimators, device: of the default predictor.
        save: file for the fitted model, to be used by `apply_model`. It contains the training rows.
        with_explanation: measure which columns the predictions rest on, and write `explanations.csv`.
        write_report: whether to write the report, and to measure whether more rows would help.
        command: shown in the report as the way to repeat it.
        progress: receives records of every stage.

    Raises:
        InputError, ConfigError: the table, the target, the test file, the folder or a setting cannot be used.
        CapabilityError: the predictor cannot be saved.
    """
    from sklearn.base import clone

    rows: Table = as_table(table, owner="predict_table")
    with Stopwatch() as watch, recorded_warnings() as caught, _folder(Path(out), inputs) as folder:
        known = read_target(rows, target, task)
        features = rows.drop([target])
        predictor = _predictor(known, predictor, context_rows, n_estimators, seed, device)
        _check_save(save, (*inputs, *(() if test is None else (test,))), predictor)
        new = None if test is None else NewRows(Path(test), features.schema, known.name, rows.column(target).kind)
        if len(known.classes) > FITTED_CLASSES:
            warn(
                f"{target!r} has {len(known.classes)} classes, and the shipped network was fitted to tables of 2 to "
                f"{FITTED_CLASSES}; it is used all the same, and the measured quality says how well that goes."
            )
        # The model comes before the long part, so that a table it cannot use is refused at once.
        model = clone(predictor).fit(features.rows(known.labelled), known.y[known.labelled])
        evaluation = evaluate(
            rows, target, predictor=predictor, baselines=baselines, n_folds=n_folds, seed=seed, task=task,
            max_rows=max_rows, progress=progress,
        )  # fmt: skip
        report = folder / REPORT if write_report else None

        def take(positions: NDArray[np.int64]) -> Table:
            return features.rows(evaluation.rows[positions])

        curve = learning_curve(evaluation, take, predictor, progress) if write_report else None
        explanation = None
        if with_explanation:
            explanation = explain(evaluation, take, predictor, model, _first(new, features, known), progress)
        with open_predictions(folder / PREDICTIONS, known.classes, seed) as writer, ExitStack() as others:
            page = None if report is None else others.enter_context(atomic_path(report))
            if explanation is not None:
                explanation.write(others.enter_context(atomic_path(folder / EXPLANATIONS)))
            if new is not None:
                _predict_file(new, known, model, writer, progress)
            elif len(known.empty):
                _predict_rows(features, known, model, writer, progress)
            else:
                _write_out_of_fold(features, evaluation, predictor, writer, progress)
            if save is not None:
                _save(model, known, Path(save))
            job = Job(
                source, rows, evaluation, writer.finish(), tuple(getattr(model, "notes_", ())),
                folder / PREDICTIONS, report, None if save is None else Path(save), curve, explanation,
                None if test is None else Path(test).name, command, environment(), caught(), watch.seconds,
            )  # fmt: skip
            if page is not None:
                from foreknow.report.html import render

                page.write_text(render(job), encoding="utf-8")
    return job


def _predictor(
    known: Target, given: Any, context_rows: int | None, n_estimators: int | None, seed: int, device: str
) -> Any:
    settings = {"max_rows": context_rows, "n_estimators": n_estimators}
    chosen = {name: value for name, value in settings.items() if value is not None}
    if given is not None:
        if chosen:
            raise ConfigError(
                "predict_table: context_rows and n_estimators are settings of the default predictor, and another one "
                "was given.",
                hint="Set them on the predictor.",
            )
        return given
    from foreknow import tasks

    kind: Any = tasks.TabularClassifier if known.classes else tasks.TabularRegressor
    return kind(random_state=seed, device=device, **chosen)


def _check_save(path: str | Path | None, inputs: tuple[str | Path, ...], predictor: Any) -> None:
    """Refuse what would fail at the end of the work."""
    if path is None:
        return
    place = Path(path)
    if not hasattr(predictor, "save"):
        raise CapabilityError(f"{type(predictor).__name__} cannot be saved.", hint="Leave out save.")
    if any(place.exists() and Path(other).exists() and place.samefile(other) for other in inputs):
        raise InputError(f"the model would replace the input {str(path)!r}.", hint="Choose another file with --save.")
    if place.is_dir() or not place.parent.is_dir():
        reason = "it is a folder" if place.is_dir() else f"the folder {str(place.parent)!r} does not exist"
        raise InputError(f"cannot write the model {str(path)!r}: {reason}.", hint="Choose another file with --save.")


def _save(model: Any, known: Target, path: Path) -> None:
    """The fitted model, which was fitted to codes, with the names of the classes."""
    named = copy.copy(model)
    if known.classes:
        named.classes_ = np.array([known.classes[int(code)] for code in model.classes_], dtype=object)
    named.save(path)


def _first(new: NewRows | None, features: Table, known: Target) -> tuple[NDArray[np.int64], Table] | None:
    """Numbers and features of the first rows to predict; None if there are none but the training rows."""
    if new is not None:
        return np.arange(min(N_EXPLAINED, new.head.n_rows)) + 1, new.head.rows(slice(0, N_EXPLAINED))
    rows = known.empty[:N_EXPLAINED]
    return (rows + 1, features.rows(rows)) if len(rows) else None


def _predict_rows(
    features: Table, known: Target, model: Any, writer: PredictionWriter, progress: ProgressCallback | None
) -> None:
    rows, read = known.empty, reader_of(len(known.classes))
    reporter = Reporter(progress, len(rows))
    for start in range(0, len(rows), CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS]
        writer.add(part + 1, read(model, features.rows(part), None), "empty target")
        reporter.advance(start + len(part), "predicting")


def _predict_file(
    new: NewRows, known: Target, model: Any, writer: PredictionWriter, progress: ProgressCallback | None
) -> None:
    code_of = {name: code for code, name in enumerate(known.classes)}
    read = reader_of(len(known.classes))
    done, n_unknown = 0, 0
    for features, target in new.chunks(progress):
        truth: NDArray[Any] | None = None
        if target is not None and known.classes:
            words = target.as_kind("categorical")[0].values
            truth = np.array([-1 if word is None else code_of.get(word, -2) for word in words], dtype=np.int64)
            n_unknown += int((truth == -2).sum())
        elif target is not None:
            truth = target.values
        output = read(model, features, truth)
        writer.add(np.arange(done, done + features.n_rows) + 1, output, "test file")
        done += features.n_rows
        if truth is not None:
            writer.judge(output, truth)
    if n_unknown:
        warn(
            f"{n_unknown} row(s) of {new.path.name} have a class that does not occur in the table; "
            "the quality on that file leaves them out."
        )


def _write_out_of_fold(
    features: Table, evaluation: Evaluation, predictor: Any, writer: PredictionWriter, progress: ProgressCallback | None
) -> None:
    """Predictions of every row by a model that had not seen it, in the order of the table."""
    from sklearn.base import clone

    n, read = features.n_rows, reader_of(len(evaluation.target.classes))
    output = np.zeros((n, evaluation.ours.output.shape[1]))
    output[evaluation.rows] = evaluation.ours.output
    sources = np.full(n, "out-of-fold", dtype=object)
    rest = np.setdiff1d(np.arange(n), evaluation.rows)
    sources[rest] = "not in sample"
    if len(rest):
        reporter = Reporter(progress, len(rest))
        model = clone(predictor).fit(features.rows(evaluation.rows), evaluation.truth)
        for start in range(0, len(rest), CHUNK_ROWS):
            part = rest[start : start + CHUNK_ROWS]
            output[part] = read(model, features.rows(part), None)
            reporter.advance(start + len(part), "predicting")
    writer.add(np.arange(n) + 1, output, sources.tolist())


@contextmanager
def _folder(folder: Path, inputs: tuple[str | Path, ...]) -> Iterator[Path]:
    """`folder`, made if need be and removed again if the block fails.

    Raises:
        InputError: it cannot be a folder, or a result would replace one of `inputs`.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if isinstance(error, FileExistsError) else str(error.strerror)
        raise InputError(
            f"cannot use the folder {str(folder)!r}: {reason}.", hint="Choose another with --out."
        ) from error
    try:
        if not os.access(folder, os.W_OK):
            raise InputError(f"cannot write to the folder {str(folder)!r}.", hint="Choose another with --out.")
        for name in (PREDICTIONS, REPORT, EXPLANATIONS):
            if (folder / name).is_dir():
                raise InputError(f"cannot write {str(folder / name)!r}: it is a folder.", hint="Choose another --out.")
            for path in inputs:
                if (folder / name).exists() and Path(path).exists() and (folder / name).samefile(path):
                    raise InputError(
                        f"the results would replace the input {str(path)!r}.", hint="Choose another folder with --out."
                    )
        yield folder
    except BaseException:
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise
