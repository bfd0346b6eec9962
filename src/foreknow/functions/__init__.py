"""Priors over functions and kernels."""

from foreknow.common.lazy import lazy_names as _lazy_names

_BO = "foreknow.functions.bnn_bo."
_FUNCTIONAL = "foreknow.functions.functional_prior."
_SEQUENTIAL = "foreknow.functions.sequential_cl."
_PUBLIC = {
    "BayesOpt": _BO + "optimiser",
    "BayesianNet": _FUNCTIONAL + "system",
    "Choice": _BO + "space",
    "Comparison": _BO + "compare",
    "DKL": _BO + "processes",
    "EnsembleNet": _BO + "networks",
    "FunctionPrior": _FUNCTIONAL + "targets",
    "FunctionalPrior": _FUNCTIONAL + "prior",
    "GPFunctions": _FUNCTIONAL + "targets",
    "GPSurrogate": _BO + "processes",
    "HMCNet": _BO + "networks",
    "IBNN": _BO + "processes",
    "Integer": _BO + "space",
    "LaplaceNet": _BO + "networks",
    "MAPNet": _BO + "networks",
    "MatchSettings": _FUNCTIONAL + "matching",
    "NetworkPrior": _BO + "prior",
    "ProcessPrior": _BO + "prior",
    "ProtoCL": _SEQUENTIAL + "system",
    "ProtoSettings": _SEQUENTIAL + "prototypes",
    "PrototypeLearner": _SEQUENTIAL + "prototypes",
    "PrototypePrior": _SEQUENTIAL + "prior",
    "Real": _BO + "space",
    "SGHMCNet": _BO + "networks",
    "SearchSettings": _BO + "acquisition",
    "SequentialBayes": _SEQUENTIAL + "sequential",
    "Space": _BO + "space",
    "SurrogateRegressor": _BO + "system",
    "botorch_model": _BO + "model",
    "compare_surrogates": _BO + "compare",
    "minimize": _BO + "optimiser",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.functions.scale_mixture_nngp.classifier import NNGPClassifier
    from foreknow.functions.scale_mixture_nngp.prior import BurrXII, FixedScale, InverseGamma, LogNormal
    from foreknow.functions.scale_mixture_nngp.system import NNGP
    from foreknow.functions.wide_deep_optimality.prior import (
        HermiteActivation,
        NamedActivation,
        SingularActivation,
        design_activation,
        singular_activation,
    )
    from foreknow.functions.wide_deep_optimality.system import DeepNTKClassifier, HilbertKernelClassifier

__all__ = [
    "NNGP",
    "BurrXII",
    "DeepNTKClassifier",
    "FixedScale",
    "HermiteActivation",
    "HilbertKernelClassifier",
    "InverseGamma",
    "LogNormal",
    "NNGPClassifier",
    "NamedActivation",
    "SingularActivation",
    "design_activation",
    "singular_activation",
]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "BurrXII": "foreknow.functions.scale_mixture_nngp.prior",
        "FixedScale": "foreknow.functions.scale_mixture_nngp.prior",
        "InverseGamma": "foreknow.functions.scale_mixture_nngp.prior",
        "LogNormal": "foreknow.functions.scale_mixture_nngp.prior",
        "NNGP": "foreknow.functions.scale_mixture_nngp.system",
        "NNGPClassifier": "foreknow.functions.scale_mixture_nngp.classifier",
        "DeepNTKClassifier": "foreknow.functions.wide_deep_optimality.system",
        "HilbertKernelClassifier": "foreknow.functions.wide_deep_optimality.system",
        "HermiteActivation": "foreknow.functions.wide_deep_optimality.prior",
        "NamedActivation": "foreknow.functions.wide_deep_optimality.prior",
        "SingularActivation": "foreknow.functions.wide_deep_optimality.prior",
        "design_activation": "foreknow.functions.wide_deep_optimality.prior",
        "singular_activation": "foreknow.functions.wide_deep_optimality.prior",
    },
)
