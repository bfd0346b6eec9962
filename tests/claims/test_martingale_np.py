"""The central claim of `martingale-np` in small: pseudo data make the same network likelier, on functions it knows."""

from dataclasses import replace

import numpy as np
import pytest

from foreknow.common.rng import torch_stream
from foreknow.tasks.martingale_np.presets import preset_settings
from foreknow.tasks.martingale_np.scores import Scores, score
from foreknow.tasks.martingale_np.tasks import GPTasks, MartingalePrior
from foreknow.tasks.martingale_np.training import pretrain_network


@pytest.mark.claim
@pytest.mark.timeout(1800)
def test_pseudo_data_make_the_network_likelier():
    settings = replace(preset_settings("small"), n_steps=1000)
    tests = [
        GPTasks().sample(200, n_context=n, n_query=20, generator=torch_stream(20_230_419, "claim", str(n)))
        for n in (5, 10, 20, 40)
    ]
    gains, spreads = [], []
    for seed in (0, 1):
        found = {}
        for rule in ("martingale", "none"):
            network, _ = pretrain_network(MartingalePrior(rule=rule), settings, rule=rule, seed=seed, device="cpu")
            found[rule] = [score(network, batch) for batch in tests]
        gains.append(Scores.joined(found["martingale"]).marginal - Scores.joined(found["none"]).marginal)
        spreads.append([float(one.spread.mean()) for one in found["martingale"]])
    assert np.mean(gains) >= 0.05, np.mean(gains)
    first, last = np.array(spreads).mean(axis=0)[[0, -1]]
    assert last < first  # the more is known, the less functions differ
