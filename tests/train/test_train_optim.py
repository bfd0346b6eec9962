from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from foreknow.common.rng import seeded_init, torch_stream
from foreknow.nn import BarHead, SetTransformer
from foreknow.train import Muon, TrainConfig
from foreknow.train.optim import MovingAverage, build_optimizers, orthogonalize


def randn(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, name))


@pytest.mark.parametrize("shape", [(6, 6), (4, 20), (20, 4), (3, 5, 9)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonalize(randn(*shape)))
    assert values.max() < 1.25
    assert values.median() > 0.65
    assert torch.linalg.svdvals(randn(*shape)).max() > 2.0  # it had something to do


def test_first_step_of_muon_is_orthogonal_and_of_the_stated_size() -> None:
    weight = nn.Parameter(randn(8, 32))
    before = weight.detach().clone()
    (weight * randn(8, 32, name="g")).sum().backward()
    Muon([weight], lr=0.1).step()
    values = torch.linalg.svdvals((before - weight.detach()) / (0.1 * 0.2 * 32**0.5))
    assert values.min() > 0.6 and values.max() < 1.25


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
def test_agrees_with_torchs_muon() -> None:
    ours, theirs = nn.Parameter(randn(6, 10)), nn.Parameter(randn(6, 10))
    mine = Muon([ours], lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for k in range(5):
        gradient = randn(6, 10, name=f"g{k}")
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
    moved = (ours - randn(6, 10)).abs().mean()
    assert (ours - theirs).abs().max() < 0.1 * moved  # theirs iterates in bfloat16


def test_muon_skips_parameters_without_gradient() -> None:
    weight = nn.Parameter(randn(3, 3))
    Muon([weight]).step()
    assert torch.equal(weight, randn(3, 3))


@seeded_init(0)
def test_muon_gets_hidden_matrices_only() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed_x = nn.Linear(2, 8)
            self.table = nn.Embedding(5, 8)
            self.body = SetTransformer(8, 1, 2, log_n_scaling="log")
            self.head = BarHead(8, 4)

    net = Net()
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    muon, adamw = build_optimizers(net, TrainConfig(n_steps=1, optimizer="muon", weight_decay=0.1))
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    expected = {f"body.blocks.0.attention.{part}.weight" for part in ("query", "key", "value", "out")}
    assert hidden == expected | {"body.blocks.0.mlp.0.weight", "body.blocks.0.mlp.2.weight"}
    rest = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert hidden | rest == set(names.values()) and not hidden & rest
    for group in adamw.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


def test_moving_average_starts_quickly_and_settles() -> None:
    with seeded_init(0):
        net = nn.Linear(2, 2)
    average = MovingAverage(net, 0.9)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    for _ in range(300):
        average.update()
    assert all(torch.allclose(value, torch.ones(())) for value in average.averages.values())
    assert average.n_updates == 300


def test_complex_weights_are_trained_too() -> None:
    """Fourier operators of other libraries have them; the fused steps of torch do not take them."""
    net = nn.Module()
    net.waves = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    (optimizer,) = build_optimizers(net, TrainConfig(n_steps=1, optimizer="adam", lr=0.1))
    net.waves.abs().sum().backward()
    optimizer.step()
    assert float(net.waves.detach().abs().max()) < 1


def test_sgd_has_the_momentum_of_the_first_beta_and_decays_matrices_only() -> None:
    with seeded_init(0):
        net = nn.Linear(2, 2)
    (optimizer,) = build_optimizers(net, TrainConfig(n_steps=1, optimizer="sgd", betas=(0.8, 0.999), weight_decay=0.1))
    assert type(optimizer) is torch.optim.SGD
    assert [(g["momentum"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.8, 0.1), (0.8, 0.0)]
