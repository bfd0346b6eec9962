"""The central claim of `learned-proximal` in small: on the Laplacian only proximal matching gives the prior away."""

import numpy as np
import pytest

from foreknow.signals.learned_proximal import proof


@pytest.mark.claim
@pytest.mark.timeout(600)
def test_proximal_matching_is_nearer_to_the_proximal_map_than_other_losses() -> None:
    records = proof.laplacian(proof.SIZES["small"], seed=0)
    gap = {record["arm"]: record["largest_gap_to_soft_threshold"] for record in records}
    assert gap["matching"] < 0.7 * min(gap["l1"], gap["l2"])
    assert gap["l2"] == pytest.approx(0.503, abs=0.1)  # the posterior mean is that far from the soft threshold
    residuals = [record["inversion_residual"] for record in records]
    assert np.max(residuals) < 1e-3
