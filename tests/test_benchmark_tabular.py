"""The harness of benchmarks/tabular.py: cells are measured once, an interrupted run goes on, intervals are right."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from foreknow.core.predictive import Gaussian

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ["sklearn/iris", "sklearn/wine"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("tabular")


def run(bench: ModuleType, path: Path, names: list[str] = NAMES, task: str = "classification", **options: Any) -> Any:
    """The store after kNN and the linear model have been run."""
    store = bench.Store(path)
    models = {name: bench.peers.MODELS[name] for name in ("knn", "linear")}
    bench.run(store, task, names, models, **{"splits": 2, "curve": False, "max_rows": 1000, **options})
    return store


def test_store_holds_every_cell_and_a_second_run_measures_nothing(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "store.jsonl"
    store = run(bench, path)
    written = path.read_text()
    assert len(written.splitlines()) == len(store.cells) == 2 * 2 * 2
    cell = json.loads(written.splitlines()[0])
    assert (cell["n_context"], cell["n_test"]) == (75, 75)
    assert cell["measures"]["auc"] > 0.95 and cell["fit_s"] > 0
    monkeypatch.setattr(bench, "measure", None)  # calling it would fail
    run(bench, path)
    assert path.read_text() == written


def test_interrupted_line_is_measured_again_and_the_rest_is_not(bench: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    whole = run(bench, path).cells
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:40])
    after = run(bench, path).cells
    assert path.read_text().startswith("".join(lines[:5]))
    assert after.keys() == whole.keys()
    key = list(whole)[5]
    assert after[key]["measures"] == whole[key]["measures"]


def test_new_weights_or_library_are_measured_afresh_and_replace_the_old_in_the_report(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store.jsonl"
    run(bench, path)
    monkeypatch.setattr(bench.peers.Model, "version", lambda self, task: "other")
    store = run(bench, path, splits=1)
    assert len(store.cells) == 8 + 4
    result = bench.tabular_report.summary(store.cells.values(), "classification", NAMES, 1, ["knn"])
    assert result["models"]["knn"]["version"] == "other"
    assert not bench.tabular_report.summary(store.cells.values(), "classification", NAMES, 2, ["knn"])["tables"]


def test_version_of_ours_follows_the_weights(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bench.peers.MODELS["foreknow"]
    weights = tmp_path / "tabpfn-classifier.safetensors"
    monkeypatch.setattr(bench.peers, "shipped", lambda: {"tabpfn-classifier": weights})
    weights.write_bytes(b"one")
    before = model.version("classification")
    assert model.version("classification") == before
    weights.write_bytes(b"two")
    assert model.version("classification") != before


def test_halves_are_stratified_and_disjoint_and_contexts_nested(bench: ModuleType) -> None:
    y = np.array(["a"] * 60 + ["b"] * 30 + ["c"] * 10)
    data = bench.tables.Data("made", {"x": np.arange(100.0)}, y)
    order = bench.order_of(data, "classification", 0)
    assert sorted(order) == list(range(100))
    assert {label: int((y[order[:50]] == label).sum()) for label in "abc"} == {"a": 30, "b": 15, "c": 5}
    assert set(y[order[:3]]) == {"a", "b", "c"}
    assert (bench.order_of(data, "classification", 1) != order).any()
    large = bench.tables.Data("made", {}, np.zeros(900))
    sizes = list(bench.sizes_of(large, curve=True, max_rows=1000))
    assert [n for _, n, _ in sizes] == [32, 64, 128, 256, 512] and {first for *_, first in sizes} == {512}
    assert list(bench.sizes_of(data, curve=True, max_rows=1000)) == []


def test_ours_runs_and_a_class_missing_from_the_context_gets_nothing(bench: ModuleType) -> None:
    data = bench.tables.read("classification", "sklearn/iris")
    order = bench.order_of(data, "classification", 0)
    context = order[:75][data.y[order[:75]] != "2"]
    cell = bench.measure(bench.peers.MODELS["foreknow"], "classification", data, context, order[75:], 0)
    # A third of the rows is of the class without a probability: each costs -log 1e-15.
    assert cell["measures"]["log_loss"] == pytest.approx(-np.log(1e-15) / 3, rel=0.1)
    assert cell["measures"]["accuracy"] == pytest.approx(2 / 3, abs=0.01)


def test_regression_measures(bench: ModuleType, tmp_path: Path) -> None:
    store = run(bench, tmp_path / "store.jsonl", ["sklearn/diabetes"], "regression", splits=1)
    linear = next(cell for cell in store.cells.values() if cell["model"] == "linear")["measures"]
    assert 0.4 < linear["r2"] < 0.6
    assert linear["r2"] == pytest.approx(1 - linear["relative_rmse"] ** 2)
    data = bench.tables.read("regression", "sklearn/diabetes")
    order = bench.order_of(data, "regression", 0)
    ours = bench.measure(bench.peers.MODELS["foreknow"], "regression", data, order[:100], order[100:], 0)["measures"]
    assert ours["nll"] < 1.5 and 0.7 < ours["coverage_90"] < 1
    rng = np.random.default_rng(0)
    sd = rng.uniform(1, 5, 4000)
    y = 10 + sd * rng.normal(size=4000)
    import torch

    true = Gaussian(torch.full((4000,), 10.0, dtype=torch.float64), torch.as_tensor(sd))
    found = bench.of_numbers(true, y, context=y)
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.02)
    assert len(found["coverage_tenths"]) == 10 and min(found["coverage_tenths"]) > 0.85
    assert found["nll"] == pytest.approx(-float(true.log_prob(torch.as_tensor(y)).mean()) - np.log(y.std()))
    half = Gaussian(true.mean(), torch.as_tensor(sd / 2))
    assert bench.of_numbers(half, y, context=y)["coverage_90"] < 0.7


def made_up(n_tables: int, gap: float, noise: float) -> list[dict[str, Any]]:
    """Cells of "ours" and "catboost" on tables t0, t1, ...: ours is better by `gap` with `noise` per table."""
    rng = np.random.default_rng(1)
    cells = []
    for i in range(n_tables):
        level, own = 0.8 + 0.1 * rng.random(), gap + noise * rng.normal()
        for split in range(2):
            for model, auc, seconds in (("catboost", level, 8.0), ("ours", level + own, 0.5)):
                shaken = auc + (0.01 if split else -0.01)
                measures = {"auc": shaken, "log_loss": 1 - shaken, "ece": 0.1, "brier": 0.2, "accuracy": 0.8}
                key = {"task": "classification", "table": f"t{i}", "digest": "", "model": model, "version": "1"}
                run = {"size": "half<=1000", "split": split, "cpu_s": seconds, "run": "now", "measures": measures}
                cells.append({**key, **run})
    return cells


def test_intervals_ranks_and_wins_of_a_made_up_store(bench: ModuleType) -> None:
    names = [f"t{i}" for i in range(30)]
    result = bench.tabular_report.summary(made_up(30, 0.02, 0.02), "classification", names, 2, ["ours"])
    entry = result["differences"]["ours"]["catboost"]["auc"]
    gaps = np.subtract(*(result["per_table"][model]["auc"] for model in ("ours", "catboost")))
    assert entry["mean"] == pytest.approx(gaps.mean(), abs=1e-4)
    half = 1.96 * gaps.std(ddof=1) / np.sqrt(30)  # what a normal interval over tables, not over splits, would be
    assert entry["high"] - entry["mean"] == pytest.approx(half, rel=0.2)
    assert entry["mean"] - entry["low"] == pytest.approx(half, rel=0.2)
    assert (entry["wins"], entry["losses"]) == (int((gaps > 0).sum()), int((gaps < 0).sum()))
    loss = result["differences"]["ours"]["catboost"]["log_loss"]
    assert (loss["wins"], loss["mean"]) == (entry["wins"], pytest.approx(-entry["mean"]))
    assert result["differences"]["ours"]["catboost"]["ece"]["wins"] == 0  # equal is not won
    models = result["models"]
    assert models["ours"]["rank_auc"] == pytest.approx(1 + (gaps < 0).mean())
    assert models["ours"]["rank_auc"] + models["catboost"]["rank_auc"] == pytest.approx(3)
    assert models["ours"]["times_reference"] == pytest.approx(1 / 16)


def test_only_tables_that_every_model_finished_are_compared_and_the_rest_is_said(bench: ModuleType) -> None:
    cells = made_up(4, 0.1, 0.0)
    cells = [c for c in cells if not (c["model"] == "catboost" and c["table"] == "t3" and c["split"] == 1)]
    names = [f"t{i}" for i in range(4)]
    result = bench.tabular_report.summary(cells, "classification", names, 2, ["ours"])
    assert result["tables"] == ["t0", "t1", "t2"] and result["finished"] == {"catboost": 3, "ours": 4}
    text = bench.tabular_report.markdown("Test list", "classification", result)
    assert "3 of 4 tables" in text and "catboost 3" in text
    assert "+0.100 [+0.100, +0.100] 3:0" in text


def test_report_writes_both_files_and_says_which_list(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.tables, "names", lambda task, kind: NAMES if kind == "development" else ["absent"])
    path, out = tmp_path / "store.jsonl", tmp_path / "evidence.json"
    run(bench, path)
    bench.main(["--report", "--task", "classification", "--splits", "2", "--store", str(path), "--out", str(out)])
    record = json.loads(out.read_text())
    assert record["classification, development list"]["tables"] == NAMES
    assert "classification, test list" not in record
    assert "Classification, development list" in out.with_suffix(".md").read_text()
    assert "| knn |" in capsys.readouterr().out


def test_learning_curves_are_reported_by_size(bench: ModuleType) -> None:
    cells = [{**c, "size": size} for size in (32, 512) for c in made_up(3, size / 1e4, 0.0)]
    result = bench.tabular_report.curves(cells, "classification", ["t0", "t1", "t2"], 2, ["ours"])
    assert list(result) == ["32", "512"]
    assert result["512"]["differences"]["ours"]["catboost"]["auc"]["mean"] == pytest.approx(0.0512)
    text = bench.tabular_report.curves_markdown("Curves", "classification", result)
    assert "| auc | 32 | 512 |" in text and "| ours |" in text


def test_missing_peers_are_said_and_left_out(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = bench.peers.Model("no_such_library", {"classification": lambda is_text, seed: None})
    monkeypatch.setattr(bench.peers, "MODELS", {"absent": absent, "knn": bench.peers.MODELS["knn"]})
    assert list(bench.usable(None)) == ["knn"]
    assert "absent: left out, no_such_library is not installed" in capsys.readouterr().out


def test_categories_come_from_the_training_rows(bench: ModuleType) -> None:
    train = pd.DataFrame({"c": ["b", "a", "b", None], "n": [1.0, 2.0, np.nan, 4.0], "none": [np.nan] * 4})
    train["c"] = train["c"].astype(object)
    rest = train.assign(c=np.array(["a", "new", None, "b"], dtype=object))
    made = bench.peers.AsCategories().fit(train).transform(rest)
    assert made["c"].cat.categories.tolist() == ["a", "b"]
    assert made["c"].cat.codes.tolist() == [0, -1, -1, 1]
    assert made["none"].tolist() == [0.0] * 4 and made["n"].isna().tolist() == [False, False, True, False]
    assert bench.peers.AsCategories(1).fit(train).transform(rest)["c"].cat.codes.tolist() == [-1, -1, -1, 0]
    assert bench.peers.AsText().fit(train).transform(rest)["c"].tolist() == ["a", "new", "missing", "b"]


def test_overlapping_tables_are_found_and_others_not(bench: ModuleType) -> None:
    rng = np.random.default_rng(0)
    make = bench.tables.Data
    columns = {f"x{i}": rng.integers(0, 40, 300).astype(float) for i in range(4)}
    text = {f"t{i}": rng.choice(["u", "v", "w"], 300).astype(object) for i in range(9)}
    whole = make("whole", columns, columns["x0"] + 1)
    recoded = make("recoded", {"log": np.log(1 + columns["x0"]), "neg": -columns["x1"]}, 2 * columns["x2"])
    part = make("part", {"a": columns["x2"][50:200], "b": columns["x3"][50:200]}, rng.normal(size=150))
    words = make("words", text, np.array(["yes"] * 300))
    fewer = make("fewer", {key: column[::-1][:120] for key, column in text.items()}, np.array(["1"] * 120))
    other = make("other", {f"x{i}": rng.integers(0, 40, 3000).astype(float) for i in range(4)}, rng.normal(size=3000))
    found = {frozenset(pair[:2]) for pair in bench.tables.overlaps([whole, recoded, part, words, fewer, other])}
    assert found == {frozenset(p) for p in (("whole", "recoded"), ("whole", "part"), ("words", "fewer"))}


def test_lists_are_long_enough_and_name_no_table_twice(bench: ModuleType) -> None:
    tables = bench.tables
    names = [tables.names(task, kind) for task in bench.TASKS for kind in bench.LISTS]
    assert [len(part) >= least for part, least in zip(names, (12, 25, 10, 18))] == [True] * 4
    everything = [name for part in names for name in part]
    assert len(set(everything)) == len(everything)
