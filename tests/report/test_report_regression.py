"""The main job on numbers: measures, intervals and their coverage, learning curve, CatBoost, explanations."""

import csv
import dataclasses
import json
import sys
import types

import numpy as np
import pandas
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from foreknow import tasks
from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.data.readers import write_csv
from foreknow.report import baselines
from foreknow.report.curve import learning_curve
from foreknow.report.evaluate import evaluate
from foreknow.report.forecast import HIGH, LOG_DENSITY, LOW, MEAN, coverage, forecast
from foreknow.report.job import predict_table
from foreknow.report.scores import Score, difference, score_numbers
from foreknow.report.words import comparison, coverage_sentence, headline, more_rows
from foreknow.viz.quality import wilson


@pytest.fixture
def run(make_numbers, number_stand_in, quick_numbers, tmp_path):
    """`run(table, **options)` -> (job, rows of predictions.csv as dictionaries)."""

    def go(table=None, **options):
        fixed = {"predictor": number_stand_in(), "baselines": quick_numbers, "out": tmp_path / "out", "n_folds": 3}
        result = predict_table(
            make_numbers() if table is None else table, "price", **{**fixed, "write_report": False, **options}
        )
        with open(result.predictions_path, newline="", encoding="utf-8") as file:
            return result, list(csv.DictReader(file))

    return go


@pytest.fixture(scope="module")
def evaluation(make_numbers, number_stand_in, quick_numbers):
    return evaluate(make_numbers(200), "price", predictor=number_stand_in(), baselines=quick_numbers, n_folds=4)


def test_arms_and_measures(evaluation):
    assert [arm.name for arm in evaluation.arms] == ["foreknow", "ridge regression", "mean of the target"]
    for arm in evaluation.arms:
        mean, found = arm.output[:, MEAN], arm.scores
        assert found["rmse"].value == pytest.approx(root_mean_squared_error(evaluation.truth, mean))
        assert found["mae"].value == pytest.approx(mean_absolute_error(evaluation.truth, mean))
        assert found["r2"].value == pytest.approx(r2_score(evaluation.truth, mean))
        for name in ("rmse", "mae", "r2"):
            assert found[name].low <= found[name].value <= found[name].high
    ours, ridge, ignorant = evaluation.arms
    assert 0.85 < ours.scores["rmse"].value < 1.15 and ours.scores["r2"].value > 0.8
    assert np.isnan(ridge.scores["nll"].value) and ridge.scores["nll"].to_dict()["value"] is None
    # Normal errors of 1 cost log(sqrt(2 pi e)) = 1.419 nats a row; those of the whole spread, sqrt(10), more by 1.15.
    assert ours.scores["nll"].value == pytest.approx(1.419, abs=0.15)
    assert ignorant.scores["nll"].value - ours.scores["nll"].value == pytest.approx(np.log(10) / 2, abs=0.2)
    assert ignorant.excess.low > 1.5 and evaluation.best_baseline is ridge
    record = json.loads(json.dumps(evaluation.to_dict()))
    assert (record["task"], record["coverage"]["nominal"]) == ("regression", pytest.approx(0.9))
    assert record["arms"][2]["rmse_minus_ours"]["value"] == pytest.approx(ignorant.excess.value)


def test_the_difference_is_paired_by_row():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(300,)) * 10
    one, two = np.zeros((300, 5)), np.zeros((300, 5))
    one[:, MEAN], two[:, MEAN] = 0.1 * truth, 0.0
    found = difference("regression", two, one, truth)
    assert found.value == pytest.approx(0.1 * np.sqrt(np.mean(truth**2))) and found.low > 0
    alone = score_numbers(one, truth)["rmse"]
    assert found.high - found.low < 0.2 * (alone.high - alone.low)


def test_targets_that_are_all_alike_have_no_r2_and_one_row_no_interval():
    output = np.array([[1.0, 0, 1, 2, -1]])
    found = score_numbers(output, np.array([3.0]))
    assert found["rmse"].value == 2.0 and np.isnan(found["rmse"].low)
    assert np.isnan(found["r2"].value) and found["nll"].value == 1.0


