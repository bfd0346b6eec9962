"""The central claims of `wide-deep-optimality` in small: exponents, the three regimes, and the consistent votes."""

from dataclasses import replace

import pytest

from foreknow.common.progress import Reporter
from foreknow.functions.wide_deep_optimality import proof


@pytest.mark.claim
@pytest.mark.timeout(900)
def test_exponents_regimes_and_falling_risk() -> None:
    sizes = replace(proof.SIZES["small"], n_train=(100, 1600), risk_seeds=3)
    claims = [
        *proof.exponent_claims(proof.measure_exponents(sizes)),
        *proof.regime_claims(proof.measure_regimes(sizes, 2)),
        *proof.risk_claims(proof.measure_risks(sizes, Reporter(None, 1)), sizes),
    ]
    assert len(claims) == 27
    # What is not published, that the consistent kernel is ahead of solved ones at so few rows, may fail.
    failed = [claim for claim in claims if claim.verdict != "held" and "solved" not in claim.name]
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
