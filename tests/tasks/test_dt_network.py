"""The network: sets in and out, masks, positive definite factors, the anchor, and training that repeats."""

import math
from dataclasses import replace

import pytest
import torch

from foreknow.common.errors import CheckpointError, ConfigError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.core.predictive.multivariate import mixture_log_density
from foreknow.tasks import DistributionNetwork, DistributionSettings, MixtureMeta, ParametricMeta
from foreknow.tasks.distribution_transformer.network import DecoderBlock, _factor_of_inverse
from foreknow.tasks.distribution_transformer.observing import LinearSensors, NormalVariance
from foreknow.tasks.distribution_transformer.presets import EXPERIMENTS, preset_model, preset_settings
from foreknow.tasks.distribution_transformer.training import (
    Batches,
    Trained,
    build_network,
    draw_tasks,
    fit_network,
    loss,
)
from foreknow.train.loop import train

TINY = DistributionSettings(
    n_components=3, width=16, depth=2, n_heads=2, hidden=32, embed_hidden=16, batch_size=32, n_steps=8
)
PLANE = MixtureMeta((-1.0, -1.0), (1.0, 1.0), (1.0, 0.5), n_components=3)
SENSORS = LinearSensors(((1.0, 0.0), (0.0, 1.0)), (0.1, 1.0), n_max=3)


def awake(network: DistributionNetwork) -> DistributionNetwork:
    """The network with no weight at its zero start, so that every branch matters."""
    generator = torch_stream(0, "awake")
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def pair(meta=PLANE, model=SENSORS, n=5, **changes):
    settings = replace(TINY, **changes)
    network, _ = build_network(meta, model, settings)
    return awake(network), draw_tasks(meta, model, n, torch_stream(1, "tasks"))


def density(components, seed=0):
    t = 3 * torch.randn(20, *components.means[:, 0].shape, generator=torch_stream(seed, "t"))
    return components.log_prob(t)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("residual", [False, True])
def test_order_of_components_and_of_observations_does_not_matter(norm, residual):
    network, tasks = pair(norm=norm, residual=residual)
    after, _ = network(tasks.params, tasks.tokens)
    mix = PLANE.family.mixture(tasks.params.double())
    order = [2, 0, 1]
    turned = type(mix)(mix.logits[:, order], mix.means[:, order], mix.scale_tril[:, order])
    shuffled = {name: value[:, [1, 2, 0]] for name, value in tasks.tokens.items()}
    other, _ = network(PLANE.family.pack(turned).float(), shuffled)
    assert torch.allclose(density(after), density(other), atol=1e-4)
    assert torch.allclose(other.means, after.means[:, order], atol=1e-4)


def test_a_missing_token_is_as_if_it_were_not_there():
    network, tasks = pair()
    tokens = {"z_1": tasks.tokens["z_1"][:, :1], "z_2": tasks.tokens["z_2"][:, :0]}
    padded = {
        "z_1": torch.cat([tokens["z_1"], torch.full((5, 2, 1), math.nan)], 1),
        "z_2": torch.full((5, 3, 1), math.nan),
    }
    keep = ~tokens["z_1"].isnan().flatten()
    one, _ = network(tasks.params[keep], {"z_1": tokens["z_1"][keep]})
    other, _ = network(tasks.params[keep], {name: value[keep] for name, value in padded.items()})
    assert bool(keep.any())
    assert torch.allclose(density(one), density(other), atol=1e-4)


def test_rows_do_not_see_one_another():
    network, tasks = pair()
    whole, _ = network(tasks.params, tasks.tokens)
    part, _ = network(tasks.params[2:3], {name: value[2:3] for name, value in tasks.tokens.items()})
    assert torch.allclose(whole.means[2:3], part.means, atol=1e-5)


@pytest.mark.parametrize("factor", ["covariance", "precision"])
def test_factors_are_lower_triangles_with_a_positive_diagonal(factor):
    network, tasks = pair(factor=factor)
    with torch.no_grad():
        network.head[-1].weight.mul_(3)
    for found in network(tasks.params, tasks.tokens):
        mix = found.mixture().detach()  # it checks the diagonal
        assert torch.equal(mix.scale_tril, mix.scale_tril.tril())
        assert float(torch.linalg.eigvalsh(mix.covariances.double()).min()) > 0
        assert torch.allclose(mix.log_weights.exp().sum(-1), torch.ones(5), atol=1e-5)


