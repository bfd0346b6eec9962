"""The abstractions every system and prior is written in."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "Batch": "foreknow.core.batch",
    "Card": "foreknow.core.card",
    "Checkpoint": "foreknow.core.checkpoint",
    "Draw": "foreknow.core.prior",
    "Predictive": "foreknow.core.predictive",
    "Prior": "foreknow.core.prior",
    "Simulator": "foreknow.core.prior",
    "System": "foreknow.core.system",
    "catalogue": "foreknow.core.registry",
    "register": "foreknow.core.registry",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
