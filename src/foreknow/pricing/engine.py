"""Running the cells of a study: what is in the store is not run again, what is run gets there as it finishes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from time import monotonic

from foreknow.common.errors import ForeknowWarning
from foreknow.common.progress import Progress, ProgressCallback
from foreknow.common.validate import check_int, check_option, check_real
from foreknow.pricing.records import Cell
from foreknow.pricing.store import Store, utc_now
from foreknow.pricing.workers import Finished, InProcess, Pool, Processes, Work

_POLL_S = 0.2


@dataclass(frozen=True)
class RunSummary:
    """What `run_cells` did.

    Args:
        n_run: cells that this call ran and stored.
        n_reused: cells that were in the store, or that another process finished meanwhile.
        n_failed: of those that this call ran.
        n_blocks_done: blocks with a row for each of their cells.
        n_blocks_planned: blocks that were asked for.
        seconds: of this call.
        stopped: "" if all blocks are done, "budget" if the rest did not fit.
    """

    n_run: int
    n_reused: int
    n_failed: int
    n_blocks_done: int
    n_blocks_planned: int
    seconds: float
    stopped: str = ""


class Budget:
    """Whether one more block fits, judged by the blocks before it alone.

    A deadline that cut blocks off would drop those that take long, and what takes long often comes out differently:
    the mean of the rest would be a mean of quick blocks. So a block is never ended for its own length. It is begun if
    what complete blocks took on average fits into the time left, and then it is finished, even past the budget. The
    first always runs.

    Whether a block counts is thus settled before anything is known of it, and the sum of (value - mean) over the
    counted blocks is zero on average (Wald's identity), however values and durations go together. The number of
    blocks still depends on past durations, so where values go with durations the plain average keeps a small bias
    towards long blocks. In simulations of some eight blocks whose value is their duration it was a tenth of a
    standard error for durations that vary by a fifth, and half of one for exponential durations. A study that must
    not have it asks for a number of seeds, not for a budget.

    Args:
        seconds: the budget.
        n_workers: cells that run at the same time.
        clock: seconds, always growing.
    """

    def __init__(self, seconds: float, n_workers: int = 1, clock: Callable[[], float] = monotonic) -> None:
        self._seconds = seconds
        self._n_workers = n_workers
        self._clock = clock
        self._start = clock()
        self._open: dict[int, list[float]] = {}
        self._complete: list[list[float]] = []

    @property
    def seconds_left(self) -> float:
        return max(0.0, self._start + self._seconds - self._clock())

    def begin(self, block: int) -> None:
        self._open[block] = []

    def ran(self, block: int, seconds: float) -> None:
        """One cell of an open block took so long."""
        self._open[block].append(seconds)

    def complete(self, block: int) -> None:
        self._complete.append(self._open.pop(block))

    def fits(self) -> bool:
        """Whether another block may begin now. Before the first is complete, only that one may."""
        if not self._complete:
            return not self._open
        mean = fmean(sum(cells) for cells in self._complete)
        longest = fmean(max(cells, default=0.0) for cells in self._complete)
        work = mean + sum(max(0.0, mean - sum(cells)) for cells in self._open.values())
        return max(work / self._n_workers, longest) <= self.seconds_left


def run_cells(
    blocks: Sequence[Sequence[Cell]],
    work: Work,
    *,
    store: Store,
    engine: str = "local",
    n_workers: int = 1,
    threads_per_worker: int = 1,
    budget_s: float | None = None,
    progress: ProgressCallback | None = None,
    retry_failed: bool = False,
    address: str | None = None,
) -> RunSummary:
    """Run the cells of `blocks` that are not in the store, and put each there as it finishes.

    A block is what counts only as a whole: one seed, all arms and sizes. Several processes may run the same blocks
    into the same store; each cell is run by one of them, and all return when the blocks they began are done. An
    exception of `work` makes a failed trial. Ctrl-C ends what is under way, gives its claims back and passes on.

    Args:
        blocks: in the order in which they are wanted.
        work: runs one cell. With worker processes it is sent there, closures included.
        store: where finished cells go; only this process writes to it.
        engine: "local" (this process, or worker processes) or "ray" (needs the extra `ray`).
        n_workers: cells that run at the same time; 1 with the local engine is this process.
        threads_per_worker: processor threads that one cell may use.
        budget_s: begin no block that would, by what earlier blocks took, end later than this; see `Budget` for why a
            block that was begun, now or in an earlier run, is always finished. None for no limit.
        progress: called after each cell.
        retry_failed: run cells again that failed in earlier runs.
        address: of the Ray cluster to use; None for the one that is connected, else a new one on this machine.

    Raises:
        ConfigError: a setting is not allowed, or `work` cannot be sent to worker processes.
        ResourceError: worker processes cannot be started, or the store cannot be written.
    """
    check_option("run_cells", "engine", engine, ("local", "ray"))
    check_int("run_cells", "n_workers", n_workers, low=1)
    check_int("run_cells", "threads_per_worker", threads_per_worker, low=1)
    if budget_s is not None:
        check_real("run_cells", "budget_s", budget_s, low=0)
    budget = None if budget_s is None else Budget(budget_s, n_workers)
    pool = _pool(work, engine, n_workers, threads_per_worker, address)
    run = _Run(blocks, store, pool, budget, utc_now() if retry_failed else "", progress)
    try:
        with store.beating():
            run.loop()
    finally:
        pool.close()
        run.release()
    for message in dict.fromkeys(run.messages):
        warnings.warn(message, ForeknowWarning, stacklevel=2)
    return run.summary()


def _pool(work: Work, engine: str, n_workers: int, n_threads: int, address: str | None) -> Pool:
    if engine == "ray":
        from foreknow.pricing.engine_ray import RayTasks

        return RayTasks(work, n_workers, n_threads, address)
    return InProcess(work, n_threads) if n_workers == 1 else Processes(work, n_workers, n_threads)


@dataclass
class _Block:
    index: int
    cells: dict[str, Cell]
    left: set[str]


class _Run:
    """The state of one call of `run_cells`."""

    def __init__(
        self,
        blocks: Sequence[Sequence[Cell]],
        store: Store,
        pool: Pool,
        budget: Budget | None,
        retry_before: str,
        progress: ProgressCallback | None,
    ) -> None:
        self.messages: list[str] = []
        self._store, self._pool, self._budget, self._progress = store, pool, budget, progress
        self._retry_before = retry_before
        self._start = monotonic()
        self._waiting = []
        for i, block in enumerate(blocks):
            cells = {cell.key: cell for cell in block}
            self._waiting.append(_Block(i, cells, set(cells)))
        self._open: list[_Block] = []
        self._running: set[str] = set()
        self._n_planned = len(self._waiting)
        self._n_complete = self._n_run = self._n_failed = self._n_reused = 0
        self._stopped = ""
        keys = {key for block in self._waiting for key in block.cells}
        self._n_cells = len(keys)
        self._to_do = keys - self._stored(keys).keys()
        self._n_to_do = len(self._to_do)

    def loop(self) -> None:
        while True:
            for block in list(self._open):
                self._feed(block)
            if self._pool.n_free() and self._waiting:
                if self._begin_next():
                    continue
            elif not self._open:
                return
            for finished in self._pool.wait(_POLL_S):
                self._take(finished)

    def release(self) -> None:
        """Give back the claims of cells that were under way."""
        for block in self._open:
            self._store.release(block.cells.values())

    def summary(self) -> RunSummary:
        return RunSummary(
            n_run=self._n_run,
            n_reused=self._n_reused,
            n_failed=self._n_failed,
            n_blocks_done=self._n_complete,
            n_blocks_planned=self._n_planned,
            seconds=monotonic() - self._start,
            stopped=self._stopped,
        )

    def _begin_next(self) -> bool:
        """Begin the next block, or strike those that the budget has no room for; False to wait and ask again."""
        block = self._waiting[0]
        if self._budget and not self._budget.fits() and not self._store.begun(block.cells):
            if self._open:
                return False
            self._stopped = "budget"
            self._waiting = [block for block in self._waiting if self._store.begun(block.cells)]
            return True
        self._open.append(self._waiting.pop(0))
        if self._budget:
            self._budget.begin(block.index)
        self._look(block)
        return True

    def _feed(self, block: _Block) -> None:
        """Give the pool as many cells of the block as it takes; those left over are others' or done."""
        wanted = [block.cells[key] for key in block.cells if key in block.left and key not in self._running]
        free = self._pool.n_free()
        if not wanted or not free:
            return
        claimed = self._store.claim(wanted, limit=free, retry_before=self._retry_before)
        self._running.update(cell.key for cell in claimed)
        for cell in claimed:
            self._pool.submit(cell)
        if len(claimed) < min(free, len(wanted)):
            self._look(block)

    def _look(self, block: _Block) -> None:
        """Cross off what is in the store: from an earlier run, or from another process."""
        for key, seconds in self._stored(block.left - self._running).items():
            self._n_reused += 1
            self._cross_off(block, key, seconds)
        self._close_if_done(block)

    def _take(self, finished: Finished) -> None:
        trial = finished.trial
        key = trial.cell.key
        if self._store.finish(trial):
            self._n_run += 1
            self._n_failed += trial.status == "failed"
        else:
            self._n_reused += 1  # this process was taken for dead, and another was quicker
        self._running.discard(key)
        self.messages += finished.warnings
        for block in [block for block in self._open if key in block.left]:
            self._cross_off(block, key, finished.seconds)
            self._close_if_done(block)
        if self._progress:
            n_done = self._n_to_do - len(self._to_do)
            seconds = (monotonic() - self._start) / max(n_done, 1) * len(self._to_do)
            seconds = min(seconds, self._budget.seconds_left) if self._budget else seconds
            note = f"{trial.cell.arm}, {trial.cell.size}, seed {trial.cell.seed}"
            self._progress(Progress(self._n_cells - len(self._to_do), self._n_cells, seconds, note))

    def _cross_off(self, block: _Block, key: str, seconds: float) -> None:
        block.left.discard(key)
        self._to_do.discard(key)
        if self._budget:
            self._budget.ran(block.index, seconds)

    def _close_if_done(self, block: _Block) -> None:
        if not block.left:
            self._open.remove(block)
            self._n_complete += 1
            if self._budget:
                self._budget.complete(block.index)

    def _stored(self, keys: Iterable[str]) -> dict[str, float]:
        """Seconds of the cells that are in the store and not to be tried again."""
        found = self._store.outcomes(keys).items()
        return {
            key: seconds
            for key, (status, finished, seconds) in found
            if not (status == "failed" and finished < self._retry_before)
        }
