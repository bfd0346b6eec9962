"""Priors over tables: what the shipped networks are fitted to, open to inspection."""

from dataclasses import replace
from typing import Any

from foreknow.common.validate import check_option
from foreknow.tasks.pfn.priors.mixture import MixturePrior
from foreknow.tasks.tabular.priors.base import TablePrior
from foreknow.tasks.tabular.priors.graph import GraphPrior
from foreknow.tasks.tabular.priors.rules import RulePrior
from foreknow.tasks.tabular.priors.scm import EXTENDED, SCMPrior
from foreknow.tasks.tabular.priors.smooth import SmoothPrior
from foreknow.tasks.tabular.priors.trees import TreeSCMPrior

__all__ = [
    "VARIANTS",
    "GraphPrior",
    "MixturePrior",
    "RulePrior",
    "SCMPrior",
    "SmoothPrior",
    "TablePrior",
    "TreeSCMPrior",
    "members_and_weights",
    "paper_prior",
]


VARIANTS = ("full", "linear", "bnn", "published")
"""Mixtures to fit a network to: the shipped one, and the control arms of the proof."""


def members_and_weights(
    task: str = "classification", *, n_features: int = 10, n_classes: int = 10, variant: str = "full"
) -> tuple[tuple[TablePrior, ...], tuple[float, ...]]:
    """The priors that the shipped networks are fitted to, and their shares.

    Args:
        task: "classification" or "regression".
        n_features: columns.
        n_classes: largest number of classes.
        variant: "full"; or one member only: "linear" (networks with identity activations), "bnn" (no causal
            models) or "published" (the networks of the released sampler, unfiltered and without extensions).

    Raises:
        ConfigError: unknown task or variant, or sizes out of range.
    """
    check_option("members_and_weights", "variant", variant, VARIANTS)
    sizes: dict[str, Any] = {"n_features": n_features, "n_classes": n_classes, "task": task}
    if variant == "published":
        return (replace(SCMPrior.published(), **sizes),), (1.0,)
    networks = SCMPrior(**sizes, activations=EXTENDED, linear_only=variant == "linear", bnn_only=variant == "bnn")
    if variant != "full":
        return (networks,), (1.0,)
    others = (TreeSCMPrior(**sizes), RulePrior(**sizes), SmoothPrior(**sizes), GraphPrior(**sizes))
    return (networks, *others), (0.45, 0.25, 0.1, 0.1, 0.1)


def paper_prior(
    task: str = "classification", *, n_features: int = 10, n_classes: int = 10, variant: str = "full"
) -> MixturePrior:
    """The mixture of `members_and_weights` as one simulator."""
    members, weights = members_and_weights(task, n_features=n_features, n_classes=n_classes, variant=variant)
    return MixturePrior(members, weights)
