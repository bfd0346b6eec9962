"""Weights in files: safetensors with a JSON header, read by hand before anything else touches the file.

Layout of a file: 8 bytes (little-endian length of the header), the JSON header, the tensors' bytes. The header
maps each tensor to its dtype, shape and place; its `__metadata__` has the one key `foreknow` (with several keys
safetensors would write them in random order, and equal checkpoints would not be equal files). That holds the
text of a JSON object, in format 1:

    format_version   1
    kind             class or record name
    config           object: what rebuilds the object
    training         object: seed, command, steps, seconds, loss, ...
    versions         object: library versions at the time of saving
    contains_rows    whether the file holds rows of the user's table
    halved           list: names of float32 tensors stored as float16
    content_hash     SHA-256 over all of the above and every tensor

Loading never runs code of the file's choosing, and there is no pickle anywhere. A change of the format adds a reader
to `_READERS`; the old ones stay.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.common.files import atomic_path, hash_bytes
from foreknow.common.validate import check_bool, check_int

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 8 << 20
MAX_FILE_BYTES = 4 << 30
_MAX_DEPTH = 64
_MAX_AXES = 16
_HALF_MAX = 65504.0
_HALF_LOSS = 1e-3

_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_KEY = "foreknow"
_KEYS_V1 = frozenset(
    {"format_version", "kind", "config", "training", "versions", "contains_rows", "halved", "content_hash"}
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What is needed to rebuild a fitted object, and the record of how it came to be.

    Args:
        kind: name of the class or record the file belongs to.
        config: settings as JSON types (see `foreknow.core.records.to_json`).
        tensors: weights and buffers by name.
        training: record of the training: seed, command, steps, seconds, loss.
        versions: library versions at the time of saving.
        contains_rows: whether the tensors hold rows of the user's table (in-context models do).
        format_version: version of the file format the record was read from.
    """

    kind: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    contains_rows: bool = False
    format_version: int = FORMAT_VERSION

    def save(self, path: str | Path, *, half: bool = False, keep_full: frozenset[str] = frozenset()) -> None:
        """Write the file in one step; an existing one stays until the new one is whole.

        Args:
            path: where to; by convention `*.safetensors`.
            half: store float32 tensors as float16 where that is harmless: all values within +-65504, and a relative
                error (in norm) of at most 1e-3. They come back as float32. Other dtypes are kept.
            keep_full: names never halved, for instance bar borders.

        Raises:
            ConfigError: a field is not JSON, a tensor cannot be stored, or a name in `keep_full` is unknown.
            InputError: the place cannot be written.
        """
        if not _is_name(self.kind):
            raise ConfigError(f"Checkpoint.save: kind must be a name, got {self.kind!r:.80}.")
        unknown = sorted(keep_full - self.tensors.keys())
        if unknown:
            raise ConfigError(f"Checkpoint.save: keep_full names no tensor: {', '.join(unknown)}.")
        stored, halved = {}, []
        for name, tensor in self.tensors.items():
            _check_storable(name, tensor)
            # a copy of its own: contiguous, on the CPU, sharing memory with nothing
            copy = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            if half and name not in keep_full and _bears_half(copy):
                copy = copy.half()
                halved.append(name)
            stored[name] = copy
        metadata: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "config": _storable("config", self.config),
            "training": _storable("training", self.training),
            "versions": _storable("versions", self.versions),
            "contains_rows": check_bool("Checkpoint.save", "contains_rows", self.contains_rows),
            "halved": sorted(halved),
        }
        table = ((name, _CODES[t.dtype], tuple(t.shape), _raw(t)) for name, t in sorted(stored.items()))
        metadata["content_hash"] = _content_hash(metadata, table)
        with atomic_path(path) as temporary:
            safetensors.torch.save_file(stored, temporary, metadata={_KEY: json.dumps(metadata, sort_keys=True)})
            with open(temporary, "rb") as file:
                try:
                    _read_header(file, os.path.getsize(temporary))
                except CheckpointError as error:
                    raise ConfigError(f"Checkpoint.save: this could not be read back: {error.message}") from error

    @staticmethod
    def load(
        path: str | Path, *, kind: str | None = None, sha256: str | None = None, max_bytes: int = MAX_FILE_BYTES
    ) -> Checkpoint:
        """Read and verify a file. Everything in it is checked before it is used; nothing in it is run.

        Args:
            path: the file.
            kind: the kind it must be of; None takes any.
            sha256: hash the whole file must have (64 hexadecimal digits); None checks the content hash in the
                header only, which guards against damage, not against a stranger.
            max_bytes: largest file to read.

        Raises:
            InputError: no such file.
            CheckpointError: the file is damaged, of another format, version, kind or hash.
        """
        check_int("Checkpoint.load", "max_bytes", max_bytes, low=0)
        if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", str(sha256)):
            raise ConfigError(f"Checkpoint.load: sha256 must be 64 hexadecimal digits, got {sha256!r:.80}.")
        target = Path(path)
        if not target.is_file():
            raise InputError(f"Checkpoint.load: there is no file {str(target)!r}.", hint="Check the path.")
        try:
            with open(target, "rb") as file:
                return _read(file, kind=kind, sha256=sha256, max_bytes=max_bytes)
        except CheckpointError as error:
            raise CheckpointError(f"{target.name}: {error.message}", hint=error.hint) from error.__cause__
        except OSError as error:
            raise InputError(f"Checkpoint.load: cannot read {str(target)!r}: {error.strerror}.") from error

    def load_into(self, module: nn.Module, prefix: str = "") -> None:
        """Copy the tensors whose names start with `prefix` into `module`, all of them or none.

        Raises:
            CheckpointError: names are missing or left over, or a shape or kind of dtype differs; all are listed.
        """
        state = module.state_dict()
        given = {name[len(prefix) :]: t for name, t in self.tensors.items() if name.startswith(prefix)}
        wrong = [
            f"{name} (file {_describe(given[name])}, module {_describe(value)})"
            for name, value in state.items()
            if name in given and _fits(given[name]) != _fits(value)
        ]
        problems = {
            "missing": sorted(state.keys() - given.keys()),
            "unexpected": sorted(given.keys() - state.keys()),
            "wrong shape": wrong,
        }
        found = [f"{what}: {_shorten(names)}" for what, names in problems.items() if names]
        if found:
            raise CheckpointError(
                f"the weights of {self.kind!r} do not fit {type(module).__name__}: {'; '.join(found)}.",
                hint="Build the module from the file's own config.",
            )
        module.load_state_dict(given)


