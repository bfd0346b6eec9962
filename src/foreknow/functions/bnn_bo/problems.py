"""Functions to be optimised: textbook ones, draws of networks and polynomials, and settings of a real model."""

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
