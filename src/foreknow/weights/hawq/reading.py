"""Reading a trained network: what its layers are and how they are joined, whatever code it is written in.

The network is run once on an example, and every tensor operation that reaches PyTorch is noted. Operations are thus
seen as they are, through modules, functions, in-place forms and exported programs alike. What is not in the list
below is refused by its name, and at the end the operations noted must reproduce the network's own output.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from foreknow.common.errors import ConfigError, InputError

ALLOWED = (
    "Conv2d (groups and dilation too), Linear, BatchNorm2d after a convolution, ReLU, ReLU6, addition of two "
    "activations, AvgPool2d, MaxPool2d, AdaptiveAvgPool2d, mean over height and width, flatten, cat of channels, "
    "Dropout in evaluation mode"
)


@dataclass(frozen=True)
class Norm:
    """Batch normalisation after a layer."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    eps: float


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer.

    Args:
        name: of its module.
        kind: "conv" or "linear".
        weight: shape (out, in / groups, height, width) or (out, in).
        bias: shape (out,), or None.
        settings: stride, padding, dilation and groups of a convolution.
        n_positions: places it is applied at, for one row.
        norm: batch normalisation of its output, or None.
    """

    name: str
    kind: str
    weight: Tensor
    bias: Tensor | None
    settings: dict[str, Any]
    n_positions: int
    norm: Norm | None = None

    @property
    def macs(self) -> int:
        """Multiplications of one row."""
        return self.weight.numel() * self.n_positions


@dataclass(frozen=True)
class Op:
    """An operation: `kind` of "input", "layer", "relu", "add", "concat", "average", "largest", "flatten"."""

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """A network as operations in order, the first being its input and the last its output."""

    ops: tuple[Op, ...]
    layers: dict[str, Layer]
    row_shape: tuple[int, ...]
    n_outputs: int


def read(model: nn.Module | torch.export.ExportedProgram, row_shape: Sequence[int]) -> Reading:
    """The operations of a trained network.

    Args:
        model: a module, which is copied and put into evaluation mode, or an exported program.
        row_shape: of one input row: (channels, height, width) or (features,).

    Raises:
        ConfigError: it is neither.
        InputError: it has an operation that is not supported (named), shared weights, weights that are not finite,
            or cannot be run on such rows.
    """
    n_rows = 2
    if isinstance(model, torch.export.ExportedProgram):
        n_rows = _exported_rows(model)
        net: Callable[[Tensor], Any] = model.module()
    elif isinstance(model, nn.Module):
        net = copy.deepcopy(model).cpu().float().eval()
    else:
        raise ConfigError(
            f"model must be a torch.nn.Module or a torch.export.ExportedProgram, got {type(model).__name__}."
        )
    reader = _Reader(net)  # type: ignore[arg-type]
    x = torch.rand((n_rows, *row_shape), generator=torch.Generator().manual_seed(0))
    reader.name_of[id(x)] = ":input"
    reader.ops.append(Op(":input", "input"))
    try:
        with torch.no_grad(), reader:
            out = net(x)
    except (RuntimeError, TypeError, ValueError, IndexError, AssertionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"the model cannot be run on rows of shape {tuple(row_shape)}: {type(error).__name__}: {error!s:.300}",
            hint="Bring rows of the shape it was trained on.",
        ) from error
    finally:
        reader.forget()
    return reader.finish(x, out)


def run(reading: Reading, x: Tensor) -> Tensor:
    """What the operations make of `x`, in ordinary floating point."""
    done: dict[str, Tensor] = {}
    for op in reading.ops:
        given = [done[name] for name in op.inputs]
        if op.kind == "input":
            done[op.name] = x
        elif op.kind == "layer":
            layer = reading.layers[op.name]
            out = apply_layer(layer.kind, given[0], layer.weight, layer.bias, layer.settings)
            if layer.norm is not None:
                n = layer.norm
                out = nn.functional.batch_norm(out, n.mean, n.variance, n.weight, n.bias, eps=n.eps)
            done[op.name] = out
        else:
            done[op.name] = apply_plain(op.kind, given, op.settings)
    return done[reading.ops[-1].name]


def apply_layer(kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, settings: dict[str, Any]) -> Tensor:
    """A convolution or linear layer."""
    if kind == "linear":
        return nn.functional.linear(x, weight, bias)
    return nn.functional.conv2d(x, weight, bias, **settings)


def apply_plain(kind: str, given: Sequence[Tensor], settings: dict[str, Any]) -> Tensor:
    """An operation without weights."""
    x = given[0]
    if kind == "relu":
        return x.clamp(0.0, settings["cap"])
    if kind == "add":
        return x + given[1]
    if kind == "concat":
        return torch.cat(list(given), dim=1)
    if kind == "flatten":
        return x.flatten(1)
    pool = nn.functional.avg_pool2d if kind == "average" else nn.functional.max_pool2d
    return pool(x, **settings)


def _exported_rows(program: torch.export.ExportedProgram) -> int:
    """Rows a batch of an exported program must have, which may be fixed."""
    names = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names and isinstance(node.meta["val"], Tensor):
            n = node.meta["val"].shape[0]
            return n if isinstance(n, int) else 2
    return 2


class _Reader(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what a network does to its input."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[Op] = []
        self.layers: dict[str, Layer] = {}
        self.name_of: dict[int, str] = {}  # id of a tensor -> the operation that made it
        self._before_norm: dict[int, str] = {}
        self._kept: list[Any] = []  # tensors stay alive, so that no id is used twice
        self._transposed: dict[int, Tensor] = {}
        self._parameter: dict[int, str] = {}
        for name, tensor in [*net.named_parameters(remove_duplicate=False), *net.named_buffers()]:
            self._parameter.setdefault(id(tensor), name)
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputError(f"the model's {name} holds NaN or infinity.", hint="Train it again, or load it anew.")
        self._module: list[str] = []
        self._hooks = []
        for name, module in net.named_modules():
            if not list(module.children()):
                word = f"{type(module).__name__} {name!r}"
                self._hooks.append(module.register_forward_pre_hook(lambda *_, w=word: self._module.append(w)))
                self._hooks.append(module.register_forward_hook(lambda *_: self._leave()))

    def _leave(self) -> None:
        self._module.pop()

    def forget(self) -> None:
        """Take the hooks off again."""
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self._kept.append((args, out))
        op = str(func.overloadpacket.__name__)
        tensors = [t for arg in args for t in (arg if isinstance(arg, list | tuple) else [arg]) if torch.is_tensor(t)]
        if not any(id(t) in self.name_of or id(t) in self._before_norm for t in tensors):
            if op == "t" and id(args[0]) in self._parameter:
                self._transposed[id(out)] = args[0]
            return out
        for t in tensors:
            if id(t) in self._before_norm and id(t) not in self.name_of:
                raise self._refusal(
                    f"the output of {self._before_norm[id(t)]!r} is used before and after its BatchNorm"
                )
        handler = getattr(self, f"_on_{op.rstrip('_')}", None)
        if handler is None:
            raise self._refusal(f"the operation {op.strip('_')!r}")
        handler(out, *args, **(kwargs or {}))
        return out

    def _refusal(self, what: str) -> InputError:
        where = f" (in {self._module[-1]})" if self._module else ""
        return InputError(f"the model has what cannot become integers: {what}{where}.", hint=f"Allowed: {ALLOWED}.")

    def _note(self, out: Tensor, kind: str, inputs: Sequence[Tensor], **settings: Any) -> None:
        for t in inputs:
            if id(t) not in self.name_of:
                raise self._refusal(f"{kind} with a constant or a weight")
        name = f":{kind}_{len(self.ops)}"  # no module is called so
        self.ops.append(Op(name, kind, tuple(self.name_of[id(t)] for t in inputs), settings))
        self.name_of[id(out)] = name

    def _same(self, out: Tensor, x: Tensor) -> None:
        self.name_of[id(out)] = self.name_of[id(x)]

    # Layers -------------------------------------------------------------------------------------------------

    def _layer(
        self, out: Tensor, kind: str, x: Tensor, weight: Tensor, bias: Tensor | None, settings: dict[str, Any]
    ) -> None:
        if id(weight) not in self._parameter:
            raise self._refusal("a layer whose weight is computed (a parametrisation)")
        if id(x) not in self.name_of:
            raise self._refusal("a layer that is applied to a weight")
        name = self._parameter[id(weight)].removesuffix(".weight")
        if name in self.layers:
            raise self._refusal(f"shared weights, {self._parameter[id(weight)]!r} is used twice")
        positions = out[0, 0].numel() if kind == "conv" else 1
        bias = None if bias is None else bias.detach().clone()
        self.layers[name] = Layer(name, kind, weight.detach().clone(), bias, settings, positions)
        self.ops.append(Op(name, "layer", (self.name_of[id(x)],)))
        self.name_of[id(out)] = name

    def _on_convolution(
        self, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
        transposed: bool, output_padding: Any, groups: int,
    ) -> None:  # fmt: skip
        if transposed or x.ndim != 4:
            raise self._refusal("ConvTranspose" if transposed else f"a convolution over {x.ndim - 2} axes")
        settings = {"stride": list(stride), "padding": list(padding), "dilation": list(dilation), "groups": groups}
        self._layer(out, "conv", x, weight, bias, settings)

    def _on_addmm(self, out: Tensor, bias: Tensor, x: Tensor, weight: Tensor, **scaled: Any) -> None:
        if scaled:
            raise self._refusal("a scaled matrix product")
        self._layer(out, "linear", x, self._transposed.get(id(weight), weight), bias, {})

    def _on_mm(self, out: Tensor, x: Tensor, weight: Tensor) -> None:
        self._layer(out, "linear", x, self._transposed.get(id(weight), weight), None, {})

    def _on_native_batch_norm(
        self, out: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None,
        variance: Tensor | None, training: bool, momentum: float, eps: float,
    ) -> None:  # fmt: skip
        if training or mean is None or variance is None:
            raise self._refusal("BatchNorm in training mode or without running statistics")
        name = self.name_of[id(x)]
        layer = self.layers.get(name)
        if layer is None or layer.norm is not None:
            raise self._refusal("BatchNorm that does not follow a convolution")
        if any(name in op.inputs for op in self.ops):
            raise self._refusal(f"the output of {name!r} is used before and after its BatchNorm")
        ones = torch.ones_like(mean)
        given = (ones if weight is None else weight, 0 * ones if bias is None else bias, mean, variance)
        gain, shift, mean, variance = (t.detach().clone() for t in given)
        self.layers[name] = replace(layer, norm=Norm(gain, shift, mean, variance, eps))
        self._before_norm[id(x)] = name
        del self.name_of[id(x)]
        self.name_of[id(out[0])] = name

    # Everything else ----------------------------------------------------------------------------------------

    def _on_relu(self, out: Tensor, x: Tensor) -> None:
        self._note(out, "relu", [x], cap=None)

    def _on_hardtanh(self, out: Tensor, x: Tensor, low: float = -1.0, high: float = 1.0) -> None:
        if low != 0:
            raise self._refusal(f"Hardtanh from {low:g}; only from 0 (ReLU6)")
        self._note(out, "relu", [x], cap=float(high))

    def _on_add(self, out: Tensor, x: Any, other: Any, alpha: float = 1) -> None:
        if alpha != 1 or not torch.is_tensor(x) or not torch.is_tensor(other) or x.shape != other.shape:
            raise self._refusal("addition of a constant, with a factor, or of different shapes")
        self._note(out, "add", [x, other])

    def _on_cat(self, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
        if dim % out.ndim != 1:
            raise self._refusal(f"cat over axis {dim}; only over channels (axis 1)")
        self._note(out, "concat", list(tensors))

    def _on_avg_pool2d(
        self, out: Tensor, x: Tensor, size: Any, stride: Any = (), padding: Any = (0,), ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: Any = None,
    ) -> None:  # fmt: skip
        padded = any(padding) if isinstance(padding, list | tuple) else bool(padding)
        if ceil_mode or divisor_override is not None or (padded and not count_include_pad):
            raise self._refusal("AvgPool2d with ceil_mode, a divisor, or padding that is not counted")
        self._pool(out, "average", x, size, stride, padding)

    def _on_max_pool2d_with_indices(
        self, out: Any, x: Tensor, size: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,),
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        if ceil_mode or _pair(dilation) != [1, 1]:
            raise self._refusal("MaxPool2d with ceil_mode or dilation")
        self._pool(out[0], "largest", x, size, stride, padding)

    def _pool(self, out: Tensor, kind: str, x: Tensor, size: Any, stride: Any, padding: Any) -> None:
        kernel = _pair(size)
        stride = _pair(stride) if stride else kernel
        self._note(out, kind, [x], kernel_size=kernel, stride=stride, padding=_pair(padding))

    def _on__adaptive_avg_pool2d(self, out: Tensor, x: Tensor, size: Sequence[int]) -> None:
        if any(whole % part for whole, part in zip(x.shape[2:], size)):
            raise self._refusal(f"AdaptiveAvgPool2d from {tuple(x.shape[2:])} to {tuple(size)}, which does not divide")
        kernel = [whole // part for whole, part in zip(x.shape[2:], size)]
        self._pool(out, "average", x, kernel, kernel, 0)

    def _on_mean(self, out: Tensor, x: Tensor, dims: Sequence[int], keepdim: bool = False, **_: Any) -> None:
        if x.ndim != 4 or sorted(d % 4 for d in dims) != [2, 3]:
            raise self._refusal("a mean that is not over height and width")
        self._pool(out, "average", x, list(x.shape[2:]), [], 0)
        if not keepdim:
            self._note(out, "flatten", [out])

    def _on_view(self, out: Tensor, x: Tensor, *_: Any) -> None:
        if out.shape == x.shape:
            self._same(out, x)
        elif out.ndim == 2 and out.shape[0] == x.shape[0]:
            self._note(out, "flatten", [x])
        else:
            raise self._refusal(f"a change of shape from {tuple(x.shape)} to {tuple(out.shape)}; only flatten(1)")

    _on__unsafe_view = _on_view

    def _on_detach(self, out: Tensor, x: Tensor) -> None:
        self._same(out, x)

    _on_alias = _on_detach

    def _on_clone(self, out: Tensor, x: Tensor, **_: Any) -> None:
        self._same(out, x)

    # The end ------------------------------------------------------------------------------------------------

    def finish(self, x: Tensor, out: Any) -> Reading:
        """The reading, once it reproduces what the network returned."""
        if not torch.is_tensor(out) or id(out) not in self.name_of or out.ndim != 2:
            what = f"shape {tuple(out.shape)}" if torch.is_tensor(out) else type(out).__name__
            raise InputError(f"the model must return one row of class scores a row (n, classes), got {what}.")
        last = self.name_of[id(out)]
        ops = _needed(self.ops, last)
        layers = {op.name: self.layers[op.name] for op in ops if op.kind == "layer"}
        if not layers:
            raise InputError("the model has no convolution and no linear layer to quantise.")
        reading = Reading(ops, layers, tuple(x.shape[1:]), int(out.shape[1]))
        with torch.no_grad():
            again = run(reading, x)
        if not torch.allclose(again, out, rtol=1e-3, atol=1e-4 * float(out.abs().max())):
            raise InputError(
                "the model does something that was not seen: its operations, run again, give another output.",
                hint="Code that changes tensors in place or keeps state between calls cannot be read.",
            )
        return reading


def _needed(ops: Sequence[Op], last: str) -> tuple[Op, ...]:
    """The operations that the last one depends on, in order."""
    wanted = {last}
    for op in reversed(ops):
        if op.name in wanted:
            wanted |= set(op.inputs)
    kept = [op for op in ops if op.name in wanted]
    return tuple(sorted(kept, key=lambda op: op.name == last))


def _pair(value: Any) -> list[int]:
    items = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (items * 2 if len(items) == 1 else items)]