def _read(file: BinaryIO, *, kind: str | None, sha256: str | None, max_bytes: int) -> Checkpoint:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size > max_bytes:
        raise CheckpointError(
            f"the file has {size} bytes, more than the {max_bytes} allowed.", hint="Pass max_bytes=... if you trust it."
        )
    header = _read_header(file, size)
    if kind is not None and header.metadata["kind"] != kind:
        raise CheckpointError(f"the file holds a {header.metadata['kind']!r:.80}, not a {kind!r}.")
    file.seek(0)
    data = file.read(size)
    if len(data) != size or not data.startswith(header.raw):
        raise CheckpointError("the file changed while it was read.", hint="Try again once it is whole.")
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256.lower():
        raise CheckpointError("the file is not the one asked for: its SHA-256 differs.", hint="Fetch it again.")
    body = memoryview(data)[len(header.raw) :]
    table = ((t.name, t.code, t.shape, body[t.begin : t.end]) for t in sorted(header.tensors, key=lambda t: t.name))
    if _content_hash(header.metadata, table) != header.metadata["content_hash"]:
        raise CheckpointError("the content does not match the hash in the header: the file was damaged or edited.")
    for tensor in header.tensors:
        if tensor.code == "BOOL" and np.any(np.frombuffer(body[tensor.begin : tensor.end], np.uint8) > 1):
            raise CheckpointError(f"tensor {tensor.name!r:.80}: truth values other than 0 and 1.")
    try:
        tensors = safetensors.torch.load(data)
    except (SafetensorError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise CheckpointError(f"the tensors cannot be read: {error}") from error
    return header.reader(header.metadata, tensors)


# the header ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """Where one tensor lies: bytes begin to end of the data after the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class _Header:
    raw: bytes
    metadata: dict[str, Any]
    tensors: list[_Place]
    reader: Callable[[dict[str, Any], dict[str, Tensor]], Checkpoint]


def _read_header(file: BinaryIO, size: int) -> _Header:
    """Parse and check everything that can be checked without the tensors' bytes."""
    first = file.read(8)
    if len(first) < 8:
        raise CheckpointError(f"this is no safetensors file: it has {len(first)} bytes, a header needs more.")
    length = int.from_bytes(first, "little")
    if length > MAX_HEADER_BYTES and (first[:4] == b"PK\x03\x04" or first[:1] == b"\x80"):
        raise CheckpointError(
            "this looks like a pickle (torch.save), which can run code when read, so it is not read.",
            hint="Ask for a safetensors file.",
        )
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"the header claims {length} bytes, more than the {MAX_HEADER_BYTES} allowed; "
            "this is no safetensors file, or a hostile one."
        )
    if 8 + length > size:
        raise CheckpointError(f"the file is cut off: the header claims {length} bytes, {size - 8} follow.")
    raw = file.read(length)
    content = _parse("header", raw)
    if not isinstance(content, dict):
        raise CheckpointError("the header is not a JSON object.")
    texts = content.pop("__metadata__", None)
    if not isinstance(texts, dict) or texts.keys() != {_KEY} or not isinstance(texts[_KEY], str):
        got = _shorten(sorted(texts)) if isinstance(texts, dict) else type(texts).__name__
        raise CheckpointError(
            f"the header's metadata must have the one key {_KEY!r}, got {got}: a file of another program?",
            hint="Only files written by Checkpoint.save can be read.",
        )
    metadata = _parse("metadata", texts[_KEY].encode())
    if not isinstance(metadata, dict):
        raise CheckpointError("the metadata is not a JSON object.")
    reader = _reader_of(metadata)
    tensors = [_place(name, entry) for name, entry in content.items()]
    end = 0
    for tensor in sorted(tensors, key=lambda t: (t.begin, t.end)):
        if tensor.begin != end:
            what = "overlap" if tensor.begin < end else "leave a gap"
            raise CheckpointError(f"the bytes of the tensors {what} at {tensor.name!r:.80}.")
        end = tensor.end
    if 8 + length + end != size:
        what = "is cut off" if 8 + length + end > size else "has bytes too many"
        raise CheckpointError(f"the file {what}: its tensors need {end} bytes, {size - 8 - length} follow the header.")
    return _Header(first + raw, metadata, tensors, reader)


