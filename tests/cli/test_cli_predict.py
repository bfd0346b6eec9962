"""`predict`: files, exit codes and messages of the main job."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from foreknow import tasks
from foreknow.report import baselines, evaluate


class Quick(ClassifierMixin, BaseEstimator):
    """The shares of the classes, moved by the first numeric column; quick, and it can break off."""

    error: BaseException | None = None

    def __init__(self, *, random_state=None, device="auto"):
        self.random_state = random_state
        self.device = device

    def fit(self, X, y):
        if Quick.error is not None:
            raise Quick.error
        self.classes_, counts = np.unique(y, return_counts=True)
        self.shares_ = counts / counts.sum()
        self.notes_ = []
        return self

    def predict_proba(self, X):
        tilt = np.exp(0.1 * np.nan_to_num(X.columns[0].values.astype(float)))[:, None] ** np.arange(len(self.classes_))
        p = self.shares_ * tilt
        return p / p.sum(1, keepdims=True)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, the quick predictor and one quick baseline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(vars(tasks), "TabularClassifier", Quick)
    monkeypatch.setattr(Quick, "error", None)
    few = {"class frequencies": baselines.class_frequencies}
    monkeypatch.setattr(evaluate, "baselines_for", lambda task: few)
    return tmp_path


def write(name, n=40, n_empty=0, columns=("size", "colour", "kind"), classes=("cat", "dog")):
    rng = np.random.default_rng(0)
    with open(name, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        for i in range(n):
            row = {
                "size": f"{rng.normal():.3f}",
                "colour": "rg"[i % 2],
                "kind": "" if i < n_empty else classes[i % len(classes)],
            }
            rows.writerow([row[column] for column in columns])
    return name


def test_writes_predictions_and_report_here(cli, here):
    code, out, err = cli("predict", write("t.csv", n_empty=4), "--target", "kind")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in here.iterdir()) == ["predictions.csv", "report.html", "t.csv"]
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == ["1", "2", "3", "4"]
    assert list(rows[0]) == ["row", "predicted", "p_cat", "p_dog", "confidence", "source"]
    assert "foreknow" in out and "class frequencies" in out
    assert "predictions.csv: 4 rows (4 empty target)" in out and out.splitlines()[-1] == "report.html"
    assert "For " in out and "95% interval" in out
    assert "t.csv: 40 rows" in Path("report.html").read_text()


def test_json_is_one_object(cli):
    words = ("--out", "results", "--json", "--no-report", "--folds", 3, "--seed", 5, "--device", "cpu")
    code, out, err = cli("predict", write("t.csv"), "-t", "kind", *words)
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record["predictions"]["path"] == str(Path("results/predictions.csv")) and record["report"] is None
    assert (record["seed"], record["quality"]["n_folds"], record["predictions"]["sources"]) == (
        5,
        3,
        {"out-of-fold": 40},
    )
    assert record["quality"]["arms"][1]["auc"]["value"] is not None
    assert not Path("results/report.html").exists()


def test_a_test_file_and_the_command_in_the_report(cli, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/foreknow", "predict", "a b.csv", "--target", "kind"])
    write("a b.csv")
    code, out, _ = cli(
        "predict", "a b.csv", "--target", "kind", "--test", write("new.csv", 7, columns=("colour", "size"))
    )
    assert code == 0 and "7 rows (7 test file)" in out
    assert "foreknow predict &#39;a b.csv&#39; --target kind" in Path("report.html").read_text()


def test_a_test_file_with_the_target_is_judged(cli):
    write("t.csv")
    record = json.loads(cli("predict", "t.csv", "--target", "kind", "--test", write("new.csv", 9), "--json").out)
    assert record["predictions"]["held_out"]["n_rows"] == 9


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("none.csv", "--target", "kind"), "there is no such file"),
        (("t.csv", "--target", "kinds"), "Did you mean 'kind'"),
        (("t.csv",), "--target"),
        (("t.csv", "--target", "kind", "--task", "ranking"), "--task must be one of"),
        (("t.csv", "--target", "kind", "--test", "none.csv"), "there is no such file"),
        (("t.csv", "--target", "kind", "--test", "few.csv"), "lacks 1 of the 2 feature column(s) of the table: 'size'"),
        (("t.csv", "--target", "kind", "--out", "t.csv"), "it is a file"),
        (("t.csv", "--target", "kind", "--folds", "1"), "--folds"),
        (("t.csv", "--target", "kind", "--seed", "-1"), "--seed"),
        (("t.csv", "--target", "kind", "--device", "tpu9"), "device"),
        (("one.csv", "--target", "kind"), "one class only"),
        (("short.csv", "--target", "kind"), "at least 10"),
        (("alone.csv", "--target", "kind"), "no column besides the target"),
        (("ids.csv", "--target", "kind"), "identifier"),
    ],
)
def test_bad_input_meets_one_message_and_writes_nothing(cli, here, words, says):
    write("t.csv")
    write("few.csv", columns=("colour", "kind"))
    write("one.csv", classes=("cat",))
    write("short.csv", n=9)
    write("alone.csv", columns=("kind",))
    write("ids.csv", classes=[f"id{i}" for i in range(40)])
    before = sorted(path.name for path in here.iterdir())
    code, out, err = cli("predict", *words)
    assert (code, out) == (2, "")
    assert says in " ".join(err.split()) and "Traceback" not in err
    assert sorted(path.name for path in here.iterdir()) == before


def test_ctrl_c_and_results_in_place_of_the_input(cli, here):
    write("predictions.csv")
    before = Path("predictions.csv").read_text()
    code, _, err = cli("predict", "predictions.csv", "--target", "kind")
    assert code == 2 and "would replace the input" in err
    Quick.error = KeyboardInterrupt()
    code, out, err = cli("predict", "predictions.csv", "--target", "kind", "--out", "new")
    assert (code, out) == (130, "") and "interrupted" in err
    assert [path.name for path in here.iterdir()] == ["predictions.csv"] and Path(
        "predictions.csv"
    ).read_text() == before


def test_warnings_are_notes_and_in_the_report(cli):
    write("t.csv", n=41, classes=[f"c{i}" for i in range(11)])
    code, _, err = cli("predict", "t.csv", "--target", "kind")
    assert code == 0 and err.count("note: 'kind' has 11 classes") == 1
    assert "has 11 classes" in Path("report.html").read_text()
