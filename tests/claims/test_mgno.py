"""Claims of `mgno` in small: it beats ridge regression, and the wrong padding errs at the edge."""

from dataclasses import replace

import pytest

from foreknow.physics.mgno import proof


@pytest.mark.claim
@pytest.mark.timeout(900)
def test_zero_padding_on_a_ring_errs_at_the_edge_and_multigrid_beats_ridge_regression(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = proof.SIZES["small"]
    shorter = replace(
        small, n_train=(32, 128), n_control=(32,), n_finer=(), deeper=0, system={**small.system, "epochs": 20}
    )
    monkeypatch.setitem(proof.SIZES, "quick", shorter)  # the preset that keeps no finished parts
    found = proof.prove(preset="quick", seeds=1)
    held = {claim.name: claim for claim in found.claims if claim.name.startswith("B:") or "ridge" in claim.name}
    failed = [claim for claim in held.values() if claim.verdict != "held"]
    assert len(held) == 3
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
