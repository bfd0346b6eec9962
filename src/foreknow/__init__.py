"""foreknow: neural priors as objects. Look at one, plug it in, switch it off, put a price on it."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow._version import __version__
from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.core.batch import Batch
    from foreknow.core.card import Card
    from foreknow.core.checkpoint import Checkpoint
    from foreknow.core.cite import cite
    from foreknow.core.predictive import Predictive
    from foreknow.core.prior import Prior, Simulator
    from foreknow.core.registry import catalogue, register
    from foreknow.core.system import System, load
    from foreknow.pricing.study import price
    from foreknow.tasks.lc_pfn.stopping import EarlyStopper
    from foreknow.tasks.lc_pfn.system import CurveExtrapolator
    from foreknow.tasks.tabular.classifier import TabularClassifier
    from foreknow.tasks.tabular.regressor import TabularRegressor

_PUBLIC = {
    "Card": "foreknow.core.card",
    "Prior": "foreknow.core.prior",
    "Simulator": "foreknow.core.prior",
    "System": "foreknow.core.system",
    "Batch": "foreknow.core.batch",
    "Predictive": "foreknow.core.predictive",
    "Checkpoint": "foreknow.core.checkpoint",
    "CurveExtrapolator": "foreknow.tasks",
    "EarlyStopper": "foreknow.tasks",
    "TabularClassifier": "foreknow.tasks",
    "TabularRegressor": "foreknow.tasks",
    "catalogue": "foreknow.core.registry",
    "cite": "foreknow.core.cite",
    "load": "foreknow.core.system",
    "price": "foreknow.pricing.study",
    "register": "foreknow.core.registry",
}

__all__ = [
    "Batch",
    "Card",
    "Checkpoint",
    "CurveExtrapolator",
    "EarlyStopper",
    "Predictive",
    "Prior",
    "Simulator",
    "System",
    "TabularClassifier",
    "TabularRegressor",
    "__version__",
    "catalogue",
    "cite",
    "load",
    "price",
    "register",
]

__getattr__, __dir__ = _lazy_names(__name__, {**_PUBLIC, "__version__": "foreknow._version"})
