"""The index of PLAID (Santhanam, Khattab, Potts and Zaharia 2022): four stages from centroids to exact scores.

1. Passages that have a token at one of the `n_cells` best centroids of any query token; of more centroids where these
   list fewer passages than the second stage keeps, as in a small or mostly deleted collection.
2. MaxSim with centroids in place of tokens, over tokens whose centroid matches some query token with at least
   `threshold`; the best `n_candidates` stay.
3. The same over all their tokens; a quarter stays.
4. Residuals are decompressed, and MaxSim is exact up to their bits.

An index is a list of segments that never change. Documents are added as a new segment and deleted by a mark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_int, check_real
from foreknow.memory.colbert.codec import NBITS, Codec, Floats
from foreknow.memory.colbert.strings import Strings

Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Ranking:
    """Documents for one query, best first.

    Args:
        ids: names of the documents.
        scores: as many; they compare within this query only.
    """

    ids: tuple[str, ...]
    scores: NDArray[np.float32]

    def __iter__(self) -> object:
        return iter(zip(self.ids, self.scores.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class SearchSettings:
    """How much of the index a search looks at.

    Args:
        n_cells: centroids looked up for each query token, or more until there are `n_candidates` passages.
        threshold: smallest match of a centroid with some query token that counts in the second stage.
        n_candidates: passages kept by the second stage; the third keeps a quarter.
    """

    n_cells: int
    threshold: float
    n_candidates: int

    def __post_init__(self) -> None:
        check_int("search", "n_cells", self.n_cells, low=1)
        check_real("search", "threshold", self.threshold)
        check_int("search", "n_candidates", self.n_candidates, low=1)

    @classmethod
    def for_depth(cls, k: int) -> SearchSettings:
        """The published settings for the best `k`."""
        if k <= 10:
            return cls(1, 0.5, 256)
        return cls(2, 0.45, 1024) if k <= 100 else cls(4, 0.4, max(4 * k, 4096))


@dataclass(frozen=True)
class Segment:
    """Passages that were indexed together.

    Args:
        ids, texts: of the passages.
        lengths: tokens of each passage, shape (n,).
        codes: centroid of each token, shape (n_tokens,).
        residuals: packed residual of each token, shape (n_tokens, d b / 8).
        lists: passages of each centroid, one list after the other.
        list_ends: where each centroid's list ends, shape (K,).
        deleted: marks, shape (n,).
    """

    ids: Strings
    texts: Strings
    lengths: Ints
    codes: Ints
    residuals: NDArray[np.uint8]
    lists: Ints
    list_ends: Ints
    deleted: NDArray[np.bool_]
    starts: Ints = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", np.cumsum(self.lengths, dtype=np.int64) - self.lengths)

    @classmethod
    def make(cls, codec: Codec, vectors: Tensor, lengths: Ints, ids: Sequence[str], texts: Sequence[str]) -> Segment:
        """Compress packed vectors (n_tokens, d) and list the passages of each centroid."""
        codes, residuals = codec.compress(vectors)
        lengths = np.asarray(lengths, dtype=np.int32)
        lists, list_ends = _inverted(codes, lengths, len(codec.centroids))
        marks = np.zeros(len(lengths), dtype=bool)
        return cls(Strings.of(ids), Strings.of(texts), lengths, codes, residuals, lists, list_ends, marks)

    @property
    def n_bytes(self) -> dict[str, int]:
        """Bytes of what a search reads, and of the texts and names that people read."""
        return {
            "codes": self.codes.nbytes,
            "residuals": self.residuals.nbytes,
            "lists": self.lists.nbytes + self.list_ends.nbytes,
            "lengths": self.lengths.nbytes + self.deleted.nbytes,
            "texts": self.ids.n_bytes + self.texts.n_bytes,
        }

    def tokens_of(self, passages: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of all tokens of some passages that have any, and where each passage's run begins."""
        lengths = self.lengths[passages].astype(np.int64)
        begins = np.cumsum(lengths) - lengths
        steps = np.arange(lengths.sum()) - np.repeat(begins, lengths)
        return np.repeat(self.starts[passages], lengths) + steps, begins

    def lookup(self, cells: Ints) -> NDArray[np.int64]:
        """Passages in the lists of some centroids, each once, without deleted ones."""
        begins = np.concatenate([[0], self.list_ends[:-1]])
        parts = [self.lists[begins[cell] : self.list_ends[cell]] for cell in cells]
        found = np.unique(np.concatenate(parts)).astype(np.int64) if parts else np.zeros(0, np.int64)
        return found[~self.deleted[found]]


