"""Functions to be optimised: textbook ones, draws of networks and polynomials, a material, a crop, a real model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foreknow.common.errors import ConfigError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.common.validate import check_int
from foreknow.functions.bnn_bo.extra import bo
from foreknow.functions.bnn_bo.prior import NetworkPrior
from foreknow.functions.bnn_bo.space import Choice, Floats, Integer, Real, Space

TEXTBOOK = ("branin", "hartmann6", "ackley", "branin-currin", "dtlz1", "dtlz5")


@dataclass(frozen=True)
class Problem:
    """A function and its space.

    Args:
        name: of it.
        space: of its points.
        function: takes one point, returns a number or a row of them.
        minimize: whether smaller is better.
        optimum: its best value, where known.
        reference: for several objectives, a point that is worse than all of interest, in the function's sign.
    """

    name: str
    space: Space
    function: Callable[[Any], Any]
    minimize: bool = True
    optimum: float | None = None
    reference: tuple[float, ...] | None = None

    def __call__(self, point: Any) -> Any:
        return self.function(point)


def textbook(name: str, d: int | None = None) -> Problem:
    """A test function of BoTorch.

    Args:
        name: "branin", "hartmann6", "ackley", "branin-currin", "dtlz1" or "dtlz5".
        d: parameters, of those functions that have any number.
    """
    single = bo("botorch.test_functions.synthetic", "Test functions")
    multiple = bo("botorch.test_functions.multi_objective", "Test functions")
    makers: dict[str, Callable[[], Any]] = {
        "branin": lambda: single.Branin(),
        "hartmann6": lambda: single.Hartmann(dim=6),
        "ackley": lambda: single.Ackley(dim=d or 10),
        "branin-currin": lambda: multiple.BraninCurrin(),
        "dtlz1": lambda: multiple.DTLZ1(dim=d or 6, num_objectives=2),
        "dtlz5": lambda: multiple.DTLZ5(dim=d or 6, num_objectives=2),
    }
    if name not in makers:
        raise ConfigError(f"textbook: name must be one of {TEXTBOOK}, got {name!r}.")
    function = makers[name]().to(torch.float64)
    low, high = function.bounds.numpy()

    def evaluate(point: Floats) -> Any:
        with torch.no_grad():
            found = function.evaluate_true(torch.as_tensor(np.asarray(point, dtype=np.float64))[None])[0]
        return float(found) if found.ndim == 0 else found.numpy()

    several = function.num_objectives > 1
    # reference points of BoTorch are those of the function as it stands, before any change of sign
    reference = tuple(float(v) for v in function._ref_point) if several else None
    optimum = None if several else float(function._optimal_value)
    return Problem(name, Space.of(np.stack([low, high], 1)), evaluate, True, optimum, reference)


def network_draw(d: int = 400, *, hidden: tuple[int, ...] = (256, 256), seed: int = 0) -> Problem:
    """A function drawn from a tanh network with N(0, 1) weights, to be maximised on the unit cube."""
    check_int("network_draw", "d", d, low=1)
    prior = NetworkPrior(hidden)
    network = prior.network(d)
    with torch.no_grad():
        weights = prior.layers(network).draw(1, torch_stream(seed, "network-draw", str(d)))

    def evaluate(point: Floats) -> float:
        with torch.no_grad():
            return float(network(weights, torch.as_tensor(np.asarray(point, dtype=np.float64))[None])[0, 0, 0])

    return Problem(f"network-draw-{d}", Space.of([(0.0, 1.0)] * d), evaluate, False)


def polynomial_draw(d: int = 10, *, degree: int = 4, n_terms: int = 40, seed: int = 0) -> Problem:
    """A random polynomial on [-1, 1]^d, to be maximised: normal coefficients of monomials of degree 1 to `degree`."""
    for name, value in (("d", d), ("degree", degree), ("n_terms", n_terms)):
        check_int("polynomial_draw", name, value, low=1)
    rng = numpy_stream(seed, "polynomial-draw", str(d))
    coefficients = rng.standard_normal(n_terms)
    columns = [rng.integers(d, size=int(rng.integers(1, degree + 1))) for _ in range(n_terms)]

    def evaluate(point: Floats) -> float:
        x = np.asarray(point, dtype=np.float64)
        return float(sum(c * np.prod(x[part]) for c, part in zip(coefficients, columns, strict=True)))

    return Problem(f"polynomial-draw-{d}", Space.of([(-1.0, 1.0)] * d), evaluate, False)


def oil_sorbent() -> Problem:
    """Making of an electrospun oil sorbent: contact angle, absorption and strength, all to be large.

    Seven settings, two of them continuous and five of four or five steps; each objective is a published regression on
    them and their products (Wang et al. 2020). Their negatives are returned, and to be minimised.
    """
    space = Space.of(
        {f"V{i + 1}": Integer(0, len(steps) - 1) if steps else Real(0.0, 1.0) for i, steps in enumerate(_STEPS)}
    )
    levels = [np.array(steps) / max(steps) if steps else None for steps in _STEPS]

    def evaluate(point: dict[str, Any]) -> Floats:
        v = [
            point[name] if steps is None else steps[point[name]]
            for name, steps in zip(space.names, levels, strict=True)
        ]
        terms = np.array([1.0, *v, *(v[i] * v[j] for i in range(7) for j in range(i, 7))])
        return -np.array([terms @ np.array(part) for part in _SORBENT])

    return Problem("oil-sorbent", space, evaluate, True, None, (-125.3865, -57.8292, 43.2665))


_STEPS: tuple[tuple[float, ...], ...] = (
    (), (0.7, 1.0, 1.4, 1.7, 2.0), (12.0, 15.0, 18.0, 21.0, 24.0), (0.12, 0.135, 0.15, 0.165, 0.18), (),
    (16.0, 20.0, 26.0, 28.0), (0.41, 0.6, 0.84, 1.32),
)  # fmt: skip
_SORBENT = (
    (-197.0928, -78.3309, 98.6355, 300.0701, 89.836, 208.2343, 332.9341, 135.6621, -16.7536, -11.0715, 201.8934,
     17.127, 2.5198, -109.3922, 30.1607, -45.6507, -46.179, 19.2888, -102.9493, -19.1245, 53.6297, -91.4134,
     -73.0649, -37.7181, -219.1268, -55.3704, 0.0, 3.8778, -6.9252, -105.165, -76.8701, -34.3181, -36.3892, 0.0,
     -82.3222, 0.0),
    (-212.8531, 245.7998, -127.3395, 305.8461, 638.1605, 301.2118, -451.3796, -115.5485, 0.0, 42.8351, 262.3775,
     -103.5274, -196.1568, -394.7975, -176.3341, 0.0, 74.8291, 4.1557, -133.8683, 65.8711, -42.6911, 0.0, -323.9363,
     -107.3983, -323.2353, 46.9172, -286.0182, -144.4199, 272.3729, 49.0799, 0.0, 318.4706, -236.2498, 393.5992,
     252.4848, 0.0),
    (7.7696, 15.4344, -10.619, -17.9367, 17.1385, 2.5026, -24.301, 10.6058, -18.7356, -1.2041, -37.2207, -3.2265,
     7.3121, 52.3994, 9.7485, 12.1928, -15.9371, -1.1706, -2.6297, 7.0225, -1.4938, 0.0, 30.2786, 14.5061, 48.5021,
     -11.4857, -17.546, -3.1381, -14.9747, 4.5204, 5.4997, -17.6907, -19.2489, -26.2718, -9.8219, 0.0),
)  # fmt: skip
"""Coefficients of 1, of the seven settings, and of their products V1 V1, V1 V2, ..., V7 V7."""


def pest_control(n_stages: int = 25, *, seed: int = 0) -> Problem:
    """Which of four pesticides, if any, to use at each stage (Oh et al. 2019): price and harm, to be minimised.

    The share of a crop with pests grows at a random rate where nothing is used, and shrinks at one where something is,
    which the pests come to tolerate; prices fall with the number of times. Harm is how often a tenth is exceeded, over
    a hundred crops that are the same at every call.

    Args:
        n_stages: decisions.
        seed: of the crops.
    """
    check_int("pest_control", "n_stages", n_stages, low=1)
    draws = numpy_stream(seed, "pest-control", str(n_stages)).uniform(size=(2 * n_stages + 1, _N_CROPS))
    space = Space.of({f"stage {i + 1}": Choice((0, 1, 2, 3, 4)) for i in range(n_stages)})

    def beta(row: int, b: float) -> Floats:
        """Draws of Beta(1, b)."""
        return np.asarray(1.0 - (1.0 - draws[row]) ** (1.0 / b))

    def evaluate(point: dict[str, Any]) -> float:
        used = [point[name] for name in space.names]
        resistance = list(_RESISTANCE)
        share, price, harm = beta(0, 30.0), 0.0, 0.0
        for stage, kind in enumerate(used):
            harm += float((share > 0.1).mean())
            if kind:
                share = share * (1.0 - beta(2 * stage + 2, resistance[kind - 1]))
                resistance[kind - 1] += _TOLERANCE[kind - 1] / n_stages
                price += _PRICE[kind - 1] * (1.0 - _DISCOUNT[kind - 1] * used.count(kind) / n_stages)
            else:
                share = share + beta(2 * stage + 1, 17 / 3) * (1.0 - share)
        return price + harm

    return Problem(f"pest-control-{n_stages}", space, evaluate, True)


_N_CROPS = 100
_PRICE, _DISCOUNT = (1.0, 0.8, 0.7, 0.5), (0.2, 0.3, 0.3, 0.0)
_RESISTANCE, _TOLERANCE = (2 / 7, 3 / 7, 3 / 7, 5 / 7), (1 / 7, 2.5 / 7, 2 / 7, 0.5 / 7)


def support_vectors(n_rows: int = 200) -> Problem:
    """Error of a support vector machine on the diabetes table, by its five settings: to be minimised.

    The root mean squared error of three-fold cross-validation, in standard deviations of the target.

    Args:
        n_rows: of the table that are used.
    """
    from sklearn.datasets import load_diabetes
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import KFold
    from sklearn.svm import SVR

    X, y = load_diabetes(return_X_y=True)
    n = check_int("support_vectors", "n_rows", n_rows, low=9)
    order = numpy_stream(0, "support-vectors").permutation(len(X))[:n]
    X, y = X[order] / X[order].std(0), y[order]
    y = (y - y.mean()) / y.std()
    space = Space.of(
        {
            "C": Real(1e-2, 1e2, log=True),
            "gamma": Real(1e-3, 1e1, log=True),
            "epsilon": Real(1e-2, 1.0, log=True),
            "kernel": Choice(("rbf", "poly", "sigmoid")),
            "degree": Integer(1, 4),
        }
    )

    def evaluate(point: dict[str, Any]) -> float:
        predicted = np.empty(len(y))
        for train, test in KFold(3).split(X):
            model = SVR(**point, max_iter=20_000)
            model.random_state = 0  # it would take a seed from numpy's global state otherwise
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # such settings are tried, and found to be bad
                predicted[test] = model.fit(X[train], y[train]).predict(X[test])
        return float(np.sqrt(np.mean((predicted - y) ** 2)))

    return Problem("support-vectors", space, evaluate, True)


def sobol_points(problem: Problem, n: int, *, seed: int) -> tuple[Floats, Floats]:
    """Codes (n, d) of a Sobol sequence and what they give, larger is better, shape (n,)."""
    codes = problem.space.draw(n, seed=seed)
    sign = -1.0 if problem.minimize else 1.0
    return codes, sign * np.array([float(problem(point)) for point in problem.space.points(codes)])


def as_tensors(problem: Problem, codes: Floats, y: Floats) -> tuple[Tensor, Tensor]:
    """Rows of the unit cube and outcomes (n, 1)."""
    return problem.space.encode(codes), torch.as_tensor(y)[:, None]