def test_forecasts_of_models_with_and_without_distributions(make_numbers, number_stand_in):
    table = make_numbers(60)
    X, y = table.drop(["price"]), table.column("price").values
    model = number_stand_in().fit(X, y)
    truth = y.copy()
    truth[0] = np.nan
    found = forecast(model, X, truth)
    assert np.isnan(found[0, LOG_DENSITY]) and np.isfinite(found[1:]).all()
    np.testing.assert_allclose(found[:, HIGH] - found[:, LOW], 2 * 1.6448536 * model.spread_, rtol=1e-6)
    assert np.isnan(forecast(model, X)[:, LOG_DENSITY]).all()
    far = forecast(model, X, np.full(60, 1e9))
    assert (far[:, LOG_DENSITY] == -1000).all()

    class Points:
        def predict(self, X):
            return np.arange(len(X))

    points = forecast(Points(), X, y)
    assert points[:, MEAN].tolist() == list(range(60)) and np.isnan(points[:, 1:]).all()
    assert coverage(points, y) is None


@pytest.mark.parametrize(
    ("honesty", "says"),
    [(1.0, "agrees with 90%"), (0.3, "too narrow"), (3.0, "wider than they need be")],
)
def test_coverage_is_measured(make_numbers, number_stand_in, quick_numbers, honesty, says):
    result = evaluate(
        make_numbers(200), "price", predictor=number_stand_in(honesty), baselines=quick_numbers, n_folds=4
    )
    found = result.coverage
    inside = (result.ours.output[:, LOW] <= result.truth) & (result.truth <= result.ours.output[:, HIGH])
    assert found.whole.share == inside.mean() and found.whole.n_rows == 200
    low, high = wilson(np.array([inside.mean()]), np.array([200]))
    assert (found.whole.low, found.whole.high) == (low[0], high[0])
    assert [group.n_rows for group in found.groups] == [20] * 10
    assert (np.diff([group.width for group in found.groups]) >= 0).all()
    assert np.mean([group.share for group in found.groups]) == pytest.approx(found.whole.share)
    assert says in coverage_sentence(found) and coverage_sentence(found) in headline(result)


def test_few_rows_are_one_group():
    output = np.tile([1.0, 0.0, 1.0, 2.0, 0.0], (12, 1))
    assert [group.n_rows for group in coverage(output, np.ones(12)).groups] == [12]


@pytest.mark.parametrize(
    ("excess", "verdict", "says"),
    [
        (Score(0.2, 0.1, 0.3), "better", "better than those of the strongest plain baseline, ridge regression"),
        (Score(-0.2, -0.3, -0.1), "worse", "A plain baseline wins on this table: ridge regression has an error (RMSE)"),
        (Score(0.05, -0.1, 0.2), "even", "-0.1 to +0.2, contains zero"),
    ],
)
def test_the_verdict_is_honest(evaluation, excess, verdict, says):
    ours, best, *rest = evaluation.arms
    changed = dataclasses.replace(evaluation, arms=(ours, dataclasses.replace(best, excess=excess), *rest))
    assert changed.verdict == verdict and says in comparison(changed)


def test_empty_targets_and_a_test_file(run, make_numbers, tmp_path):
    job, rows = run(make_numbers(90, n_empty=5))
    assert [int(row["row"]) for row in rows] == [1, 2, 3, 4, 5] and job.curve is None
    assert list(rows[0]) == ["row", "prediction", "quantile_0.05", "quantile_0.5", "quantile_0.95", "source"]
    assert all(float(r["quantile_0.05"]) < float(r["prediction"]) < float(r["quantile_0.95"]) for r in rows)
    new = make_numbers(40, seed=5)
    words = {c.name: c.as_kind("categorical")[0].values for c in new.columns}
    words["price"][3] = None
    write_csv(tmp_path / "new.csv", words)
    job, rows = run(test=tmp_path / "new.csv", write_report=True)
    held_out = job.predictions.held_out
    truth = np.delete(new.column("price").values, 3)
    found = np.delete([float(row["prediction"]) for row in rows], 3)
    assert held_out.n_rows == 39
    assert held_out.scores["rmse"].value == pytest.approx(root_mean_squared_error(truth, found), rel=1e-6)
    assert json.loads(json.dumps(job.to_dict()))["predictions"]["held_out"]["coverage"]["whole"]["n_rows"] == 39
    page = job.report_path.read_text()
    says = ["Quality on the test file", "Do the intervals hold", "Would more rows help?", "taken for a quantity"]
    for words in [*says, "by thirds of the target", "ridge regression", more_rows(job.curve, "regression")]:
        assert words in page, words
    assert page.count("<svg") == 7 and "no distribution" in page


