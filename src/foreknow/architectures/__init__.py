"""Structure wired into the network."""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from foreknow.common.lazy import lazy_names as _lazy_names

if _TYPE_CHECKING:
    from foreknow.architectures.neural_circuit.circuit import Circuit
    from foreknow.architectures.neural_circuit.policy import CircuitPolicy, NetworkPolicy
    from foreknow.architectures.neural_circuit.prior import CircuitPrior, PlainNetwork
    from foreknow.architectures.neural_circuit.swimmer import SwimmerWorld
    from foreknow.architectures.neural_circuit.system import CircuitController

__all__ = [
    "Circuit",
    "CircuitController",
    "CircuitPolicy",
    "CircuitPrior",
    "NetworkPolicy",
    "PlainNetwork",
    "SwimmerWorld",
]

_CIRCUIT = "foreknow.architectures.neural_circuit."
__getattr__, __dir__ = _lazy_names(
    __name__,
    {
        "Circuit": _CIRCUIT + "circuit",
        "CircuitController": _CIRCUIT + "system",
        "CircuitPolicy": _CIRCUIT + "policy",
        "CircuitPrior": _CIRCUIT + "prior",
        "NetworkPolicy": _CIRCUIT + "policy",
        "PlainNetwork": _CIRCUIT + "prior",
        "SwimmerWorld": _CIRCUIT + "swimmer",
    },
)
