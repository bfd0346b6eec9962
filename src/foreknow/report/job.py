"""The main job from a table to two files: `predictions.csv` and `report.html`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError
from foreknow.common.files import atomic_path
from foreknow.common.progress import Progress, ProgressCallback
from foreknow.common.timing import Stopwatch
from foreknow.common.validate import suggest
from foreknow.core.evidence import environment
from foreknow.data.readers import column_names, iter_table
from foreknow.data.table import Column, Table
from foreknow.report.baselines import BASELINES, Baseline
from foreknow.report.evaluate import MAX_ROWS, Evaluation, class_probabilities, evaluate, recorded_warnings, warn
from foreknow.report.predictions import Predictions, PredictionWriter, open_predictions
from foreknow.report.target import Target, read_target

PREDICTIONS, REPORT = "predictions.csv", "report.html"
CHUNK_ROWS = 8192
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
    test: str | None
    command: str
    environment: Mapping[str, Any]
    warnings: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The record in JSON types, without the table and the predictions themselves."""
        held_out = self.predictions.held_out
        classes = self.evaluation.target.classes
        return {
            "table": self.source,
            "n_rows": self.table.n_rows,
            "n_features": self.table.n_columns - 1,
            "quality": self.evaluation.to_dict(),
            "predictions": {
                "path": str(self.predictions_path),
                "n_rows": self.predictions.n_rows,
                "sources": self.predictions.sources,
                "classes": {name: int(n) for name, n in zip(classes, self.predictions.class_counts, strict=True)},
                "held_out": held_out.to_dict() if held_out else None,
            },
            "report": None if self.report_path is None else str(self.report_path),
            "notes": [{"column": n.column, "action": n.action, "reason": n.reason} for n in self.notes],
            "warnings": list(self.warnings),
            "seed": self.evaluation.seed,
            "command": self.command,
            "environment": dict(self.environment),
            "seconds": round(self.seconds, 3),
        }


def predict_table(
    table: Table,
    target: str,
    *,
    predictor: Any,
    out: str | Path,
    test: str | Path | None = None,
    source: str = "the table",
    inputs: tuple[str | Path, ...] = (),
    baselines: Mapping[str, Baseline] = BASELINES,
    n_folds: int = 5,
    seed: int = 0,
    task: str = "auto",
    max_rows: int = MAX_ROWS,
    write_report: bool = True,
    command: str = "",
    progress: ProgressCallback | None = None,
) -> Job:
    """Measure, predict and report; writes `out/predictions.csv` and `out/report.html`.

    Predicted are all rows of `test`, else the rows whose target is empty; if there are none, every row gets the
    probabilities of a model that had not seen it (out-of-fold). Files of these names are replaced, each in one
    step at the very end; after an error or Ctrl-C the old ones are still there.

    Args:
        table: features and target.
        target: name of the target column.
        predictor: unfitted classifier, see `evaluate`; `notes_` is read after `fit` if it has it.
        out: folder to write to; made if need be.
        test: file whose rows to predict, read in pieces of `CHUNK_ROWS` rows. It must have all feature columns;
            where it has the target too, the quality on it is measured.
        source: what to call the table in the report.
        inputs: files that must not be replaced by the results.
        baselines, n_folds, seed, task, max_rows: see `evaluate`.
        write_report: whether to write the report.
        command: shown in the report as the way to repeat it.
        progress: receives records of every stage.

    Raises:
        InputError, ConfigError: the table, the target, the test file, the folder or a setting cannot be used.
    """
    from sklearn.base import clone

    with Stopwatch() as watch, recorded_warnings() as caught, _folder(Path(out), inputs) as folder:
        known = read_target(table, target, task)
        features = table.drop([target])
        schema = {} if test is None else _check_test(Path(test), features, table.column(target))
        if len(known.classes) > FITTED_CLASSES:
            warn(
                f"{target!r} has {len(known.classes)} classes, and the shipped network was fitted to tables of 2 to "
                f"{FITTED_CLASSES}; it is used all the same, and the measured quality says how well that goes."
            )
        # The model comes before the long part, so that a table it cannot use is refused at once.
        model = clone(predictor).fit(features.rows(known.labelled), known.codes[known.labelled])
        evaluation = evaluate(
            table, target, predictor=predictor, baselines=baselines, n_folds=n_folds, seed=seed, task=task,
            max_rows=max_rows, progress=progress,
        )  # fmt: skip
        report = folder / REPORT if write_report else None
        page = nullcontext() if report is None else atomic_path(report)
        with open_predictions(folder / PREDICTIONS, known.classes, seed) as writer, page as page_path:
            if test is not None:
                _predict_file(Path(test), schema, features.names, table, known, model, writer, progress)
            elif len(known.empty):
                _predict_rows(features, known.empty, "empty target", len(known.classes), model, writer, progress)
            else:
                _write_out_of_fold(features, evaluation, predictor, writer, progress)
            job = Job(
                source, table, evaluation, writer.finish(), tuple(getattr(model, "notes_", ())),
                folder / PREDICTIONS, report, None if test is None else Path(test).name,
                command, environment(), caught(), watch.seconds,
            )  # fmt: skip
            if page_path is not None:
                from foreknow.report.html import render

                page_path.write_text(render(job), encoding="utf-8")
    return job


