"""`TabularClassifier` where its users are: scikit-learn, data frames, awkward tables, large tables, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

import foreknow
from foreknow import TabularClassifier, TabularRegressor
from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import numpy_stream

QUICK = TabularClassifier(n_estimators=1, random_state=0)


def frame(n: int = 60) -> tuple[pd.DataFrame, np.ndarray]:
    rng = numpy_stream(0, "frame")
    size = rng.normal(size=n)
    colour = np.array(["red", "green", "blue", None], dtype=object)[rng.integers(4, size=n)]
    table = pd.DataFrame(
        {
            "size": np.where(rng.uniform(size=n) < 0.1, np.nan, size),
            "colour": colour,
            "sold": rng.uniform(size=n) < 0.5,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(300, size=n), unit="D"),
            "same": 1.0,
        }
    )
    return table, np.where(size + (colour == "red") > 0.2, "yes", "no")


@pytest.mark.parametrize("estimator", [QUICK, TabularRegressor(random_state=0)], ids=["classifier", "regressor"])
def test_every_check_of_scikit_learn_passes(estimator: TabularClassifier | TabularRegressor) -> None:
    checks = list(estimator_checks_generator(estimator, mark=None))
    assert len(checks) > 45
    state = np.random.get_state()  # noqa: NPY002 - scikit-learn's own checks seed the global generator
    for subject, check in checks:
        try:
            check(subject)
        except SkipTestWarning:
            raise
        except Exception as error:
            if type(error).__name__ == "SkipTest":  # array API input, which needs an environment variable
                assert "SCIPY_ARRAY_API" in str(error)
                continue
            raise AssertionError(f"{check}: {error}") from error
    np.random.set_state(state)  # noqa: NPY002


def test_frames_of_all_kinds_give_the_same_probabilities() -> None:
    table, y = frame()
    model = clone(QUICK).fit(table[:40], y[:40])
    expected = model.predict_proba(table[40:])
    other = clone(QUICK).fit(pl.from_pandas(table[:40]), y[:40])
    assert np.allclose(other.predict_proba(pl.from_pandas(table[40:])), expected, atol=1e-6)
    assert np.allclose(model.predict_proba(table[40:].sample(frac=1.0, random_state=0).sort_index()), expected)


def test_it_learns_and_says_what_it_dropped() -> None:
    table, y = frame(160)
    model = clone(QUICK).fit(table[:100], y[:100])
    assert (model.predict(table[100:]) == y[100:]).mean() > 0.75
    assert any(note.column == "same" and "constant" in note.reason + note.action for note in model.notes_)
    unseen = table[100:].assign(colour="violet")
    assert np.isfinite(model.predict_proba(unseen)).all()


def test_pipelines_searches_and_cross_validation() -> None:
    rng = numpy_stream(1)
    X = rng.normal(size=(60, 3))
    y = (X[:, 0] > 0).astype(int)
    assert cross_val_score(make_pipeline(StandardScaler(), clone(QUICK)), X, y, cv=3).mean() > 0.8
    search = GridSearchCV(clone(QUICK), {"n_estimators": [1, 2]}, cv=2).fit(X, y)
    assert search.best_estimator_.n_estimators in (1, 2)


def test_more_than_ten_classes_and_classes_of_one_row() -> None:
    rng = numpy_stream(2)
    centre = rng.normal(size=(14, 4)) * 4
    codes = np.arange(140) % 14
    X = centre[codes] + rng.normal(size=(140, 4))
    model = clone(QUICK).fit(X, codes)
    assert model.predict_proba(X).shape == (140, 14)
    assert (model.predict(centre) == np.arange(14)).mean() > 0.8
    rare = np.array(["a"] * 10 + ["b"] * 9 + ["c"])
    assert clone(QUICK).fit(X[:20], rare).predict_proba(X[:3]).shape == (3, 3)


def test_huge_and_tiny_scales_change_nothing() -> None:
    rng = numpy_stream(3)
    X = rng.normal(size=(50, 3))
    y = (X.sum(axis=1) > 0).astype(int)
    plain = clone(QUICK).fit(X, y).predict_proba(X)
    scaled = clone(QUICK).fit(X * [1e30, 1e-30, 1.0], y).predict_proba(X * [1e30, 1e-30, 1.0])
    moved = clone(QUICK).fit(X * 1e-3 + 1e6, y).predict_proba(X * 1e-3 + 1e6)
    assert np.allclose(plain, scaled, atol=1e-3)
    assert np.allclose(plain, moved, atol=1e-2)


def test_large_tables_are_sampled_with_every_class_and_a_warning() -> None:
    rng = numpy_stream(4)
    X = rng.normal(size=(400, 2))
    y = np.where(np.arange(400) < 3, "rare", np.where(X[:, 0] > 0, "a", "b"))
    model = TabularClassifier(n_estimators=2, max_rows=50, random_state=0)
    with pytest.warns(ForeknowWarning, match="has 400 rows"):
        model.fit(X, y)
    codes = np.unique(y, return_inverse=True)[1]
    first, second = (model._sample(codes, 50, numpy_stream(seed)) for seed in (0, 1))
    assert len(first) == 50
    assert "rare" in set(y[first])
    assert not np.array_equal(first, second)


def test_queries_in_pieces_equal_queries_at_once() -> None:
    rng = numpy_stream(5)
    X = rng.normal(size=(40, 3))
    model = clone(QUICK).fit(X, X[:, 0] > 0)
    new = rng.normal(size=(30, 3))
    whole = model.predict_proba(new)
    model.chunk_size = 7
    assert np.allclose(model.predict_proba(new), whole, atol=1e-10)


def test_a_saved_model_predicts_the_same_and_says_that_it_holds_rows(tmp_path: Path) -> None:
    table, y = frame()
    model = clone(QUICK).fit(table, y)
    path = model.save(tmp_path / "model.safetensors")
    assert foreknow.Checkpoint.load(path).contains_rows
    assert np.array_equal(foreknow.load(path).predict_proba(table), model.predict_proba(table))


def test_a_file_without_rows_is_refused_and_the_student_named(tmp_path: Path) -> None:
    table, y = frame()
    with pytest.raises(CapabilityError, match="contains them") as caught:
        clone(QUICK).fit(table, y).save(tmp_path / "model.safetensors", include_rows=False)
    assert "distill" in caught.value.hint and not list(tmp_path.iterdir())


def test_off_silences_the_network() -> None:
    table, y = frame()
    on, off = clone(QUICK).fit(table, y), TabularClassifier(prior="off", n_estimators=1, random_state=0).fit(table, y)
    assert not np.allclose(on.predict_proba(table), off.predict_proba(table), atol=1e-3)
    assert not off.network_.head.weight.any()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_estimators": 0}, "n_estimators"),
        ({"max_rows": 3}, "max_rows"),
        ({"weights": 3}, "weights"),
        ({"prior": foreknow.tasks.GPPrior() if hasattr(foreknow, "tasks") else None}, "prior"),
    ],
)
def test_bad_settings_are_refused(params: dict[str, object], message: str) -> None:
    table, y = frame()
    with pytest.raises(ConfigError, match=message):
        TabularClassifier(**params).fit(table, y)  # type: ignore[arg-type]


def test_bad_tables_are_refused() -> None:
    with pytest.raises(InputError, match="one class"):
        clone(QUICK).fit(np.ones((5, 2)) * np.arange(5)[:, None], ["a"] * 5)
    with pytest.raises(InputError, match=r"constant|no usable column"):
        clone(QUICK).fit(np.ones((6, 2)), [0, 1] * 3)


def test_the_placebo_is_the_same_network_with_heads_exchanged():
    X, y = load_iris(return_X_y=True)
    right, wrong = (TabularClassifier(prior=arm, random_state=0).fit(X[::3], y[::3]) for arm in ("paper", "wrong"))
    moved, placebo = [], wrong.network_.state_dict()
    for name, one in right.network_.state_dict().items():
        if not torch.equal(one, other := placebo[name]):
            moved.append(name)
            torch.testing.assert_close(one.sort(dim=1).values, other.sort(dim=1).values, rtol=0, atol=0)
    assert moved == ["encoder.weight"]
    assert wrong.prior_.off() == right.prior_.off()
