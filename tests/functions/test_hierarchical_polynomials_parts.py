"""Hermite algebra, the prior's targets, ridge regression against plain versions, and sample complexity."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from numpy.polynomial import hermite_e

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.functions.hierarchical_polynomials.arms import AdamNetwork, Oracle, TunedKernelRidge
from foreknow.functions.hierarchical_polynomials.complexity import crossing, sample_complexity, slope_of
from foreknow.functions.hierarchical_polynomials.hermite import (
    combine,
    degree_kernel,
    hermite,
    n_polynomials,
    read_link,
)
from foreknow.functions.hierarchical_polynomials.network import KernelFeature, NeuronFeature, ThreeLayerNetwork, kernel
from foreknow.functions.hierarchical_polynomials.prior import HierarchicalPolynomial
from foreknow.functions.hierarchical_polynomials.proof import best_fit
from foreknow.functions.hierarchical_polynomials.ridge import descend, ridge

NODES, WEIGHTS = hermite_e.hermegauss(40)
WEIGHTS = torch.as_tensor(WEIGHTS / WEIGHTS.sum())


def test_hermite_polynomials_are_orthonormal_and_those_of_numpy() -> None:
    values = torch.stack(hermite(torch.as_tensor(NODES), 6))
    torch.testing.assert_close((values * WEIGHTS) @ values.T, torch.eye(7, dtype=torch.float64))
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    plain = hermite_e.hermeval(z.numpy(), [0, 0, 0, 0, 1 / math.sqrt(24)])
    np.testing.assert_allclose(hermite(z, 4)[4].numpy(), plain, atol=1e-12)


def test_links_have_unit_variance_and_their_first_coefficient_is_the_mean_slope() -> None:
    for link in ("1,2,3", "2", (0.5, 1.0, -3.0)):
        c = read_link(link)
        z = torch.as_tensor(NODES).requires_grad_(True)
        y = combine(z, c)
        slope = torch.autograd.grad(y.sum(), z)[0]
        assert float((WEIGHTS * slope).sum()) == pytest.approx(c[1], abs=1e-9)
        y = y.detach()
        spread = float((WEIGHTS * y**2).sum() - (WEIGHTS * y).sum() ** 2)
        assert spread == pytest.approx(1.0)


@pytest.mark.parametrize("link", ["", "0", "a,b", "1,,2", (1.0,), (0.0, 0.0), 3, (float("nan"), 1.0)])
def test_links_that_are_none(link: object) -> None:
    with pytest.raises(ConfigError, match="link"):
        HierarchicalPolynomial(link=link)  # type: ignore[arg-type]


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_kernel_of_one_degree_against_the_sum_over_its_polynomials(degree: int) -> None:
    d = 3
    x, z = (torch.randn(5, d, generator=torch_stream(seed, "x"), dtype=torch.float64) for seed in (0, 1))
    plain = torch.zeros(5, 5, dtype=torch.float64)
    for chosen in combinations_with_replacement(range(d), degree):
        powers = [chosen.count(i) for i in range(d)]
        one, two = (math.prod(hermite(rows[:, i], p)[p] for i, p in enumerate(powers)) for rows in (x, z))
        one = one if degree else torch.ones(5, dtype=torch.float64)
        two = two if degree else torch.ones(5, dtype=torch.float64)
        plain += one[:, None] * two[None]
    squares = [rows.square().sum(1) for rows in (x, z)]
    found = degree_kernel(x @ z.T, squares[0][:, None], squares[1][None], d, degree)[degree]
    torch.testing.assert_close(found, plain)
    assert n_polynomials(d, degree) == len(list(combinations_with_replacement(range(d), degree)))


@pytest.mark.parametrize("inner", ["relu", "polynomial"])
def test_many_neurons_have_the_kernel_of_infinitely_many(inner: str) -> None:
    """ReLU: directions of the sphere against a normal law, which differ by their length only."""
    x = torch.randn(6, 8, generator=torch_stream(0, "rows"), dtype=torch.float64)
    feature = NeuronFeature(8, 60_000, inner, 2, torch_stream(1, "neurons"))
    basis = feature.basis(x)
    found, exact = basis @ basis.T, kernel(x, x, inner, 2)
    if inner == "relu":
        torch.testing.assert_close(found, 0.5 * exact, rtol=0.1, atol=0.1)
    else:  # the same span of functions, weighted a little differently
        assert float(torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1]) > 0.9


def test_the_feature_has_unit_variance_and_degree_exactly_k() -> None:
    for prior in (
        HierarchicalPolynomial(8),
        HierarchicalPolynomial(9, 3),
        HierarchicalPolynomial(8, kind="directions"),
    ):
        task = prior.task(3)
        X, _ = task.sample(60_000)
        p = task.feature(X)
        assert p.mean() == pytest.approx(0, abs=0.05)
        assert p.var() == pytest.approx(1, abs=0.1)
        lower = np.abs(X.T @ p / len(p)).max()
        assert lower < 0.05  # nothing of degree one in it


def test_more_rows_begin_with_the_fewer_and_parts_differ() -> None:
    task = HierarchicalPolynomial(5).task(0)
    few, many, test = task.sample(4), task.sample(9), task.sample(4, part="test")
    np.testing.assert_array_equal(few[0], many[0][:4])
    np.testing.assert_allclose(few[1], many[1][:4])
    assert not np.array_equal(few[0], test[0])
    np.testing.assert_allclose(few[1], task.target(few[0]))


def test_approximate_stein_the_best_fit_is_the_slope_times_the_feature_as_d_grows() -> None:
    gaps = []
    for d in (8, 32):
        task = HierarchicalPolynomial(d).task(0)
        X, _ = task.sample(4000, part="test")
        p, fit = task.feature(X), best_fit(task, X, 100_000)
        gaps.append(1 - np.corrcoef(p, fit)[0, 1])
        assert fit @ p / (p @ p) == pytest.approx(task.prior.slope, abs=6 / d)
    assert gaps[1] < gaps[0]


# Ridge --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(12, 5), (6, 9)])
@pytest.mark.parametrize("gram", [False, True])
def test_ridge_and_leave_one_out_against_fits_without_each_row(n: int, m: int, gram: bool) -> None:
    rng = torch_stream(0, "ridge", str(n))
    F = torch.randn(n, m, generator=rng, dtype=torch.float64)
    y = torch.randn(n, generator=rng, dtype=torch.float64)
    xi = 0.3
    found = ridge(F @ F.T if gram else F, y, xi, gram=gram)
    u = F.T @ found.weights if gram else found.weights

    def plain(rows: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.linalg.solve(rows.T @ rows + n * xi * torch.eye(m).double(), rows.T @ target)

    torch.testing.assert_close(u, plain(F, y))
    for i in range(n):
        keep = torch.arange(n) != i
        torch.testing.assert_close(found.held_out[i], F[i] @ plain(F[keep], y[keep]))


def test_the_penalty_chosen_is_the_best_of_the_grid() -> None:
    rng = torch_stream(0, "penalty")
    F = torch.randn(40, 10, generator=rng, dtype=torch.float64)
    y = F[:, 0] + torch.randn(40, generator=rng, dtype=torch.float64)
    chosen = ridge(F, y)
    assert all(chosen.loo <= ridge(F, y, chosen.penalty * factor).loo + 1e-12 for factor in (0.1, 0.5, 2, 10))


def test_descent_reaches_the_minimiser_of_ridge() -> None:
    rng = torch_stream(0, "descent")
    for n, m in ((30, 8), (8, 20)):
        F = torch.randn(n, m, generator=rng, dtype=torch.float64)
        y = torch.randn(n, generator=rng, dtype=torch.float64)
        torch.testing.assert_close(descend(F, y, 0.2, 4000), ridge(F, y, 0.2).weights, atol=1e-8, rtol=1e-6)


def test_rows_of_zeros_teach_nothing() -> None:
    found = ridge(torch.zeros(4, 3).double(), torch.ones(4).double())
    assert not found.weights.any()
    assert found.loo == 1.0


# Network ------------------------------------------------------------------------------------------------------------


def test_network_is_the_formula_and_its_slope_the_derivative() -> None:
    feature = NeuronFeature(4, 10, "softplus", 2, torch_stream(0, "v"))
    network = ThreeLayerNetwork(feature, 6, torch_stream(0, "outer"))
    with torch.no_grad():
        feature.weights.normal_(generator=torch_stream(1, "u"))
        network.outer.normal_(generator=torch_stream(1, "c"))
        network.scale.fill_(1.7)
        network.mean.fill_(0.4)
    x = torch.randn(5, 4, generator=torch_stream(2, "x"), dtype=torch.float64)
    g = torch.nn.functional.softplus(x @ feature.directions + feature.shifts) @ feature.weights / math.sqrt(10)
    outer = torch.relu(network.signs * g[:, None] / 1.7 + network.thresholds) @ network.outer / math.sqrt(6)
    torch.testing.assert_close(network(x), 0.4 + g + outer)
    g = g.detach().requires_grad_(True)
    torch.testing.assert_close(network.slope(g), torch.autograd.grad(network.link(g).sum(), g)[0])
    assert set(dict(network.named_parameters())) == {"feature.weights", "outer"}  # all else is frozen


def test_kernel_feature_predicts_as_the_kernel_does() -> None:
    rows = torch.randn(7, 3, generator=torch_stream(0, "rows"), dtype=torch.float64)
    feature = KernelFeature(rows, "hermite", 2)
    with torch.no_grad():
        feature.weights.copy_(torch.arange(7.0))
    expected = (0.5 * ((rows @ rows.T) ** 2 - rows.square().sum(1)[:, None] - rows.square().sum(1)[None] + 3)) / 6
    torch.testing.assert_close(feature(rows), expected @ torch.arange(7.0).double())


# Sample complexity --------------------------------------------------------------------------------------------------


def test_crossing_interpolates_in_the_logarithm() -> None:
    assert crossing([10, 100, 1000], [1.0, 0.5, 0.1], 0.3) == pytest.approx(10**2.5)
    assert crossing([10, 100], [0.2, 0.1], 0.3) == pytest.approx(10)
    assert crossing([10, 100], [0.9, 0.5], 0.3) == math.inf
    assert crossing([10, 100, 1000], [0.4, 0.9, 0.2], 0.3) == pytest.approx(10**2.5)


def test_slopes_of_a_known_law_and_none_from_two_dimensions() -> None:
    d = np.array([8.0, 16.0, 32.0])
    noise = np.exp(0.1 * np.random.default_rng(0).standard_normal((20, 3)))
    slope = slope_of(d, 3 * d**2 * noise)
    assert slope.low < 2 < slope.high
    assert slope.high - slope.low < 0.3
    assert math.isnan(slope_of(d[:2], (3 * d**2 * noise)[:, :2]).value)
    assert math.isnan(slope_of(d, np.where(d > 10, np.inf, 1.0) * noise).value)


def test_sample_complexity_of_learners_that_know_and_that_do_not() -> None:
    from sklearn.linear_model import Ridge

    from foreknow.functions import LayerwiseThreeLayer

    layerwise = LayerwiseThreeLayer(inner="hermite", n_refine=2, whiten="never", width_outer=50)
    found = sample_complexity(
        {"layerwise": layerwise, "linear": Ridge()}, HierarchicalPolynomial(), n_features=(4, 6, 8), target=0.5,
        ratios=(4, 12, 32), n_draws=2, n_test=500,
    )  # fmt: skip
    assert np.isinf(found.samples["linear"]).all()
    ratio = found.ratio("linear", "layerwise")
    assert [censored for _, censored in ratio] == [True] * 3
    assert all(value >= 1 for value, _ in ratio)
    assert found.table()[1][1].startswith(">= ")
    assert "-" in found.table()[1][-1]


@pytest.mark.parametrize("bad", [{"learners": []}, {"n_features": ()}, {"target": 0.0}, {"n_draws": 0}])
def test_sample_complexity_refuses(bad: dict[str, object]) -> None:
    given = {"learners": [TunedKernelRidge()], "family": HierarchicalPolynomial(), **bad}
    with pytest.raises(ConfigError):
        sample_complexity(**given)  # type: ignore[arg-type]


# Comparisons --------------------------------------------------------------------------------------------------------


def test_comparisons_learn_what_is_easy() -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3))
    y = 2 + X[:, 0] + 0.1 * rng.standard_normal(300)
    for learner in (TunedKernelRidge(random_state=0), AdamNetwork(2, 32, 300, random_state=0), AdamNetwork(3, 32, 300)):
        learner.set_params(random_state=0).fit(X[:200], y[:200])
        assert np.mean((learner.predict(X[200:]) - y[200:]) ** 2) < 0.2


def test_the_oracle_needs_few_rows() -> None:
    task = HierarchicalPolynomial(8).task(0)
    X, y = task.sample(400, part="test")
    oracle = Oracle(task, random_state=0).fit(*task.sample(300))
    assert np.mean((oracle.predict(X) - y) ** 2) < 0.1 * task.variance
