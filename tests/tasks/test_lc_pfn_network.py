"""The network of learning-curve extrapolation, its batches and its training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.tasks import CurveNetwork, CurvePrior, CurveSettings
from foreknow.tasks.lc_pfn.network import Batches, build_network, inputs, pretrain_network
from foreknow.tasks.lc_pfn.presets import ARMS, SHIPPED, preset_settings, pretrain_shipped, prior_of, shipped_network
from foreknow.trained import shipped

TINY = CurveSettings(width=16, depth=1, n_heads=2, hidden=32, n_buckets=20, batch_size=16, n_steps=60, lr=1e-2)


def test_tokens_are_those_of_the_paper():
    with seeded_init(0):
        network = CurveNetwork(TINY)
    epochs, values = torch.tensor([1.0, 40.0, 100.0]), torch.tensor([[0.1, 0.6, 0.7]])
    seen = []
    network.transformer.register_forward_pre_hook(lambda module, given: seen.extend(given))
    network(inputs(epochs, 1), values, inputs(epochs, torch.ones(1)))
    t = (epochs / 101 - 0.5) / math.sqrt(1 / 12)
    y = (values - 0.5) * math.sqrt(12)
    query = network.t_encoder(t[None, :, None])
    assert torch.allclose(seen[0], query + network.y_encoder(y[..., None]), atol=1e-6)
    assert torch.allclose(seen[1], query + network.noiseless, atol=1e-6)


def test_borders_are_equally_likely_and_reach_beyond_the_unit_interval():
    prior = CurvePrior()
    borders = build_network(prior, replace(TINY, n_buckets=50)).borders
    draws = prior.sample(4000, generator=torch_stream(9, "other")).value.flatten()
    share = torch.histc(torch.bucketize(draws, borders[1:-1]).float(), 50, 0, 50) / len(draws)
    assert share.tolist() == pytest.approx([0.02] * 50, abs=0.007)
    shipped_borders = shipped_network("paper")[0].borders
    assert shipped_borders[0] < 0.01 and shipped_borders[-1] > 1  # the tails hang outward from there


def test_batches_depend_on_the_step_and_hide_the_future():
    batches = Batches(CurvePrior(), replace(TINY, p_gaps=0.0, p_noiseless=0.0), 0, "cpu")
    lengths = []
    for step in range(30):
        batch, again = batches(step), batches(step)
        assert torch.equal(batch.context_y, again.context_y) and torch.equal(batch.query_y, again.query_y)
        lengths.append(batch.n_context)
        assert 1 <= batch.n_query <= 24
        if batch.n_context:
            assert batch.context_x[0, :, 0].tolist() == list(range(1, batch.n_context + 1))
            assert batch.query_x[..., 0].min() > batch.context_x[..., 0].max()
    assert min(lengths) < 20 and max(lengths) > 80


def test_gaps_and_noiseless_targets():
    settings = replace(TINY, p_gaps=1.0, p_noiseless=0.5, n_query=0)
    batch = Batches(CurvePrior(), settings, 0, "cpu")(3)
    known, asked = batch.context_x[0, :, 0].tolist(), batch.query_x[0, :, 0].tolist()
    assert sorted(known + asked) == list(range(1, 101)) and known and max(known) > min(asked)
    flags = batch.query_x[:, 0, 1]
    assert flags.sum() == 8 and batch.context_x[..., 1].abs().sum() == 0
    noiseless = batch.query_y[flags == 1]
    assert noiseless.min() >= 0 and noiseless.max() <= 1


def test_training_learns_and_repeats():
    prior = CurvePrior()
    first, result = pretrain_network(prior, TINY, seed=0, device="cpu")
    second, _ = pretrain_network(prior, TINY, seed=0, device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    curves = prior.sample(200, generator=torch_stream(5, "test")).value
    losses = []
    for network in (build_network(prior, TINY, seed=0).eval(), first):
        with torch.inference_mode():
            logits = network(inputs(torch.arange(1.0, 21), 200), curves[:, :20], inputs(torch.tensor([50.0]), 200))
        losses.append(float(network.nll(logits, curves[:, 49:50]).mean()))
    assert losses[1] < losses[0] - 0.1 and result.steps == 60


def test_the_published_sizes_build_and_take_a_step():
    settings = replace(preset_settings("paper"), batch_size=1, n_steps=1)
    assert (settings.width, settings.depth, settings.hidden, settings.n_buckets) == (512, 12, 1024, 1000)
    network, result = pretrain_network(CurvePrior(), settings, device="cpu")
    assert result.steps == 1 and result.n_skipped == 0
    assert 25e6 < sum(p.numel() for p in network.parameters()) < 28e6


def test_checkpoint_round_trip(tmp_path):
    prior = CurvePrior(n_epochs=40)
    network = build_network(prior, TINY)
    network.to_checkpoint(prior, {}).save(tmp_path / "a.safetensors")
    again, of = CurveNetwork.from_checkpoint(tmp_path / "a.safetensors")
    assert of == prior and torch.equal(again.borders, network.borders)
    checkpoint = network.to_checkpoint(prior, {})
    with pytest.raises(CheckpointError, match="not that of a CurveNetwork"):
        CurveNetwork.from_checkpoint(replace(checkpoint, config={"settings": {"map": {}}, "prior": None}))


def test_pretraining_writes_what_it_ships_and_resumes(tmp_path):
    name = ARMS["off"]
    record = pretrain_shipped(name, preset="quick", n_steps=3, out=tmp_path, device="cpu")
    assert record["steps"] == 3 and "--weights lc-pfn-arm-uniform" in record["command"]
    network, prior = CurveNetwork.from_checkpoint(record["weights"])
    assert prior == prior_of("off") and network.settings.width == 32
    assert pretrain_shipped(name, preset="quick", n_steps=3, out=tmp_path, device="cpu", resume=True)["steps"] == 3
    with pytest.raises(ConfigError, match="minutes or steps"):
        pretrain_shipped(name, n_steps=3, minutes=1.0, out=tmp_path)


def test_the_arms_that_ship_differ_in_their_prior_only():
    assert {SHIPPED, *ARMS.values()} <= shipped().keys()
    found = {arm: shipped_network(arm, equal_budget=True) for arm in ARMS}
    assert len({network.settings for network, _ in found.values()}) == 1
    assert {arm: prior for arm, (_, prior) in found.items()} == {arm: prior_of(arm) for arm in ARMS}


def test_the_shipped_network_beats_the_placebo_and_knows_its_prior():
    curves = CurvePrior().sample(300, generator=torch_stream(11, "test")).value
    densities = {}
    for arm in ARMS:
        network, _ = shipped_network(arm, equal_budget=True)
        with torch.inference_mode():
            logits = network(inputs(torch.arange(1.0, 11), 300), curves[:, :10], inputs(torch.arange(20.0, 60, 5), 300))
        dist = network.distribution(logits)
        truth = curves[:, torch.arange(19, 59, 5)]
        densities[arm] = float(dist.log_prob(truth).mean())
        if arm == "paper":
            inside = (dist.cdf(truth) > 0.05) & (dist.cdf(truth) < 0.95)
            assert float(inside.double().mean()) == pytest.approx(0.9, abs=0.07)
    assert densities["paper"] > densities["wrong"] + 0.1
    assert np.isfinite(list(densities.values())).all()


def test_the_wider_prior_has_a_network_that_ships():
    network, prior = shipped_network(CurvePrior.wide())
    assert prior == CurvePrior.wide() and {*CurvePrior().families} < {*prior.families}
    late = 0.1 + 0.7 / (1 + torch.exp(-(torch.arange(1.0, 51) - 25) / 3))[None]  # flat for 15 epochs, then up
    upper = {}
    for name, net in (("wide", network), ("paper", shipped_network("paper")[0])):
        with torch.inference_mode():
            logits = net(inputs(torch.arange(1.0, 13), 1), late[:, :12], inputs(torch.tensor([50.0]), 1))
        upper[name] = float(net.distribution(logits).quantile(0.95))
    assert upper["wide"] > upper["paper"] + 0.05
