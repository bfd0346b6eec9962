"""The loop of bnn-bo: spaces, asking and telling, failed trials, signs, several objectives, comparisons, problems."""

from __future__ import annotations

import math
import warnings
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
def test_the_first_points_are_a_sobol_sequence_whatever_the_batch() -> None:
    opt = BayesOpt(LINE, "ibnn", batch=4, n_init=6, seed=0)
    sequence = BayesOpt(LINE, "sobol", batch=8, seed=0).ask()
    points = []
    for _ in range(2):
        asked = opt.ask()
        opt.tell(asked, [square(x) for x in asked])
        points += [*asked]
    np.testing.assert_array_equal(points[:6], sequence[:6])
    assert not np.isclose(points[6:], sequence[6:]).any()
    assert len(opt.fits_) == 1
    assert len(opt._pending) == 0


@needs_botorch
@pytest.mark.parametrize("how", ["raises", "nan"])
def test_trials_that_fail_at_first_do_not_decide_the_number_of_objectives(how: str) -> None:
    calls: list[Any] = []

    def f(x: Any) -> Any:
        calls.append(x)
        if len(calls) <= 3:
            if how == "raises":
                raise RuntimeError("not yet")
            return math.nan
        return [float(x[0] ** 2), float((x[0] - 1) ** 2)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ForeknowWarning)
        found = minimize(f, LINE, "ibnn", n_trials=8, batch=2, n_init=4, catch=(RuntimeError,), seed=0)
    points, values = found.trials_
    assert values.shape == (8, 2)
    assert np.isnan(values[:3]).all()
    assert np.isfinite(values[3:]).all()
    np.testing.assert_array_equal(points, calls)
    assert len(np.unique(points)) == 8
    assert len(found._pending) == 0
    with pytest.raises(InputError, match="first trial that worked"):
        minimize(lambda x: [1.0] * (1 + (x[0] > 0)), LINE, "sobol", n_trials=8)
    with pytest.raises(ConfigError):
        minimize(lambda x: pytest.fail("evaluated"), LINE, acquisition="best")


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
    curves = {"failed first": np.array([[math.nan, 4.0, 0.0]]), "always": np.full((1, 3), math.nan)}
    found = Comparison(curves, {"failed first": 0.0, "always": 0.0}, minimize=True)
    assert found.trials_to() == {"failed first": 3.0, "always": math.inf}
    assert Comparison({"always": curves["always"]}, {"always": 0.0}, minimize=True).trials_to() == {"always": math.inf}


@needs_botorch
def test_several_objectives_are_compared_by_hypervolume() -> None:
    def f(x: Any) -> list[float]:
        return [float(x[0] ** 2), float((x[0] - 1) ** 2)]

    found = compare_surrogates(
        f, LINE, ["ibnn", "sobol"], trials=2, n_trials=10, n_init=6, batch=2, reference=[4.0, 4.0]
    )
    for curve in found.curves.values():
        assert curve.shape == (2, 10)
        assert (np.diff(curve) >= 0).all()
    np.testing.assert_array_equal(found.curves["ibnn"][:, :6], found.curves["sobol"][:, :6])
    assert not found.minimize
    assert found.table()[0][1] == "hypervolume"
    assert set(found.picture().bands) == {"ibnn", "sobol"}
    opt = BayesOpt(LINE, "sobol", n_objectives=2, reference=[4.0, 4.0])
    opt.tell([[1.5], [0.0], [1.0]], [[math.nan, 1.0], [0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(opt.curve(), [0.0, 4 * 3, 4 * 3 + 3 * 1])
    with pytest.raises(InputError, match="reference"):
        compare_surrogates(f, LINE, ["sobol"], trials=1, n_trials=3)
    with pytest.raises(ConfigError, match="reference"):
        compare_surrogates(f, LINE, ["sobol"], reference=[4.0])


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


def test_the_oil_sorbent_is_the_published_regression() -> None:
    problem = problems.oil_sorbent()
    top = {name: getattr(p, "high", 1) for name, p in zip(problem.space.names, problem.space.parameters, strict=True)}
    ends = problem({**top, "V1": 0.0, "V5": 0.0})  # the rest is 1, so that coefficients add up
    wca = -197.0928 + 98.6355 + 300.0701 + 89.8360 + 332.9341 + 135.6621 - 46.1790 + 19.2888 - 19.1245 + 53.6297
    wca += -73.0649 - 219.1268 - 55.3704 - 6.9252 - 105.1650 - 82.3222 - 45.6507 - 91.4134
    assert ends[0] == pytest.approx(-wca)
    half = problem({**top, "V1": 0.5, "V5": 0.0})
    of_v1 = -78.3309 - 11.0715 + 201.8934 + 17.1270 - 109.3922 + 30.1607
    assert half[0] == pytest.approx(-(wca + 0.5 * of_v1 - 0.25 * 16.7536))
    assert problem(problem.space.points(problem.space.draw(1, seed=0))[0]).shape == (3,)
    assert problem.reference is not None


def test_pest_control_weighs_price_against_harm() -> None:
    problem = problems.pest_control(4, seed=1)
    stages = problem.space.names
    nothing = problem(dict.fromkeys(stages, 0))
    assert 0 < nothing <= 4  # pests only grow, and nothing is paid
    # the fourth has no discount, and three stages of it leave fewer fields with pests than none at all
    some = problem({**dict.fromkeys(stages, 4), stages[-1]: 0})
    assert 1.5 <= some < 1.5 + nothing
    first = problem({**dict.fromkeys(stages, 0), stages[-1]: 1})
    assert first == pytest.approx(nothing + 1.0 - 0.2 / 4)  # what is used last no longer shows
    assert problem(dict.fromkeys(stages, 0)) == nothing
    assert problem.space.n_columns == 20


def test_a_real_model_is_tuned() -> None:
    problem = problems.support_vectors(60)
    codes, y = problems.sobol_points(problem, 4, seed=0)
    assert codes.shape == (4, 5)
    assert (y < 0).all()
    assert problems.as_tensors(problem, codes, y)[0].shape == (4, 7)
