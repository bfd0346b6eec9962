"""Settings as JSON and back, for frozen dataclasses that have registered themselves.

`to_json` writes `{"record": "GPPrior", "fields": {...}}`, and `{"number": "inf"}` where JSON has no number; `from_json`
builds only classes that were registered, so reading a stranger's file never runs code of the file's choosing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeVar

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.common.validate import check_known

_RECORDS: dict[str, type] = {}
T = TypeVar("T")


def record(cls: type[T]) -> type[T]:
    """Class decorator: let instances of this frozen dataclass be stored in files."""
    known = _RECORDS.get(cls.__name__)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ConfigError(f"two records are called {cls.__name__!r}: {known.__module__} and {cls.__module__}.")
    if not dataclasses.is_dataclass(cls) or not cls.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{cls.__name__} must be a frozen dataclass to be a record.")
    _RECORDS[cls.__name__] = cls
    return cls


def to_json(value: object) -> object:
    """`value` as JSON types: None, bool, int, float, str, lists, string-keyed dicts and registered records."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"map": {key: to_json(item) for key, item in value.items()}}
    if dataclasses.is_dataclass(value) and _RECORDS.get(type(value).__name__) is type(value):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"record": type(value).__name__, "fields": fields}
    raise ConfigError(
        f"a setting of type {type(value).__name__} cannot be stored in a file: {value!r:.80}.",
        hint="Use numbers, strings, lists or the library's own priors, or save the result another way.",
    )


def from_json(value: object) -> object:
    """The inverse of `to_json` (sequences come back as tuples).

    Raises:
        CheckpointError: unknown record, unknown or missing field, malformed structure.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if isinstance(value, dict):
        if set(value) == {"number"} and value["number"] in ("inf", "-inf", "nan"):
            return float(value["number"])
        if set(value) == {"map"} and isinstance(value["map"], dict):
            return {str(key): from_json(item) for key, item in value["map"].items()}
        if set(value) == {"record", "fields"} and isinstance(value["fields"], dict):
            cls = _RECORDS.get(str(value["record"]))
            if cls is None:
                raise CheckpointError(f"the file holds a record of unknown kind {value['record']!r:.80}.")
            try:
                known = [f.name for f in dataclasses.fields(cls)]
                check_known(cls.__name__, value["fields"], known, what="field")
                return cls(**{key: from_json(item) for key, item in value["fields"].items()})
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"the file's {cls.__name__} cannot be built: {error}") from error
    raise CheckpointError(f"the file holds a malformed setting: {value!r:.80}.")
