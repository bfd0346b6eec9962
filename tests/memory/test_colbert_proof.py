from dataclasses import replace

import numpy as np
import pytest

from foreknow.data.text import Document, TextCollection
from foreknow.memory import LateInteraction
from foreknow.memory.colbert.proof import ARMS, SIZES, Trial


def test_the_quick_proof_measures_every_arm_and_claim() -> None:
    told = []
    found = LateInteraction.prove(preset="quick", seeds=1, progress=told.append)
    arms = [record["arm"] for record in found.arms if record["proof"] == "D"]
    assert arms == list(ARMS)
    index_arms = [f"{bits} bits{how}" for bits in (1, 2, 4) for how in ("", ", wider")]
    assert [record["arm"] for record in found.arms if record["proof"] == "I"] == index_arms
    assert told[-1].done == told[-1].total
    assert len(found.claims) == 9
    for record in found.arms:
        if record["proof"] == "I":
            nbits = int(record["arm"][0])
            assert record["bytes_per_token"] == 2 + 16 * nbits / 8
    lexical = next(record for record in found.arms if record["arm"] == "BM25")
    assert lexical["nDCG@10"] > 0.5  # summary lines share words with what they summarise


def collection(n: int = 40) -> TextCollection:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    texts = [" ".join(rng.choice(words, 12, replace=False)) for _ in range(n)]
    documents = tuple(Document(f"m{i % 5}:{i}", text) for i, text in enumerate(texts))
    queries = {document.id: " ".join(document.text.split()[:4]) for document in documents}
    grades = {document.id: {document.id: 1.0, documents[0].id: -1.0} for document in documents[1:]}
    return TextCollection("made", documents, queries, grades)


def test_trained_arms_never_see_a_module_of_their_test_queries() -> None:
    trial = Trial(collection(), SIZES["quick"], 0, modules=True)
    names = list(trial.judgements)
    for fold in range(5):
        modules = [{names[i].partition(":")[0] for i in np.flatnonzero(part)} for part in
                   (trial.fold == fold, trial.fold != fold)]  # fmt: skip
        assert not modules[0] & modules[1]
    assert set(trial.fold) == {0, 1, 2, 3, 4}


def test_documents_with_a_negative_grade_are_left_out_of_the_list() -> None:
    trial = Trial(collection(), replace(SIZES["quick"], n_queries=10), 0)
    scores = np.tile(-np.arange(len(trial.ids), dtype=float), (10, 1))  # the query's own text would come first
    found = trial._evaluate(scores)
    expected = [1 / int(name.partition(":")[2]) for name in trial.judgements]
    np.testing.assert_allclose(found["RR@10"], [value if value >= 0.1 else 0 for value in expected])


def test_reranking_keeps_to_the_candidates() -> None:
    trial = Trial(collection(), SIZES["quick"], 0)
    first = np.array([[0.0, 2.0, 1.0]])
    second = np.array([[9.0, 1.0, 2.0]])
    assert trial._reranked(first, second).tolist() == [[-np.inf, 1.0, 2.0]]
    many = trial._reranked(np.arange(1.0, 301.0)[None], np.ones((1, 300)))  # all share a word with the query
    assert np.flatnonzero(many[0] == 1).tolist() == list(range(270, 300))


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(ValueError, match="preset"):
        LateInteraction.prove(preset="huge")
