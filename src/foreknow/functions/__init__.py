"""Priors over functions and kernels."""

from foreknow.common.lazy import lazy_names as _lazy_names

_ROOM = "foreknow.functions."
_PUBLIC = {
    "BayesOpt": _ROOM + "bnn_bo.optimiser",
    "BayesianNet": _ROOM + "functional_prior.system",
    "BurrXII": _ROOM + "scale_mixture_nngp.prior",
    "Choice": _ROOM + "bnn_bo.space",
    "Comparison": _ROOM + "bnn_bo.compare",
    "DKL": _ROOM + "bnn_bo.processes",
    "DeepNTKClassifier": _ROOM + "wide_deep_optimality.system",
    "EnsembleNet": _ROOM + "bnn_bo.networks",
    "FixedScale": _ROOM + "scale_mixture_nngp.prior",
    "FunctionPrior": _ROOM + "functional_prior.targets",
    "FunctionalPrior": _ROOM + "functional_prior.prior",
    "GPFunctions": _ROOM + "functional_prior.targets",
    "GPSurrogate": _ROOM + "bnn_bo.processes",
    "HMCNet": _ROOM + "bnn_bo.networks",
    "HermiteActivation": _ROOM + "wide_deep_optimality.prior",
    "HilbertKernelClassifier": _ROOM + "wide_deep_optimality.system",
    "IBNN": _ROOM + "bnn_bo.processes",
    "Integer": _ROOM + "bnn_bo.space",
    "InverseGamma": _ROOM + "scale_mixture_nngp.prior",
    "LaplaceNet": _ROOM + "bnn_bo.networks",
    "LogNormal": _ROOM + "scale_mixture_nngp.prior",
    "MAPNet": _ROOM + "bnn_bo.networks",
    "MatchSettings": _ROOM + "functional_prior.matching",
    "NNGP": _ROOM + "scale_mixture_nngp.system",
    "NNGPClassifier": _ROOM + "scale_mixture_nngp.classifier",
    "NamedActivation": _ROOM + "wide_deep_optimality.prior",
    "NetworkPrior": _ROOM + "bnn_bo.prior",
    "ProcessPrior": _ROOM + "bnn_bo.prior",
    "ProtoCL": _ROOM + "sequential_cl.system",
    "ProtoSettings": _ROOM + "sequential_cl.prototypes",
    "PrototypeLearner": _ROOM + "sequential_cl.prototypes",
    "PrototypePrior": _ROOM + "sequential_cl.prior",
    "Real": _ROOM + "bnn_bo.space",
    "SGHMCNet": _ROOM + "bnn_bo.networks",
    "SearchSettings": _ROOM + "bnn_bo.acquisition",
    "SequentialBayes": _ROOM + "sequential_cl.sequential",
    "SingularActivation": _ROOM + "wide_deep_optimality.prior",
    "Space": _ROOM + "bnn_bo.space",
    "SurrogateRegressor": _ROOM + "bnn_bo.system",
    "botorch_model": _ROOM + "bnn_bo.model",
    "compare_surrogates": _ROOM + "bnn_bo.compare",
    "design_activation": _ROOM + "wide_deep_optimality.prior",
    "minimize": _ROOM + "bnn_bo.optimiser",
    "singular_activation": _ROOM + "wide_deep_optimality.prior",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
