"""`apply`: saved models on new rows, of every system that reads a table."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from foreknow import TabularClassifier, TabularRegressor
from foreknow.report import baselines, evaluate, new_rows
from foreknow.tasks import PFN


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder to work in, and one quick baseline."""
    monkeypatch.chdir(tmp_path)
    few = {"classification": baselines.class_frequencies, "regression": baselines.training_mean}
    monkeypatch.setattr(evaluate, "baselines_for", lambda task: {"plain": few[task]})


def frame(n=40, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)
    return pd.DataFrame(
        {
            "code": [f"0{i % 3}" for i in range(n)],  # digits that are no number
            "size": size,
            "kind": ["10" if x > 0 else "9" for x in size],
            "price": 5 + 2 * size + 0.1 * rng.normal(size=n),
        }
    )


def rows(path="predictions.csv"):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_predict_saved_predicts_the_same_rows_alike(cli, monkeypatch):
    """Numbers and classes; the file of new rows lacks the target, has its columns in another order and one more."""
    table, new = frame(), frame(12, seed=1)
    quick = ("--folds", 2, "--estimators", 1, "--no-report", "--device", "cpu")
    table.to_csv("t.csv", index=False)
    new[["size", "price", "code"]].to_csv("new.csv", index=False)
    code, out, err = cli(
        "predict", "t.csv", "-t", "kind", "--task", "classification", "--test", "new.csv", "--save", "m", *quick
    )
    assert code == 0 and "m: the fitted model; it contains the training rows" in out, err
    before = rows()
    new.assign(extra="x")[["extra", "code", "size", "price"]].to_parquet("new.parquet", row_group_size=5)
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 5)
    code, out, err = cli("apply", "m", "new.parquet", "-o", "a.csv")
    assert (code, err) == (0, "") and "a.csv: 12 rows of new.parquet (TabularClassifier, 2 classes)" in out
    assert list(rows("a.csv")[0]) == ["row", "predicted", "p_9", "p_10", "confidence", "source"]
    for old, again in zip(before, rows("a.csv"), strict=True):
        assert old["row"] == again["row"] and old["predicted"] == again["predicted"]
        assert float(old["p_9"]) == pytest.approx(float(again["p_9"]), abs=1e-4)
        assert again["source"] == "saved model"
    table.drop(columns="kind").to_csv("t.csv", index=False)
    code, out, err = cli("predict", "t.csv", "-t", "price", "--test", "new.csv", "--save", "m", "--json", *quick)
    assert code == 0 and json.loads(out)["model"] == {"path": "m", "contains_rows": True}, err
    assert json.loads(out)["quality"]["task"] == "regression"
    before = rows()
    record = json.loads(cli("apply", "m", "new.csv", "--json").out)
    assert (record["system"], record["task"], record["n_rows"], record["card"]) == (
        "TabularRegressor", "regression", 12, "tabpfn",
    )  # fmt: skip
    names = ["prediction", "quantile_0.05", "quantile_0.5", "quantile_0.95"]
    for name in names:
        found, wanted = ([float(row[name]) for row in file] for file in (rows(), before))
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    predicted = [float(row["prediction"]) for row in rows()]
    assert record["range"] == pytest.approx([min(predicted), max(predicted)])


@pytest.fixture
def models():
    """One of each: fitted to a frame with names, to an array without, and `pfn`."""
    table = frame()
    X = table[["size", "price"]]
    TabularClassifier(n_estimators=1, random_state=0).fit(X, table["kind"]).save("named")
    TabularRegressor(n_estimators=1, random_state=0).fit(X.to_numpy()[:, :1], table["price"]).save("array")
    PFN(random_state=0).fit(X[["size"]][:20], table["price"][:20]).save("pfn")


def test_models_that_were_saved_from_python(cli, models):
    new = frame(9, seed=2)
    new[["price", "kind", "size"]].to_csv("new.csv", index=False)
    new[["size"]].to_csv("one.csv", index=False)
    for model, file in (("named", "new.csv"), ("array", "one.csv"), ("pfn", "new.csv")):
        assert cli("apply", model, file, "-o", f"{model}.csv").code == 0
    from foreknow import load

    X = new[["size", "price"]]
    assert [row["predicted"] for row in rows("named.csv")] == load("named").predict(X).tolist()
    for name, x in (("array", X.to_numpy()[:, :1]), ("pfn", X.to_numpy()[:, :1])):
        wanted = load(name).predict(x)
        np.testing.assert_allclose([float(row["prediction"]) for row in rows(f"{name}.csv")], wanted, rtol=1e-5)
        assert all(float(r["quantile_0.05"]) < float(r["quantile_0.95"]) for r in rows(f"{name}.csv"))


def test_what_cannot_be_applied_meets_one_message(cli, models):
    Path("good.csv").write_text("size,price\n1,2\n")
    Path("lacks.csv").write_text("sizes,price\n1,2\n")
    Path("text.csv").write_text("size,price\nlarge,2\nsmall,3\n")
    Path("gap.csv").write_text("size\n1\n2\n\n3\nNA\n4\n")
    Path("foreign.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0" + b"{}              ")
    Path("text.txt").write_text("no model")
    before = sorted(path.name for path in Path().iterdir())
    for words, says in (
        (("none", "good.csv"), "there is no file 'none'"),
        (("foreign.safetensors", "good.csv"), "foreign.safetensors"),
        (("text.txt", "good.csv"), "text.txt"),
        (("named", "none.csv"), "there is no such file"),
        (("named", "lacks.csv"), "lacks 1 of the 2 feature column(s) of the table: 'size'. Did you mean 'sizes'"),
        (("named", "text.csv"), "'size' was numeric where it was learnt from, but 2 of the first 2 cells are not"),
        (("array", "good.csv"), "has 2 column(s), but the TabularRegressor was fitted to 1 without names"),
        (("pfn", "gap.csv"), "the cell of 'size' in row 4 is missing"),
        (("named", "good.csv", "-o", "good.csv"), "would replace"),
        (("named", "good.csv", "-o", "no/a.csv"), "does not exist"),
        (("named", "good.csv", "--device", "tpu9"), "device"),
    ):
        code, out, err = cli("apply", *words)
        assert (code, out) == (2, "") and "Traceback" not in err, (words, err)
        assert says in " ".join(err.split()) and len(err.splitlines()) <= 5, (words, err)
    assert sorted(path.name for path in Path().iterdir()) == before
