"""What may be tried: real, integer and categorical parameters, and their way to the unit cube and back.

A point has three forms: as the user writes it (a mapping of names, or a row of numbers); as a row of codes, one number
a parameter (a category is its position); and as a row of the unit cube, where a category takes one column a value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_bool, check_int, check_known, check_real
from foreknow.core.records import record

Floats = NDArray[np.float64]
Point = dict[str, Any] | Floats
SLACK = 1e-9


@record
@dataclass(frozen=True)
class Real:
    """Numbers from `low` to `high`.

    Args:
        low, high: ends.
        log: search on a logarithmic scale; low must be greater than 0.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _check_range("Real", self.low, self.high, self.log)


@record
@dataclass(frozen=True)
class Integer:
    """Whole numbers from `low` to `high`, both included.

    Args:
        low, high: ends.
        log: search on a logarithmic scale; low must be greater than 0.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        check_int("Integer", "low", self.low)
        check_int("Integer", "high", self.high)
        _check_range("Integer", self.low, self.high, self.log)


@record
@dataclass(frozen=True)
class Choice:
    """One of several values, without an order.

    Args:
        values: two or more numbers, texts or booleans.
    """

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple | list) or len(self.values) < 2:
            raise ConfigError(f"Choice: values must be a tuple of two or more, got {self.values!r}.")
        object.__setattr__(self, "values", tuple(self.values))
        if len({(type(value), value) for value in self.values}) < len(self.values):
            raise ConfigError(f"Choice: a value occurs twice in {self.values!r}.")


Parameter = Real | Integer | Choice


def _check_range(owner: str, low: float, high: float, log: bool) -> None:
    check_bool(owner, "log", log)
    check_real(owner, "low", low)
    if check_real(owner, "high", high) <= low:
        raise ConfigError(f"{owner}: high must be greater than low, got {low!r} and {high!r}.")
    if log and low <= 0:
        raise ConfigError(f"{owner}: a logarithmic scale needs low > 0, got {low!r}.")


@record
@dataclass(frozen=True)
class Space:
    """Parameters by name.

    Args:
        names: of the parameters.
        parameters: as many `Real`, `Integer` or `Choice`.
        named: whether points are mappings of names; False for plain bounds, whose points are rows of numbers.
    """

    names: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    named: bool = True

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.parameters) or len(set(self.names)) < len(self.names):
            raise ConfigError("Space: needs one or more parameters, each with a name of its own.")
        for name, parameter in zip(self.names, self.parameters, strict=True):
            if not isinstance(parameter, Real | Integer | Choice):
                raise ConfigError(f"Space: {name} must be Real, Integer or Choice, got {parameter!r:.80}.")

    @classmethod
    def of(cls, space: Space | Mapping[str, Any] | ArrayLike) -> Space:
        """A space from itself; from names with a parameter, a pair (low, high) or a list of values; or from bounds.

        Args:
            space: bounds have shape (d, 2), one row (low, high) a parameter.

        Raises:
            ConfigError: none of these.
        """
        if isinstance(space, Space):
            return space
        if isinstance(space, Mapping):
            return cls(tuple(map(str, space)), tuple(_parameter(name, value) for name, value in space.items()))
        try:
            bounds = np.asarray(space, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Space: bounds must be numbers of shape (d, 2), got {space!r:.80}.") from error
        if bounds.ndim != 2 or bounds.shape[1] != 2 or not len(bounds):
            raise ConfigError(
                f"Space: bounds must have shape (d, 2), one row (low, high) a parameter, got shape {bounds.shape}.",
                hint="BoTorch's own bounds, shape (2, d), must be transposed." if bounds.shape[:1] == (2,) else "",
            )
        names = tuple(f"x{i}" for i in range(len(bounds)))
        return cls(names, tuple(Real(float(low), float(high)) for low, high in bounds), named=False)

    @classmethod
    def parse(cls, text: str) -> Space:
        """A space from one line, such as "lr=1e-5..1e-1 log, depth=2..10 int, kernel=rbf|linear".

        Raises:
            ConfigError: the line cannot be read.
        """
        found: dict[str, Parameter] = {}
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            name, equals, rest = (piece.strip() for piece in part.partition("="))
            if not name or not equals or not rest or name in found:
                raise ConfigError(
                    f"a space is written as NAME=LOW..HIGH [int] [log] or NAME=A|B|C, got {part!r}.",
                    hint='For instance "lr=1e-5..1e-1 log, depth=2..10 int, kernel=rbf|linear".',
                )
            if "|" in rest:
                found[name] = Choice(tuple(_value(item.strip()) for item in rest.split("|")))
                continue
            ends, *words = rest.split()
            check_known(f"space, {name}", words, ("int", "log"), what="word")
            low, dots, high = ends.partition("..")
            try:
                numbers = float(low), float(high)
            except ValueError:
                raise ConfigError(f"space, {name}: expected LOW..HIGH, got {ends!r}.") from None
            if not dots:
                raise ConfigError(f"space, {name}: expected LOW..HIGH, got {ends!r}.")
            log = "log" in words
            found[name] = Integer(round(numbers[0]), round(numbers[1]), log) if "int" in words else Real(*numbers, log)
        return cls.of(found)

    @property
    def n_columns(self) -> int:
        """Columns of the unit cube."""
        return sum(len(p.values) if isinstance(p, Choice) else 1 for p in self.parameters)

    @property
    def n_points(self) -> float:
        """How many points there are; infinite where a parameter is real."""
        counts = [
            math.inf if isinstance(p, Real) else p.high - p.low + 1 if isinstance(p, Integer) else len(p.values)
            for p in self.parameters
        ]
        return math.prod(counts)

    @property
    def smooth(self) -> bool:
        """Whether all parameters are real."""
        return all(isinstance(parameter, Real) for parameter in self.parameters)

    # points and codes ------------------------------------------------------------------------------------------

    def codes(self, points: Any, *, owner: str = "Space") -> Floats:
        """Points as rows of codes (n, d).

        Args:
            points: one or many: mappings of names, or rows of numbers where the space has no names.
            owner: who asks.

        Raises:
            InputError: not such points, or outside the space.
        """
        if not self.named:
            return self.check(self._rows(points, owner), owner=owner)
        many = [points] if isinstance(points, Mapping) else points
        if isinstance(many, np.ndarray) or not isinstance(many, Sequence) or isinstance(many, str):
            raise InputError(f"{owner}: points must be mappings of {', '.join(self.names)}, got {points!r:.80}.")
        rows = np.empty((len(many), len(self.names)))
        for i, point in enumerate(many):
            if not isinstance(point, Mapping) or set(point) != set(self.names):
                raise InputError(f"{owner}: point {i} must name {', '.join(self.names)}, got {point!r:.120}.")
            for j, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
                rows[i, j] = _code(owner, name, parameter, point[name])
        return self.check(rows, owner=owner)

    def _rows(self, points: Any, owner: str) -> Floats:
        try:
            rows = np.asarray(points, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"{owner}: points must be rows of numbers, got {points!r:.80}.") from error
        rows = rows[None] if rows.ndim == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != len(self.names):
            raise InputError(f"{owner}: points must have shape (n, {len(self.names)}), got {rows.shape}.")
        return rows

    def check(self, rows: Floats, *, owner: str = "Space") -> Floats:
        """Rows of codes (n, d) as they came.

        Raises:
            InputError: a code lies outside the space, or is not whole where it must be.
        """
        for j, (name, parameter) in enumerate(zip(self.names, self.parameters, strict=True)):
            low, high = _ends(parameter)
            slack = SLACK * max(1.0, abs(low), abs(high))
            bad = ~((rows[:, j] >= low - slack) & (rows[:, j] <= high + slack))
            if bad.any():
                i = int(np.flatnonzero(bad)[0])
                raise InputError(f"{owner}: {name} of point {i} is {rows[i, j]:g}, outside {low:g}..{high:g}.")
            whole = not isinstance(parameter, Real)
            if whole and not (rows[:, j] == np.round(rows[:, j])).all():
                raise InputError(f"{owner}: {name} must be a whole number.")
        return rows

    def points(self, codes: Floats) -> list[dict[str, Any]] | Floats:
        """Rows of codes as the user writes points."""
        if not self.named:
            return np.array(codes, dtype=np.float64)
        return [
            {name: _from_code(p, row[j]) for j, (name, p) in enumerate(zip(self.names, self.parameters, strict=True))}
            for row in codes
        ]

    # the unit cube ---------------------------------------------------------------------------------------------

    def encode(self, codes: Floats) -> Tensor:
        """Rows of the unit cube (n, n_columns), float64, from codes (n, d)."""
        columns: list[Floats] = []
        for j, parameter in enumerate(self.parameters):
            values = codes[:, j]
            if isinstance(parameter, Choice):
                columns += [(values == k).astype(np.float64) for k in range(len(parameter.values))]
                continue
            low, high = _edges(parameter)
            columns.append((_scale(parameter, values) - low) / (high - low))
        return torch.as_tensor(np.stack(columns, 1))

    def decode(self, unit: Tensor) -> Floats:
        """Codes (n, d) of the points nearest to rows of the unit cube."""
        rows = unit.detach().cpu().numpy().clip(0, 1)
        found, column = [], 0
        for parameter in self.parameters:
            if isinstance(parameter, Choice):
                width = len(parameter.values)
                found.append(rows[:, column : column + width].argmax(1).astype(np.float64))
                column += width
                continue
            low, high = _edges(parameter)
            value = low + rows[:, column] * (high - low)
            value = np.exp(value) if parameter.log else value
            value = np.round(value) if isinstance(parameter, Integer) else value
            found.append(value.clip(*_ends(parameter)))
            column += 1
        return np.stack(found, 1)

    def snap(self, unit: Tensor) -> Tensor:
        """Rows (*b, n_columns) moved to the point that would be evaluated; gradients pass as if they had not."""
        if self.smooth:
            return unit
        flat = unit.reshape(-1, unit.shape[-1])
        there = self.encode(self.decode(flat)).to(unit).reshape(unit.shape)
        return unit + (there - unit).detach()

    def draw(self, n: int, *, seed: int, skip: int = 0, sobol: bool = True) -> Floats:
        """Codes of `n` points, quasi-random or random.

        Args:
            n: how many.
            seed: of the scrambling, or of the draws.
            skip: points of the sequence that were taken before.
            sobol: a scrambled Sobol sequence, else uniform draws.
        """
        check_int("Space.draw", "n", n, low=1)
        if sobol and self.n_columns <= torch.quasirandom.SobolEngine.MAXDIM:
            engine = torch.quasirandom.SobolEngine(  # type: ignore[no-untyped-call]
                self.n_columns, scramble=True, seed=seed % 2**31
            )
            engine = engine.fast_forward(skip) if skip else engine  # type: ignore[no-untyped-call]
            unit = engine.draw(n, dtype=torch.float64)
        else:
            generator = torch.Generator().manual_seed(seed + skip)
            unit = torch.rand(n, self.n_columns, generator=generator, dtype=torch.float64)
        return self.decode(unit)


def _parameter(name: str, value: Any) -> Parameter:
    if isinstance(value, Real | Integer | Choice):
        return value
    if isinstance(value, list):
        return Choice(tuple(value))
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
        return Real(float(value[0]), float(value[1]))
    raise ConfigError(
        f"Space: {name} must be Real, Integer, Choice, a pair (low, high) or a list of values, got {value!r:.80}.",
        hint="A pair is a range of real numbers; whole ones are Integer(low, high).",
    )


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)


def _ends(parameter: Parameter) -> tuple[float, float]:
    if isinstance(parameter, Choice):
        return 0.0, len(parameter.values) - 1.0
    return float(parameter.low), float(parameter.high)


def _edges(parameter: Real | Integer) -> tuple[float, float]:
    """Where the unit interval begins and ends on the parameter's scale; every whole number has its own share of it."""
    half = 0.5 - 1e-9 if isinstance(parameter, Integer) else 0.0
    low, high = parameter.low - half, parameter.high + half
    return (math.log(low), math.log(high)) if parameter.log else (low, high)


def _scale(parameter: Real | Integer, values: Floats) -> Floats:
    return np.log(values) if parameter.log else values


def _code(owner: str, name: str, parameter: Parameter, value: Any) -> float:
    if isinstance(parameter, Choice):
        for k, known in enumerate(parameter.values):
            if value is known or (value == known and isinstance(value, bool) == isinstance(known, bool)):
                return float(k)
        raise InputError(f"{owner}: {name} must be one of {parameter.values!r}, got {value!r}.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{owner}: {name} must be a number, got {value!r:.80}.") from error


def _from_code(parameter: Parameter, code: float) -> Any:
    if isinstance(parameter, Choice):
        return parameter.values[round(code)]
    return round(code) if isinstance(parameter, Integer) else float(code)
