"""How sensitive every layer is to rounding, and which bits it therefore gets under a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Generator, Tensor, nn

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.validate import check_int, check_real
from foreknow.core.choice import choose
from foreknow.core.pictures import Bars
from foreknow.nn.cost import storage_mib
from foreknow.nn.curvature import hessian_traces
from foreknow.train.config import TrainConfig
from foreknow.train.loop import train
from foreknow.weights.hawq.network import QuantizedNetwork
from foreknow.weights.hawq.prior import CurvaturePrior
from foreknow.weights.hawq.quantizers import weight_error
from foreknow.weights.hawq.reading import read
from foreknow.weights.hawq.steps import EDGE_BITS

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]
BUDGETS = ("size_mb", "gbops", "latency_ms")


@dataclass(frozen=True)
class LayerSensitivity:
    """What rounding one layer does.

    Args:
        layer: its name.
        n_weights: its weights.
        macs: its multiplications for one row.
        curvature: trace of its block of the Hessian by its number of weights.
        stderr: standard error of that.
        error: bits -> squared distance of the rounded weights from the weights.
    """

    layer: str
    n_weights: int
    macs: int
    curvature: float
    stderr: float
    error: Mapping[int, float]

    def omega(self, bits: int) -> float:
        """The cost of rounding to so many bits; a curvature that noise made negative counts as 0."""
        return max(self.curvature, 0.0) * self.error[bits]


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of a network.

    Args:
        layers: in the order of the network.
        ties: groups of layers that must have the same bits.
        n_probes: vectors that the curvature was probed with.
    """

    layers: tuple[LayerSensitivity, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    n_probes: int = 0

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Column names and one row a layer, for people."""
        bits = sorted({b for layer in self.layers for b in layer.error})
        rows = [
            (one.layer, one.n_weights, one.curvature, one.stderr,
             *(one.omega(b) if b in one.error else math.nan for b in bits))
            for one in self.layers
        ]  # fmt: skip
        return ("layer", "weights", "curvature", "stderr", *(f"omega at {b} bits" for b in bits)), rows


def hessian_sensitivity(
    model: nn.Module | QuantizedNetwork,
    loss_fn: Loss,
    batches: Batches,
    *,
    bits: Sequence[int] = (4, 8),
    probes: int = 64,
    tolerance: float = 1e-3,
    generator: Generator | None = None,
) -> Sensitivity:
    """The curvature along every layer's weights, and what rounding them to `bits` costs.

    Args:
        model: trained; or a `QuantizedNetwork` made of it.
        loss_fn: (scores, targets) -> mean loss, such as `torch.nn.functional.cross_entropy`.
        batches: pairs of rows and targets, at least one.
        bits: choices for a layer, from 2 to 8.
        probes: most vectors to probe with.
        tolerance: see `foreknow.nn.curvature.hessian_traces`.
        generator: of the probes.

    Raises:
        InputError: the model cannot be read, or there is no batch.
    """
    given = [(x, y) for x, y in batches if len(x)]
    if not given:
        raise InputError("hessian_sensitivity: there is no batch; at least one pair of rows and targets is needed.")
    bits = check_bits("hessian_sensitivity", bits)
    network = as_network(model, given[0][0])
    weights = {name: network.layer(name).folded()[0].detach().requires_grad_() for name in network.reading.layers}
    traces = hessian_traces(
        lambda batch: loss_fn(network.real(batch[0], weights=weights), batch[1]),
        weights,
        given,
        generator=generator or torch_stream(0, "hawq", "probes"),
        n_probes=probes,
        tolerance=tolerance,
    )
    layers = []
    for name, layer in network.reading.layers.items():
        n, trace = weights[name].numel(), traces[name]
        options = (EDGE_BITS,) if name in network.plan.edges else bits
        error = {b: weight_error(weights[name], b) for b in options}
        layers.append(LayerSensitivity(name, n, layer.macs, trace.trace / n, trace.stderr / n, error))
    return Sensitivity(tuple(layers), network.plan.ties, next(iter(traces.values())).n_probes)


def as_network(model: nn.Module | QuantizedNetwork, x: Tensor) -> QuantizedNetwork:
    """`model` as a quantised network, on the device of the rows `x`."""
    if isinstance(model, QuantizedNetwork):
        return model
    return QuantizedNetwork(read(model, x.shape[1:])).to(x.device)


@dataclass(frozen=True)
class BitPlan:
    """Bits for every layer.

    Args:
        bits: layer -> bits of its weights and of the activation it reads.
        omega: the sum of what was minimised.
        cost: size_mb (2^20 bytes of weights), gbops (bits of weights x bits of activations x multiplications, in
            10^9), and latency_ms where a table was given.
        shadow_price: budget -> how much omega would fall for one unit more of it.
        limits: the budgets.
        sensitivity: what it was chosen by.
        prior: how.
    """

    bits: dict[str, int]
    omega: float
    cost: dict[str, float]
    shadow_price: dict[str, float]
    limits: dict[str, float]
    sensitivity: Sensitivity
    prior: CurvaturePrior
    _arguments: dict[str, Any]

    def expected_cost(self, bits: Mapping[str, int] | None = None) -> float:
        """The rise of the loss that the curvature predicts for these bits (by default the plan's), up to a factor."""
        chosen = self.bits if bits is None else bits
        return sum(layer.omega(chosen[layer.layer]) for layer in self.sensitivity.layers)

    def compare(self, prior_off: bool = True) -> dict[str, Any]:
        """This plan beside the one that the other arm gives for the same budgets.

        Args:
            prior_off: whether the other arm is the one without curvature; else the one with random costs.
        """
        arm = CurvaturePrior("one" if prior_off else "random")
        other = allocate_bits(self.sensitivity, **{**self._arguments, "prior": arm})
        return {
            "bits": self.bits,
            "other_bits": other.bits,
            "n_different": sum(self.bits[name] != other.bits[name] for name in self.bits),
            "expected_cost": self.expected_cost(),
            "other_expected_cost": self.expected_cost(other.bits),
        }

    def picture(self) -> Bars:
        """Bits of every layer, and its curvature relative to the largest, in eighths."""
        layers = self.sensitivity.layers
        curvature = np.array([max(layer.curvature, 0.0) for layer in layers])
        return Bars(
            labels=[layer.layer for layer in layers],
            values={
                "bits": np.array([self.bits[layer.layer] for layer in layers], dtype=float),
                "curvature (largest = 8)": 8 * curvature / (curvature.max() or 1.0),
            },
            y_label="bits",
            title=f"{self.cost['size_mb']:.3g} MiB of weights",
        )


def allocate_bits(
    sens: Sensitivity,
    *,
    size_mb: float | None = None,
    gbops: float | None = None,
    latency: float | None = None,
    latencies: Mapping[str, Mapping[int, float]] | None = None,
    fraction: Mapping[str, float] | None = None,
    tie: Sequence[Sequence[str]] = (),
    activation_bits: int | None = None,
    prior: CurvaturePrior | None = None,
    random_state: int = 0,
) -> BitPlan:
    """The bits whose rounding costs least within the budgets; an integer program, solved exactly.

    Args:
        sens: as `hessian_sensitivity` gives it.
        size_mb: most mebibytes of weights.
        gbops: most bit operations for one row, in 10^9.
        latency: most milliseconds, by the table `latencies`.
        latencies: layer -> bits -> milliseconds, measured where the network is to run.
        fraction: budget ("size_mb", "gbops", "latency_ms") -> f, for the limit cost(all lowest) + f (cost(all
            highest) - cost(all lowest)).
        tie: further groups of layers that must have the same bits.
        activation_bits: of all activations; by default those of the layer that reads them.
        prior: how costs of rounding are found.
        random_state: of a random prior.

    Raises:
        ConfigError: no budget, or one that is no positive number, or an unknown layer.
        InputError: no choice keeps within the budgets; the message says what can be reached.
    """
    owner = "allocate_bits"
    prior = prior or CurvaturePrior()
    names = [layer.layer for layer in sens.layers]
    options = [sorted(layer.error) for layer in sens.layers]
    costs = _costs(sens, options, activation_bits, latencies)
    limits = {
        name: check_real(owner, given, value, low=0.0, open_low=True)
        for name, given, value in zip(BUDGETS, ("size_mb", "gbops", "latency"), (size_mb, gbops, latency))
        if value is not None
    }
    for name, share in (fraction or {}).items():
        if name not in BUDGETS:
            raise ConfigError(f"{owner}: fraction must name budgets among {BUDGETS}, got {name!r}.")
        if name in costs:
            low, high = (sum(f(row) for row in costs[name]) for f in (min, max))
            limits[name] = low + check_real(owner, f"fraction[{name!r}]", share, low=0.0, high=1.0) * (high - low)
        else:
            limits[name] = 0.0  # refused below
    if not limits:
        raise ConfigError(f"{owner}: there is no budget.", hint="Give size_mb, gbops, latency or fraction.")
    if "latency_ms" in limits and latencies is None:
        raise ConfigError(f"{owner}: a budget of latency needs latencies, the milliseconds of every layer.")
    groups = [[_index(owner, name, names) for name in group] for group in (*sens.ties, *tie)]
    values = _values(sens, options, prior, random_state)
    found = choose(values, costs, limits, groups)
    return BitPlan(
        bits={name: bits[i] for name, bits, i in zip(names, options, found.options)},
        omega=found.value,
        cost=found.cost,
        shadow_price=found.shadow_price,
        limits=limits,
        sensitivity=sens,
        prior=prior,
        _arguments={
            "size_mb": size_mb, "gbops": gbops, "latency": latency, "latencies": latencies, "fraction": fraction,
            "tie": tie, "activation_bits": activation_bits, "prior": prior, "random_state": random_state,
        },
    )  # fmt: skip


def _values(
    sens: Sensitivity, options: Sequence[Sequence[int]], prior: CurvaturePrior, random_state: int
) -> list[list[float]]:
    """Omega of every layer at its bits; a random prior exchanges those of layers that have a choice."""
    free = [i for i, bits in enumerate(options) if len(bits) > 1]
    found = [[layer.omega(b) for b in bits] for layer, bits in zip(sens.layers, options)]
    if free:
        curvature = np.array([sens.layers[i].curvature for i in free])
        error = np.array([[sens.layers[i].error[b] for b in options[i]] for i in free])
        omega = prior.omega(curvature, error, numpy_stream(random_state, "hawq", "random omega"))
        for i, row in zip(free, omega):
            found[i] = [float(value) for value in row]
    return found


def random_bits(plan: BitPlan, rng: np.random.Generator) -> dict[str, int]:
    """A random assignment for the budgets of a plan: from all lowest, some group is given more bits until none can.

    Args:
        plan: whose layers, ties and budgets are taken.
        rng: source of randomness.
    """
    sens, given = plan.sensitivity, plan._arguments
    names = [layer.layer for layer in sens.layers]
    options = [sorted(layer.error) for layer in sens.layers]
    costs = _costs(sens, options, given["activation_bits"], given["latencies"])
    groups = [[names.index(name) for name in group] for group in (*sens.ties, *given["tie"])]
    groups += [[i] for i in range(len(names)) if not any(i in group for group in groups)]
    chosen = [0] * len(names)

    def fits(trial: Sequence[int]) -> bool:
        return all(
            sum(row[i] for row, i in zip(costs[name], trial)) <= limit * (1 + 1e-9)
            for name, limit in plan.limits.items()
        )

    while True:
        trials = []
        for group in groups:
            for option in range(chosen[group[0]] + 1, len(options[group[0]])):
                trials.append([option if i in group else old for i, old in enumerate(chosen)])
        trials = [trial for trial in trials if fits(trial)]
        if not trials:
            return {name: bits[i] for name, bits, i in zip(names, options, chosen)}
        chosen = trials[int(rng.integers(len(trials)))]


def _costs(
    sens: Sensitivity,
    options: Sequence[Sequence[int]],
    activation_bits: int | None,
    latencies: Mapping[str, Mapping[int, float]] | None,
) -> dict[str, list[list[float]]]:
    """Budget -> what every layer costs at its bits."""
    pairs = list(zip(sens.layers, options))

    def of_activations(layer: LayerSensitivity, b: int) -> int:
        return b if activation_bits is None or len(layer.error) == 1 else activation_bits

    costs = {
        "size_mb": [[storage_mib(one.n_weights, b) for b in bits] for one, bits in pairs],
        "gbops": [[1e-9 * one.macs * b * of_activations(one, b) for b in bits] for one, bits in pairs],
    }
    if latencies is not None:
        lacking = [one.layer for one, bits in pairs if not set(bits) <= set(latencies.get(one.layer, ()))]
        if lacking:
            raise ConfigError(f"allocate_bits: latencies lack milliseconds of {lacking[0]!r} at each of its bits.")
        costs["latency_ms"] = [[float(latencies[one.layer][b]) for b in bits] for one, bits in pairs]
    return costs


def check_bits(owner: str, bits: Sequence[int]) -> tuple[int, ...]:
    """Choices of bits, sorted; each from 2 to 8."""
    if isinstance(bits, str) or not hasattr(bits, "__iter__") or not list(bits):
        raise ConfigError(f"{owner}: bits must be some of 2, 3, ..., 8, got {bits!r}.")
    return tuple(sorted({check_int(owner, "bits", b, low=2, high=8) for b in bits}))


def _index(owner: str, name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise ConfigError(f"{owner}: tie names the unknown layer {name!r}; layers are {', '.join(names)}.")
    return names.index(name)


def quantize(
    model: nn.Module, plan: BitPlan | Mapping[str, int], calib: Iterable[Tensor] | Batches, *,
    activation_bits: int | None = None, momentum: float = 0.95, fold: bool = True,
) -> QuantizedNetwork:  # fmt: skip
    """A trained network with the bits of a plan, calibrated.

    Args:
        model: trained.
        plan: a `BitPlan`, or bits by layer.
        calib: batches of rows, or of rows and targets as a loader has them; a few hundred rows in all.
        activation_bits: of all activations; by default those of the layer that reads them.
        momentum: of the moving average of activation ranges; -1 keeps the extremes.
        fold: whether batch normalisation is folded, and frozen, in fine-tuning.

    Raises:
        InputError: no rows, or the model cannot be read.
        ConfigError: the bits do not suit the network.
    """
    rows = (batch if isinstance(batch, Tensor) else batch[0] for batch in calib)
    batches = [x for x in rows if len(x)]
    if not batches:
        raise InputError("quantize: calibration needs at least one row.", hint="A few hundred rows are enough.")
    x = batches[0]
    network = QuantizedNetwork(read(model, x.shape[1:]), momentum=momentum, fold=fold).to(x.device)
    network.set_bits(plan.bits if isinstance(plan, BitPlan) else plan, activation_bits)
    network.calibrate(batches)
    return network.eval()


def finetune(
    network: QuantizedNetwork,
    batches: Callable[[int], tuple[Tensor, Tensor]] | Batches,
    n_steps: int,
    *,
    loss_fn: Loss = nn.functional.cross_entropy,
    lr: float = 1e-4,
    weight_decay: float = 1e-4,
    progress: Any = None,
) -> None:
    """Train a quantised network further, in place; gradients pass through rounding as if it were not there.

    Args:
        network: calibrated.
        batches: a loader of rows and targets, which is gone through again and again; or k -> those of batch k.
        n_steps: batches to take.
        loss_fn: (scores, targets) -> mean loss.
        lr: of stochastic gradient descent with momentum 0.9, falling to 0 by half a cosine.
        weight_decay: on weights.
        progress: told how far it is.

    Raises:
        InputError: the loader has no (more) batch.
    """
    source = batches if callable(batches) else _in_turn(batches)
    config = TrainConfig(
        n_steps=n_steps, lr=lr, optimizer="sgd", weight_decay=weight_decay, schedule="cosine", warmup_fraction=0.0,
        clip_norm=None, precision="32",
    )  # fmt: skip
    device = next(network.parameters()).device
    train(
        network, lambda net, batch: loss_fn(net(batch[0]), batch[1]), source, config, device=device, progress=progress
    )
    network.eval()


def _in_turn(loader: Batches) -> Callable[[int], tuple[Tensor, Tensor]]:
    """What gives the next batch of a loader whatever is asked for, pass after pass."""

    def passes() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            n = 0
            for batch in loader:
                n += 1
                yield batch
            if not n:
                raise InputError(
                    "finetune: the loader has no (more) batch.",
                    hint="Give a list or a DataLoader, which can be read again.",
                )

    batches = passes()
    return lambda k: next(batches)
