"""Lightning Fabric behind two functions: one device in this process, or several in as many processes."""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessException

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError, ForeknowError
from foreknow.common.progress import Progress
from foreknow.train.state import load_state


@contextmanager
def _environment_put_back() -> Iterator[None]:
    """Whatever the block does to the environment variables is undone."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[Any]:
    """Keep Lightning's remarks to itself, here and now only."""
    logger = logging.getLogger("lightning_fabric")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _environment_put_back():  # its first import sets a variable
            module = require("lightning_fabric", "Training")  # and the level
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield module
        finally:
            logger.setLevel(level)


def _silence_for_good() -> None:
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)


class _SilentProcess:
    """Unpickling one in a new process silences Lightning there, before it announces itself."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _silence_for_good, ()


def make_fabric(device: torch.device, devices: int) -> Any:
    """A Fabric on one device (nothing to launch), or for `devices` processes on this machine."""
    with _quiet() as lightning:
        if devices > 1:
            return lightning.Fabric(accelerator=device.type, devices=devices, strategy="ddp_spawn")
        which = [device.index or 0] if device.type == "cuda" else 1
        return lightning.Fabric(accelerator=device.type, devices=which)


def run_in_processes(run: Callable[[Any, Any], Any], device: torch.device, devices: int, job: Any) -> Any:
    """`run(fabric, job)` in `devices` processes; the result of the first, with its weights put into `job.module`.

    Raises:
        ConfigError: if the job's functions cannot be sent to another process, or there are too few devices.
    """
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(f"train: devices={devices} was asked for, this machine has {torch.cuda.device_count()}.")
    try:
        pickle.dumps((job.loss_fn, job.batches, job.on_step))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"train: with devices={devices}, loss_fn, batches and on_step must be picklable ({error}).",
            hint="Use functions or objects defined at the top of a module, or devices=1.",
        ) from error
    relay = torch.multiprocessing.get_context("spawn").SimpleQueue()
    received: list[Any] = []
    listener = threading.Thread(target=_listen, args=(relay, job.progress, received), daemon=True)
    listener.start()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        weights = Path(folder) / "weights.safetensors"
        sent = replace(job, weights_path=weights, progress=None if job.progress is None else relay.put)
        failure = None
        try:
            with _environment_put_back():  # the launcher sets variables and leaves them
                make_fabric(device, devices).launch(partial(_in_process, _SilentProcess(), run, sent, relay))
        except ProcessException as error:  # raised there, or aborted because another one had gone
            failure = error
        finally:
            relay.put(None)
            listener.join()
        for item in received:
            if isinstance(item, ForeknowError):
                raise item
        if failure is not None:
            raise failure
        tensors, _ = load_state(weights)
    job.module.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    return received[0]


def _in_process(_silent: Any, run: Callable[[Any, Any], Any], job: Any, relay: Any, fabric: Any) -> None:
    """One process's part. Result and errors go through `relay`: Fabric's own way refuses frozen records."""
    for tensor in (*job.module.parameters(), *job.module.buffers()):
        tensor.data = tensor.data.clone()  # tensors arrive in memory that all processes share
    try:
        result = run(fabric, job)
    except ForeknowError as error:
        relay.put(error)
        raise
    if fabric.global_rank == 0:
        relay.put(result)
    fabric.barrier()
    # Left to the end of the process, the group's threads now and then abort it.
    torch.distributed.destroy_process_group()


def _listen(relay: Any, progress: Callable[[Progress], None] | None, received: list[Any]) -> None:
    while (item := relay.get()) is not None:
        if not isinstance(item, Progress):
            received.append(item)
        elif progress is not None:
            progress(item)
