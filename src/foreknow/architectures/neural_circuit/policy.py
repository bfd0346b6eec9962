"""Controllers as plain modules: the circuit with its few weights, and the network without one.

Both map observations and step numbers to actions, `policy(obs, t)`; `act()` gives the same function of one observation
in numpy, for the thousands of single steps of a simulator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from foreknow.architectures.neural_circuit.circuit import COMMANDS, Circuit
from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.common.validate import check_bool, check_int, check_option, check_real
from foreknow.core.world import Act, Array

INITS = ("constant", "uniform")
CLOCK = 1000.0
"""Steps that a network's clock input needs from -1 to 1."""


class CircuitPolicy(nn.Module):
    """A circuit as a policy: (observations, step numbers) -> torques in [-1, 1].

    The parameters are the circuit's weights, in float64. Signs are imposed where the weights are used, not on the
    parameters themselves.

    Args:
        circuit: the wiring.
        sign: whether the signs are imposed.
        init: "constant" starts at +1 and -1 by sign, "uniform" in U(0, 1) and U(-1, 0); without signs at +1 or -1
            with equal probability, or in U(-1, 1).
        joint_columns: columns of the observations that hold the joints' angles, head first; the first ones if None.
        joint_limit: the angle in radians at which a joint counts as fully bent; 2 pi / (n_joints + 1) if None.
        target_columns: columns with the vector to a target, which the commands follow, in a frame of the head in which
            it looks along -y and +x lies on its left.
        generator: of random first weights; None always gives the same ones.
    """

    edges: Tensor
    shared: Tensor

    def __init__(
        self,
        circuit: Circuit,
        *,
        sign: bool = True,
        init: str = "constant",
        joint_columns: Sequence[int] | None = None,
        joint_limit: float | None = None,
        target_columns: Sequence[int] | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.circuit, self.sign = circuit, check_bool("CircuitPolicy", "sign", sign)
        self.init = check_option("CircuitPolicy", "init", init, INITS)
        n = circuit.n_joints
        self.joint_columns = columns_of("joint_columns", joint_columns, n) or tuple(range(n))
        self._given_limit = joint_limit
        self.joint_limit = 2 * math.pi / (n + 1) if joint_limit is None else joint_limit
        check_real("CircuitPolicy", "joint_limit", self.joint_limit, low=0, open_low=True)
        self.target_columns = columns_of("target_columns", target_columns, 2)

        self.weights = nn.Parameter(self._first_weights(generator))
        n_inputs, levels = len(circuit.inputs), circuit.levels()
        order = [*range(n_inputs), *(neuron for level in levels for neuron in level)]
        place = {neuron: number for number, neuron in enumerate(order)}
        edges = (
            torch.tensor([(place[target], place[source]) for source, target, _ in circuit.synapses]).reshape(-1, 2).T
        )
        self.register_buffer("edges", edges, persistent=False)
        self.register_buffer("shared", torch.tensor([w for *_, w in circuit.synapses]).long(), persistent=False)
        self._ends = np.cumsum([n_inputs, *map(len, levels)]).tolist()
        muscles = [place[neuron] for neuron in range(circuit.n_neurons - 2 * n, circuit.n_neurons)]
        self._dorsal, self._ventral = muscles[:n], muscles[n:]
        known = [*(f"{side}{i + 1}" for side in "dv" for i in range(n)), *COMMANDS]
        self._inputs = [known.index(name) for name in circuit.inputs]

    def named_weights(self) -> dict[str, float]:
        """The weights as used, by name."""
        used = self.effective().detach().cpu().tolist()
        return {name: value for (name, _), value in zip(self.circuit.weights, used, strict=True)}

    def effective(self) -> Tensor:
        """The weights as used: those of the wrong sign count as 0; shape (n_weights,)."""
        if not self.sign:
            return self.weights
        signs = torch.tensor([sign for _, sign in self.circuit.weights]).to(self.weights)
        return torch.where(signs == 0, self.weights, signs * (signs * self.weights).clamp(min=0))

    def forward(self, obs: Tensor, t: Tensor | float) -> Tensor:
        """Torques of observations, shape (..., n_observations), at steps `t`, shape (...) -> (..., n_joints).

        Raises:
            InputError: the step number is missing, or is no whole number from 0; too few observations.
        """
        steps = check_steps(t, obs)
        self._check_width(obs.shape[-1])
        bend = (obs[..., self.joint_columns].to(self.weights) / self.joint_limit).clamp(-1, 1)
        phase = (steps % self.circuit.period < self.circuit.period / 2).to(bend)
        commands = [phase, 1 - phase, *self._commands(obs, phase)]
        known = torch.cat([bend.clamp(min=0), (-bend).clamp(min=0), torch.stack(commands, dim=-1)], dim=-1)
        active, matrix = known[..., self._inputs], self._matrix()
        for start, end in zip(self._ends, self._ends[1:], strict=False):
            active = torch.cat([active, (active @ matrix[start:end, :start].T).clamp(0, 1)], dim=-1)
        return active[..., self._dorsal] - active[..., self._ventral]

    def act(self) -> Act:
        """The policy of one observation and step, in numpy, with the weights as they are now."""
        matrix = self._matrix().detach().cpu().numpy()
        levels = [matrix[start:end, :start] for start, end in zip(self._ends, self._ends[1:], strict=False)]
        columns, inputs = list(self.joint_columns), self._inputs
        dorsal, ventral, limit, period = self._dorsal, self._ventral, self.joint_limit, self.circuit.period
        target = self.target_columns

        def act(obs: Array, t: int) -> Array:
            self._check_width(len(obs))
            bend = np.minimum(np.maximum(obs[columns] / limit, -1.0), 1.0)
            phase = float(t % period < period / 2)
            slow = right = left = 0.0
            if target is not None:
                x, y = obs[target[0]], obs[target[1]]
                slow, right, left = 1.0 - min(abs(y), 1.0), float(x < -0.1), float(x > 0.1)
            commands = [phase, 1.0 - phase, slow, right, left]
            active = np.concatenate([np.maximum(bend, 0.0), np.maximum(-bend, 0.0), commands])[inputs]
            for level in levels:
                active = np.concatenate([active, np.minimum(np.maximum(level @ active, 0.0), 1.0)])
            torque: Array = active[dorsal] - active[ventral]
            return torque

        return act

    def for_body(self, n_joints: int) -> CircuitPolicy:
        """The same weights on a body with another number of joints, whose observations begin with their angles.

        Raises:
            CapabilityError: the weights are not shared between segments.
        """
        longer = CircuitPolicy(
            self.circuit.for_body(n_joints),
            sign=self.sign,
            joint_limit=self._given_limit,
            target_columns=None if self.target_columns is None else (n_joints, n_joints + 1),
        )
        with torch.no_grad():
            longer.weights.copy_(self.weights)
        return longer.to(self.weights.device)

    def _check_width(self, n: int) -> None:
        needed = 1 + max(*self.joint_columns, *(self.target_columns or ()))
        if n < needed:
            raise InputError(
                f"CircuitPolicy: it reads column {needed - 1} of the observations, which have {n} columns.",
                hint="joint_columns and target_columns say where angles and target are.",
            )

    def _matrix(self) -> Tensor:
        """Weights between neurons in the order of their levels, shape (n_neurons, n_neurons), to and from."""
        n = self.circuit.n_neurons
        values = self.effective()[self.shared]
        return torch.zeros(n, n).to(values).index_put((self.edges[0], self.edges[1]), values, accumulate=True)

    def _commands(self, obs: Tensor, like: Tensor) -> list[Tensor]:
        if self.target_columns is None:
            return [torch.zeros_like(like)] * 3
        x, y = (obs[..., column].to(like) for column in self.target_columns)
        return [1 - y.abs().clamp(max=1), (x < -0.1).to(like), (x > 0.1).to(like)]

    def _first_weights(self, generator: Generator | None) -> Tensor:
        signs = torch.tensor([sign if self.sign else 0 for _, sign in self.circuit.weights], dtype=torch.float64)
        if self.init == "constant" and bool((signs != 0).all()):
            return signs
        u = torch.rand(len(signs), generator=generator or torch_stream(0, "first weights"), dtype=torch.float64)
        unsigned = torch.where(u < 0.5, -1.0, 1.0) if self.init == "constant" else 2 * u - 1
        return torch.where(signs == 0, unsigned, signs if self.init == "constant" else signs * u)


class NetworkPolicy(nn.Module):
    """The control arm: a network of tanh layers that sees all observations, standardised, and the clock.

    Args:
        n_observations, n_actions: of the world.
        hidden: widths of the layers.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, n_observations: int, n_actions: int, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        widths = [n_observations + 1, *(check_int("NetworkPolicy", "hidden", width, low=1) for width in hidden)]
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths, [*widths[1:], n_actions], strict=True):
            layers += [nn.Linear(n_in, n_out, dtype=torch.float64), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.register_buffer("mean", torch.zeros(n_observations, dtype=torch.float64))
        self.register_buffer("sd", torch.ones(n_observations, dtype=torch.float64))

    def standardise(self, mean: Array | Tensor, sd: Array | Tensor) -> None:
        """Read observations in units of their standard deviation from their mean, from now on."""
        self.mean.copy_(torch.as_tensor(mean))
        self.sd.copy_(torch.as_tensor(sd).clamp(min=1e-6))

    def forward(self, obs: Tensor, t: Tensor | float) -> Tensor:
        """Actions of observations, shape (..., n_observations), at steps `t`, shape (...) -> (..., n_actions)."""
        clock = 2 * check_steps(t, obs).to(self.mean) / CLOCK - 1
        seen: Tensor = self.layers(torch.cat([(obs.to(self.mean) - self.mean) / self.sd, clock[..., None]], dim=-1))
        return seen

    def act(self) -> Act:
        """The policy of one observation and step, in numpy, with the weights as they are now."""
        mean, sd = self.mean.cpu().numpy().copy(), self.sd.cpu().numpy().copy()
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        stack = [
            (part.weight.detach().cpu().numpy().copy(), part.bias.detach().cpu().numpy().copy()) for part in linear
        ]

        def act(obs: Array, t: int) -> Array:
            x = np.concatenate([(obs - mean) / sd, [2 * t / CLOCK - 1]])
            for weight, bias in stack:
                x = np.tanh(weight @ x + bias)
            return x

        return act


Policy = CircuitPolicy | NetworkPolicy


def check_steps(t: Tensor | float | None, obs: Tensor) -> Tensor:
    """Step numbers as a tensor of the shape of the observations without their last axis."""
    if t is None:
        raise InputError("policy: the number of the step is missing.", hint="Call policy(obs, t), t = 0, 1, 2, ...")
    steps = torch.as_tensor(t, device=obs.device)
    if not bool(((steps >= 0) & (steps == steps.floor())).all()):
        raise InputError("policy: steps must be whole numbers from 0, counted anew in every episode.")
    return steps.expand(obs.shape[:-1])


def columns_of(name: str, columns: Sequence[int] | None, n: int) -> tuple[int, ...] | None:
    """`columns` as `n` column numbers, or None."""
    if columns is None:
        return None
    if isinstance(columns, str) or not isinstance(columns, Sequence) or len(columns) != n:
        raise ConfigError(f"CircuitPolicy: {name} must be {n} column numbers, got {columns!r:.80}.")
    return tuple(check_int("CircuitPolicy", name, column, low=0) for column in columns)
