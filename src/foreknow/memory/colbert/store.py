"""An index in a folder: files that never change, and one manifest that names those that count.

    manifest.json     what belongs together: version, system, files with sizes and hashes, segments
    <hash>.npy        an array; its name begins with the hash of its bytes
    <hash>.safetensors  weights of the encoder
    lock              held by whoever writes

Every file is written under another name, flushed to the disk and renamed; the manifest comes last and takes the place
of the old one in one step. A process that is killed leaves the old index as it was. Readers open the files that the
manifest names and keep them, whatever happens to the folder afterwards. A writer that did not see the newest version is
refused. There is no pickle; every file is checked against its hash before it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import CapabilityError, CheckpointError, InputError
from foreknow.common.files import hash_bytes, hash_file
from foreknow.memory.colbert.codec import NBITS, Codec
from foreknow.memory.colbert.index import PlaidIndex, Segment
from foreknow.memory.colbert.strings import Strings

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_TRIES = 5
_SEGMENT = ("ids", "id_ends", "texts", "text_ends", "lengths", "codes", "residuals", "lists", "list_ends", "deleted")
_CODEC = ("centroids", "cuts", "values")


@dataclass(frozen=True)
class Stored:
    """An index as it was found in a folder.

    Args:
        index: its arrays lie in the files.
        encoder: the file with the encoder's weights.
        system: what the writer said of itself.
        version: how often the folder was written.
    """

    index: PlaidIndex
    encoder: Path
    system: dict[str, Any]
    version: int


@dataclass
class _Writer:
    """Files of one version, written as they are named."""

    folder: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, suffix: str, write: Callable[[Path], object]) -> str:
        """Write a file and call it by the hash of its bytes."""
        handle, name = tempfile.mkstemp(suffix=".part", dir=self.folder)
        os.close(handle)
        part = Path(name)
        try:
            write(part)
            digest = hash_file(part)
            _flush(part)
            target = self.folder / f"{digest[:32]}{suffix}"
            part.chmod(0o644)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        self.files[target.name] = {"sha256": digest, "bytes": target.stat().st_size}
        return target.name

    def array(self, values: NDArray[Any]) -> str:
        """Write an array; one that was read from this folder's own file stays there."""
        base = values.base if isinstance(values.base, np.memmap) else values
        origin = Path(base.filename) if isinstance(base, np.memmap) and base.filename is not None else None
        if origin is not None and origin.parent == self.folder and origin.is_file() and values.shape == base.shape:
            self.files[origin.name] = {"sha256": hash_file(origin), "bytes": origin.stat().st_size}
            return origin.name

        def write(path: Path) -> None:
            with open(path, "wb") as file:
                np.save(file, np.ascontiguousarray(values), allow_pickle=False)

        return self.add(".npy", write)


def write_index(
    folder: Path,
    index: PlaidIndex,
    write_encoder: Callable[[Path], object],
    system: Mapping[str, Any],
    *,
    seen: int | None,
) -> int:
    """Write a version of the index and make it the one that counts.

    Args:
        folder: where to; it exists.
        index: the passages.
        write_encoder: writes the encoder's weights to a path.
        system: JSON types; what rebuilds the system.
        seen: the version that this one was made from, None for an index of its own.

    Returns:
        The number of the version.

    Raises:
        InputError: the folder cannot be written, or holds a newer version than the one seen.
    """
    folder = folder.resolve()
    try:
        with _locked(folder):
            version = _version(folder)
            if seen is not None and version != seen:
                raise InputError(
                    f"the index in {str(folder)!r} was changed meanwhile: it has version {version}, this one was made "
                    f"from {seen}.",
                    hint="Load it again and repeat the change.",
                )
            writer = _Writer(folder)
            content: dict[str, Any] = {
                "format_version": FORMAT_VERSION,
                "version": version + 1,
                "system": dict(system),
                "encoder": writer.add(".safetensors", write_encoder),
                "codec": {name: writer.array(getattr(index.codec, name)) for name in _CODEC},
                "segments": [
                    {name: writer.array(values) for name, values in zip(_SEGMENT, _arrays(segment), strict=True)}
                    for segment in index.segments
                ],
                "files": writer.files,
            }
            content["hash"] = _hash(content)
            handle, part = tempfile.mkstemp(suffix=".part", dir=folder)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(part, 0o644)
            os.replace(part, folder / MANIFEST)
            _flush(folder)
            for path in folder.iterdir():  # of older versions, and of writers that were killed
                if path.name not in content["files"] and path.suffix in (".npy", ".part", ".safetensors"):
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write the index in {str(folder)!r}: {error.strerror}.") from error
    return version + 1


def read_index(folder: Path) -> Stored:
    """Open the index in a folder; arrays are read from the files when they are needed.

    Raises:
        CheckpointError: there is no finished index, or a file is missing, damaged, or does not fit the others.
    """
    folder = folder.resolve()
    for attempt in range(_TRIES):
        content = _manifest(folder)
        try:
            return _open(folder, content)
        except FileNotFoundError as error:
            # A writer may have removed the files of the version that was just read.
            if attempt == _TRIES - 1 or _version(folder) == content["version"]:
                raise CheckpointError(f"the index in {str(folder)!r} lacks the file {error.filename!r}.") from error
    raise AssertionError("unreachable")


