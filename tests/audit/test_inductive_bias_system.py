"""The system: its units, its classes, its control arm; its proof; MNIST-1D; the picture."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from foreknow.audit import RBF, Bits, BitsCurve, InductiveBias, KernelPrior
from foreknow.audit.inductive_bias import proof
from foreknow.common.errors import ConfigError, InputError
from foreknow.common.progress import Reporter
from foreknow.core.evidence import KEYS
from foreknow.data.mnist1d import mnist1d
from foreknow.tasks import GPPrior
from foreknow.viz import bits_curve, to_png


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 2))
    return X, np.sin(X[:, 0]) + X[:, 1] ** 2


def test_knowing_that_functions_are_smooth_saves_bits(data):
    X, y = data
    on = InductiveBias().fit(X[:30], y[:30])
    off = on.without_prior().fit(X[:30], y[:30])
    eps = 0.3 * float(y[30:].var())
    assert on.bits(X[30:], y[30:], eps).value < 20 < off.bits(X[30:], y[30:], eps).value
    assert off.predict(X[30:]) == pytest.approx(y[:30].mean())
    assert on.fitting_.train_loss == pytest.approx(0, abs=1e-6)


def test_the_loss_has_the_units_of_the_target(data):
    X, y = data
    one = InductiveBias().fit(X[:30], y[:30]).bits(X[30:], y[30:], 0.2)
    other = InductiveBias().fit(X[:30], 1e3 * y[:30] + 7).bits(X[30:], 1e3 * y[30:] + 7, 0.2e6)
    assert other.value == pytest.approx(one.value, rel=1e-6)
    assert one.rung == "saddlepoint"


def test_test_data_and_targets_that_cannot_be_used_are_refused(data):
    X, y = data
    model = InductiveBias().fit(X[:30], 100 * y[:30])
    with pytest.raises(InputError, match="eps=-1 is not above"):
        model.bits(X[30:], y[30:], -1)
    with pytest.raises(InputError, match="numbers"):
        model.bits(X[30:], ["a"] * 90, 0.1)
    with pytest.raises(InputError, match="y_test has 2"):
        model.bits(X[30:], y[:2], 0.1)
    with pytest.raises(InputError, match="features"):
        model.bits(X[30:, :1], y[30:], 0.1)


def test_class_probabilities_are_shares_of_hypotheses(data):
    X, y = data
    label = np.array(["low", "mid", "high"])[np.digitize(y, [0.0, 1.5])]
    model = InductiveBias(KernelPrior(2, RBF(0.3)), task="classification").fit(X[:60], label[:60])
    p = model.predict_proba(X[60:])
    mean, variance = model.fitting_.moments(X[60:])
    rng = np.random.default_rng(1)
    drawn = mean.numpy() + np.sqrt(variance.numpy())[:, None] * rng.normal(size=(20_000, 60, 3))
    assert p == pytest.approx(np.eye(3)[drawn.argmax(-1)].mean(0), abs=0.02)
    assert (model.predict(X[60:]) == label[60:]).mean() > 0.7
    off = model.without_prior().fit(X[:60], label[:60])
    assert off.predict_proba(X[60:]) == pytest.approx(1 / 3)
    law = model.law(X[60:], label[60:])
    assert model.bits(X[60:], label[60:], 0.5 * law.mean).value > 1
    with pytest.raises(InputError, match="first at row 1"):
        model.bits(X[60:62], ["low", "huge"], 0.1)


def test_curves_fall_and_are_drawn(data):
    X, y = data
    model = InductiveBias().fit(X[:30], y[:30])
    curve = model.curve(X[30:], y[30:])
    assert len(curve.eps) == 16
    assert (np.diff(curve.values) < 0).all()
    assert curve.bits[3] == model.bits(X[30:], y[30:], curve.eps[3])
    assert len(model.curve(X[30:], y[30:], [0.1, 0.2]).eps) == 2
    sampled = BitsCurve(
        (0.2, 0.1),
        (Bits(3.0, 2.5, 4.0, "counting"), Bits(6.0, 6.0, math.nan, "counting", sign=">=", extrapolated=True)),
    )
    figure = bits_curve({"kernel": curve, "sampled": sampled})
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines if not line.get_label().startswith("_")] == ["kernel", "sampled"]
    drawn = next(line for line in lines if line.get_label() == "sampled")
    assert drawn.get_xydata().tolist() == [[0.1, 6.0], [0.2, 3.0]]
    assert [line.get_marker() for line in lines if line.get_xydata().tolist() == [[0.1, 6.0]]] == ["^"]
    assert to_png(figure)
    with pytest.raises(InputError, match="no curve"):
        bits_curve({})


def test_only_its_own_priors_are_taken(data):
    X, y = data
    for prior in (GPPrior(), GPPrior().off()):
        with pytest.raises(ConfigError, match="KernelPrior"):
            InductiveBias(prior).fit(X, y)
    with pytest.raises(ConfigError, match="RBF"):
        KernelPrior(kernel="rbf")


# The proof -----------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_the_quick_proof_has_all_parts():
    seen = []
    evidence = InductiveBias.prove(preset="quick", seeds=1, progress=seen.append)
    assert set(KEYS) <= set(evidence.to_dict())
    assert {claim.name[0] for claim in evidence.claims} == {"T", "D", "X", "A"}
    assert {row["arm"] for row in evidence.arms if row["proof"] == "A" and "network" in row} == {"on", "wrong", "off"}
    held = {claim.name: claim.verdict for claim in evidence.claims if claim.name[0] in "DX"}
    assert held["D: saddlepoint against counting, largest difference"] == "held"
    assert held["X: bits in 8 dimensions minus bits in 1"] == "held"
    assert seen[-1].done == seen[-1].total


def test_the_table_of_a_known_law():
    """N = 200, weights 1/j: the exact bits at 0.9, 0.5, 0.3 and 0.1 of the expected loss."""
    law = proof.known_law()
    found = [law.bits(share * law.mean).value for share in proof.SHARES]
    assert found == pytest.approx([1.30, 11.63, 36.03, 137.0], abs=0.01)


def test_the_paper_preset_takes_a_step():
    sizes = replace(proof.SIZES["paper"], n_draws=2, n_steps=1, n_train=100)
    claims, records, _ = proof._architecture(sizes, Reporter(None, 100))
    assert len(claims) == 4
    assert [record["n_draws"] for record in records if "network" in record] == [2, 2, 2]


# MNIST-1D ------------------------------------------------------------------------------------------------------------


def test_mnist1d_is_made_the_same_each_time_and_leaves_the_process_alone(capsys):
    mnist1d.cache_clear()
    one = mnist1d(200, seed=3)
    assert mnist1d(200, seed=3) is one
    mnist1d.cache_clear()
    again = mnist1d(200, seed=3)
    assert again.x.shape == (160, 40) and again.x_test.shape == (40, 40)
    assert np.array_equal(one.x, again.x) and np.array_equal(one.y_test, again.y_test)
    assert not np.array_equal(one.x, mnist1d(200, seed=4).x)
    assert set(one.y) == set(range(10))
    assert not one.x.flags.writeable
    assert capsys.readouterr().out == ""
    with pytest.raises(ConfigError, match=">= 50"):
        mnist1d(3)
