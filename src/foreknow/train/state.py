"""The state of a training run as one safetensors file: plain tensors and a JSON header, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foreknow.common.errors import CheckpointError
from foreknow.common.files import atomic_path
from foreknow.train.optim import MovingAverage

FORMAT = "foreknow-training-state"
VERSION = 1


def save_state(path: str | Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write tensors and `info` (JSON types) to `path` in one step; an older file stays until the new one is whole."""
    from safetensors.torch import save_file

    header = json.dumps({"format": FORMAT, "version": VERSION, "n_tensors": len(tensors), **info}, allow_nan=False)
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={"training_state": header})


def load_state(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_state` wrote.

    Raises:
        CheckpointError: if the file is not a whole training state of a version this library reads.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            info = json.loads((file.metadata() or {})["training_state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{str(path)!r} is not a whole training state ({type(error).__name__}: {error}).",
            hint="Start again without resuming, or restore the file.",
        ) from error
    if not isinstance(info, dict) or info.get("format") != FORMAT or info.get("version") != VERSION:
        raise CheckpointError(f"{str(path)!r} is not a training state of version {VERSION}.")
    if info.get("n_tensors") != len(tensors):
        raise CheckpointError(f"{str(path)!r} is not a whole training state: it holds {len(tensors)} tensors.")
    return tensors, info


def pack(
    module: nn.Module, optimizers: list[torch.optim.Optimizer], average: MovingAverage | None
) -> dict[str, Tensor]:
    """All tensors of a run under flat names: `model.*`, `optimizer.<j>.<i>.*`, `ema.*`."""
    tensors = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    for j, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"optimizer.{j}.{i}.{key}"] = torch.as_tensor(value)
    if average is not None:
        tensors.update({f"ema.{name}": tensor for name, tensor in average.averages.items()})
    return tensors


def unpack(
    tensors: Mapping[str, Tensor],
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    average: MovingAverage | None,
) -> None:
    """Put the tensors of `pack` back in place.

    Raises:
        KeyError, IndexError, ValueError, RuntimeError: if names or shapes do not fit.
    """
    module.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    for j, optimizer in enumerate(optimizers):
        whole = optimizer.state_dict()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        whole["state"] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{j}."):
                _, _, i, key = name.split(".", 3)
                if tensor.ndim and tensor.shape != parameters[int(i)].shape:
                    raise ValueError(f"{name} has shape {tuple(tensor.shape)}")
                whole["state"].setdefault(int(i), {})[key] = tensor
        optimizer.load_state_dict(whole)
    if average is not None:
        for name, tensor in average.averages.items():
            tensor.copy_(tensors[f"ema.{name}"])


def check_same_network(tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    """Refuse a state whose tensors have other names or shapes than the network's."""
    stored = {name[6:]: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("model.")}
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise CheckpointError(
                f"the training state belongs to another network: {name!r} is "
                f"{stored.get(name, 'missing')} in the file and {wanted.get(name, 'missing')} here.",
                hint="Build the same network, or start again without resuming.",
            )


def check_same_run(stored: object, wanted: Mapping[str, Any]) -> None:
    """Refuse a state that was written under other settings, naming the first few that differ."""
    wanted = json.loads(json.dumps(wanted))
    stored = stored if isinstance(stored, dict) else {}
    keys = sorted(stored.keys() | wanted.keys())
    changed = [key for key in keys if stored.get(key) != wanted.get(key)]
    if changed:
        lines = ", ".join(f"{key}: {stored.get(key)!r} in the file, {wanted.get(key)!r} here" for key in changed[:5])
        raise CheckpointError(
            f"the training state was written under other settings ({lines}).",
            hint="Use the settings of the file, or start again without resuming.",
        )
