"""What a prior did: bias, calibration, soundness."""

from foreknow.common.lazy import lazy_names as _lazy_names

_BIAS = "foreknow.audit.inductive_bias."
_PUBLIC = {
    "Bits": _BIAS + "bits",
    "BitsCurve": _BIAS + "bits",
    "FittingKernel": _BIAS + "kernels",
    "FittingNetworks": _BIAS + "networks",
    "InductiveBias": _BIAS + "system",
    "KernelHypotheses": _BIAS + "kernels",
    "KernelLaw": _BIAS + "kernels",
    "KernelPrior": _BIAS + "system",
    "NetworkHypotheses": _BIAS + "networks",
    "RBF": _BIAS + "kernels",
    "White": _BIAS + "kernels",
    "cnn_1d": _BIAS + "networks",
    "conditional_evidence_bits": _BIAS + "prequential",
    "counting_bits": _BIAS + "counting",
    "median_matched_bits": _BIAS + "ladder",
    "mlp": _BIAS + "networks",
    "parametric_bits": _BIAS + "parametric",
    "prequential_bits": _BIAS + "prequential",
    "price_bits": _BIAS + "ladder",
    "saddlepoint_bits": _BIAS + "saddlepoint",
    "sankaran_bits": _BIAS + "parametric",
    "splitting_bits": _BIAS + "splitting",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
