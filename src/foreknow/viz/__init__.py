"""Pictures of results and of draws. Every function returns a matplotlib `Figure`; nothing is shown or stored."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "bits_curve": "foreknow.viz.bits",
    "confidence_histogram": "foreknow.viz.quality",
    "confusion": "foreknow.viz.quality",
    "coverage_by_width": "foreknow.viz.numbers",
    "data_summary": "foreknow.viz.data",
    "draw_batch": "foreknow.viz.draws",
    "draw_importance": "foreknow.viz.importance",
    "draw_shares": "foreknow.viz.importance",
    "learning_curve": "foreknow.viz.numbers",
    "number_histogram": "foreknow.viz.numbers",
    "predicted_and_true": "foreknow.viz.numbers",
    "quality_intervals": "foreknow.viz.quality",
    "reliability": "foreknow.viz.quality",
    "residuals": "foreknow.viz.numbers",
    "roc": "foreknow.viz.quality",
    "save_figure": "foreknow.viz.style",
    "to_png": "foreknow.viz.style",
    "to_svg": "foreknow.viz.style",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
