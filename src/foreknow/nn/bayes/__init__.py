"""Bayesian neural networks: flat weights, layer priors, samplers of many chains at once, Laplace, ensembles."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.nn.bayes.diagnostics import effective_sample_size, split_rhat
    from foreknow.nn.bayes.ensemble import find_modes
    from foreknow.nn.bayes.flat import ACTIVATIONS, FlatNetwork, mlp
    from foreknow.nn.bayes.flows import FlowLayers
    from foreknow.nn.bayes.hamiltonian import Chains, hmc, leapfrog
    from foreknow.nn.bayes.laplace import Laplace
    from foreknow.nn.bayes.layers import GaussianLayers, HierarchicalLayers, WeightPrior
    from foreknow.nn.bayes.likelihoods import Bernoulli, GaussianNoise, Likelihood, Softmax
    from foreknow.nn.bayes.stochastic import SGHMCSettings, sghmc

__all__ = [
    "ACTIVATIONS",
    "Bernoulli",
    "Chains",
    "FlatNetwork",
    "FlowLayers",
    "GaussianLayers",
    "GaussianNoise",
    "HierarchicalLayers",
    "Laplace",
    "Likelihood",
    "SGHMCSettings",
    "Softmax",
    "WeightPrior",
    "effective_sample_size",
    "find_modes",
    "hmc",
    "leapfrog",
    "mlp",
    "sghmc",
    "split_rhat",
]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "ACTIVATIONS": "foreknow.nn.bayes.flat",
        "Bernoulli": "foreknow.nn.bayes.likelihoods",
        "Chains": "foreknow.nn.bayes.hamiltonian",
        "FlatNetwork": "foreknow.nn.bayes.flat",
        "FlowLayers": "foreknow.nn.bayes.flows",
        "GaussianLayers": "foreknow.nn.bayes.layers",
        "GaussianNoise": "foreknow.nn.bayes.likelihoods",
        "HierarchicalLayers": "foreknow.nn.bayes.layers",
        "Laplace": "foreknow.nn.bayes.laplace",
        "Likelihood": "foreknow.nn.bayes.likelihoods",
        "SGHMCSettings": "foreknow.nn.bayes.stochastic",
        "Softmax": "foreknow.nn.bayes.likelihoods",
        "WeightPrior": "foreknow.nn.bayes.layers",
        "effective_sample_size": "foreknow.nn.bayes.diagnostics",
        "find_modes": "foreknow.nn.bayes.ensemble",
        "hmc": "foreknow.nn.bayes.hamiltonian",
        "leapfrog": "foreknow.nn.bayes.hamiltonian",
        "mlp": "foreknow.nn.bayes.flat",
        "sghmc": "foreknow.nn.bayes.stochastic",
        "split_rhat": "foreknow.nn.bayes.diagnostics",
    },
)
