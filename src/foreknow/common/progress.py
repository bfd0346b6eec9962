"""Progress as a record handed to a callback. The library never prints; the command line draws bars."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is.

    Args:
        done: units finished.
        total: units in all.
        seconds_left: estimate of the wall-clock time left, None while unknown.
        note: a few words for people, for instance the current loss.
    """

    done: float
    total: float
    seconds_left: float | None = None
    note: str = ""


ProgressCallback = Callable[[Progress], None]


class Reporter:
    """Turns `advance(done, note)` into `Progress` records with an estimate of the time left.

    Args:
        callback: receives the records; None makes every call a no-op.
        total: units in all.
    """

    def __init__(self, callback: ProgressCallback | None, total: float) -> None:
        self._callback = callback
        self.total = total
        self._start = time.perf_counter()

    def advance(self, done: float, note: str = "") -> None:
        """Report that `done` units of the total are finished."""
        if self._callback is None:
            return
        elapsed = time.perf_counter() - self._start
        left = elapsed / done * (self.total - done) if done > 0 else None
        self._callback(Progress(done, self.total, left, note))
