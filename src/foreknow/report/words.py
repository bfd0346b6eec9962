"""The outcome in plain words, for the top of the report and for the terminal."""

from __future__ import annotations

import numpy as np

from foreknow.report.evaluate import Evaluation
from foreknow.report.scores import Score


def headline(evaluation: Evaluation) -> list[str]:
    """How good, compared to what, and how sure: a few sentences, an honest one if a baseline wins."""
    scores = evaluation.ours.scores
    right = scores["accuracy"]
    counts = np.bincount(evaluation.truth)
    naive = float(counts.max() / counts.sum())
    sentences = [
        f"For {percent(right.value)} of {len(evaluation.rows)} rows that it had not seen, foreknow named the right "
        f"class of {evaluation.target.name!r} (95% interval {percent(right.low)} to {percent(right.high)}); always "
        f"naming the most frequent class would be right for {percent(naive)}.",
        comparison(evaluation),
        f"The confidence it states differs from how often it is right by {100 * scores['ece'].value:.1f} percentage "
        "points on average.",
    ]
    return [sentence for sentence in sentences if sentence]


def comparison(evaluation: Evaluation) -> str:
    """Ours against the strongest baseline by log-loss, in one or two sentences; empty without baselines."""
    best = evaluation.best_baseline
    if best is None or best.excess is None:
        return ""
    ours, theirs = evaluation.ours.scores["log_loss"].value, best.scores["log_loss"].value
    gap = Score(abs(best.excess.value), *sorted((abs(best.excess.low), abs(best.excess.high))))
    by = f"by {gap.value:.3f} nats a row (95% interval {gap.low:.3f} to {gap.high:.3f})"
    if evaluation.verdict == "better":
        return (
            f"Its probabilities are better than those of the strongest plain baseline, {best.name}: log-loss "
            f"{ours:.3f} against {theirs:.3f}, lower {by}."
        )
    if evaluation.verdict == "worse":
        return (
            f"A plain baseline wins on this table: {best.name} has a log-loss of {theirs:.3f} against {ours:.3f}, "
            f"lower {by}. Prefer it here."
        )
    return (
        f"There is no clear difference to the strongest plain baseline, {best.name}: log-loss {ours:.3f} against "
        f"{theirs:.3f}; the 95% interval of the difference, {best.excess.low:+.3f} to {best.excess.high:+.3f} nats a "
        "row, contains zero."
    )


def percent(share: float) -> str:
    """A share as people read it."""
    return f"{100 * share:.1f}%"