def test_the_factor_of_an_inverse():
    f = torch.tensor([[1.3, 0.0], [-0.4, 0.7]], dtype=torch.float64)
    found = _factor_of_inverse(f)
    assert torch.allclose(found @ found.mT, torch.linalg.inv(f @ f.mT))
    assert _factor_of_inverse(torch.tensor([[4.0]])).item() == 0.25


def test_weights_far_below_one_stay_weights():
    network, tasks = pair()
    with torch.no_grad():
        network.head[-1].bias[0] = -500.0  # independent sigmoids would be 0 / 0 here
    after, _ = network(tasks.params, tasks.tokens)
    assert torch.allclose(after.log_weights.exp().sum(-1), torch.ones(5), atol=1e-5)


def test_a_residual_network_starts_at_the_prior():
    network, _ = build_network(PLANE, SENSORS, replace(TINY, residual=True, norm="pre"))
    tasks = draw_tasks(PLANE, SENSORS, 5, torch_stream(0, "start"))
    prior = PLANE.family.mixture(tasks.exact)
    for found in network(tasks.params, tasks.tokens):
        t = prior.sample(10, generator=torch_stream(0, "t"))
        assert torch.allclose(found.log_prob(t.float()).double(), prior.log_prob(t), atol=1e-3)


def test_equal_components_stay_equal_in_mixtures_but_not_in_families():
    """A shared network cannot tell equal components apart; a family's own networks can."""
    network, tasks = pair()
    mix = PLANE.family.mixture(tasks.exact)
    equal = type(mix)(
        mix.logits[:, :1].expand(-1, 3), mix.means[:, :1].expand(-1, 3, -1), mix.scale_tril[:, :1].expand(-1, 3, -1, -1)
    )
    after, _ = network(PLANE.family.pack(equal).float(), tasks.tokens)
    assert torch.allclose(after.means[:, 0], after.means[:, 2], atol=1e-5)
    split = PLANE.family.pack(equal.matched())  # what `pack` makes of a single normal
    after, _ = network(split.float(), tasks.tokens)
    assert bool(((after.means[:, 0] - after.means[:, 2]).abs() > 1e-4).all())
    family, tasks = pair(ParametricMeta(), NormalVariance(2))
    _, before = family(tasks.params, tasks.tokens)
    assert bool(((before.means[:, 0] - before.means[:, 2]).abs() > 1e-4).all())


def test_the_control_arm_sees_nothing_of_the_prior_and_is_as_large():
    off, tasks = pair(ParametricMeta().off(), NormalVariance(2))
    on, _ = pair(ParametricMeta(), NormalVariance(2))
    one, _ = off(tasks.params, tasks.tokens)
    other, _ = off(tasks.params * 7, tasks.tokens)
    assert torch.equal(one.means, other.means)
    assert sum(p.numel() for p in off.parameters()) == sum(p.numel() for p in on.parameters())
    plane, tasks = pair(PLANE.off(), SENSORS, residual=True)
    one, _ = plane(tasks.params, tasks.tokens)
    other, _ = plane(tasks.params.flip(0), tasks.tokens)
    assert torch.equal(one.means, other.means)
    assert bool(((one.means[:, 0] - one.means[:, 1]).abs() > 1e-4).all())  # its constants differ


def test_the_loss_is_that_of_the_paper():
    network, tasks = pair(ParametricMeta(), NormalVariance(3))
    after, before = network(tasks.params, tasks.tokens)
    post = mixture_log_density(after.log_weights, after.means, after.scale_tril, tasks.target).mean()
    prior = mixture_log_density(before.log_weights, before.means, before.scale_tril, tasks.target).mean()
    assert loss(network, tasks).item() == pytest.approx((-post - prior).item(), rel=1e-5)
    network.settings = replace(network.settings, anchor=0.0)
    assert loss(network, tasks).item() == pytest.approx((-post).item(), rel=1e-5)


def test_the_prior_does_not_see_the_observations_before_the_blocks():
    network, tasks = pair()
    _, one = network(tasks.params, tasks.tokens)
    _, other = network(tasks.params, {name: value + 5 for name, value in tasks.tokens.items()})
    assert torch.equal(one.means, other.means)


def test_branches_start_at_zero_but_for_the_observations():
    with seeded_init(0):
        block = DecoderBlock(8, 2, 16, "pre")
    x, seen = torch.randn(2, 3, 8, generator=torch_stream(0, "x")), torch.randn(2, 4, 8, generator=torch_stream(0, "s"))
    assert not block.own.out.weight.any() and not block.mlp[-1].weight.any()
    assert not torch.equal(block(x, seen, torch.ones(2, 4, dtype=torch.bool)), x)