def test_a_predictor_of_points_has_no_intervals_in_the_report(run, quick_numbers):
    """Ridge regression in our own place."""

    class Points(RegressorMixin, BaseEstimator):
        def fit(self, X, y):
            self.model_ = Ridge().fit(X.column("size").values[:, None], y)
            return self

        def predict(self, X):
            return self.model_.predict(X.column("size").values[:, None])

    job, rows = run(predictor=Points(), write_report=True)
    assert rows[0]["quantile_0.5"] == "" and float(rows[0]["prediction"]) and job.evaluation.coverage is None
    page = job.report_path.read_text()
    assert "Do the intervals hold" not in page and "The least certain rows" not in page and "R²" in page


def test_the_learning_curve_is_judged_on_the_same_rows(evaluation, make_numbers, number_stand_in):
    table, sizes = make_numbers(200).drop(["price"]), []

    class Spy(number_stand_in):
        def fit(self, X, y):
            sizes.append(len(y))
            return super().fit(X, y)

    told = []
    curve = learning_curve(evaluation, lambda where: table.rows(evaluation.rows[where]), Spy(), told.append)
    assert sizes == [38, 38, 38, 75, 75, 75, 112, 112, 112] and curve.n_rows == (38, 75, 112, 150)
    assert (told[-1].done, told[-1].total) == (9, 9)
    judged = evaluation.folds < 3
    whole = score_numbers(evaluation.ours.output[judged], evaluation.truth[judged])["rmse"]
    assert curve.scores[-1] == whole and len(curve.scores) == 4
    assert curve.gain.value == pytest.approx(curve.scores[1].value - whole.value)
    assert more_rows(dataclasses.replace(curve, gain=Score(0.2, 0.1, 0.3)), "regression").endswith("probably help.")
    assert "no clear difference" in more_rows(dataclasses.replace(curve, gain=Score(0, -0.1, 0.3)), "regression")
    assert "which is worse" in more_rows(dataclasses.replace(curve, gain=Score(-2, -3, -1)), "regression")


def test_no_curve_of_a_tiny_table(run, make_numbers):
    job, _ = run(make_numbers(30), write_report=True)
    assert job.curve.scores == () and "fewer than 40 rows" in job.curve.note
    assert "The learning curve was not drawn" in job.report_path.read_text()
    assert json.loads(json.dumps(job.to_dict()))["learning_curve"]["note"] == job.curve.note


def test_catboost_takes_part_where_it_is_installed(monkeypatch, make_numbers, make_table, number_stand_in, stand_in):
    monkeypatch.setattr(baselines, "available", lambda module: False)
    assert "CatBoost" not in baselines.baselines_for("regression")
    monkeypatch.setattr(baselines, "available", lambda module: module == "catboost")
    seen = []

    class Fake:
        """What of CatBoost's interface is used; the mean, or the shares of the classes."""

        def __init__(self, *, random_seed, cat_features, verbose, allow_writing_files):
            seen.append((cat_features, verbose, allow_writing_files))

        def fit(self, X, y):
            assert all(isinstance(cell, int) for row in X for cell in row[seen[-1][0]])
            self.y_, self.classes_ = y, np.unique(y)
            return self

        def predict(self, X):
            return np.full(len(X), self.y_.mean())

        def predict_proba(self, X):
            return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))

    fake = types.ModuleType("catboost")
    fake.CatBoostClassifier = fake.CatBoostRegressor = Fake
    monkeypatch.setitem(sys.modules, "catboost", fake)
    for table, target, predictor in (
        (make_numbers(60), "price", number_stand_in()),
        (make_table(60), "kind", stand_in()),
    ):
        task = "regression" if target == "price" else "classification"
        arms = baselines.baselines_for(task)
        assert list(arms)[-2] == "CatBoost" and len(arms) == 5
        few = {"CatBoost": arms["CatBoost"]}
        found = evaluate(table, target, predictor=predictor, baselines=few, n_folds=2)
        assert [arm.name for arm in found.arms] == ["foreknow", "CatBoost"]
        assert seen[-1] == ([2] if target == "price" else [1], False, False)


