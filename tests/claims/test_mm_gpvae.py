"""Claims of `mm-gpvae` in small: the shared latent is found in its block, and private ones do not leak into others."""

import pytest

from foreknow.functions.mm_gpvae import proof
from foreknow.functions.mm_gpvae.simulator import rotating_digits


@pytest.mark.claim
@pytest.mark.timeout(900)
def test_the_shared_latent_is_found_and_a_wrong_prior_loses_it() -> None:
    sizes = proof.SIZES["small"]
    train, test = rotating_digits(sizes.n_train, sizes.n_test, random_state=0, **sizes.world)
    on, wrong = (proof.measure(arm, 0, sizes, train, test) for arm in ("on", "wrong"))
    assert on["r2_shared"] >= 0.8, on
    assert on["leakage"] <= 0.2, on
    assert on["bits_per_spike"] > 0 and on["image_error"] < 1, on
    assert on["r2_shared"] > wrong["r2_shared"] + 0.2, (on, wrong)
