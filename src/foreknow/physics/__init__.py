"""Priors of laws and operators: what is known of the equations behind the data."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.physics.mgno.network import MgConv, MgNO
    from foreknow.physics.mgno.prior import MultigridPrior
    from foreknow.physics.mgno.system import OperatorRegressor

_MGNO = "foreknow.physics.mgno."
_PUBLIC = {
    "FNORegressor": _MGNO + "baselines",
    "MgConv": _MGNO + "network",
    "MgNO": _MGNO + "network",
    "MultigridPrior": _MGNO + "prior",
    "OperatorRegressor": _MGNO + "system",
    "PCARidge": _MGNO + "baselines",
    "relative_h1": _MGNO + "losses",
    "relative_h1_differences": _MGNO + "losses",
    "relative_l2": _MGNO + "losses",
    "start_as_poisson": _MGNO + "poisson",
}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605

__getattr__, __dir__ = _lazy_names(__name__, _PUBLIC)
