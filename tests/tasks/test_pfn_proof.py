"""The proof of `pfn` runs from end to end in its smallest size, and its yardsticks are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from foreknow.core.evidence import KEYS
from foreknow.tasks import PFN
from foreknow.tasks.pfn.proof import ORACLE_PRIOR, WRONG_PRIOR, _held_out, _mle2, _nll_exact


@pytest.mark.timeout(300)
def test_the_quick_proof_has_all_arms_and_claims() -> None:
    seen = []
    evidence = PFN.prove(preset="quick", seeds=1, progress=seen.append)
    record = evidence.to_dict()
    assert set(KEYS) <= set(record)
    assert {row["arm"] for row in evidence.arms if row["proof"] == "A"} == {"on", "off", "wrong", "untrained", "plain"}
    assert {claim.name[0] for claim in evidence.claims} == {"A", "B", "C"}
    assert all(math.isfinite(claim.measured) for claim in evidence.claims)
    assert seen[-1].done == seen[-1].total


def test_held_out_tasks_are_no_training_draws_and_the_oracle_is_calibrated() -> None:
    batch = _held_out(ORACLE_PRIOR, 10, 400)
    assert batch.query_y is not None
    dist = ORACLE_PRIOR.exact(batch)
    inside = ((batch.query_y - dist.mean()).abs() < stats.norm.ppf(0.95) * dist.variance().sqrt()).float().mean()
    assert float(inside) == pytest.approx(0.9, abs=0.02)
    wrong = -WRONG_PRIOR.exact(batch).log_prob(batch.query_y).double().numpy().mean(axis=1)
    assert (wrong - _nll_exact(batch)).mean() > 0.2


def test_maximum_likelihood_is_a_sensible_rival() -> None:
    batch = _held_out(ORACLE_PRIOR, 20, 6)
    nll, seconds = _mle2(batch)
    assert seconds > 0
    assert np.mean(nll) < 0.8  # the marginal of the prior has 1.42
