"""The central claims of `sequential-cl` in small: the carried posterior forgets, and replayed prototypes do not."""

from dataclasses import replace

import pytest

from foreknow.common.progress import Reporter
from foreknow.functions.sequential_cl import proof


@pytest.mark.claim
@pytest.mark.timeout(900)
def test_a_carried_posterior_forgets_and_joint_inference_does_not() -> None:
    claims, arms = proof.prove_toy(replace(proof.SIZES["small"], toy_seeds=2), 2, Reporter(None, 1))
    final = {name: [row["accuracy"] for row in arms if row["arm"] == name] for name in ("joint", "sequential, gmm")}
    assert min(final["joint"]) > 0.95
    assert max(final["sequential, gmm"]) < 0.9
    assert len(claims) == 4


@pytest.mark.claim
@pytest.mark.timeout(300)
def test_prototypes_with_replay_keep_what_others_forget() -> None:
    claims, _ = proof.prove_digits(replace(proof.SIZES["small"], memories=()), 2, Reporter(None, 1))
    assert claims[1].verdict == claims[2].verdict == "held"
