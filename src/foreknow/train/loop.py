"""The training loop: schedule by budget, accumulation, clipping, moving average, exact resume, several devices.

Batch number k depends on k alone and the loop's own randomness (dropout) on (seed, step), so a run that was
killed and resumed repeats the losses of one that never stopped. The global random state is put back at the end.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from foreknow.common.device import has_fast_bf16, resolve_device
from foreknow.common.errors import CheckpointError, ConfigError, ConvergenceError, InputError
from foreknow.common.progress import Progress, ProgressCallback
from foreknow.common.rng import seed_of
from foreknow.common.validate import check_int
from foreknow.train import fabric as launch
from foreknow.train.borrowed import catch_interrupt, default_generators, global_state_put_back, move
from foreknow.train.config import TrainConfig
from foreknow.train.log import JsonlLog
from foreknow.train.optim import MovingAverage, build_optimizers
from foreknow.train.state import check_same_network, check_same_run, load_state, pack, save_state, unpack

LossFunction = Callable[[nn.Module, Any], Tensor]
BatchSource = Callable[[int], Any]

_NOT_PART_OF_THE_RUN = ("log_every", "save_every_s", "max_bad_steps")
_SECONDS_BETWEEN_REPORTS = 0.1
_COUNTERS = (
    "step",
    "seconds",
    "bad_in_row",
    "n_skipped",
    "window_sum",
    "window_count",
    "first_loss",
    "last_loss",
    "best_loss",
    "best_step",
)


@dataclass(frozen=True)
class StepInfo:
    """What `on_step` is told after every step.

    Args:
        step: steps finished, counted from 1.
        loss: loss of this step, averaged over its batches and devices.
        lr: learning rate that was used.
        grad_norm: norm of the gradient before clipping.
        seconds: wall-clock time of the run so far, resumed parts included.
        fraction: part of the budget used.
        module: the network with its current weights (not their moving average).
    """

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    fraction: float
    module: nn.Module


@dataclass(frozen=True)
class TrainResult:
    """How a run went.

    Args:
        steps: optimizer steps finished, skipped ones included.
        seconds: wall-clock time, resumed parts included.
        first_loss: mean loss of the first logged window; None if every step was skipped.
        last_loss: mean loss of the last logged window.
        best_loss: lowest mean loss of a logged window.
        best_step: the step at its end.
        n_skipped: steps without update because loss or gradient was not finite.
        stopped_by: `"steps"`, `"minutes"`, `"callback"` or `"interrupt"`.
        precision: `"32"` or `"bf16"`, as used.
        resumed_from: the step this run continued from, 0 for a fresh one.
    """

    steps: int
    seconds: float
    first_loss: float | None
    last_loss: float | None
    best_loss: float | None
    best_step: int
    n_skipped: int
    stopped_by: str
    precision: str
    resumed_from: int


class RunOptions(TypedDict, total=False):
    """What the trainers of single papers hand on to `train`, which explains it."""

    devices: int
    progress: ProgressCallback | None
    log_path: str | Path | None
    checkpoint_path: str | Path | None
    resume: bool


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C during `train`: the state is saved, the network holds what it has learnt, `result` says how far."""

    def __init__(self, result: TrainResult) -> None:
        super().__init__(f"training stopped after step {result.steps}")
        self.result = result


@dataclass
class _Job:
    """All that a process needs to do its part of a run."""

    module: nn.Module
    loss_fn: LossFunction
    batches: BatchSource
    config: TrainConfig
    precision: str
    progress: ProgressCallback | None
    log_path: Path | None
    checkpoint_path: Path | None
    resume: bool
    on_step: Callable[[StepInfo], object] | None
    identity: dict[str, Any]
    weights_path: Path | None = None


