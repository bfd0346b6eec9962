"""The training log: one JSON object per line, flushed as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from foreknow.common.errors import InputError
from foreknow.common.files import write_text


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line cut short by a kill is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class JsonlLog:
    """Writes rows to a file, continuing an older log up to a given step.

    Args:
        path: the file, or None to write nothing.
        keep_steps: rows of an existing file with `step` up to this stay; the others are dropped.

    Raises:
        InputError: if the folder does not exist or the file cannot be written.
    """

    def __init__(self, path: str | Path | None, keep_steps: int) -> None:
        self._file: IO[str] | None = None
        if path is None:
            return
        old = read_log(path) if keep_steps and Path(path).is_file() else []
        kept = [row for row in old if row["step"] <= keep_steps]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        try:
            self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise InputError(f"cannot write the log {str(path)!r}: {error.strerror}.") from error

    def write(self, row: dict[str, Any]) -> None:
        """Append one row."""
        if self._file is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