def test_explanations(monkeypatch, run, make_numbers, make_table, stand_in, quick, tmp_path):
    """With a stand-in for the two functions that measure: importance by refitting is not this module's business."""
    asked = []

    def permutation_importance(model, X, y, n_repeats=5, random_state=0, progress=None):
        asked.append((len(y), X.names))
        mean = np.array([len(name) + 0.1 * len(asked) for name in X.names])
        return types.SimpleNamespace(names=X.names, mean=mean, std=0 * mean, measure="increase of the error")

    def shapley_values(model, X, background=None, n_permutations=8, random_state=0, progress=None):
        values = np.arange(X.n_rows * X.n_columns, dtype=float).reshape(X.n_rows, X.n_columns)
        if hasattr(model, "predict_proba"):
            return types.SimpleNamespace(values=np.stack([values, -values, values], -1), base=np.array([0.2, 0.3, 0.5]))
        return types.SimpleNamespace(values=values, base=7.0)

    module = types.ModuleType("explain")
    module.permutation_importance, module.shapley_values = permutation_importance, shapley_values
    monkeypatch.setitem(sys.modules, "foreknow.tasks.tabular.explain", module)
    job, _ = run(make_numbers(90, n_empty=4), with_explanation=True, write_report=True)
    assert [n for n, _ in asked] == [29, 29, 28] and asked[0][1] == ("size", "noise", "word")
    with open(job.predictions_path.with_name("explanations.csv"), newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["row", "explained", "base", "contribution_size", "contribution_noise", "contribution_word"]
    assert rows[2] == ["2", "prediction", "7", "3", "4", "5"] and len(rows) == 5
    assert job.explanation.mean == pytest.approx([4.2, 5.2, 4.2], abs=0.01)
    assert job.explanation.spread == pytest.approx([0.1] * 3)
    record = json.loads(json.dumps(job.to_dict()))["explanation"]
    assert record["importance"][0]["column"] == "noise" and record["measure"] == "increase of the error"
    page = job.report_path.read_text()
    assert (
        "What the predictions rest on" in page and "word +5, noise +4, size +3" in page and "explanations.csv" in page
    )

    # Classes, and no row to predict but those of the table: the model that had not seen them.
    job = predict_table(
        make_table(60), "kind", predictor=stand_in(), baselines=quick, out=tmp_path / "c", n_folds=2,
        with_explanation=True, write_report=False,
    )  # fmt: skip
    found = job.explanation
    held_out = job.evaluation.rows[job.evaluation.folds == 0][:10]
    assert found.rows == tuple(held_out + 1)
    best = job.evaluation.ours.output[held_out].argmax(1)
    assert found.outputs == tuple(f"p_{'abc'[code]}" for code in best)
    np.testing.assert_array_equal(found.base, np.array([0.2, 0.3, 0.5])[best])
    np.testing.assert_array_equal(np.sign(found.contributions[:, 1]), np.where(best == 1, -1, 1))


def test_settings_of_the_default_predictor(monkeypatch, run, make_numbers, number_stand_in, quick_numbers, tmp_path):
    asked = []

    def build(**settings):
        asked.append(settings)
        return number_stand_in()

    monkeypatch.setitem(vars(tasks), "TabularRegressor", build)
    run(predictor=None, context_rows=50, n_estimators=3, seed=7, device="cpu")
    run(predictor=None)
    assert asked[0] == {"random_state": 7, "device": "cpu", "max_rows": 50, "n_estimators": 3}
    assert asked[1] == {"random_state": 0, "device": "auto"}
    with pytest.raises(ConfigError, match="context_rows and n_estimators"):
        run(context_rows=50)
    with pytest.raises(CapabilityError, match="NumberStandIn cannot be saved"):
        run(save=tmp_path / "m.safetensors")
    frame = {name: make_numbers().column(name).values for name in ("size", "noise", "price")}
    job, _ = run(pandas.DataFrame(frame))
    assert job.evaluation.task == "regression" and job.table.names == ("size", "noise", "price")


def test_places_a_model_cannot_be_saved_to(run, tmp_path, number_stand_in):
    class Saves(number_stand_in):
        def save(self, path):
            raise AssertionError("too late")

    table = tmp_path / "t.csv"
    table.write_text("a")
    for place, says in ((tmp_path / "no" / "m", "does not exist"), (tmp_path, "it is a folder"), (table, "replace")):
        with pytest.raises(InputError, match=says):
            run(predictor=Saves(), save=place, inputs=(table,))
    assert table.read_text() == "a" and not (tmp_path / "out").exists()