def train(
    module: nn.Module,
    loss_fn: LossFunction,
    batches: BatchSource,
    config: TrainConfig,
    *,
    device: str | torch.device = "auto",
    devices: int = 1,
    progress: ProgressCallback | None = None,
    log_path: str | Path | None = None,
    checkpoint_path: str | Path | None = None,
    resume: bool = False,
    on_step: Callable[[StepInfo], object] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> TrainResult:
    """Train `module` in place.

    Args:
        module: any network; it is moved to the device, and at the end holds the trained weights (their moving
            average if `config.ema_decay` is set), in the train/eval mode it came in.
        loss_fn: `(module, batch) -> scalar`; under bf16 it runs inside autocast.
        batches: `k -> batch`; batch k must depend on k alone (draw it from `torch_stream(seed, "batch", str(k))`).
            Tensors, their containers and anything with `.to(device)` are moved to the device.
        config: the settings.
        device: where to train.
        devices: number of devices of that kind on this machine; more than one starts as many processes, for
            which `loss_fn`, `batches` and `on_step` must be picklable (functions of a module). Device r takes
            every `devices`-th batch, and gradients are averaged.
        progress: told the fraction done and the seconds left, about ten times a second.
        log_path: JSONL log, one row per `config.log_every` steps.
        checkpoint_path: where the state is kept for resuming.
        resume: continue from `checkpoint_path` if it exists, else start there.
        on_step: called after every step (first device only); a true return value ends the run.
        identity: JSON-able facts that must be the same on resume, for instance the prior's settings.

    Returns:
        How the run went.

    Raises:
        ConfigError: unusable settings, a loss that is not a scalar with a gradient.
        InputError: a folder to write to does not exist.
        CheckpointError: the state to resume from is damaged or of another network, setting or identity.
        ConvergenceError: `config.max_bad_steps` steps in a row without a finite loss and gradient.
        TrainingInterrupted: after Ctrl-C, once the current step is finished and the state saved. A second
            Ctrl-C stops at once.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError("train: the module has no parameter that requires a gradient.")
    if checkpoint_path is not None and not Path(checkpoint_path).parent.is_dir():
        folder = Path(checkpoint_path).parent
        raise InputError(
            f"train: the folder {str(folder)!r} of checkpoint_path does not exist.", hint=f"Make it: mkdir -p {folder}"
        )
    if resume and checkpoint_path is None:
        raise ConfigError("train: resume=True needs checkpoint_path.")
    check_int("train", "devices", devices, low=1)
    try:
        json.dumps(identity)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train: identity must hold JSON types only ({error}).") from error
    chosen = resolve_device(device)
    job = _Job(
        module=module,
        loss_fn=loss_fn,
        batches=batches,
        config=config,
        precision=_resolve_precision(config.precision, chosen),
        progress=progress,
        log_path=None if log_path is None else Path(log_path),
        checkpoint_path=None if checkpoint_path is None else Path(checkpoint_path),
        resume=resume,
        on_step=on_step,
        identity=dict(identity or {}),
    )
    if devices == 1:
        result = _run(launch.make_fabric(chosen, 1), job)
    else:
        with catch_interrupt() as interrupted:  # the processes hear of it too, and finish their step
            result = launch.run_in_processes(_run, chosen, devices, job)
        if interrupted.is_set():
            result = replace(result, stopped_by="interrupt")
    if result.stopped_by == "interrupt":
        raise TrainingInterrupted(result)
    return result


def _resolve_precision(precision: str, device: torch.device) -> str:
    fast = has_fast_bf16(device)
    if precision == "bf16" and not fast:
        raise ConfigError(
            f"TrainConfig: precision='bf16' was asked for, but {device} is not quicker with it.",
            hint="Use precision='auto' or '32'.",
        )
    return "bf16" if precision != "32" and fast else "32"


class _LossModule(nn.Module):
    """The loss as a module's output, so that gradients are averaged whichever methods `loss_fn` calls."""

    def __init__(self, module: nn.Module, loss_fn: LossFunction, device_type: str, precision: str) -> None:
        super().__init__()
        self.module = module
        self._loss_fn = loss_fn
        self._device_type = device_type
        self._bf16 = precision == "bf16"

    def forward(self, batch: Any) -> Tensor:
        if self._bf16:
            with torch.autocast(self._device_type, torch.bfloat16):
                return self._loss_fn(self.module, batch)
        return self._loss_fn(self.module, batch)


class _Run:
    """One process's part of a run, from the first step (or the resumed one) to the last."""

    def __init__(self, fabric: Any, job: _Job) -> None:
        self.job, self.config, self.fabric = job, job.config, fabric
        self.device: torch.device = fabric.device
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.module = job.module
        self.wrapped = fabric.setup_module(_LossModule(job.module, job.loss_fn, self.device.type, job.precision))
        self.parameters = [p for p in job.module.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(job.module, self.config)
        self.average = None if self.config.ema_decay is None else MovingAverage(job.module, self.config.ema_decay)
        self.step = self.bad_in_row = self.n_skipped = self.best_step = self.resumed_from = 0
        self.seconds = self.window_sum = 0.0
        self.window_count = 0
        self.first_loss: float | None = None
        self.last_loss: float | None = None
        self.best_loss: float | None = None
        self.consistent = True  # False while the weights are between two steps

    def go(self, stop: threading.Event) -> TrainResult:
        job, config = self.job, self.config
        if job.resume and job.checkpoint_path is not None and job.checkpoint_path.is_file():
            self._load(job.checkpoint_path)
        self.log = JsonlLog(job.log_path if self.rank == 0 else None, keep_steps=self.step)
        started = time.perf_counter() - self.seconds
        saved = reported = time.perf_counter()
        asked_to_stop = stop_now = False
        stopped_by = ""
        was_training = self.module.training
        self.module.train()
        try:
            while not stopped_by:
                fraction = config.fraction_done(self.step, self.seconds)
                if fraction >= 1.0:
                    by_steps = config.n_steps is not None and self.step >= config.n_steps
                    stopped_by = "steps" if by_steps else "minutes"
                    break
                if stop_now or (self.world == 1 and (asked_to_stop or stop.is_set())):
                    stopped_by = "callback" if asked_to_stop else "interrupt"
                    break
                info, stop_now = self._one_step(started, asked_to_stop or stop.is_set())
                if self.rank:
                    continue
                if job.on_step is not None and job.on_step(info):
                    asked_to_stop = True
                now = time.perf_counter()
                if job.checkpoint_path is not None and now - saved >= config.save_every_s:
                    self._save(job.checkpoint_path)
                    saved = time.perf_counter()
                if job.progress is not None and (now - reported >= _SECONDS_BETWEEN_REPORTS or info.fraction >= 1.0):
                    self._report(info)
                    reported = now
        except KeyboardInterrupt:
            stopped_by = "interrupt"
            if not self.consistent:
                raise
        finally:
            self.log.close()
            self.module.train(was_training)
        if self.rank == 0 and job.checkpoint_path is not None:
            self._save(job.checkpoint_path)
        if self.average is not None:
            self.average.write_to_module()
        if stop.is_set():  # even in the last step: Ctrl-C is never swallowed
            stopped_by = "interrupt"
        return TrainResult(
            steps=self.step,
            seconds=self.seconds,
            first_loss=self.first_loss,
            last_loss=self.last_loss,
            best_loss=self.best_loss,
            best_step=self.best_step,
            n_skipped=self.n_skipped,
            stopped_by=stopped_by,
            precision=job.precision,
            resumed_from=self.resumed_from,
        )

    def _one_step(self, started: float, wants_stop: bool) -> tuple[StepInfo, bool]:
        config = self.config
        # half a step on, so that neither the first nor the last of n steps has the rate 0
        lr = config.lr_at(config.fraction_done(self.step + 0.5, self.seconds))
        self._seed_dropout()
        total = torch.zeros((), device=self.device)
        for part in range(config.accumulate):
            index = (self.step * config.accumulate + part) * self.world + self.rank
            batch = move(self.job.batches(index), self.device)
            last = part + 1 == config.accumulate
            with self.fabric.no_backward_sync(self.wrapped, enabled=not last):
                loss = self.wrapped(batch)
                if loss.ndim or not loss.requires_grad:
                    raise ConfigError(
                        f"train: loss_fn must return a scalar with a gradient, got shape {tuple(loss.shape)}, "
                        f"requires_grad={loss.requires_grad}."
                    )
                self.fabric.backward(loss / config.accumulate)
            total += loss.detach() / config.accumulate
        norm = self._clip()
        loss_value, norm_value, seconds, stop = self._agree(total, norm, time.perf_counter() - started, wants_stop)
        good = math.isfinite(loss_value) and math.isfinite(norm_value)
        self.consistent = False
        if good:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()
            if self.average is not None:
                self.average.update()
        for parameter in self.parameters:
            parameter.grad = None
        self.step += 1
        self.seconds = seconds
        fraction = config.fraction_done(self.step, seconds)
        self._count(good, loss_value)
        if self.step % config.log_every == 0 or fraction >= 1.0:
            self._log_window(lr, norm_value)
        self.consistent = True
        return StepInfo(self.step, loss_value, lr, norm_value, seconds, fraction, self.module), stop

    def _seed_dropout(self) -> None:
        seed = seed_of(self.config.seed, "train", str(self.step), str(self.rank))
        for generator in default_generators(self.device):
            generator.manual_seed(seed)

    def _clip(self) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
        if gradients and self.config.clip_norm is not None:
            torch._foreach_mul_(gradients, (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _agree(self, loss: Tensor, norm: Tensor, seconds: float, stop: bool) -> tuple[float, float, float, bool]:
        """The step's figures, the same on every device: the loss averaged, the clock of the first one."""
        figures = torch.stack([loss.double(), norm.to(loss.device).double()])
        if self.world == 1:
            loss_value, norm_value = figures.tolist()
            return loss_value, norm_value, seconds, stop
        clock = torch.tensor([0.0 if self.rank else seconds, float(stop)], dtype=torch.float64, device=self.device)
        summed = self.fabric.all_reduce(torch.cat([figures / self.world, clock]), reduce_op="sum").tolist()
        return summed[0], summed[1], summed[2], summed[3] > 0

    def _count(self, good: bool, loss: float) -> None:
        if good:
            self.bad_in_row = 0
            self.window_sum += loss
            self.window_count += 1
            return
        self.bad_in_row += 1
        self.n_skipped += 1
        if self.bad_in_row >= self.config.max_bad_steps:
            raise ConvergenceError(
                f"train: loss or gradient was not finite in {self.bad_in_row} steps in a row, last at step "
                f"{self.step} (loss {loss}).",
                hint="Lower lr, set clip_norm, or look for NaN in the batches.",
                statistics={
                    "step": float(self.step),
                    "n_skipped": float(self.n_skipped),
                    "last_finite_loss": math.nan if self.last_loss is None else self.last_loss,
                },
            )

    def _log_window(self, lr: float, norm: float) -> None:
        mean = self.window_sum / self.window_count if self.window_count else None
        if mean is not None:
            self.first_loss = mean if self.first_loss is None else self.first_loss
            self.last_loss = mean
            if self.best_loss is None or mean < self.best_loss:
                self.best_loss, self.best_step = mean, self.step
        self.window_sum, self.window_count = 0.0, 0
        self.log.write(
            {
                "step": self.step,
                "loss": mean,
                "lr": lr,
                "grad_norm": norm if math.isfinite(norm) else None,
                "seconds": round(self.seconds, 3),
                "skipped": self.n_skipped,
            }
        )

    def _report(self, info: StepInfo) -> None:
        assert self.job.progress is not None
        fraction = min(info.fraction, 1.0)
        left = info.seconds * (1.0 - fraction) / fraction if fraction > 0 else None
        self.job.progress(Progress(fraction, 1.0, left, f"step {info.step}, loss {info.loss:.4g}"))

    def _settings(self) -> dict[str, Any]:
        settings = {key: value for key, value in asdict(self.config).items() if key not in _NOT_PART_OF_THE_RUN}
        return {**settings, "devices": self.world, "identity": self.job.identity}

    def _save(self, path: Path) -> None:
        info = {name: getattr(self, name) for name in _COUNTERS}
        if self.average is not None:
            info["n_updates"] = self.average.n_updates
        tensors = pack(self.module, self.optimizers, self.average)
        save_state(path, tensors, {"settings": self._settings(), "counters": info})

    def _load(self, path: Path) -> None:
        tensors, info = load_state(path)
        check_same_network(tensors, self.module)
        check_same_run(info.get("settings"), self._settings())
        try:
            unpack(tensors, self.module, self.optimizers, self.average)
            for name in _COUNTERS:
                setattr(self, name, info["counters"][name])
            if self.average is not None:
                self.average.n_updates = info["counters"]["n_updates"]
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the training state {str(path)!r} is incomplete ({type(error).__name__}: {error}).",
                hint="Start again without resuming, or restore the file.",
            ) from error
        self.resumed_from = self.step


def _run(fabric: Any, job: _Job) -> TrainResult:
    with catch_interrupt() as stop, global_state_put_back(fabric.device):
        run = _Run(fabric, job)
        result = run.go(stop)
    if job.weights_path is not None and fabric.global_rank == 0:
        save_state(job.weights_path, pack(job.module, [], None), {})
    return result
