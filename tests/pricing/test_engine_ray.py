"""Ray: the same cells on a real cluster of worker processes, some of them killed; about 30 s, mostly its start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from store_cells import executions, finish, make_blocks, start, twice

from foreknow.common.deps import available

pytestmark = [
    pytest.mark.skipif(not available("ray"), reason="the extra `ray` is not installed"),
    pytest.mark.timeout(240),
]

WORK = """
folder = sys.argv[1]
import json
from store_cells import make_blocks, quick
from foreknow.common.errors import ConfigError, ResourceError
blocks = make_blocks(5)
fragile, poison = blocks[1][2].key, blocks[2][1].key

def work(cell):
    print("noise")
    note(folder, cell.key)
    time.sleep(0.03)
    if cell.key == poison or (cell.key == fragile and not os.path.exists(folder + "/once")):
        open(folder + "/once", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    if cell.seed == 4:
        raise ValueError("no luck")
    return quick(cell)
"""


def test_a_local_cluster_loses_and_doubles_nothing_when_workers_are_killed(tmp_path: Path) -> None:
    code = f"""{WORK}
with Store.open(folder + "/s") as store:
    first = run_cells(blocks, work, store=store, engine="ray", n_workers=2)
    import ray
    assert not ray.is_initialized()  # what was started here is shut down
    print(json.dumps([first.n_run, first.n_failed, first.n_blocks_done, first.stopped]))
"""
    # Ray leaves sockets and log files of its own to the garbage collector; only our own warnings are errors here.
    out = finish(start(code, tmp_path, options=()), 200)
    assert json.loads(out) == [20, 5, 5, ""], out  # nothing but our line
    blocks = make_blocks(5)
    fragile, poison = blocks[1][2].key, blocks[2][1].key
    assert twice(executions(tmp_path)) == {fragile: 2, poison: 3}
    assert set(executions(tmp_path)) == {cell.key for block in blocks for cell in block}

    from foreknow.pricing.store import Store

    with Store.open(tmp_path / "s") as store:
        trials = {trial.cell.key: trial for trial in store.trials()}
    assert len(trials) == 20
    assert "died 3 times (WorkerCrashedError)" in trials.pop(poison).error
    assert {trial.error for trial in trials.values() if trial.cell.seed == 4} == {"ValueError: no luck"}
    assert {trial.status for trial in trials.values() if trial.cell.seed < 4} == {"done"}
    assert len({trial.worker for trial in trials.values()}) >= 2


def test_the_callers_cluster_is_used_and_left_running(tmp_path: Path) -> None:
    code = f"""{WORK}
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
with Store.open(folder + "/s") as store:
    try:
        run_cells(blocks, work, store=store, engine="ray", threads_per_worker=3)
    except ConfigError as error:
        print(error.message)
    first = run_cells(blocks[:1], work, store=store, engine="ray", n_workers=2)
    again = run_cells(blocks[:2], work, store=store, engine="ray", n_workers=2)
    print(first.n_run, again.n_run, again.n_reused, ray.is_initialized())
ray.shutdown()
try:
    with Store.open(folder + "/s") as store:
        run_cells(blocks, work, store=store, engine="ray", address="127.0.0.1:1")
except ResourceError as error:
    print("unreachable" if "127.0.0.1:1" in error.message else error)
"""
    lines = finish(start(code, tmp_path, options=()), 200).splitlines()
    assert "threads_per_worker is 3, but no machine of the Ray cluster has more than 2" in lines[0]
    assert lines[1:] == ["4 4 4 True", "unreachable"]