def _open(folder: Path, content: dict[str, Any]) -> Stored:
    try:
        for name, entry in content["files"].items():
            path = folder / name
            if Path(name).name != name or path.is_symlink():
                raise CheckpointError(f"the manifest names {name!r:.80}, which is no file of the index.")
            if path.stat().st_size != entry["bytes"] or hash_file(path) != entry["sha256"]:
                raise CheckpointError(f"{name} is damaged: its bytes do not match the manifest.")

        def array(name: str) -> NDArray[Any]:
            if name not in content["files"]:
                raise CheckpointError(f"the manifest names {name!r:.80} without its hash.")
            return _map(folder / name)

        codec = Codec(*(array(content["codec"][name]) for name in _CODEC))
        parts = [[array(entry[name]) for name in _SEGMENT] for entry in content["segments"]]
        _check_codec(codec)
        for number, part in enumerate(parts):
            _check_segment(number, part, codec)
        segments = [Segment(Strings(*part[:2]), Strings(*part[2:4]), *part[4:]) for part in parts]
        encoder = content["encoder"]
        if encoder not in content["files"] or not isinstance(content["system"], dict) or not segments:
            raise CheckpointError("the manifest lacks its encoder, system or segments.")
        return Stored(PlaidIndex(codec, segments), folder / encoder, content["system"], int(content["version"]))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, EOFError) as error:
        raise CheckpointError(f"the index in {str(folder)!r} does not fit together: {error!r:.200}") from error


def _map(path: Path) -> NDArray[Any]:
    """The array of a file, left in the file; empty ones cannot be mapped."""
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except ValueError:
        return np.asarray(np.load(path, allow_pickle=False))


def _arrays(segment: Segment) -> list[NDArray[Any]]:
    ids, texts = segment.ids, segment.texts
    return [ids.data, ids.ends, texts.data, texts.ends, *(getattr(segment, name) for name in _SEGMENT[4:])]


def _check_codec(codec: Codec) -> None:
    k, cuts, values = codec.centroids, codec.cuts, codec.values
    fine = k.ndim == 2 and len(k) and k.dtype == cuts.dtype == values.dtype == np.float32
    if not fine or len(values) not in [2**b for b in NBITS] or cuts.shape != (len(values) - 1,):
        raise CheckpointError("the centroids and intervals do not fit together.")
    if not all(np.isfinite(array).all() for array in (k, cuts, values)):
        raise CheckpointError("a centroid is no finite number.")


def _check_segment(number: int, part: list[NDArray[Any]], codec: Codec) -> None:
    ids, id_ends, texts, text_ends, lengths, codes, residuals, lists, list_ends, deleted = part
    n, width = len(lengths), codec.centroids.shape[1] * codec.nbits // 8
    kinds = [array.dtype.kind for array in part]
    fine = (
        all(array.ndim == (2 if array is residuals else 1) for array in part)
        and kinds == list("uiuiiuuiib")
        and {ids.dtype, texts.dtype, residuals.dtype} == {np.dtype(np.uint8)}
        and len(id_ends) == len(text_ends) == len(deleted) == n
        and all(_rises(ends, len(data)) for ends, data in ((id_ends, ids), (text_ends, texts), (list_ends, lists)))
        and (not n or int(lengths.min()) >= 0)
        and int(lengths.sum()) == len(codes) == len(residuals)
        and residuals.shape[1] == width
        and len(list_ends) == len(codec.centroids)
        and (not len(codes) or int(codes.max()) < len(codec.centroids))
        and (not len(lists) or (int(lists.min()) >= 0 and int(lists.max()) < n))
    )
    if not fine:
        raise CheckpointError(f"the arrays of segment {number} do not fit together.")


def _rises(ends: NDArray[Any], size: int) -> bool:
    """Whether `ends` cuts `size` items into consecutive runs."""
    return (
        not len(ends)
        if not size and not len(ends)
        else bool(len(ends) and ends[0] >= 0 and (np.diff(ends) >= 0).all() and int(ends[-1]) == size)
    )


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"there is no finished index in {str(folder)!r}.",
            hint="A fit or save that was interrupted must be repeated.",
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the manifest {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.pop("hash", None) != _hash(content):
        raise CheckpointError(f"the manifest {str(path)!r} was damaged or edited: its hash differs.")
    if content.get("format_version") != FORMAT_VERSION or not isinstance(content.get("files"), dict):
        raise CheckpointError(
            f"the index in {str(folder)!r} has format version {content.get('format_version')!r:.20}; "
            f"this library reads {FORMAT_VERSION}."
        )
    return content


def _version(folder: Path) -> int:
    """The version in a folder, 0 where there is no readable manifest."""
    try:
        return int(_manifest(folder)["version"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        return 0


def _hash(content: Mapping[str, Any]) -> str:
    return hash_bytes(json.dumps(content, sort_keys=True).encode())


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; it is let go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError as error:
        raise CapabilityError(
            "an index is written under a lock that this operating system does not have.",
            hint="Write it on Linux or macOS; reading works everywhere.",
        ) from error
    with open(folder / "lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
