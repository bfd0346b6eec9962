"""The claim of `hierarchical-polynomials` in small: d^2 rows find the feature, and kernels stay near their floor."""

import numpy as np
import pytest

from foreknow.functions import HierarchicalPolynomial, LayerwiseThreeLayer
from foreknow.functions.hierarchical_polynomials.arms import TunedKernelRidge
from foreknow.functions.hierarchical_polynomials.complexity import sample_complexity


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_a_multiple_of_d_squared_rows_is_enough_where_kernels_stay_near_degree_two() -> None:
    layerwise = LayerwiseThreeLayer(inner="hermite", n_refine=4, whiten="never")
    found = sample_complexity(
        {"layerwise": layerwise, "kernel": TunedKernelRidge()}, HierarchicalPolynomial(), n_features=(8, 12, 16, 20),
        target=0.3, ratios=(2, 4, 8), max_samples=3200, n_draws=3,
    )  # fmt: skip
    slope = found.slope("layerwise")
    assert 1.4 < slope.value < 2.6, slope
    assert np.isinf(found.samples["kernel"][:, 2:]).all()
    assert all(value > 1 for value, _ in found.ratio("kernel", "layerwise")[2:])


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_an_even_link_is_out_of_reach() -> None:
    for seed in range(3):
        task = HierarchicalPolynomial(16, link="2").task(seed)
        X, y = task.sample(4000, part="test")
        model = LayerwiseThreeLayer(split="half", whiten="never", random_state=seed).fit(*task.sample(4096))
        assert np.mean((model.predict(X) - y) ** 2) > 0.7 * y.var()
