"""Quantisers against their equations, and one graph of integers in four ways of computing it."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hawq_networks import SHAPES, build, quantized, rows
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, InputError
from foreknow.common.rng import seeded_init
from foreknow.weights import IntegerGraph, QuantizedNetwork, finetune
from foreknow.weights.hawq.integers import pack, unpack
from foreknow.weights.hawq.onnx_graph import _IntegerWriter, float_operations, float_twin, layers_onnx, to_onnx
from foreknow.weights.hawq.onnx_runtime import deployment, mismatches, session
from foreknow.weights.hawq.quantizers import (
    Grid,
    dyadic,
    layer_scale,
    quantize_weight,
    requantize,
    shift,
    to_grid,
    weight_error,
    weight_scale,
)
from foreknow.weights.hawq.reading import read

CPU = Path("/proc/cpuinfo")
FLAGS = CPU.read_text() if CPU.is_file() else ""

# Quantisers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weights_against_the_published_equation(bits: int) -> None:
    w = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    scale, top = weight_scale(w, bits), 2 ** (bits - 1) - 1
    q = quantize_weight(w, scale, bits)
    error = 0.0
    for channel in range(3):
        s = float(w[channel].abs().max()) / top
        for value, found in zip(w[channel].flatten().tolist(), q[channel].flatten().tolist()):
            expected = min(max(round(value / s), -top - 1), top)
            assert found == expected
            error += (expected * s - value) ** 2
    assert weight_error(w, bits) == pytest.approx(error, rel=1e-5)


def test_gradient_passes_rounding_and_clipping_straight_and_gives_the_scale_none() -> None:
    x = torch.tensor([0.26, -3.0, 50.0], requires_grad=True)
    scale = torch.tensor(0.25, requires_grad=True)
    q = to_grid(x, scale, -8, 7)
    assert q.tolist() == [1.0, -8.0, 7.0]
    q.backward(torch.tensor([1.0, 2.0, 3.0]))
    assert x.grad.tolist() == [4.0, 8.0, 12.0]
    assert scale.grad is None


def test_halves_go_to_even_on_grids_and_upwards_in_shifts() -> None:
    halves = torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5])
    assert to_grid(halves, torch.ones(()), -8, 7).tolist() == [-2.0, 0.0, 0.0, 2.0, 2.0]
    assert requantize(halves, torch.ones(()), -8, 7).tolist() == [-1.0, 0.0, 1.0, 2.0, 3.0]


def test_a_shift_is_exact_where_the_product_is_longer_than_float64() -> None:
    m, e = torch.tensor(1879833595), torch.tensor(48)
    sums = torch.tensor([1050159309.0, -1050159309.0], dtype=torch.float64, requires_grad=True)
    q = shift(sums, m, e, -(2**15), 2**15 - 1)
    assert q.tolist() == [(int(sum_) * int(m) + (1 << 47)) >> 48 for sum_ in sums] == [7013.0, -7013.0]
    q.sum().backward()
    assert sums.grad.tolist() == pytest.approx([int(m) / 2**48] * 2)


@given(st.floats(-38, 28), st.floats(-8, 8))
def test_dyadic_numbers_are_as_near_as_31_bits_allow(log_in: float, log_out: float) -> None:
    scale_in, scale_out = (torch.tensor(2.0**v, dtype=torch.float32) for v in (log_in, log_out))
    m, e = (int(v) for v in dyadic(scale_in, scale_out))
    ratio = Fraction(float(scale_in)) / Fraction(float(scale_out))
    assert 0 <= m < 2**31 and 1 <= e <= 62
    if ratio < Fraction(1, 2**32):
        assert m == 0 or abs(Fraction(m, 2**e) - ratio) <= ratio / 2**30
    elif ratio < 2**29:
        assert abs(Fraction(m, 2**e) - ratio) <= ratio / 2**30


def test_multipliers_need_more_bits_than_single_precision_has() -> None:
    m, e = dyadic(torch.tensor(0.1), torch.tensor(0.3))
    assert int(torch.tensor(float(m), dtype=torch.float32)) != int(m)
    accumulator = 2**30 - 1
    exact = math.floor(Fraction(accumulator * int(m), 2 ** int(e)) + Fraction(1, 2))
    single = torch.floor(torch.tensor(float(accumulator)) * torch.tensor(float(m) * 2.0 ** -int(e)) + 0.5)
    assert int(single) != exact
    assert (accumulator * int(m) + 2 ** (int(e) - 1)) >> int(e) == exact


def test_the_product_of_scales_is_rounded_to_single_precision_first() -> None:
    a, b = torch.tensor(0.1), torch.tensor(0.7)
    assert float((a.double() * b.double()).float()) != float(a.double() * b.double())
    assert torch.equal(dyadic(a * b, b)[0], dyadic((a.double() * b.double()).float(), b)[0])


def test_a_dead_channel_keeps_its_bias_within_32_bits() -> None:
    weight, bias = torch.zeros(2, 1, 3, 3), torch.tensor([5.0, 0.0])
    weight[1] = 1.0
    scale_in = torch.tensor(0.01)
    scale = layer_scale(weight, bias, scale_in, 8)
    whole = bias / (scale * scale_in)
    assert float(whole.abs().max()) <= 2**29 * 1.001
    assert float(whole.round()[0] * scale[0] * scale_in) == pytest.approx(5.0)
    assert scale[1] == pytest.approx(1 / 127)


def test_ranges_are_moving_averages_or_extremes() -> None:
    average, extremes = Grid(8, positive=False, momentum=0.9), Grid(8, positive=False, momentum=-1.0)
    for grid in (average, extremes):
        for low, high in ((-1.0, 2.0), (-3.0, 1.0)):
            grid.observe(torch.tensor([low, high]))
    assert (float(average.low), float(average.high)) == pytest.approx((-1.2, 1.9))
    assert (float(extremes.low), float(extremes.high)) == (-3.0, 2.0)
    assert float(extremes.scale()) == pytest.approx(3 / 127)


def test_few_bits_after_a_relu_are_unsigned_and_eight_are_symmetric() -> None:
    for bits, positive, limits, steps in ((4, True, (0, 15), 15), (8, True, (-128, 127), 127), (4, False, (-8, 7), 7)):
        grid = Grid(bits, positive=positive)
        grid.observe(torch.tensor([0.0, 3.0]))
        assert grid.limits == limits and float(grid.scale()) == pytest.approx(3 / steps)


# One graph, four ways ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", SHAPES)
def test_simulation_int64_quick_path_and_onnxruntime_agree_in_every_integer(name: str, bits: int) -> None:
    network, x = quantized(name, bits), rows(name, 6, seed=1)
    graph = network.to_integer()
    simulated, quick, plain = network.simulate(x), graph.integers(x), graph.run(x.numpy())
    assert list(simulated) == list(quick) == list(plain)
    for step, values in plain.items():
        assert values.dtype == np.int64
        assert np.array_equal(quick[step].numpy(), values), step
        assert np.array_equal(simulated[step].numpy(), values), step
    assert any(np.unique(values).size > 2 for values in plain.values())
    model = to_onnx(graph)
    assert float_operations(model) == []
    expected = plain[graph.steps[-1].name].astype(np.float32) * graph.tensors[":scale"].numpy()
    assert np.array_equal(session(model).run(None, {"x": x.numpy()})[0], expected)
    assert torch.allclose(network(x).double(), graph(x), rtol=1e-6)


@pytest.mark.parametrize("name", SHAPES)
def test_eight_bits_are_close_to_the_network(name: str) -> None:
    x = rows(name, 32, seed=2)
    with torch.no_grad():
        expected = build(name)(x)
    found = quantized(name).to_integer()(x)
    assert float((found - expected).abs().mean()) < 0.03 * float(expected.abs().mean())


@pytest.mark.parametrize("name", ["resnet", "mixed"])
def test_training_computes_what_evaluation_does(name: str) -> None:
    """In single precision, and with ranges that a batch moves a little: nearly the same scores."""
    network, x = quantized(name, 8), rows(name, 32, seed=3)
    with torch.no_grad():
        exact = network(x)
        trained = network.train()(x)
    assert float((exact - trained).abs().max()) < 0.05 * float(exact.abs().max())


def test_means_of_whole_numbers_round_down_however_near_they_are() -> None:
    with seeded_init(0):
        net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU(), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
    network = QuantizedNetwork(read(net, (1, 7, 7)))
    network.calibrate([torch.ones(2, 1, 7, 7)])
    graph = network.eval().to_integer()
    pool = next(step for step in graph.steps if step.kind == "average")
    x = torch.ones(4, 1, 7, 7)
    x[1, 0, 0, 0] = 0.0  # sum of 48 of 49: below the whole number
    simulated, plain = network.simulate(x), graph.run(x.numpy())
    before = plain[pool.inputs[0]]
    assert np.array_equal(plain[pool.name][:, 0, 0, 0], [values.sum() // 49 for values in before])
    assert plain[pool.name][0, 0, 0, 0] == before[0, 0, 0, 0] > plain[pool.name][1, 0, 0, 0]
    assert np.array_equal(simulated[pool.name].numpy(), plain[pool.name])


def test_relu6_is_a_limit_of_the_requantisation() -> None:
    with seeded_init(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 2))
    with torch.no_grad():
        for layer in (net[1], net[3]):
            layer.weight.copy_(torch.eye(4))
            layer.bias.zero_()
    network = QuantizedNetwork(read(net, (1, 2, 2)), momentum=-1.0)
    network.calibrate([torch.full((2, 1, 2, 2), 40.0)])
    found = network.eval().simulate(torch.full((1, 1, 2, 2), 40.0))
    values = [float(q.max()) * float(network.grid(step).scale()) for step, q in found.items() if step.endswith(":bits")]
    assert values == pytest.approx([6.0, 6.0], rel=0.01)


def test_normalisation_is_folded_or_learnt_as_set() -> None:
    x = rows("resnet", 32)
    frozen, moving = quantized("resnet"), quantized("resnet", fold=False)
    before = frozen.layer("stem").mean.clone()
    for network in (frozen, moving):
        network.train()(x).square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert torch.equal(frozen.layer("stem").mean, before)
    layer = moving.layer("stem")
    scale = moving.grid(":input").scale()
    q = to_grid(x, scale, -128, 127)
    out = nn.functional.conv2d(q, quantize_weight(layer.weight, weight_scale(layer.weight, 8), 8), padding=1)
    mean = (out * (weight_scale(layer.weight, 8) * scale)[:, None, None]).mean((0, 2, 3))
    assert torch.allclose(layer.mean, 0.99 * before + 0.01 * mean, atol=1e-5)


def test_fine_tuning_lowers_the_loss_of_the_integers() -> None:
    network, x = quantized("features", 2), rows("features", 64)
    y = (x[:, 0] > 0).long()

    def loss() -> float:
        return float(nn.functional.cross_entropy(network.to_integer()(x), y))

    before = loss()
    finetune(network, lambda k: (x, y), 40, lr=0.05)
    assert loss() < 0.8 * before and not network.training


def test_uncalibrated_networks_and_unsuitable_bits_are_refused() -> None:
    network = QuantizedNetwork(read(build("resnet"), SHAPES["resnet"]))
    with pytest.raises(InputError, match="calibrate"):
        network(rows("resnet", 1))
    with pytest.raises(InputError, match="at least one row"):
        network.calibrate([rows("resnet", 0)])
    bits = network.bits
    for change, said in (
        ({"stem": 4}, "stays at 8 bits"),
        ({"blocks.1.conv1": 4}, "same bits"),
        ({"blocks.0.conv1": 9}, "from 2 to 8"),
        ({"nowhere": 8}, r"unknown \['nowhere'\]"),
    ):
        with pytest.raises(ConfigError, match=said):
            network.set_bits({**bits, **change})


def test_sums_that_might_overflow_are_refused_by_name() -> None:
    with seeded_init(0):
        net = nn.Sequential(nn.Flatten(), nn.Linear(70_000, 2))
    with torch.no_grad():
        net[1].weight.fill_(1.0)
    network = QuantizedNetwork(read(net, (1, 1, 70_000)))
    network.calibrate([torch.ones(2, 1, 1, 70_000)])
    with pytest.raises(InputError, match=r"the layer '1'.*31 bits"):
        network.eval().to_integer()


# Files and ONNX ------------------------------------------------------------------------------------------------------


@given(st.sampled_from([2, 4]), st.lists(st.integers(-8, 7), min_size=1, max_size=9))
def test_packed_weights_come_back(bits: int, values: list[int]) -> None:
    weights = torch.tensor([max(-(2 ** (bits - 1)), min(v, 2 ** (bits - 1) - 1)) for v in values], dtype=torch.int8)
    stored = pack(weights, bits)
    assert stored.dtype == torch.uint8 and len(stored) == -(-len(values) * bits // 8)
    assert torch.equal(unpack(stored, bits, [len(values)]), weights)


def test_a_graph_comes_back_from_its_file_and_few_bits_take_few_bytes() -> None:
    graphs = {bits: quantized("resnet", bits).to_integer() for bits in (2, 4, 8)}
    x = rows("resnet", 4)
    for graph in graphs.values():
        again = IntegerGraph.restore(graph.describe(), graph.packed())
        assert torch.equal(again(x), graph(x)) and again.steps == graph.steps
    free = sum(layer.weight.numel() for layer in build("resnet").modules() if isinstance(layer, nn.Conv2d))
    free -= build("resnet").stem.weight.numel()
    assert graphs[8].size_bytes - graphs[4].size_bytes == free / 2
    assert graphs[4].size_bytes - graphs[2].size_bytes == free / 4


def test_a_step_of_unknown_kind_is_refused() -> None:
    graph = quantized("features").to_integer()
    described = graph.describe()
    for change in ({"kind": "exec"}, {"inputs": ["later"]}):
        steps = [*described["steps"][:1], {**described["steps"][1], **change}, *described["steps"][2:]]
        with pytest.raises(CheckpointError, match="cannot be"):
            IntegerGraph.restore({**described, "steps": steps}, graph.packed())


def test_a_float_inside_the_exported_graph_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = quantized("features").to_integer()
    assert set(float_operations(float_twin(graph))) >= {"Gemm", "Relu"}

    def through_float(self, step, given, own):
        halved = self.add("Mul", self.cast(given[0], np.float32), self.constant(np.float32(1.0)))
        return self.cast(halved, np.int32)

    monkeypatch.setattr(_IntegerWriter, "_relu", through_float)
    with pytest.raises(CapabilityError, match=r"floating point: .*Mul"):
        to_onnx(graph)


@pytest.mark.parametrize("name", SHAPES)
def test_the_float_twin_has_the_same_layers(name: str) -> None:
    graph, x = quantized(name).to_integer(), rows(name, 16)
    twin = session(float_twin(graph)).run(None, {"x": x.numpy()})[0]
    scores = graph(x).numpy()
    assert np.abs(twin - scores).mean() < 0.03 * np.abs(scores).mean()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", SHAPES)
def test_no_two_products_of_the_exported_graph_leave_sixteen_bits_on_processors_that_add_them_there(
    name: str, bits: int
) -> None:
    """Of unsigned and signed bytes, that is: of two unsigned or two signed ones products are widened first."""
    model = to_onnx(quantized(name, bits).to_integer())
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("ConvInteger", "MatMulInteger")]
    for node in layers:
        _, weight, zero_in, zero = (constants.get(name) for name in node.input)
        assert np.uint8 in (zero_in.dtype, zero.dtype) and weight.dtype == zero.dtype  # else there is no quick kernel
        if zero_in.dtype != zero.dtype:
            largest = 128 if zero.dtype == np.uint8 else 255
            assert 2 * int(np.abs(weight.astype(int)).max()) * largest < 2**15
    assert layers


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", SHAPES)
def test_the_model_of_one_layer_gives_its_sums(name: str, bits: int) -> None:
    graph, x = quantized(name, bits).to_integer(), rows(name, 6, seed=1).numpy()
    values = graph.run(x)
    steps = {step.name: step for step in graph.steps}
    layers = dict(layers_onnx(graph))
    for layer, model in layers.items():
        one, step = session(model), steps[layer]
        kind = {"tensor(int8)": np.int8, "tensor(uint8)": np.uint8}[one.get_inputs()[0].type]
        given = values[step.inputs[0]]
        assert np.array_equal(given.astype(kind), given)
        assert np.array_equal(one.run(None, {"x": given.astype(kind)})[0], values[step.name])
    assert set(layers) == set(graph.bits) and len(layers) > 1


@pytest.mark.skipif("vnni" not in FLAGS, reason="exact with VNNI only")
@pytest.mark.parametrize("name", SHAPES)
def test_the_graph_for_vnni_is_exact_there(name: str) -> None:
    graph, x = quantized(name, 8).to_integer(), rows(name, 6, seed=1).numpy()
    last = graph.run(x)[graph.steps[-1].name]
    assert mismatches(graph, to_onnx(graph, vnni=True), x, last) == 0
    assert mismatches(graph, to_onnx(graph), x, last) == 0
    assert mismatches(graph, to_onnx(graph), x, last + 1) == last.size


def test_deployment_measures_four_models() -> None:
    graph, x = quantized("resnet", 4).to_integer(), rows("resnet", 2).numpy()
    records = deployment(graph, x, n_runs=3)
    names = ["float32", "uniform int8 (onnxruntime)", "integers", "integers, VNNI"]
    assert [record["model"] for record in records] == names
    assert all(record["ms (median)"] > 0 and record["bytes (onnx)"] > 0 for record in records)
    assert records[0]["times as fast as float"] == 1.0
    assert records[2]["bytes (packed)"] == graph.size_bytes < records[2]["bytes (onnx)"]
    assert [record["scores that differ"] for record in records[:3]] == [None, None, 0]
