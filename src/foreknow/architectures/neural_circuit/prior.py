"""The circuit as a prior over controllers, with every ingredient a field, and its control arm."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Generator

from foreknow.architectures.neural_circuit.card import CARD
from foreknow.architectures.neural_circuit.circuit import Circuit
from foreknow.architectures.neural_circuit.policy import INITS, CircuitPolicy, NetworkPolicy, Policy
from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.card import Card
from foreknow.core.pictures import ImageGrid
from foreknow.core.prior import Draw, Prior
from foreknow.core.records import record
from foreknow.core.registry import register
from foreknow.core.world import Array

JOINTS = 5
"""Of the chains in draws."""
LAG = 10.0
"""Steps in which the joint of such a chain follows its torque."""


class ControllerPrior(Prior):
    """A prior over controllers of a chain of joints; a draw is what one does to a chain without a simulator."""

    @abstractmethod
    def _of_angles(self, generator: Generator) -> tuple[Policy, int]:
        """A controller that sees the angles of a chain's joints and nothing else, and the number of the joints."""

    def sample(
        self,
        n: int,
        *,
        n_steps: int = 240,
        generator: Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Draw:
        """First rhythms of `n` controllers, from random bends; shape (n, n_steps + 1, n_joints).

        Each joint's angle moves towards its torque at a rate of a tenth a step; both count in units of the limits.

        Args:
            n: number of controllers, at least 1.
            n_steps: control steps, at least 1.
            generator: of first weights and first bends.
            device: where the draws live.
            dtype: float32 by default.
        """
        check_int(type(self).__name__, "n", n, low=1)
        check_int(type(self).__name__, "n_steps", n_steps, low=1)
        found = []
        for _ in range(n):
            policy, n_joints = self._of_angles(generator)
            limit = policy.joint_limit if isinstance(policy, CircuitPolicy) else 2 * math.pi / (n_joints + 1)
            act, angles = policy.act(), np.empty((n_steps + 1, n_joints))
            angles[0] = 2 * torch.rand(n_joints, generator=generator, dtype=torch.float64).numpy() - 1
            for t in range(n_steps):
                angles[t + 1] = angles[t] + (act(limit * angles[t], t) - angles[t]) / LAG
            found.append(angles)
        return Draw(torch.as_tensor(np.stack(found)).to(device or generator.device, dtype or torch.float32))

    def picture(self, n: int, *, generator: Generator) -> ImageGrid:
        """First rhythms of `n` controllers: time to the right, head on top, bends to the two sides dark and bright."""
        images = [over_time(angles.numpy()) for angles in self.sample(n, generator=generator).value]
        across = math.ceil(math.sqrt(n))
        rows: list[list[Array | None]] = [[*images[k : k + across]] for k in range(0, n, across)]
        rows[-1] += [None] * (across - len(rows[-1]))
        return ImageGrid(rows, title="First rhythms: time to the right, head on top", limits=(-1.0, 1.0))


@register(CARD)
@dataclass(frozen=True)
class CircuitPrior(ControllerPrior):
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
            self.circuit_of(max(2, check_int("CircuitPrior", "n_turn", self.n_turn, low=0)))  # checks the fields

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

    def _of_angles(self, generator: Generator) -> tuple[Policy, int]:
        return self.policy(self._n_joints, generator=generator), self._n_joints

    @property
    def _n_joints(self) -> int:
        return JOINTS if self.circuit is None else self.circuit.n_joints

    def off(self) -> Prior:
        return PlainNetwork(n_joints=self._n_joints)

    @classmethod
    def examples(cls) -> list[Prior]:
        return [
            cls(),
            cls(sharing=False, init="uniform"),
            cls(sign=False, oscillator=False, speed=True, n_turn=1),
            cls(circuit=Circuit.swimmer(3, 20, wiring="permuted")),
        ]

    def describe(self) -> str:
        """One line for people."""
        return f"motor circuit, period {self.period}, {'shared' if self.sharing else 'single'} weights, {self.init}"


@record
@dataclass(frozen=True)
class PlainNetwork(ControllerPrior):
    """The control arm: any function, as a network of tanh layers.

    Args:
        hidden: widths of the layers.
        n_joints: of the chains in draws; in a world its actions count.
    """

    hidden: tuple[int, ...] = (64, 64)
    n_joints: int = JOINTS

    card: ClassVar[Card] = CARD

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, tuple) or not self.hidden:
            raise ConfigError(f"PlainNetwork: hidden must be a tuple of widths, got {self.hidden!r:.80}.")
        check_int("PlainNetwork", "n_joints", self.n_joints, low=1)
        for width in self.hidden:
            check_int("PlainNetwork", "hidden", width, low=1)

    def policy(self, n_observations: int, n_actions: int, *, generator: Generator) -> NetworkPolicy:
        """A network with fresh weights."""
        with seeded_init(int(torch.randint(2**62, (), generator=generator))):
            return NetworkPolicy(n_observations, n_actions, self.hidden)

    def _of_angles(self, generator: Generator) -> tuple[Policy, int]:
        return self.policy(self.n_joints, self.n_joints, generator=generator), self.n_joints

    def off(self) -> Prior:
        return self


def over_time(angles: Array) -> Array:
    """Angles of joints, shape (n_steps, n_joints), as an image about half as high as wide: time to the right."""
    return np.repeat(angles.T, max(1, round(len(angles) / (2 * angles.shape[1]))), axis=0)
