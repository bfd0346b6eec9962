"""The report: one HTML file that needs nothing else, made from the record of a job."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.data.table import Column, Table
from foreknow.report.evaluate import Evaluation
from foreknow.report.forecast import HIGH, LOW, MEAN, NOMINAL, Group
from foreknow.report.job import Job
from foreknow.report.scores import Score
from foreknow.report.words import coverage_sentence, figure, headline, more_rows, percent

if TYPE_CHECKING:
    import jinja2

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
    from markupsafe import Markup

    environment = page_environment()
    environment.filters.update(
        score=_score, percent=percent, seconds=_seconds, percent_score=_percent_score, number=_number, share=_share
    )
    evaluation, target, predictions = job.evaluation, job.evaluation.target, job.predictions
    features = job.table.drop([target.name])
    counts = np.bincount(target.y[target.labelled], minlength=len(target.classes)) if target.classes else ()
    shown = features.columns[:MAX_COLUMNS]
    return environment.get_template(f"{target.task}.html").render(
        job=job, evaluation=evaluation, target=target, features=features, held=predictions.held_out,
        headline=headline(evaluation, job.curve), verdict=evaluation.verdict,
        arm_names=[arm.name for arm in evaluation.arms], coverage=evaluation.coverage,
        coverage_sentence=coverage_sentence(evaluation.coverage) if evaluation.coverage else "",
        more_rows=more_rows(job.curve, target.task) if job.curve else "", measure=_MEASURES[target.task],
        classes=[(name, int(n)) for name, n in zip(target.classes, counts, strict=True)],
        predicted=[(n, int(c)) for n, c in zip(target.classes, predictions.class_counts, strict=True)],
        columns=[summarise(column) for column in shown], n_hidden=features.n_columns - len(shown),
        target_line="" if target.classes else summarise(job.table.column(target.name)).content,
        missing=_missing_share(features), n_empty=len(target.empty),
        uncertain=[(row, _cells(job, row.row)) for row in predictions.uncertain[:N_LISTED]],
        widest=[(row, _cells(job, row.row)) for row in predictions.widest[:N_LISTED]], **_explained(job),
        pictures={name: Markup(svg) for name, svg in _pictures(job).items()},
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip


def page_environment() -> jinja2.Environment:
    """Where the templates are: everything is escaped, and a name that is not there is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("foreknow.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip


def _explained(job: Job) -> dict[str, Any]:
    """Columns by importance, and the rows that were taken apart, in words."""
    found = job.explanation
    if found is None:
        return {"importance": [], "explained": [], "n_importance_hidden": 0}
    rows = []
    for number, output, base, parts in zip(found.rows, found.outputs, found.base, found.contributions, strict=True):
        largest = np.argsort(-np.abs(parts), kind="stable")[:3]
        words = ", ".join(f"{found.names[index]} {parts[index]:+.3g}" for index in largest)
        rows.append({"number": number, "output": output, "base": base, "total": base + parts.sum(), "parts": words})
    listed = [(found.names[index], found.mean[index], found.spread[index]) for index in found.order]
    return {
        "importance": listed[:MAX_COLUMNS],
        "explained": rows,
        "n_importance_hidden": max(0, len(listed) - MAX_COLUMNS),
    }


def _pictures(job: Job) -> dict[str, str]:
    from foreknow.viz import numbers, style
    from foreknow.viz.importance import draw_importance

    figures = _of_numbers(job) if job.evaluation.task == "regression" else _of_classes(job)
    figures["quality"] = (
        _quality(job.evaluation),
        "The main measures of every predictor with 95% intervals; the numbers are in the table above.",
    )
    figures["columns"] = (
        _columns(job),
        "Distribution of each column, coloured by the target; the table below says the same in numbers.",
    )
    curve, explanation = job.curve, job.explanation
    if curve is not None and curve.scores:
        ends = np.array([(score.low, score.high) for score in curve.scores])
        values = [score.value for score in curve.scores]
        figures["curve"] = (
            numbers.learning_curve(curve.n_rows, values, ends, _MEASURES[job.evaluation.task]),
            "Quality against the number of rows learnt from; the sentence above says what follows.",
        )
    if explanation is not None:
        figures["importance"] = (
            draw_importance(explanation, n_columns=15),
            "Loss of quality when each column is shuffled; the numbers are in the table below.",
        )
    return {name: style.to_svg(drawn, name=name, label=label) for name, (drawn, label) in figures.items()}


def _of_classes(job: Job) -> dict[str, tuple[Any, str]]:
    from foreknow.viz import quality

    evaluation, truth = job.evaluation, job.evaluation.truth
    classes = evaluation.target.classes
    p = evaluation.ours.output
    best = p.argmax(axis=1)
    figures: dict[str, tuple[Any, str]] = {
        "reliability": (quality.reliability(p.max(axis=1), best == truth), "Share of right predictions against stated "
                        "confidence, in ten bins; on the diagonal the two agree."),
        "roc": (quality.roc(p, truth, classes), "Share of each class that is found against the share of false alarms."),
        "confidence": (quality.confidence_histogram([("rows", job.predictions.confidence_counts)]),
                       "Number of predicted rows by confidence."),
    }  # fmt: skip
    if len(classes) <= MAX_MATRIX:
        matrix = np.zeros((len(classes), len(classes)), dtype=np.int64)
        np.add.at(matrix, (truth, best), 1)
        figures["confusion"] = (quality.confusion(matrix, classes), "Rows of each true class by predicted class.")
    return figures


def _of_numbers(job: Job) -> dict[str, tuple[Any, str]]:
    from foreknow.viz import numbers

    evaluation, truth, target = job.evaluation, job.evaluation.truth, job.evaluation.target
    output, found = evaluation.ours.output, evaluation.coverage
    mean, interval = output[:, MEAN], None if found is None else output[:, [LOW, HIGH]]
    known = target.y[target.labelled]
    figures: dict[str, tuple[Any, str]] = {
        "truth": (numbers.predicted_and_true(mean, truth, interval), "True against predicted numbers of held-out rows; "
                  "on the diagonal the two agree."),
        "residuals": (numbers.residuals(mean, truth), "True minus predicted numbers against predicted ones, and how "
                      "often each error occurs."),
        "predicted": (numbers.number_histogram([("predicted", job.predictions.means), ("known", known)], target.name),
                      "Distribution of the predicted numbers and of the known ones."),
    }  # fmt: skip
    if found is not None:
        groups = found.groups
        ends = np.array([(group.low, group.high) for group in groups])
        figures["coverage"] = (
            numbers.coverage_by_width([g.width for g in groups], [g.share for g in groups], ends, NOMINAL),
            "Share of rows whose interval held the truth, for narrow to wide intervals; the table below says it too.",
        )
    return figures


_MEASURES = {"classification": "log-loss", "regression": "RMSE"}
_PANELS = {
    "classification": (("accuracy", "accuracy"), ("auc", "OvO AUC"), ("log_loss", "log-loss (lower is better)")),
    "regression": (("rmse", "RMSE (lower is better)"), ("mae", "mean absolute error (lower)"), ("r2", "R² (higher)")),
}


def _quality(evaluation: Evaluation) -> Any:
    from foreknow.report.baselines import IGNORANT
    from foreknow.viz.quality import quality_intervals

    arms = [arm for arm in evaluation.arms if arm.name not in IGNORANT]  # far off: they would squeeze the others
    panels = []
    for key, title in _PANELS[evaluation.task]:
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
    if target.classes:
        return data_summary(columns, target.y, target.classes)
    low, high = np.nanquantile(target.y, [1 / 3, 2 / 3])
    thirds = np.where(target.known, np.digitize(target.y, [low, high]), -1)
    names = (f"up to {figure(low)}", f"up to {figure(high)}", f"above {figure(high)}")
    return data_summary(columns, thirds, names)


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


def _number(score: Score) -> str:
    ends = "" if np.isnan(score.low) else f" ({figure(score.low)} to {figure(score.high)})"
    return "–" if np.isnan(score.value) else figure(score.value) + ends


def _share(group: Group) -> str:
    return f"{percent(group.share)} ({percent(group.low)} to {percent(group.high)})"


def _percent_score(score: Score) -> str:
    return percent(score.value) + _ends(score, ".1%")


def _ends(score: Score, form: str) -> str:
    return "" if np.isnan(score.low) else f" ({score.low:{form}} to {score.high:{form}})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
