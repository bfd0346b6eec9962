"""Costs of a network."""

import time

import pytest
import torch
from torch import nn

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init
from foreknow.nn.cost import macs, measure_latency, n_parameters, storage_mib


def test_macs_of_convolutions_and_layers_by_hand() -> None:
    with seeded_init(0):
        net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 5))
    found = macs(net, torch.zeros(1, 2, 4, 4))
    assert found["0"] == 6 * 1 * 9 * 16
    assert found["3"] == 96 * 5
    assert found[""] == found["0"] + found["3"]


def test_shared_parameters_count_once() -> None:
    with seeded_init(0):
        layer = nn.Linear(3, 3)
    assert n_parameters(nn.Sequential(layer, layer)) == 12


def test_storage_counts_scales_too() -> None:
    assert storage_mib(2**20, 4) == 0.5
    assert storage_mib(2**20, 4, n_scales=2**18) == 0.5 + 1.0


def test_latency_is_of_the_call() -> None:
    found = measure_latency(lambda: time.sleep(2e-3), n_runs=5, n_warm_up=1)
    assert 2.0 <= found.low <= found.median <= found.high
    assert found.n_runs == 5
    with pytest.raises(ConfigError):
        measure_latency(lambda: None, n_runs=0)
