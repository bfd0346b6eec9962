"""Data that can be split, for whatever a system learns from: what `fit` takes, and nested training sets of it.

For every seed the units are shuffled once: the first are the test set, the training set of size n is the next n, so
that a larger size contains the smaller ones. Groups (font, patient, run) are never split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import InputError
from foreknow.common.files import hash_bytes
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int


@dataclass(frozen=True)
class Sample:
    """What `fit` takes: rows, target, and further inputs by name."""

    X: Any
    y: Any = None
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Data to learn from and data to be measured on."""

    train: Sample
    test: Sample
    info: Mapping[str, Any] = field(default_factory=dict)


class ExampleSource:
    """Rows of any kind as a source for `price`: arrays of any rank, lists of texts, with or without a target.

    Args:
        name: shown in reports.
        X: rows, an array or a list.
        y: targets, as many.
        named: further inputs of `fit`, the same for every size.
        groups: what each row comes from; rows of a group lie on one side of the split.
        unit: of the size, for people ("images", "queries").
        n_test: rows of the test set; by default two fifths.
        n_min: smallest training size.

    Raises:
        InputError: too few rows, or targets or groups of another number.
    """

    task = "none"

    def __init__(
        self,
        name: str,
        X: Any,
        y: Any = None,
        *,
        named: Mapping[str, Any] | None = None,
        groups: ArrayLike | None = None,
        unit: str = "rows",
        n_test: int | None = None,
        n_min: int = 1,
    ) -> None:
        n = len(X)
        for what, given in (("targets", y), ("groups", groups)):
            if given is not None and len(given) != n:  # type: ignore[arg-type]
                raise InputError(f"ExampleSource: {n} rows and {len(given)} {what}.")  # type: ignore[arg-type]
        self.name, self.unit = name, unit
        self._X, self._y, self._named = X, y, dict(named or {})
        self._groups = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        self._n_test = check_int("ExampleSource", "n_test", max(1, 2 * n // 5) if n_test is None else n_test, low=1)
        self.n_min = check_int("ExampleSource", "n_min", n_min, low=1)
        if self._n_test >= n:
            raise InputError(
                f"ExampleSource: {n} rows cannot give {self._n_test} test rows and something to learn from."
            )
        if len(np.unique(self._groups)) < 2:
            raise InputError(f"ExampleSource: {name!r} has one group only; at least two are needed.")
        self.n_max = min(len(self._order(seed)[1]) for seed in range(1 if groups is None else 5))
        if self.n_max < self.n_min:
            raise InputError(f"ExampleSource: {n} rows leave {self.n_max} to learn from; {self.n_min} are needed.")
        parts = [_as_bytes(part) for part in (X, y, self._groups) if part is not None]
        parts += [part for key in sorted(self._named) for part in (key.encode(), *_parts(self._named[key]))]
        self.content_hash = hash_bytes(name.encode(), str((self._n_test, self.n_min)).encode(), *parts)

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """The first `size` rows of this seed's order to learn from, and its test rows."""
        check_int("ExampleSource.split", "size", size, low=self.n_min)
        test, pool = self._order(seed)
        if size > len(pool):
            raise InputError(f"{self.name}: {size} rows to learn from were asked for, {len(pool)} are not test rows.")
        return Split(self._take(pool[:size]), self._take(test))

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {"name": self.name, "n_rows": len(self._X), "unit": self.unit, "hash": self.content_hash}

    def _order(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = numpy_stream(seed, "source", "rows").permutation(len(self._groups))
        names = numpy_stream(seed, "source", "groups").permutation(self._groups.max() + 1)
        size = np.bincount(self._groups)[names]
        n_groups = int(np.clip(np.searchsorted(np.cumsum(size), self._n_test) + 1, 1, len(names) - 1))
        is_test = np.isin(self._groups, names[:n_groups])[order]
        return order[is_test][: self._n_test], order[~is_test]

    def _take(self, index: NDArray[np.int64]) -> Sample:
        return Sample(_rows(self._X, index), None if self._y is None else _rows(self._y, index), self._named)


def _rows(values: Any, index: NDArray[np.int64]) -> Any:
    return values[index] if isinstance(values, np.ndarray) else [values[int(i)] for i in index]


def _parts(value: Any) -> Iterator[bytes]:
    """What tells further inputs apart: settings and numbers by value, networks by their weights."""
    if hasattr(value, "state_dict"):
        yield type(value).__qualname__.encode()
        value = value.state_dict()
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield repr(key).encode()
            yield from _parts(part)
    elif isinstance(value, np.ndarray):
        yield _as_bytes(value)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    elif value is None or isinstance(value, str | bytes | bool | int | float | complex | np.generic):
        yield repr(value).encode()
    else:
        yield type(value).__qualname__.encode()  # its repr may hold an address, which differs from run to run


def _as_bytes(values: Sequence[Any] | NDArray[Any]) -> bytes:
    if isinstance(values, np.ndarray) and values.dtype != object:
        return str((values.dtype.str, values.shape)).encode() + np.ascontiguousarray(values).tobytes()
    return "\x1f".join(map(repr, values)).encode("utf-8", "surrogatepass")
