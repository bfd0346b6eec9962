"""A motor circuit as data: who connects to whom, with what sign, and which synapses share one weight.

Neurons are numbered: first the inputs, then any number of neurons between, last the muscles, dorsal 1..n and ventral
1..n for n joints. Each neuron but the inputs is sigma(sum of weight times presynaptic activity), sigma(x) =
clip(x, 0, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from foreknow.common.errors import CapabilityError, ConfigError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_bool, check_int, check_option
from foreknow.core.records import record

COMMANDS = ("osc_d", "osc_v", "slow", "right", "left")
"""Inputs besides the sensors: the two phases of the head's oscillator, 1 - speed, and turning to either side."""
WIRINGS = ("paper", "permuted")


def input_names(n_joints: int) -> tuple[str, ...]:
    """Every input a circuit may have: d1.. (dorsal bend of joint 1..), v1.. (ventral bend), and `COMMANDS`."""
    return (*(f"{side}{joint + 1}" for side in "dv" for joint in range(n_joints)), *COMMANDS)


@record
@dataclass(frozen=True)
class Circuit:
    """A wiring diagram that turns bends of a chain's joints into torques.

    Args:
        n_joints: of the body, at least 2; joint 1 is behind the head.
        inputs: names of the input neurons, of `input_names(n_joints)`.
        n_neurons: all of them, inputs and the 2 n_joints muscles included.
        synapses: (from, to, weight) with numbers of neurons and of a weight.
        weights: (name, sign) of each weight; sign +1, -1, or 0 where it is not known.
        period: of the oscillator, in control steps, even, at least 2.
        options: what `Circuit.swimmer` was told, if it made this circuit; so it can be laid out on another body.

    Raises:
        ConfigError: a number is out of range, or the synapses form a cycle.
    """

    n_joints: int
    inputs: tuple[str, ...]
    n_neurons: int
    synapses: tuple[tuple[int, int, int], ...]
    weights: tuple[tuple[str, int], ...]
    period: int = 60
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_int("Circuit", "n_joints", self.n_joints, low=2)
        if check_int("Circuit", "period", self.period, low=2) % 2:
            raise ConfigError(f"Circuit: period must be even (both phases last equally long), got {self.period}.")
        for name in self.inputs:
            check_option("Circuit", "inputs", name, input_names(self.n_joints))
        check_int("Circuit", "n_neurons", self.n_neurons, low=len(self.inputs) + 2 * self.n_joints)
        for source, target, weight in self.synapses:
            check_int("Circuit", "the origin of a synapse", source, low=0, high=self.n_neurons - 1)
            check_int("Circuit", "the end of a synapse", target, low=len(self.inputs), high=self.n_neurons - 1)
            check_int("Circuit", "the weight of a synapse", weight, low=0, high=len(self.weights) - 1)
        for name, sign in self.weights:
            if sign not in (-1, 0, 1):
                raise ConfigError(f"Circuit: the sign of {name!r} must be 1, -1 or 0 (unknown), got {sign!r}.")
        self.levels()

    @classmethod
    def swimmer(
        cls,
        n_joints: int,
        period: int = 60,
        *,
        sharing: bool = True,
        speed: bool = False,
        n_turn: int = 0,
        oscillator: bool = True,
        proprioception: bool = True,
        wiring: str = "paper",
    ) -> Circuit:
        """The circuit of the paper: in every segment two B-neurons and two muscles, dorsal and ventral.

        A B-neuron is driven by the bend of the joint ahead on its own side, the first by the oscillator; it excites
        the muscle on its side and inhibits the opposite one.

        Args:
            n_joints: of the body.
            period: of the oscillator, in control steps.
            sharing: one weight for all synapses of a kind (4 in all), or one for each synapse.
            speed: whether a command slows all B-neurons.
            n_turn: segments behind the head that a command turns.
            oscillator: whether the head has its oscillator.
            proprioception: whether B-neurons feel the joint ahead.
            wiring: "permuted" gives each B-neuron the bend of some other joint and side, a placebo.
        """
        n = check_int("Circuit.swimmer", "n_joints", n_joints, low=2)
        check_int("Circuit.swimmer", "n_turn", n_turn, low=0, high=n)
        check_option("Circuit.swimmer", "wiring", wiring, WIRINGS)
        for flag, value in (("sharing", sharing), ("speed", speed), ("oscillator", oscillator),
                            ("proprioception", proprioception)):  # fmt: skip
            check_bool("Circuit.swimmer", flag, value)
        used = {"osc_d": oscillator, "osc_v": oscillator, "slow": speed, "right": n_turn > 0, "left": n_turn > 0}
        inputs = tuple(name for name in input_names(n) if used.get(name, True))
        at = {name: number for number, name in enumerate(inputs)}
        b = {(side, i): len(inputs) + k * n + i for k, side in enumerate("dv") for i in range(n)}
        muscle = {key: number + 2 * n for key, number in b.items()}
        other, turn = {"d": "v", "v": "d"}, {"d": "right", "v": "left"}
        felt = [(side, i) for side in "dv" for i in range(n - 1)]
        if wiring == "permuted":
            felt = [felt[k] for k in _derangement(len(felt))]
        ahead = dict(zip(((side, i) for side in "dv" for i in range(1, n)), felt, strict=True))

        found: list[tuple[int, int, str, int]] = []  # from, to, kind, sign
        for (side, i), neuron in b.items():
            if i == 0 and oscillator:
                found.append((at[f"osc_{side}"], neuron, "osc", 1))
            if i > 0 and proprioception:
                feels = ahead[side, i]
                found.append((at[f"{feels[0]}{feels[1] + 1}"], neuron, "prop", 1))
            if speed:
                found.append((at["slow"], neuron, "speed", -1))
            if i < n_turn:
                found.append((at[turn[side]], neuron, "turn", 1))
            found.append((neuron, muscle[side, i], "ipsi", 1))
            found.append((neuron, muscle[other[side], i], "contra", -1))
        names = [kind if sharing else f"{kind} {source}-{target}" for source, target, kind, _ in found]
        weights = dict(zip(names, (sign for *_, sign in found), strict=True))
        order = {name: number for number, name in enumerate(weights)}
        synapses = tuple((s, t, order[name]) for (s, t, *_), name in zip(found, names, strict=True))
        options = {"period": period, "sharing": sharing, "speed": speed, "n_turn": n_turn, "oscillator": oscillator,
                   "proprioception": proprioception, "wiring": wiring}  # fmt: skip
        return cls(n, inputs, len(inputs) + 4 * n, synapses, tuple(weights.items()), period, tuple(options.items()))

    @classmethod
    def from_adjacency(
        cls,
        A: ArrayLike,
        signs: ArrayLike,
        groups: ArrayLike | None = None,
        *,
        inputs: Sequence[str],
        n_joints: int,
        period: int = 60,
    ) -> Circuit:
        """A circuit from a connectome: its first neurons are the `inputs`, its last 2 n_joints the muscles.

        Args:
            A: shape (n, n); a synapse leads from i to j where A[i, j] is not 0.
            signs: +1 (excites), -1 (inhibits) or 0 (unknown): of each neuron, shape (n,), or synapse, shape (n, n).
            groups: shape (n, n), whole numbers; synapses of one number share one weight. None gives each its own.
            inputs: names of the input neurons, of `input_names(n_joints)`.
            n_joints: of the body.
            period: of the oscillator.

        Raises:
            ConfigError: a shape does not fit, a sign is unknown, a group has two signs, or the synapses form a cycle.
        """
        wired = np.asarray(A) != 0
        n = len(wired)
        if wired.shape != (n, n):
            raise ConfigError(f"Circuit.from_adjacency: A must be square, got shape {wired.shape}.")
        sign = np.asarray(signs)
        if sign.shape not in ((n,), (n, n)):
            raise ConfigError(
                f"Circuit.from_adjacency: signs must have shape ({n},), one a neuron, or ({n}, {n}), one a synapse; "
                f"got {sign.shape}."
            )
        sign = np.broadcast_to(sign[:, None] if sign.ndim == 1 else sign, (n, n))
        pairs = [(int(i), int(j)) for i, j in np.argwhere(wired)]
        if groups is not None and np.shape(groups) != (n, n):
            raise ConfigError(f"Circuit.from_adjacency: groups must have shape ({n}, {n}), got {np.shape(groups)}.")
        names = [f"{i}-{j}" if groups is None else f"group {np.asarray(groups)[i, j]}" for i, j in pairs]
        weights: dict[str, int] = {}
        for name, (i, j) in zip(names, pairs, strict=True):
            if weights.setdefault(name, int(sign[i, j])) != sign[i, j]:
                raise ConfigError(f"Circuit.from_adjacency: the synapses of {name!r} have different signs.")
        order = {name: number for number, name in enumerate(weights)}
        synapses = tuple((i, j, order[name]) for (i, j), name in zip(pairs, names, strict=True))
        return cls(n_joints, tuple(inputs), n, synapses, tuple(weights.items()), period)

    def levels(self) -> list[list[int]]:
        """The neurons behind the inputs, grouped so that each group depends on earlier ones only."""
        before = {target: set[int]() for target in range(len(self.inputs), self.n_neurons)}
        for source, target, _ in self.synapses:
            if source >= len(self.inputs):
                before[target].add(source)
        known: set[int] = set()
        found: list[list[int]] = []
        while len(known) < len(before):
            ready = [neuron for neuron, needs in before.items() if neuron not in known and needs <= known]
            if not ready:
                rest = sorted(set(before) - known)
                raise ConfigError(
                    f"Circuit: the synapses between neurons {rest[:8]} form a cycle; activity must run one way.",
                    hint="Leave out recurrent synapses; the body closes the loop.",
                )
            found.append(ready)
            known |= set(ready)
        return found

    def for_body(self, n_joints: int) -> Circuit:
        """The same circuit laid out on a body with another number of joints.

        Raises:
            CapabilityError: its weights belong to single synapses, or it was not made by `Circuit.swimmer`.
        """
        options = dict(self.options)
        if not options.get("sharing", False):
            raise CapabilityError(
                "Circuit.for_body: only a circuit of Circuit.swimmer whose segments share their weights fits other "
                "bodies.",
                hint="Use Circuit.swimmer(n_joints, sharing=True).",
            )
        return Circuit.swimmer(n_joints, **options)


def _derangement(n: int) -> list[int]:
    """A fixed shuffle of 0..n-1 that leaves nothing in its place."""
    order = numpy_stream(0, "neural-circuit", "permuted", str(n)).permutation(n)
    return [int(order[(k + 1) % n]) for k in np.argsort(order)]
