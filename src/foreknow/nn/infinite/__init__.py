"""Networks of infinite width: Gaussian process (NNGP) and tangent kernel (NTK), and the finite networks of both."""

from foreknow.common.lazy import lazy_names as _lazy_names

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
    "WideNetwork": "foreknow.nn.infinite.finite",
    "as_activation": "foreknow.nn.infinite.activations",
    "empirical_ntk": "foreknow.nn.infinite.finite",
    "layer": "foreknow.nn.infinite.dense",
    "layer_ntk": "foreknow.nn.infinite.dense",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
