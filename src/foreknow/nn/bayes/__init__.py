"""Bayesian neural networks: flat weights, layer priors, samplers of many chains at once, Laplace, ensembles."""

from foreknow.common.lazy import lazy_names as _lazy_names

_KIT = "foreknow.nn.bayes."
_PUBLIC = {
    "ACTIVATIONS": _KIT + "flat",
    "Chains": _KIT + "hamiltonian",
    "FlatNetwork": _KIT + "flat",
    "FlowLayers": _KIT + "flows",
    "GaussianLayers": _KIT + "layers",
    "GaussianNoise": _KIT + "likelihoods",
    "HierarchicalLayers": _KIT + "layers",
    "Laplace": _KIT + "laplace",
    "Likelihood": _KIT + "likelihoods",
    "SGHMCSettings": _KIT + "stochastic",
    "Softmax": _KIT + "likelihoods",
    "WeightPrior": _KIT + "layers",
    "effective_sample_size": _KIT + "diagnostics",
    "find_modes": _KIT + "ensemble",
    "hmc": _KIT + "hamiltonian",
    "leapfrog": _KIT + "hamiltonian",
    "mlp": _KIT + "flat",
    "sghmc": _KIT + "stochastic",
    "split_rhat": _KIT + "diagnostics",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
