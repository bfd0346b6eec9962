"""The task priors of prior-data fitted networks: one module per family, all of them `Simulator`s.

Every prior says what it is in one line (`describe()`) and what a picture of its draws should show
(`view`: "curves", "table" or "images").
"""

from foreknow.tasks.pfn.priors.bnn import BNNPrior
from foreknow.tasks.pfn.priors.gp import GPPrior
from foreknow.tasks.pfn.priors.hyper import BetaInt, Fixed, Gamma
from foreknow.tasks.pfn.priors.mixture import MixturePrior
from foreknow.tasks.pfn.priors.strokes import StrokePrior
from foreknow.tasks.pfn.priors.tabular import TabularBNNPrior, TabularGPPrior

__all__ = [
    "BNNPrior",
    "BetaInt",
    "Fixed",
    "GPPrior",
    "Gamma",
    "MixturePrior",
    "StrokePrior",
    "TabularBNNPrior",
    "TabularGPPrior",
]
