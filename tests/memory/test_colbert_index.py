import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.memory import PlaidIndex
from foreknow.memory.colbert.codec import Codec, pack_levels, unpack_levels
from foreknow.memory.colbert.index import SearchSettings
from foreknow.memory.colbert.interaction import score_all
from foreknow.memory.colbert.strings import Strings


def clusters(n_documents: int, dim: int = 16, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Token vectors around shared themes, as of texts; one document is empty."""
    generator = torch_stream(seed, "clusters")
    themes = torch.randn(40, dim, generator=generator)
    lengths = numpy_stream(seed, "lengths").integers(3, 30, n_documents)
    lengths[n_documents // 2] = 0
    chosen = torch.randint(40, (int(lengths.sum()),), generator=generator)
    vectors = themes[chosen] + 0.4 * torch.randn(len(chosen), dim, generator=generator)
    return torch.nn.functional.normalize(vectors, dim=1), lengths


def built(n: int = 80, nbits: int = 4, seed: int = 0) -> tuple[PlaidIndex, torch.Tensor, np.ndarray]:
    vectors, lengths = clusters(n)
    names = [f"d{i}" for i in range(n)]
    return PlaidIndex.build(vectors, lengths, names, names, nbits=nbits, seed=seed), vectors, lengths


def queries(vectors: torch.Tensor, n: int = 20, length: int = 6) -> torch.Tensor:
    noise = 0.3 * torch.randn(n * length, vectors.shape[1], generator=torch_stream(1, "noise"))
    picked = torch.randperm(len(vectors), generator=torch_stream(1, "picked"))[: n * length]
    return torch.nn.functional.normalize(vectors[picked] + noise, dim=1).view(n, length, -1)


EVERYTHING = SearchSettings(10**6, -2.0, 10**6)


@given(st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_bits_are_packed_and_unpacked_exactly(nbits: int, seed: int) -> None:
    levels = numpy_stream(seed, "levels").integers(0, 2**nbits, (5, 16)).astype(np.uint8)
    packed = pack_levels(levels, nbits)
    assert packed.shape == (5, 2 * nbits)
    assert np.array_equal(unpack_levels(packed, nbits), levels)


def test_residuals_are_cut_at_their_quantiles() -> None:
    vectors, lengths = clusters(200)
    codec = Codec.learn(vectors, lengths, 2, 0)
    codes, packed = codec.compress(vectors)
    residuals = vectors.numpy() - codec.centroids[codes]
    levels = unpack_levels(packed, 2)
    for level in range(4):
        inside = residuals[levels == level]
        assert 0.15 < len(inside) / residuals.size < 0.35  # about a quarter each
        assert inside.min() <= codec.values[level] <= inside.max()
    np.testing.assert_allclose(np.linalg.norm(codec.centroids, axis=1), 1, atol=1e-5)


def test_more_bits_come_nearer() -> None:
    vectors, lengths = clusters(200)
    errors = []
    for nbits in (1, 2, 4):
        codec = Codec.learn(vectors, lengths, nbits, 0)
        back = codec.decompress(*codec.compress(vectors))
        np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-5)
        errors.append(float(np.square(back - vectors.numpy()).sum(1).mean()))
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]


def test_number_of_centroids_follows_the_rule_and_the_cap() -> None:
    vectors, lengths = clusters(200)
    n = len(vectors)
    codec = Codec.learn(vectors, lengths, 2, 0)
    assert len(codec.centroids) == min(2 ** int(np.log2(16 * np.sqrt(n))), (n - int(0.05 * n)) // 8)
    few = Codec.learn(vectors[:5], np.array([2, 3]), 2, 0)
    assert len(few.centroids) == 1


def test_with_everything_looked_at_the_search_is_exact_for_the_stored_vectors() -> None:
    index, vectors, lengths = built()
    segment = index.segments[0]
    stored = torch.from_numpy(index.codec.decompress(segment.codes, segment.residuals))
    asked = queries(vectors)
    exact = score_all(asked, stored, torch.from_numpy(lengths))
    for query, score in zip(asked.numpy(), exact.numpy(), strict=True):
        ranking = index.search(query, 10, EVERYTHING)
        best = np.argsort(-score, kind="stable")[:10]
        np.testing.assert_allclose(ranking.scores, score[best], atol=1e-4)
        assert ranking.ids == tuple(f"d{i}" for i in best)
        assert "d40" not in index.search(query, 200, EVERYTHING).ids  # it has no token


@pytest.mark.parametrize("nbits", [1, 2, 4])
def test_published_settings_find_the_document_that_a_query_is_taken_from(nbits: int) -> None:
    vectors, lengths = clusters(600)
    names = [f"d{i}" for i in range(600)]
    index = PlaidIndex.build(vectors, lengths, names, names, nbits=nbits, seed=0)
    ends = np.cumsum(lengths)
    chosen = [i for i in range(0, 600, 13) if lengths[i] >= 6]
    asked = torch.stack([vectors[ends[i] - 6 : ends[i]] for i in chosen])
    noise = 0.1 * torch.randn(asked.shape, generator=torch_stream(1, "noise"))
    asked = torch.nn.functional.normalize(asked + noise, dim=2)
    best = score_all(asked, vectors, torch.from_numpy(lengths)).argmax(1)
    assert best.tolist() == chosen
    found = [index.search(query, 1).ids[0] for query in asked.numpy()]
    assert np.mean([name == f"d{i}" for name, i in zip(found, chosen, strict=True)]) >= 0.95


def test_stages_agree_with_a_slow_plain_version() -> None:
    index, vectors, lengths = built()
    settings_ = SearchSettings(2, 0.6, 12)
    segment, centroids = index.segments[0], index.codec.centroids
    ends = np.cumsum(lengths)
    codes = [segment.codes[end - n : end] for end, n in zip(ends, lengths, strict=True)]
    stored = index.codec.decompress(segment.codes, segment.residuals)
    for query in queries(vectors, 8).numpy():
        match = centroids @ query.T
        cells = {int(c) for i in range(len(query)) for c in np.argsort(-match[:, i])[:2]}
        found = [i for i in range(len(lengths)) if cells & set(codes[i].tolist())]

        def approximate(i: int, threshold: float, match: np.ndarray = match) -> float:
            kept = [match[c] for c in codes[i] if match[c].max() >= threshold]
            return float(np.max(kept, axis=0).sum()) if kept else -np.inf

        found = sorted(found, key=lambda i: -approximate(i, 0.6))[:12]
        found = sorted(found, key=lambda i: -approximate(i, -2.0))[:5]  # at least the five asked for
        exact = {i: float((stored[ends[i] - lengths[i] : ends[i]] @ query.T).max(0).sum()) for i in found}
        expected = sorted(exact, key=lambda i: -exact[i])
        assert index.search(query, 5, settings_).ids == tuple(f"d{i}" for i in expected)


def test_defaults_are_the_published_ones() -> None:
    published = [(1, 0.5, 256), (2, 0.45, 1024), (4, 0.4, 4096), (4, 0.4, 8000)]
    for k, expected in zip((10, 100, 500, 2000), published, strict=True):
        assert tuple(vars(SearchSettings.for_depth(k)).values()) == expected


def test_reranking_keeps_every_candidate() -> None:
    index, vectors, _ = built()
    query = queries(vectors).numpy()[0]
    ranking = index.rerank(query, ["d3", "d40", "d7"])
    assert set(ranking.ids) == {"d3", "d40", "d7"}
    assert ranking.ids[-1] == "d40"
    assert np.isneginf(ranking.scores[-1])
    with pytest.raises(InputError, match="no document 'x'"):
        index.rerank(query, ["x"])


def test_adding_deleting_and_compacting_find_the_same_documents() -> None:
    index, vectors, _ = built()
    more, more_lengths = clusters(20, seed=3)
    names = [f"new{i}" for i in range(20)]
    grown = index.with_added(more, more_lengths, names, names).without(["d1", "new4", "d60"])
    compact = grown.compacted()
    assert index.n_documents == 80  # what was there is left alone
    assert grown.n_documents == compact.n_documents == 97
    assert sorted(grown.ids()) == sorted(compact.ids())
    assert len(compact.segments) == 1
    assert len(compact.segments[0].codes) < sum(len(segment.codes) for segment in grown.segments)
    for query in queries(torch.cat([vectors, more])).numpy():
        one, other = (thing.search(query, 10, EVERYTHING) for thing in (grown, compact))
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        assert set(one.ids) == set(other.ids)
        assert not {"d1", "new4", "d60"} & set(one.ids)
    with pytest.raises(InputError, match="no document 'd1' to delete"):
        grown.without(["d1"])


def test_short_lists_are_made_up_by_more_centroids() -> None:
    """A small collection gives the second stage as much to choose from as a large one, and as many as asked for."""
    index, vectors, _ = built()
    everything, few = SearchSettings(10**6, 0.5, 256), SearchSettings(1, 0.5, 256)
    for query in queries(vectors).numpy():
        assert index.search(query, 10, few).ids == index.search(query, 10, everything).ids
        assert len(index.search(query, 79, SearchSettings(1, 0.5, 1))) == 79  # all but the one without a token


def test_search_widens_where_all_that_is_near_was_deleted() -> None:
    index, vectors, _ = built()
    query = queries(vectors).numpy()[0]
    last = index.rerank(query, index.ids()).ids[-2]
    left = index.without([name for name in index.ids() if name != last])
    assert left.search(query, 3).ids == (last,)


def test_bad_bits_are_refused() -> None:
    vectors, lengths = clusters(10)
    names = [str(i) for i in range(10)]
    with pytest.raises(ConfigError, match="nbits must be one of"):
        PlaidIndex.build(vectors, lengths, names, names, nbits=3)
    with pytest.raises(ConfigError, match="multiple of 8"):
        PlaidIndex.build(vectors[:, :15], lengths, names, names, nbits=1)
    with pytest.raises(InputError, match="no passage has a token"):
        PlaidIndex.build(vectors[:0], np.zeros(10, dtype=int), names, names)


@given(st.lists(st.text(max_size=20), max_size=8))
@settings(max_examples=50, deadline=None)
def test_strings_come_back(texts: list[str]) -> None:
    stored = Strings.of(texts)
    assert [stored[i] for i in range(len(stored))] == [t.encode("utf-8", "replace").decode() for t in texts]
