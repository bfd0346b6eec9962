"""Activations of each regime, their design, and the classifiers against slow plain versions and known limits."""

import math

import numpy as np
import pytest
import torch

from foreknow.common.errors import ConfigError, ConvergenceError, InputError
from foreknow.common.rng import numpy_stream
from foreknow.functions import (
    DeepNTKClassifier,
    HermiteActivation,
    HilbertKernelClassifier,
    NamedActivation,
    SingularActivation,
    design_activation,
    singular_activation,
)
from foreknow.functions.wide_deep_optimality.prior import hilbert_scores
from foreknow.functions.wide_deep_optimality.proof import SIZES, sphere_task


def points(n: int, columns: int = 3, seed: int = 0) -> np.ndarray:
    x = np.abs(numpy_stream(seed, "points").normal(size=(n, columns)))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# Activations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 10])
def test_singular_activation_has_the_dimension_as_exponent(dim: int) -> None:
    act = singular_activation(dim)
    assert act.A == 0 and act.regime() == "singular"
    assert act.alpha == pytest.approx(dim, rel=1e-8)
    if dim > 1:
        assert pytest.approx(2 ** (-dim / 4)) == act.A1 and pytest.approx(2.0) == act.B1


def test_the_published_cubic_as_a_polynomial() -> None:
    u = torch.linspace(-2, 2, 9, dtype=torch.float64)
    edge, middle = 2**-0.75, math.sqrt(1 - 2**-0.5)
    expected = edge * u + middle * (u**2 - 1) / math.sqrt(2) + edge * (u**3 - 3 * u) / math.sqrt(6)
    assert torch.allclose(singular_activation(3).function(u), expected)


@pytest.mark.parametrize("alpha", [0.3, 0.9, 2.0, 2.5, 7.0, 40.0])
def test_designed_exponents(alpha: float) -> None:
    act = design_activation(alpha)
    assert act.alpha == pytest.approx(alpha, rel=1e-6) and act.regime() == "singular"
    assert sum(c * c for c in act.coefficients) == pytest.approx(1.0)


def test_constants_by_quadrature() -> None:
    act = singular_activation(5)
    x, w = np.polynomial.hermite_e.hermegauss(40)
    w = w / w.sum()
    u = torch.from_numpy(x).requires_grad_()
    phi = act.function(u)
    (slope,) = torch.autograd.grad(phi.sum(), u)
    values, slopes = phi.detach().numpy(), slope.numpy()
    assert w @ values**2 == pytest.approx(1.0)
    assert (w @ values, w @ slopes, w @ slopes**2) == pytest.approx((act.A, act.A1, act.B1), abs=1e-9)


def test_regimes() -> None:
    assert HermiteActivation((0.0, 0.0, 1.0)).regime() == "nearest"
    assert HermiteActivation((0.0, 0.0, 1.0)).alpha == math.inf
    assert NamedActivation("relu").regime() == NamedActivation("gelu").regime() == "majority"
    assert NamedActivation("relu").alpha == 0
    assert NamedActivation("erf").regime() == NamedActivation("tanh").regime() == "singular"
    assert 0 < NamedActivation("erf").alpha < 1
    assert HermiteActivation((0.0, 2.0, 2.0)).alpha == HermiteActivation((0.0, 1.0, 1.0)).alpha  # size does not matter
    with pytest.raises(ConfigError, match="linear"):
        HermiteActivation((0.0, 1.0)).regime()
    with pytest.raises(ConfigError, match="above"):
        design_activation(0.5, power=3)
    with pytest.raises(ConfigError, match="constant"):
        HermiteActivation((1.0, 0.0))


def test_the_prior_takes_the_dimension_of_the_data_or_its_own() -> None:
    assert SingularActivation().at(4).alpha == pytest.approx(4)
    assert SingularActivation(0.5).at(4).alpha == pytest.approx(2)
    assert SingularActivation(dim=3).at(10).alpha == pytest.approx(3)
    assert SingularActivation().off() == NamedActivation("relu")


# Votes ------------------------------------------------------------------------------------------------------------


def test_votes_against_a_slow_sum() -> None:
    rng = numpy_stream(0, "votes")
    distance, labels = rng.uniform(0.1, 2, size=(5, 7)), rng.integers(0, 3, 7)
    votes = np.eye(3)[labels]
    found = hilbert_scores(torch.from_numpy(distance), torch.from_numpy(votes), 2.5).exp().numpy()
    for i in range(5):
        slow = np.array([sum(distance[i, j] ** -2.5 for j in range(7) if labels[j] == c) for c in range(3)])
        assert np.allclose(found[i] / found[i].sum(), slow / slow.sum())


