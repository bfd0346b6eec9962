"""Networks are read as they compute, and refused by the name of what cannot become integers."""

import pytest
import torch
from hawq_networks import SHAPES, build, rows
from torch import nn
from torch.nn.utils import parametrizations

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import seeded_init
from foreknow.weights.hawq.reading import read, run
from foreknow.weights.hawq.steps import plan_steps


@pytest.mark.parametrize("name", SHAPES)
def test_the_operations_give_what_the_network_gives(name: str) -> None:
    net, x = build(name), rows(name, 7)
    with torch.no_grad():
        assert torch.allclose(run(read(net, SHAPES[name]), x), net(x), atol=1e-5)


def test_an_exported_program_is_read_like_its_module(tmp_path) -> None:
    net = build("resnet")
    program = torch.export.export(net, (rows("resnet", 3),))
    torch.export.save(program, tmp_path / "net.pt2")
    loaded = read(torch.export.load(tmp_path / "net.pt2"), SHAPES["resnet"])
    assert [op for op in loaded.ops if op.kind == "layer"] == [
        op for op in read(net, SHAPES["resnet"]).ops if op.kind == "layer"
    ]
    x = rows("resnet", 4)
    with torch.no_grad():
        assert torch.allclose(run(loaded, x), net(x), atol=1e-5)


def test_reading_leaves_the_network_alone() -> None:
    net = build("mixed").double().train()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    read(net, SHAPES["mixed"])
    assert net.training and not net._forward_pre_hooks and not net.a._forward_pre_hooks
    assert all(torch.equal(t, before[name]) and t.dtype == torch.float64 for name, t in net.state_dict().items())


def test_macs_are_those_of_torch() -> None:
    from foreknow.nn.cost import macs

    for name in SHAPES:
        net = build(name)
        assert sum(layer.macs for layer in read(net, SHAPES[name]).layers.values()) == macs(net, rows(name, 1))[""]


def test_layers_that_read_one_activation_are_tied_and_edges_are_found() -> None:
    plan = plan_steps(read(build("resnet"), SHAPES["resnet"]))
    assert plan.ties == tuple((f"blocks.{i}.conv1", f"blocks.{i}.shortcut.0") for i in (1, 2))
    assert plan.edges == ("stem", "head")
    mixed = plan_steps(read(build("mixed"), SHAPES["mixed"]))
    assert mixed.ties == (("b", "c"),) and mixed.edges == ("a", "e")


def test_branches_of_a_sum_are_rounded_once() -> None:
    """What is added comes from accumulators and wide sums, never from the few bits that another layer reads."""
    for name in ("resnet", "mixed", "thin"):
        plan = plan_steps(read(build(name), SHAPES[name]))
        of = {step.name: step for step in plan.steps}
        sums = [step for step in plan.steps if step.kind in ("add", "concat")]
        assert sums
        for step in sums:
            for branch in step.inputs:
                assert of[branch].kind == "requantize"
                source = of[of[branch].inputs[0]]
                while source.kind in ("relu", "largest", "flatten"):
                    source = of[source.inputs[0]]
                assert source.kind in ("layer", "add", "concat", "average"), (name, source)


class Bad(nn.Module):
    """A network that does `what` to the output of a convolution, then flattens."""

    def __init__(self, what) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.what = what

    def forward(self, x):
        return self.what(self.conv(x)).flatten(1)


def twice(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer, nn.ReLU(), layer)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(x) + x


class Lambda(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Bad(nn.SiLU()), r"silu.*SiLU 'what'"),
        (Bad(nn.Hardswish()), "hardswish"),
        (Bad(nn.Sigmoid()), "sigmoid"),
        (Bad(nn.LeakyReLU()), "leaky_relu"),
        (Bad(nn.Hardtanh()), "Hardtanh from -1"),
        (Bad(nn.ConvTranspose2d(4, 2, 3)), r"ConvTranspose.*'what'"),
        (Bad(nn.GroupNorm(2, 4)), "native_group_norm"),
        (Bad(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4))), "BatchNorm that does not follow"),
        (Bad(Both()), "before and after its BatchNorm"),
        (Bad(nn.BatchNorm2d(4, track_running_stats=False)), "training mode or without running"),
        (Bad(twice(nn.Conv2d(4, 4, 1))), r"shared weights, 'what.0.weight'"),
        (Bad(parametrizations.weight_norm(nn.Conv2d(4, 4, 1))), "weight is computed"),
        (Bad(nn.MaxPool2d(2, ceil_mode=True)), "ceil_mode"),
        (Bad(nn.AvgPool2d(3, padding=1, count_include_pad=False)), "not counted"),
        (Bad(nn.AdaptiveAvgPool2d(5)), "does not divide"),
        (Bad(Lambda(lambda h: h + 1.0)), "constant"),
        (Bad(Lambda(lambda h: h + h[:, :1])), "slice|different shapes"),
        (Bad(Lambda(lambda h: torch.cat([h, h], dim=2))), "axis 2"),
        (Bad(Lambda(lambda h: h.mean(1, keepdim=True))), "mean that is not over"),
        (Bad(Lambda(lambda h: h.transpose(1, 2))), "transpose"),
        (Bad(Lambda(lambda h: h.view(h.size(0), 2, -1))), "change of shape"),
        (nn.Conv2d(2, 3, 3), r"one row of class scores a row.*shape \(2, 3"),
        (nn.Flatten(), "no convolution and no linear layer"),
        (nn.Conv2d(7, 3, 1), r"cannot be run on rows of shape \(2, 8, 8\)"),
    ],
)
def test_what_cannot_become_integers_is_refused_by_name(net: nn.Module, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(net.eval(), (2, 8, 8))


def test_no_network_and_weights_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"torch.nn.Module.*got str"):
        read("net.pt2", (2, 8, 8))  # type: ignore[arg-type]
    net = build("resnet")
    with torch.no_grad():
        net.stem.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"stem.weight holds NaN"):
        read(net, SHAPES["resnet"])


def test_what_a_network_does_unseen_is_caught() -> None:
    class Unseen(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            y.numpy()[:] *= 2.0
            return y

    with pytest.raises(InputError, match="not seen"), seeded_init(0):
        read(Unseen(5, 3), (5,))
