from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import foreknow
from foreknow.common.errors import CheckpointError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.train import TrainConfig, TrainResult, train
from foreknow.train.log import read_log
from foreknow.train.state import load_state, save_state

PROGRAM = """
import sys, time, test_train_resume as t
t.run(sys.argv[1], resume=False, pause_s=0.02)
"""


def make_net(width: int = 8) -> nn.Sequential:
    with seeded_init(0):
        return nn.Sequential(
            nn.Linear(3, width),
            nn.BatchNorm1d(width),
            nn.Dropout(0.2),
            nn.Linear(width, width),
            nn.Tanh(),
            nn.Linear(width, 1),
        )


def batches(k: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 3, generator=torch_stream(0, "batch", str(k)))
    return x, x.sum(1, keepdim=True).sin()


def mse(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (module(batch[0]) - batch[1]).square().mean()


def config(**named: Any) -> TrainConfig:
    settings = {
        "n_steps": 60,
        "optimizer": "muon",
        "ema_decay": 0.9,
        "accumulate": 2,
        "log_every": 3,
        "save_every_s": 0.0,
        "precision": "32",
        "weight_decay": 0.01,
    }
    return TrainConfig(**{**settings, **named})


def run(folder: str | Path, *, resume: bool, pause_s: float = 0.0, net: nn.Module | None = None) -> TrainResult:
    return train(
        make_net() if net is None else net,
        mse,
        batches,
        config(),
        device="cpu",
        log_path=Path(folder) / "log.jsonl",
        checkpoint_path=Path(folder) / "state",
        resume=resume,
        on_step=lambda info: time.sleep(pause_s),
        identity={"prior": {"lengthscale": 0.2}},
    )


def without_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_a_killed_run_resumes_to_the_same_losses_and_weights(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    paths = [str(Path(__file__).parent), str(Path(foreknow.__file__).parents[1])]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(killed)], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    )
    try:
        log = killed / "log.jsonl"
        deadline = time.monotonic() + 45
        while time.monotonic() < deadline and process.poll() is None:
            if log.is_file() and len(read_log(log)) >= 4:
                break
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 4 <= len(read_log(log)) < 20
    resumed_net, whole_net = make_net(), make_net()
    result = run(killed, resume=True, net=resumed_net)
    plain = run(whole, resume=False, net=whole_net)
    assert 0 < result.resumed_from < 60 and plain.resumed_from == 0
    assert without_time(read_log(log)) == without_time(read_log(whole / "log.jsonl"))
    assert len(read_log(log)) == 20
    for (name, a), b in zip(resumed_net.state_dict().items(), whole_net.state_dict().values()):
        assert torch.equal(a, b), name
    assert (result.first_loss, result.best_loss, result.best_step) == (
        plain.first_loss,
        plain.best_loss,
        plain.best_step,
    )
    assert result.seconds > plain.seconds  # the killed part counts


def test_resuming_a_finished_run_only_loads_it(tmp_path: Path) -> None:
    first, again = make_net(), make_net()
    run(tmp_path, resume=True, net=first)  # nothing to resume from yet: a fresh run
    before = (tmp_path / "log.jsonl").read_text()
    result = run(tmp_path, resume=True, net=again)
    assert result.steps == result.resumed_from == 60
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))
    assert (tmp_path / "log.jsonl").read_text() == before


