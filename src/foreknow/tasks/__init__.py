"""Simulators of tasks, and what is fitted to them."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.tasks.distribution_transformer.beliefs import Belief, MixturePosterior
    from foreknow.tasks.distribution_transformer.filtering import DTFilter, LinearMotion, NonlinearMotion
    from foreknow.tasks.distribution_transformer.network import DistributionNetwork, DistributionSettings
    from foreknow.tasks.distribution_transformer.prior import Hyper, MetaPrior, MixtureMeta, ParametricMeta
    from foreknow.tasks.distribution_transformer.system import DistributionTransformer
    from foreknow.tasks.lc_pfn.forecast import CurveForecast
    from foreknow.tasks.lc_pfn.network import CurveNetwork, CurveSettings
    from foreknow.tasks.lc_pfn.prior import CurvePrior
    from foreknow.tasks.lc_pfn.stopping import Decision, EarlyStopper
    from foreknow.tasks.lc_pfn.stopping_rule import should_stop
    from foreknow.tasks.lc_pfn.system import CurveExtrapolator
    from foreknow.tasks.martingale_np.network import MartingaleNetwork, NPSettings
    from foreknow.tasks.martingale_np.posterior import FunctionPosterior
    from foreknow.tasks.martingale_np.system import MartingaleNP
    from foreknow.tasks.martingale_np.tasks import DigitTasks, GPTasks, LotkaVolterraTasks, MartingalePrior
    from foreknow.tasks.pfn.network import PFNNetwork, PFNSettings
    from foreknow.tasks.pfn.priors.bnn import BNNPrior
    from foreknow.tasks.pfn.priors.gp import GPPrior
    from foreknow.tasks.pfn.priors.hyper import BetaInt, Fixed, Gamma
    from foreknow.tasks.pfn.priors.mixture import MixturePrior
    from foreknow.tasks.pfn.priors.strokes import StrokePrior
    from foreknow.tasks.pfn.priors.tabular import TabularBNNPrior, TabularGPPrior
    from foreknow.tasks.pfn.system import PFN
    from foreknow.tasks.tabpfn.cells import CellSettings, CellTransformer
    from foreknow.tasks.tabpfn.network import RowSettings, RowTransformer
    from foreknow.tasks.tabpfn.system import TabPFN
    from foreknow.tasks.tabular.classifier import TabularClassifier
    from foreknow.tasks.tabular.network import StackNetwork
    from foreknow.tasks.tabular.priors.base import TablePrior
    from foreknow.tasks.tabular.priors.graph import GraphPrior
    from foreknow.tasks.tabular.priors.rules import RulePrior
    from foreknow.tasks.tabular.priors.scm import SCMPrior
    from foreknow.tasks.tabular.priors.smooth import SmoothPrior
    from foreknow.tasks.tabular.priors.trees import TreeSCMPrior
    from foreknow.tasks.tabular.regressor import TabularRegressor

__all__ = [
    "PFN",
    "BNNPrior",
    "Belief",
    "BetaInt",
    "CellSettings",
    "CellTransformer",
    "CurveExtrapolator",
    "CurveForecast",
    "CurveNetwork",
    "CurvePrior",
    "CurveSettings",
    "DTFilter",
    "Decision",
    "DigitTasks",
    "DistributionNetwork",
    "DistributionSettings",
    "DistributionTransformer",
    "EarlyStopper",
    "Fixed",
    "FunctionPosterior",
    "GPPrior",
    "GPTasks",
    "Gamma",
    "GraphPrior",
    "Hyper",
    "LinearMotion",
    "LotkaVolterraTasks",
    "MartingaleNP",
    "MartingaleNetwork",
    "MartingalePrior",
    "MetaPrior",
    "MixtureMeta",
    "MixturePosterior",
    "MixturePrior",
    "NPSettings",
    "NonlinearMotion",
    "PFNNetwork",
    "PFNSettings",
    "ParametricMeta",
    "RowSettings",
    "RowTransformer",
    "RulePrior",
    "SCMPrior",
    "SmoothPrior",
    "StackNetwork",
    "StrokePrior",
    "TabPFN",
    "TablePrior",
    "TabularBNNPrior",
    "TabularClassifier",
    "TabularGPPrior",
    "TabularRegressor",
    "TreeSCMPrior",
    "should_stop",
]

__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "BNNPrior": "foreknow.tasks.pfn.priors.bnn",
        "Belief": "foreknow.tasks.distribution_transformer.beliefs",
        "BetaInt": "foreknow.tasks.pfn.priors.hyper",
        "CellSettings": "foreknow.tasks.tabpfn.cells",
        "CellTransformer": "foreknow.tasks.tabpfn.cells",
        "CurveExtrapolator": "foreknow.tasks.lc_pfn.system",
        "CurveForecast": "foreknow.tasks.lc_pfn.forecast",
        "CurveNetwork": "foreknow.tasks.lc_pfn.network",
        "CurvePrior": "foreknow.tasks.lc_pfn.prior",
        "CurveSettings": "foreknow.tasks.lc_pfn.network",
        "DTFilter": "foreknow.tasks.distribution_transformer.filtering",
        "Decision": "foreknow.tasks.lc_pfn.stopping",
        "DigitTasks": "foreknow.tasks.martingale_np.tasks",
        "DistributionNetwork": "foreknow.tasks.distribution_transformer.network",
        "DistributionSettings": "foreknow.tasks.distribution_transformer.network",
        "DistributionTransformer": "foreknow.tasks.distribution_transformer.system",
        "EarlyStopper": "foreknow.tasks.lc_pfn.stopping",
        "Fixed": "foreknow.tasks.pfn.priors.hyper",
        "FunctionPosterior": "foreknow.tasks.martingale_np.posterior",
        "GPPrior": "foreknow.tasks.pfn.priors.gp",
        "GPTasks": "foreknow.tasks.martingale_np.tasks",
        "Gamma": "foreknow.tasks.pfn.priors.hyper",
        "GraphPrior": "foreknow.tasks.tabular.priors.graph",
        "Hyper": "foreknow.tasks.distribution_transformer.prior",
        "LinearMotion": "foreknow.tasks.distribution_transformer.filtering",
        "LotkaVolterraTasks": "foreknow.tasks.martingale_np.tasks",
        "MartingaleNP": "foreknow.tasks.martingale_np.system",
        "MartingaleNetwork": "foreknow.tasks.martingale_np.network",
        "MartingalePrior": "foreknow.tasks.martingale_np.tasks",
        "MetaPrior": "foreknow.tasks.distribution_transformer.prior",
        "MixtureMeta": "foreknow.tasks.distribution_transformer.prior",
        "MixturePosterior": "foreknow.tasks.distribution_transformer.beliefs",
        "MixturePrior": "foreknow.tasks.pfn.priors.mixture",
        "NPSettings": "foreknow.tasks.martingale_np.network",
        "NonlinearMotion": "foreknow.tasks.distribution_transformer.filtering",
        "PFN": "foreknow.tasks.pfn.system",
        "PFNNetwork": "foreknow.tasks.pfn.network",
        "PFNSettings": "foreknow.tasks.pfn.network",
        "ParametricMeta": "foreknow.tasks.distribution_transformer.prior",
        "RowSettings": "foreknow.tasks.tabpfn.network",
        "RowTransformer": "foreknow.tasks.tabpfn.network",
        "RulePrior": "foreknow.tasks.tabular.priors.rules",
        "SCMPrior": "foreknow.tasks.tabular.priors.scm",
        "SmoothPrior": "foreknow.tasks.tabular.priors.smooth",
        "StackNetwork": "foreknow.tasks.tabular.network",
        "StrokePrior": "foreknow.tasks.pfn.priors.strokes",
        "TabPFN": "foreknow.tasks.tabpfn.system",
        "TablePrior": "foreknow.tasks.tabular.priors.base",
        "TabularBNNPrior": "foreknow.tasks.pfn.priors.tabular",
        "TabularClassifier": "foreknow.tasks.tabular.classifier",
        "TabularGPPrior": "foreknow.tasks.pfn.priors.tabular",
        "TabularRegressor": "foreknow.tasks.tabular.regressor",
        "TreeSCMPrior": "foreknow.tasks.tabular.priors.trees",
        "should_stop": "foreknow.tasks.lc_pfn.stopping_rule",
    },
)
