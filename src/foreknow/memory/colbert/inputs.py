"""What a user may bring as documents, queries and judgements, in one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from foreknow.common.errors import InputError
from foreknow.core.ranking import evaluate
from foreknow.core.source import Sample
from foreknow.data.text import Document, id_and_text

JudgedTexts = tuple[str, Mapping[str, float], Mapping[str, float]]
"""A query's text, its judged documents with grades, and a teacher's scores of documents."""


def read_documents(owner: str, X: object) -> list[Document]:
    """Documents from a list of texts (called "0", "1", ...), of records with id and text, or of `Document`.

    Raises:
        InputError: it is no such list, is empty, or holds an id twice.
    """
    found = []
    for number, item in enumerate(_items(owner, X, "texts, or of records with id and text")):
        if isinstance(item, str):
            found.append(Document(str(number), item))
        elif isinstance(item, Document):
            found.append(item)
        elif isinstance(item, Mapping):
            found.append(Document(*id_and_text(f"{owner}: document {number}", item)))
        else:
            raise InputError(
                f"{owner}: document {number} is {item!r:.40}, neither a text nor a record with id and text."
            )
    seen: set[str] = set()
    for document in found:
        if document.id in seen:
            raise InputError(f"{owner}: the id {document.id!r:.80} comes twice.", hint="Give each document its own.")
        seen.add(document.id)
    return found


def read_texts(owner: str, X: object) -> list[str]:
    """A list of texts, none of them empty.

    Raises:
        InputError: it is no list of texts, is empty, or one of the texts is.
    """
    texts = []
    for number, item in enumerate(_items(owner, X, "texts")):
        if not isinstance(item, str):
            raise InputError(f"{owner}: item {number} must be a text, got {item!r:.40}.")
        texts.append(str(item))
        if owner.endswith(("queries", "query")) and not item.strip():
            raise InputError(f"{owner}: item {number} is empty.", hint="Leave it out.")
    return texts


def read_judged(queries: object, relevant: object, teacher: object) -> list[JudgedTexts]:
    """Queries with what is relevant to them, and with a teacher's scores.

    Args:
        queries: texts by id, or a list of texts; None for none.
        relevant: for each query (by its id, or in the list's order) an id, several, or grades by id. A document with a
            negative grade counts neither as relevant nor as irrelevant.
        teacher: scores by document id for each query, in the same form; followed where it scores two or more.

    Raises:
        InputError: one came without the other, or a query is judged that is not there.
    """
    if queries is None:
        if relevant is not None or teacher is not None:
            raise InputError("LateInteraction: relevant and teacher need queries.", hint="Pass queries=... as well.")
        return []
    if relevant is None and teacher is None:
        raise InputError(
            "LateInteraction: queries to learn from need relevant documents.",
            hint="Pass relevant={query id: [id, ...]}.",
        )
    if isinstance(queries, Mapping):
        names = list(queries)
        texts = read_texts("LateInteraction: queries", list(queries.values()))
    else:
        texts = read_texts("LateInteraction: queries", queries)
        names = list(range(len(texts)))
    grades, scores = (_by_name(what, given, names) for what, given in (("relevant", relevant), ("teacher", teacher)))
    return [(text, grades.get(name, {}), scores.get(name, {})) for name, text in zip(names, texts, strict=True)]


def search_losses(model: Any, test: Sample) -> dict[str, float]:
    """1 - nDCG@10, 1 - RR@10 and 1 - R@100 of what `model.search` finds for the sample's queries."""
    queries, relevant = test.named["queries"], test.named["relevant"]
    run = {name: ranking.ids for name, ranking in zip(queries, model.search(list(queries.values()), 100), strict=True)}
    found = evaluate(run, {name: relevant[name] for name in queries})
    return {f"1 - {name}": 1 - float(found[name].mean()) for name in ("nDCG@10", "RR@10", "R@100")}


def _items(owner: str, X: object, what: str) -> Sequence[Any]:
    if isinstance(X, np.ndarray) and X.ndim == 1:
        X = X.tolist()
    if not isinstance(X, list | tuple) or not X:
        shape = f"shape {X.shape}" if isinstance(X, np.ndarray) else f"{X!r:.40}"
        raise InputError(f"{owner}: expected a list of {what}, at least one; got {shape}.")
    return X


def _by_name(what: str, given: object, names: Sequence[Any]) -> dict[Any, dict[str, float]]:
    """Grades or scores by query."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        unknown = [name for name in given if name not in set(names)]
        if unknown:
            raise InputError(f"LateInteraction: {what} names the query {unknown[0]!r:.80}, which is not in queries.")
        return {name: _grades(what, value) for name, value in given.items()}
    if isinstance(given, list | tuple) and len(given) == len(names):
        return {name: _grades(what, value) for name, value in zip(names, given, strict=True)}
    raise InputError(f"LateInteraction: {what} must be a mapping by query, or a list as long as queries.")


def _grades(what: str, value: object) -> dict[str, float]:
    if isinstance(value, str):
        return {value: 1.0}
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[object, Any]] = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        pairs = [(name, 1.0) for name in value]
    else:
        raise InputError(f"LateInteraction: {what} must give ids or grades by id, got {value!r:.40}.")
    try:
        found = {str(name): float(grade) for name, grade in pairs}
    except (TypeError, ValueError) as error:
        raise InputError(f"LateInteraction: {what} has a grade that is no number: {error}.") from error
    if not np.isfinite(list(found.values())).all():
        raise InputError(f"LateInteraction: {what} has a grade that is not finite.")
    return found