def test_rows_at_distance_zero_decide_by_their_majority() -> None:
    distance = torch.tensor([[0.0, 0.0, 0.0, 0.1, 1e-9]], dtype=torch.float64)
    votes = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], dtype=torch.float64)
    scores = hilbert_scores(distance, votes, 3.0).exp()
    assert torch.allclose(scores, torch.tensor([[2.0, 1.0]], dtype=torch.float64))
    nearest = hilbert_scores(distance + 0.5, votes, math.inf).exp()
    assert torch.allclose(nearest, torch.tensor([[2.0, 1.0]], dtype=torch.float64))


def test_exponents_at_the_ends_are_majority_and_nearest_neighbour() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    x, x_new = points(40), points(30, seed=1)
    y = (x[:, 0] > 0.6).astype(int)
    y[:3] = 1 - y[:3]
    knn = KNeighborsClassifier(1).fit(x, y).predict(x_new)
    for system in (
        DeepNTKClassifier(HermiteActivation((0.0, 0.0, 1.0)), sphere="given"),
        DeepNTKClassifier(HermiteActivation((0.0, 0.0, 1.0)), depth=20, sphere="given"),
        HilbertKernelClassifier(alpha=2000.0, sphere="given"),
    ):
        assert (system.fit(x, y).predict(x_new) == knn).all(), system
    majority = DeepNTKClassifier("off", sphere="given").fit(x, y)
    assert np.allclose(majority.predict_proba(x_new), np.bincount(y) / len(y))


def test_deep_kernel_votes_come_to_their_limit() -> None:
    x, y, x_new, _ = sphere_task(3, 200, 300, 0)
    limit = DeepNTKClassifier(sphere="given").fit(x, y).predict_proba(x_new)
    hilbert = HilbertKernelClassifier(sphere="given").fit(x, y).predict_proba(x_new)
    assert np.allclose(limit, hilbert)
    gaps = []
    for depth in (20, 200, 100_000):
        model = DeepNTKClassifier(depth=depth, rule="votes", sphere="given").fit(x, y)
        gaps.append(float((model.predict(x_new) != limit.argmax(1)).mean()))
    assert gaps[2] <= 0.06 and gaps[2] <= gaps[0]


def test_regression_of_a_deep_singular_kernel_is_its_votes() -> None:
    x, y, x_new, _ = sphere_task(3, 150, 200, 1)
    found = [
        DeepNTKClassifier(depth=500, rule=rule, sphere="given").fit(x, y).predict(x_new)
        for rule in ("regression", "votes")
    ]
    assert (found[0] == found[1]).mean() > 0.99


def test_shallow_regression_against_a_plain_solve() -> None:
    from foreknow.nn.infinite import FullyConnected

    x, x_new = points(20), points(10, seed=1)
    y = (x[:, 1] > 0.5).astype(int)
    model = DeepNTKClassifier("off", depth=2, rule="regression", sphere="given").fit(x, y)
    root = math.sqrt(3)
    a, b = (torch.from_numpy(rows) * root for rows in (x, x_new))
    kernel = FullyConnected(2, "relu", w_var=2.0, readout_w_var=2.0)
    k, cross = FullyConnected(2, "relu").ntk(a)[1], FullyConnected(2, "relu").ntk(b, a)[1]
    del kernel  # without a bias the size of the weights is a factor of the kernel, which drops out
    score = cross @ torch.linalg.solve(k, torch.from_numpy(2.0 * y - 1))
    clear = score.abs() > 0.05
    assert (model.predict(x_new)[clear.numpy()] == (score[clear] > 0).numpy()).all()


@pytest.mark.parametrize("prior", ["paper", "off", NamedActivation("erf")])
@pytest.mark.parametrize("depth", [1, 2, 20, 100])
def test_ordinary_rows_of_any_angle_are_solved(prior: object, depth: int) -> None:
    """Right angles and kernels of low rank, where a coarse table makes the Gram matrix indefinite."""
    rng = numpy_stream(0, "ordinary rows")
    for columns, n in ((1, 300), (2, 400)):
        X = rng.normal(size=(n, columns))
        model = DeepNTKClassifier(prior, depth=depth).fit(X, X[:, 0] > 0)
        X_new = rng.normal(size=(200, columns))
        assert bool(model.weights_.isfinite().all())
        assert (model.predict(X_new) == (X_new[:, 0] > 0)).mean() > 0.8


