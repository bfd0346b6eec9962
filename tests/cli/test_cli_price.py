"""`price`: files, exit codes and messages."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

QUICK = ("--arms", "on,off", "--sizes", "16,32", "--seeds", "2")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with a small table."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'yes' if a + 0.3 * b > 0 else 'no'}" for a, b in rng.normal(size=(80, 2))]
    Path("table.csv").write_text("a,b,kind\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_a_users_own_table_is_priced_and_kept(cli):
    done = cli("price", "tabpfn", "table.csv", "--target", "kind", *QUICK, "--export", "cells.csv")
    assert done.code == 0
    assert "Where it loses" in done.out and "price/report.html" in done.out
    record = json.loads(Path("price/price.json").read_text(encoding="utf-8"))
    assert record["sources"][0]["name"] == "table.csv" and record["sizes"] == [16, 32]
    assert "table.csv" in Path("price/report.html").read_text(encoding="utf-8")
    assert len(Path("cells.csv").read_text(encoding="utf-8").splitlines()) == 1 + 2 * 2 * 2
    before = rows_of_the_store()
    again = cli("price", "tabpfn", "table.csv", "--target", "kind", *QUICK, "--json")
    assert again.code == 0 and json.loads(again.out)["comparisons"] == record["comparisons"]
    assert rows_of_the_store() == before and len(before) == 8


def rows_of_the_store():
    with closing(sqlite3.connect("price/cells.sqlite")) as store:
        return store.execute("SELECT key, finished FROM trials ORDER BY key").fetchall()


def test_a_plan_runs_nothing(cli):
    done = cli("price", "tabpfn", "table.csv", "--target", "kind", *QUICK, "--plan")
    assert done.code == 0 and "8" in done.out
    assert not Path("price/report.html").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("price", "tabpnf", "table.csv", "--target", "kind"), "tabpfn"),
        (("price", "tabpfn", "table.csv"), "--target"),
        (("price", "tabpfn", "table.csv", "table.csv", "--target", "kind"), "twice"),
        (("price", "tabpfn", "table.csv", "--target", "knd"), "kind"),
        (("price", "tabpfn", "missing.csv", "--target", "kind"), "missing.csv"),
        (("price", "tabpfn", "table.csv", "--target", "kind", "--sizes", "16,many"), "--sizes"),
        (("price", "tabpfn", "table.csv", "--target", "kind", "--sizes", "16,1000"), "between"),
        (("price", "tabpfn", "table.csv", "--target", "kind", "--arms", "on,of"), "arms"),
        (("price", "tabpfn", "table.csv", "--target", "kind", "--budget", "soon"), "budget"),
        (("price", "tabpfn", "table.csv", "--target", "kind", "--measure", "rmse"), "measure"),
        (("price", "tabpfn", "table.csv", "--target", "kind", "--engine", "cloud"), "engine"),
        (("price", "tabpfn", "table.csv", "--target", "kind", "--groups", "nobody"), "nobody"),
        (("price", "pfn", "table.csv", "--target", "a", "--task", "regression", "--sizes", "16,32"), "columns"),
    ],
)
def test_bad_requests_are_the_users_to_mend(cli, words, message):
    done = cli(*words)
    assert done.code == 2 and message in done.err
    assert "Traceback" not in done.err


def test_a_foreign_store_is_refused_and_left_alone(cli):
    Path("other.sqlite").write_bytes(b"my own notes")
    done = cli("price", "tabpfn", "table.csv", "--target", "kind", *QUICK, "--store", "other.sqlite")
    assert done.code == 2 and "other.sqlite" in done.err
    assert Path("other.sqlite").read_bytes() == b"my own notes"
