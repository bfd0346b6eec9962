"""Code lengths against hand counts, and that no block is coded with knowledge of itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from foreknow.audit import conditional_evidence_bits, prequential_bits
from foreknow.common.errors import ConfigError, InputError


def data(n=40):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 2))
    return X, np.where(X[:, 0] > 0, "b", "a")


def test_uniform_predictions_cost_one_bit_a_label_whatever_the_temperature():
    X, y = data()
    bits = prequential_bits(lambda X, y: lambda rows: np.full((len(rows), 2), 0.5), X, y, blocks=(8, 16, 32))
    assert bits.value == pytest.approx(32)
    assert (bits.low, bits.high) == pytest.approx((32, 32))
    assert len(bits.spread) == 5


def test_a_model_that_knows_saves_bits_and_orders_repeat():
    X, y = data()

    def fit(X, y):
        return LogisticRegression().fit(X, y)

    one, same, other = (prequential_bits(fit, X, y, blocks=(8, 16, 32), random_state=s) for s in (0, 0, 1))
    assert one == same
    assert one.value != other.value
    assert 8 < one.value < 28  # 32 without knowledge
    assert one.low < one.value < one.high


def test_each_block_is_coded_by_a_model_of_the_rows_before_it():
    X, y = np.arange(40.0)[:, None], np.arange(40) % 2
    seen = []

    def fit(rows, codes):
        seen.append(len(rows))

        def predict(new):
            assert not set(new.ravel()) & set(rows.ravel())
            return np.full((len(new), 2), 0.5)

        return predict

    prequential_bits(fit, X, y, blocks=(8, 16, 40), orders=2)
    assert seen == [8, 16, 8, 16]


def test_the_temperature_is_learnt_from_past_blocks_only():
    """An overconfident model that is right seven times in ten: only from the second coded block on it is cooled."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    X = np.where(rng.random(400) < 0.7, y, 1 - y)[:, None]

    def fit(X, y):
        return lambda rows: np.where(np.arange(2) == rows, 0.999, 0.001)

    first = prequential_bits(fit, X, y, blocks=(100, 200), orders=8, random_state=0).value - 100
    second = prequential_bits(fit, X, y, blocks=(100, 200, 300), orders=8, random_state=0).value - 100 - first
    assert first > 1.5 * 100  # about 0.3 * log2(1000) bits a label
    assert second < 1.05 * 100


def test_a_class_never_seen_costs_finitely_many_bits():
    X, y = np.zeros((12, 1)), np.array([0] * 11 + [1])

    class Majority:
        classes_ = np.array([0])

        def predict_proba(self, rows):
            return np.ones((len(rows), 1))

    bits = prequential_bits(lambda X, y: Majority(), X, y, blocks=(4, 12), orders=3)
    assert math.isfinite(bits.value)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"fit": lambda X, y: lambda rows: np.full((len(rows), 2), 3.0)}, InputError, "softmax"),
        ({"fit": lambda X, y: lambda rows: np.full((len(rows), 3), 1 / 3)}, InputError, "columns"),
        ({"fit": lambda X, y: lambda rows: np.ones(len(rows))}, InputError, "shape"),
        ({"blocks": (8, 64)}, InputError, "64 rows"),
        ({"blocks": (16, 8)}, ConfigError, "increasing"),
        ({"blocks": (8,)}, ConfigError, "two"),
        ({"y": np.zeros(40)}, InputError, "one class"),
        ({"orders": 0}, ConfigError, "orders"),
    ],
)
def test_what_is_no_code_is_refused(changes, error, words):
    X, y = data()
    settings = {"fit": lambda X, y: lambda rows: np.full((len(rows), 2), 0.5), "X": X, "y": y, "blocks": (8, 16)}
    with pytest.raises(error, match=words):
        prequential_bits(**{**settings, **changes})


def test_evidence_is_the_log_of_the_mean_in_bits():
    rng = np.random.default_rng(0)
    bits = conditional_evidence_bits(np.log([0.5, 0.25] * 50) - 2000.0, rng=rng)
    assert bits.value == pytest.approx((2000 - math.log(0.375)) / math.log(2))
    assert bits.low < bits.value < bits.high
    assert not bits.extrapolated
    lonely = conditional_evidence_bits(np.linspace(-500, 0, 50), rng=rng)
    assert lonely.extrapolated
    assert "carry the mean" in lonely.note
    with pytest.raises(InputError, match="draw 1"):
        conditional_evidence_bits([0.0, np.nan], rng=rng)
