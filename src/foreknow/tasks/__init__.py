"""Simulators of tasks, and what is fitted to them."""

from foreknow.common.lazy import lazy_names as _lazy_names

_PUBLIC = {
    "BNNPrior": "foreknow.tasks.pfn.priors.bnn",
    "BetaInt": "foreknow.tasks.pfn.priors.hyper",
    "Fixed": "foreknow.tasks.pfn.priors.hyper",
    "GPPrior": "foreknow.tasks.pfn.priors.gp",
    "Gamma": "foreknow.tasks.pfn.priors.hyper",
    "MixturePrior": "foreknow.tasks.pfn.priors.mixture",
    "StrokePrior": "foreknow.tasks.pfn.priors.strokes",
    "TabularBNNPrior": "foreknow.tasks.pfn.priors.tabular",
    "TabularGPPrior": "foreknow.tasks.pfn.priors.tabular",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
