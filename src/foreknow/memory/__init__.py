"""Cases, prototypes, ranking, associative memory."""

from foreknow.common.lazy import lazy_names as _lazy_names

_COLBERT = "foreknow.memory.colbert."
_PUBLIC = {
    "BM25": _COLBERT + "lexical",
    "InteractionPrior": _COLBERT + "interaction",
    "LateInteraction": _COLBERT + "system",
    "PlaidIndex": _COLBERT + "index",
    "Ranking": _COLBERT + "index",
    "TextEncoder": _COLBERT + "network",
    "maxsim": _COLBERT + "interaction",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
