"""The main job: where predictions come from, what stops it, and that nothing is left half-written."""

import csv
import json

import numpy as np
import pytest

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.data.readers import write_csv
from foreknow.report import job as jobs
from foreknow.report import new_rows
from foreknow.report.job import predict_table


@pytest.fixture
def run(make_table, stand_in, quick, tmp_path):
    """`run(table, **options)` -> (job, rows of predictions.csv as dictionaries)."""

    def go(table=None, **options):
        options = {
            "predictor": stand_in(),
            "baselines": quick,
            "out": tmp_path / "out",
            "n_folds": 3,
            "write_report": False,
            **options,
        }
        result = predict_table(table or make_table(), "kind", **options)
        with open(result.predictions_path, newline="", encoding="utf-8") as file:
            return result, list(csv.DictReader(file))

    return go


def write(table, path):
    texts = {c.name: c.as_kind("categorical")[0].values for c in table.columns}
    write_csv(path, texts)
    return path


def test_rows_with_an_empty_target_are_predicted(run, make_table):
    job, rows = run(make_table(n_empty=8), write_report=True)
    assert [int(row["row"]) for row in rows] == list(range(1, 9))
    assert {row["source"] for row in rows} == {"empty target"}
    assert job.report_path.is_file() and len(job.evaluation.rows) == 82
    record = json.loads(json.dumps(job.to_dict()))
    assert record["predictions"]["n_rows"] == 8 and sum(record["predictions"]["classes"].values()) == 8
    assert record["notes"] == [{"column": "<i>day</i>", "action": "dropped <b>", "reason": "constant & dull"}]
    assert record["quality"]["arms"][0]["name"] == "foreknow" and record["environment"]["torch"]


def test_without_empty_targets_all_rows_get_out_of_fold_probabilities(run):
    job, rows = run(write_report=True)
    assert [int(row["row"]) for row in rows] == list(range(1, 91))
    assert {row["source"] for row in rows} == {"out-of-fold"}
    found = np.array([[float(row[f"p_{name}"]) for name in "abc"] for row in rows])
    np.testing.assert_allclose(found, job.evaluation.ours.output, rtol=1e-5, atol=1e-12)
    assert "had not seen it" in job.report_path.read_text()


def test_rows_beside_the_sample_are_predicted_by_a_model_of_the_sample(run, stand_in):
    asked = []
    with pytest.warns(ForeknowWarning, match="stratified sample"):
        job, rows = run(max_rows=45, predictor=stand_in(asked=asked))
    sources = np.array([row["source"] for row in rows])
    sample = np.zeros(90, dtype=bool)
    sample[job.evaluation.rows] = True
    assert ((sources == "out-of-fold") == sample).all() and ((sources == "not in sample") == ~sample).all()
    assert len(asked[-1][1]) == sample.sum() == 45
    assert any("stratified sample" in sentence for sentence in job.warnings)


def test_a_test_file_is_streamed_and_judged(run, make_table, tmp_path, monkeypatch):
    monkeypatch.setattr(new_rows, "CHUNK_ROWS", 7)
    test = write(make_table(40, seed=5), tmp_path / "test.csv")
    told = []
    job, rows = run(test=test, progress=told.append, write_report=True)
    assert [int(row["row"]) for row in rows] == list(range(1, 41))
    held_out = job.predictions.held_out
    assert held_out.n_rows == 40 and held_out.scores["accuracy"].value > 0.5
    right = np.mean([row["predicted"] == "abc"[i % 3] for i, row in enumerate(rows)])
    assert held_out.scores["accuracy"].value == pytest.approx(right)
    assert "Quality on the test file" in job.report_path.read_text() and "test.csv" in job.report_path.read_text()
    assert told[-1].done == told[-1].total and len(told) > 6  # three folds of three arms, then the file


def test_targets_in_the_test_file_change_no_prediction(run, make_table, tmp_path):
    table = make_table(40, seed=5)
    column = table.column("kind")
    shuffled = np.random.default_rng(0).permutation(column.values)
    columns = tuple(c if c.name != "kind" else type(c)(c.name, c.kind, shuffled) for c in table.columns)
    files = {
        "as they are": write(table, tmp_path / "a.csv"),
        "shuffled": write(type(table)(columns), tmp_path / "b.csv"),
        "left out": write(table.drop(["kind"]), tmp_path / "c.csv"),
    }
    outcomes = {name: run(test=path) for name, path in files.items()}
    assert outcomes["as they are"][1] == outcomes["shuffled"][1] == outcomes["left out"][1]
    assert outcomes["left out"][0].predictions.held_out is None
    accuracy = {n: outcomes[n][0].predictions.held_out.scores["accuracy"].value for n in ("as they are", "shuffled")}
    assert accuracy["as they are"] > accuracy["shuffled"]  # the quality did change, so the shuffle was one


def test_classes_of_the_test_file_that_were_never_seen_are_counted(run, make_table, tmp_path):
    test = write(make_table(20, ("a", "new")), tmp_path / "test.csv")
    with pytest.warns(ForeknowWarning, match="10 row"):
        job, _ = run(test=test, write_report=True)
    assert (job.predictions.held_out.n_rows, job.predictions.held_out.n_unknown) == (10, 10)
    assert "10 left out" in job.report_path.read_text()


def test_a_test_file_without_a_feature_column_is_refused_before_any_work(run, make_table, stand_in, tmp_path):
    test = write(make_table(20).drop(["number", "word"]), tmp_path / "test.csv")
    asked = []
    with pytest.raises(InputError, match=r"lacks 2 of the 5 feature column.*'number', 'word'"):
        run(test=test, predictor=stand_in(asked=asked))
    assert not asked and not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError("no"), MemoryError])
def test_nothing_is_half_written_when_the_prediction_breaks_off(
    run, stand_in, tmp_path, monkeypatch, error, make_table
):
    class Breaks(stand_in):
        calls = 0

        def predict_proba(self, X):
            Breaks.calls += 1
            if Breaks.calls > 13:  # three folds, nine fits of the learning curve, then the first chunk goes well
                raise error
            return super().predict_proba(X)

    monkeypatch.setattr(jobs, "CHUNK_ROWS", 5)
    table = make_table(n_empty=20)
    out = tmp_path / "out"
    with pytest.raises(error if isinstance(error, type) else type(error)):
        run(table, predictor=Breaks(), write_report=True)
    assert not out.exists()
    out.mkdir()
    (out / "predictions.csv").write_text("old")
    Breaks.calls = 0
    with pytest.raises(error if isinstance(error, type) else type(error)):
        run(table, predictor=Breaks(), write_report=True)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("predictions.csv", "old")]


def test_without_report_only_the_predictions_are_written(run, tmp_path):
    job, _ = run()
    assert job.report_path is None and [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.csv"]


def test_results_replace_no_input_and_need_a_folder(run, tmp_path, monkeypatch):
    (tmp_path / "predictions.csv").write_text("precious")
    with pytest.raises(InputError, match="would replace the input"):
        run(out=tmp_path, inputs=(tmp_path / "predictions.csv",))
    assert (tmp_path / "predictions.csv").read_text() == "precious"
    with pytest.raises(InputError, match="it is a file"):
        run(out=tmp_path / "predictions.csv")
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    with pytest.raises(InputError, match="it is a folder"):
        run(out=tmp_path / "taken")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot write to the folder"):
        run(out=tmp_path / "locked")
    assert not (tmp_path / "locked").exists()
    monkeypatch.undo()
    run(out=tmp_path / "new" / "folder", write_report=True)
    assert (tmp_path / "new" / "folder" / "report.html").is_file()
