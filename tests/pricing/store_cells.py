"""Cells and work that several tests of the store and the engines share."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

from foreknow.pricing.records import Cell, Outcome, Trial

SRC = Path(__file__).resolve().parents[2] / "src"
SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may ignore Ctrl-C
from pathlib import Path
from foreknow.pricing.engine import run_cells
from foreknow.pricing.records import Cell, Outcome
from foreknow.pricing.store import Store

def note(folder, text):
    with open(Path(folder) / "executions", "a") as file:
        file.write(text + "\\n")
"""


def make_cell(seed: int = 0, size: int = 8, arm: str = "on", study: str = "s") -> Cell:
    return Cell(study, "data", "hash", arm, size, seed, {"depth": 2}, {"foreknow": "0"})


def make_trial(cell: Cell | None = None, **changes: object) -> Trial:
    given = {"status": "done", "metrics": {"loss": 0.5}, "seconds": 1.5, "peak_mb": 3.0, **changes}
    return Trial(cell or make_cell(), **given)  # type: ignore[arg-type]


def make_blocks(
    n_seeds: int, sizes: tuple[int, ...] = (8, 16), arms: tuple[str, ...] = ("on", "off")
) -> list[list[Cell]]:
    return [[make_cell(seed, size, arm) for size in sizes for arm in arms] for seed in range(n_seeds)]


def quick(cell: Cell) -> Outcome:
    return Outcome({"loss": 1 / cell.size + cell.seed}, {"arm": cell.arm}, 0.25)


def start(code: str, *words: object, options: tuple[str, ...] = ("-W", "error")) -> subprocess.Popen[str]:
    """A process that runs `SCRIPT` and then `code`; its interpreter takes warnings for errors."""
    return subprocess.Popen(
        [sys.executable, *options, "-c", SCRIPT + textwrap.dedent(code), *map(str, words)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SRC), str(Path(__file__).parent)])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 50) -> str:
    """What a process wrote; its end must be a good one."""
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, err
    return out


def executions(folder: Path) -> list[str]:
    path = folder / "executions"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def twice(items: list[str]) -> dict[str, int]:
    return {item: n for item, n in Counter(items).items() if n > 1}
