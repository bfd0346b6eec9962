"""Priors over functions and kernels."""

from foreknow.common.lazy import lazy_names as _lazy_names

_FUNCTIONAL = "foreknow.functions.functional_prior."
_PUBLIC = {
    "BayesianNet": _FUNCTIONAL + "system",
    "FunctionPrior": _FUNCTIONAL + "targets",
    "FunctionalPrior": _FUNCTIONAL + "prior",
    "GPFunctions": _FUNCTIONAL + "targets",
    "MatchSettings": _FUNCTIONAL + "matching",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
