"""`extrapolate`: what is said, written and decided, and a log that grows."""

from __future__ import annotations

import csv
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

EPOCHS = np.arange(1, 31)
GOOD, BAD = 0.9 - 0.4 / EPOCHS, 0.5 - 0.3 / EPOCHS


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(run, values):
    return "".join(f"{run},{i},{value:.4f}\n" for i, value in enumerate(values, start=1))


def runs(name="t.csv", metric="val_acc"):
    with open(name, "w", encoding="utf-8") as file:
        file.write(f"run,epoch,{metric}\n" + rows("good", GOOD) + rows("bad", BAD[:12]) + rows("new", GOOD[:2]))
    return name


def test_table_and_files(cli):
    code, out, err = cli("extrapolate", runs(), "--out", "f")
    assert code == 0, err
    for words in ("metric 'val_acc'", "larger is better", "Horizon: epoch 30"):
        assert words in err
    lines = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert lines["good"][-1] == "finished" and lines["bad"][-1] == "stop" and lines["new"][-1] == "go"
    assert float(lines["bad"][-2]) <= 0.05 < float(lines["new"][-2])
    with open("f/quantiles.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 18 + 28 and list(table[0])[:3] == ["run", "epoch", "quantile_0.05"]
    assert all(float(r["quantile_0.05"]) < float(r["quantile_0.5"]) < float(r["quantile_0.95"]) for r in table)
    assert float(lines["bad"][4]) == pytest.approx(float(table[17]["quantile_0.5"]), abs=1e-3)
    page = Path("f/report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3 and "http" not in page.replace("http://www.w3.org", "")
    assert len(list(Path("f").glob("run-*.png"))) == 3


def test_json_and_names_are_escaped(cli):
    with open("t.csv", "w", encoding="utf-8") as file:
        file.write("run,epoch,acc\n" + rows("<b>x</b>", GOOD[:5]))
    code, out, _ = cli("extrapolate", "t.csv", "--horizon", 30, "--json", "--out", "f")
    found = json.loads(out)
    assert code == 0 and found["best"]["run"] == "<b>x</b>" and found["runs"][0]["decision"] == "go"
    assert found["runs"][0]["low"] < found["runs"][0]["median"] < found["runs"][0]["high"]
    assert "<b>x</b>" not in Path("f/report.html").read_text(encoding="utf-8")


def test_a_loss_is_minimized_and_said(cli):
    with open("t.csv", "w", encoding="utf-8") as file:
        file.write("run,epoch,val_loss\n" + rows("good", 2 * (1 - GOOD)) + rows("bad", 2 * (1 - BAD[:12])))
    code, out, err = cli("extrapolate", "t.csv", "--json")
    found = json.loads(out)
    assert code == 0 and found["minimize"] and found["bounds"] == [0.0, None] and "smaller is better" in err
    assert found["soft_bounds"] == [0.0, pytest.approx(1.6)]
    assert [row["decision"] for row in found["runs"]] == ["finished", "stop"]
    code, _, err = cli("extrapolate", "t.csv", "--maximize", "--bounds", "0,3")
    assert code == 2 and "worse" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no file was given"),
        (("no.csv",), "no such file"),
        (("t.csv", "--bounds", "0"), "LOW,HIGH"),
        (("t.csv", "--metric", "acc"), "no metric 'acc'"),
        (("t.csv", "--bounds", "0,0.4"), "bounds"),
        (("t.csv", "--device", "tpu"), "device"),
        (("--watch", "t.csv"), "--horizon"),
    ],
)
def test_wrong_words(cli, words, said):
    runs()
    code, out, err = cli("extrapolate", *words)
    assert (code, out) == (2, "") and said in err


def test_without_a_longer_run_the_horizon_is_asked_for(cli):
    with open("t.csv", "w", encoding="utf-8") as file:
        file.write("run,epoch,acc\n" + rows("a", GOOD[:5]))
    code, _, err = cli("extrapolate", "t.csv")
    assert code == 2 and "--horizon" in err


class Writer(threading.Thread):
    """Writes a log as trainings do: late, in pieces of lines, once from the beginning again."""

    def __init__(self, path, values):
        super().__init__()
        self.path, self.values = path, values

    def run(self):
        for values in (self.values[:3], self.values):  # the second time the file is truncated
            time.sleep(0.05)
            lines = [p for i, value in enumerate(values, start=1) for p in (f"{i},0.", f"{value:.4f}"[2:] + "\n")]
            with open(self.path, "w", encoding="utf-8") as file:
                for piece in ("epo", "ch,val_acc\n", *lines):
                    file.write(piece)
                    file.flush()
                    time.sleep(0.01)


@pytest.mark.parametrize(("values", "code"), [(BAD, 3), (np.minimum(GOOD + 0.05, 1), 0)], ids=["stop", "finished"])
def test_watch_follows_a_growing_log(cli, values, code):
    runs()
    writer = Writer("live.csv", values)
    writer.start()
    found, _, err = cli("extrapolate", "t.csv", "--watch", "live.csv", "--horizon", 30, "--every", "0.02")
    writer.join()
    assert found == code, err
    assert "live: epoch" in err and ("stop" if code else "finished") in err


def test_watch_keeps_apart_runs_of_one_name_and_refuses_values_out_of_bounds(cli):
    runs()
    with open("bad.csv", "w", encoding="utf-8") as file:
        file.write("run,epoch,val_acc\n" + rows("good", BAD[:12]))
    code, out, err = cli("extrapolate", "t.csv", "--watch", "bad.csv", "--horizon", 30, "--every", "0.02", "--json")
    assert code == 3 and "bad.csv:good: epoch 12" in err, err
    assert [row["run"] for row in json.loads(out)["runs"]] == ["good", "bad", "new", "bad.csv:good"]
    with open("percent.csv", "w", encoding="utf-8") as file:
        file.write("run,epoch,val_acc\n" + rows("p", [40.0, 50.0]))
    code, _, err = cli("extrapolate", "t.csv", "--watch", "percent.csv", "--horizon", 30)
    assert code == 2 and "bounds" in err
    code, _, err = cli("extrapolate", "t.csv", "--watch", runs("f.csv", "val_f1"), "--horizon", 30)
    assert code == 2 and "different metrics" in err
