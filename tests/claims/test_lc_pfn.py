"""The central claim of `lc-pfn` in small: no less likely than MCMC on the same prior, and a thousand times as fast."""

import pytest

from foreknow.common.deps import available
from foreknow.common.progress import Reporter
from foreknow.tasks.lc_pfn import proof


@pytest.mark.claim
@pytest.mark.timeout(900)
@pytest.mark.skipif(not available("emcee"), reason="emcee is not installed")
def test_the_network_is_as_likely_as_mcmc_and_much_faster() -> None:
    claims, _, _ = proof._prior_curves(proof.SIZES["small"], 2, Reporter(None, 1))
    failed = [claim for claim in claims if claim.verdict != "held"]
    assert len(claims) == 2
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
