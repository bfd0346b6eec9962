"""Learning curves: one record for every source, and the readers of files that hold them."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "Curve": "foreknow.data.curves.curve",
    "CurveList": "foreknow.data.curves.files",
    "as_curves": "foreknow.data.curves.curve",
    "looks_minimized": "foreknow.data.curves.direction",
    "read_curves": "foreknow.data.curves.files",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
