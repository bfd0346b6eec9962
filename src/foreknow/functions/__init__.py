"""Priors over functions and kernels."""

from foreknow.common.lazy import lazy_names as _lazy_names

_ROOM = "foreknow.functions."
_PUBLIC = {
    "BayesianNet": _ROOM + "functional_prior.system",
    "BurrXII": _ROOM + "scale_mixture_nngp.prior",
    "DeepKernelMachine": _ROOM + "deep_kernel_machine.system",
    "DeepKernelNetwork": _ROOM + "deep_kernel_machine.machine",
    "DeepKernelPrior": _ROOM + "deep_kernel_machine.prior",
    "DeepNTKClassifier": _ROOM + "wide_deep_optimality.system",
    "FixedScale": _ROOM + "scale_mixture_nngp.prior",
    "FunctionPrior": _ROOM + "functional_prior.targets",
    "FunctionalPrior": _ROOM + "functional_prior.prior",
    "GPFunctions": _ROOM + "functional_prior.targets",
    "GramChain": _ROOM + "deep_kernel_machine.machine",
    "HermiteActivation": _ROOM + "wide_deep_optimality.prior",
    "HierarchicalPolynomial": _ROOM + "hierarchical_polynomials.prior",
    "HierarchicalTask": _ROOM + "hierarchical_polynomials.prior",
    "HilbertKernelClassifier": _ROOM + "wide_deep_optimality.system",
    "InverseGamma": _ROOM + "scale_mixture_nngp.prior",
    "LayerwiseThreeLayer": _ROOM + "hierarchical_polynomials.system",
    "LogNormal": _ROOM + "scale_mixture_nngp.prior",
    "MatchSettings": _ROOM + "functional_prior.matching",
    "NNGP": _ROOM + "scale_mixture_nngp.system",
    "NNGPClassifier": _ROOM + "scale_mixture_nngp.classifier",
    "NamedActivation": _ROOM + "wide_deep_optimality.prior",
    "ProtoCL": _ROOM + "sequential_cl.system",
    "ProtoSettings": _ROOM + "sequential_cl.prototypes",
    "PrototypeLearner": _ROOM + "sequential_cl.prototypes",
    "PrototypePrior": _ROOM + "sequential_cl.prior",
    "SampleComplexity": _ROOM + "hierarchical_polynomials.complexity",
    "SequentialBayes": _ROOM + "sequential_cl.sequential",
    "SingularActivation": _ROOM + "wide_deep_optimality.prior",
    "design_activation": _ROOM + "wide_deep_optimality.prior",
    "sample_complexity": _ROOM + "hierarchical_polynomials.complexity",
    "singular_activation": _ROOM + "wide_deep_optimality.prior",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
