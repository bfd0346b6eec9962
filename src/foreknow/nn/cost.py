"""What a network costs: parameters, multiplications, bits, and measured seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from foreknow.common.validate import check_int

MIB = 2.0**20


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a call.

    Args:
        median: of the runs.
        low, high: the quartiles.
        n_runs: how many were measured.
    """

    median: float
    low: float
    high: float
    n_runs: int


def n_parameters(module: nn.Module) -> int:
    """Parameters of a network; shared ones count once."""
    return sum(p.numel() for p in module.parameters())


def macs(module: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Multiplications with addition of one call, by submodule ("" is the whole network), as torch counts them.

    Convolutions and matrix products count; element-wise work does not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    counts = {name: sum(by_op.values()) // 2 for name, by_op in counter.get_flop_counts().items()}
    whole = type(module).__name__
    found = {name.removeprefix(whole).removeprefix("."): n for name, n in counts.items() if name != "Global"}
    return {**found, "": counts["Global"]}


def storage_mib(n_weights: int, bits: int, n_scales: int = 0, scale_bits: int = 32) -> float:
    """Mebibytes that weights take at `bits` each, with the scales that belong to them."""
    return (n_weights * bits + n_scales * scale_bits) / 8 / MIB


def measure_latency(call: Callable[[], Any], *, n_runs: int = 50, n_warm_up: int = 5) -> Latency:
    """Wall-clock milliseconds of `call`, after some unmeasured runs.

    Measure what is deployed, with the kernels it runs on: simulated quantisation runs float kernels, and its time
    says nothing.
    """
    check_int("measure_latency", "n_runs", n_runs, low=1)
    for _ in range(check_int("measure_latency", "n_warm_up", n_warm_up, low=0)):
        call()
    ms = np.empty(n_runs)
    for run in range(n_runs):
        start = time.perf_counter()
        call()
        ms[run] = 1e3 * (time.perf_counter() - start)
    low, median, high = np.quantile(ms, [0.25, 0.5, 0.75])
    return Latency(float(median), float(low), float(high), n_runs)
