"""Networks of infinite width: Gaussian process (NNGP) and tangent kernel (NTK), and the finite networks of both."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.nn.infinite.activations import (
        ACTIVATIONS,
        GELU,
        Activation,
        Elementwise,
        Erf,
        Hermite,
        Identity,
        ReLU,
        Tanh,
        as_activation,
    )
    from foreknow.nn.infinite.conv import Convolutional
    from foreknow.nn.infinite.dense import FullyConnected, Gram, layer, layer_ntk
    from foreknow.nn.infinite.finite import WideNetwork, empirical_ntk, layerwise_ntk
    from foreknow.nn.infinite.sphere import (
        DeepKernels,
        DeepKernelTable,
        ErfDual,
        PolynomialDual,
        ReLUDual,
        SphereDual,
        deep_kernels,
        dual_on_sphere,
    )

_PUBLIC = {
    "ACTIVATIONS": "foreknow.nn.infinite.activations",
    "Activation": "foreknow.nn.infinite.activations",
    "Convolutional": "foreknow.nn.infinite.conv",
    "Elementwise": "foreknow.nn.infinite.activations",
    "Erf": "foreknow.nn.infinite.activations",
    "FullyConnected": "foreknow.nn.infinite.dense",
    "GELU": "foreknow.nn.infinite.activations",
    "Gram": "foreknow.nn.infinite.dense",
    "Hermite": "foreknow.nn.infinite.activations",
    "Identity": "foreknow.nn.infinite.activations",
    "ReLU": "foreknow.nn.infinite.activations",
    "Tanh": "foreknow.nn.infinite.activations",
    "DeepKernelTable": "foreknow.nn.infinite.sphere",
    "DeepKernels": "foreknow.nn.infinite.sphere",
    "ErfDual": "foreknow.nn.infinite.sphere",
    "PolynomialDual": "foreknow.nn.infinite.sphere",
    "ReLUDual": "foreknow.nn.infinite.sphere",
    "SphereDual": "foreknow.nn.infinite.sphere",
    "WideNetwork": "foreknow.nn.infinite.finite",
    "deep_kernels": "foreknow.nn.infinite.sphere",
    "dual_on_sphere": "foreknow.nn.infinite.sphere",
    "layerwise_ntk": "foreknow.nn.infinite.finite",
    "as_activation": "foreknow.nn.infinite.activations",
    "empirical_ntk": "foreknow.nn.infinite.finite",
    "layer": "foreknow.nn.infinite.dense",
    "layer_ntk": "foreknow.nn.infinite.dense",
}

__all__ = [
    "ACTIVATIONS",
    "GELU",
    "Activation",
    "Convolutional",
    "DeepKernelTable",
    "DeepKernels",
    "Elementwise",
    "Erf",
    "ErfDual",
    "FullyConnected",
    "Gram",
    "Hermite",
    "Identity",
    "PolynomialDual",
    "ReLU",
    "ReLUDual",
    "SphereDual",
    "Tanh",
    "WideNetwork",
    "as_activation",
    "deep_kernels",
    "dual_on_sphere",
    "empirical_ntk",
    "layer",
    "layer_ntk",
    "layerwise_ntk",
]

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
