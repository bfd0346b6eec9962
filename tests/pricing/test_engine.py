"""The engines: every cell is run once, whatever is killed, and a budget favours no kind of block."""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from store_cells import executions, finish, make_blocks, make_cell, make_trial, quick, start, twice

from foreknow.common.errors import ConfigError, ForeknowWarning, MissingExtraError
from foreknow.common.progress import Progress
from foreknow.pricing import engine as engine_module
from foreknow.pricing.engine import Budget, run_cells
from foreknow.pricing.memory import PeakMemory
from foreknow.pricing.records import Cell, Outcome
from foreknow.pricing.store import Store, process_start
from foreknow.pricing.workers import MAX_DEATHS

# What a run does -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_workers", [1, 2])
def test_every_cell_is_run_once_and_never_again(tmp_path: Path, n_workers: int) -> None:
    blocks = make_blocks(3)

    def work(cell: Cell) -> Outcome:  # a closure: it travels to worker processes too
        with open(tmp_path / "executions", "a", encoding="utf-8") as file:
            file.write(f"{cell.key}\n")
        return dataclasses.replace(quick(cell), detail={"pid": os.getpid()})

    with Store.open(tmp_path / "s") as store:
        first = run_cells(blocks[:2], work, store=store, n_workers=n_workers)
        second = run_cells(blocks, work, store=store, n_workers=n_workers)
        trials = store.trials()
    assert (first.n_run, first.n_reused, first.n_blocks_done, first.n_blocks_planned) == (8, 0, 2, 2)
    assert (second.n_run, second.n_reused, second.n_blocks_done, second.n_blocks_planned) == (4, 8, 3, 3)
    assert (first.n_failed, first.stopped, first.seconds > 0) == (0, "", True)
    assert sorted(executions(tmp_path)) == sorted(cell.key for block in blocks for cell in block)
    for trial in trials:
        assert trial.metrics == {"loss": 1 / trial.cell.size + trial.cell.seed}
        assert (trial.status, trial.seconds, trial.error) == ("done", 0.25, "")
        assert trial.finished.endswith("+00:00")
        assert trial.worker.endswith(f":{trial.detail['pid']}")
    assert (os.getpid() in {trial.detail["pid"] for trial in trials}) == (n_workers == 1)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_fails_is_stored_in_one_line_and_tried_again_only_if_asked(tmp_path: Path, n_workers: int) -> None:
    blocks = make_blocks(2)
    bad = blocks[0][1].key

    def work(cell: Cell) -> Outcome:
        if cell.key == bad and not (tmp_path / "mended").exists():
            raise ValueError("first line\n  second line")
        return quick(cell)

    with Store.open(tmp_path / "s") as store:
        first = run_cells(blocks, work, store=store, n_workers=n_workers)
        assert (first.n_run, first.n_failed, first.n_blocks_done) == (8, 1, 2)
        (failed,) = store.trials(status="failed")
        assert (failed.error, failed.metrics, failed.seconds) == ("ValueError: first line second line", {}, 0.0)
        again = run_cells(blocks, work, store=store, n_workers=n_workers, retry_failed=True)
        assert (again.n_run, again.n_failed, again.n_reused) == (1, 1, 7)  # once, though it failed again
        (tmp_path / "mended").touch()
        assert run_cells(blocks, work, store=store).n_run == 0
        assert run_cells(blocks, work, store=store, n_workers=n_workers, retry_failed=True).n_run == 1
        assert not store.trials(status="failed")


