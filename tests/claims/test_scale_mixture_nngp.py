"""Central claims of `scale-mixture-nngp` in small: finite networks are Student t, its own data is worth the tail."""

import pytest

from foreknow.functions.scale_mixture_nngp import proof


@pytest.mark.claim
@pytest.mark.timeout(600)
def test_finite_networks_are_student_t_and_own_data_gains() -> None:
    sizes = proof.SIZES["small"]
    claims = proof.check_theory(sizes)[0] + proof.measure_own_data(sizes, 3)[0]
    failed = [claim for claim in claims if claim.verdict != "held"]
    assert len(claims) == 6
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
