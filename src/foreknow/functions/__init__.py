"""Priors over functions and kernels."""

from foreknow.common.lazy import lazy_names as _lazy_names

_POLYNOMIALS = "foreknow.functions.hierarchical_polynomials."
_PUBLIC = {
    "HierarchicalPolynomial": _POLYNOMIALS + "prior",
    "HierarchicalTask": _POLYNOMIALS + "prior",
    "LayerwiseThreeLayer": _POLYNOMIALS + "system",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