def test_work_that_returns_something_else_fails(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        run_cells([[make_cell()]], lambda cell: {"loss": 1.0}, store=store)  # type: ignore[arg-type,return-value]
        run_cells([[make_cell(1)]], lambda cell: Outcome({"loss": 1.0}, {"x": object()}), store=store)
        assert [t.error.split(":")[0] for t in store.trials()] == ["ConfigError", "ConfigError"]
        assert "an Outcome, got a dict" in store.trials()[0].error


def test_our_warnings_are_given_once_and_others_are_dropped(tmp_path: Path) -> None:
    def work(cell: Cell) -> Outcome:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("fell back", ForeknowWarning, stacklevel=1)
            warnings.warn("not converged", UserWarning, stacklevel=1)
        return quick(cell)

    for n_workers in (1, 2):
        with Store.open(tmp_path / str(n_workers)) as store, pytest.warns(ForeknowWarning) as caught:
            run_cells(make_blocks(2), work, store=store, n_workers=n_workers)
        assert [str(item.message) for item in caught] == ["fell back"]


def test_progress_counts_what_is_there_already(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with Store.open(tmp_path / "s") as store:
        run_cells(make_blocks(1), quick, store=store)
        run_cells(make_blocks(2), quick, store=store, progress=seen.append, budget_s=1000)
    assert [item.done for item in seen] == [5, 6, 7, 8]
    assert {item.total for item in seen} == {8}
    assert seen[-1].seconds_left == 0
    assert seen[0].note == "on, 8, seed 1"


def test_a_cell_in_two_blocks_is_run_once(tmp_path: Path) -> None:
    block = make_blocks(1)[0]
    for n_workers in (1, 2):
        with Store.open(tmp_path / str(n_workers)) as store:
            summary = run_cells([block, block, []], quick, store=store, n_workers=n_workers)
        assert (summary.n_run, summary.n_blocks_done) == (4, 3)


def test_threads_are_capped_and_given_back(tmp_path: Path) -> None:
    def work(cell: Cell) -> Outcome:
        from threadpoolctl import threadpool_info

        n_torch = torch.get_num_threads()
        return Outcome({}, {"blas": [pool["num_threads"] for pool in threadpool_info()], "torch": n_torch})

    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        with Store.open(tmp_path / "s") as store:
            run_cells([[make_cell()]], work, store=store)
            run_cells([[make_cell(1), make_cell(2)]], work, store=store, n_workers=2)
            assert torch.get_num_threads() == before + 1
            for trial in store.trials():
                assert set(trial.detail["blas"]) == {1}
                assert trial.detail["torch"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_planted_array_is_seen_in_the_peak(tmp_path: Path, n_workers: int) -> None:
    def work(cell: Cell) -> Outcome:
        return Outcome({"sum": float(np.ones(cell.size * 2**17).sum())})  # size MiB of doubles

    gc.collect()  # garbage of earlier tests, freed inside a cell, would hide what the cell takes
    with Store.open(tmp_path / "s") as store:
        run_cells([[make_cell(0, 80), make_cell(1, 1), make_cell(2, 80)]], work, store=store, n_workers=n_workers)
        peaks = {trial.cell.seed: trial.peak_mb for trial in store.trials()}
    assert 79 <= peaks[0] < 90  # a first cell may load a library or two; the kernel counts in batches
    assert peaks[1] < 10  # the peak of the cell before does not count
    assert 79 <= peaks[2] < 90


def test_memory_without_the_kernels_help(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> int:
        raise PermissionError

    monkeypatch.setattr(Path, "write_text", denied)
    peaks = iter([100.0, 130.0])
    monkeypatch.setattr("foreknow.pricing.memory.peak_memory_mb", lambda: next(peaks))
    with PeakMemory() as memory:
        pass
    assert memory.mb == 30


@pytest.mark.parametrize(
    "wrong",
    [{"engine": "slurm"}, {"n_workers": 0}, {"threads_per_worker": 0}, {"budget_s": -1.0}, {"budget_s": float("nan")}],
)
def test_settings_that_are_not_allowed_are_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with Store.open(tmp_path / "s") as store, pytest.raises(ConfigError, match=f"run_cells: {next(iter(wrong))}"):
        run_cells(make_blocks(1), quick, store=store, **wrong)  # type: ignore[arg-type]


def test_ray_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    monkeypatch.setattr("foreknow.common.deps.available", lambda module: False)
    with Store.open(tmp_path / "s") as store, pytest.raises(MissingExtraError, match="ray") as caught:
        run_cells(make_blocks(1), quick, store=store, engine="ray")
    assert "foreknow[ray]" in caught.value.hint


# Worker processes ----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_costs_no_cell_and_doubles_none(tmp_path: Path) -> None:
    blocks = make_blocks(6)
    killed: list[int] = []

    def work(cell: Cell) -> Outcome:
        name = tmp_path / "pids" / str(os.getpid())
        name.touch()
        time.sleep(0.05)
        name.unlink()
        return quick(cell)

    def kill_some(progress: Progress) -> None:
        if progress.done in (2, 7, 12) and len(killed) < 2:  # so no cell can die as often as a cell may
            busy = [int(path.name) for path in (tmp_path / "pids").iterdir()]
            for pid in [pid for pid in busy if pid not in killed][:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    (tmp_path / "pids").mkdir()
    with Store.open(tmp_path / "s") as store:
        summary = run_cells(blocks, work, store=store, n_workers=2, progress=kill_some)
        assert killed
        assert (summary.n_run, summary.n_failed, summary.n_blocks_done) == (24, 0, 6)
        assert {t.cell.key for t in store.trials(status="done")} == {cell.key for block in blocks for cell in block}


def test_a_cell_that_kills_its_worker_is_given_up_and_the_others_are_not_blamed(tmp_path: Path) -> None:
    blocks = make_blocks(3)
    poison = blocks[0][2].key

    def work(cell: Cell) -> Outcome:
        with open(tmp_path / "executions", "a", encoding="utf-8") as file:
            file.write(f"{cell.key}\n")
        if cell.key == poison:
            os.kill(os.getpid(), signal.SIGKILL)
        return quick(cell)

    with Store.open(tmp_path / "s") as store:
        summary = run_cells(blocks, work, store=store, n_workers=2)
        (failed,) = store.trials(status="failed")
    assert (summary.n_run, summary.n_failed, summary.n_blocks_done) == (12, 1, 3)
    assert failed.cell.key == poison
    assert "died 3 times (signal 9)" in failed.error
    assert twice(executions(tmp_path)) == {poison: MAX_DEATHS}


def test_work_that_cannot_travel_is_refused_before_anything_runs(tmp_path: Path) -> None:
    lock = threading.Lock()

    def held(cell: Cell) -> Outcome:
        with lock:
            return quick(cell)

    class Unloadable:
        def __call__(self, cell: Cell) -> Outcome:
            return quick(cell)

        def __reduce__(self) -> tuple[object, ...]:
            return int, ("no number",)

    with Store.open(tmp_path / "s") as store:
        with pytest.raises(ConfigError, match="cannot be sent to worker processes"):
            run_cells(make_blocks(1), held, store=store, n_workers=2)
        with pytest.raises(ConfigError, match="could not be loaded by a worker process: ValueError"):
            run_cells(make_blocks(1), Unloadable(), store=store, n_workers=2)
        assert not store.trials()
        assert not store.begun(cell.key for cell in make_blocks(1)[0])


# Killed and shared ---------------------------------------------------------------------------------------------------

RUN = """
folder, n_workers = sys.argv[1], int(sys.argv[2])
from store_cells import make_blocks, quick
def work(cell):
    time.sleep(0.01)
    note(folder, cell.key)
    return quick(cell)
with Store.open(folder + "/s") as store:
    print("open", flush=True)
    print(run_cells(make_blocks(25), work, store=store, n_workers=n_workers).n_run)
"""


@pytest.mark.parametrize(("n_workers", "n_kills"), [(1, 5), (2, 3)])
def test_killed_runs_resume_without_loss_or_repetition(tmp_path: Path, n_workers: int, n_kills: int) -> None:
    rng = random.Random(n_workers)
    keys = {cell.key for block in make_blocks(25) for cell in block}
    finished: dict[str, str] = {}
    n_partial = 0
    for _ in range(n_kills):
        process = start(RUN, tmp_path, n_workers)
        assert process.stdout is not None
        process.stdout.readline()
        n_before = len(executions(tmp_path))
        deadline = time.monotonic() + 20
        while len(executions(tmp_path)) < n_before + 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate()
        time.sleep(0.7 if n_workers > 1 else 0)  # workers see that their parent is gone, and end
        done = executions(tmp_path)
        with Store.open(tmp_path / "s") as store:
            now = {trial.cell.key: trial.finished for trial in store.trials()}
        assert finished.items() <= now.items()  # no row was lost or written anew
        assert len(done) - len(set(done) & set(now)) <= n_kills * n_workers  # run, but killed before the row
        finished = now
        n_partial += 0 < len(now) < len(keys)
    assert n_partial >= 2  # else nothing was tested
    n_before = executions(tmp_path)
    n_run = int(finish(start(RUN, tmp_path, n_workers)).split()[-1])
    after = executions(tmp_path)[len(n_before) :]
    assert sorted(after) == sorted(keys - set(finished))
    assert n_run == len(after)
    with Store.open(tmp_path / "s") as store:
        assert {trial.cell.key for trial in store.trials(status="done")} == keys
        assert not store._read("SELECT * FROM claims", ())


def test_two_processes_fill_one_store(tmp_path: Path) -> None:
    code = """
    folder = sys.argv[1]
    from store_cells import make_blocks, quick
    def work(cell):
        note(folder, cell.key)
        time.sleep(0.02)
        return quick(cell)
    with Store.open(folder + "/s") as store:
        open(f"{folder}/ready-{os.getpid()}", "w").close()
        while len([name for name in os.listdir(folder) if name.startswith("ready")]) < 2:
            time.sleep(0.005)
        summary = run_cells(make_blocks(15), work, store=store)
        print(summary.n_run, summary.n_reused, summary.n_blocks_done)
    """
    processes = [start(code, tmp_path) for _ in range(2)]
    (a_run, a_reused, a_blocks), (b_run, b_reused, b_blocks) = ([int(n) for n in finish(p).split()] for p in processes)
    assert not twice(executions(tmp_path))
    assert len(executions(tmp_path)) == a_run + b_run == 60
    assert (a_run + a_reused, b_run + b_reused) == (60, 60)
    assert (a_blocks, b_blocks) == (15, 15)  # each returns when all is done, by whomever
    assert min(a_run, b_run) >= 10
    with Store.open(tmp_path / "s") as store:
        assert len({trial.worker for trial in store.trials()}) == 2


@pytest.mark.parametrize("n_workers", [1, 2])
def test_ctrl_c_keeps_what_is_finished_and_gives_claims_back(tmp_path: Path, n_workers: int) -> None:
    code = """
    folder, n_workers = sys.argv[1], int(sys.argv[2])
    from store_cells import make_blocks, quick
    def work(cell):
        note(folder, f"{cell.key}:{os.getpid()}")
        time.sleep(60 if cell.seed else 0)
        return quick(cell)
    store = Store.open(folder + "/s")
    try:
        run_cells(make_blocks(2), work, store=store, n_workers=n_workers)
    except KeyboardInterrupt:
        print(len(store.trials()), len(store._read("SELECT * FROM claims", ())))
    """
    process = start(code, tmp_path, n_workers)
    deadline = time.monotonic() + 30
    while len(executions(tmp_path)) < 4 + n_workers and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = {int(line.rpartition(":")[2]) for line in executions(tmp_path)} - {process.pid}
    for pid in [*pids, process.pid]:  # as a terminal signals the whole group; the last one ends the others
        os.kill(pid, signal.SIGINT)
    assert finish(process, 20) == "4 0\n"
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = """
    folder = sys.argv[1]
    from store_cells import make_blocks
    def work(cell):
        note(folder, str(os.getpid()))
        time.sleep(60)
    with Store.open(folder + "/s") as store:
        run_cells(make_blocks(1), work, store=store, n_workers=2)
    """
    process = start(code, tmp_path)
    deadline = time.monotonic() + 30
    while len(executions(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    pids = [int(pid) for pid in executions(tmp_path)]
    assert len(pids) == 2
    while any(process_start(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if process_start(pid)]


def test_an_interrupt_of_the_work_itself_passes(tmp_path: Path) -> None:
    def work(cell: Cell) -> Outcome:
        if cell.arm == "off":
            raise KeyboardInterrupt
        return quick(cell)

    with Store.open(tmp_path / "s") as store:
        with pytest.raises(KeyboardInterrupt):
            run_cells(make_blocks(1), work, store=store)
        assert len(store.trials()) == 1
        assert not store._read("SELECT * FROM claims", ())


def test_what_the_work_prints_stays_out_of_the_output(tmp_path: Path) -> None:
    code = """
    from store_cells import make_blocks, quick
    def work(cell):
        print("noise")
        return quick(cell)
    with Store.open(sys.argv[1]) as store:
        run_cells(make_blocks(1), work, store=store, n_workers=2)
    print("result")
    """
    assert finish(start(code, tmp_path / "s")) == "result\n"


def test_cells_of_a_process_that_dies_are_taken_over(tmp_path: Path) -> None:
    code = """
    from store_cells import make_blocks
    store = Store.open(sys.argv[1])
    store.claim(make_blocks(1)[0])
    print("claimed", flush=True)
    time.sleep(60)
    """
    other = start(code, tmp_path / "s")
    assert other.stdout is not None
    other.stdout.readline()
    timer = threading.Timer(0.5, other.kill)
    timer.start()
    with Store.open(tmp_path / "s") as store:
        summary = run_cells(make_blocks(1), quick, store=store)
    timer.join()
    other.communicate()
    assert (summary.n_run, summary.n_blocks_done) == (4, 1)
    assert summary.seconds > 0.3  # it waited, as the other might have finished them


# Budget --------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(durations: list[float], budget_s: float) -> int:
    """How many blocks of these durations a budget lets through."""
    clock = Clock()
    budget = Budget(budget_s, 1, clock)
    for i, duration in enumerate(durations):
        if not budget.fits():
            return i
        budget.begin(i)
        clock.now += duration
        budget.ran(i, duration)
        budget.complete(i)
    return len(durations)


def cut_off(durations: list[float], budget_s: float) -> int:
    """The rule that is not used: what is not ready in time is dropped."""
    return int((np.cumsum(durations) <= budget_s).sum())


@pytest.mark.parametrize(("spread", "worst"), [(1.0, 0.7), (0.2, 0.2)])
def test_a_budget_favours_neither_long_blocks_nor_short_ones(spread: float, worst: float) -> None:
    rng = np.random.default_rng(0)
    n_runs, shape = 8000, spread**-2
    sums, cut_sums, means, roots = [], [], [], []
    for _ in range(n_runs):
        durations = rng.gamma(shape, 1 / shape, 60).tolist()  # mean 1; exponential for a spread of 1
        values = np.array(durations) - 1  # the value of a block is its duration: the worst case
        n, n_cut = counted(durations, 8.0), cut_off(durations, 8.0)
        assert 1 <= n < 60
        sums.append(values[:n].sum())
        cut_sums.append(values[:n_cut].sum())
        means.append(values[:n].mean())
        roots.append(1 / np.sqrt(n))
    assert abs(np.mean(sums)) < 4 * np.std(sums) / np.sqrt(n_runs)  # Wald: unbiased
    assert np.mean(cut_sums) < -4 * np.std(cut_sums) / np.sqrt(n_runs)  # a deadline is not: this test can fail
    # The plain average is off by a part of its own standard error, as `Budget` says: half for a spread of 1.
    assert abs(np.mean(means)) < worst * spread * np.mean(roots)


def test_a_run_obeys_its_budget_and_finishes_what_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(engine_module, "monotonic", clock)
    monkeypatch.setattr("foreknow.pricing.workers.perf_counter", clock)
    monkeypatch.setattr(Budget.__init__, "__defaults__", (1, clock))
    minutes = [1, 1, 30, 1, 1]

    def work(cell: Cell) -> Outcome:
        clock.now += minutes[cell.seed] / 4
        return quick(cell)

    def seeds(store: Store) -> list[int]:
        return [trial.cell.seed for trial in store.trials(arm="on") if trial.cell.size == 8]

    with Store.open(tmp_path / "s") as store:
        summary = run_cells(make_blocks(5), work, store=store, budget_s=10)
        assert seeds(store) == [0, 1, 2]  # the long one fitted by what was known, so it is finished and counts
        assert (summary.stopped, summary.n_blocks_done, summary.n_blocks_planned) == ("budget", 3, 5)
        assert summary.seconds == 32
        # Stored times count for the prediction: 1, 1 and 30 let one expect more than 10 and less than 15.
        minutes[:] = [1, 1, 1, 1, 1]
        assert run_cells(make_blocks(5), work, store=store, budget_s=10).n_run == 0
        assert run_cells(make_blocks(5), work, store=store, budget_s=15).stopped == ""
    with Store.open(tmp_path / "t") as store:
        assert run_cells(make_blocks(5), work, store=store, budget_s=0).n_blocks_done == 1  # the first always runs


def test_a_block_begun_in_an_earlier_run_is_finished_first(tmp_path: Path) -> None:
    blocks = make_blocks(4)
    with Store.open(tmp_path / "s") as store:
        for cell in blocks[0]:
            store.finish(make_trial(cell, wall_s=100.0))
        store.finish(make_trial(blocks[2][3]))
        summary = run_cells(blocks, quick, store=store, budget_s=5)
        assert {trial.cell.seed for trial in store.trials()} == {0, 2}
    assert (summary.n_run, summary.n_blocks_done, summary.stopped) == (3, 2, "budget")


def test_side_by_side_blocks_share_the_budget() -> None:
    clock = Clock()
    budget = Budget(100.0, 4, clock)
    assert budget.fits()
    budget.begin(0)
    assert not budget.fits()  # nothing is known until the first is complete
    for seconds in (40.0, 20.0, 20.0):
        budget.ran(0, seconds)
    clock.now = 40.0
    budget.complete(0)
    for block in (1, 2):  # 80 s each on 4 workers: 20 s, but no block is quicker than its longest cell
        assert budget.fits()
        budget.begin(block)
    assert budget.fits()  # 240 / 4 = 60 = what is left
    clock.now = 41.0
    assert not budget.fits()
    budget.ran(1, 40.0)  # of block 1 half is left
    assert budget.fits()
    clock.now = 61.0
    assert not budget.fits()
    assert budget.seconds_left == 39
