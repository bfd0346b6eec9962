"""What a run borrows from its process, and gives back: the global generators and Ctrl-C; and batches to a device."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch


def move(batch: Any, device: torch.device) -> Any:
    """The batch on `device`: whatever has `.to`, inside dicts, lists and tuples; the rest as it is."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(move(value, device) for value in batch)
    return batch


def default_generators(device: torch.device) -> list[torch.Generator]:
    """The generators that layers such as dropout draw from on `device`."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    return generators


@contextmanager
def global_state_put_back(device: torch.device) -> Iterator[None]:
    """Lend torch's global generators to the loop (dropout has no other source) and restore them."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
    generators = default_generators(device)
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states):
            generator.set_state(state)


@contextmanager
def catch_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts as usual. Only in the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)
    if before is None or before is signal.SIG_IGN:  # not Python's to handle, or switched off for this process
        yield stop
        return

    def handler(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handler)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