class PlaidIndex:
    """Passages as compressed token vectors with inverted lists of centroids.

    Args:
        codec: how vectors are compressed.
        segments: the passages.
    """

    def __init__(self, codec: Codec, segments: Sequence[Segment]) -> None:
        self.codec, self.segments = codec, list(segments)

    @classmethod
    def build(
        cls,
        vectors: Tensor,
        lengths: Ints,
        ids: Sequence[str],
        texts: Sequence[str],
        *,
        nbits: int = 2,
        seed: int = 0,
    ) -> PlaidIndex:
        """Index packed unit vectors.

        Args:
            vectors: shape (n_tokens, d).
            lengths: tokens of each passage, shape (n,).
            ids: names of the passages, each once.
            texts: of the passages.
            nbits: bits per dimension: 1, 2 or 4.
            seed: of the sample and of k-means.

        Raises:
            ConfigError: nbits is not allowed, or a vector's bits do not fill whole bytes.
            InputError: no passage has a token.
        """
        if nbits not in NBITS:
            raise ConfigError(f"PlaidIndex: nbits must be one of {NBITS}, got {nbits!r}.")
        if vectors.shape[1] * nbits % 8:
            raise ConfigError(
                f"PlaidIndex: dim * nbits must be a multiple of 8, got {vectors.shape[1]} * {nbits}.",
                hint="Take dim=128.",
            )
        if not len(vectors):
            raise InputError("PlaidIndex: no passage has a token.", hint="All texts are empty, or punctuation only.")
        codec = Codec.learn(vectors, np.asarray(lengths, dtype=np.int64), nbits, seed)
        return cls(codec, [Segment.make(codec, vectors, lengths, ids, texts)])

    @property
    def n_documents(self) -> int:
        """Passages that are not deleted."""
        return sum(int((~segment.deleted).sum()) for segment in self.segments)

    def ids(self) -> list[str]:
        """Names of the passages that are not deleted."""
        return [segment.ids[i] for segment in self.segments for i in np.flatnonzero(~segment.deleted)]

    def text(self, name: str) -> str:
        """Text of a passage.

        Raises:
            InputError: there is none of that name.
        """
        places = self.places()
        if name not in places:
            raise InputError(f"there is no document {name!r:.80} in the index.")
        segment, i = places[name]
        return self.segments[segment].texts[i]

    def places(self) -> dict[str, tuple[int, int]]:
        """Name -> segment and position, of the passages that are not deleted."""
        return {
            segment.ids[i]: (number, int(i))
            for number, segment in enumerate(self.segments)
            for i in np.flatnonzero(~segment.deleted)
        }

    # Searching -----------------------------------------------------------------------------------------------

    def search(self, query: Floats, k: int, settings: SearchSettings | None = None) -> Ranking:
        """The best `k` passages for a query's unit vectors (l, d); the score is the sum of cosines."""
        settings = settings or SearchSettings.for_depth(k)
        match = self.codec.centroids @ query.T  # K, l
        found: list[NDArray[np.int64]] = []
        n_cells = min(settings.n_cells, len(match))
        wanted = max(1, min(max(k, settings.n_candidates), self.n_documents))
        while sum(map(len, found)) < wanted and n_cells < 2 * len(match):  # lists are short, or much was deleted
            nearest = np.argpartition(-match, min(n_cells, len(match)) - 1, axis=0)[:n_cells]
            found = [segment.lookup(np.unique(nearest)) for segment in self.segments]
            n_cells *= 2
        found = self._best(found, match, max(k, settings.n_candidates), match.max(1) >= settings.threshold)
        found = self._best(found, match, max(k, settings.n_candidates // 4))
        return self._ranked(found, query, k)

    def rerank(self, query: Floats, names: Sequence[str], places: dict[str, tuple[int, int]] | None = None) -> Ranking:
        """All of `names` in the order of their scores; a passage without a token scores -inf."""
        places = self.places() if places is None else places
        unknown = [name for name in names if name not in places]
        if unknown:
            raise InputError(f"there is no document {unknown[0]!r:.80} in the index ({len(unknown)} unknown in all).")
        found = [
            np.array(sorted({places[name][1] for name in names if places[name][0] == number}), dtype=np.int64)
            for number in range(len(self.segments))
        ]
        return self._ranked(found, query, len(names))

    def _best(
        self, found: list[NDArray[np.int64]], match: Floats, n: int, pruned: NDArray[np.bool_] | None = None
    ) -> list[NDArray[np.int64]]:
        """The `n` passages with the best MaxSim of their centroids, of all segments together."""
        if sum(map(len, found)) <= n:
            return found
        scores = []
        for segment, passages in zip(self.segments, found, strict=True):
            scores.append(np.full(len(passages), -np.inf, dtype=np.float32))
            tokens, begins = segment.tokens_of(passages)
            codes = segment.codes[tokens]
            owner = np.repeat(np.arange(len(passages)), segment.lengths[passages])
            if pruned is not None:
                codes, owner = codes[pruned[codes]], owner[pruned[codes]]
                begins = np.flatnonzero(np.diff(owner, prepend=-1))
            if len(codes):
                scores[-1][np.unique(owner)] = np.maximum.reduceat(match[codes], begins, axis=0).sum(1)
        flat = np.concatenate(scores)
        keep = np.ones(len(flat), dtype=bool)
        keep[np.argsort(-flat, kind="stable")[n:]] = False
        ends = np.cumsum([len(part) for part in scores])[:-1]
        return [passages[part] for passages, part in zip(found, np.split(keep, ends), strict=True)]

    def _ranked(self, found: list[NDArray[np.int64]], query: Floats, k: int) -> Ranking:
        """Exact scores of passages from their decompressed vectors, the best `k`."""
        names: list[str] = []
        scores: list[NDArray[np.float32]] = []
        for segment, passages in zip(self.segments, found, strict=True):
            score = np.full(len(passages), -math.inf, dtype=np.float32)
            filled = np.flatnonzero(segment.lengths[passages] > 0)
            if len(filled):
                tokens, begins = segment.tokens_of(passages[filled])
                vectors = self.codec.decompress(segment.codes[tokens], segment.residuals[tokens])
                score[filled] = np.maximum.reduceat(vectors @ query.T, begins, axis=0).sum(1)
            names += [segment.ids[i] for i in passages]
            scores.append(score)
        flat = np.concatenate(scores)
        order = np.argsort(-flat, kind="stable")[:k]
        return Ranking(tuple(names[i] for i in order), flat[order])

    # Changing ------------------------------------------------------------------------------------------------

    def with_added(self, vectors: Tensor, lengths: Ints, ids: Sequence[str], texts: Sequence[str]) -> PlaidIndex:
        """An index with a further segment, compressed by the centroids that are there."""
        return PlaidIndex(self.codec, [*self.segments, Segment.make(self.codec, vectors, lengths, ids, texts)])

    def without(self, names: Sequence[str]) -> PlaidIndex:
        """An index in which these passages are marked as deleted.

        Raises:
            InputError: one of them is not there.
        """
        places = self.places()
        unknown = [name for name in names if name not in places]
        if unknown:
            raise InputError(f"there is no document {unknown[0]!r:.80} to delete ({len(unknown)} unknown in all).")
        segments = []
        for number, segment in enumerate(self.segments):
            marks = segment.deleted.copy()
            marks[[places[name][1] for name in names if places[name][0] == number]] = True
            segments.append(_with_marks(segment, marks))
        return PlaidIndex(self.codec, segments)

    def compacted(self) -> PlaidIndex:
        """The same passages in one segment, without the deleted ones and their tokens."""
        keep = [np.flatnonzero(~segment.deleted) for segment in self.segments]
        tokens = [segment.tokens_of(part)[0] for segment, part in zip(self.segments, keep, strict=True)]
        pairs = list(zip(self.segments, keep, strict=True))
        lengths = np.concatenate([segment.lengths[part] for segment, part in pairs])
        codes = np.concatenate([s.codes[part] for s, part in zip(self.segments, tokens, strict=True)])
        residuals = np.concatenate([s.residuals[part] for s, part in zip(self.segments, tokens, strict=True)])
        lists, list_ends = _inverted(codes, lengths, len(self.codec.centroids))
        merged = Segment(
            Strings.of([segment.ids[i] for segment, part in pairs for i in part]),
            Strings.of([segment.texts[i] for segment, part in pairs for i in part]),
            lengths,
            codes,
            residuals,
            lists,
            list_ends,
            np.zeros(len(lengths), dtype=bool),
        )
        return PlaidIndex(self.codec, [merged])


def _with_marks(segment: Segment, marks: NDArray[np.bool_]) -> Segment:
    return Segment(
        segment.ids, segment.texts, segment.lengths, segment.codes, segment.residuals, segment.lists,
        segment.list_ends, marks,
    )  # fmt: skip


def _inverted(codes: Ints, lengths: Ints, n_centroids: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Passages of each centroid, one list after the other, and where each list ends."""
    n = len(lengths)
    owner = np.repeat(np.arange(n), lengths)
    pairs = np.unique(codes.astype(np.int64) * max(1, n) + owner)
    counts = np.bincount(pairs // max(1, n), minlength=n_centroids)
    return (pairs % max(1, n)).astype(np.int32), np.cumsum(counts)