def test_a_shallow_kernel_of_low_rank_is_least_squares() -> None:
    """One layer of the cubic of dimension 2 is a polynomial of powers 1 and 3: least squares on ten cubic monomials."""
    from itertools import combinations_with_replacement

    rng = numpy_stream(1, "low rank")
    x, x_new = (rng.normal(size=(n, 3)) for n in (300, 200))
    x, x_new = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, x_new))
    y = rng.uniform(size=300) < np.where(x[:, 0] > x[:, 1] ** 3, 0.8, 0.2)
    model = DeepNTKClassifier(depth=1, sphere="given").fit(x, y)
    one, new = (
        np.stack([rows[:, list(k)].prod(1) for k in combinations_with_replacement(range(3), 3)], 1)
        for rows in (x, x_new)
    )
    score = new @ np.linalg.lstsq(one, 2.0 * y - 1, rcond=None)[0]
    clear = np.abs(score) > 0.02
    assert clear.mean() > 0.8 and (model.predict(x_new)[clear] == (score[clear] > 0)).all()


def test_what_cannot_be_solved_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from foreknow.functions.wide_deep_optimality import system

    monkeypatch.setattr(system, "jittered_cholesky", lambda gram: torch.full_like(gram, torch.nan))
    with pytest.raises(ConvergenceError, match="too close to singular"):
        DeepNTKClassifier(depth=3, sphere="given").fit(points(20), [0, 1] * 10)


def test_the_price_is_of_a_depth_at_which_the_control_arm_looks_at_the_rows() -> None:
    x, y, x_new, _ = sphere_task(2, 60, 50, 0)
    off = DeepNTKClassifier.priced_as("classification").set_params(sphere="given").without_prior().fit(x, y)
    assert off.depth == 200 and len(set(off.predict(x_new))) == 2


def test_rows_alike_with_labels_that_contradict() -> None:
    x = np.repeat(points(10), 3, axis=0)
    y = np.tile([0, 1, 1], 10)
    for system in (DeepNTKClassifier(sphere="given"), DeepNTKClassifier(depth=50, sphere="given")):
        assert (system.fit(x, y).predict(x[::3]) == 1).all()


def test_spheres() -> None:
    rng = numpy_stream(0, "spheres")
    X = rng.normal(size=(30, 3)) * [1, 1e6, 1e-6]
    y = (X[:, 1] > 0).astype(int)
    assert DeepNTKClassifier().fit(X, y).dim_ == 3
    assert DeepNTKClassifier(sphere="normalise").fit(X, y).dim_ == 2
    assert DeepNTKClassifier(dim=1).fit(X, y).activation_.alpha == pytest.approx(1)
    scaled = DeepNTKClassifier().fit(5 * X + 1, y).predict(5 * X + 1)
    assert (scaled == DeepNTKClassifier().fit(X, y).predict(X)).all()
    with pytest.raises(InputError, match="norm 1"):
        DeepNTKClassifier(sphere="given").fit(X, y)
    with pytest.raises(InputError, match="no place"):
        DeepNTKClassifier(sphere="normalise").fit(np.vstack([X, np.zeros(3)]), [*y, 0])


def test_settings_that_do_not_go_together() -> None:
    X, y = points(10), [0, 1] * 5
    with pytest.raises(ConfigError, match="limit"):
        DeepNTKClassifier(rule="regression").fit(X, y)
    with pytest.raises(ConfigError, match="activation"):
        from foreknow.functions import InverseGamma

        DeepNTKClassifier(InverseGamma()).fit(X, y)


def test_pictures() -> None:
    x, y, _, _ = sphere_task(2, 30, 5, 0)
    shown = DeepNTKClassifier(sphere="given").fit(x, y).pictures()
    assert set(shown) == {"kernel", "activation"}


@pytest.mark.timeout(240)
@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn: folds with fewer rows than neighbours
def test_proof_runs_and_its_claims_can_fail() -> None:
    evidence = DeepNTKClassifier.prove(preset="quick", seeds=1)
    assert len(evidence.claims) == 29
    assert evidence.settings["seeds"] == 1 and evidence.settings["risk_seeds"] == SIZES["quick"].risk_seeds
    assert {row["arm"] for row in evidence.arms if "solved" in row.get("arm", "")} == {
        "cubic ntk 1 layer, solved",
        "relu ntk 3 layers, solved",
        "relu ntk 50 layers, solved",
        "erf ntk 50 layers, solved",
    }
    assert all(claim.low is not None or claim.high is not None for claim in evidence.claims)
    held = {claim.name: claim.verdict for claim in evidence.claims if claim.name.startswith("exponent")}
    assert set(held.values()) == {"held"}
