"""Fuzz target: no bytes may make the checkpoint reader raise anything but CheckpointError.

Run it for long with `python tests/fuzz/fuzz_checkpoint_header.py -max_total_time=600 corpus/`.
The suite runs it briefly.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path


def valid_file() -> bytes:
    """A small good file, the start of the mutations."""
    import torch

    from foreknow.core.checkpoint import Checkpoint

    tensors = {"a": torch.ones(2, 3), "b": torch.tensor([1, 2]), "c": torch.tensor([True])}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        Checkpoint("K", {"a": [1, None, 2.5]}, tensors).save(path, half=True)
        return path.read_bytes()


def check_one(data: bytes, valid: bytes) -> None:
    """Read `data` as a whole file, as a header with the right length, or as an edit of a good file."""
    from foreknow.common.errors import CheckpointError
    from foreknow.core import checkpoint

    mode, rest = data[:1], data[1:]
    if mode == b"h":
        rest = len(rest).to_bytes(8, "little") + rest
    elif mode == b"m":
        at, rest = int.from_bytes(rest[:2], "little") % len(valid), rest[2:]
        rest = valid[:at] + rest + valid[at + len(rest) :]
    with contextlib.suppress(CheckpointError):
        checkpoint._read(io.BytesIO(rest), kind=None, sha256=None, max_bytes=1 << 24)


def main() -> None:
    """Hand the target to atheris; the arguments are libFuzzer's."""
    import atheris

    with atheris.instrument_imports(include=["foreknow.core.checkpoint"]):
        import foreknow.core.checkpoint  # noqa: F401
    valid = valid_file()
    atheris.Setup(sys.argv, lambda data: check_one(data, valid))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
