"""BM25, the lexical ranking that late interaction starts from and is measured against (Robertson and Zaragoza 2009).

score(q, d) = sum over terms t of q: idf(t) tf / (tf + k1 (1 - b + b |d| / mean length)),
idf(t) = log(1 + (N - n_t + 1/2) / (n_t + 1/2)), as Lucene computes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from foreknow.common.errors import InputError


def terms(text: str) -> list[str]:
    """The lower-case words of two letters or digits and more."""
    return re.findall(r"\w\w+", text.lower())


class BM25:
    """Scores of documents by the terms that they share with a query.

    Args:
        texts: the documents.
        k1: how fast a term that comes again stops counting.
        b: how much long documents pay, 0 to 1.

    Raises:
        InputError: there is no document.
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        if not texts:
            raise InputError("BM25: at least one document is needed.")
        self.columns: dict[str, int] = {}
        pairs = [[self.columns.setdefault(term, len(self.columns)) for term in terms(text)] for text in texts]
        lengths = np.array([len(row) for row in pairs])
        rows = np.repeat(np.arange(len(texts)), lengths)
        columns = np.concatenate([np.array(row, dtype=np.int64) for row in pairs])
        shape = (len(texts), max(1, len(self.columns)))
        counts = sparse.coo_array((np.ones(len(columns)), (rows, columns)), shape=shape).tocsr()
        n_with = np.bincount(counts.indices, minlength=counts.shape[1])
        idf = np.log1p((len(texts) - n_with + 0.5) / (n_with + 0.5))
        penalty = k1 * (1 - b + b * lengths / max(lengths.mean(), 1e-12))
        tf = counts.data
        counts.data = idf[counts.indices] * tf / (tf + np.repeat(penalty, np.diff(counts.indptr)))
        self.weights = counts.tocsc()

    def score(self, query: str) -> NDArray[np.float64]:
        """Score of every document, shape (n_documents,); 0 where no term is shared."""
        wanted = [self.columns[term] for term in terms(query) if term in self.columns]
        if not wanted:
            return np.zeros(self.weights.shape[0])
        return np.asarray(self.weights[:, wanted].sum(axis=1)).ravel()

    def top(self, query: str, k: int) -> NDArray[np.int64]:
        """The best `k` documents that share a term, best first; ties by position."""
        score = self.score(query)
        order = np.argsort(-score, kind="stable")[:k]
        return order[score[order] > 0]