def test_a_log_ahead_of_the_state_loses_its_surplus(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    log = tmp_path / "log.jsonl"
    rows = log.read_text()
    log.write_text(rows + json.dumps({"step": 61, "loss": 0.0}) + '\n{"step": 62, "lo')  # cut short by a kill
    run(tmp_path, resume=True)
    assert log.read_text() == rows


@pytest.mark.parametrize("named", [{"n_steps": 61}, {"optimizer": "adamw"}, {"seed": 5}, {"betas": (0.8, 0.99)}])
def test_other_settings_are_refused_by_name(tmp_path: Path, named: dict[str, Any]) -> None:
    state = tmp_path / "state"
    train(make_net(), mse, batches, config(n_steps=2), checkpoint_path=state)
    settings = config(**{"n_steps": 2, **named})
    with pytest.raises(CheckpointError, match=next(iter(named))):
        train(make_net(), mse, batches, settings, checkpoint_path=state, resume=True)


def test_another_network_or_identity_is_refused(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    with pytest.raises(CheckpointError, match=r"another network.*0\.bias.*\(8,\).*\(9,\)"):
        run(tmp_path, resume=True, net=make_net(9))
    with pytest.raises(CheckpointError, match=r"identity.*0\.2.*0\.3"):
        train(
            make_net(),
            mse,
            batches,
            config(),
            checkpoint_path=tmp_path / "state",
            resume=True,
            identity={"prior": {"lengthscale": 0.3}},
        )


def test_how_often_to_log_and_save_may_change(tmp_path: Path) -> None:
    state = tmp_path / "state"
    train(make_net(), mse, batches, config(n_steps=2), checkpoint_path=state)
    settings = config(n_steps=2, log_every=1, save_every_s=5.0)
    assert train(make_net(), mse, batches, settings, checkpoint_path=state, resume=True).resumed_from == 2


def test_damaged_states_are_refused(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    state = tmp_path / "state"
    whole = state.read_bytes()
    tensors, info = load_state(state)
    for damaged in (b"", b"not a state", whole[: len(whole) // 2], b"\xff" * 64 + whole):
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="training state"):
            run(tmp_path, resume=True)
    for changed in ({"version": 99}, {"format": "other"}, {"counters": {}}, {"counters": None}):
        save_state(state, tensors, {**info, **changed})
        with pytest.raises(CheckpointError, match="training state"):
            run(tmp_path, resume=True)
    save_state(state, {name: tensor for name, tensor in tensors.items() if ".momentum" not in name}, info)
    with pytest.raises(CheckpointError, match="not a whole"):
        run(tmp_path, resume=True)
    info.pop("n_tensors")
    some = {name: tensor for name, tensor in tensors.items() if not name.startswith("ema.0")}
    save_state(state, some, info)
    with pytest.raises(CheckpointError, match="incomplete"):
        run(tmp_path, resume=True)


def test_optimizer_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run(tmp_path, resume=False)
    tensors, info = load_state(tmp_path / "state")
    info.pop("n_tensors")
    momentum = next(name for name in tensors if name.endswith(".momentum"))
    for changed in (
        {**tensors, momentum: torch.zeros(2, 2)},
        {**tensors, "optimizer.0.99.momentum": torch.zeros(2, 2)},
        {**tensors, "optimizer.0.x.momentum": torch.zeros(2, 2)},
    ):
        save_state(tmp_path / "state", changed, info)
        with pytest.raises(CheckpointError, match="incomplete"):
            run(tmp_path, resume=True)


def test_a_missing_folder_is_named_before_any_work(tmp_path: Path) -> None:
    calls: list[int] = []
    for named in ({"checkpoint_path": tmp_path / "no" / "state"}, {"log_path": tmp_path / "no" / "log"}):
        with pytest.raises(InputError, match="does not exist"):
            train(make_net(), mse, lambda k: calls.append(k) or batches(k), config(), **named)  # type: ignore[arg-type]
    assert not calls


def test_states_are_saved_no_oftener_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from foreknow.train import loop

    saves: list[int] = []
    real = loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda *given: (saves.append(1), real(*given)))
    train(make_net(), mse, batches, config(n_steps=5, save_every_s=60.0), checkpoint_path=tmp_path / "a")
    assert len(saves) == 1  # the last one
    train(make_net(), mse, batches, config(n_steps=5), checkpoint_path=tmp_path / "b")
    assert len(saves) == 1 + 5 + 1
