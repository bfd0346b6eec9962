"""Files: deterministic hashes, and writing that never leaves half a file behind."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from foreknow.common.errors import InputError


def hash_file(path: str | Path) -> str:
    """SHA-256 of the file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hash_bytes(*parts: bytes) -> str:
    """SHA-256 of the parts, each preceded by its length, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where work that repeats exactly is kept: `foreknow` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "foreknow"


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its name when the block ends without an error.

    Raises:
        InputError: if the folder does not exist, cannot be written, or `path` is a folder.
    """
    target = Path(path)
    if os.path.isdir(target):
        raise InputError(f"cannot write {str(target)!r}: it is a folder.", hint="Name a file.")
    if not os.path.isdir(target.parent):
        raise InputError(
            f"cannot write {str(target)!r}: the folder {str(target.parent)!r} does not exist.",
            hint=f"Make it first: mkdir -p {target.parent}",
        )
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot write {str(target)!r:.300}: {reason}.", hint="Choose a folder you may write to, and a short name."
        ) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 in one step: the old file stays until the new one is whole."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
