"""Measures of ranked lists against judged relevance, as trec_eval defines them.

With grades g and the list r_1, r_2, ...: DCG@k = sum_i g(r_i) / log2(i + 1), nDCG@k = DCG@k over that of the best
possible list; R@k is the share of the relevant documents among the first k; RR@k is 1 / rank of the first relevant
one, 0 beyond k. A document is relevant if its grade is greater than 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError

MEASURES = ("nDCG@10", "R@100", "RR@10")
Judgements = Mapping[str, Mapping[str, float]]
"""Query -> document -> grade."""


def ndcg_at(k: int, ranking: Sequence[str], grades: Mapping[str, float]) -> float:
    """NDCG of the first `k` documents of a ranking; 0 where nothing is relevant."""
    found = _dcg([max(0.0, grades.get(name, 0.0)) for name in ranking[:k]])
    best = _dcg(sorted((max(0.0, grade) for grade in grades.values()), reverse=True)[:k])
    return found / best if best > 0 else 0.0


def recall_at(k: int, ranking: Sequence[str], grades: Mapping[str, float]) -> float:
    """Share of the relevant documents among the first `k`; 0 where nothing is relevant."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant.intersection(ranking[:k])) / len(relevant) if relevant else 0.0


def reciprocal_rank_at(k: int, ranking: Sequence[str], grades: Mapping[str, float]) -> float:
    """1 / rank of the first relevant document, 0 if it is not among the first `k`."""
    return next((1 / rank for rank, name in enumerate(ranking[:k], 1) if grades.get(name, 0.0) > 0), 0.0)


def evaluate(
    run: Mapping[str, Sequence[str]], judgements: Judgements, measures: Sequence[str] = MEASURES
) -> dict[str, NDArray[np.float64]]:
    """Each measure of every judged query, in the order of `judgements`.

    Queries without a relevant document are left out, as no list can be right about them. A judged query that the run
    does not answer counts as 0.

    Args:
        run: query -> documents, best first, each once.
        judgements: query -> document -> grade; what is not judged is not relevant.
        measures: names such as "nDCG@10", "R@100", "RR@10".

    Raises:
        ConfigError: an unknown measure.
        InputError: a list names a document twice, or no query has a relevant document.
    """
    functions = {"nDCG": ndcg_at, "R": recall_at, "RR": reciprocal_rank_at}
    chosen = []
    for name in measures:
        match = re.fullmatch(r"(nDCG|RR?)@([1-9][0-9]*)", name)
        if match is None:
            raise ConfigError(f"evaluate: unknown measure {name!r}; known: nDCG@k, R@k and RR@k, for instance nDCG@10.")
        chosen.append((functions[match[1]], int(match[2])))
    for query, ranking in run.items():
        if len(set(ranking)) != len(ranking):
            raise InputError(f"evaluate: the list of query {query!r} names a document twice.")
    judged = [query for query, grades in judgements.items() if any(grade > 0 for grade in grades.values())]
    if not judged:
        raise InputError("evaluate: no query has a relevant document.", hint="Check that the ids agree.")
    return {
        name: np.array([function(k, run.get(query, ()), judgements[query]) for query in judged])
        for name, (function, k) in zip(measures, chosen, strict=True)
    }


def _dcg(gains: Sequence[float]) -> float:
    return float(np.sum(np.asarray(gains) / np.log2(np.arange(2, len(gains) + 2)))) if gains else 0.0
