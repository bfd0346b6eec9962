from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from foreknow.common.errors import ConfigError, ConvergenceError
from foreknow.common.progress import Progress
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.train import TrainConfig, train
from foreknow.train.log import read_log

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])  # the processes meet on this machine


def batches(k: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 3, generator=torch_stream(0, "batch", str(k)))
    return x, x.sum(1, keepdim=True).sin()


def mse(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (module(batch[0]) - batch[1]).square().mean()


def nan_loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return mse(module, batch) * float("nan")


def make_net() -> nn.Sequential:
    with seeded_init(0):
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


def test_two_processes_equal_accumulation_in_one(tmp_path: Path) -> None:
    settings = TrainConfig(n_steps=8, precision="32", log_every=1, ema_decay=0.5, accumulate=2)
    environment = dict(os.environ)
    two, one = make_net(), make_net()
    seen: list[Progress] = []
    log, state = tmp_path / "log", tmp_path / "state"
    result = train(
        two, mse, batches, settings, device="cpu", devices=2, progress=seen.append, log_path=log, checkpoint_path=state
    )
    assert dict(os.environ) == environment
    assert result.steps == 8 and result.stopped_by == "steps" and state.is_file()
    assert seen[-1].done == 1.0
    alone = TrainConfig(n_steps=8, precision="32", log_every=1, ema_decay=0.5, accumulate=4)
    train(one, mse, batches, alone, device="cpu", log_path=tmp_path / "alone")
    for a, b in zip(two.parameters(), one.parameters()):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)
    rows, rows_alone = read_log(log), read_log(tmp_path / "alone")
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in rows_alone], abs=1e-5)


def test_errors_of_a_process_are_raised_here() -> None:
    with pytest.raises(ConvergenceError, match="3 steps in a row") as caught:
        train(make_net(), nan_loss, batches, TrainConfig(n_steps=8, max_bad_steps=3), device="cpu", devices=2)
    assert caught.value.hint and caught.value.statistics["step"] == 3.0


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match="CUDA"):
        train(make_net(), mse, batches, TrainConfig(n_steps=1), device="cuda", devices=2)
    with pytest.raises(ConfigError, match="devices"):
        train(make_net(), mse, batches, TrainConfig(n_steps=1), devices=0)
