"""Which device to use, decided in `fit` and never at import."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from foreknow.common.errors import ConfigError

if TYPE_CHECKING:
    import torch


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The torch device for `device`; `"auto"` takes a CUDA device when one works, else the processor.

    Raises:
        ConfigError: if the name is unknown or the device is not there.
    """
    import torch

    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen: torch.device | None = None
    with contextlib.suppress(RuntimeError, TypeError):
        chosen = torch.device(device)
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {device!r:.80}.",
            hint="`foreknow doctor` lists the devices of this machine.",
        )
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise ConfigError(
                f"device {str(chosen)!r} was asked for, but {count} CUDA device(s) can be used here.",
                hint="Use device='auto' or 'cpu'.",
            )
    return chosen


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are quicker than float32 on `device`."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    checks = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(device.type == "cpu" and checks is not None and checks())
