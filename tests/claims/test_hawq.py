"""The central claim of `hawq` in small: at a tight budget, bits by curvature beat random ones, in exact integers."""

import pytest

from foreknow.data.fashion_mnist import FOLDER
from foreknow.weights.hawq import proof


@pytest.mark.claim
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not FOLDER.is_dir(), reason="Fashion-MNIST is not installed")
def test_curvature_beats_random_bits_and_the_integers_agree() -> None:
    found = proof.prove(preset="small", seeds=2)
    wanted = [claim for claim in found.claims if "random" in claim.name or claim.name.startswith("X:")]
    assert len(wanted) == 4
    failed = [claim for claim in wanted if claim.verdict != "held"]
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
