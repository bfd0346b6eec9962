"""The central claim of `bnn-bo` in small: which surrogate is best depends on the problem."""

import numpy as np
import pytest

from foreknow.common.deps import available
from foreknow.functions.bnn_bo.compare import compare_surrogates
from foreknow.functions.bnn_bo.problems import network_draw, textbook


@pytest.mark.claim
@pytest.mark.timeout(900)
@pytest.mark.skipif(not available("botorch"), reason="botorch is not installed")
def test_the_ranking_of_two_surrogates_changes_with_the_problem() -> None:
    """The Gaussian process of 2023, the paper's, against the infinite network: in 2 and in 100 parameters."""
    branin = textbook("branin")
    low = compare_surrogates(
        branin, branin.space, ["gp-2023", "ibnn"], trials=3, n_trials=28, n_init=8, batch=4
    ).final()
    gains = []
    for seed in range(3):
        problem = network_draw(100, seed=seed)
        high = compare_surrogates(
            problem, problem.space, ["gp-2023", "ibnn"], trials=1, n_trials=80, n_init=40, batch=10, minimize=False,
            seed=seed,
        ).final()  # fmt: skip
        gains.append(high["ibnn"][0] - high["gp-2023"][0])
    assert float(low["gp-2023"].mean()) <= float(low["ibnn"].mean())
    assert float(np.mean(gains)) > 0
