"""The loop of bnn-bo: spaces, asking and telling, failed trials, signs, several objectives, comparisons, problems."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreknow.common.deps import available
from foreknow.common.errors import ConfigError, ForeknowWarning, InputError, NotFittedError
from foreknow.functions import BayesOpt, Choice, Integer, Real, Space, compare_surrogates, minimize
from foreknow.functions.bnn_bo import problems
from foreknow.functions.bnn_bo.compare import Comparison
from foreknow.functions.bnn_bo.optimiser import best_so_far

needs_botorch = pytest.mark.skipif(not available("botorch"), reason="botorch is not installed")
MIXED = {"lr": Real(1e-4, 1e-1, log=True), "depth": Integer(1, 5), "kind": Choice(("a", "b", "c"))}
LINE = [(-2.0, 2.0)]


# Spaces -----------------------------------------------------------------------------------------------------------


def test_points_codes_and_the_cube_agree() -> None:
    space = Space.of(MIXED)
    assert (space.n_columns, space.n_points) == (5, math.inf)
    codes = space.draw(20, seed=1)
    points = space.points(codes)
    assert (space.codes(points) == codes).all()
    assert np.allclose(space.decode(space.encode(codes)), codes)
    assert all(1e-4 <= p["lr"] <= 1e-1 and p["depth"] in range(1, 6) and p["kind"] in "abc" for p in points)
    assert {p["depth"] for p in space.points(space.draw(64, seed=0))} == {1, 2, 3, 4, 5}
    assert (space.draw(3, seed=1, skip=4) == space.draw(7, seed=1)[4:]).all()
    assert Space.of({"k": Integer(1, 3), "c": [True, False]}).n_points == 6


@settings(max_examples=40, deadline=None)
@given(st.integers(-50, 50), st.integers(1, 40), st.floats(0, 1))
def test_whole_numbers_round_to_themselves(low: int, width: int, u: float) -> None:
    space = Space.of({"k": Integer(low, low + width)})
    (code,) = space.decode(torch.tensor([[u]], dtype=torch.float64))[0]
    assert low <= code <= low + width
    assert space.decode(space.encode(np.array([[code]])))[0, 0] == code


def test_a_space_in_one_line() -> None:
    space = Space.parse("lr=1e-4..1e-1 log, depth=1..5 int, kind=a|b|c, on=true|false")
    want = Space.of({**MIXED, "on": Choice((True, False))})
    assert space == want
    for text in ("lr", "lr=1", "lr=1..a", "lr=1..2 log2", "=1..2", "lr=2..1"):
        with pytest.raises(ConfigError):
            Space.parse(text)


def test_bad_spaces_and_points() -> None:
    for bad in ([1, 2], [[2, 1]], {}, {"a": 3}, {"a": (1,)}, "text", [[0, 1, 2]], {"a": ["x"]}):
        with pytest.raises(ConfigError):
            Space.of(bad)
    for make in (lambda: Real(0, 1, log=True), lambda: Integer(1.5, 3), lambda: Choice(("a", "a"))):
        with pytest.raises(ConfigError):
            make()
    space = Space.of(MIXED)
    good = {"lr": 1e-3, "depth": 2, "kind": "a"}
    for bad_point in ({**good, "lr": 1.0}, {**good, "kind": "d"}, {**good, "depth": 2.5}, {"lr": 1e-3}, 3, [1, 2, 3]):
        with pytest.raises(InputError):
            space.codes(bad_point)
    with pytest.raises(InputError):
        Space.of(LINE).codes([[3.0]])


# Asking and telling -----------------------------------------------------------------------------------------------


def square(x: Any) -> float:
    return float((np.asarray(x)[0] - 0.5) ** 2)


@needs_botorch
@pytest.mark.parametrize("surrogate", ["ibnn", "gp", "ensemble", "map"])
def test_it_finds_the_bottom_of_a_parabola(surrogate: str) -> None:
    found = minimize(square, LINE, surrogate, n_trials=12, n_init=4, batch=2, preset="quick", seed=0)
    first = best_so_far(found.trials_[1][:4], True)[-1]
    assert found.best_.value <= first
    if surrogate in ("ibnn", "gp"):
        assert found.best_.value < 1e-2


@needs_botorch
def test_seeds_decide_everything() -> None:
    runs = [
        minimize(square, LINE, "hmc", n_trials=8, n_init=4, batch=2, preset="quick", seed=s).trials_[1]
        for s in (0, 0, 1)
    ]
    assert (runs[0] == runs[1]).all()
    assert not (runs[0] == runs[2]).all()


@needs_botorch
def test_the_sign_is_the_callers() -> None:
    points = {}
    for smaller, sign in ((True, 1.0), (False, -1.0)):
        opt = BayesOpt(LINE, "ibnn", n_init=4, minimize=smaller, seed=0)
        for _ in range(7):
            x = opt.ask()
            opt.tell(x, [sign * square(x[0])])
        points[smaller] = opt.trials_[0]
        assert opt.best_.value == pytest.approx(sign * min(square(p) for p in points[smaller]))
        assert (np.diff(sign * opt.curve()) <= 0).all()
    assert (points[True] == points[False]).all()


@needs_botorch
@pytest.mark.parametrize("failed", ["worst", "drop"])
def test_failed_trials(failed: str) -> None:
    opt = BayesOpt(LINE, "ibnn", n_init=4, failed=failed, seed=0)
    assert len(opt.ask(4)) == 4
    opt.forget()
    opt.tell([[-1.5], [-0.5], [0.7], [1.5]], [4.0, math.nan, 0.04, 1.0])
    x, y = opt._data()
    assert len(x) == (4 if failed == "worst" else 3)
    assert float(y.min()) == -4.0
    assert opt.best_.value == 0.04
    assert opt.best_.trial == 2
    assert np.isfinite(opt.ask()).all()
    bad = BayesOpt(LINE, "ibnn", n_init=2, seed=0).tell([[0.0], [1.0], [0.3]], [math.nan] * 3)
    assert len(bad.ask()) == 1  # nothing has worked: go on with the Sobol sequence
    with pytest.raises(NotFittedError):
        _ = bad.best_


@needs_botorch
def test_points_under_way_are_not_proposed_again() -> None:
    opt = BayesOpt(LINE, "ibnn", n_init=3, seed=0)
    opt.tell([[-1.0], [0.0], [1.0]], [1.0, 0.2, 0.8])
    first, second = opt.ask(2), opt.ask(2)
    assert len(opt._pending) == 4
    assert len(np.unique(np.concatenate([first, second]).round(5))) == 4
    opt.tell(first, [0.3, 0.4])
    assert len(opt._pending) == 2


@needs_botorch
def test_mixed_spaces_and_caught_errors() -> None:
    def f(point: dict[str, Any]) -> float:
        if point["kind"] == "c":
            raise RuntimeError("no c today")
        return point["depth"] + abs(math.log10(point["lr"]) + 2) + (point["kind"] == "b")

    with pytest.warns(ForeknowWarning, match="no c today"):
        found = minimize(f, MIXED, "ibnn", n_trials=12, batch=2, n_init=8, catch=(RuntimeError,), seed=1)
    assert found.best_.point["kind"] in "ab"
    assert isinstance(found.best_.point["depth"], int)
    assert found.best_.value < 3.5
    with pytest.raises(RuntimeError):
        minimize(f, MIXED, "sobol", n_trials=20, seed=1)


@needs_botorch
def test_two_objectives() -> None:
    def f(x: Any) -> list[float]:
        return [float(x[0] ** 2), float((x[0] - 1) ** 2)]

    found = minimize(f, LINE, "ibnn", n_trials=12, batch=2, n_init=6, seed=0)
    points, values = found.pareto_
    assert found.n_objectives == 2
    assert len(values) >= 2
    for one in values:
        assert not ((values <= one).all(1) & (values < one).any(1)).any()
    assert found.hypervolume() > 0
    assert np.isfinite(points).all()
    fixed = BayesOpt(LINE, "ibnn", n_objectives=2, reference=[4.0, 4.0], n_init=2)
    fixed.tell([[0.0], [1.0]], [[0.0, 1.0], [1.0, 0.0]])
    assert fixed.hypervolume() == pytest.approx(4 * 3 + 3 * 1)
    with pytest.raises(ConfigError):
        _ = fixed.best_
    for name in ("laplace", "gp"):
        again = BayesOpt(LINE, name, n_objectives=2, n_init=2, preset="quick").tell(*(np.asarray(v) for v in f_of(f)))
        assert len(again.ask(2)) == 2


def f_of(f: Any) -> tuple[list[list[float]], list[list[float]]]:
    x = [[-1.0], [0.2], [0.8], [1.9]]
    return x, [f(point) for point in x]


def test_searches_without_a_surrogate_need_no_extra() -> None:
    for name in ("sobol", "random"):
        found = minimize(square, LINE, name, n_trials=16, seed=0)
        assert found.best_.value < 0.5
        assert len(np.unique(found.trials_[0])) == 16
        with pytest.raises(ConfigError):
            found.model()
    assert found.picture().lines.keys() == {"best so far", "trial"}
    assert found.picture(optimum=0.0).log_y


def test_bad_settings_and_values() -> None:
    for bad in (
        {"surrogate": "gpp"}, {"acquisition": "qehvi"}, {"batch": 0}, {"failed": "keep"}, {"n_init": 0}, {"seed": -1},
        {"minimize": 1}, {"search": 3}, {"n_objectives": 2, "acquisition": "qei"}, {"reference": [1.0, 2.0]},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            BayesOpt(LINE, **bad)
    opt = BayesOpt(LINE, "sobol")
    for points, y in (([[0.0]], [1.0, 2.0]), ([[0.0]], [math.inf]), ([[0.0]], ["a"]), ([[5.0]], [1.0])):
        with pytest.raises(InputError):
            opt.tell(points, y)
    with pytest.raises(InputError):
        minimize(lambda x: [[1.0]], LINE, "sobol", n_trials=2)


# Comparisons and problems -----------------------------------------------------------------------------------------


@needs_botorch
def test_comparisons_share_first_points_and_rank() -> None:
    found = compare_surrogates(square, LINE, ["ibnn", "sobol"], trials=2, n_trials=8, n_init=4, batch=2, optimum=0.0)
    assert np.allclose(found.curves["ibnn"][:, :4], found.curves["sobol"][:, :4])
    assert found.ranking()[0] == "ibnn"
    assert found.table()[1][0][0] == "ibnn"
    assert set(found.picture().bands) == {"ibnn", "sobol"}
    assert len(found.fits["ibnn"]) == 4
    with pytest.raises(ConfigError):
        compare_surrogates(square, LINE, "gp")


def test_trials_to_reach_most_of_the_way() -> None:
    curves = {"a": np.array([[4.0, 1.0, 0.0]]), "b": np.array([[4.0, 3.0, 2.0]])}
    found = Comparison(curves, {"a": 0.0, "b": 0.0}, minimize=True)
    assert found.trials_to(0.75) == {"a": 2.0, "b": math.inf}


@needs_botorch
def test_textbook_functions_have_their_known_optimum() -> None:
    branin = problems.textbook("branin")
    assert branin(np.array([math.pi, 2.275])) == pytest.approx(branin.optimum, abs=1e-4)
    assert problems.textbook("hartmann6").optimum == pytest.approx(-3.32237, abs=1e-4)
    assert problems.textbook("ackley", 5)(np.zeros(5)) == pytest.approx(0.0, abs=1e-6)
    for name in ("branin-currin", "dtlz1", "dtlz5"):
        several = problems.textbook(name)
        assert several(several.space.draw(1, seed=0)[0]).shape == (2,)
    with pytest.raises(ConfigError):
        problems.textbook("rosen")


def test_drawn_problems() -> None:
    one, two = problems.network_draw(20, seed=1), problems.network_draw(20, seed=2)
    x = one.space.draw(5, seed=0)
    values = [one(p) for p in x]
    assert values == [problems.network_draw(20, seed=1)(p) for p in x]
    assert values != [two(p) for p in x]
    assert np.std(values) > 1
    poly = problems.polynomial_draw(3, degree=2, n_terms=5, seed=0)
    assert poly(np.zeros(3)) == 0.0
    assert poly(np.ones(3)) != 0.0


def test_a_real_model_is_tuned() -> None:
    problem = problems.support_vectors(60)
    codes, y = problems.sobol_points(problem, 4, seed=0)
    assert codes.shape == (4, 5)
    assert (y < 0).all()
    assert problems.as_tensors(problem, codes, y)[0].shape == (4, 7)
