"""The central claim of `functional-prior` in small: a matched prior is near its target, and pays in a gap."""

from dataclasses import replace

import pytest

from foreknow.common.progress import Reporter
from foreknow.functions.functional_prior import proof


@pytest.mark.claim
@pytest.mark.timeout(900)
def test_a_matched_prior_is_near_its_target_and_pays_in_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("GPi-G", "off: FG, N(0, 1)", "wrong: five times as smooth")
    arms = {name: prior for name, prior in proof.curve_priors().items() if name in chosen}
    monkeypatch.setattr(proof, "curve_priors", lambda: arms)
    sizes, reporter = replace(proof.SIZES["small"], ensemble_steps=100), Reporter(None, 1)
    claims, _, priors, network = proof.prove_distance(sizes, reporter)
    claims += proof.prove_curves(sizes, 3, priors, network, reporter)[0]
    assert len(claims) == 11
    close = ("start of matching over", "placebo over")  # the small preset does not settle these two of A
    failed = [claim for claim in claims if claim.verdict != "held" and not any(words in claim.name for words in close)]
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
