"""Network blocks that several rooms share, each a plain `nn.Module`."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "BarHead": "foreknow.nn.bar_head",
    "ContextBlock": "foreknow.nn.attention",
    "ContextCache": "foreknow.nn.attention",
    "FNO": "foreknow.nn.fno",
    "InducedAttention": "foreknow.nn.attention",
    "Latency": "foreknow.nn.cost",
    "MultiheadAttention": "foreknow.nn.attention",
    "PoolingAttention": "foreknow.nn.attention",
    "SetTransformer": "foreknow.nn.attention",
    "SpectralConv": "foreknow.nn.fno",
    "TraceEstimate": "foreknow.nn.curvature",
    "hessian_traces": "foreknow.nn.curvature",
    "hessian_vector_product": "foreknow.nn.curvature",
    "macs": "foreknow.nn.cost",
    "measure_latency": "foreknow.nn.cost",
    "n_parameters": "foreknow.nn.cost",
    "storage_mib": "foreknow.nn.cost",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
