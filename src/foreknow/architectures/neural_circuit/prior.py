"""The circuit as a prior over controllers, with every ingredient a field, and its control arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator

from foreknow.architectures.neural_circuit.card import CARD
from foreknow.architectures.neural_circuit.circuit import Circuit
from foreknow.architectures.neural_circuit.policy import INITS, CircuitPolicy, NetworkPolicy
from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.card import Card
from foreknow.core.pictures import Lines
from foreknow.core.prior import Prior
from foreknow.core.records import record
from foreknow.core.registry import register
from foreknow.core.world import Array


@register(CARD)
@dataclass(frozen=True)
class CircuitPrior(Prior):
    """Controllers are wired like a worm's motor circuit.

    Args:
        period: of the oscillator, in control steps.
        sign: whether synapses keep their sign, excitatory or inhibitory.
        sharing: one weight for all synapses of a kind, or one for each synapse.
        init: "constant" (weights start at +1 and -1) or "uniform" (in between).
        oscillator: whether the head has its oscillator.
        proprioception: whether B-neurons feel the joint ahead.
        speed: whether a command slows all segments.
        n_turn: segments behind the head that a command turns.
        wiring: "paper", or "permuted": B-neurons feel some other joint and side, a placebo.
        circuit: another circuit, for bodies of its number of joints; the fields that describe the wiring then do not
            count.
    """

    period: int = 60
    sign: bool = True
    sharing: bool = True
    init: str = "constant"
    oscillator: bool = True
    proprioception: bool = True
    speed: bool = False
    n_turn: int = 0
    wiring: str = "paper"
    circuit: Circuit | None = None

    def __post_init__(self) -> None:
        check_bool("CircuitPrior", "sign", self.sign)
        check_option("CircuitPrior", "init", self.init, INITS)
        if self.circuit is not None and not isinstance(self.circuit, Circuit):
            raise ConfigError(f"CircuitPrior: circuit must be a Circuit or None, got {self.circuit!r:.80}.")
        if self.circuit is None:
            self.circuit_of(max(2, check_int("CircuitPrior", "n_turn", self.n_turn, low=0)))

    def circuit_of(self, n_joints: int) -> Circuit:
        """The circuit of a body with `n_joints` joints.

        Raises:
            ConfigError: a circuit was given, and is of another body.
        """
        if self.circuit is not None:
            if self.circuit.n_joints != n_joints:
                raise ConfigError(
                    f"CircuitPrior: the circuit has {self.circuit.n_joints} joints, the body {n_joints}.",
                    hint="Lay it out for this body.",
                )
            return self.circuit
        return Circuit.swimmer(
            n_joints,
            self.period,
            sharing=self.sharing,
            speed=self.speed,
            n_turn=self.n_turn,
            oscillator=self.oscillator,
            proprioception=self.proprioception,
            wiring=self.wiring,
        )

    def policy(
        self,
        n_joints: int,
        *,
        generator: Generator | None = None,
        joint_columns: Sequence[int] | None = None,
        joint_limit: float | None = None,
        target_columns: Sequence[int] | None = None,
    ) -> CircuitPolicy:
        """A controller of a body with `n_joints` joints; see `CircuitPolicy`."""
        return CircuitPolicy(
            self.circuit_of(n_joints),
            sign=self.sign,
            init=self.init,
            generator=generator,
            joint_columns=joint_columns,
            joint_limit=joint_limit,
            target_columns=target_columns,
        )

    def off(self) -> Prior:
        return PlainNetwork()

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(),
            cls(sharing=False, init="uniform"),
            cls(sign=False, oscillator=False, speed=True, n_turn=1),
            cls(circuit=Circuit.swimmer(3, 20, wiring="permuted")),
        ]

    def picture(self, n: int, *, generator: Generator) -> Lines:
        """The first rhythm of a controller, without a simulator: joints that follow their torques with a lag.

        Args:
            n: joints of the body; at least 2.
            generator: of random first weights.
        """
        n = self.circuit.n_joints if self.circuit is not None else max(2, n)
        policy = self.policy(n, generator=generator)
        angles = first_rhythm(policy, 4 * policy.circuit.period)
        lines = {f"joint {joint + 1}": angles[:, joint] for joint in range(n)}
        return Lines(np.arange(len(angles)), lines, "control step", "angle over limit", "First rhythm of the circuit")

    def describe(self) -> str:
        """One line for people."""
        return f"motor circuit, period {self.period}, {'shared' if self.sharing else 'single'} weights, {self.init}"


@record
@dataclass(frozen=True)
class PlainNetwork(Prior):
    """The control arm: any function, as a network of tanh layers.

    Args:
        hidden: widths of the layers.
    """

    hidden: tuple[int, ...] = (64, 64)

    card: ClassVar[Card] = CARD

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, tuple) or not self.hidden:
            raise ConfigError(f"PlainNetwork: hidden must be a tuple of widths, got {self.hidden!r:.80}.")
        for width in self.hidden:
            check_int("PlainNetwork", "hidden", width, low=1)

    def policy(self, n_observations: int, n_actions: int, *, generator: Generator) -> NetworkPolicy:
        """A network with fresh weights."""
        with seeded_init(int(torch.randint(2**62, (), generator=generator))):
            return NetworkPolicy(n_observations, n_actions, self.hidden)

    def off(self) -> Prior:
        return self


def first_rhythm(policy: CircuitPolicy, n_steps: int, lag: float = 10.0) -> Array:
    """Angles over their limit of joints that move towards their torque at a rate of 1 / `lag` a step, from rest."""
    act, limit = policy.act(), policy.joint_limit
    angles = np.zeros((n_steps + 1, policy.circuit.n_joints))
    columns = list(policy.joint_columns)
    observation = np.zeros(max([*columns, *(policy.target_columns or ())]) + 1)
    for t in range(n_steps):
        observation[columns] = limit * angles[t]
        angles[t + 1] = angles[t] + (act(observation, t) - angles[t]) / lag
    return angles
