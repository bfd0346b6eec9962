"""The claim of `deep-kernel-machine` in small: wide deep Gaussian processes come to the Gram matrices it finds."""

import pytest

from foreknow.functions.deep_kernel_machine import proof


class _Quiet:
    def advance(self, done: float, note: str = "") -> None:
        pass


@pytest.mark.claim
@pytest.mark.timeout(600)
def test_gram_matrices_of_wide_processes_converge_to_the_optimum_and_not_to_the_nngp() -> None:
    claims, _ = proof._theory(proof.SIZES["small"], 2, _Quiet())  # type: ignore[arg-type]
    failed = [claim for claim in claims if claim.verdict != "held"]
    assert not failed, [(claim.name, claim.measured, claim.expected) for claim in failed]
