"""What the exported graph costs where it runs: measured milliseconds and bytes, beside float and uniform 8 bits."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.deps import require
from foreknow.nn.cost import measure_latency
from foreknow.weights.hawq.allocation import as_network, check_bits
from foreknow.weights.hawq.integers import IntegerGraph
from foreknow.weights.hawq.network import QuantizedNetwork
from foreknow.weights.hawq.onnx_graph import float_twin, layers_onnx, to_onnx
from foreknow.weights.hawq.steps import EDGE_BITS

_WARNINGS_ARE_ERRORS = 3


def session(model: Any, n_threads: int = 1) -> Any:
    """An onnxruntime session of an ONNX model on the processor."""
    runtime = require("onnxruntime", "Running an ONNX model")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.log_severity_level = _WARNINGS_ARE_ERRORS
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def uniform_int8(model: Any, x: NDArray[np.float32]) -> Any:
    """A float model quantised by onnxruntime: 8 bits everywhere, weights by channel, ranges from `x`."""
    quantization = require("onnxruntime.quantization", "Quantising an ONNX model")
    onnx = require("onnx", "Quantising an ONNX model")

    class Rows(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.rows: Iterator[dict[str, NDArray[np.float32]]] = iter([{"x": x}])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self.rows, None)

    level = logging.getLogger().level
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        try:
            logging.getLogger().setLevel(logging.ERROR)  # it advises a preparation that matters for other networks
            quantization.quantize_static(source, target, Rows(), per_channel=True)
        finally:
            logging.getLogger().setLevel(level)
        return onnx.load(target)


def layer_latencies(
    model: nn.Module | QuantizedNetwork,
    x: Tensor,
    *,
    bits: Sequence[int] = (4, 8),
    vnni: bool = False,
    n_runs: int = 50,
) -> dict[str, dict[int, float]]:
    """Milliseconds of every layer at each number of bits in onnxruntime, for `allocate_bits(latencies=...)`.

    Each layer is run alone, in one thread on as many rows as `x` has; medians. Layers that read the input or give the
    scores are measured at the 8 bits they keep. What lies between the layers costs the same whatever their bits.

    Args:
        model: trained, or a `QuantizedNetwork`, which keeps its bits.
        x: rows, shape (n, *row).
        bits: choices for a layer, from 2 to 8.
        vnni: as in `foreknow.weights.hawq.onnx_graph.to_onnx`.
        n_runs: timed runs of each.

    Raises:
        InputError: the model cannot be read.
        MissingExtraError: the extra `onnx` is not installed.
    """
    choices = check_bits("layer_latencies", bits)
    network = QuantizedNetwork(as_network(model, x).reading).to(x.device)
    network.calibrate([x])
    found: dict[str, dict[int, float]] = {name: {} for name in network.reading.layers}
    for number in sorted({*choices, EDGE_BITS}):
        network.set_bits({name: EDGE_BITS if name in network.plan.edges else number for name in found})
        for name, model in layers_onnx(network.eval().to_integer(), vnni=vnni):
            if number in ((EDGE_BITS,) if name in network.plan.edges else choices):
                one = session(model)
                runs = partial(one.run, None, {"x": _ones(one.get_inputs()[0], len(x))})
                found[name][number] = measure_latency(runs, n_runs=n_runs).median
    return found


def _ones(wanted: Any, n: int) -> NDArray[Any]:
    """Rows for the model of one layer; its time does not depend on them."""
    return np.ones((n, *wanted.shape[1:]), dtype=np.int8 if wanted.type == "tensor(int8)" else np.uint8)


def mismatches(graph: IntegerGraph, model: Any, x: NDArray[np.float32], last: NDArray[np.int64]) -> int:
    """How many scores of an exported graph are not those of its last integers."""
    scores = session(model).run(None, {"x": x})[0]
    return int((scores != last.astype(np.float32) * graph.tensors[":scale"].cpu().numpy()).sum())


def deployment(graph: IntegerGraph, x: NDArray[np.float32], *, n_runs: int = 50) -> list[dict[str, Any]]:
    """One record each for float, onnxruntime's uniform 8 bits and the graph of integers, also as it is for VNNI.

    All are run by onnxruntime in one thread on the rows `x` at once. Bytes are those of the ONNX file, where 4-bit
    weights take a byte, and of the library's own file. Scores that differ from those of int64 arithmetic are counted:
    on a processor without VNNI its graph may have some.
    """
    graph = graph.to("cpu")
    model = float_twin(graph)
    models = {"float32": model, "uniform int8 (onnxruntime)": uniform_int8(model, x)}
    integers = {"integers": to_onnx(graph), "integers, VNNI": to_onnx(graph, vnni=True)}
    last = graph.integers(torch.from_numpy(x))[graph.steps[-1].name].numpy()
    records: list[dict[str, Any]] = []
    for name, one in {**models, **integers}.items():
        time = measure_latency(partial(session(one).run, None, {"x": x}), n_runs=n_runs)
        record = {
            "model": name,
            "ms (median)": round(time.median, 4),
            "ms (quartiles)": f"{time.low:.4f} to {time.high:.4f}",
            "times as fast as float": 0.0,
            "bytes (onnx)": len(one.SerializeToString()),
            "bytes (packed)": graph.size_bytes if name in integers else None,
            "scores that differ": mismatches(graph, one, x, last) if name in integers else None,
        }
        records.append(record)
    for record in records:
        record["times as fast as float"] = round(records[0]["ms (median)"] / record["ms (median)"], 3)
    return records
