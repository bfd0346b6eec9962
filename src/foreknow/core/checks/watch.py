"""What a call did to the process: random states, settings, output, warnings, files, connections."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch

from foreknow.common.errors import ForeknowWarning


def random_states() -> dict[str, Any]:
    """The global random states of Python, numpy and torch, comparable with `==`."""
    _, keys, position, has_gauss, cached = cast(tuple[Any, ...], np.random.get_state())  # noqa: NPY002
    states: dict[str, Any] = {
        "random": random.getstate(),
        "numpy.random": (keys.tobytes(), position, has_gauss, cached),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["torch.cuda"] = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return states


def process_settings() -> dict[str, object]:
    """Settings of torch, numpy and the process that a library call must leave as they were."""
    return {
        "torch.get_num_threads()": torch.get_num_threads(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_default_device()": torch.get_default_device(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled(),
        "torch.is_anomaly_enabled()": torch.is_anomaly_enabled(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "torch.get_float32_matmul_precision()": torch.get_float32_matmul_precision(),
        "torch.backends.cudnn.benchmark": torch.backends.cudnn.benchmark,
        "numpy.geterr()": np.geterr(),
        "os.getcwd()": os.getcwd(),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names whose values differ."""
    return [name for name in before if before[name] != after.get(name)]


@dataclass
class Trace:
    """What happened inside `watch()`; complete once the block has ended."""

    random: list[str] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    printed: str = ""
    files: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    warnings: list[warnings.WarningMessage] = field(default_factory=list)

    @property
    def foreign_warnings(self) -> list[str]:
        """Warnings that are not the library's own."""
        return [
            f"{w.category.__name__}: {w.message}" for w in self.warnings if not issubclass(w.category, ForeknowWarning)
        ]


@contextlib.contextmanager
def watch() -> Iterator[Trace]:
    """Run a block in an empty folder, without a network, and note what it did to the process.

    Random states and settings are put back afterwards, so one bad call does not spoil what follows.
    """
    trace = Trace()
    states, settings, folder_before = random_states(), process_settings(), os.getcwd()
    output = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.chdir(folder),
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        _no_network(trace.connections),
    ):
        warnings.simplefilter("always")
        settings["os.getcwd()"] = os.getcwd()
        try:
            yield trace
        finally:
            trace.random = differences(states, random_states())
            trace.settings = differences(settings, process_settings())
            trace.printed = output.getvalue()
            trace.files = sorted(os.listdir(folder))
            trace.warnings = list(caught or [])
            put_back(states, {**settings, "os.getcwd()": folder_before})


@contextlib.contextmanager
def _no_network(attempts: list[str]) -> Iterator[None]:
    """Note and refuse every new connection that leaves the machine; local pipes of workers stay allowed."""
    plain, lookup = socket.socket, socket.getaddrinfo

    def refuse(what: str) -> None:
        attempts.append(what)
        raise OSError(f"no network inside a check: {what}")

    class Refused(plain):  # type: ignore[valid-type,misc]
        def __new__(cls, family: int = -1, *args: Any, **kwargs: Any) -> Any:
            if family != getattr(socket, "AF_UNIX", None):
                refuse("socket.socket()")
            return super().__new__(cls, family, *args, **kwargs)

    socket.socket = Refused  # type: ignore[misc]
    socket.getaddrinfo = lambda host, *args, **kwargs: refuse(f"address of {host!r}")  # type: ignore[assignment]
    try:
        yield
    finally:
        socket.socket, socket.getaddrinfo = plain, lookup  # type: ignore[misc]


def put_back(states: dict[str, Any], settings: dict[str, Any]) -> None:
    """Restore what `random_states()` and `process_settings()` said."""
    random.setstate(states["random"])
    keys, position, has_gauss, cached = states["numpy.random"]
    np.random.set_state(("MT19937", np.frombuffer(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(states["torch"]), dtype=torch.uint8))
    torch.set_num_threads(settings["torch.get_num_threads()"])
    torch.set_default_dtype(settings["torch.get_default_dtype()"])
    torch.set_grad_enabled(settings["torch.is_grad_enabled()"])
    torch.autograd.set_detect_anomaly(settings["torch.is_anomaly_enabled()"])
    torch.use_deterministic_algorithms(settings["torch.are_deterministic_algorithms_enabled()"])
    torch.set_float32_matmul_precision(settings["torch.get_float32_matmul_precision()"])
    torch.backends.cudnn.benchmark = settings["torch.backends.cudnn.benchmark"]
    np.seterr(**settings["numpy.geterr()"])
    os.chdir(settings["os.getcwd()"])
