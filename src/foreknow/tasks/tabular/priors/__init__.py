"""Priors over tables: what the shipped networks are fitted to, open to inspection."""

from foreknow.tasks.pfn.priors.mixture import MixturePrior
from foreknow.tasks.tabular.priors.base import TablePrior
from foreknow.tasks.tabular.priors.rules import RulePrior
from foreknow.tasks.tabular.priors.scm import EXTENDED, SCMPrior
from foreknow.tasks.tabular.priors.trees import TreeSCMPrior

__all__ = ["MixturePrior", "RulePrior", "SCMPrior", "TablePrior", "TreeSCMPrior", "members_and_weights", "paper_prior"]


def members_and_weights(
    task: str = "classification", *, n_features: int = 10, n_classes: int = 10
) -> tuple[tuple[TablePrior, ...], tuple[float, ...]]:
    """The priors that the shipped networks are fitted to, and their shares.

    Args:
        task: "classification" or "regression".
        n_features: columns.
        n_classes: largest number of classes.
    """
    sizes = {"n_features": n_features, "n_classes": n_classes, "task": task}
    members = (SCMPrior(activations=EXTENDED, **sizes), TreeSCMPrior(**sizes), RulePrior(**sizes))
    return members, (0.6, 0.3, 0.1)


def paper_prior(task: str = "classification", *, n_features: int = 10, n_classes: int = 10) -> MixturePrior:
    """The mixture of `members_and_weights`, one object."""
    return MixturePrior(*members_and_weights(task, n_features=n_features, n_classes=n_classes))
