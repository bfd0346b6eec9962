"""BoTorch and its kin, imported where they are used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from foreknow.common.deps import require


def bo(module: str, purpose: str = "Bayesian optimisation") -> ModuleType:
    """Import `module` of the extra `bo`, without the warnings that its own imports raise.

    Raises:
        MissingExtraError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it compiles functions in a way that PyTorch gives up
        return require(module, purpose)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of BoTorch and its kin on what is meant here: few iterations, jitter, unscaled data."""
    botorch = bo("botorch.exceptions.warnings")
    linear = bo("linear_operator.utils.warnings")
    gpytorch = bo("gpytorch.utils.warnings")
    with warnings.catch_warnings():
        for kind in (botorch.BotorchWarning, linear.NumericalWarning, gpytorch.GPInputWarning):
            warnings.simplefilter("ignore", kind)
        yield
