import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from foreknow.common.errors import ConfigError, InputError
from foreknow.core.ranking import evaluate, ndcg_at, recall_at, reciprocal_rank_at


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_ndcg_agrees_with_scikit_learn(grades: list[int], k: int) -> None:
    names = [f"d{i}" for i in range(len(grades))]
    mine = ndcg_at(k, names, dict(zip(names, grades, strict=True)))
    scores = -np.arange(len(grades))[None]
    assert mine == pytest.approx(ndcg_score([grades], scores, k=k) if any(grades) else 0.0, abs=1e-12)


def test_values_by_hand() -> None:
    grades = {"a": 1.0, "b": 0.0, "c": 2.0, "d": -1.0}
    assert recall_at(2, ["b", "c", "a"], grades) == 0.5
    assert recall_at(10, ["x", "d"], grades) == 0
    assert reciprocal_rank_at(10, ["d", "b", "a"], grades) == pytest.approx(1 / 3)
    assert reciprocal_rank_at(2, ["d", "b", "a"], grades) == 0
    best = 2 + 1 / np.log2(3)
    assert ndcg_at(10, ["a", "c"], grades) == pytest.approx((1 + 2 / np.log2(3)) / best)
    assert ndcg_at(10, ["c", "a"], grades) == pytest.approx(1)


def test_evaluate_leaves_out_queries_without_answer_and_counts_unanswered_as_0() -> None:
    found = evaluate({"q": ["a"]}, {"q": {"a": 1}, "none": {"a": 0}, "unanswered": {"b": 1}}, ["RR@10", "R@1"])
    assert found["RR@10"].tolist() == [1, 0]
    assert found["R@1"].tolist() == [1, 0]


def test_evaluate_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ConfigError, match="unknown measure 'MAP'"):
        evaluate({}, {"q": {"a": 1}}, ["MAP"])
    with pytest.raises(InputError, match="no query has a relevant"):
        evaluate({}, {"q": {"a": 0}})
    with pytest.raises(InputError, match="names a document twice"):
        evaluate({"q": ["a", "a"]}, {"q": {"a": 1}})
