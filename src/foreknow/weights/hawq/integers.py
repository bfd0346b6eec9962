"""A network as a graph of integers: multiplications, additions, comparisons and bit shifts, nothing else.

Floating point is met twice: when the input is rounded to 8 bits, and when the last accumulators become scores. Between
the two there are integers only. `IntegerGraph.run` computes with them in numpy's int64, literally; calling the graph
gives the same integers sooner (sums of products of small integers are exact in floating point as long as they stay
below 2^24 or 2^53, which each layer's bound says).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from foreknow.common.errors import CheckpointError

KINDS = ("quantize", "conv", "linear", "relu", "requantize", "add", "concat", "average", "largest", "flatten")
_LEAST = -(2**62)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class IntegerStep:
    """One step.

    Args:
        name: of the step; its tensors are called `<name>/<what>`.
        kind: one of `KINDS`.
        inputs: the steps it reads.
        settings: of the kind: clip limits, strides, the bits and the bound of a layer.
        shape: of one row's output.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class IntegerGraph:
    """A network of integers.

    Args:
        steps: in order; the last gives the accumulators of the scores.
        tensors: weights (int8), biases (int32), multipliers and shifts (int64) compute; the factor of the input rounds
            it, and ":scale" makes scores of the last integers. What one integer is worth after a layer or a rounding is
            kept beside, as "scale".
        row_shape: of one input row.
    """

    steps: tuple[IntegerStep, ...]
    tensors: dict[str, Tensor]
    row_shape: tuple[int, ...]

    def to(self, device: torch.device | str) -> IntegerGraph:
        """The same graph on another device."""
        return replace(self, tensors={name: t.to(device) for name, t in self.tensors.items()})

    def with_input_unit(self, unit: float) -> IntegerGraph:
        """The graph for inputs that are `unit` times as large."""
        first = self.steps[0].name
        changed = {f"{first}/factor": self.tensors[f"{first}/factor"] / unit,
                   f"{first}/scale": self.tensors[f"{first}/scale"] * unit}  # fmt: skip
        return replace(self, tensors={**self.tensors, **changed})

    @property
    def bits(self) -> dict[str, int]:
        """Bits of every layer's weights."""
        return {step.name: step.settings["bits"] for step in self.steps if step.kind in ("conv", "linear")}

    @property
    def size_bytes(self) -> int:
        """What computes takes: weights packed at their bits, biases, multipliers and shifts."""
        return sum(t.numel() * t.element_size() for name, t in self.packed().items() if not name.endswith("/scale"))

    def __call__(self, x: Tensor) -> Tensor:
        """Class scores, shape (n, classes), float64."""
        return self.integers(x)[self.steps[-1].name].double() * self.tensors[":scale"].double()

    def integers(self, x: Tensor) -> dict[str, Tensor]:
        """Every step's integers, int64."""
        done: dict[str, Tensor] = {}
        with torch.no_grad():
            for step in self.steps:
                done[step.name] = _fast(step, [done[name] for name in step.inputs] or [x], self._own(step))
        return done

    def run(self, x: NDArray[Any]) -> dict[str, Ints]:
        """Every step's integers, computed in int64 and nothing else; slow."""
        done: dict[str, Ints] = {}
        for step in self.steps:
            own = {name: t.cpu().numpy() for name, t in self._own(step).items()}
            done[step.name] = _plain(step, [done[name] for name in step.inputs] or [x], own)
        return done

    def _own(self, step: IntegerStep) -> dict[str, Tensor]:
        start = f"{step.name}/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}

    # Files --------------------------------------------------------------------------------------------------

    def packed(self) -> dict[str, Tensor]:
        """The tensors for a file: weights of 2 and 4 bits share bytes, shifts take one byte."""
        bits = self.bits
        found = {}
        for name, tensor in self.tensors.items():
            layer, _, what = name.rpartition("/")
            if what == "weight":
                tensor = pack(tensor, bits[layer])
            elif what == "shift":
                tensor = tensor.to(torch.uint8)
            elif what == "multiplier":
                tensor = tensor.int()
            found[name] = tensor.contiguous()
        return found

    def describe(self) -> dict[str, Any]:
        """The steps as JSON."""
        shapes = {name: list(t.shape) for name, t in self.tensors.items() if name.endswith("/weight")}
        steps = [{**vars(step), "inputs": list(step.inputs), "shape": list(step.shape)} for step in self.steps]
        return {"steps": steps, "shapes": shapes, "row_shape": list(self.row_shape)}

    @classmethod
    def restore(cls, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> IntegerGraph:
        """The inverse of `describe` and `packed`.

        Raises:
            CheckpointError: a step is of no known kind, or reads what no earlier step made.
        """
        steps: list[IntegerStep] = []
        for record in described["steps"]:
            step = IntegerStep(
                str(record["name"]),
                str(record["kind"]),
                tuple(record["inputs"]),
                dict(record["settings"]),
                tuple(record["shape"]),
            )
            if step.kind not in KINDS or not set(step.inputs) <= {earlier.name for earlier in steps}:
                raise CheckpointError(f"the file holds a step that cannot be: {step!r:.200}.")
            steps.append(step)
        graph = cls(tuple(steps), {}, tuple(int(size) for size in described["row_shape"]))
        for name, tensor in tensors.items():
            layer, _, what = name.rpartition("/")
            if what == "weight":
                tensor = unpack(tensor, graph.bits[layer], described["shapes"][name])
            elif what in ("shift", "multiplier"):
                tensor = tensor.long()
            graph.tensors[name] = tensor
        return graph

    def export_onnx(self, path: Any, *, vnni: bool = False) -> Any:
        """Write the graph for other runtimes; see `foreknow.weights.hawq.onnx_graph.to_onnx`."""
        from foreknow.weights.hawq.onnx_graph import export_onnx

        return export_onnx(self, path, vnni=vnni)


def pack(weights: Tensor, bits: int) -> Tensor:
    """Integers of 2 or 4 bits, four or two a byte; others as they are."""
    if bits not in (2, 4):
        return weights
    each = 8 // bits
    flat = weights.flatten().to(torch.int64) & (2**bits - 1)
    flat = nn.functional.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
    return (flat << (bits * torch.arange(each, device=flat.device))).sum(1).to(torch.uint8)


def unpack(stored: Tensor, bits: int, shape: list[int]) -> Tensor:
    """The inverse of `pack`."""
    if bits not in (2, 4):
        return stored.reshape(shape)
    each = 8 // bits
    flat = (stored.long()[:, None] >> (bits * torch.arange(each, device=stored.device))) & (2**bits - 1)
    flat = torch.where(flat >= 2 ** (bits - 1), flat - 2**bits, flat).flatten()
    return flat[: int(np.prod(shape))].to(torch.int8).reshape(shape)


# The same steps twice ------------------------------------------------------------------------------------------------


def _fast(step: IntegerStep, given: list[Tensor], own: Mapping[str, Tensor]) -> Any:
    x, settings = given[0], step.settings
    if step.kind == "quantize":
        return (x.float() * own["factor"]).round().clamp(settings["low"], settings["high"]).long()
    if step.kind in ("conv", "linear"):
        # In single precision GPUs may take algorithms that are not exact; there only double is.
        single = settings["bound"] < 2**24 and x.device.type == "cpu"
        kind = torch.float32 if single else torch.float64
        weight = own["weight"].to(kind)
        if step.kind == "linear":
            acc = nn.functional.linear(x.to(kind), weight)
        else:
            acc = nn.functional.conv2d(x.to(kind), weight, **_window(settings), groups=settings["groups"])
        return acc.round_().long().add_(_channels(own["bias"].long(), acc.ndim))
    if step.kind == "relu":
        return x.clamp_min(0)
    if step.kind == "requantize":
        m, e = (_channels(own[name], x.ndim) for name in ("multiplier", "shift"))
        return (x * m).add_(1 << (e - 1)).bitwise_right_shift_(e).clamp_(settings["low"], settings["high"])
    if step.kind == "add":
        return (x + given[1]).clamp(settings["low"], settings["high"])
    if step.kind == "concat":
        return torch.cat(given, dim=1).clamp(settings["low"], settings["high"])
    if step.kind == "average":
        size = settings["kernel_size"]
        sums = nn.functional.avg_pool2d(x.double(), **settings, divisor_override=1).round().long()
        return torch.div(sums, size[0] * size[1], rounding_mode="floor")
    if step.kind == "largest":
        return nn.functional.max_pool2d(x.double(), **settings).long()
    return x.flatten(1)


def _plain(step: IntegerStep, given: list[NDArray[Any]], own: Mapping[str, NDArray[Any]]) -> Any:
    x, settings = given[0], step.settings
    if step.kind == "quantize":
        rounded = np.rint(np.asarray(x, dtype=np.float32) * own["factor"])
        return np.clip(rounded, settings["low"], settings["high"]).astype(np.int64)
    if step.kind == "linear":
        return np.asarray(x @ own["weight"].astype(np.int64).T + own["bias"].astype(np.int64))
    if step.kind == "conv":
        return _convolution(x, own["weight"].astype(np.int64), own["bias"].astype(np.int64), settings)
    if step.kind == "relu":
        return np.maximum(x, 0)
    if step.kind == "requantize":
        m, e = (_channels(own[name], x.ndim) for name in ("multiplier", "shift"))
        return np.clip((x * m + (np.int64(1) << (e - 1))) >> e, settings["low"], settings["high"])
    if step.kind in ("add", "concat"):
        joined = x + given[1] if step.kind == "add" else np.concatenate(given, axis=1)
        return np.clip(joined, settings["low"], settings["high"])
    if step.kind == "average":
        size = settings["kernel_size"]
        sums = _windows(x, size, settings["stride"], settings["padding"], [1, 1], 0).sum((4, 5))
        return np.asarray(sums // (size[0] * size[1]))
    if step.kind == "largest":
        size = settings["kernel_size"]
        return np.asarray(_windows(x, size, settings["stride"], settings["padding"], [1, 1], _LEAST).max((4, 5)))
    return x.reshape(len(x), -1)


def _channels(values: Any, ndim: int) -> Any:
    """One value a channel in a shape that broadcasts over axis 1; one for all stays as it is."""
    return values if values.ndim == 0 else values.reshape([1, -1] + [1] * (ndim - 2))


def _window(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("stride", "padding", "dilation")}


def _windows(x: Ints, size: Any, stride: Any, padding: Any, dilation: Any, fill: int) -> Ints:
    """All windows, shape (n, channels, height, width, *size)."""
    p, q = padding
    padded = np.pad(x, ((0, 0), (0, 0), (p, p), (q, q)), constant_values=fill)
    reach = tuple((k - 1) * d + 1 for k, d in zip(size, dilation))
    seen = sliding_window_view(padded, reach, axis=(2, 3))
    return np.asarray(seen[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]])


def _convolution(x: Ints, weight: Ints, bias: Ints, settings: Mapping[str, Any]) -> Ints:
    groups = int(settings["groups"])
    seen = _windows(x, weight.shape[2:], settings["stride"], settings["padding"], settings["dilation"], 0)
    parts = [
        np.einsum("nchwij,ocij->nohw", window, part, optimize=True)
        for window, part in zip(np.split(seen, groups, axis=1), np.split(weight, groups))
    ]
    return np.concatenate(parts, axis=1) + bias[:, None, None]
