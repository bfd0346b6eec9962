"""The network of prior-data fitting: invariances, limits with known answers, training, files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import Bar
from foreknow.tasks.pfn.network import PFNNetwork, PFNSettings, build_network, draw_cut, pretrain_network, published_lr
from foreknow.tasks.pfn.presets import preset_settings, pretrain_shipped, save_weights
from foreknow.tasks.pfn.priors.gp import GPPrior
from foreknow.tasks.pfn.priors.tabular import TabularBNNPrior

TINY = PFNSettings(width=16, depth=2, n_heads=2, n_buckets=20, n_rows=12, batch_size=16, n_steps=10)
CURVES = GPPrior(lengthscale=0.3)
TABLES = TabularBNNPrior(n_features=4, n_classes=3, max_width=8)


def lively(n_classes: int) -> PFNNetwork:
    """A network whose zero-initialised branches have been woken up."""
    network = build_network(TABLES if n_classes else CURVES, TINY).eval()
    generator = torch_stream(0, "awake")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def task(n_classes: int, n: int = 9, m: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    prior = TABLES if n_classes else CURVES
    batch = prior.sample(2, n_context=n, n_query=m, generator=torch_stream(1, "task"))
    return batch.context_x, batch.context_y, batch.query_x


@pytest.mark.parametrize("n_classes", [0, 3])
def test_a_query_does_not_depend_on_the_other_queries(n_classes: int) -> None:
    network, (x, y, q) = lively(n_classes), task(n_classes)
    together = network(x, y, q)
    alone = torch.cat([network(x, y, q[:, i : i + 1]) for i in range(q.shape[1])], dim=1)
    assert torch.allclose(together, alone, atol=1e-5)
    changed = q.clone()
    changed[:, 0] += 1
    assert not torch.allclose(network(x, y, changed)[:, 0], together[:, 0], atol=1e-3)


@pytest.mark.parametrize("n_classes", [0, 3])
def test_the_order_of_the_context_does_not_matter(n_classes: int) -> None:
    network, (x, y, q) = lively(n_classes), task(n_classes)
    order = torch.randperm(x.shape[1], generator=torch_stream(2))
    assert torch.allclose(network(x, y, q), network(x[:, order], y[:, order], q), atol=1e-5)
    assert not torch.allclose(network(x, y, q), network(x, y.flip(1), q), atol=1e-3)


def test_the_cached_context_gives_the_same_logits() -> None:
    network, (x, y, q) = lively(0), task(0)
    assert torch.allclose(network(x, y, q), network.read(network.encode(x, y), q), atol=1e-6)


def test_an_empty_context_gives_the_prior_predictive() -> None:
    prior = GPPrior(lengthscale=0.3, noise=0.01)
    settings = replace(
        TINY, n_rows=4, n_steps=150, batch_size=256, optimizer="muon", norm="pre", lr=1e-2, cut="uniform"
    )
    network, _ = pretrain_network(prior, settings, seed=0, device="cpu")
    with torch.inference_mode():
        x = torch.rand(1, 50, 1, generator=torch_stream(3))
        dist = network.distribution(network(torch.zeros(1, 0, 1), torch.zeros(1, 0), x))
    # With no rows every y is N(0, 1.01).
    assert dist.mean().abs().mean() < 0.2
    assert dist.variance().sqrt().mean() == pytest.approx(math.sqrt(1.01), abs=0.2)


def test_cut_positions_follow_the_published_weights() -> None:
    settings = replace(TINY, n_rows=6)
    generator = torch_stream(4)
    counts = np.bincount([draw_cut(settings, generator) for _ in range(4000)], minlength=6)
    weights = 1.0 / (6 - np.arange(6))
    assert stats.chisquare(counts, 4000 * weights / weights.sum()).pvalue > 1e-4
    uniform = np.bincount([draw_cut(replace(settings, cut="uniform"), generator) for _ in range(4000)], minlength=6)
    assert stats.chisquare(uniform).pvalue > 1e-4


def test_borders_sit_at_quantiles_of_the_prior() -> None:
    network = build_network(GPPrior(lengthscale=0.3, noise=0.01), TINY)
    share = np.diff(stats.norm.cdf(network.borders.numpy(), scale=math.sqrt(1.01)))
    assert np.allclose(share[1:-1], 1 / 20, atol=0.02)


def test_loss_is_the_negative_log_density() -> None:
    network, (x, y, q) = lively(0), task(0)
    target = torch.randn(2, 5, generator=torch_stream(5))
    logits = network(x, y, q)
    assert torch.allclose(network.nll(logits, target), -Bar(logits, network.borders).log_prob(target), atol=1e-5)
    classes, (x, y, q) = lively(3), task(3)
    codes = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]])
    expected = -torch.log_softmax(classes(x, y, q), -1).gather(-1, codes[..., None])[..., 0]
    assert torch.allclose(classes.nll(classes(x, y, q), codes.float()), expected, atol=1e-5)


def test_training_beats_the_untrained_network_on_held_out_tasks() -> None:
    settings = replace(TINY, n_steps=80, batch_size=32, optimizer="muon", norm="pre", lr=1e-2)
    batch = CURVES.sample(100, n_context=8, n_query=4, generator=torch_stream(99, "held out"))
    assert batch.query_y is not None
    trained, result = pretrain_network(CURVES, settings, seed=0, device="cpu")
    untrained = build_network(CURVES, settings, seed=0).eval()
    with torch.inference_mode():
        losses = [
            net.nll(net(batch.context_x, batch.context_y, batch.query_x), batch.query_y).mean()
            for net in (trained, untrained)
        ]
    assert result.steps == 80
    assert losses[0] < losses[1] - 0.1


def test_same_seed_same_network_and_other_seed_another() -> None:
    one, again, other = (pretrain_network(CURVES, TINY, seed=s, device="cpu")[0].state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_run_resumes_to_the_same_network(tmp_path: Path) -> None:
    whole, _ = pretrain_network(CURVES, TINY, seed=0, device="cpu")
    state = tmp_path / "state.safetensors"
    seen = []

    def stop(progress: object) -> None:
        seen.append(progress)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain_network(CURVES, TINY, seed=0, device="cpu", checkpoint_path=state, progress=stop)
    network, result = pretrain_network(CURVES, TINY, seed=0, device="cpu", checkpoint_path=state, resume=True)
    assert 0 < result.resumed_from <= TINY.n_steps
    for name, value in whole.state_dict().items():
        assert torch.equal(value, network.state_dict()[name]), name


def test_published_sizes_build_and_take_a_step() -> None:
    settings = replace(preset_settings("paper", "regression"), batch_size=1, accumulate=1, n_steps=1, n_rows=200)
    network, result = pretrain_network(GPPrior.published_fixed(), settings, seed=0, device="cpu")
    assert result.steps == 1
    assert result.last_loss is not None
    assert math.isfinite(result.last_loss)
    assert sum(p.numel() for p in network.parameters()) > 10_000_000


def test_published_rate_rule() -> None:
    assert published_lr(1) == pytest.approx(0.003239)
    assert published_lr(10**6) == pytest.approx(0.003239 - 0.0001395 * math.log(10**6))


@pytest.mark.parametrize("n_classes", [0, 3])
def test_a_saved_network_computes_what_it_computed(tmp_path: Path, n_classes: int) -> None:
    prior = TABLES if n_classes else CURVES
    network, inputs = lively(n_classes), task(n_classes)
    path = tmp_path / "net.safetensors"
    network.to_checkpoint(prior, {"seed": 0}).save(path)
    again, stored = PFNNetwork.from_checkpoint(path)
    assert stored == prior
    assert torch.equal(network(*inputs), again(*inputs))
    save_weights(network, prior, {}, path)  # half precision, as networks ship
    assert torch.allclose(network(*inputs), PFNNetwork.from_checkpoint(path)[0](*inputs), atol=0.05)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    checkpoint = lively(0).to_checkpoint(CURVES, {})
    path = tmp_path / "net.safetensors"
    replace(checkpoint, config={**checkpoint.config, "settings": 3}).save(path)
    with pytest.raises(CheckpointError, match="not that of a PFNNetwork"):
        PFNNetwork.from_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"width": 0}, "width"), ({"cut": "none"}, "cut"), ({"n_rows": 1}, "n_rows"), ({"lr": -1.0}, "lr")],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **change)  # type: ignore[arg-type]


def test_pretrain_shipped_writes_weights_state_and_log(tmp_path: Path) -> None:
    record = pretrain_shipped("pfn-gp-1d", n_steps=3, preset="quick", device="cpu", out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "pfn-gp-1d.safetensors",
        "pfn-gp-1d.state.safetensors",
        "pfn-gp-1d.log.jsonl",
    }
    network, prior = PFNNetwork.from_checkpoint(record["weights"])
    assert isinstance(prior, GPPrior)
    assert record["steps"] == 3
    assert network.settings.n_steps == 3
    with pytest.raises(ConfigError, match="not both"):
        pretrain_shipped("pfn-gp-1d", n_steps=3, minutes=1.0, device="cpu", out=tmp_path)
    with pytest.raises(ConfigError, match="pfn-gp-1d"):
        pretrain_shipped("pfn-gp", n_steps=3, device="cpu", out=tmp_path)
