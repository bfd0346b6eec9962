from __future__ import annotations

import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foreknow.common.errors import ConfigError, ConvergenceError
from foreknow.common.progress import Progress
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.train import StepInfo, TrainConfig, TrainingInterrupted, loop, train
from foreknow.train.log import read_log


def make_net(dropout: float = 0.0) -> nn.Sequential:
    with seeded_init(0):
        return nn.Sequential(
            nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)
        )


def batches(k: int, rows: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 3, generator=torch_stream(0, "batch", str(k)))
    return x, x.sum(1, keepdim=True).sin()


def mse(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (module(batch[0]) - batch[1]).square().mean()


def config(**named: Any) -> TrainConfig:
    return TrainConfig(**{"n_steps": 20, "lr": 1e-2, "precision": "32", "log_every": 1, **named})


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_it_learns_and_says_how_it_went(tmp_path: Path) -> None:
    net = make_net().eval()
    log = tmp_path / "log.jsonl"
    result = train(net, mse, batches, config(n_steps=150, log_every=10, lr=5e-2), log_path=log)
    assert result.steps == 150 and result.stopped_by == "steps" and result.n_skipped == 0
    assert result.first_loss is not None and result.last_loss is not None
    assert result.last_loss < 0.3 * result.first_loss
    assert result.best_loss is not None and result.best_loss <= result.last_loss
    assert not net.training  # the mode it came in
    rows = read_log(log)
    assert [row["step"] for row in rows] == list(range(10, 151, 10))
    assert set(rows[0]) == {"step", "loss", "lr", "grad_norm", "seconds", "skipped"}
    assert rows[0]["loss"] == result.first_loss and rows[-1]["loss"] == result.last_loss


def test_equals_a_bare_loop() -> None:
    ours, bare = make_net(), make_net()
    settings = config(warmup_fraction=0.25, weight_decay=0.1, clip_norm=0.05, final_lr_fraction=0.1)
    train(ours, mse, batches, settings)
    decayed = [p for p in bare.parameters() if p.ndim > 1]
    rest = [p for p in bare.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}])
    for k in range(20):
        done = (k + 0.5) / 20
        factor = done / 0.25 if done < 0.25 else 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (done - 0.25) / 0.75))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * factor
        optimizer.zero_grad()
        mse(bare, batches(k)).backward()
        norm = nn.utils.clip_grad_norm_(bare.parameters(), 0.05)
        assert norm > 0.05  # clipping is at work
        optimizer.step()
    assert torch.allclose(weights(ours), weights(bare), rtol=0, atol=2e-6)


def test_accumulated_batches_equal_a_big_one() -> None:
    parts, whole = make_net().double(), make_net().double()

    def double(k: int) -> tuple[Tensor, Tensor]:
        x, y = batches(k)
        return x.double(), y.double()

    def four(k: int) -> tuple[Tensor, Tensor]:
        pieces = [double(4 * k + i) for i in range(4)]
        return torch.cat([x for x, _ in pieces]), torch.cat([y for _, y in pieces])

    train(parts, mse, double, config(accumulate=4))
    train(whole, mse, four, config())
    assert torch.allclose(weights(parts), weights(whole), rtol=0, atol=1e-9)
    other = make_net().double()
    train(other, mse, double, config())
    assert not torch.allclose(weights(other), weights(whole), rtol=0, atol=1e-4)


