"""Sparsity, bits, compression."""

from foreknow.common.lazy import lazy_names as _lazy_names

_HAWQ = "foreknow.weights.hawq."
_PUBLIC = {
    "BitPlan": _HAWQ + "allocation",
    "CurvaturePrior": _HAWQ + "prior",
    "DyadicQuantizer": _HAWQ + "system",
    "IntegerGraph": _HAWQ + "integers",
    "LayerSensitivity": _HAWQ + "allocation",
    "QuantizedNetwork": _HAWQ + "network",
    "Sensitivity": _HAWQ + "allocation",
    "SmallResNet": _HAWQ + "networks",
    "allocate_bits": _HAWQ + "allocation",
    "finetune": _HAWQ + "allocation",
    "hessian_sensitivity": _HAWQ + "allocation",
    "layer_latencies": _HAWQ + "onnx_runtime",
    "quantize": _HAWQ + "allocation",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
