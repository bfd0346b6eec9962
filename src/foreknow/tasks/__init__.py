"""Simulators of tasks, and what is fitted to them."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.tasks.pfn.network import PFNNetwork, PFNSettings
    from foreknow.tasks.pfn.priors.bnn import BNNPrior
    from foreknow.tasks.pfn.priors.gp import GPPrior
    from foreknow.tasks.pfn.priors.hyper import BetaInt, Fixed, Gamma
    from foreknow.tasks.pfn.priors.mixture import MixturePrior
    from foreknow.tasks.pfn.priors.strokes import StrokePrior
    from foreknow.tasks.pfn.priors.tabular import TabularBNNPrior, TabularGPPrior
    from foreknow.tasks.pfn.system import PFN
    from foreknow.tasks.tabular.estimator import TabularClassifier
    from foreknow.tasks.tabular.network import StackNetwork

__all__ = [
    "PFN",
    "BNNPrior",
    "BetaInt",
    "Fixed",
    "GPPrior",
    "Gamma",
    "MixturePrior",
    "PFNNetwork",
    "PFNSettings",
    "StackNetwork",
    "StrokePrior",
    "TabularBNNPrior",
    "TabularClassifier",
    "TabularGPPrior",
]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "BNNPrior": "foreknow.tasks.pfn.priors.bnn",
        "BetaInt": "foreknow.tasks.pfn.priors.hyper",
        "Fixed": "foreknow.tasks.pfn.priors.hyper",
        "GPPrior": "foreknow.tasks.pfn.priors.gp",
        "Gamma": "foreknow.tasks.pfn.priors.hyper",
        "MixturePrior": "foreknow.tasks.pfn.priors.mixture",
        "PFN": "foreknow.tasks.pfn.system",
        "PFNNetwork": "foreknow.tasks.pfn.network",
        "PFNSettings": "foreknow.tasks.pfn.network",
        "StackNetwork": "foreknow.tasks.tabular.network",
        "StrokePrior": "foreknow.tasks.pfn.priors.strokes",
        "TabularBNNPrior": "foreknow.tasks.pfn.priors.tabular",
        "TabularClassifier": "foreknow.tasks.tabular.estimator",
        "TabularGPPrior": "foreknow.tasks.pfn.priors.tabular",
    },
)
