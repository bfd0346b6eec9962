"""The central claim of the distribution transformer in small: near the exact posterior, by knowing the prior."""

import pytest

from foreknow.tasks.distribution_transformer.proof import conjugate
from foreknow.tasks.distribution_transformer.proof.common import SIZES


@pytest.mark.claim
@pytest.mark.timeout(900)
def test_posteriors_are_near_the_closed_form_and_need_the_prior() -> None:
    claims, _, _ = conjugate.variances(SIZES["small"], 1)
    by_arm = {claim.name: claim for claim in claims}
    ours = by_arm["V: KL from the conjugate posterior to the network's, one observation"]
    others = [claim for claim in claims if claim is not ours]
    assert ours.measured < 0.1, (ours.measured, ours.expected)
    assert len(others) == 2
    for claim in others:
        assert claim.verdict == "held", (claim.name, claim.measured, claim.expected)