def _reader_of(metadata: dict[str, Any]) -> Callable[[dict[str, Any], dict[str, Tensor]], Checkpoint]:
    version = metadata.get("format_version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"the format version is missing or malformed: {version!r:.40}.")
    if version not in _READERS:
        newest = max(_READERS)
        raise CheckpointError(
            f"the file has format version {version}, this library reads up to {newest}.",
            hint="Upgrade: pip install -U foreknow" if version > newest else "",
        )
    known, reader = _READERS[version]
    missing, extra = known - metadata.keys(), metadata.keys() - known
    if missing or extra:
        parts = [
            f"{what} {_shorten(sorted(names))}" for what, names in (("missing", missing), ("unknown", extra)) if names
        ]
        raise CheckpointError(f"the metadata keys are not those of format {version}: {'; '.join(parts)}.")
    return reader


def _place(name: str, entry: object) -> _Place:
    """One entry of the header, checked."""

    def refuse(what: str) -> NoReturn:
        raise CheckpointError(f"tensor {name!r:.80}: {what}.")

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse("its entry must have exactly dtype, shape and data_offsets")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        refuse(f"unknown dtype {code!r:.40}")
    if not _is_naturals(shape) or len(shape) > _MAX_AXES:
        refuse(f"shape must be at most {_MAX_AXES} whole numbers >= 0, got {shape!r:.80}")
    if not _is_naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        refuse(f"data_offsets must be two ascending whole numbers, got {offsets!r:.80}")
    needed = math.prod(shape) * _DTYPES[code].itemsize
    if offsets[1] - offsets[0] != needed:
        refuse(f"shape {shape!r:.80} of {code} needs {needed:.6g} bytes, the header gives {offsets[1] - offsets[0]}")
    return _Place(name, code, tuple(shape), offsets[0], offsets[1])


def _is_naturals(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def _read_v1(metadata: dict[str, Any], tensors: dict[str, Tensor]) -> Checkpoint:
    kinds = {"kind": str, "config": dict, "training": dict, "versions": dict, "contains_rows": bool, "halved": list}
    for key, expected in kinds.items():
        if not isinstance(metadata[key], expected):
            raise CheckpointError(f"the metadata's {key} must be a {expected.__name__}, got {metadata[key]!r:.40}.")
    halved = metadata["halved"]
    if not all(isinstance(name, str) and name in tensors and tensors[name].dtype == torch.float16 for name in halved):
        raise CheckpointError("the metadata's halved must list names of float16 tensors.")
    return Checkpoint(
        kind=metadata["kind"],
        config=metadata["config"],
        tensors={**tensors, **{name: tensors[name].float() for name in halved}},
        training=metadata["training"],
        versions=metadata["versions"],
        contains_rows=metadata["contains_rows"],
        format_version=1,
    )


_READERS: dict[int, tuple[frozenset[str], Callable[[dict[str, Any], dict[str, Tensor]], Checkpoint]]] = {
    1: (_KEYS_V1, _read_v1),
}
"""Format version -> its metadata keys and its reader. Readers are added, never removed."""


# JSON, hashes, dtypes ----------------------------------------------------------------------------------------------

_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


def _parse(what: str, raw: bytes) -> Any:
    """Strict JSON: UTF-8, finite numbers, no key twice, limited depth."""

    def refuse_constant(text: str) -> NoReturn:
        raise CheckpointError(f"the {what} holds the number {text}, which is not JSON.")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse_constant(text[:20])

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise CheckpointError(f"the {what} holds a key twice.")
        return result

    try:
        text = raw.decode("utf-8")
        depth = 0
        for bracket in re.finditer(r"[\[\]{}]", _STRING.sub("", text)):
            depth += 1 if bracket.group() in "[{" else -1
            if depth > _MAX_DEPTH:
                raise CheckpointError(f"the {what} is nested deeper than {_MAX_DEPTH} levels.")
        value = json.loads(text, parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=unique)
        # escapes can smuggle in halves of surrogate pairs, which no later step could encode
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError as error:
        raise CheckpointError(f"the {what} is not valid JSON: {error!s:.120}.") from error
    return value


def _storable(name: str, value: object) -> dict[str, Any]:
    """`value` if it is a dict that JSON gives back the same."""
    try:
        same = isinstance(value, dict) and _parse(name, json.dumps(value, allow_nan=False).encode()) == value
    except (TypeError, ValueError, RecursionError, CheckpointError) as error:
        raise ConfigError(f"Checkpoint.save: {name} cannot be stored as JSON: {error}") from error
    if not isinstance(value, dict) or not same:
        raise ConfigError(
            f"Checkpoint.save: {name} must be a dict that survives JSON (no tuples, keys that are text).",
            hint="Pass it through foreknow.core.records.to_json first.",
        )
    return value


def _content_hash(
    metadata: dict[str, Any], tensors: Iterable[tuple[str, str, tuple[int, ...], bytes | memoryview]]
) -> str:
    """SHA-256 over the metadata (less the hash itself) and the tensors in order of name, wherever they lie."""
    rows = [[name, code, list(shape), hashlib.sha256(raw).hexdigest()] for name, code, shape, raw in tensors]
    fields = {key: value for key, value in metadata.items() if key != "content_hash"}
    return hash_bytes(json.dumps(fields, sort_keys=True).encode(), json.dumps(rows).encode())


def _raw(tensor: Tensor) -> bytes:
    """The bytes of a contiguous CPU tensor as the file holds them."""
    flat: np.ndarray[Any, Any] = tensor.reshape(-1).view(torch.uint8).numpy()
    return flat.tobytes()


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _check_storable(name: str, tensor: object) -> None:
    if not _is_name(name) or name == "__metadata__":
        raise ConfigError(f"Checkpoint.save: {name!r} cannot be the name of a tensor.")
    if not isinstance(tensor, Tensor) or tensor.dtype not in _CODES or tensor.layout != torch.strided or tensor.is_meta:
        got = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor)
        raise ConfigError(
            f"Checkpoint.save: {name!r} must be a dense tensor of one of {', '.join(_DTYPES)}, got {got}."
        )


def _bears_half(tensor: Tensor) -> bool:
    """Whether a tensor loses nothing that matters in float16 (infinities and NaN stay in full)."""
    if tensor.dtype != torch.float32 or bool((tensor.abs() > _HALF_MAX).any()) or bool(tensor.isnan().any()):
        return False
    wide = tensor.double()
    return bool((wide - tensor.half().double()).norm() <= _HALF_LOSS * wide.norm())


def _fits(tensor: object) -> object:
    """What must agree for one tensor to be copied into another: shape, and dtype unless both are floating."""
    if not isinstance(tensor, Tensor):
        return type(tensor)
    return tuple(tensor.shape), "float" if tensor.is_floating_point() else tensor.dtype


def _describe(tensor: object) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"{name!s:.80}" for name in names[:8]) + more
