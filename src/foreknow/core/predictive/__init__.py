"""Predictive distributions: what a system says about targets it has not seen."""

from foreknow.core.predictive.bar import Bar, bar_nll, borders_from_samples
from foreknow.core.predictive.base import Predictive
from foreknow.core.predictive.categorical import Categorical
from foreknow.core.predictive.empirical import Empirical
from foreknow.core.predictive.gaussian import Gaussian
from foreknow.core.predictive.mixture import GaussianMixture
from foreknow.core.predictive.multivariate import MultivariateMixture
from foreknow.core.predictive.student_t import StudentT
from foreknow.core.predictive.transformed import Affine, Log, Logistic, Transform, Transformed

__all__ = [
    "Affine",
    "Bar",
    "Categorical",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "Log",
    "Logistic",
    "MultivariateMixture",
    "Predictive",
    "StudentT",
    "Transform",
    "Transformed",
    "bar_nll",
    "borders_from_samples",
]
