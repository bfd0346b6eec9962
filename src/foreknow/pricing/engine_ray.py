"""Cells as tasks of a Ray cluster; needs the extra `ray`.

The cluster runs cells and nothing else: what comes back is put into the store by the process that called
`run_cells`, so the file needs no network and no server. The machines of the cluster need foreknow and whatever the
work imports.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from foreknow.common.deps import require
from foreknow.common.errors import ConfigError, ResourceError
from foreknow.pricing.records import Cell
from foreknow.pricing.workers import MAX_DEATHS, Finished, Work, died, execute

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class RayTasks:
    """Runs up to `n_workers` cells at a time on the cluster that is connected, else at `address`, else a local one.

    A cell whose worker or machine dies is run again by Ray, `MAX_DEATHS` times in all. A cluster that was started
    here is shut down by `close`.
    """

    def __init__(self, work: Work, n_workers: int, n_threads: int, address: str | None) -> None:
        self._ray: Any = require("ray", "engine='ray'")
        self._running: dict[Any, Cell] = {}
        self._stdout = sys.stdout
        sys.stdout = self._diverted = _Diverted(sys.stdout)
        self._ours = not self._ray.is_initialized()
        if self._ours:
            try:
                self._connect(n_workers, n_threads, address)
            except BaseException:
                self.close()
                raise
        cores = [node["Resources"].get("CPU", 0) for node in self._ray.nodes() if node["Alive"]]
        if max(cores, default=0) < n_threads:
            self.close()
            raise ConfigError(
                f"run_cells: threads_per_worker is {n_threads}, but no machine of the Ray cluster has more than "
                f"{max(cores, default=0):.0f} processors.",
                hint="Lower threads_per_worker.",
            )
        self._task = self._ray.remote(num_cpus=n_threads, max_retries=MAX_DEATHS - 1)(execute)
        self._work = self._ray.put(work)
        self._n_workers = n_workers
        self._n_threads = n_threads

    def n_free(self) -> int:
        return self._n_workers - len(self._running)

    def submit(self, cell: Cell) -> None:
        self._running[self._task.remote(self._work, cell, self._n_threads)] = cell

    def wait(self, timeout_s: float) -> list[Finished]:
        if not self._running:
            time.sleep(timeout_s)
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=timeout_s)
        return [self._result(reference, self._running.pop(reference)) for reference in ready]

    def close(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        if self._ours and self._ray.is_initialized():
            with contextlib.redirect_stdout(sys.stderr):  # it prints what it has kept back
                self._ray.shutdown()
        if sys.stdout is self._diverted:
            sys.stdout = self._stdout

    def _result(self, reference: Any, cell: Cell) -> Finished:
        try:
            finished = self._ray.get(reference)
            assert isinstance(finished, Finished)
            return finished
        except self._ray.exceptions.RayTaskError as error:  # `execute` itself never fails
            raise ConfigError(
                f"the work could not be loaded on the Ray cluster: {' '.join(str(error).split())[-300:]}",
                hint="Its machines need foreknow and what the work imports.",
            ) from error
        except self._ray.exceptions.RayError as error:
            return died(cell, type(error).__name__)

    def _connect(self, n_workers: int, n_threads: int, address: str | None) -> None:
        options = {} if address else {"num_cpus": n_workers * n_threads, "include_dashboard": False}
        try:
            place = urlsplit(address if address and "://" in address else f"//{address or ''}")
            if place.hostname and place.port:  # Ray itself would try for minutes
                socket.create_connection((place.hostname, place.port), timeout=10).close()
            with _environment(_QUIET):
                self._ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **options)
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise ResourceError(
                f"no Ray cluster could be {'reached at ' + repr(address) if address else 'started'}: {error}",
                hint="Is the address right? Without one a cluster is started on this machine.",
            ) from error


class _Diverted:
    """Standard output without what Ray's own threads say about dead workers, which goes to standard error."""

    def __init__(self, out: Any) -> None:
        self._out = out

    def write(self, text: str) -> int:
        is_ray = threading.current_thread().name.startswith("ray_")
        return int((sys.stderr if is_ray else self._out).write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Inside the block these environment variables are set, unless the user has set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