def test_huge_and_tiny_observations_are_survived():
    network, tasks = pair(ParametricMeta(), NormalVariance(2))
    for size in (1e-30, 1e30):
        after, _ = network(tasks.params, {"z": torch.full((5, 2, 1), size)})
        assert bool(after.means.isfinite().all())
        total = loss(network, replace(tasks, tokens={"z": torch.full((5, 2, 1), size)}))
        total.backward()
        assert all(bool(p.grad.isfinite().all()) for p in network.parameters() if p.grad is not None)
        network.zero_grad()


# Training ---------------------------------------------------------------------------------------------------


def test_training_repeats_and_lowers_the_loss():
    settings = replace(TINY, depth=1, n_steps=25, lr=1e-2)
    one, result = fit_network(PLANE, SENSORS, settings, seed=3)
    held_out = draw_tasks(PLANE, SENSORS, 500, torch_stream(9, "held out"))
    start, _ = build_network(PLANE, SENSORS, settings, seed=3)
    with torch.no_grad():
        assert loss(one.network, held_out).item() < loss(start, held_out).item() - 0.2
    assert result.n_skipped == 0 and one.slots == {"z_1": 3, "z_2": 3}
    few = replace(settings, n_steps=2)
    states = [fit_network(PLANE, SENSORS, few, seed=seed)[0].network.state_dict() for seed in (3, 3, 4)]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values()))
    assert not torch.equal(states[0]["constant"], states[2]["constant"])


def test_batches_depend_on_their_number_alone():
    batches = Batches(PLANE, SENSORS, 8, 1)
    assert torch.equal(batches(3).target, batches(3).target)
    assert not torch.equal(batches(3).target, batches(4).target)


def test_a_model_that_returns_no_tokens_is_refused():
    class Bad:
        def __init__(self, found):
            self.found = found

        def observe(self, state, params, *, generator):
            return self.found

    for found in ({}, {"z": torch.zeros(3)}, {"z": [1.0]}, {"no name": torch.zeros(8, 1, 1)}, None):
        with pytest.raises(InputError):
            draw_tasks(PLANE, Bad(found), 8, torch_stream(0, "bad"))


@pytest.mark.parametrize(
    "call",
    [
        lambda: DistributionSettings(width=10, n_heads=3),
        lambda: DistributionSettings(norm="middle"),
        lambda: DistributionSettings(factor="square"),
        lambda: DistributionSettings(anchor=-1.0),
        lambda: DistributionNetwork(ParametricMeta().family, {}, TINY),
        lambda: DistributionNetwork(ParametricMeta().family, {"z": 1}, replace(TINY, residual=True)),
    ],
)
def test_bad_sizes_are_refused(call):
    with pytest.raises(ConfigError):
        call()


def test_files_bring_the_network_back(tmp_path):
    trained, _ = fit_network(PLANE, SENSORS, replace(TINY, n_steps=2))
    path = tmp_path / "net.safetensors"
    trained.to_checkpoint().save(path)
    back = Trained.from_checkpoint(path)
    assert back.meta == PLANE and back.slots == trained.slots
    tasks = draw_tasks(PLANE, SENSORS, 3, torch_stream(0, "file"))
    assert torch.equal(
        back.network(tasks.params, tasks.tokens)[0].means, trained.network(tasks.params, tasks.tokens)[0].means
    )
    checkpoint = trained.to_checkpoint()
    for key in ("settings", "channels"):
        broken = replace(checkpoint, config={name: v for name, v in checkpoint.config.items() if name != key})
        with pytest.raises(CheckpointError):
            Trained.from_checkpoint(broken)


@pytest.mark.parametrize("task", EXPERIMENTS)
def test_published_sizes_build_and_take_a_step(task):
    found = EXPERIMENTS[task]
    settings = replace(preset_settings("paper", task), batch_size=2)
    model = preset_model("paper", task)
    network, _ = build_network(found.meta, model, settings)
    from foreknow.train.config import TrainConfig

    result = train(network, loss, Batches(found.meta, model, 2, 0), TrainConfig(n_steps=1, lr=1e-4), device="cpu")
    assert result.steps == 1 and result.n_skipped == 0
    assert preset_settings("paper", "gp").hidden == 5096
