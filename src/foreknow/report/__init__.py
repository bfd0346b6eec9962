"""The main job on a table: quality against plain baselines, predictions, and one self-contained report."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "Applied": "foreknow.report.apply",
    "Arm": "foreknow.report.evaluate",
    "Evaluation": "foreknow.report.evaluate",
    "Explanation": "foreknow.report.explain",
    "Job": "foreknow.report.job",
    "LearningCurve": "foreknow.report.curve",
    "Predictions": "foreknow.report.predictions",
    "Score": "foreknow.report.scores",
    "Target": "foreknow.report.target",
    "apply_model": "foreknow.report.apply",
    "evaluate": "foreknow.report.evaluate",
    "headline": "foreknow.report.words",
    "predict_table": "foreknow.report.job",
    "read_target": "foreknow.report.target",
    "render": "foreknow.report.html",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
