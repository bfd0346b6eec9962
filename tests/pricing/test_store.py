"""The store: what goes in comes out, nothing is overwritten, and no strange file is touched."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from store_cells import finish, make_blocks, make_cell, make_trial, start

from foreknow.common.errors import ConfigError, InputError, MissingExtraError, ResourceError
from foreknow.pricing import store as store_module
from foreknow.pricing.store import APPLICATION_ID, STALE_S, Store, process_start, utc_now


def tamper(path: Path, command: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(command)


# Rows --------------------------------------------------------------------------------------------------------------


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    detail = {"grid": np.arange(3.0), "n": np.int64(4), "deep": ({"a": [math.inf]}, None, "é")}
    trial = make_trial(metrics={"loss": 0.1, "worst": math.inf}, detail=detail, finished=utc_now(), worker="w")
    with Store.open(tmp_path / "s.sqlite") as store:
        assert store.get(trial.cell.key) is None
        assert store.finish(trial)
    with Store.open(tmp_path / "s.sqlite") as store:
        back = store.get(trial.cell.key)
    assert back is not None
    assert back.cell == trial.cell
    assert (back.metrics, back.seconds, back.peak_mb, back.worker) == (trial.metrics, 1.5, 3.0, "w")
    assert back.detail == {"grid": [0.0, 1.0, 2.0], "n": 4, "deep": [{"a": [math.inf]}, None, "é"]}
    assert os.listdir(tmp_path) == ["s.sqlite"]


def test_the_first_done_row_stays_and_a_failed_one_gives_way(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        assert store.finish(make_trial(status="failed", metrics={}, error="no"))
        assert store.finish(make_trial(metrics={"loss": 1.0}))
        assert not store.finish(make_trial(metrics={"loss": 2.0}))
        assert not store.finish(make_trial(status="failed", error="late"))
        (trial,) = store.trials()
    assert (trial.status, trial.metrics, trial.error) == ("done", {"loss": 1.0}, "")


def test_trials_are_chosen_and_ordered(tmp_path: Path) -> None:
    cells = [make_cell(s, n, a, w) for s in (1, 0) for n in (16, 8) for a in ("off", "on") for w in ("b", "a")]
    with Store.open(tmp_path / "s") as store:
        for cell in cells:
            store.finish(make_trial(cell, status="failed" if cell.seed else "done"))
        everything = [(t.cell.study, t.cell.arm, t.cell.size, t.cell.seed) for t in store.trials()]
        assert everything == sorted(everything)
        assert len(everything) == len(cells)
        chosen = store.trials("a", arm="on", status="failed")
    assert [(t.cell.size, t.cell.seed) for t in chosen] == [(8, 1), (16, 1)]


def test_what_is_no_json_is_refused_and_leaves_no_row(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        with pytest.raises(ConfigError, match="a set came"):
            store.finish(make_trial(detail={"x": {1, 2}}))
        assert store.trials() == []


def test_a_row_that_was_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Store.open(path) as store:
        store.finish(make_trial())
    tamper(path, "UPDATE trials SET cell = replace(cell, '\"size\":8', '\"size\":9')")
    with Store.open(path) as store, pytest.raises(InputError, match="holds another cell"):
        store.trials()
    tamper(path, "UPDATE trials SET cell = '{'")
    with Store.open(path) as store, pytest.raises(InputError, match="cannot be read"):
        store.trials()


def test_the_file_is_marked_durable_and_in_write_ahead_mode(tmp_path: Path) -> None:
    with Store.open(tmp_path / "s") as store:
        pragma = {name: store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in
                  ("application_id", "user_version", "journal_mode", "synchronous", "busy_timeout")}  # fmt: skip
    assert pragma == {"application_id": APPLICATION_ID, "user_version": 1, "journal_mode": "wal", "synchronous": 2,
                      "busy_timeout": 60_000}  # fmt: skip


def test_many_open_a_new_store_at_once_and_all_get_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s"

    def write(seed: int) -> bool:
        with Store.open(path) as store:
            return store.finish(make_trial(make_cell(seed)))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(write, range(24)))
    with Store.open(path) as store:
        assert len(store.trials()) == 24
    assert os.listdir(tmp_path) == ["s"]


# Files that are none of ours -----------------------------------------------------------------------------------------


def stored_bytes(tmp_path: Path) -> bytes:
    path = tmp_path / "sound"
    with Store.open(path) as store:
        for block in make_blocks(30):
            for cell in block:
                store.finish(make_trial(cell, detail={"x": list(range(100))}))
    content = path.read_bytes()
    path.unlink()
    return content


def foreign(path: Path) -> bytes:
    tamper(path, "CREATE TABLE bookmarks (a)")
    content = path.read_bytes()
    path.unlink()
    return content


def damage(kind: str, tmp_path: Path) -> bytes:
    if kind == "csv":
        return b"a,b\n" + b"1,2\n" * 100
    if kind == "empty":
        return b""
    if kind == "foreign":
        return foreign(tmp_path / "other")
    sound = stored_bytes(tmp_path)
    middle = len(sound) // 2
    return {
        "short": sound[:60],
        "cut": sound[:middle],
        "cut at a page": sound[:4096],
        "overwritten": sound[:8192] + b"\xff" * 12_000 + sound[20_192:],
        "newer": sound[:60] + (2).to_bytes(4) + sound[64:],
        "no version": sound[:60] + bytes(4) + sound[64:],
        "tables missing": foreign(tmp_path / "o")[:60] + sound[60:72] + foreign(tmp_path / "o")[72:],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("csv", "no SQLite file"),
        ("empty", "no SQLite file, or was cut off"),
        ("short", "no SQLite file, or was cut off"),
        ("foreign", "another program"),
        ("cut", "is damaged"),
        ("cut at a page", "is damaged"),
        ("overwritten", "is damaged"),
        ("newer", "format 2; this version of foreknow reads up to 1"),
        ("no version", "is damaged"),
        ("tables missing", "no such table"),
    ],
)
def test_a_file_that_is_no_sound_store_is_refused_and_untouched(tmp_path: Path, kind: str, words: str) -> None:
    content = damage(kind, tmp_path)
    path = tmp_path / "given"
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(InputError, match=words):
        Store.open(path)
    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == 1
    assert os.listdir(tmp_path) == ["given"]


def test_a_folder_a_pipe_and_places_that_are_not_there_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path, words in {
        tmp_path: "no regular file",
        tmp_path / "pipe": "no regular file",
        tmp_path / "nowhere": "No such file",
        tmp_path / "no" / "s": "does not exist",
        tmp_path / ("n" * 300): "File name too long",
    }.items():
        with pytest.raises(InputError, match=words):
            Store.open(path)
    assert sorted(os.listdir(tmp_path)) == ["nowhere", "pipe"]


def test_an_unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    Store.open(path).close()
    path.chmod(0)
    if os.geteuid() == 0:  # nothing is unreadable to root: let `open` answer as it would to others

        def denied(name: object, *_: object) -> object:
            assert stat.S_IMODE(os.stat(str(name)).st_mode) == 0
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(store_module, "open", denied, raising=False)
    with pytest.raises(InputError, match="Permission denied"):
        Store.open(path)


def test_a_store_in_use_is_opened_although_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with Store.open(path) as first:
        first.finish(make_trial())
        with Store.open(path) as second:
            assert len(second.trials()) == 1
            first.finish(make_trial(make_cell(1)))
            assert len(second.trials()) == 2


def test_errors_of_sqlite_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BUSY_S", 0.1)
    with Store.open(tmp_path / "s") as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "s", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(ResourceError, match="locked"):
                store.finish(make_trial())
        store._db.execute("PRAGMA max_page_count = 8")
        with pytest.raises(ResourceError, match="full") as caught:
            store.finish(make_trial(detail={"x": "y" * 100_000}))
        assert caught.value.hint == "Free some space."
        assert store.trials() == []


# Claims --------------------------------------------------------------------------------------------------------------


def test_a_claimed_cell_is_given_to_nobody_else(tmp_path: Path) -> None:
    cells = make_blocks(2)[0]
    with Store.open(tmp_path / "s") as one, Store.open(tmp_path / "s") as two:
        assert one.claim(cells, limit=3) == cells[:3]
        assert one.claim(cells[:3]) == []
        assert two.claim(cells) == cells[3:]
        one.release(cells)  # gives back its own only
        assert one.claim(cells) == cells[:3]
        one.finish(make_trial(cells[0]))
        assert two.begun([cells[0].key])
        one.release(cells)
        assert two.claim(cells) == cells[1:3]


def test_closing_gives_claims_back(tmp_path: Path) -> None:
    cell = make_cell()
    with Store.open(tmp_path / "s") as one:
        one.claim([cell])
    with Store.open(tmp_path / "s") as two:
        assert not two.begun([cell.key])
        assert two.claim([cell]) == [cell]


def test_failed_cells_are_given_again_only_if_asked(tmp_path: Path) -> None:
    cell = make_cell()
    with Store.open(tmp_path / "s") as store:
        store.finish(make_trial(cell, status="failed", finished=utc_now()))
        later = utc_now()
        assert store.claim([cell]) == []
        assert store.claim([cell], retry_before=later) == [cell]
        store.finish(make_trial(cell, status="failed", finished=utc_now()))
        assert store.claim([cell], retry_before=later) == []


@pytest.mark.parametrize(
    ("change", "is_free"),
    [
        ("heartbeat = heartbeat", False),
        (f"heartbeat = heartbeat - {STALE_S - 30}", False),
        (f"heartbeat = heartbeat - {STALE_S + 30}", True),
        ("pid = 4194999", True),  # beyond the largest number a process can have
        ("started = 'an earlier process with the same number'", True),
        ("pid = 4194999, host = 'elsewhere'", False),
        (f"host = 'elsewhere', heartbeat = heartbeat - {STALE_S + 30}", True),
    ],
)
def test_claims_of_the_dead_and_the_silent_are_free(tmp_path: Path, change: str, is_free: bool) -> None:
    cell = make_cell()
    with Store.open(tmp_path / "s") as one, Store.open(tmp_path / "s") as two:
        one.claim([cell])
        tamper(tmp_path / "s", f"UPDATE claims SET {change}")
        assert two.claim([cell]) == ([cell] if is_free else [])
        assert two.begun([cell.key])


def test_a_heartbeat_renews_what_is_held(tmp_path: Path) -> None:
    cell = make_cell()
    with Store.open(tmp_path / "s") as one, Store.open(tmp_path / "s") as two:
        one.claim([cell])
        tamper(tmp_path / "s", f"UPDATE claims SET heartbeat = heartbeat - {STALE_S + 30}")
        with one.beating(every_s=0.01):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and two._read("SELECT heartbeat FROM claims", ())[0][0] < time.time() - 9:
                time.sleep(0.01)
        assert two.claim([cell]) == []


def test_the_late_row_of_one_taken_for_dead_is_reported(tmp_path: Path) -> None:
    cell = make_cell()
    with Store.open(tmp_path / "s") as slow, Store.open(tmp_path / "s") as quick:
        slow.claim([cell])
        tamper(tmp_path / "s", f"UPDATE claims SET heartbeat = heartbeat - {STALE_S + 30}")
        assert quick.claim([cell]) == [cell]
        slow.heartbeat()
        slow.release([cell])
        assert slow.claim([cell]) == []  # the claim is the other's now, whatever the first does
        assert quick.finish(make_trial(cell, metrics={"loss": 1.0}))
        assert not slow.finish(make_trial(cell, metrics={"loss": 2.0}))


def test_a_dead_process_has_no_start(tmp_path: Path) -> None:
    process = start("time.sleep(60)")
    alive = process_start(process.pid)
    assert alive
    assert alive != process_start(os.getpid())
    process.kill()
    time.sleep(0.2)
    assert process_start(process.pid) is None  # not yet waited for, so the number still exists
    process.communicate()
    assert process_start(process.pid) is None


# Export --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    store = Store.open(tmp_path / "s")
    store.finish(make_trial(make_cell(0), metrics={"loss": 0.5, "auc": math.nan}, detail={"x": [1, math.inf]}))
    store.finish(make_trial(make_cell(1), status="failed", metrics={}, error='KeyError: "a,b"', seconds=0.0))
    return store


def test_csv_has_metrics_as_columns_and_nested_fields_as_json(filled: Store, tmp_path: Path) -> None:
    assert filled.export(tmp_path / "t.CSV") == 2
    with open(tmp_path / "t.CSV", encoding="utf-8", newline="") as file:
        done, failed = list(csv.DictReader(file))
    assert (done["key"], done["size"], done["metric_loss"], done["metric_auc"]) == (make_cell().key, "8", "0.5", "nan")
    assert json.loads(done["detail"]) == {"x": [1, None]}
    assert json.loads(done["settings"]) == {"depth": 2}
    assert (failed["status"], failed["error"], failed["metric_loss"]) == ("failed", 'KeyError: "a,b"', "")
    filled.close()


def test_json_is_strict_and_nested(filled: Store, tmp_path: Path) -> None:
    filled.export(tmp_path / "t.json")
    text = (tmp_path / "t.json").read_text(encoding="utf-8")
    done, failed = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (done["metric_loss"], done["metric_auc"], done["detail"]) == (0.5, None, {"x": [1, None]})
    assert failed["metric_loss"] is None
    filled.close()


def test_parquet_has_types_even_without_rows(filled: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    filled.export(tmp_path / "t.parquet")
    done, failed = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert (done["size"], done["metric_loss"], json.loads(done["detail"])) == (8, 0.5, {"x": [1, None]})
    assert failed["metric_loss"] is None
    with Store.open(tmp_path / "empty") as empty:
        assert empty.export(tmp_path / "e.parquet") == 0
    schema = {field.name: str(field.type) for field in parquet.read_schema(tmp_path / "e.parquet")}
    assert (schema["size"], schema["key"], schema["seconds"]) == ("int64", "string", "double")
    filled.close()


def test_an_export_that_fails_leaves_the_old_file(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.parquet").write_text("old", encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setattr("foreknow.common.deps.available", lambda module: False)
    with pytest.raises(MissingExtraError, match="pyarrow") as caught:
        filled.export(tmp_path / "t.parquet")
    assert "foreknow[frames]" in caught.value.hint
    assert (tmp_path / "t.parquet").read_text(encoding="utf-8") == "old"
    with pytest.raises(InputError, match=r"the ending '\.xlsx' is unknown"):
        filled.export(tmp_path / "t.xlsx")
    filled.close()
    assert sorted(os.listdir(tmp_path)) == ["s", "t.parquet"]


def test_reading_and_export_while_another_process_writes(tmp_path: Path) -> None:
    writer = start(
        """
        from store_cells import make_cell, make_trial
        with Store.open(sys.argv[1]) as store:
            print("open", flush=True)
            seed = 0
            while not os.path.exists(sys.argv[2]) or seed < 100:
                store.finish(make_trial(make_cell(seed), detail={"x": [seed] * 500}))
                seed += 1
            print(seed)
        """,
        tmp_path / "s",
        tmp_path / "enough",
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "open\n"
    counts: list[int] = []
    with Store.open(tmp_path / "s") as store:
        while len(set(counts)) < 5:
            trials = store.trials()
            assert [t.detail["x"] for t in trials] == [[t.cell.seed] * 500 for t in trials]
            counts.append(store.export(tmp_path / "t.json"))
            assert len(json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))) == counts[-1]
        (tmp_path / "enough").touch()
        written = int(finish(writer))
        assert {trial.cell.seed for trial in store.trials()} == set(range(written))
    assert counts == sorted(counts)
