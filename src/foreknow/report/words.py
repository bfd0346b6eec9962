"""The outcome in plain words, for the top of the report and for the terminal."""

from __future__ import annotations

import numpy as np

from foreknow.report.curve import LearningCurve
from foreknow.report.evaluate import MEASURE, Evaluation
from foreknow.report.forecast import NOMINAL, Coverage
from foreknow.report.scores import Score


def headline(evaluation: Evaluation, curve: LearningCurve | None = None) -> list[str]:
    """How good, compared to what, and how sure: a few sentences, an honest one if a baseline wins."""
    tell = _of_numbers if evaluation.task == "regression" else _of_classes
    quality, sureness = tell(evaluation)
    sentences = [quality, comparison(evaluation), sureness, "" if curve is None else more_rows(curve, evaluation.task)]
    return [sentence for sentence in sentences if sentence]


def _of_classes(evaluation: Evaluation) -> tuple[str, str]:
    scores = evaluation.ours.scores
    right = scores["accuracy"]
    counts = np.bincount(evaluation.truth)
    naive = float(counts.max() / counts.sum())
    return (
        f"For {percent(right.value)} of {len(evaluation.rows)} rows that it had not seen, foreknow named the right "
        f"class of {evaluation.target.name!r} (95% interval {percent(right.low)} to {percent(right.high)}); always "
        f"naming the most frequent class would be right for {percent(naive)}.",
        f"The confidence it states differs from how often it is right by {100 * scores['ece'].value:.1f} percentage "
        "points on average.",
    )


def _of_numbers(evaluation: Evaluation) -> tuple[str, str]:
    error, r2 = evaluation.ours.scores["rmse"], evaluation.ours.scores["r2"]
    return (
        f"On {len(evaluation.rows)} rows that it had not seen, foreknow's prediction of {evaluation.target.name!r} was "
        f"off by {figure(error.value)} (root mean square; 95% interval {figure(error.low)} to {figure(error.high)}); "
        f"always predicting the mean would be off by {figure(float(evaluation.truth.std()))}. It explains "
        f"{percent(r2.value) if r2.value > 0 else 'none'} of the variance.",
        "" if evaluation.coverage is None else coverage_sentence(evaluation.coverage),
    )


def coverage_sentence(found: Coverage) -> str:
    """Whether the intervals are as wide as they say."""
    whole = found.whole
    said = (
        f"Its {NOMINAL:.0%} intervals held the truth for {percent(whole.share)} of the rows (95% interval "
        f"{percent(whole.low)} to {percent(whole.high)})"
    )
    if whole.low > NOMINAL:
        return f"{said}: they are wider than they need be."
    if whole.high < NOMINAL:
        return f"{said}: they are too narrow, widen them before you rely on them."
    return f"{said}, which agrees with {NOMINAL:.0%}."


def comparison(evaluation: Evaluation) -> str:
    """Ours against the strongest baseline by log-loss or RMSE, in one or two sentences; empty without baselines."""
    best = evaluation.best_baseline
    if best is None or best.excess is None:
        return ""
    numbers = evaluation.task == "regression"
    what, unit, measure = (
        ("predictions", "", "error (RMSE)") if numbers else ("probabilities", " nats a row", "log-loss")
    )
    form = figure if numbers else "{:.3f}".format
    key = MEASURE[evaluation.task]
    ours, theirs = form(evaluation.ours.scores[key].value), form(best.scores[key].value)
    gap = Score(abs(best.excess.value), *sorted((abs(best.excess.low), abs(best.excess.high))))
    by = f"by {form(gap.value)}{unit} (95% interval {form(gap.low)} to {form(gap.high)})"
    if evaluation.verdict == "better":
        return (
            f"Its {what} are better than those of the strongest plain baseline, {best.name}: {measure} "
            f"{ours} against {theirs}, lower {by}."
        )
    if evaluation.verdict == "worse":
        return (
            f"A plain baseline wins on this table: {best.name} has {_a(measure)} of {theirs} against {ours}, "
            f"lower {by}. Prefer it here."
        )
    low, high = (f"{'-' if end < 0 else '+'}{form(abs(end))}" for end in (best.excess.low, best.excess.high))
    return (
        f"There is no clear difference to the strongest plain baseline, {best.name}: {measure} {ours} against "
        f"{theirs}; the 95% interval of the difference, {low} to {high}{unit}, contains zero."
    )


def more_rows(curve: LearningCurve, task: str) -> str:
    """Whether more rows would help, as far as the rows that are there can tell."""
    if curve.gain is None:
        return ""
    what = "error (RMSE)" if task == "regression" else "log-loss"
    half, whole = curve.scores[-3], curve.scores[-1]
    said = (
        f"Learning from all {curve.n_rows[-1]} rows of a fold instead of half of them took the {what} from "
        f"{figure(half.value)} to {figure(whole.value)}"
    )
    if curve.helps:
        return f"{said}: more rows of the same kind would probably help."
    if curve.gain.high < 0:
        return f"{said}, which is worse: more rows alone would probably not help."
    return f"{said}, no clear difference: more rows alone would probably not help much."


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def figure(value: float) -> str:
    """A number as people read it: four digits."""
    return f"{value:.4g}"


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f}%"
