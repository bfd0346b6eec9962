"""The quantised network: trained with rounded numbers, evaluated as the integers it will become.

Every value is a pair of integers (as floats, so that gradients exist) and their scale. In training they are float32;
in evaluation float64, where sums of products are exact, and the dyadic requantisation goes through int64. Batch
normalisation is folded into the weights before these are rounded, except in training with `fold=False`, where the
weights are rounded as they are and the statistics go on moving.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from foreknow.common.errors import ConfigError, InputError
from foreknow.weights.hawq.integers import IntegerGraph, IntegerStep
from foreknow.weights.hawq.quantizers import (
    ACCUMULATOR,
    Grid,
    dyadic,
    layer_scale,
    per_channel,
    quantize_weight,
    requantize,
    shift,
    to_grid,
    weight_scale,
)
from foreknow.weights.hawq.reading import Layer, Reading, apply_layer, apply_plain
from foreknow.weights.hawq.steps import EDGE_BITS, Step, plan_steps

MOMENTUM_OF_NORM = 0.01
"""Share of a batch in the running statistics of batch normalisation, in quantised training."""
Pair = tuple[Tensor, Tensor]


class QuantizedLayer(nn.Module):
    """A layer with its weights in float, from which the integers are made.

    Args:
        layer: as it was read.
        bits: of its weights.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, layer: Layer, bits: int = EDGE_BITS) -> None:
        super().__init__()
        self.name, self.kind, self.settings, self.bits = layer.name, layer.kind, layer.settings, bits
        self.weight = nn.Parameter(layer.weight.clone())
        bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
        self.bias = nn.Parameter(bias.clone())
        norm = layer.norm
        self.eps = None if norm is None else norm.eps
        if norm is not None:
            self.norm_weight, self.norm_bias = nn.Parameter(norm.weight.clone()), nn.Parameter(norm.bias.clone())
            self.register_buffer("mean", norm.mean.clone())
            self.register_buffer("variance", norm.variance.clone())

    def folded(self) -> Pair:
        """Weight and bias with batch normalisation in them."""
        if self.eps is None:
            return self.weight, self.bias
        factor = self.norm_weight / (self.variance + self.eps).sqrt()
        return (
            self.weight * per_channel(factor, self.weight.ndim, axis=0),
            (self.bias - self.mean) * factor + self.norm_bias,
        )

    def integers(self, scale_in: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and biases as integers, and the scale of every output channel."""
        weight, bias = self.folded()
        scale = layer_scale(weight, bias, scale_in, self.bits)
        out = scale * scale_in
        whole = to_grid(bias.double(), out.double(), 1 - ACCUMULATOR, ACCUMULATOR - 1)
        return quantize_weight(weight, scale, self.bits), whole, out

    def unfolded(self, x: Tensor, scale_in: Tensor) -> Tensor:
        """Rounded weights, then batch normalisation by the batch, whose statistics are learnt; in float."""
        scale = weight_scale(self.weight, self.bits)
        out = apply_layer(self.kind, x, quantize_weight(self.weight, scale, self.bits), None, self.settings)
        out = out * per_channel(scale * scale_in, out.ndim) + per_channel(self.bias, out.ndim)
        return nn.functional.batch_norm(
            out, self.mean, self.variance, self.norm_weight, self.norm_bias, True, MOMENTUM_OF_NORM, self.eps or 0.0
        )


class QuantizedNetwork(nn.Module):
    """A network whose layers compute with integers.

    Args:
        reading: the trained network, as `read` gives it.
        momentum: of the moving average of activation ranges; -1 keeps the extremes ever seen.
        fold: whether batch normalisation is folded, its statistics frozen, in training too.
    """

    def __init__(self, reading: Reading, *, momentum: float = 0.95, fold: bool = True) -> None:
        super().__init__()
        self.reading, self.plan, self.fold = reading, plan_steps(reading), fold
        self.layers = nn.ModuleList(QuantizedLayer(layer) for layer in reading.layers.values())
        self.grids = nn.ModuleList(
            Grid(bits or EDGE_BITS, positive=positive, momentum=momentum) for bits, positive in self.plan.grids.values()
        )
        self._layer_at = {name: i for i, name in enumerate(reading.layers)}
        self._grid_at = {name: i for i, name in enumerate(self.plan.grids)}
        self._sums = {step.grid for step in self.plan.steps if step.kind in ("add", "concat")}

    def layer(self, name: str) -> QuantizedLayer:
        """The layer of this name."""
        return self.layers[self._layer_at[name]]  # type: ignore[return-value]

    def grid(self, name: str) -> Grid:
        """The grid of this name."""
        return self.grids[self._grid_at[name]]  # type: ignore[return-value]

    @property
    def bits(self) -> dict[str, int]:
        """Bits of every layer's weights."""
        return {name: self.layer(name).bits for name in self.reading.layers}

    def set_bits(self, bits: Mapping[str, int], activation_bits: int | None = None) -> None:
        """Give every layer its bits.

        Args:
            bits: layer -> bits of its weights, and of the activation it reads.
            activation_bits: bits of all those activations instead.

        Raises:
            ConfigError: a layer is missing or unknown, layers that read one activation differ, or a layer at the
                edges has other than 8 bits.
        """
        if set(bits) != set(self.reading.layers):
            raise ConfigError(
                f"bits must name every layer; missing {sorted(set(self.reading.layers) - set(bits))}, "
                f"unknown {sorted(set(bits) - set(self.reading.layers))}."
            )
        for group in self.plan.ties:
            if len({bits[name] for name in group}) > 1:
                raise ConfigError(f"the layers {list(group)} read one activation and must have the same bits.")
        for name, number in bits.items():
            if not 2 <= number <= 8:
                raise ConfigError(f"bits of {name!r} must be from 2 to 8, got {number!r}.")
            if name in self.plan.edges and number != EDGE_BITS:
                raise ConfigError(f"{name!r} reads the input or gives the output and stays at {EDGE_BITS} bits.")
            self.layer(name).bits = number
            grid = self.plan.grid_of[name]
            if self.plan.grids[grid][0] is None:
                self.grid(grid).bits = number if activation_bits is None else activation_bits

    # In floating point --------------------------------------------------------------------------------------

    def real(self, x: Tensor, *, weights: Mapping[str, Tensor] | None = None, observe: bool = False) -> Tensor:
        """The network without any rounding, batch normalisation folded.

        Args:
            x: rows.
            weights: folded weights to use instead of the own ones, by layer.
            observe: whether the grids take in the ranges they see.
        """
        return self._real(x, weights or {}, observe)[self.plan.steps[-1].name]

    def _real(self, x: Tensor, weights: Mapping[str, Tensor], observe: bool) -> dict[str, Tensor]:
        done: dict[str, Tensor] = {}
        for step in self.plan.steps:
            given = [done[name] for name in step.inputs]
            if step.kind == "layer":
                layer = self.layer(step.name)
                weight, bias = layer.folded()
                weight = weights.get(step.name, weight)
                done[step.name] = apply_layer(layer.kind, given[0], weight, bias, layer.settings)
            elif step.kind == "quantize":
                done[step.name] = x
            elif step.kind == "requantize":
                done[step.name] = given[0]
            else:
                done[step.name] = apply_plain(step.kind, given, step.settings)
            if observe and step.grid and (step.kind in ("add", "concat") or step.grid not in self._sums):
                self.grid(step.grid).observe(done[step.name])
        return done

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Learn the range of every activation from the network as it was trained.

        Raises:
            InputError: there is no row.
        """
        n = 0
        for x in batches:
            if len(x):
                self.real(x, observe=True)
            n += len(x)
        if not n:
            raise InputError("calibration needs at least one row.", hint="A few hundred rows of real data are enough.")

    # In integers --------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        """Class scores, shape (n, classes); in training ranges are learnt too."""
        if not self.grids[0].seen:
            raise InputError("the network has no activation ranges yet.", hint="Call calibrate() first.")
        q, scale = self._integers(x)[self.plan.steps[-1].name]
        return q * per_channel(scale, q.ndim).to(q)

    def simulate(self, x: Tensor) -> dict[str, Tensor]:
        """Every step's integers, as float64."""
        with torch.no_grad():
            was = self.training
            done = self.eval()._integers(x)
            self.train(was)
        return {name: q for name, (q, _) in done.items()}

    def _integers(self, x: Tensor) -> dict[str, Pair]:
        kind = torch.float32 if self.training else torch.float64
        one = torch.ones((), device=x.device)
        done: dict[str, Pair] = {}
        for step in self.plan.steps:
            given = [done[name] for name in step.inputs]
            if step.kind == "quantize":
                grid = self.grid(step.grid)
                if self.training:
                    grid.observe(x)
                done[step.name] = to_grid(x.float(), grid.scale(), *grid.limits).to(kind), grid.scale()
                continue
            q, scale = given[0]
            if step.kind == "layer":
                layer = self.layer(step.name)
                if self.training and not self.fold and layer.eps is not None:
                    done[step.name] = layer.unfolded(q, scale), one
                else:
                    weight, bias, out = layer.integers(scale)
                    acc = apply_layer(layer.kind, q, weight.to(kind), bias.to(kind), layer.settings)
                    done[step.name] = acc, out
            elif step.kind == "requantize":
                done[step.name] = self._requantize(step, q, scale)
            elif step.kind in ("add", "concat"):
                grid = self.grid(step.grid)
                joined = apply_plain(step.kind, [pair[0] for pair in given], {})
                if self.training:
                    grid.observe(joined * scale)
                done[step.name] = requantize(joined, one.to(kind), *grid.limits), scale
            elif step.kind == "average":
                # floor(mean + eps): the mean of whole numbers may come out as 1.9999, and never lies so near below one.
                size = step.settings["kernel_size"]
                below = 0.5 - 0.5 / (size[0] * size[1])
                mean = apply_plain("average", [q], step.settings)
                done[step.name] = requantize(mean - below, one.to(kind), -torch.inf, torch.inf), scale
            elif step.kind == "flatten":
                wide = scale if scale.ndim == 0 else scale.repeat_interleave(q[0, 0].numel())
                done[step.name] = q.flatten(1), wide
            elif step.kind == "relu":
                done[step.name] = q.clamp_min(0), scale
            else:
                done[step.name] = apply_plain(step.kind, [q], step.settings), scale
        return done

    def _requantize(self, step: Step, q: Tensor, scale: Tensor) -> Pair:
        grid = self.grid(step.grid)
        if self.training and step.grid not in self._sums:
            grid.observe(q * per_channel(scale, q.ndim).to(q))
        m, e = (per_channel(number, q.ndim) for number in dyadic(scale, grid.scale()))
        if self.training:
            factor = (m.double() * 2.0 ** -e.double()).to(q)
            return requantize(q, factor, *self._bounds(step)), grid.scale()
        return shift(q, m, e, *self._bounds(step)), grid.scale()

    def _bounds(self, step: Step) -> tuple[int, int]:
        """Smallest and largest integer a requantisation lets through."""
        grid = self.grid(step.grid)
        low, high = (1 - ACCUMULATOR, ACCUMULATOR - 1) if step.grid in self._sums else grid.limits
        cap = step.settings["cap"]
        return low, high if cap is None else min(high, int(cap / float(grid.scale())))

    @torch.no_grad()
    def to_integer(self) -> IntegerGraph:
        """The network as a graph of integers, with multiplications, additions and bit shifts only.

        Raises:
            InputError: a layer's sums might not fit their 31 bits.
        """
        shapes = {name: tuple(t.shape[1:]) for name, t in self._real(self._one_row(), {}, False).items()}
        steps: list[IntegerStep] = []
        tensors: dict[str, Tensor] = {}
        scales: dict[str, Tensor] = {}
        for step in self.plan.steps:
            kind, settings = step.kind, dict(step.settings)
            scale = scales[step.inputs[0]] if step.inputs else torch.ones(())
            if kind == "quantize":
                grid = self.grid(step.grid)
                scale = grid.scale()
                tensors[f"{step.name}/factor"] = 1 / scale
                settings = dict(zip(("low", "high"), grid.limits))
            elif kind == "layer":
                layer = self.layer(step.name)
                weight, bias, scale = layer.integers(scale)
                reads = self.grid(self.plan.grid_of[step.name]).limits
                sums = weight.double().flatten(1).abs().sum(1) * max(abs(v) for v in reads) + bias.abs()
                if float(sums.max()) >= ACCUMULATOR:
                    raise InputError(
                        f"the layer {step.name!r} has so many or so large weights that its sums may leave 31 bits.",
                        hint="Give it fewer bits.",
                    )
                tensors[f"{step.name}/weight"], tensors[f"{step.name}/bias"] = weight.to(torch.int8), bias.int()
                kind, settings = layer.kind, {**layer.settings, "bits": layer.bits, "bound": int(sums.max())}
            elif kind == "requantize":
                m, e = dyadic(scale, self.grid(step.grid).scale())
                tensors[f"{step.name}/multiplier"], tensors[f"{step.name}/shift"] = m, e
                settings = dict(zip(("low", "high"), self._bounds(step)))
                scale = self.grid(step.grid).scale()
            elif kind in ("add", "concat"):
                settings = dict(zip(("low", "high"), self.grid(step.grid).limits))
            elif kind == "flatten" and scale.ndim:
                shape = shapes[step.inputs[0]]
                scale = scale.repeat_interleave(int(torch.Size(shape).numel()) // shape[0])
            scales[step.name] = scale
            if kind in ("quantize", "requantize", "conv", "linear"):
                tensors[f"{step.name}/scale"] = scale
            steps.append(IntegerStep(step.name, kind, step.inputs, settings, shapes[step.name]))
        tensors[":scale"] = scales[self.plan.steps[-1].name].expand(self.reading.n_outputs).clone()
        device = tensors[":scale"].device
        graph = IntegerGraph(tuple(steps), tensors, self.reading.row_shape)
        return graph.to(device)

    def _one_row(self) -> Tensor:
        weight = self.layers[0].weight
        return torch.zeros((1, *self.reading.row_shape), device=weight.device)  # type: ignore[arg-type]
