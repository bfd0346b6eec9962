import string

import numpy as np
import pytest
import torch

from foreknow.common.errors import ConfigError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.memory import InteractionPrior, TextEncoder
from foreknow.memory.colbert.network import TinyBody, build_body

CPU = torch.device("cpu")


def tiny(prior: InteractionPrior | None = None, dim: int = 16, doc_len: int = 20, augment: bool = True) -> TextEncoder:
    body = build_body("tiny", pretrained=True, seed=0, device=CPU)
    with seeded_init(0):
        return TextEncoder(body, dim, prior or InteractionPrior(), 12, doc_len, augment).eval()


def test_queries_are_marked_and_padded_with_masks_that_nobody_attends_to() -> None:
    encoder = tiny()
    tokens = encoder.query_tokens("old clocks")
    assert tokens.words == ("[CLS]", "[Q]", "old", "clocks", "[SEP]", *["[MASK]"] * 7)
    assert tokens.n_attended == 5
    assert tokens.kept == tuple(range(12))  # masks are scored
    shorter = encoder.query_tokens("old clocks")
    with torch.no_grad():
        padded = encoder._run_body([tokens])[0]
        plain = encoder.body(
            torch.tensor([shorter.ids[:5]]),
            torch.ones(1, 5, dtype=torch.bool),
        )[0]
    torch.testing.assert_close(padded[:5], plain, atol=1e-5, rtol=0)
    vectors = encoder.encode_queries([tokens])[0]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(12))
    assert not torch.equal(vectors[10], vectors[11])  # masks differ by their place


def test_without_augmentation_queries_keep_their_length() -> None:
    encoder = tiny(augment=False)
    vectors = encoder.encode_queries([encoder.query_tokens(text) for text in ("old clocks", "salt")])
    assert vectors.shape == (2, 5, 16)
    assert (vectors.norm(dim=2) > 0.99).tolist() == [[True] * 5, [True] * 4 + [False]]
    assert not vectors[1, 4].any()


def test_documents_lose_ascii_punctuation_only_and_are_cut() -> None:
    encoder = tiny()
    tokens = encoder.document_tokens("salt, bread… and (time)!")
    assert [tokens.words[i] for i in tokens.kept] == ["[CLS]", "[D]", "salt", "bread", "…", "and", "time", "[SEP]"]
    assert len(encoder.document_tokens("word " * 100).ids) == 20
    assert encoder.document_tokens("word " * 100).n_cut == 83
    assert encoder.document_tokens("word " * 17).n_cut == 0
    assert [encoder.body._id(mark) in encoder.body.punctuation for mark in string.punctuation] == [True] * 32


@pytest.mark.parametrize("text", ["", "   ", "?!...", "\x00"])
def test_documents_without_a_word_have_no_vector(text: str) -> None:
    for prior in (InteractionPrior(), InteractionPrior(interaction=False)):
        encoder = tiny(prior)
        vectors, lengths = encoder.encode([encoder.document_tokens(text.replace("\x00", ""))])
        assert lengths.tolist() == [0]
        assert len(vectors) == 0


def test_a_text_is_encoded_alike_whatever_stands_beside_it() -> None:
    texts = ["salt", "bread is made of flour, water, salt and time", "", "clocks in the harbour"]
    together, alone = tiny(), tiny()
    vectors, lengths = together.encode([together.document_tokens(text) for text in texts])
    ends = lengths.cumsum(0)
    for text, n, end in zip(texts, lengths.tolist(), ends.tolist(), strict=True):
        one, _ = alone.encode([alone.document_tokens(text)])
        torch.testing.assert_close(one, vectors[end - n : end], atol=2e-3, rtol=0)


def test_context_matters_with_the_prior_and_not_without() -> None:
    for prior, same in ((InteractionPrior(), False), (InteractionPrior(context=False), True)):
        encoder = tiny(prior)
        one, other = (encoder.encode([encoder.document_tokens(text)])[0] for text in ("old salt", "fresh salt"))
        assert torch.equal(one[3], other[3]) == same


def test_switched_off_a_text_is_the_mean_of_its_tokens() -> None:
    encoder = tiny(InteractionPrior(interaction=False))
    tokens = encoder.document_tokens("bread and salt")
    with torch.no_grad():
        states = encoder._run_body([tokens])[0]
        expected = encoder.project(states.mean(0, keepdim=True))
    vectors, lengths = encoder.encode([tokens])
    assert lengths.tolist() == [1]
    torch.testing.assert_close(vectors, expected, atol=2e-3, rtol=0)
    assert "[MASK]" not in encoder.query_tokens("bread").words


def test_principal_directions_keep_all_cosines_at_full_width() -> None:
    encoder = tiny(dim=128)
    tokens = [encoder.document_tokens(text) for text in ("bread and salt", "the old harbour", "clocks")]
    states = encoder.states(tokens)
    encoder.set_principal(states, torch_stream(0, "turn"))
    plain = torch.nn.functional.normalize(torch.from_numpy(np.concatenate(states)).float(), dim=1)
    vectors, _ = encoder.encode(tokens)
    torch.testing.assert_close(vectors @ vectors.T, plain @ plain.T, atol=1e-4, rtol=0)


def test_encoding_with_gradient_agrees_with_encoding() -> None:
    for prior in (InteractionPrior(), InteractionPrior(interaction=False)):
        encoder = tiny(prior)
        tokens = [encoder.document_tokens(text) for text in ("bread, and salt", "the old harbour")]
        one, lengths = encoder.encode(tokens)
        other, again = encoder.encode_with_gradient(tokens)
        assert lengths.tolist() == again.tolist()
        torch.testing.assert_close(one, other.detach(), atol=2e-3, rtol=0)


def test_unfreezing_leaves_a_shared_body_alone() -> None:
    encoder = tiny()
    shared = encoder.body
    encoder.encode([encoder.document_tokens("bread")])
    encoder.unfreeze()
    assert encoder.body is not shared
    assert shared.outputs and not encoder.body.outputs
    assert all(p.requires_grad for p in encoder.body.parameters())
    assert not any(p.requires_grad for p in shared.parameters())


def test_widths_and_lengths_are_checked() -> None:
    with pytest.raises(ConfigError, match="dim must be from 1 to 128"):
        tiny(dim=129)
    with pytest.raises(ConfigError, match="at most 256"):
        tiny(doc_len=300)
    with pytest.raises(ConfigError, match="'minilm' or 'tiny' or a folder"):
        build_body("no-such-encoder", pretrained=True, seed=0, device=CPU)


def test_the_seed_decides_the_weights_of_the_tiny_encoder() -> None:
    bodies = [build_body("tiny", pretrained=True, seed=seed, device=CPU) for seed in (0, 0, 1)]
    assert all(isinstance(body, TinyBody) for body in bodies)
    first, same, other = (body.words.weight for body in bodies)  # type: ignore[union-attr]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
