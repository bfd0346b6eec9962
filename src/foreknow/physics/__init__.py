"""Priors of laws and operators: what is known of the equations behind the data."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.physics.mgno.baselines import FNORegressor, PCARidge
    from foreknow.physics.mgno.losses import relative_h1, relative_h1_differences, relative_l2
    from foreknow.physics.mgno.network import MgConv, MgNO
    from foreknow.physics.mgno.poisson import start_as_poisson
    from foreknow.physics.mgno.prior import MultigridPrior
    from foreknow.physics.mgno.system import OperatorRegressor

__all__ = [
    "FNORegressor",
    "MgConv",
    "MgNO",
    "MultigridPrior",
    "OperatorRegressor",
    "PCARidge",
    "relative_h1",
    "relative_h1_differences",
    "relative_l2",
    "start_as_poisson",
]

_MGNO = "foreknow.physics.mgno."
__getattr__, __dir__ = _lazy_names(
    __name__,
    {
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
    },
)
