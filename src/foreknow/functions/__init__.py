"""Priors over functions and kernels."""

from foreknow.common.lazy import lazy_names as _lazy_names

_MACHINE = "foreknow.functions.deep_kernel_machine."
_POLYNOMIALS = "foreknow.functions.hierarchical_polynomials."
_PUBLIC = {
    "DeepKernelMachine": _MACHINE + "system",
    "DeepKernelNetwork": _MACHINE + "machine",
    "DeepKernelPrior": _MACHINE + "prior",
    "GramChain": _MACHINE + "machine",
    "HierarchicalPolynomial": _POLYNOMIALS + "prior",
    "HierarchicalTask": _POLYNOMIALS + "prior",
    "LayerwiseThreeLayer": _POLYNOMIALS + "system",
    "SampleComplexity": _POLYNOMIALS + "complexity",
    "sample_complexity": _POLYNOMIALS + "complexity",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
