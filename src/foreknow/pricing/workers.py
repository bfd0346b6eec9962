"""Running one cell, in this process or in a worker process that may die.

Worker processes are plain children of this one, each with a pipe of its own. So when one dies it is known which cell
it was working on, and nobody else's work is lost: the pools of the standard library and of joblib fail all that is
under way when one worker is killed, and name no culprit. The work itself travels through joblib's cloudpickle, so
closures and functions of a script or notebook are fine, and no script is run again by its workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import platform
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from time import perf_counter
from typing import Protocol

from foreknow.common.errors import ConfigError, ForeknowWarning, ResourceError
from foreknow.pricing.memory import PeakMemory
from foreknow.pricing.records import Cell, Outcome, Trial
from foreknow.pricing.store import to_json, utc_now

Work = Callable[[Cell], Outcome]

MAX_DEATHS = 3
"""A cell whose worker process died as often is stored as failed."""


@dataclass(frozen=True)
class Finished:
    """A cell that was run.

    Args:
        trial: what the store keeps.
        seconds: wall-clock time it took in all, failed or not.
        warnings: messages of the library's own warnings.
    """

    trial: Trial
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()


class Pool(Protocol):
    """Where cells are run. `close` ends it and whatever is under way."""

    def n_free(self) -> int: ...

    def submit(self, cell: Cell) -> None: ...

    def wait(self, timeout_s: float) -> list[Finished]: ...

    def close(self) -> None: ...


def execute(work: Work, cell: Cell, n_threads: int) -> Finished:
    """Run one cell: measured, with at most `n_threads` threads, an exception turned into a failed trial.

    Warnings of other packages that the filters let through are dropped here, as hundreds of cells would repeat them.
    """
    start = perf_counter()
    outcome, error = Outcome({}), ""
    with warnings.catch_warnings(record=True) as caught, _capped(n_threads), PeakMemory() as memory:
        warnings.simplefilter("always", ForeknowWarning)
        try:
            outcome = _checked(work(cell))
        except Exception as failure:  # noqa: BLE001 - whatever it is, the other cells go on
            error = _one_line(failure)
    trial = Trial(
        cell,
        "failed" if error else "done",
        outcome.metrics,
        outcome.detail,
        outcome.seconds,
        round(memory.mb, 2),
        error,
        utc_now(),
        f"{platform.node()}:{os.getpid()}",
        wall_s := perf_counter() - start,
    )
    ours = tuple(str(item.message) for item in caught if issubclass(item.category, ForeknowWarning))
    return Finished(trial, wall_s, ours)


def died(cell: Cell, why: str) -> Finished:
    """The failed trial of a cell that took its worker process with it every time."""
    error = f"the worker process died {MAX_DEATHS} times ({why}); too little memory is the usual cause"
    return Finished(Trial(cell, "failed", error=error, finished=utc_now(), worker=platform.node()))


def _checked(outcome: object) -> Outcome:
    """The outcome with plain numbers and JSON types, so that it can travel and be stored."""
    if not isinstance(outcome, Outcome):
        raise ConfigError(f"the work must return an Outcome, got a {type(outcome).__name__}.")
    metrics = {str(name): float(value) for name, value in outcome.metrics.items()}
    return Outcome(metrics, json.loads(to_json(outcome.detail)), float(outcome.seconds))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]


@contextlib.contextmanager
def _capped(n_threads: int) -> Iterator[None]:
    """At most `n_threads` threads for the numeric libraries that are loaded, and for torch."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    with threadpool_limits(limits=n_threads):
        if torch:
            torch.set_num_threads(n_threads)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


# In this process ---------------------------------------------------------------------------------------------------


class InProcess:
    """Runs a cell when it is submitted."""

    def __init__(self, work: Work, n_threads: int) -> None:
        self._work = work
        self._n_threads = n_threads
        self._finished: list[Finished] = []

    def n_free(self) -> int:
        return 1 - len(self._finished)

    def submit(self, cell: Cell) -> None:
        self._finished.append(execute(self._work, cell, self._n_threads))

    def wait(self, timeout_s: float) -> list[Finished]:
        if not self._finished:  # other processes have the cells that are left
            time.sleep(timeout_s)
        finished, self._finished = self._finished, []
        return finished

    def close(self) -> None:
        self._finished = []


