"""The report: one HTML file that needs nothing else, made from the record of a job."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.data.table import Column, Table
from foreknow.report.evaluate import Evaluation
from foreknow.report.job import Job
from foreknow.report.scores import Score
from foreknow.report.words import headline, percent

MAX_COLUMNS = 100
MAX_PICTURED = 16
N_LISTED = 10
MAX_MATRIX = 40
"""Confusion matrices and columns of more than these are cut, and the report says so."""


@dataclass(frozen=True)
class ColumnSummary:
    """A column in a line: name, kind, missing cells, distinct values, and its range or most frequent values."""

    name: str
    kind: str
    n_missing: int
    n_distinct: int
    content: str


def summarise(column: Column) -> ColumnSummary:
    """One line on a column."""
    values = column.values[~column.missing]
    words: NDArray[Any] = values.astype(str) if column.kind == "categorical" else values
    distinct, counts = np.unique(words, return_counts=True)
    if not len(values):
        content = "no value at all"
    elif column.kind == "numeric":
        low, middle, high = np.quantile(values, [0, 0.5, 1])
        content = f"{low:.4g} to {high:.4g}, median {middle:.4g}"
    elif column.kind == "date":
        ends = Column(column.name, "date", np.array([values.min(), values.max()])).as_kind("categorical")[0].values
        content = f"{ends[0]} to {ends[1]}"
    else:
        top = np.argsort(-counts, kind="stable")[:4]
        texts = Column(column.name, column.kind, distinct[top].astype(column.values.dtype)).as_kind("categorical")[0]
        parts = [f"{text} ({counts[index]})" for text, index in zip(texts.values, top, strict=True)]
        content = ", ".join(parts) + (", …" if len(distinct) > len(top) else "")
    return ColumnSummary(column.name, column.kind, int(column.missing.sum()), len(distinct), content)


def render(job: Job) -> str:
    """The whole page as text. Everything that comes from the table is escaped; nothing is fetched from anywhere."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("foreknow.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(score=_score, percent=percent, seconds=_seconds, percent_score=_percent_score)
    evaluation, target = job.evaluation, job.evaluation.target
    features = job.table.drop([target.name])
    counts = np.bincount(target.codes[target.labelled], minlength=len(target.classes))
    uncertain = job.predictions.uncertain[:N_LISTED]
    shown = features.columns[:MAX_COLUMNS]
    return environment.get_template("report.html").render(
        job=job, evaluation=evaluation, target=target, features=features,
        headline=headline(evaluation), verdict=evaluation.verdict,
        classes=[(name, int(n)) for name, n in zip(target.classes, counts, strict=True)],
        predicted=[(n, int(c)) for n, c in zip(target.classes, job.predictions.class_counts, strict=True)],
        columns=[summarise(column) for column in shown], n_hidden=features.n_columns - len(shown),
        missing=_missing_share(features), n_empty=len(target.empty),
        uncertain=[(row, _cells(job, row.row)) for row in uncertain],
        pictures={name: Markup(svg) for name, svg in _pictures(job).items()},
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip


def _pictures(job: Job) -> dict[str, str]:
    from foreknow.viz import quality, style

    evaluation, ours, truth = job.evaluation, job.evaluation.ours, job.evaluation.truth
    classes = evaluation.target.classes
    p = ours.probabilities
    best = p.argmax(axis=1)
    figures: dict[str, tuple[Any, str]] = {
        "quality": (_quality(evaluation), "Accuracy, AUC and log-loss of every predictor with 95% intervals; "
                    "the numbers are in the table above."),
        "reliability": (quality.reliability(p.max(axis=1), best == truth), "Share of right predictions against stated "
                        "confidence, in ten bins; on the diagonal the two agree."),
        "roc": (quality.roc(p, truth, classes), "Share of each class that is found against the share of false alarms."),
        "columns": (_columns(job), "Distribution of each column, coloured by class; the table below says the same "
                    "in numbers."),
        "confidence": (quality.confidence_histogram([("rows", job.predictions.confidence_counts)]),
                       "Number of predicted rows by confidence."),
    }  # fmt: skip
    if len(classes) <= MAX_MATRIX:
        matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(matrix, (truth, best), 1)
        figures["confusion"] = (quality.confusion(matrix, classes), "Rows of each true class by predicted class.")
    return {name: style.to_svg(figure, name=name, label=label) for name, (figure, label) in figures.items()}


def _quality(evaluation: Evaluation) -> Any:
    from foreknow.report.baselines import FREQUENCIES
    from foreknow.viz.quality import quality_intervals

    arms = [arm for arm in evaluation.arms if arm.name != FREQUENCIES]  # far off: it would squeeze the others together
    panels = []
    for key, title in (("accuracy", "accuracy"), ("auc", "OvO AUC"), ("log_loss", "log-loss (lower is better)")):
        scores = [arm.scores[key] for arm in arms]
        values, ends = [s.value for s in scores], [(s.low, s.high) for s in scores]
        panels.append((title, np.array(values), np.array(ends)))
    return quality_intervals([arm.name for arm in arms], panels)


def _columns(job: Job) -> Any:
    from foreknow.viz.data import data_summary

    target = job.evaluation.target
    columns: list[tuple[str, NDArray[Any]]] = []
    for column in job.table.drop([target.name]).columns[:MAX_PICTURED]:
        if column.kind == "date":
            columns.append((f"{column.name} (year)", 1970 + column.values / 31_556_952))
        else:
            words = column if column.kind == "numeric" else column.as_kind("categorical")[0]
            columns.append((column.name, words.values))
    return data_summary(columns, target.codes, target.classes)


def _missing_share(features: Table) -> float:
    return float(np.mean([column.missing.mean() for column in features.columns]))


def _cells(job: Job, row: int) -> str:
    """The first few cells of a row of the table, in words; empty for rows of a test file, which is not kept."""
    if job.test is not None:
        return ""
    table = job.table.drop([job.evaluation.target.name]).rows(np.array([row - 1]))
    words = [(column.name, column.as_kind("categorical")[0].values[0]) for column in table.columns[:5]]
    return ", ".join(f"{name} {'missing' if word is None else word}" for name, word in words)


def _score(score: Score, digits: int = 3) -> str:
    return "–" if np.isnan(score.value) else f"{score.value:.{digits}f}" + _ends(score, f".{digits}f")


def _percent_score(score: Score) -> str:
    return percent(score.value) + _ends(score, ".1%")


def _ends(score: Score, form: str) -> str:
    return "" if np.isnan(score.low) else f" ({score.low:{form}} to {score.high:{form}})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
