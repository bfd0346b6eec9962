"""The layerwise network as a system: stages, splits, placebo, whitening, refinement, bad settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from foreknow.common.errors import ConfigError, ForeknowWarning
from foreknow.functions import HierarchicalPolynomial, LayerwiseThreeLayer
from foreknow.functions.hierarchical_polynomials.complexity import Slope
from foreknow.functions.hierarchical_polynomials.hermite import n_polynomials
from foreknow.functions.hierarchical_polynomials.proof import SIZES, _layerwise, _said_of, prove
from foreknow.functions.hierarchical_polynomials.whitening import Whitening


@pytest.fixture(scope="module")
def task():  # type: ignore[no-untyped-def]
    return HierarchicalPolynomial(6).task(0)


def loss(model: LayerwiseThreeLayer, task) -> float:  # type: ignore[no-untyped-def]
    X, y = task.sample(1000, part="test")
    return float(np.mean((model.predict(X) - y) ** 2) / task.variance)


def test_descent_finds_what_the_closed_form_finds(task) -> None:  # type: ignore[no-untyped-def]
    X, y = task.sample(200)
    settings = {
        "inner": "relu",
        "width_inner": 30,
        "width_outer": 20,
        "ridge": 0.02,
        "split": "half",
        "random_state": 0,
    }
    closed = LayerwiseThreeLayer(**settings).fit(X, y)
    descent = LayerwiseThreeLayer(**settings, solver="descent", n_steps=20_000).fit(X, y)
    np.testing.assert_allclose(descent.predict(X), closed.predict(X), atol=1e-5)


def test_the_feature_is_found_and_its_sign_rises_with_the_target(task) -> None:  # type: ignore[no-untyped-def]
    model = LayerwiseThreeLayer(inner="hermite", random_state=0, n_refine=4).fit(*task.sample(1000))
    X, _ = task.sample(500, part="test")
    assert np.corrcoef(model.feature_(X), task.feature(X))[0, 1] > 0.95  # not only its absolute value
    assert model.feature_(X).std() == pytest.approx(1, abs=0.2)
    np.testing.assert_allclose(model.link_(model.feature_(X)), model.predict(X), atol=1e-9)


def test_the_arms_differ_as_said(task) -> None:  # type: ignore[no-untyped-def]
    X, y = task.sample(1200)
    on = LayerwiseThreeLayer(inner="hermite", random_state=0).fit(X, y)
    off, wrong = on.without_prior().fit(X, y), on.with_wrong_prior().fit(X, y)
    assert not off.network_.outer.any()
    assert on.network_.outer.any()
    assert loss(on, task) < loss(off, task)
    assert loss(wrong, task) > 1.3 * loss(on, task)
    test, _ = task.sample(500, part="test")
    assert abs(np.corrcoef(wrong.feature_(test), task.feature(test))[0, 1]) < 0.5


def test_refinement_needs_fewer_rows_and_says_how_wrong_it_is(task) -> None:  # type: ignore[no-untyped-def]
    X, y = task.sample(500)
    plain, refined = (LayerwiseThreeLayer(inner="hermite", n_refine=n, random_state=0).fit(X, y) for n in (0, 4))
    assert loss(refined, task) < 0.6 * loss(plain, task)
    test, truth = task.sample(1000, part="test")
    low, high = (bound.numpy() for bound in refined.predict_dist(test).interval(0.9))
    assert np.mean((truth >= low) & (truth <= high)) > 0.8


def test_refinement_stops_where_rows_held_out_do_not_gain() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 6)), rng.standard_normal(60)
    assert LayerwiseThreeLayer(n_refine=5, random_state=0).fit(X, y).refinements_ <= 5


def test_an_even_link_fails() -> None:
    task = HierarchicalPolynomial(8, link="2").task(0)
    model = LayerwiseThreeLayer(inner="hermite", random_state=0, split="half").fit(*task.sample(1000))
    assert task.prior.slope == 0
    assert loss(model, task) > 0.6


def test_using_the_same_rows_twice_overfits(task) -> None:  # type: ignore[no-untyped-def]
    X, y = task.sample(80)
    said = {}
    for split in ("none", "crossfit"):
        model = LayerwiseThreeLayer(inner="hermite", split=split, ridge=1e-6, random_state=0).fit(X, y)
        said[split] = model.sd_**2 / loss(model, task)
    assert said["none"] < 0.5 * said["crossfit"]  # it takes itself for much better than it is


def test_halves_do_not_depend_on_the_order_of_rows(task) -> None:  # type: ignore[no-untyped-def]
    X, y = task.sample(100)
    turn = np.random.default_rng(0).permutation(100)
    one, other = (LayerwiseThreeLayer(split="half", random_state=0).fit(X[i], y[i]) for i in (np.arange(100), turn))
    np.testing.assert_allclose(one.predict(X), other.predict(X), atol=1e-8)


# Whitening ----------------------------------------------------------------------------------------------------------


def test_white_rows_are_left_alone_and_others_whitened() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 4))
    assert not Whitening.of(X, "auto").changed
    mixed = X @ rng.standard_normal((4, 4)) * 7 + 3
    white = Whitening.of(mixed, "auto")
    assert white.changed
    np.testing.assert_allclose(np.cov(white(mixed), rowvar=False), np.eye(4), atol=0.1)
    assert not Whitening.of(mixed, "never").changed


def test_directions_without_variance_are_left_out() -> None:
    X = np.random.default_rng(0).standard_normal((50, 2))
    wide = np.column_stack([X, X[:, 0], np.full(50, 3.0)])
    assert Whitening.of(wide, "always")(wide).shape[1] <= 3
    assert np.isfinite(Whitening.of(np.ones((5, 2)), "always")(np.ones((5, 2)))).all()


def test_rows_far_from_normal_meet_a_warning() -> None:
    X = np.random.default_rng(0).exponential(size=(200, 2)) ** 2
    with pytest.warns(ForeknowWarning, match="skewness"):
        LayerwiseThreeLayer(random_state=0, width_outer=10).fit(X, X[:, 0])


def test_predictions_do_not_depend_on_units(task) -> None:  # type: ignore[no-untyped-def]
    X, y = task.sample(300)
    one = LayerwiseThreeLayer(whiten="always", random_state=0).fit(X, y).predict(X[:5])
    other = LayerwiseThreeLayer(whiten="always", random_state=0).fit(X * 100 - 7, 10 * y + 1).predict(X[:5] * 100 - 7)
    np.testing.assert_allclose(other, 10 * one + 1, rtol=1e-4, atol=1e-3)


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"inner": "softplus", "kernel": True}, "no closed form"),
        ({"solver": "descent", "kernel": True}, "descent"),
        ({"solver": "descent"}, "crossfit"),
        ({"n_refine": 2, "kernel": True}, "n_refine"),
        ({"ridge": 0.0}, "ridge"),
        ({"width_inner": 0}, "width_inner"),
        ({"split": "thirds"}, "split"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LayerwiseThreeLayer(**settings).fit(np.eye(3), np.arange(3.0))


def test_another_prior_is_refused() -> None:
    from foreknow.audit import KernelPrior

    with pytest.raises(ConfigError, match="HierarchicalPolynomial"):
        LayerwiseThreeLayer(KernelPrior()).fit(np.eye(3), np.arange(3.0))


# Command line and proof ---------------------------------------------------------------------------------------------


def test_fit_and_apply_on_files(tmp_path: Path, task) -> None:  # type: ignore[no-untyped-def]
    from typer.testing import CliRunner

    from foreknow.cli.main import app

    X, y = task.sample(80)
    file = tmp_path / "rows.csv"
    lines = [",".join(map(repr, [*row.tolist(), float(t)])) for row, t in zip(X, y, strict=True)]
    file.write_text("\n".join(["a,b,c,d,e,f,y", *lines]) + "\n", encoding="utf-8")
    saved, out = tmp_path / "model.safetensors", tmp_path / "predictions.csv"
    words = ["fit", "hierarchical-polynomials", str(file), "--with", "target=y", "-o", str(saved)]
    result = CliRunner().invoke(app, [*words, "--pictures", str(tmp_path / "pictures")])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["apply", str(saved), str(file), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert len(out.read_text(encoding="utf-8").splitlines()) == 81
    assert list((tmp_path / "pictures").iterdir())


def test_the_proof_runs_in_small() -> None:
    evidence = prove(preset="quick", seeds=2)
    assert {record["proof"] for record in evidence.arms} == {"F", "L", "N"}
    names = [claim.name for claim in evidence.claims]
    assert sum("over that of three layers trained jointly" in name for name in names) == 4
    assert sum("over that of tuned kernels" in name for name in names) == 4
    arms = {record["arm"] for record in evidence.arms}
    assert "layerwise, default settings" in arms


def test_the_paper_preset_takes_a_step() -> None:
    """Its widths: k = 3 in 32 dimensions, neurons for all polynomials; one fit of a few rows."""
    d, k = SIZES["paper"].dims[-1], SIZES["paper"].k
    X, y = HierarchicalPolynomial(d, k).task(0).sample(40)
    for make in _layerwise(d, k, refined=False).values():
        model = make().set_params(random_state=0).fit(X, y)
        assert len(model.network_.feature.weights) >= 2 * n_polynomials(d, k) > 4000
        assert torch.isfinite(model.network_(torch.as_tensor(X))).all()


def test_fewer_neurons_than_polynomials_meet_a_warning() -> None:
    X, y = HierarchicalPolynomial(32, 3).task(0).sample(40)
    model = LayerwiseThreeLayer(HierarchicalPolynomial(32, 3), inner="hermite", whiten="never", random_state=0)
    with pytest.warns(ForeknowWarning, match="5984 polynomials"):
        model.fit(X, y)
    assert len(model.network_.feature.weights) == 4000


def test_the_proof_keeps_the_widths_of_auto_in_small() -> None:
    X, y = HierarchicalPolynomial(8).task(0).sample(60)
    for make in _layerwise(8, 2, refined=True).values():
        named = make().set_params(random_state=0)
        auto = make().set_params(random_state=0, width_inner="auto")
        np.testing.assert_array_equal(named.fit(X, y).predict(X), auto.fit(X, y).predict(X))


def test_slopes_that_exclude_the_law_say_so() -> None:
    assert "more slowly" in _said_of(Slope(1.5, 1.2, 1.8, 5), 2)
    assert "faster" in _said_of(Slope(2.6, 2.2, 2.9, 5), 2)
    assert not _said_of(Slope(1.9, 1.7, 2.1, 5), 2)
    assert "Fewer" in _said_of(Slope(np.nan, np.nan, np.nan, 1), 2)
