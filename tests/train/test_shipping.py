"""An order to train a network that ships: what is refused before a file is made, and what the record says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foreknow.common.errors import ConfigError
from foreknow.train.loop import TrainResult
from foreknow.train.shipping import Pretraining, Shipping


@dataclass(frozen=True)
class Sizes:
    n_steps: int = 4


def _train(run: Pretraining) -> dict[str, Any]:
    steps = run.sized(Sizes()).n_steps
    network = nn.Module()
    network.weight = nn.Parameter(torch.zeros(3))
    result = TrainResult(steps, 0.26, 1.0, 0.5, 0.5, steps, 0, "steps", "32", 0)
    return run.ship(network, result, lambda training, path: path.write_text(training["card"]), {"seen": 3})


ships = Shipping("toy", ("toy-net", "toy-net-off"), _train)


def test_the_record_says_where_the_files_are_and_how_to_repeat_the_run(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    assert ships(out=out) == {
        "weights": str(out / "toy-net.safetensors"),
        "state": str(out / "toy-net.state.safetensors"),
        "log": str(out / "toy-net.log.jsonl"),
        "card": "toy",
        "command": "foreknow pretrain toy --weights toy-net --steps 4 --seed 0",
        "seed": 0,
        "steps": 4,
        "seconds": 0.3,
        "loss": 0.5,
        "n_parameters": 3,
        "seen": 3,
    }
    assert (out / "toy-net.safetensors").read_text() == "toy"
    assert ships("toy-net-off", n_steps=2, preset="quick", seed=1, out=out)["command"] == (
        "foreknow pretrain toy --weights toy-net-off --preset quick --steps 2 --seed 1"
    )
    assert "--minutes 1.5 --seed 0" in ships(minutes=1.5, out=out)["command"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "toy-nets"}, "toy: weights must be one of 'toy-net', 'toy-net-off'"),
        ({"n_steps": 1, "minutes": 1.0}, "minutes or steps, not both"),
        ({"n_steps": 0}, "n_steps must be an integer >= 1"),
        ({"n_steps": math.inf}, "n_steps must be an integer"),
        ({"preset": "shipped"}, "preset must be one of 'paper', 'quick', 'small'"),
    ],
)
def test_bad_orders_are_refused_before_a_folder_is_made(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ships(out=tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()
