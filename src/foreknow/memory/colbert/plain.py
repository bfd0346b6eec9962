"""Plain methods of search that late interaction is priced against, and the data that it is priced on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import InputError
from foreknow.common.files import hash_bytes
from foreknow.common.rng import numpy_stream, seeded_init
from foreknow.core.source import Sample, Split
from foreknow.data.text import TextCollection
from foreknow.data.text_sets import documentation
from foreknow.memory.colbert.index import Ranking
from foreknow.memory.colbert.inputs import read_documents
from foreknow.memory.colbert.interaction import InteractionPrior
from foreknow.memory.colbert.lexical import BM25, terms
from foreknow.memory.colbert.network import TextEncoder, Tokens, build_body

_FEWEST = 8
"""Queries to learn from, at the least."""


class _Search:
    """What the plain methods share: documents, and a ranked list from scores.

    Args:
        seed: not used; nothing here is random.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def fit(self, X: Any, y: None = None, **named: Any) -> Self:
        """Read the documents; judged queries are not learnt from."""
        documents = read_documents(type(self).__name__, X)
        self.ids = [document.id for document in documents]
        self._index([document.text for document in documents])
        return self

    def search(self, queries: Sequence[str], k: int = 10) -> list[Ranking]:
        """The best `k` documents of each query with a score above 0."""
        rankings = []
        for score in self._scores(queries):
            order = np.argsort(-score, kind="stable")[:k]
            order = order[score[order] > 0]
            rankings.append(Ranking(tuple(self.ids[i] for i in order), score[order].astype(np.float32)))
        return rankings

    def _index(self, texts: Sequence[str]) -> None:
        raise NotImplementedError

    def _scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        raise NotImplementedError


class BM25Search(_Search):
    """BM25 over words, k1 = 1.5, b = 0.75."""

    def _index(self, texts: Sequence[str]) -> None:
        self.bm25 = BM25(texts)

    def _scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        return np.stack([self.bm25.score(query) for query in queries])


class TfidfSearch(_Search):
    """Cosine of TF-IDF vectors, with logarithmic counts."""

    def _index(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.vectorizer = TfidfVectorizer(analyzer=terms, sublinear_tf=True)
        self.weights = self.vectorizer.fit_transform(texts)

    def _scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray((self.vectorizer.transform(queries) @ self.weights.T).todense())


class PooledSearch(_Search):
    """One vector per text, the mean of all outputs of the built-in encoder, as it was trained to be used."""

    doc_len = 256

    def _index(self, texts: Sequence[str]) -> None:
        body = build_body("minilm", pretrained=True, seed=0, device=torch.device("cpu"))
        with seeded_init(0):
            self.encoder = TextEncoder(body, 1, InteractionPrior(interaction=False), 32, self.doc_len, False)
        self.vectors = self._encode(texts)

    def _scores(self, queries: Sequence[str]) -> NDArray[np.float64]:
        return self._encode(queries) @ self.vectors.T + 1  # none is refused for its sign

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Unit vectors of texts, (n, hidden)."""
        means = np.concatenate(self.encoder.states([self._tokens(text) for text in texts])).astype(np.float64)
        units: NDArray[np.float64] = means / np.linalg.norm(means, axis=1, keepdims=True)
        return units

    def _tokens(self, text: str) -> Tokens:
        """[CLS] text [SEP], without the markers of late interaction."""
        ids, words = self.encoder.body.split(text)
        room, special = self.doc_len - 2, self.encoder.body.special
        ids = [special["[CLS]"], *ids[:room], special["[SEP]"]]
        return Tokens(tuple(ids), ("[CLS]", *words[:room], "[SEP]"), tuple(range(len(ids))), len(ids), 0)


class JudgedQueries:
    """Search of a collection as a source for `price`: all documents are known, a size is a number of judged queries.

    Args:
        collection: documents, queries and judgements.
        group_of: the name of a query -> what it comes from; queries of a group lie on one side of the split.
        n_test: queries to be measured on; by default two fifths.

    Raises:
        InputError: fewer than 16 queries are judged.
    """

    task, unit = "none", "judged queries"

    def __init__(
        self, collection: TextCollection, *, group_of: Callable[[str], str] | None = None, n_test: int | None = None
    ) -> None:
        self.collection, self.name = collection, collection.name
        names = [name for name in collection.queries if collection.judgements.get(name)]
        if len(names) < 2 * _FEWEST:
            raise InputError(f"price: {collection.name!r} has {len(names)} judged queries; {2 * _FEWEST} are needed.")
        self._groups = np.unique([group_of(name) if group_of else name for name in names], return_inverse=True)[1]
        self._names, self._n_test = np.array(names), n_test or 2 * len(names) // 5
        self.n_min = _FEWEST
        self.n_max = min(len(self._order(seed)[1]) for seed in range(5))
        texts = [part.encode() for document in collection.documents for part in (document.id, document.text)]
        judged = [repr((collection.queries[name], sorted(collection.judgements[name].items()))) for name in names]
        self.content_hash = hash_bytes(*texts, *(text.encode() for text in judged))

    def split(self, size: int, seed: int, following: int = 0) -> Split:
        """The first `size` queries of this seed's order to learn from, and its test queries."""
        test, pool = self._order(seed)
        return Split(self._take(pool[:size]), self._take(test))

    def describe(self) -> dict[str, Any]:
        """For reports."""
        return {
            "name": self.name, "n_rows": len(self._names), "unit": self.unit, "hash": self.content_hash,
        }  # fmt: skip

    def _order(self, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = numpy_stream(seed, "judged", "queries").permutation(len(self._names))
        groups = numpy_stream(seed, "judged", "groups").permutation(self._groups.max() + 1)
        cut = int(np.searchsorted(np.cumsum(np.bincount(self._groups)[groups]), self._n_test)) + 1
        is_test = np.isin(self._groups[order], groups[:cut])
        return order[is_test][: self._n_test], order[~is_test]

    def _take(self, index: NDArray[np.int64]) -> Sample:
        names = self._names[index].tolist()
        found = self.collection
        named = {
            "queries": {name: found.queries[name] for name in names},
            "relevant": {name: found.judgements[name] for name in names},
        }
        return Sample(list(found.documents), named=named)


def documentation_queries(
    n_documents: int, n_test: int = 120, packages: tuple[str, ...] = ("numpy", "scipy", "sklearn")
) -> JudgedQueries:
    """Documentation of packages; queries of a module belong together."""
    found = documentation(packages, n_documents)
    return JudgedQueries(found, group_of=lambda name: name.partition(":")[0], n_test=n_test)
