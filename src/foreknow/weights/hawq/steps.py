"""From operations to steps between integers: where each quantiser stands, and which layers therefore share bits.

A layer reads an activation of its own few bits. An activation that several layers read is quantised once, so these
layers are tied to the same bits. What is added or joined is requantised from each branch's own accumulator or wide
sum straight to the common scale, never from something that was rounded for another layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from foreknow.common.errors import InputError
from foreknow.weights.hawq.quantizers import WIDE
from foreknow.weights.hawq.reading import Reading

EDGE_BITS = 8
"""Bits of the input, of the layers that read it, and of the layers that give the output."""


@dataclass(frozen=True)
class Step:
    """One step between integers.

    Args:
        name: of the step.
        kind: "quantize" (of the input), "layer", "relu", "requantize", "add", "concat", "average", "largest",
            "flatten".
        inputs: steps it reads; none for "quantize", which reads the network's input.
        grid: the grid it writes to, where it rounds.
        settings: of pools; "cap" of a requantisation is the largest value a ReLU6 before it lets through.
    """

    name: str
    kind: str
    inputs: tuple[str, ...] = ()
    grid: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """The steps of a network.

    Args:
        steps: in order; the last gives the output.
        grids: name -> (bits fixed or None, whether values are never negative).
        grid_of: layer -> the grid it reads.
        ties: groups of two or more layers that read the same grid.
        edges: layers that stay at `EDGE_BITS`.
    """

    steps: tuple[Step, ...]
    grids: dict[str, tuple[int | None, bool]]
    grid_of: dict[str, str]
    ties: tuple[tuple[str, ...], ...]
    edges: tuple[str, ...]


@dataclass
class _Value:
    """What is known of a step's output: few or many bits, sign, the cap of a ReLU6."""

    step: str
    grid: str = ""  # of few bits, as a layer can read it; else an accumulator or a wide sum
    positive: bool = False
    cap: float | None = None
    wide: bool = False


class _Planner:
    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.steps: list[Step] = []
        self.grids: dict[str, tuple[int | None, bool]] = {}
        self.grid_of: dict[str, str] = {}
        self.values: dict[str, _Value] = {}
        self.edges: list[str] = []

    def plan(self) -> Plan:
        for op in self.reading.ops:
            self.values[op.name] = getattr(self, f"_{op.kind}")(op)
        last = self.values[self.reading.ops[-1].name]
        if last.cap is not None:
            raise InputError("the model's last operation is a ReLU6; its scores must come from a layer or a pool.")
        self.edges += self._givers(self.reading.ops[-1].name)
        readers: dict[str, list[str]] = {}
        for layer, grid in self.grid_of.items():
            readers.setdefault(grid, []).append(layer)
        for layer in self.edges:  # and whoever shares their input
            self.grids[self.grid_of[layer]] = (EDGE_BITS, self.grids[self.grid_of[layer]][1])
        edges = tuple(layer for layer, grid in self.grid_of.items() if self.grids[grid][0] is not None)
        ties = tuple(tuple(group) for group in readers.values() if len(group) > 1)
        return Plan(tuple(self.steps), self.grids, self.grid_of, ties, edges)

    def _givers(self, name: str) -> list[str]:
        """The layers nearest to the output."""
        op = next(op for op in self.reading.ops if op.name == name)
        return [name] if op.kind == "layer" else [layer for given in op.inputs for layer in self._givers(given)]

    def _put(self, step: Step) -> str:
        self.steps.append(step)
        return step.name

    def _input(self, op: Any) -> _Value:
        self.grids[op.name] = (EDGE_BITS, False)
        return _Value(self._put(Step(op.name, "quantize", grid=op.name)), grid=op.name)

    def _layer(self, op: Any) -> _Value:
        given = self.values[op.inputs[0]]
        if not given.grid:
            name = f"{given.step}:bits"
            if name not in self.grids:
                self.grids[name] = (None, given.positive)
                self._put(Step(name, "requantize", (given.step,), name, {"cap": given.cap}))
            given = _Value(name, grid=name, positive=given.positive)
        self.grid_of[op.name] = given.grid
        return _Value(self._put(Step(op.name, "layer", (given.step,))))

    def _relu(self, op: Any) -> _Value:
        given, cap = self.values[op.inputs[0]], op.settings["cap"]
        caps = [c for c in (given.cap, cap) if c is not None]
        name = self._put(Step(op.name, "relu", (given.step,), settings={"cap": cap}))
        # On the input's own grid a cap needs a requantisation, which only a wide value gets.
        return _Value(name, "" if cap else given.grid, True, min(caps, default=None), given.wide)

    def _branches(self, op: Any) -> tuple[str, ...]:
        """Each input of a sum on the common scale."""
        names = []
        for number, given in enumerate(self.values[name] for name in op.inputs):
            step = Step(f"{op.name}:{number}", "requantize", (given.step,), op.name, {"cap": given.cap})
            names.append(self._put(step))
        return tuple(names)

    def _add(self, op: Any) -> _Value:
        positive = all(self.values[name].positive for name in op.inputs)
        self.grids[op.name] = (WIDE, positive)
        return _Value(self._put(Step(op.name, "add", self._branches(op), op.name)), positive=positive, wide=True)

    def _concat(self, op: Any) -> _Value:
        positive = all(self.values[name].positive for name in op.inputs)
        self.grids[op.name] = (WIDE, positive)
        return _Value(self._put(Step(op.name, "concat", self._branches(op), op.name)), positive=positive, wide=True)

    def _average(self, op: Any) -> _Value:
        given = self.values[op.inputs[0]]
        source = given.step
        if given.cap is not None or not (given.wide or given.grid):  # an accumulator's sum might not fit
            grid = f"{source}:wide"
            if grid not in self.grids:
                self.grids[grid] = (WIDE, given.positive)
                self._put(Step(grid, "requantize", (source,), grid, {"cap": given.cap}))
            source, given = grid, _Value(grid, positive=given.positive, wide=True)
        name = self._put(Step(op.name, "average", (source,), settings=op.settings))
        return _Value(name, given.grid, given.positive, None, given.wide)

    def _largest(self, op: Any) -> _Value:
        return self._alike(op)

    def _flatten(self, op: Any) -> _Value:
        return self._alike(op)

    def _alike(self, op: Any) -> _Value:
        given = self.values[op.inputs[0]]
        name = self._put(Step(op.name, op.kind, (given.step,), settings=op.settings))
        return _Value(name, given.grid, given.positive, given.cap, given.wide)


def plan_steps(reading: Reading) -> Plan:
    """The steps of a network that was read."""
    return _Planner(reading).plan()
