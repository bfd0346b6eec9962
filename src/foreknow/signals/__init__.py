"""Proximal maps, untrained and generative priors."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PROXIMAL = "foreknow.signals.learned_proximal."
_PUBLIC = {
    "Architecture": _PROXIMAL + "network",
    "ConvexConv": _PROXIMAL + "network",
    "ConvexMLP": _PROXIMAL + "network",
    "LearnedPrior": _PROXIMAL + "adapters",
    "LearnedProximal": _PROXIMAL + "system",
    "ProximalDenoiser": _PROXIMAL + "adapters",
    "ProximalPrior": _PROXIMAL + "prior",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