def _predict_rows(
    features: Table, rows: NDArray[np.int64], source: str, k: int, model: Any, writer: PredictionWriter,
    progress: ProgressCallback | None,
) -> None:  # fmt: skip
    for start in range(0, len(rows), CHUNK_ROWS):
        part = rows[start : start + CHUNK_ROWS]
        writer.add(part + 1, class_probabilities(model, features.rows(part), k), source)
        _tell(progress, start + len(part), len(rows))


def _predict_file(
    path: Path, schema: dict[str, Any], names: tuple[str, ...], table: Table, known: Target, model: Any,
    writer: PredictionWriter, progress: ProgressCallback | None,
) -> None:  # fmt: skip
    code_of = {name: code for code, name in enumerate(known.classes)}
    done, n_unknown = 0, 0
    for chunk in iter_table(path, chunk_rows=CHUNK_ROWS, schema=schema):
        probabilities = class_probabilities(model, chunk.select(names), len(known.classes))
        writer.add(np.arange(done, done + chunk.n_rows) + 1, probabilities, "test file")
        done += chunk.n_rows
        if known.name in chunk.names:
            words = chunk.column(known.name).as_kind("categorical")[0].values
            truth = np.array([-1 if word is None else code_of.get(word, -2) for word in words], dtype=np.int64)
            n_unknown += int((truth == -2).sum())
            writer.judge(probabilities, truth)
        _tell(progress, done, None)
    if n_unknown:
        warn(
            f"{n_unknown} row(s) of {path.name} have a class that does not occur in the table; "
            "the quality on that file leaves them out."
        )


def _write_out_of_fold(
    features: Table, evaluation: Evaluation, predictor: Any, writer: PredictionWriter, progress: ProgressCallback | None
) -> None:
    """Probabilities of every row by a model that had not seen it, in the order of the table."""
    from sklearn.base import clone

    n, k = features.n_rows, len(evaluation.target.classes)
    probabilities = np.zeros((n, k))
    probabilities[evaluation.rows] = evaluation.ours.probabilities
    sources = np.full(n, "out-of-fold", dtype=object)
    rest = np.setdiff1d(np.arange(n), evaluation.rows)
    sources[rest] = "not in sample"
    if len(rest):
        model = clone(predictor).fit(features.rows(evaluation.rows), evaluation.truth)
        for start in range(0, len(rest), CHUNK_ROWS):
            part = rest[start : start + CHUNK_ROWS]
            probabilities[part] = class_probabilities(model, features.rows(part), k)
            _tell(progress, start + len(part), len(rest))
    writer.add(np.arange(n) + 1, probabilities, sources.tolist())


def _tell(progress: ProgressCallback | None, done: int, total: int | None) -> None:
    if progress is not None:
        progress(Progress(done, total or done, None, f"predicting, {done} rows"))


def _check_test(path: Path, features: Table, target: Column) -> dict[str, Any]:
    """The kinds that the columns of the test file are to be read as: those of the table.

    Raises:
        InputError: a feature column is not in the file.
    """
    names = column_names(path)
    lacking = [name for name in features.names if name not in names]
    if lacking:
        shown = ", ".join(map(repr, lacking[:10])) + (", ..." if len(lacking) > 10 else "")
        raise InputError(
            f"{path.name} lacks {len(lacking)} of the {features.n_columns} feature column(s) of the table: {shown}.",
            hint=suggest(lacking[0], names) or "The test file must have the same columns; the target may be left out.",
        )
    return {name: kind for name, kind in {**features.schema, target.name: target.kind}.items() if name in names}


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
        for name in (PREDICTIONS, REPORT):
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
