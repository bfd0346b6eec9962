"""Finished parts of a long proof, kept as they come, so that a proof that was interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foreknow.common.files import cache_folder
from foreknow.common.timing import Stopwatch

Records = list[dict[str, Any]]


class Finished:
    """Records of parts that repeat exactly, in one file of JSON lines in the user's cache.

    The file is named after the proof and the source it runs, so that changed code measures everything anew.

    Args:
        name: of the proof and its preset.
        sources: folders whose Python files decide what is measured.
        keep: False keeps nothing, and finds nothing.
    """

    def __init__(self, name: str, *sources: Path, keep: bool = True) -> None:
        self._path: Path | None = None
        self._known: dict[str, Records] = {}
        self._seconds: dict[str, float] = {}
        self.saved_seconds = 0.0
        if not keep:
            return
        text = b"".join(path.read_bytes() for source in sources for path in sorted(source.glob("*.py")))
        self._path = cache_folder() / f"{name}-{hashlib.blake2b(text, digest_size=6).hexdigest()}.jsonl"
        if not self._path.is_file():
            return
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                part = json.loads(line)
                self._known[part["part"]], self._seconds[part["part"]] = part["records"], float(part["seconds"])
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut off when the run was killed

    def part(self, key: str, measure: Callable[[], Records]) -> Records:
        """The records of one part: those that are kept, or what `measure` gives, which is then kept.

        `saved_seconds` adds up what the parts that were kept once took.
        """
        if key in self._known:
            self.saved_seconds += self._seconds[key]
            return self._known[key]
        with Stopwatch() as watch:
            records = measure()
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"part": key, "seconds": watch.seconds, "records": records}) + "\n")
        return records
