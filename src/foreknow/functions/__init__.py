"""Priors over functions and kernels."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.functions.scale_mixture_nngp.classifier import NNGPClassifier
    from foreknow.functions.scale_mixture_nngp.prior import BurrXII, FixedScale, InverseGamma, LogNormal
    from foreknow.functions.scale_mixture_nngp.system import NNGP

__all__ = [
    "NNGP",
    "BurrXII",
    "FixedScale",
    "InverseGamma",
    "LogNormal",
    "NNGPClassifier",
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
    },
)
