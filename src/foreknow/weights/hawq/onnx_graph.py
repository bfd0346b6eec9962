"""The graph of integers as ONNX, and beside it the same layers in floating point.

Between the rounding of the input and the scores every tensor is an integer; `float_operations` lists what is not, and
the export refuses to write a file where that list is not empty. Right shifts exist in ONNX for unsigned numbers only:
a multiple of the divisor is added before, and taken off after.

Which of two factors is unsigned decides how fast they are multiplied: onnxruntime has quick kernels for unsigned
weights of convolutions and for unsigned rows of matrices, and none for two signed factors (on x86). So one is lifted
above zero, and its zero point given beside it. A processor without VNNI adds two products of an unsigned and a signed
byte in 16 bits, where those of weights of 8 bits may saturate; both factors are unsigned there, unless the graph is for
VNNI only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.errors import CapabilityError
from foreknow.common.files import atomic_path
from foreknow.weights.hawq.integers import IntegerGraph, IntegerStep

OPSET = 21
_FLOATS = (np.float32, np.float32)
_LIFTED_BITS = 7
"""Weights of up to so many bits, lifted above zero, times a signed byte: two such products fit 16 bits."""


class _Writer:
    """Nodes and constants of a graph under construction."""

    def __init__(self) -> None:
        self.onnx: Any = require("onnx", "Exporting to ONNX")
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self._count = 0

    def constant(self, values: Any) -> str:
        """The name of a constant."""
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(values).reshape(np.shape(values))  # the former makes one axis of none
        self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def add(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        """Add a node; its output is named."""
        self._count += 1
        out = out or f"{kind.lower()}_{self._count}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [out], **attributes))
        return out

    def cast(self, x: str, kind: type[np.generic], out: str = "") -> str:
        """Convert to another type."""
        return self.add("Cast", x, out=out, to=self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def model(self, shape_in: Sequence[int], shape_out: Sequence[int], kinds: Sequence[Any] = _FLOATS) -> Any:
        """The finished model from "x" to "scores", checked; shapes are those of one row."""
        helper = self.onnx.helper
        kind_in, kind_out = (helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind in kinds)
        graph = helper.make_graph(
            self.nodes,
            "foreknow",
            [helper.make_tensor_value_info("x", kind_in, ["n", *shape_in])],
            [helper.make_tensor_value_info("scores", kind_out, ["n", *shape_out])],
            list(self.constants.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        model.producer_name = "foreknow"
        self.onnx.checker.check_model(model, full_check=True)
        return model


class _IntegerWriter(_Writer):
    def __init__(self, graph: IntegerGraph, vnni: bool) -> None:
        super().__init__()
        self.graph, self.vnni = graph, vnni
        self.few: set[str] = set()  # steps whose output is int8 or uint8; all others are int32
        self.ranges: dict[str, tuple[int, int]] = {}  # least and largest integer of every step

    def write(self) -> Any:
        out: dict[str, str] = {}
        for step in self.graph.steps:
            own = {name: t.cpu().numpy() for name, t in self.graph._own(step).items()}
            out[step.name] = getattr(self, f"_{step.kind}")(step, [out[name] for name in step.inputs] or ["x"], own)
            if any(name in self.few for name in step.inputs) and step.kind in ("relu", "largest", "flatten"):
                self.few.add(step.name)
            self.ranges.setdefault(step.name, self._range(step))
        scale = self.constant(self.graph.tensors[":scale"].cpu().numpy())
        self.add("Mul", self.cast(out[self.graph.steps[-1].name], np.float32), scale, out="scores")
        return self.model(self.graph.row_shape, self.graph.tensors[":scale"].shape)

    def layers(self) -> Iterator[tuple[str, Any]]:
        """Every layer's name and a model of it alone, from the bytes that it reads to its sums."""
        self.write()
        steps = {step.name: step for step in self.graph.steps}
        for name in self.graph.bits:
            step, reads = steps[name], steps[steps[name].inputs[0]]
            self.nodes, self.constants = [], {}
            own = {what: t.cpu().numpy() for what, t in self.graph._own(step).items()}
            self.add("Identity", getattr(self, f"_{step.kind}")(step, ["x"], own), out="scores")
            kind = np.int8 if self.ranges[reads.name][0] < 0 else np.uint8
            yield name, self.model(reads.shape, step.shape, (kind, np.int32))

    def _range(self, step: IntegerStep) -> tuple[int, int]:
        if "bound" in step.settings:
            return -step.settings["bound"], step.settings["bound"]
        if "low" in step.settings:
            return step.settings["low"], step.settings["high"]
        low, high = self.ranges[step.inputs[0]]
        return (max(low, 0), max(high, 0)) if step.kind == "relu" else (low, high)

    def _few_bits(self, x: str, low: int, high: int, step: IntegerStep) -> str:
        self.few.add(step.name)
        return self.cast(x, np.int8 if low < 0 else np.uint8)

    def _unsigned(self, x: str, step: str) -> tuple[str, str]:
        """The bytes of a step as uint8, and their zero point."""
        low, high = self.ranges[step]
        if high > 127:
            return x, self.constant(np.uint8(0))
        x = self.cast(x, np.uint8)
        if low >= 0:
            return x, self.constant(np.uint8(0))
        return self.add("BitwiseXor", x, self.constant(np.uint8(128))), self.constant(np.uint8(128))

    def _factors(self, step: IntegerStep, x: str, weight: NDArray[Any], lifted: str) -> list[str]:
        """Input and weights of a layer and their zero points; `lifted` is the one that has to be unsigned."""
        middle = 2 ** (step.settings["bits"] - 1)
        signed = self.vnni or step.settings["bits"] <= _LIFTED_BITS  # a signed factor beside the unsigned one
        if lifted == "weight" and signed and self.ranges[step.inputs[0]][1] <= 127:
            given = [self.cast(x, np.int8), self.constant(np.int8(0))]
        else:
            given = list(self._unsigned(x, step.inputs[0]))
        if lifted == "input" and signed:
            own = [self.constant(weight), self.constant(np.int8(0))]
        else:
            own = [self.constant((weight.astype(np.int16) + middle).astype(np.uint8)), self.constant(np.uint8(middle))]
        return [given[0], own[0], given[1], own[1]]

    def _quantize(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        low, high = step.settings["low"], step.settings["high"]
        rounded = self.add("Round", self.add("Mul", "x", self.constant(own["factor"])))
        clipped = self.add("Clip", rounded, *(self.constant(np.float32(v)) for v in (low, high)))
        return self._few_bits(clipped, low, high, step)

    def _conv(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        s = step.settings
        factors = self._factors(step, given[0], own["weight"], "weight")
        acc = self.add(
            "ConvInteger", *factors, strides=s["stride"], dilations=s["dilation"],
            pads=[*s["padding"], *s["padding"]], group=s["groups"],
        )  # fmt: skip
        return self.add("Add", acc, self.constant(own["bias"][None, :, None, None]))

    def _linear(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        acc = self.add("MatMulInteger", *self._factors(step, given[0], own["weight"].T, "input"))
        return self.add("Add", acc, self.constant(own["bias"]))

    def _relu(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        few = step.inputs[0] in self.few
        return self.add("Max", given[0], self.constant(np.zeros((), np.int8 if few else np.int32)))

    def _requantize(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        low, high = step.settings["low"], step.settings["high"]
        shape = (-1,) + (1,) * (len(step.shape) - 1) if own["shift"].ndim else ()
        m, e = own["multiplier"].reshape(shape), own["shift"].reshape(shape)
        half = np.int64(1) << (e - 1)
        least, most = (number * m + half >> e for number in self.ranges[step.inputs[0]])
        self.ranges[step.name] = max(int(least.min()), low), min(int(most.max()), high)
        lift = np.maximum(-least, 0)  # so that what is shifted is not negative
        product = self.add("Mul", self.cast(given[0], np.uint64), self.constant(m.astype(np.uint64)))
        lifted = self.add("Add", product, self.constant((half + (lift << e)).astype(np.uint64)))
        shifted = self.add("BitShift", lifted, self.constant(e.astype(np.uint64)), direction="RIGHT")
        kind = np.int32 if (most + lift).max() < 2**31 else np.int64
        whole = self.cast(shifted, kind)
        if lift.any():
            whole = self.add("Add", whole, self.constant(-lift.astype(kind)))
        if least.min() < low or most.max() > high:
            whole = self.add("Clip", whole, self.constant(kind(low)), self.constant(kind(high)))
        if low >= -128 and high <= (127 if low < 0 else 255):
            return self._few_bits(whole, low, high, step)
        return self.cast(whole, np.int32)

    def _clipped(self, x: str, step: IntegerStep) -> str:
        return self.add("Clip", x, *(self.constant(np.int32(step.settings[name])) for name in ("low", "high")))

    def _add(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        return self._clipped(self.add("Add", *given), step)

    def _concat(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        return self._clipped(self.add("Concat", *given, axis=1), step)

    def _flatten(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        return self.add("Flatten", given[0], axis=1)

    def _window_parts(self, x: str, step: IntegerStep, fill: int) -> list[str]:
        """The input at every place of the window, as slices; neither pool exists for integers of 32 bits."""
        s = step.settings
        (p, q), (i, j), (kernel, width) = s["padding"], s["stride"], s["kernel_size"]
        if p or q:
            pads = self.constant(np.array([0, 0, p, q, 0, 0, p, q]))
            x = self.add("Pad", x, pads, self.constant(np.int32(fill)))
        axes, strides = self.constant(np.array([2, 3])), self.constant(np.array([i, j]))
        height, breadth = step.shape[1:]
        parts = []
        for a in range(kernel):
            for b in range(width):
                start, end = np.array([a, b]), np.array([a + i * (height - 1) + 1, b + j * (breadth - 1) + 1])
                parts.append(self.add("Slice", x, self.constant(start), self.constant(end), axes, strides))
        return parts

    def _average(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        """floor(sum / k) for |sum| <= 2^15 k, as a multiplication and a shift (Granlund & Montgomery 1994)."""
        k = int(np.prod(step.settings["kernel_size"]))
        x = given[0]
        if step.inputs[0] in self.few:
            x = self.cast(x, np.int32)
        if step.shape[1:] == (1, 1) and not any(step.settings["padding"]):
            total = self.add("ReduceSum", x, self.constant(np.array([2, 3])), keepdims=1)
        else:
            parts = self._window_parts(x, step, 0)
            total = parts[0]
            for part in parts[1:]:
                total = self.add("Add", total, part)
        bits = 31 + (k - 1).bit_length()
        lift = 2**16  # larger than any mean in size, so that what is divided is not negative
        numerator = self.add("Add", self.cast(total, np.int64), self.constant(np.int64(lift * k)))
        product = self.add("Mul", numerator, self.constant(np.int64(-(-(2**bits) // k))))
        shift = self.constant(np.uint64(bits))
        quotient = self.cast(self.add("BitShift", self.cast(product, np.uint64), shift, direction="RIGHT"), np.int64)
        mean = self.add("Sub", quotient, self.constant(np.int64(lift)))
        if step.inputs[0] in self.few:
            self.few.add(step.name)
            return self.cast(mean, np.int8)
        return self.cast(mean, np.int32)

    def _largest(self, step: IntegerStep, given: list[str], own: dict[str, NDArray[Any]]) -> str:
        few = step.inputs[0] in self.few
        x = self.cast(given[0], np.int32) if few else given[0]
        largest = self.add("Max", *self._window_parts(x, step, -(2**31)))
        return self.cast(largest, np.int8) if few else largest


def to_onnx(graph: IntegerGraph, *, vnni: bool = False) -> Any:
    """The graph of integers as an ONNX model, from "x" (float32) to "scores" (float32).

    Args:
        graph: what to write.
        vnni: True multiplies weights of 8 bits quicker, and is exact only where the processor adds products of bytes in
            32 bits: Intel from Cascade Lake and Ice Lake on, AMD from Zen 4 on, ARM.

    Raises:
        CapabilityError: the model would compute with floating point between its two ends.
        MissingExtraError: the extra `onnx` is not installed.
    """
    model = _IntegerWriter(graph, vnni).write()
    found = float_operations(model)
    if found:
        raise CapabilityError(f"the exported graph would compute in floating point: {', '.join(found)}.")
    return model


def layers_onnx(graph: IntegerGraph, *, vnni: bool = False) -> Iterator[tuple[str, Any]]:
    """Every layer's name and an ONNX model of it, from the bytes "x" that it reads to its sums "scores" (int32)."""
    return _IntegerWriter(graph, vnni).layers()


def export_onnx(graph: IntegerGraph, path: str | Path, *, vnni: bool = False) -> Path:
    """Write `to_onnx(graph)` to a file."""
    text = to_onnx(graph, vnni=vnni).SerializeToString()
    with atomic_path(path) as temporary:
        temporary.write_bytes(text)
    return Path(path)


def float_operations(model: Any) -> list[str]:
    """Nodes that touch a floating-point tensor, other than the rounding of the input and the scaling of the scores."""
    onnx = require("onnx", "Reading an ONNX model")
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    is_float = {v.name for v in (*inferred.value_info, *inferred.input, *inferred.output)
                if v.type.tensor_type.elem_type in floats}  # fmt: skip
    is_float |= {constant.name for constant in inferred.initializer if constant.data_type in floats}
    nodes = list(inferred.node)
    at_the_ends = {id(node) for node in _from_input(nodes)} | {id(node) for node in _to_output(nodes)}
    return [
        node.op_type
        for node in nodes
        if id(node) not in at_the_ends and any(name in is_float for name in (*node.input, *node.output))
    ]


def _from_input(nodes: list[Any]) -> list[Any]:
    """The chain of Mul, Round, Clip and Cast that makes integers of the input."""
    found, name = [], "x"
    for kind in ("Mul", "Round", "Clip", "Cast"):
        node = next((node for node in nodes if name in node.input and node.op_type == kind), None)
        if node is None:
            return []
        found.append(node)
        name = node.output[0]
    return found


def _to_output(nodes: list[Any]) -> list[Any]:
    """The Cast and Mul that make scores of the last integers."""
    last = next((node for node in nodes if "scores" in node.output and node.op_type == "Mul"), None)
    before = next((node for node in nodes if last is not None and last.input[0] in node.output), None)
    return [last, before] if before is not None and before.op_type == "Cast" else []


class _FloatWriter(_Writer):
    """The same layers in floating point, nothing rounded but the weights."""

    def write(self, graph: IntegerGraph) -> Any:
        out: dict[str, str] = {}
        scale: dict[str, Any] = {}  # what one integer is worth that a layer reads
        for step in graph.steps:
            given, s = [out[name] for name in step.inputs], step.settings
            own = {name: t.cpu().numpy() for name, t in graph._own(step).items()}
            scale[step.name] = own.get("scale", scale.get(step.inputs[0]) if step.inputs else None)
            if step.kind == "quantize":
                out[step.name] = "x"
            elif step.kind in ("requantize", "relu"):
                out[step.name] = given[0] if step.kind == "requantize" else self._relu(given[0], s["cap"])
            elif step.kind in ("conv", "linear"):
                out[step.name] = self._layer(step, given[0], own, scale[step.inputs[0]])
            elif step.kind in ("average", "largest"):
                kind, more = "MaxPool", dict[str, Any]()
                if step.kind == "average":
                    kind, more = "AveragePool", {"count_include_pad": 1}
                pads = [*s["padding"], *s["padding"]]
                out[step.name] = self.add(
                    kind, given[0], kernel_shape=s["kernel_size"], strides=s["stride"], pads=pads, **more
                )
            else:
                kind = {"add": "Add", "concat": "Concat", "flatten": "Flatten"}[step.kind]
                where: dict[str, Any] = {} if step.kind == "add" else {"axis": 1}
                out[step.name] = self.add(kind, *given, **where)
        self.add("Identity", out[graph.steps[-1].name], out="scores")
        return self.model(graph.row_shape, graph.tensors[":scale"].shape)

    def _relu(self, x: str, cap: float | None) -> str:
        if cap is None:
            return self.add("Relu", x)
        return self.add("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(cap)))

    def _layer(self, step: IntegerStep, x: str, own: dict[str, NDArray[Any]], scale_in: Any) -> str:
        weight, s = own["weight"], step.settings
        each = (own["scale"] / scale_in).reshape([-1] + [1] * (weight.ndim - 1))
        constants = [self.constant((v * f).astype(np.float32))
                     for v, f in ((weight, each), (own["bias"], own["scale"]))]  # fmt: skip
        if step.kind == "linear":
            return self.add("Gemm", x, *constants, transB=1)
        pads = [*s["padding"], *s["padding"]]
        return self.add(
            "Conv", x, *constants, strides=s["stride"], dilations=s["dilation"], group=s["groups"], pads=pads
        )


def float_twin(graph: IntegerGraph) -> Any:
    """The layers of a graph in floating point as an ONNX model, its rounded weights and all: a yardstick of latency."""
    return _FloatWriter().write(graph)
