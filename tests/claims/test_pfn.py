"""The central claim of `pfn` in small: one network, one seed; the evidence file has three."""

import pytest

from foreknow.tasks import PFN


@pytest.mark.claim
def test_the_network_comes_close_to_the_exact_posterior() -> None:
    evidence = PFN.prove(preset="small", seeds=1)
    failed = [claim for claim in evidence.claims if claim.name.startswith("A") and claim.verdict != "held"]
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
