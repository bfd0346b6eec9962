"""Predictions written row by row, and what is remembered of them for the report."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.files import atomic_path
from foreknow.common.rng import numpy_stream
from foreknow.report.forecast import HIGH, LEVELS, LOW, MEAN, MEDIAN, Coverage, coverage
from foreknow.report.scores import Score, judge

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
class WideRow:
    """A row whose number is not sure: its number (from 1), the prediction and the ends of its 90% interval."""

    row: int
    prediction: float
    low: float
    high: float


@dataclass(frozen=True)
class HeldOut:
    """Quality on rows of a test file whose target is known.

    Args:
        n_rows: rows that were judged.
        scores: as `scores.judge` gives them.
        n_unknown: rows left out as their class does not occur in training.
        sampled: whether the rows are a random sample of those with a target.
        coverage: of the intervals of numbers; None for classes.
    """

    n_rows: int
    scores: dict[str, Score]
    n_unknown: int
    sampled: bool
    coverage: Coverage | None = None

    def to_dict(self) -> dict[str, Any]:
        found = None if self.coverage is None else self.coverage.to_dict()
        return {**vars(self), "scores": {n: value.to_dict() for n, value in self.scores.items()}, "coverage": found}


@dataclass(frozen=True)
class Predictions:
    """What is known of the predictions besides the file.

    Args:
        n_rows: rows predicted.
        sources: rows by where their prediction comes from: "empty target", "test file", "out-of-fold", or
            "not in sample" (a labelled row that a model of other rows predicted), "saved model".
        held_out: quality on a test file that holds the target.
        class_counts: rows per predicted class, shape (k,); empty for numbers.
        confidence_counts: rows per bin of confidence, `N_BINS` equal bins on [0, 1]; empty for numbers.
        uncertain: the least certain rows of a classification, least certain first.
        means: predicted numbers, of a random sample of at most `MAX_KEPT` rows; empty for classes.
        widest: the rows with the widest intervals, widest first; empty for classes.
    """

    n_rows: int
    sources: dict[str, int]
    held_out: HeldOut | None = None
    class_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    confidence_counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    uncertain: tuple[UncertainRow, ...] = ()
    means: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    widest: tuple[WideRow, ...] = ()


class PredictionWriter(ABC):
    """Writes predictions as CSV while it gathers what the report says of them; memory does not grow with the rows.

    The first column is `row` (from 1, the header not counted), the last `source` (see `Predictions.sources`).

    Args:
        file: text file to write to, opened with newline="".
        header: names of the columns between these.
        seed: of the sample kept for the held-out quality.
    """

    task: str

    def __init__(self, file: IO[str], header: Sequence[str], width: int, seed: int = 0) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(["row", *header, "source"])
        self._seed = seed
        self._sources: dict[str, int] = {}
        self._judged = _Sample(width, seed)
        self._n_unknown = 0

    def add(self, rows: NDArray[np.int64], output: NDArray[np.float64], source: str | Sequence[str]) -> None:
        """Write predictions of the rows numbered `rows` (from 1).

        Args:
            rows: their numbers, shape (n,).
            output: class probabilities, shape (n, k), or what `forecast` gives, shape (n, 5).
            source: of all, or of each.
        """
        sources = [source] * len(rows) if isinstance(source, str) else source
        for number, cells, origin in zip(rows, self._cells(rows, output), sources, strict=True):
            self._writer.writerow([number, *cells, origin])
            self._sources[origin] = self._sources.get(origin, 0) + 1

    def judge(self, output: NDArray[np.float64], truth: NDArray[Any]) -> None:
        """Remember rows whose target is known: codes (-1 empty, -2 unknown in training) or numbers (NaN empty)."""
        self._n_unknown += int((truth == -2).sum()) if self.task == "classification" else 0
        known = ~np.isnan(truth) if self.task == "regression" else truth >= 0
        self._judged.add(output[known], truth[known])

    def finish(self) -> Predictions:
        """What is known of all rows written."""
        held_out = None
        if self._judged.n_seen:
            kept, truth = self._judged.output, self._judged.truth
            truth = truth.astype(np.int64) if self.task == "classification" else truth
            held_out = HeldOut(
                len(truth), dict(judge(self.task, kept, truth, seed=self._seed)), self._n_unknown,
                self._judged.n_seen > len(truth), coverage(kept, truth) if self.task == "regression" else None,
            )  # fmt: skip
        return Predictions(sum(self._sources.values()), self._sources, held_out, **self._gathered())

    @abstractmethod
    def _cells(self, rows: NDArray[np.int64], output: NDArray[np.float64]) -> Iterator[list[Any]]:
        """The cells of each row between its number and its source; remembers what `_gathered` returns."""

    @abstractmethod
    def _gathered(self) -> dict[str, Any]:
        """Fields of `Predictions`."""


class ClassWriter(PredictionWriter):
    """Columns `predicted`, `p_<class>` for each class, and `confidence` (the probability of the predicted class)."""

    task = "classification"

    def __init__(self, file: IO[str], classes: tuple[str, ...], seed: int = 0) -> None:
        super().__init__(file, ["predicted", *(f"p_{name}" for name in classes), "confidence"], len(classes), seed)
        self.classes = classes
        self._class_counts = np.zeros(len(classes), dtype=np.int64)
        self._confidence_counts = np.zeros(N_BINS, dtype=np.int64)
        self._uncertain: list[UncertainRow] = []

    def _cells(self, rows: NDArray[np.int64], output: NDArray[np.float64]) -> Iterator[list[Any]]:
        best = output.argmax(axis=1)
        confidence = output[np.arange(len(rows)), best]
        self._class_counts += np.bincount(best, minlength=len(self.classes))
        bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
        self._confidence_counts += np.bincount(bins, minlength=N_BINS)
        for index in np.argsort(confidence, kind="stable")[:N_UNCERTAIN]:
            second = int(np.argsort(-output[index], kind="stable")[1])
            self._uncertain.append(
                UncertainRow(
                    int(rows[index]), self.classes[best[index]], float(confidence[index]),
                    self.classes[second], float(output[index, second]),
                )
            )  # fmt: skip
        self._uncertain = sorted(self._uncertain, key=lambda row: row.confidence)[:N_UNCERTAIN]
        for code, p, sure in zip(best, output, confidence, strict=True):
            yield [self.classes[code], *(f"{value:.6g}" for value in p), f"{sure:.6g}"]

    def _gathered(self) -> dict[str, Any]:
        return {
            "class_counts": self._class_counts,
            "confidence_counts": self._confidence_counts,
            "uncertain": tuple(self._uncertain),
        }


class NumberWriter(PredictionWriter):
    """Columns `prediction` (the mean) and `quantile_0.05`, `quantile_0.5`, `quantile_0.95`."""

    task = "regression"

    def __init__(self, file: IO[str], seed: int = 0) -> None:
        super().__init__(file, ["prediction", *(f"quantile_{level:g}" for level in LEVELS)], 5, seed)
        self._means = _Sample(0, seed)
        self._widest: list[WideRow] = []

    def _cells(self, rows: NDArray[np.int64], output: NDArray[np.float64]) -> Iterator[list[Any]]:
        self._means.add(np.zeros((len(rows), 0)), output[:, MEAN])
        width = output[:, HIGH] - output[:, LOW]
        for index in np.argsort(-width, kind="stable")[:N_UNCERTAIN] if not np.isnan(width).any() else ():
            mean, low, high = output[index, [MEAN, LOW, HIGH]].tolist()
            self._widest.append(WideRow(int(rows[index]), mean, low, high))
        self._widest = sorted(self._widest, key=lambda row: row.low - row.high)[:N_UNCERTAIN]
        for cells in output[:, [MEAN, LOW, MEDIAN, HIGH]]:
            yield ["" if np.isnan(value) else f"{value:.9g}" for value in cells]

    def _gathered(self) -> dict[str, Any]:
        return {"means": self._means.truth, "widest": tuple(self._widest)}


class _Sample:
    """A uniform random sample of a stream of rows: those with the smallest random keys are kept."""

    def __init__(self, width: int, seed: int) -> None:
        self._rng = numpy_stream(seed, "report", "held-out")
        self._keys = np.zeros(0)
        self.output = np.zeros((0, width))
        self.truth = np.zeros(0)
        self.n_seen = 0

    def add(self, output: NDArray[np.float64], truth: NDArray[Any]) -> None:
        keys = np.concatenate([self._keys, self._rng.random(len(truth))])
        kept = np.argsort(keys, kind="stable")[:MAX_KEPT] if len(keys) > MAX_KEPT else np.arange(len(keys))
        self._keys = keys[kept]
        self.output = np.concatenate([self.output, output])[kept]
        self.truth = np.concatenate([self.truth, truth])[kept]
        self.n_seen += len(truth)


@contextmanager
def open_predictions(path: str | Path, classes: tuple[str, ...], seed: int = 0) -> Iterator[PredictionWriter]:
    """A writer to a temporary file that takes the name `path` when the block ends without an error.

    Args:
        path: the file.
        classes: names of the classes; none for numbers.
        seed: of the sample kept for the held-out quality.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        yield ClassWriter(file, classes, seed) if classes else NumberWriter(file, seed)
