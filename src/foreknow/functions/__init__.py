"""Priors over functions and kernels."""

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
