"""Cross-validation: one set of folds for all, nothing of the held-out rows reaches a model, hard tables survive."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.data.table import Column, Table
from foreknow.report import baselines
from foreknow.report.baselines import as_numbers
from foreknow.report.evaluate import assign_folds, evaluate, out_of_fold
from foreknow.report.forecast import reader_of


@pytest.fixture(autouse=True)
def without_catboost(monkeypatch):
    """Whether or not it is installed here."""
    monkeypatch.setattr(baselines, "available", lambda module: False)


class Spy(DummyClassifier):
    """Remembers what its instances were fitted with, in `seen`."""

    seen: list = []  # noqa: RUF012

    def fit(self, X, y):
        self.seen.append((X, y))
        return super().fit(X, y)


def test_all_arms_and_folds_of_a_table(make_table, stand_in):
    told = []
    result = evaluate(make_table(n_empty=7), "kind", predictor=stand_in(), n_folds=3, progress=told.append)
    assert [arm.name for arm in result.arms] == ["foreknow", *baselines.BASELINES["classification"]]
    assert (result.n_folds, len(result.rows), result.ours.excess) == (3, 83, None)
    for arm in result.arms:
        np.testing.assert_allclose(arm.output.sum(1), 1)
        assert arm.seconds > 0
    losses = {arm.name: arm.scores["log_loss"].value for arm in result.arms}
    for arm in result.arms[1:]:
        assert arm.excess.value == pytest.approx(losses[arm.name] - losses["foreknow"])
        assert arm.excess.low <= arm.excess.value <= arm.excess.high
    assert losses["class frequencies"] == pytest.approx(np.log(3), abs=0.05)
    assert max(result.arms[1:], key=lambda arm: arm.scores["accuracy"].value).scores["accuracy"].value > 0.7
    assert (told[-1].done, told[-1].total, len(told)) == (15, 15, 15)
    assert json.loads(json.dumps(result.to_dict()))["verdict"] in ("better", "worse", "even")


def test_the_same_seed_repeats_and_another_does_not(make_table, stand_in, quick):
    runs = [evaluate(make_table(), "kind", predictor=stand_in(), baselines=quick, seed=s) for s in (1, 1, 2)]
    same, again, other = (run.ours.output for run in runs)
    assert np.array_equal(same, again) and not np.array_equal(same, other)


def test_every_arm_meets_the_same_folds(make_table, stand_in):
    table, asked = make_table(), []
    Spy.seen = []
    result = evaluate(
        table, "kind", predictor=stand_in(asked=asked), baselines={"spy": lambda categorical, seed: Spy()}, n_folds=4
    )
    matrix = as_numbers(table.drop(["kind"]))[0]
    assert len(asked) == len(Spy.seen) == 4
    for fold, ((features, y), (X, same_y)) in enumerate(zip(asked, Spy.seen, strict=True)):
        train = np.flatnonzero(result.folds != fold)
        assert features.names == ("number", "word", "day", "true or false", "same")  # never the target
        assert np.array_equal(y, same_y) and np.array_equal(y, result.truth[train])
        np.testing.assert_array_equal(X, matrix[train])
        np.testing.assert_array_equal(features.column("day").values, table.column("day").values[train])


def test_targets_of_held_out_rows_do_not_matter(make_table, stand_in):
    table = make_table()
    features, truth = table.drop(["kind"]), np.arange(90) % 3
    folds = assign_folds(truth, 3, 0)
    changed = truth.copy()
    held_out = np.flatnonzero(folds == 1)
    changed[held_out] = np.minimum(truth[held_out] + 1, 2)
    matrix, categorical = as_numbers(features)
    arms = [(stand_in, features.rows)]
    arms += [
        (partial(build, categorical, 0), matrix.__getitem__) for build in baselines.BASELINES["classification"].values()
    ]
    for make, take in arms:
        one, two = (
            out_of_fold("arm", make, take, y, folds, reader_of(3), lambda name: None)[0] for y in (truth, changed)
        )
        np.testing.assert_array_equal(one[held_out], two[held_out])
        assert not np.array_equal(one[folds != 1], two[folds != 1])  # their own folds did learn from the change


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=2, max_size=5), st.integers(2, 7), st.integers(0, 9))
def test_folds_are_even_and_every_training_part_knows_every_class(counts, n_folds, seed):
    truth = np.repeat(np.arange(len(counts)), counts)
    folds = assign_folds(truth, n_folds, seed)
    sizes = np.bincount(folds)
    assert len(sizes) == min(n_folds, max(counts)) and sizes.max() - sizes.min() <= 1
    for code, count in enumerate(counts):
        per_fold = np.bincount(folds[truth == code], minlength=len(sizes))
        assert per_fold.max() <= -(-count // len(sizes)) and (per_fold > 0).sum() >= 2


def test_a_class_of_one_row_is_left_out_and_said(make_table, stand_in, quick):
    table = make_table(91, ("a", "b"))
    values = table.column("kind").values.copy()
    values[5] = "alone"
    table = Table((*table.drop(["kind"]).columns, Column("kind", "categorical", values)))
    with pytest.warns(ForeknowWarning, match="'alone'"):
        result = evaluate(table, "kind", predictor=stand_in(), baselines=quick)
    assert 5 not in result.rows and len(result.rows) == 90
    assert len(result.warnings) == 1 and "one row only" in result.warnings[0]
    assert result.ours.output.shape == (90, 3)


def test_fewer_than_two_classes_of_two_rows():
    values = np.array(["a"] * 19 + ["b"], dtype=object)
    table = Table((Column("x", "numeric", np.arange(20.0)), Column("y", "categorical", values)))
    with pytest.raises(InputError, match="at least two rows each"):
        evaluate(table, "y", predictor=None)


def test_a_big_table_is_sampled_by_class_and_said(make_table, stand_in, quick):
    with pytest.warns(ForeknowWarning, match="stratified sample"):
        result = evaluate(make_table(3000), "kind", predictor=stand_in(), baselines=quick, max_rows=300)
    assert np.bincount(result.truth).tolist() == [100, 100, 100]
    assert (np.diff(result.rows) > 0).all()


def test_a_baseline_that_fails_does_not_stop_the_others(make_table, stand_in, quick):
    class Fails(DummyClassifier):
        def fit(self, X, y):
            raise ValueError("cannot\nat all")

    with pytest.warns(ForeknowWarning, match="baseline broken is left out, it failed on this table: cannot$"):
        result = evaluate(
            make_table(), "kind", predictor=stand_in(), baselines={"broken": lambda c, s: Fails(), **quick}
        )
    assert [arm.name for arm in result.arms] == ["foreknow", *quick]


def test_a_baseline_that_does_not_converge_is_said(make_table, stand_in):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    impatient = {
        "hasty": lambda c, s: make_pipeline(FunctionTransformer(np.nan_to_num), LogisticRegression(max_iter=1))
    }
    with pytest.warns(ForeknowWarning, match="hasty stopped before"):
        evaluate(make_table(), "kind", predictor=stand_in(), baselines=impatient)


def test_hard_columns_do_not_stop_the_baselines(stand_in):
    n = 60
    rng = np.random.default_rng(0)
    huge = np.where(rng.random(n) < 0.5, 1e300, -1e300)
    columns = (
        Column("huge", "numeric", huge),
        Column("tiny", "numeric", 1e-300 * rng.random(n)),
        Column("empty", "numeric", np.full(n, np.nan)),
        Column("no words", "categorical", np.full(n, None)),
        Column("many words", "categorical", np.array([f"w{i}" for i in range(n)], dtype=object)),
        Column("y", "categorical", np.where(huge > 0, "up", "down").astype(object)),
    )
    result = evaluate(Table(columns), "y", predictor=stand_in(), n_folds=2)
    assert [arm.name for arm in result.arms] == [
        "foreknow",
        *baselines.BASELINES["classification"],
    ]  # none was left out


def test_a_bad_number_of_folds(make_table, stand_in):
    with pytest.raises(ConfigError, match="n_folds"):
        evaluate(make_table(), "kind", predictor=stand_in(), n_folds=1)
