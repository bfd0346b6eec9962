import math

import numpy as np
import pytest
import torch

from foreknow.common.rng import torch_stream
from foreknow.memory import InteractionPrior, maxsim
from foreknow.memory.colbert.interaction import gather, score_all


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch_stream(seed, "units")), dim=-1)


def slow_score(query: torch.Tensor, document: torch.Tensor, similarity: str) -> float:
    total = 0.0
    for q in query.tolist():
        best = -math.inf
        for d in document.tolist():
            if similarity == "cosine":
                value = sum(a * b for a, b in zip(q, d, strict=True))
            else:
                value = -sum((a - b) ** 2 for a, b in zip(q, d, strict=True))
            best = max(best, value)
        total += best
    return total


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
@pytest.mark.parametrize("chunk", [1, 1 << 25])
def test_scores_agree_with_the_definition(similarity: str, chunk: int) -> None:
    queries, vectors = units(3, 5, 4), units(20, 4, seed=1)
    lengths = torch.tensor([7, 0, 1, 12])
    found = score_all(queries, vectors, lengths, similarity, chunk=chunk)
    ends = lengths.cumsum(0).tolist()
    for j, (n, end) in enumerate(zip(lengths.tolist(), ends, strict=True)):
        for i in range(3):
            expected = slow_score(queries[i], vectors[end - n : end], similarity) if n else -math.inf
            assert found[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_pads_never_beat_negative_similarities() -> None:
    query = torch.tensor([[[1.0, 0.0]]])
    document = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])  # one token opposite to the query's, one pad
    mask = torch.tensor([[True, False]])
    assert maxsim(query, document, mask).item() == -1
    assert maxsim(query.half(), document.half(), mask).item() == -1


def test_documents_without_tokens_score_minus_infinity_not_nan() -> None:
    query = units(2, 3, 4)
    assert torch.isneginf(maxsim(query, torch.zeros(5, 0, 4), torch.zeros(5, 0, dtype=torch.bool))).all()
    found = maxsim(query, units(2, 3, 4), torch.tensor([[True] * 3, [False] * 3]))
    assert torch.isfinite(found[:, 0]).all()
    assert torch.isneginf(found[:, 1]).all()


def test_order_and_repetition_of_document_tokens_do_not_matter() -> None:
    query, document = units(2, 6, 8), units(1, 9, 8, seed=1)
    mask = torch.ones(1, 9, dtype=torch.bool)
    plain = maxsim(query, document, mask)
    torch.testing.assert_close(maxsim(query, document.flip(1), mask), plain)
    twice = torch.cat([document, document], 1)
    torch.testing.assert_close(maxsim(query, twice, torch.ones(1, 18, dtype=torch.bool)), plain)


def test_a_query_matches_itself_best() -> None:
    query = units(1, 6, 8)
    mask = torch.ones(1, 6, dtype=torch.bool)
    assert maxsim(query, query, mask).item() == pytest.approx(6, abs=1e-5)
    assert maxsim(query, query, mask, "l2").item() == pytest.approx(0, abs=1e-5)


def test_max_pooled_documents_are_another_thing() -> None:
    """A sum of maxima is not the product with a pooled vector."""
    query, document = units(1, 6, 8), units(1, 9, 8, seed=1)
    pooled = (query[0] @ document[0].amax(0)).sum()
    assert abs(maxsim(query, document, torch.ones(1, 9, dtype=torch.bool)).item() - pooled.item()) > 0.1


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
def test_queries_padded_with_zeros_score_as_without(similarity: str) -> None:
    query, document = units(1, 6, 8), units(2, 9, 8, seed=1)
    mask = torch.ones(2, 9, dtype=torch.bool)
    padded = torch.cat([query, torch.zeros(1, 3, 8)], 1)
    torch.testing.assert_close(maxsim(padded, document, mask, similarity), maxsim(query, document, mask, similarity))


def test_gather_pads_runs() -> None:
    vectors = torch.arange(12.0).reshape(6, 2)
    padded, mask = gather(vectors, torch.tensor([4, 0]), torch.tensor([1, 3]))
    assert mask.tolist() == [[True, False, False], [True, True, True]]
    assert padded[mask].tolist() == [[8, 9], [0, 1], [2, 3], [4, 5]]


def test_under_the_prior_relevance_grows_with_every_shared_term() -> None:
    value = InteractionPrior().sample(300, generator=torch_stream(0, "prior")).value
    assert value.shape == (300, 9)
    assert (value.mean(0).diff() > 0.05).all()
    torch.testing.assert_close(value[:, 8], torch.ones(300))


def test_the_placebo_knows_nothing_of_shared_terms() -> None:
    value = InteractionPrior(own_tokens=False).sample(300, generator=torch_stream(0, "prior")).value.numpy()
    assert np.abs(np.diff(value.mean(0))).max() < 0.02


def test_the_picture_shows_the_prior_beside_its_control_arm() -> None:
    picture = InteractionPrior().picture(50, generator=torch_stream(0, "picture"))
    assert list(picture.lines) == ["late interaction", "one vector per text"]
