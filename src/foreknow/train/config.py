"""The settings of a training run, and the learning rate they prescribe."""

from __future__ import annotations

import math
from dataclasses import dataclass

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.core.records import record

OPTIMIZERS = ("adam", "adamw", "muon", "sgd")
SCHEDULES = ("constant", "cosine", "linear", "onecycle")
PRECISIONS = ("32", "auto", "bf16")


@record
@dataclass(frozen=True)
class TrainConfig:
    """How long and how a network is trained. The schedule follows the fraction of the budget that is used.

    Args:
        n_steps: optimizer steps in all, or None when only `minutes` limits the run.
        minutes: wall-clock budget in minutes (summed over resumed parts), or None. With both, the nearer ends the run.
        lr: peak learning rate.
        optimizer: `"adamw"`; `"adam"` (weight decay is then added to the gradient); `"muon"` for hidden matrices
            with AdamW for the rest (see `foreknow.train.optim`); `"sgd"` with momentum (weight decay as in Adam).
        betas: AdamW's and Adam's moment decays; the first is the momentum of SGD.
        weight_decay: on weights of two or more axes only, never on biases and norms.
        muon_exclude: a parameter whose name contains one of these words stays with AdamW under `"muon"`.
        warmup_fraction: part of the budget during which the rate rises, linearly; under `"onecycle"` by half a cosine.
        initial_lr_fraction: the rate it rises from, relative to `lr`.
        schedule: `"cosine"`, `"linear"` or `"constant"` after the warm-up; `"onecycle"` falls by half a cosine too.
        final_lr_fraction: the rate at the end, relative to `lr`.
        clip_norm: largest norm of the gradient, or None.
        accumulate: batches averaged into one step.
        ema_decay: decay of the moving average of the weights (its first steps use `(1 + t) / (10 + t)`), or None.
        precision: `"32"`; `"bf16"` autocast; `"auto"` takes bf16 where the device is quicker with it.
        seed: of the loop's own randomness (dropout); batches have their own.
        log_every: steps per logged row.
        save_every_s: least seconds between two saved states.
        max_bad_steps: consecutive steps with a loss or gradient that is not finite before the run is given up.

    Raises:
        ConfigError: if a value is not allowed, or neither `n_steps` nor `minutes` is given.
    """

    n_steps: int | None = None
    minutes: float | None = None
    lr: float = 1e-3
    optimizer: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    muon_exclude: tuple[str, ...] = ("embed", "head", "decoder")
    warmup_fraction: float = 0.1
    initial_lr_fraction: float = 0.0
    schedule: str = "cosine"
    final_lr_fraction: float = 0.0
    clip_norm: float | None = 1.0
    accumulate: int = 1
    ema_decay: float | None = None
    precision: str = "auto"
    seed: int = 0
    log_every: int = 10
    save_every_s: float = 30.0
    max_bad_steps: int = 10

    def __post_init__(self) -> None:
        owner = "TrainConfig"
        if self.n_steps is None and self.minutes is None:
            raise ConfigError(f"{owner}: give n_steps, minutes, or both.")
        if self.n_steps is not None:
            check_int(owner, "n_steps", self.n_steps, low=1)
        if self.minutes is not None:
            check_real(owner, "minutes", self.minutes, low=0.0, open_low=True)
        check_real(owner, "lr", self.lr, low=0.0, open_low=True)
        check_option(owner, "optimizer", self.optimizer, OPTIMIZERS)
        check_option(owner, "schedule", self.schedule, SCHEDULES)
        check_option(owner, "precision", self.precision, PRECISIONS)
        if len(self.betas) != 2:
            raise ConfigError(f"{owner}: betas must be two numbers, got {self.betas!r}.")
        for beta in self.betas:
            check_real(owner, "betas", beta, low=0.0, high=1 - 1e-9)
        check_real(owner, "weight_decay", self.weight_decay, low=0.0)
        check_real(owner, "warmup_fraction", self.warmup_fraction, low=0.0, high=1.0)
        check_real(owner, "initial_lr_fraction", self.initial_lr_fraction, low=0.0, high=1.0)
        check_real(owner, "final_lr_fraction", self.final_lr_fraction, low=0.0, high=1.0)
        if self.clip_norm is not None:
            check_real(owner, "clip_norm", self.clip_norm, low=0.0, open_low=True)
        if self.ema_decay is not None:
            check_real(owner, "ema_decay", self.ema_decay, low=0.0, high=1 - 1e-9)
        check_int(owner, "accumulate", self.accumulate, low=1)
        check_int(owner, "seed", self.seed, low=0)
        check_int(owner, "log_every", self.log_every, low=1)
        check_real(owner, "save_every_s", self.save_every_s, low=0.0)
        check_int(owner, "max_bad_steps", self.max_bad_steps, low=1)

    def fraction_done(self, steps: float, seconds: float) -> float:
        """Part of the budget used after so many steps and seconds; 1 or more ends the run."""
        by_steps = 0.0 if self.n_steps is None else steps / self.n_steps
        by_time = 0.0 if self.minutes is None else seconds / (60.0 * self.minutes)
        return max(by_steps, by_time)

    def lr_at(self, fraction: float) -> float:
        """The learning rate when `fraction` of the budget is used."""
        fraction = min(max(fraction, 0.0), 1.0)
        if fraction < self.warmup_fraction:
            risen = fraction / self.warmup_fraction
            if self.schedule == "onecycle":
                risen = 0.5 * (1.0 - math.cos(math.pi * risen))
            return self.lr * (self.initial_lr_fraction + (1.0 - self.initial_lr_fraction) * risen)
        if self.schedule == "constant":
            return self.lr
        rest = 1.0 - self.warmup_fraction
        used = (fraction - self.warmup_fraction) / rest if rest > 0 else 1.0
        left = 0.5 * (1.0 + math.cos(math.pi * used)) if self.schedule != "linear" else 1.0 - used
        return self.lr * (self.final_lr_fraction + (1.0 - self.final_lr_fraction) * left)