def test_moving_average_against_its_definition() -> None:
    net = make_net()
    seen = [weights(net)]
    train(net, mse, batches, config(ema_decay=0.6), on_step=lambda info: seen.append(weights(info.module)) or False)
    expected = seen[0].double()
    for t, current in enumerate(seen[1:]):
        decay = min(0.6, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * current
    assert torch.allclose(weights(net).double(), expected, rtol=0, atol=1e-6)
    assert not torch.allclose(weights(net), seen[-1], rtol=0, atol=1e-4)


def test_global_random_state_and_loggers_stay_as_they_were() -> None:
    def states() -> list[Any]:
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002

    before, filters, threads = states(), list(warnings.filters), torch.get_num_threads()
    train(make_net(dropout=0.5), mse, batches, config())
    assert states() == before
    assert list(warnings.filters) == filters
    assert torch.get_num_threads() == threads


@seeded_init(0)
def test_dropout_follows_the_seed() -> None:
    runs = []
    for seed in (0, 0, 1):
        net = make_net(dropout=0.5)
        torch.rand(1)  # the caller's own use of the global stream changes nothing
        train(net, mse, batches, config(seed=seed))
        runs.append(weights(net))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_bad_steps_are_skipped_and_counted(tmp_path: Path) -> None:
    def poisoned(k: int) -> tuple[Tensor, Tensor]:
        x, y = batches(k)
        return (x * float("nan"), y) if k in (3, 4, 9) else (x, y)

    net = make_net()
    before: dict[int, Tensor] = {}
    result = train(
        net,
        mse,
        poisoned,
        config(ema_decay=0.5, max_bad_steps=3),
        log_path=tmp_path / "log.jsonl",
        on_step=lambda info: before.update({info.step: weights(info.module)}),
    )
    assert result.n_skipped == 3 and result.steps == 20
    assert torch.equal(before[3], before[5]) and not torch.equal(before[5], before[6])
    assert weights(net).isfinite().all()
    rows = read_log(tmp_path / "log.jsonl")
    assert rows[3]["loss"] is None and rows[3]["grad_norm"] is None and rows[-1]["skipped"] == 3


def test_a_run_that_diverges_is_given_up() -> None:
    net = make_net()
    with pytest.raises(ConvergenceError, match="4 steps in a row") as caught:
        train(
            net,
            lambda m, b: mse(m, b) / (0.0 if b[2] > 5 else 1.0),
            lambda k: (*batches(k), k),
            config(max_bad_steps=4),
        )
    assert caught.value.statistics["step"] == 10.0
    assert np.isfinite(caught.value.statistics["last_finite_loss"])
    assert weights(net).isfinite().all()


def test_minutes_finish_the_schedule(tmp_path: Path) -> None:
    def slow(k: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.002)
        return batches(k)

    started = time.perf_counter()
    result = train(make_net(), mse, slow, config(n_steps=None, minutes=0.3 / 60), log_path=tmp_path / "log.jsonl")
    assert result.stopped_by == "minutes" and 0.3 <= result.seconds <= time.perf_counter() - started
    rates = [row["lr"] for row in read_log(tmp_path / "log.jsonl")]
    assert max(rates) > 0.9e-2 and rates[-1] < 0.2e-2
    both = train(make_net(), mse, batches, config(n_steps=5, minutes=10.0))
    assert both.stopped_by == "steps" and both.steps == 5


def test_a_callback_can_stop_the_run() -> None:
    infos: list[StepInfo] = []
    result = train(make_net(), mse, batches, config(), on_step=lambda info: infos.append(info) or info.step == 7)
    assert result.stopped_by == "callback" and result.steps == 7
    assert [info.step for info in infos] == list(range(1, 8))
    assert infos[-1].fraction == pytest.approx(7 / 20)


@pytest.fixture
def interruptible():
    """Ctrl-C as usual, even where the suite runs in the background of a shell, which switches it off."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_interrupt_finishes_the_step_saves_and_raises(tmp_path: Path) -> None:
    path = tmp_path / "state"
    handler = signal.getsignal(signal.SIGINT)

    def press(info: StepInfo) -> None:
        if info.step == 5:
            signal.raise_signal(signal.SIGINT)

    net, whole = make_net(), make_net()
    with pytest.raises(TrainingInterrupted) as caught:
        train(net, mse, batches, config(), checkpoint_path=path, on_step=press)
    assert caught.value.result.steps == 5 and caught.value.result.stopped_by == "interrupt"
    assert signal.getsignal(signal.SIGINT) is handler
    again = make_net()
    result = train(again, mse, batches, config(), checkpoint_path=path, resume=True)
    assert result.resumed_from == 5 and result.steps == 20
    train(whole, mse, batches, config())
    assert torch.equal(weights(again), weights(whole))


@pytest.mark.usefixtures("interruptible")
def test_interrupt_in_the_last_step_is_not_swallowed() -> None:
    def press(info: StepInfo) -> None:
        if info.step == 20:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted) as caught:
        train(make_net(), mse, batches, config(), on_step=press)
    assert caught.value.result.steps == 20


def test_interrupt_raised_inside_a_batch_keeps_the_finished_steps(tmp_path: Path) -> None:
    def interrupted(k: int) -> tuple[Tensor, Tensor]:
        if k == 6:
            raise KeyboardInterrupt
        return batches(k)

    with pytest.raises(TrainingInterrupted):
        train(make_net(), mse, interrupted, config(), checkpoint_path=tmp_path / "state")
    again, whole = make_net(), make_net()
    assert train(again, mse, batches, config(), checkpoint_path=tmp_path / "state", resume=True).resumed_from == 6
    train(whole, mse, batches, config())
    assert torch.equal(weights(again), weights(whole))


def test_progress_ends_at_one_and_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_REPORTS", 0.0)
    seen: list[Progress] = []
    train(make_net(), mse, batches, config(), progress=seen.append)
    assert len(seen) == 20 and seen[-1].done == 1.0 == seen[-1].total
    assert seen[0].seconds_left is not None and seen[0].seconds_left > 0 and seen[-1].seconds_left == 0
    assert "loss" in seen[0].note


@pytest.mark.parametrize("wrap", [lambda x, y: {"x": x, "y": [y]}, lambda x, y: (x, {"y": y}, "name", 3)])
def test_containers_reach_the_loss_in_shape(wrap: Callable[[Tensor, Tensor], Any]) -> None:
    def loss(module: nn.Module, batch: Any) -> Tensor:
        x, y = (batch["x"], batch["y"][0]) if isinstance(batch, dict) else (batch[0], batch[1]["y"])
        return mse(module, (x, y))

    one, two = make_net(), make_net()
    train(one, loss, lambda k: wrap(*batches(k)), config(n_steps=3))
    train(two, mse, batches, config(n_steps=3))
    assert torch.equal(weights(one), weights(two))


def test_bf16_is_taken_only_where_it_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []

    def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        out = module(batch[0])
        kinds.append(out.dtype)
        return (out.float() - batch[1]).square().mean()

    for fast, expected in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr(loop, "has_fast_bf16", lambda device, fast=fast: fast)
        result = train(make_net(), loss, batches, config(n_steps=1, precision="auto"), device="cpu")
        assert kinds[-1] == expected
        assert result.precision == ("bf16" if fast else "32")
    monkeypatch.setattr(loop, "has_fast_bf16", lambda device: False)
    with pytest.raises(ConfigError, match="bf16"):
        train(make_net(), loss, batches, config(precision="bf16"), device="cpu")


@pytest.mark.parametrize(
    "named",
    [
        {"n_steps": None},
        {"n_steps": 0},
        {"n_steps": 2.5},
        {"minutes": 0.0},
        {"lr": -1.0},
        {"optimizer": "lion"},
        {"schedule": "step"},
        {"precision": "16"},
        {"betas": (0.9,)},
        {"betas": (0.9, 1.0)},
        {"warmup_fraction": 1.5},
        {"final_lr_fraction": -0.1},
        {"clip_norm": 0.0},
        {"ema_decay": 1.0},
        {"accumulate": 0},
        {"seed": -1},
        {"log_every": 0},
        {"max_bad_steps": 0},
    ],
)
def test_bad_settings_are_refused(named: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="TrainConfig"):
        config(**named)


def test_unusable_calls_are_refused(tmp_path: Path) -> None:
    frozen = make_net().requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter"):
        train(frozen, mse, batches, config())
    with pytest.raises(ConfigError, match="checkpoint_path"):
        train(make_net(), mse, batches, config(), resume=True)
    with pytest.raises(ConfigError, match="scalar"):
        train(make_net(), lambda m, b: m(b[0]), batches, config())
    with pytest.raises(ConfigError, match="scalar"):
        train(make_net(), lambda m, b: mse(m, b).detach(), batches, config())
    with pytest.raises(ConfigError, match="identity"):
        train(make_net(), mse, batches, config(), identity={"prior": object()})
    with pytest.raises(ConfigError, match="picklable"):
        train(make_net(), lambda m, b: mse(m, b), batches, config(), devices=2, device="cpu")


def test_the_schedules() -> None:
    cosine = config(warmup_fraction=0.5, final_lr_fraction=0.2, lr=2.0)
    assert cosine.lr_at(0.25) == pytest.approx(1.0) and cosine.lr_at(0.5) == pytest.approx(2.0)
    assert cosine.lr_at(0.75) == pytest.approx(1.2) and cosine.lr_at(1.3) == pytest.approx(0.4)
    linear = config(schedule="linear", warmup_fraction=0.0, lr=1.0)
    assert [linear.lr_at(f) for f in (0.0, 0.3, 1.0)] == pytest.approx([1.0, 0.7, 0.0])
    constant = config(schedule="constant", warmup_fraction=0.1, lr=1.0)
    assert [constant.lr_at(f) for f in (0.05, 0.1, 1.0)] == pytest.approx([0.5, 1.0, 1.0])
    assert config(warmup_fraction=1.0, lr=1.0).lr_at(0.5) == pytest.approx(0.5)
    risen = config(warmup_fraction=0.5, lr=2.0, initial_lr_fraction=0.25)
    assert [risen.lr_at(f) for f in (0.0, 0.25)] == pytest.approx([0.5, 1.25])


def test_one_cycle_is_torchs() -> None:
    """Its rate at step k of n is ours at the fraction k / (n - 1)."""
    n, lr = 101, 5e-4
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=lr, total_steps=n, pct_start=0.2, div_factor=2, final_div_factor=100
    )
    ours = config(lr=lr, schedule="onecycle", warmup_fraction=0.2, initial_lr_fraction=0.5, final_lr_fraction=0.005)
    for k in range(n):
        # torch's peak lies at step 0.2 n - 1
        fraction = 0.2 * k / (0.2 * n - 1) if k < 0.2 * n - 1 else 0.2 + 0.8 * (k - 0.2 * n + 1) / (n - 0.2 * n)
        assert ours.lr_at(fraction) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        theirs.step()
    timed = TrainConfig(n_steps=100, minutes=1.0)
    assert timed.fraction_done(10, 30.0) == 0.5 and timed.fraction_done(80, 30.0) == 0.8
