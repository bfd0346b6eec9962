"""The central claim of `inductive-bias` in small: estimators agree, however rare the event; dimension costs bits."""

import pytest

from foreknow.audit.inductive_bias import proof


@pytest.mark.claim
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore::foreknow.common.errors.ForeknowWarning")
def test_estimators_agree_at_137_bits_and_bits_rise_with_the_dimension() -> None:
    claims = [*proof._known_law(proof.SIZES["small"])[0], *proof._dimensions(3)[0][:2]]
    failed = [claim for claim in claims if claim.verdict != "held"]
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
