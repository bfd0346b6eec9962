"""Training a network that ships: one way to check the order, to name the files, and to say how it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from foreknow.common.errors import ConfigError
from foreknow.common.progress import ProgressCallback
from foreknow.common.validate import check_int, check_option
from foreknow.core.system import PRESETS
from foreknow.train.loop import TrainResult

_Sizes = TypeVar("_Sizes")


@dataclass(frozen=True)
class Pretraining:
    """An order to train one network, checked.

    Args:
        card: slug of the paper.
        name: of the network.
        out: folder of its files.
        preset: whose sizes to take, or None for those of the network that ships.
        n_steps: steps, or None for those of the sizes.
        options: what a trainer takes by name: seed, minutes, device, devices, progress, log_path, checkpoint_path
            (the state to go on from) and resume.
    """

    card: str
    name: str
    out: Path
    preset: str | None
    n_steps: int | None
    options: dict[str, Any]

    def sized(self, sizes: _Sizes) -> _Sizes:
        """The sizes (a record with the field `n_steps`) with the steps that were asked for."""
        changed: Any = sizes
        return sizes if self.n_steps is None else replace(changed, n_steps=self.n_steps)

    def command(self, result: TrainResult) -> str:
        """What to type to repeat it."""
        minutes, preset = self.options["minutes"], f" --preset {self.preset}" if self.preset else ""
        budget = f"--minutes {minutes:g}" if minutes else f"--steps {result.steps}"
        return f"foreknow pretrain {self.card} --weights {self.name}{preset} {budget} --seed {self.options['seed']}"

    def ship(
        self,
        network: nn.Module,
        result: TrainResult,
        save: Callable[[dict[str, Any], Path], object],
        facts: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Write what was trained.

        Args:
            network: it.
            result: what the loop had to say.
            save: writes the network with this record to this path, as it ships.
            facts: more for the record, or instead of what it holds.

        Returns:
            Paths, steps, seconds, the last loss and the facts.
        """
        training = {
            "card": self.card,
            "command": self.command(result),
            "seed": self.options["seed"],
            "steps": result.steps,
            "seconds": round(result.seconds, 1),
            "loss": result.last_loss,
            "n_parameters": sum(parameter.numel() for parameter in network.parameters()),
            **(facts or {}),
        }
        weights = self.out / f"{self.name}.safetensors"
        save(training, weights)
        state, log = self.options["checkpoint_path"], self.options["log_path"]
        return {"weights": str(weights), "state": str(state), "log": str(log), **training}


@dataclass(frozen=True)
class Shipping:
    """What `foreknow pretrain` calls for the networks of one paper.

    Args:
        card: slug of the paper.
        names: of its networks; the first is the default.
        train: trains the network that is ordered, and returns what `Pretraining.ship` does.
    """

    card: str
    names: tuple[str, ...]
    train: Callable[[Pretraining], dict[str, Any]]

    def __call__(
        self,
        name: str | None = None,
        *,
        minutes: float | None = None,
        n_steps: int | None = None,
        preset: str | None = None,
        device: str = "auto",
        devices: int = 1,
        resume: bool = False,
        out: Path,
        seed: int = 0,
        progress: ProgressCallback | None = None,
    ) -> dict[str, Any]:
        """Train one of the networks, or go on with it.

        Args:
            name: one of `names`.
            minutes: wall-clock budget; the schedule finishes within it.
            n_steps: steps instead.
            preset: "quick", "small" or "paper" instead of the sizes of the network that ships.
            device, devices: where to train.
            resume: go on from the state in `out`.
            out: folder for `<name>.safetensors` (weights), `<name>.state.safetensors` and `<name>.log.jsonl`.
            seed: of weights and draws.
            progress: told after every step.

        Returns:
            Paths, steps, seconds and the last loss.

        Raises:
            ConfigError: an unknown name or preset, or a budget given twice.
        """
        chosen = check_option(self.card, "weights", name or self.names[0], self.names)
        if minutes is not None and n_steps is not None:
            raise ConfigError("pretrain: give minutes or steps, not both.")
        if n_steps is not None:
            n_steps = check_int("pretrain", "n_steps", n_steps, low=1)
        if preset is not None:
            check_option("pretrain", "preset", preset, PRESETS)
        out.mkdir(parents=True, exist_ok=True)
        options = {
            "seed": seed,
            "minutes": minutes,
            "device": device,
            "devices": devices,
            "progress": progress,
            "log_path": out / f"{chosen}.log.jsonl",
            "checkpoint_path": out / f"{chosen}.state.safetensors",
            "resume": resume,
        }
        return self.train(Pretraining(self.card, chosen, out, preset, n_steps, options))
