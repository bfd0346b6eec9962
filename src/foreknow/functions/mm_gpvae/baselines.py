"""What the system is compared with: Gaussian-process factor analysis, principal components, canonical correlations.

`GPFA` is factor analysis of square roots of counts whose factors are Gaussian processes of one lengthscale (Yu et al.
2009), fitted by expectation maximisation. Since all factors have one covariance K, a rotation of the factors makes the
posterior fall apart into one small problem a factor: with C' R^-1 C = U L U', factor i of U'x has the posterior of a
Gaussian process seen with noise of variance 1 / L_i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError
from foreknow.common.files import hash_bytes
from foreknow.common.rng import seed_of
from foreknow.core.source import Sample, Split

Array = NDArray[np.float64]
LENGTHSCALES = (3.0, 6.0, 10.0, 17.0, 30.0)
_NUGGET = 1e-3


class GPFA:
    """Gaussian-process factor analysis of trials of real numbers.

    Args:
        n_factors: how many.
        n_iterations: of expectation maximisation.
        lengthscales: that are tried; the likeliest is kept.
    """

    def __init__(self, n_factors: int, *, n_iterations: int = 20, lengthscales: Sequence[float] = LENGTHSCALES) -> None:
        self.n_factors, self.n_iterations, self.lengthscales = n_factors, n_iterations, tuple(lengthscales)

    def fit(self, trials: Sequence[Array]) -> GPFA:
        """Learn from trials (t_i, n) each."""
        from sklearn.decomposition import FactorAnalysis

        bins = np.concatenate(list(trials))
        start = FactorAnalysis(self.n_factors, random_state=0).fit(bins)
        self.offset_ = bins.mean(0)
        self.loadings_, self.noise_ = start.components_.T, np.maximum(start.noise_variance_, 1e-6)
        self.lengthscale_ = max(self.lengthscales, key=lambda scale: self._log_likelihood(trials, scale))
        for _ in range(self.n_iterations):
            self._step(trials, bins)
        return self

    def transform(self, trials: Sequence[Array]) -> list[Array]:
        """Posterior means of the factors, (t_i, n_factors) each."""
        return [self._infer(trial, self.lengthscale_)[0] for trial in trials]

    def _infer(self, trial: Array, lengthscale: float) -> tuple[Array, Array, float]:
        """Posterior mean (t, p), the sum over bins of posterior covariances (p, p), and the log evidence up to what
        does not depend on the lengthscale.
        """
        weights = self.loadings_ / self.noise_[:, None]  # (n, p)
        strength, turn = np.linalg.eigh(self.loadings_.T @ weights)
        strength = np.maximum(strength, 1e-9)
        seen = (trial - self.offset_) @ weights @ turn / strength  # pseudo observations with noise 1 / strength
        values, vectors = _eigen(len(trial), lengthscale)
        total = values[:, None] + 1 / strength  # (t, p)
        rotated = vectors.T @ seen
        mean = vectors @ (values[:, None] / total * rotated)
        covariance = (values[:, None] - values[:, None] ** 2 / total).sum(0)
        evidence = -0.5 * float((rotated**2 / total + np.log(total)).sum())
        return mean @ turn.T, (turn * covariance) @ turn.T, evidence

    def _log_likelihood(self, trials: Sequence[Array], lengthscale: float) -> float:
        return sum(self._infer(trial, lengthscale)[2] for trial in trials)

    def _step(self, trials: Sequence[Array], bins: Array) -> None:
        found = [self._infer(trial, self.lengthscale_) for trial in trials]
        x = np.concatenate([mean for mean, _, _ in found])
        ones = np.concatenate([x, np.ones((len(x), 1))], 1)
        second = ones.T @ ones
        second[:-1, :-1] += sum(covariance for _, covariance, _ in found)
        solved = np.linalg.solve(second, ones.T @ bins)  # (p + 1, n)
        self.loadings_, self.offset_ = solved[:-1].T, solved[-1]
        self.noise_ = np.maximum((bins * (bins - ones @ solved)).mean(0), 1e-6)


_EIGEN: dict[tuple[int, float], tuple[Array, Array]] = {}


def _eigen(n_bins: int, lengthscale: float) -> tuple[Array, Array]:
    if (n_bins, lengthscale) not in _EIGEN:
        t = np.arange(n_bins)
        covariance = np.exp(-0.5 * ((t[:, None] - t) / lengthscale) ** 2)
        values, vectors = np.linalg.eigh(covariance + _NUGGET * np.eye(n_bins))
        if len(_EIGEN) > 64:
            _EIGEN.clear()
        _EIGEN[n_bins, lengthscale] = np.maximum(values, _NUGGET), vectors
    return _EIGEN[n_bins, lengthscale]


class FactorsAndComponents:
    """GPFA on spikes, principal components of behaviour, and canonical correlations for what both have.

    Shared latents are the canonical variates of every recording that is there, neural ones first, so twice as many
    where both are: one may be far noisier than the other, and whoever uses them can weigh them. Neural latents are the
    other canonical directions of the factors; behavioural ones the first components of what is left of behaviour.
    Behaviour is predicted from the factors by ridge regression with their products up to the third order, rates by
    Poisson regression on the factors.

    Args:
        n_neural, n_shared, n_behavior: latents of each block.
        n_components: principal components of behaviour at the most.
    """

    def __init__(self, n_neural: int = 1, n_shared: int = 1, n_behavior: int = 1, *, n_components: int = 20) -> None:
        self.n_neural, self.n_shared, self.n_behavior = n_neural, n_shared, n_behavior
        self.n_components = n_components

    def fit(self, X: Any, y: Any) -> FactorsAndComponents:
        """Learn from trials of counts and of behaviour.

        Raises:
            InputError: nothing is shared, or trials do not fit together.
        """
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LinearRegression, PoissonRegressor, RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import PolynomialFeatures

        if len(X) != len(y):
            raise InputError(f"FactorsAndComponents: {len(X)} trials of neurons and {len(y)} of behaviour.")
        counts = np.concatenate([np.asarray(trial, dtype=np.float64) for trial in X])
        self.shape_ = np.shape(y[0])[1:]
        self.mean_rates_ = np.maximum(counts.mean(0), 0.5 / len(counts))
        self.gpfa_ = GPFA(self.n_neural + self.n_shared).fit(_roots(X))
        factors = np.concatenate(self.gpfa_.transform(_roots(X)))
        flat = np.concatenate(_flat(y))
        self.pca_ = PCA(min(self.n_components, *flat.shape), svd_solver="full").fit(flat)
        scores = self.pca_.transform(flat)
        self.whiten_n_, self.whiten_b_ = _whitener(factors), _whitener(scores)
        a, b = self._white(factors, scores)
        u, self.correlations_, vt = np.linalg.svd(a.T @ b / len(a))
        self.turn_n_, self.turn_b_ = u, vt.T[:, : self.n_shared]
        shared = b @ self.turn_b_
        self.explained_ = LinearRegression().fit(shared, scores) if self.n_shared else None
        rest = scores - self._of_shared(shared)
        n_rest = min(self.n_behavior, rest.shape[1])
        self.rest_ = PCA(n_rest, svd_solver="full").fit(rest) if n_rest else None
        self.across_ = make_pipeline(
            PolynomialFeatures(3, include_bias=False), RidgeCV(np.geomspace(1e-2, 1e4, 7))
        ).fit(factors, scores)
        self.poisson_ = [PoissonRegressor(alpha=1e-4, max_iter=300).fit(factors, neuron) for neuron in counts.T]
        return self

    def latents(self, spikes: Any = None, behavior: Any = None) -> dict[str, NDArray[Any]]:
        """Latents of each block, shape (trials, bins, latents); zeros where the recording is missing.

        The shared block holds n_shared variates of each recording that is given.
        """
        given = spikes if spikes is not None else behavior
        found = []
        factors = None if spikes is None else self.gpfa_.transform(_roots(spikes))
        scores = None if behavior is None else [self.pca_.transform(trial) for trial in _flat(behavior)]
        for i in range(len(given)):
            n = len(given[i])
            shared, neural, rest = [], np.zeros((n, self.n_neural)), np.zeros((n, self.n_behavior))
            if factors is not None:
                turned = (factors[i] - self.whiten_n_[0]) @ self.whiten_n_[1] @ self.turn_n_
                shared.append(turned[:, : self.n_shared])
                neural = turned[:, self.n_shared :]
            if scores is not None:
                own = (scores[i] - self.whiten_b_[0]) @ self.whiten_b_[1] @ self.turn_b_
                shared.append(own)
                if self.rest_ is not None:
                    rest = self.rest_.transform(scores[i] - self._of_shared(own))
            found.append((neural, np.concatenate(shared, -1), rest))
        blocks = zip(("neural", "shared", "behavior"), zip(*found, strict=True), strict=True)
        return {name: np.array(parts) for name, parts in blocks}

    def predict(self, X: Any) -> NDArray[Any]:
        """Behaviour from spikes."""
        factors = self.gpfa_.transform(_roots(X))
        found = [self.pca_.inverse_transform(self.across_.predict(trial).reshape(len(trial), -1)) for trial in factors]
        return np.array([trial.reshape(len(trial), *self.shape_) for trial in found])

    def reconstruct(self, spikes: Any = None, behavior: Any = None) -> dict[str, NDArray[Any]]:
        """Behaviour of as many latents as the system has, those of behaviour itself."""
        z = self.latents(spikes, behavior)
        found = []
        for shared, rest in zip(z["shared"], z["behavior"], strict=True):
            scores = self._of_shared(shared[:, shared.shape[1] - self.n_shared :])
            if self.rest_ is not None:
                scores = scores + self.rest_.inverse_transform(rest)
            found.append(self.pca_.inverse_transform(scores).reshape(len(shared), *self.shape_))
        return {"behavior": np.array(found)}

    def rates(self, spikes: Any, behavior: Any = None) -> NDArray[Any]:
        """Expected counts of all neurons."""
        factors = self.gpfa_.transform(_roots(spikes))
        return np.array([np.stack([one.predict(trial) for one in self.poisson_], -1) for trial in factors])

    def _white(self, factors: Array, scores: Array) -> tuple[Array, Array]:
        return (factors - self.whiten_n_[0]) @ self.whiten_n_[1], (scores - self.whiten_b_[0]) @ self.whiten_b_[1]

    def _of_shared(self, shared: Array) -> Array:
        """What the shared latents say of the scores of behaviour."""
        if self.explained_ is None:
            return np.zeros((len(shared), self.pca_.n_components_))
        return np.asarray(self.explained_.predict(shared)).reshape(len(shared), -1)


def _roots(X: Any) -> list[Array]:
    return [np.sqrt(np.asarray(trial, dtype=np.float64)) for trial in X]


def _flat(y: Any) -> list[Array]:
    return [np.asarray(trial, dtype=np.float64).reshape(len(trial), -1) for trial in y]


def _whitener(values: Array) -> tuple[Array, Array]:
    """Mean, and a matrix that makes the values uncorrelated with variance 1."""
    mean = values.mean(0)
    strength, turn = np.linalg.eigh(np.cov(values.T, bias=True).reshape(values.shape[1], -1))
    kept = strength > 1e-10 * max(strength.max(), 1e-300)
    return mean, np.where(kept, turn / np.sqrt(np.where(kept, strength, 1.0)), 0.0)


class DigitSource:
    """Rotating digits and their neurons as a source for `price`; a size is a number of trials.

    Every seed has neurons and trials of its own; test trials show other written digits. The test sample knows the true
    latents.

    Args:
        name: shown in reports.
        n_test: test trials.
        n_max: training trials at the most.
        settings: of `RotatingDigits`.
    """

    task = "none"
    unit = "trials"

    def __init__(self, name: str, *, n_test: int = 25, n_max: int = 100, **settings: Any) -> None:
        self.name, self.n_test, self.n_max, self.n_min = name, n_test, n_max, 5
        self._settings = settings
        self.content_hash = hash_bytes(b"rotating digits 1", repr((n_test, sorted(settings.items()))).encode())

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """The first `size` training trials of this seed, and its test trials."""
        from foreknow.functions.mm_gpvae.simulator import rotating_digits

        train, test = rotating_digits(
            self.n_max, self.n_test, random_state=seed_of(seed, "digit source") % 2**31, **self._settings
        )
        return Split(
            Sample(train.spikes[:size], train.images[:size]),
            Sample(test.spikes, test.images, {"latents": test.latents}),
        )

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"name": self.name, "n_rows": self.n_max, "unit": self.unit, "hash": self.content_hash}


def sources() -> dict[str, DigitSource]:
    """What `foreknow price mm-gpvae` measures on."""
    from foreknow.functions.mm_gpvae.proof import WORLD

    return {"rotating digits": DigitSource("rotating digits", **WORLD)}