# In worker processes -----------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    cell: Cell | None = None
    ready: bool = False


class Processes:
    """Runs up to `n_workers` cells at a time, each in a process of its own; a process that dies is replaced.

    Raises:
        ConfigError: if the work cannot be sent to another process.
    """

    def __init__(self, work: Work, n_workers: int, n_threads: int) -> None:
        from joblib import wrap_non_picklable_objects

        try:
            self._payload = pickle.dumps(wrap_non_picklable_objects(work, keep_wrapper=False))
        except Exception as error:
            raise ConfigError(
                f"the work cannot be sent to worker processes: {_one_line(error)}.",
                hint="Use n_workers=1, or a function that holds no open files, locks or connections.",
            ) from error
        self._n_workers = n_workers
        self._n_threads = n_threads
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()

    def n_free(self) -> int:
        return self._n_workers - sum(worker.cell is not None for worker in self._workers)

    def submit(self, cell: Cell) -> None:
        worker = next((worker for worker in self._workers if worker.cell is None), None) or self._start()
        worker.cell = cell
        with contextlib.suppress(OSError):  # it died while idle: `wait` sees that, and runs the cell again
            worker.pipe.send(cell)

    def wait(self, timeout_s: float) -> list[Finished]:
        finished = []
        for pipe in wait([worker.pipe for worker in self._workers], timeout_s):
            worker = next(worker for worker in self._workers if worker.pipe is pipe)
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                finished += self._bury(worker)
                continue
            if isinstance(message, Finished):
                finished.append(message)
                worker.cell = None
            elif message:
                raise ConfigError(
                    f"the work could not be loaded by a worker process: {message}.",
                    hint="Define it in a module that can be imported, or in the script itself.",
                )
            else:
                worker.ready = True
        return finished

    def close(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # an idle worker ends by itself
            if worker.cell is not None:
                worker.process.kill()
        for worker in self._workers:
            try:
                worker.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []

    def _start(self) -> _Worker:
        ours, theirs = Pipe()
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self._n_threads))
        code = "import sys, foreknow.pricing.workers as w; w.serve(*map(int, sys.argv[1:]))"
        process = subprocess.Popen(
            [sys.executable, *_interpreter_options(), "-c", code, str(theirs.fileno()), str(os.getpid())],
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,  # what the work prints must not get into the results that a program writes to its output
        )
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        with contextlib.suppress(OSError):
            ours.send((self._payload, self._n_threads))
        return worker

    def _bury(self, worker: _Worker) -> list[Finished]:
        """Forget a dead worker; its cell goes to a new one, or is given up."""
        worker.pipe.close()
        code = worker.process.wait()
        self._workers.remove(worker)
        if not worker.ready and code >= 0:
            raise ResourceError(
                f"a worker process could not start: {sys.executable} ended with exit code {code}.",
                hint="Its own message is above. n_workers=1 needs no worker process.",
            )
        cell = worker.cell
        if cell is None:
            return []
        self._deaths[cell.key] += 1
        if self._deaths[cell.key] < MAX_DEATHS:
            self.submit(cell)
            return []
        return [died(cell, f"signal {-code}" if code < 0 else f"exit code {code}")]


def _interpreter_options() -> list[str]:
    """The options of this interpreter, warning filters among them, for a child."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]


def serve(descriptor: int, parent: int) -> None:
    """What a worker process does: take cells from the pipe, send back what came of them, end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    pipe = Connection(descriptor)
    payload, n_threads = pipe.recv()
    try:
        work = pickle.loads(payload)
    except Exception as error:  # noqa: BLE001 - the parent says it
        pipe.send(_one_line(error))
        return
    pipe.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(execute(work, pipe.recv(), n_threads))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
