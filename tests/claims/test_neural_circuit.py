"""The central claim of `neural-circuit` in small: it swims untrained, learns in a few episodes, fits other bodies."""

import pytest

from foreknow.architectures.neural_circuit import proof


@pytest.mark.claim
@pytest.mark.timeout(900)
def test_the_circuit_swims_at_once_learns_quickly_and_fits_other_bodies() -> None:
    failed = [claim for claim in proof.prove(preset="small", seeds=2).claims if claim.verdict != "held"]
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
