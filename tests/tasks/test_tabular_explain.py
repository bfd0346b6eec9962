"""Shapley values against all subsets, importance against what a column was made for."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from foreknow import TabularClassifier, TabularRegressor
from foreknow.common.errors import ConfigError, InputError, NotFittedError
from foreknow.common.progress import Progress
from foreknow.common.rng import numpy_stream
from foreknow.tasks.tabular.base import TabularEstimator
from foreknow.tasks.tabular.explain import permutation_importance, shapley_values


def rows(n: int, d: int, name: str = "rows") -> NDArray[np.float64]:
    return numpy_stream(0, name).normal(size=(n, d))


def fitted(d: int, *, classes: int = 0) -> TabularEstimator:
    X = rows(60, d)
    y = X[:, 0] * X[:, -1] + X.sum(axis=1)
    if classes:
        return TabularClassifier(n_estimators=1, random_state=0).fit(X, np.digitize(y, [-1.0, 1.0][: classes - 1]))
    return TabularRegressor(n_estimators=1, random_state=0).fit(X, y)


def exact(model: TabularEstimator, X: NDArray[np.float64], background: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shapley values by their definition, over all subsets of the columns; shape (n, d, k)."""
    d = X.shape[1]

    def value(row: NDArray[np.float64], inside: tuple[int, ...]) -> NDArray[np.float64]:
        mixed = background.copy()
        mixed[:, inside] = row[list(inside)]
        found = model.predict_proba(mixed) if hasattr(model, "predict_proba") else model.predict(mixed)[:, None]
        return np.asarray(found.mean(axis=0))

    shares = []
    for row in X:
        game = {s: value(row, s) for size in range(d + 1) for s in combinations(range(d), size)}
        share = []
        for j in range(d):
            without = [s for s in game if j not in s]
            weight = [factorial(len(s)) * factorial(d - 1 - len(s)) / factorial(d) for s in without]
            share.append(sum(w * (game[tuple(sorted((*s, j)))] - game[s]) for s, w in zip(without, weight)))
        shares.append(np.stack(share))
    return np.stack(shares)


@pytest.mark.parametrize(("d", "classes"), [(1, 0), (2, 3)])
def test_up_to_two_columns_are_exact(d: int, classes: int) -> None:
    model, X, background = fitted(d, classes=classes), rows(3, d, "new"), rows(5, d, "background")
    found = shapley_values(model, X, background=background)
    expected = exact(model, X, background)
    assert np.allclose(found.values, expected if classes else expected[..., 0], atol=1e-10)
    assert np.allclose(found.standard_errors, 0, atol=1e-10)


def test_more_columns_agree_with_all_subsets_within_their_errors() -> None:
    model, X, background = fitted(4), rows(2, 4, "new"), rows(4, 4, "background")
    found = shapley_values(model, X, background=background, n_permutations=200)
    gap = found.values - exact(model, X, background)[..., 0]
    assert found.standard_errors.max() < 0.02 < np.abs(found.values).max()
    assert (np.abs(gap) < 4.5 * found.standard_errors + 1e-9).all()
    assert (np.abs(gap) > 0.2 * found.standard_errors).any()  # the errors are no larger than they need be


@pytest.mark.parametrize("classes", [0, 3])
def test_shares_add_up_whatever_the_orders_and_do_not_depend_on_the_rows_beside(classes: int) -> None:
    model, X = fitted(5, classes=classes), rows(4, 5, "new")
    told: list[Progress] = []
    found = model.explain(X, n_background=3, n_permutations=4, progress=told.append)
    prediction = model.predict_proba(X) if classes else model.predict(X)
    assert np.allclose(found.base + found.values.sum(axis=1), prediction, atol=1e-10)
    alone = model.explain(X[2:3], n_background=3, n_permutations=4)
    assert np.allclose(alone.values[0], found.values[2], atol=1e-9)
    assert found.classes == (tuple(range(3)) if classes else None)
    assert [step.done for step in told] == [1, 2, 3, 4]
    other = model.explain(X, n_background=3, n_permutations=4, random_state=1)
    assert not np.allclose(other.values, found.values)


def test_many_columns_are_worked_off_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, X = fitted(5), rows(1, 5, "new")
    whole = model.explain(X, n_background=3)
    monkeypatch.setattr("foreknow.tasks.tabular.explain._CELLS", 1)
    assert np.allclose(model.explain(X, n_background=3).values, whole.values, atol=1e-10)


def frame(n: int) -> tuple[pd.DataFrame, NDArray[np.object_]]:
    rng = numpy_stream(1, "frame")
    size = rng.normal(size=n)
    colour = np.array(["red", "green", None], dtype=object)[rng.integers(3, size=n)]
    table = pd.DataFrame({"same": 1.0, "noise": rng.normal(size=n), "colour": colour, "size": size})
    return table, np.where(size + 1.5 * (colour == "red") > 0.5, "yes", "no").astype(object)


def test_importance_finds_the_columns_that_matter_and_names_them_all() -> None:
    table, y = frame(160)
    model = TabularClassifier(n_estimators=1, random_state=0).fit(table[:100], y[:100])
    told: list[Progress] = []
    found = model.importance(table[100:], y[100:], progress=told.append)
    assert found.names == ("same", "noise", "colour", "size")
    assert found.raw.shape == (4, 5) and np.allclose(found.raw.mean(axis=1), found.mean)
    assert found.mean[0] == 0 and abs(found.mean[1]) < 0.1 < found.mean[2] < found.mean[3]
    assert "log-loss" in found.measure and len(told) == 3
    p = model.predict_proba(table[100:])[np.arange(60), (y[100:] == "yes").astype(int)]
    assert found.loss == pytest.approx(-np.log(p).mean())
    assert np.array_equal(model.importance(table[100:], y[100:]).raw, found.raw)
    shares = model.explain(table[100:102], n_background=4)
    assert shares.names == found.names and not shares.values[:, 0].any() and shares.values[:, 3].any()


def test_importance_of_a_number_is_the_increase_of_its_negative_log_likelihood() -> None:
    X = rows(120, 3)
    y = 3 * X[:, 1] + 0.3 * rows(120, 1, "noise")[:, 0]
    model = TabularRegressor(n_estimators=1, random_state=0).fit(X[:70], y[:70])
    found = permutation_importance(model, X[70:], y[70:], n_repeats=2)
    assert found.mean.argmax() == 1 and found.mean[1] > 1 > 10 * abs(found.mean[0])
    assert "negative log-likelihood" in found.measure


def test_what_cannot_be_explained_is_refused() -> None:
    model, X = fitted(2, classes=2), rows(6, 2)
    with pytest.raises(InputError, match="label 7"):
        model.importance(X, [0, 1, 0, 1, 0, 7])
    with pytest.raises(InputError, match="one label per row"):
        model.importance(X, [0, 1])
    with pytest.raises(InputError, match="one row"):
        model.importance(X[:1], [0])
    with pytest.raises(ConfigError, match="n_repeats"):
        model.importance(X, [0] * 6, n_repeats=0)
    for bad in (5, 2, 0):
        with pytest.raises(ConfigError, match="n_permutations"):
            model.explain(X, n_permutations=bad)
    with pytest.raises(ConfigError, match="n_background"):
        model.explain(X, n_background=0)
    with pytest.raises(InputError, match="2 features"):
        model.explain(X[:, :1])
    with pytest.raises(NotFittedError):
        TabularRegressor().explain(X)
