"""Predictions written row by row, and what is remembered of them for the report."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.files import atomic_path
from foreknow.common.rng import numpy_stream
from foreknow.report.scores import Score, score

N_BINS = 20
N_UNCERTAIN = 20
MAX_KEPT = 100_000
"""Held-out quality is computed on a random sample of this many rows of a test file with more."""


@dataclass(frozen=True)
class UncertainRow:
    """A row whose prediction is not sure: its number (from 1), the two likeliest classes and their probabilities."""

    row: int
    predicted: str
    confidence: float
    second: str
    p_second: float


@dataclass(frozen=True)
class HeldOut:
    """Quality on rows of a test file whose target is known.

    Args:
        n_rows: rows that were judged.
        scores: as `scores.score` gives them.
        n_unknown: rows left out as their class does not occur in training.
        sampled: whether the rows are a random sample of those with a target.
    """

    n_rows: int
    scores: dict[str, Score]
    n_unknown: int
    sampled: bool

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "scores": {name: value.to_dict() for name, value in self.scores.items()}}


@dataclass(frozen=True)
class Predictions:
    """What is known of the predictions besides the file.

    Args:
        n_rows: rows predicted.
        sources: rows by where their prediction comes from: "empty target", "test file", "out-of-fold", or
            "not in sample" (a labelled row that a model of other rows predicted).
        class_counts: rows per predicted class, shape (k,).
        confidence_counts: rows per bin of confidence, `N_BINS` equal bins on [0, 1].
        uncertain: the least certain rows, least certain first.
        held_out: quality on a test file that holds the target.
    """

    n_rows: int
    sources: dict[str, int]
    class_counts: NDArray[np.int64]
    confidence_counts: NDArray[np.int64]
    uncertain: tuple[UncertainRow, ...]
    held_out: HeldOut | None = None


@dataclass
class PredictionWriter:
    """Writes predictions as CSV while it gathers what the report says of them; memory does not grow with the rows.

    The columns are `row` (from 1, the header not counted), `predicted`, `p_<class>` for each class, `confidence`
    (the probability of the predicted class) and `source` (see `Predictions.sources`).

    Args:
        file: text file to write to, opened with newline="".
        classes: names of the classes.
        seed: of the sample kept for the held-out quality.
    """

    file: IO[str]
    classes: tuple[str, ...]
    seed: int = 0
    _sources: dict[str, int] = field(default_factory=dict)
    _uncertain: list[UncertainRow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._writer = csv.writer(self.file, lineterminator="\n")
        self._writer.writerow(["row", "predicted", *(f"p_{name}" for name in self.classes), "confidence", "source"])
        self._class_counts = np.zeros(len(self.classes), dtype=np.int64)
        self._confidence_counts = np.zeros(N_BINS, dtype=np.int64)
        self._sample = _Sample(len(self.classes), self.seed)
        self._n_unknown = 0

    def add(self, rows: NDArray[np.int64], probabilities: NDArray[np.float64], source: str | Sequence[str]) -> None:
        """Write predictions of the rows numbered `rows` (from 1); probabilities have shape (n, k).

        Args:
            rows: their numbers, shape (n,).
            probabilities: rows sum to one.
            source: of all, or of each.
        """
        sources = [source] * len(rows) if isinstance(source, str) else source
        best = probabilities.argmax(axis=1)
        confidence = probabilities[np.arange(len(rows)), best]
        for number, code, p, sure, origin in zip(rows, best, probabilities, confidence, sources, strict=True):
            cells = [f"{value:.6g}" for value in p]
            self._writer.writerow([number, self.classes[code], *cells, f"{sure:.6g}", origin])
            self._sources[origin] = self._sources.get(origin, 0) + 1
        self._class_counts += np.bincount(best, minlength=len(self.classes))
        bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        self._confidence_counts += np.bincount(bins, minlength=N_BINS)
        for index in np.argsort(confidence, kind="stable")[:N_UNCERTAIN]:
            second = int(np.argsort(-probabilities[index], kind="stable")[1])
            self._uncertain.append(
                UncertainRow(
                    int(rows[index]), self.classes[best[index]], float(confidence[index]),
                    self.classes[second], float(probabilities[index, second]),
                )
            )  # fmt: skip
        self._uncertain = sorted(self._uncertain, key=lambda row: row.confidence)[:N_UNCERTAIN]

    def judge(self, probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> None:
        """Remember rows whose class is known; codes of -1 are empty targets, -2 classes unknown in training."""
        self._n_unknown += int((truth == -2).sum())
        self._sample.add(probabilities[truth >= 0], truth[truth >= 0])

    def finish(self) -> Predictions:
        """What is known of all rows written."""
        held_out = None
        if self._sample.n_seen:
            kept, truth = self._sample.probabilities, self._sample.truth
            scores = dict(score(kept, truth, seed=self.seed))
            held_out = HeldOut(len(truth), scores, self._n_unknown, self._sample.n_seen > len(truth))
        return Predictions(
            int(self._class_counts.sum()), self._sources, self._class_counts, self._confidence_counts,
            tuple(self._uncertain), held_out,
        )  # fmt: skip


class _Sample:
    """A uniform random sample of a stream of judged rows: those with the smallest random keys are kept."""

    def __init__(self, n_classes: int, seed: int) -> None:
        self._rng = numpy_stream(seed, "report", "held-out")
        self._keys = np.zeros(0)
        self.probabilities = np.zeros((0, n_classes))
        self.truth = np.zeros(0, dtype=np.int64)
        self.n_seen = 0

    def add(self, probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> None:
        keys = np.concatenate([self._keys, self._rng.random(len(truth))])
        kept = np.argsort(keys, kind="stable")[:MAX_KEPT] if len(keys) > MAX_KEPT else np.arange(len(keys))
        self._keys = keys[kept]
        self.probabilities = np.concatenate([self.probabilities, probabilities])[kept]
        self.truth = np.concatenate([self.truth, truth])[kept]
        self.n_seen += len(truth)


@contextmanager
def open_predictions(path: str | Path, classes: tuple[str, ...], seed: int = 0) -> Iterator[PredictionWriter]:
    """A writer to a temporary file that takes the name `path` when the block ends without an error."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield PredictionWriter(file, classes, seed)
