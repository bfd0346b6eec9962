"""Sensitivities and bits: the published numbers, the whole Hessian, budgets, ties and control arms."""

import math

import numpy as np
import pytest
import torch
from hawq_networks import SHAPES, build, rows
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.weights import (
    CurvaturePrior,
    LayerSensitivity,
    Sensitivity,
    allocate_bits,
    finetune,
    hessian_sensitivity,
    quantize,
)
from foreknow.weights.hawq.allocation import random_bits
from foreknow.weights.hawq.proof import published_sensitivity
from foreknow.weights.hawq.quantizers import weight_error
from foreknow.weights.hawq.sources import uniform_bits

SENS, LATENCIES, STORED = published_sensitivity()
NINE = [(budget, fraction) for budget, table in STORED["bits"].items() for fraction in table]


@pytest.mark.parametrize(("budget", "fraction"), NINE)
def test_the_published_bits_and_optima_are_found(budget: str, fraction: str) -> None:
    plan = allocate_bits(SENS, fraction={budget: float(fraction)}, latencies=LATENCIES)
    assert "".join(str(b) for b in plan.bits.values()) == STORED["bits"][budget][fraction]
    assert plan.omega == pytest.approx(STORED["omega"][budget][fraction], abs=6e-5)
    assert plan.cost[budget] <= plan.limits[budget]
    assert plan.shadow_price[budget] > 0


def test_the_published_extremes() -> None:
    for bits, omega in ((4, STORED["omega_of_all_4"]), (8, STORED["omega_of_all_8"])):
        assert sum(layer.omega(bits) for layer in SENS.layers) == pytest.approx(omega, rel=2e-3)


def test_curvature_is_the_trace_of_the_whole_hessian_of_the_folded_weights() -> None:
    net = build("thin")
    x, y = rows("thin", 24), torch.arange(24) % 3
    sens = hessian_sensitivity(
        net, nn.functional.cross_entropy, [(x, y)], bits=(4,), probes=600, tolerance=0.0, generator=torch_stream(0)
    )
    layer = next(one for one in sens.layers if one.layer == "a")
    factor = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    folded = (net.a.weight * factor[:, None, None, None]).detach()

    def loss(weight):
        bias = (net.a.bias - net.norm.running_mean) * factor + net.norm.bias
        h = nn.functional.conv2d(x, weight, bias, 2)
        return nn.functional.cross_entropy(net.pool(net.point(net.deep(h) + h)).flatten(1), y)

    hessian = torch.autograd.functional.hessian(loss, folded).reshape(folded.numel(), -1)
    exact = float(hessian.diagonal().mean())
    assert abs(layer.curvature - exact) < 4 * layer.stderr
    assert layer.error[8] == pytest.approx(weight_error(folded, 8), rel=1e-5)
    deep = next(one for one in sens.layers if one.layer == "deep")
    assert set(deep.error) == {4} and deep.n_weights == 36 and deep.macs == 36 * 16


def table(curvature=(1.0, 2.0, 3.0), error=((9.0, 1.0),) * 3) -> Sensitivity:
    layers = [
        LayerSensitivity(f"l{i}", 2**20, 10**9, c, 0.1, dict(zip((4, 8), e)))
        for i, (c, e) in enumerate(zip(curvature, error))
    ]
    return Sensitivity(tuple(layers))


def test_bits_go_where_the_loss_is_curved_and_to_the_error_without_the_prior() -> None:
    sens = table(curvature=(1.0, 9.0, 1.0), error=((9.0, 1.0), (3.0, 1.0), (5.0, 1.0)))
    plan = allocate_bits(sens, size_mb=2.0)
    assert plan.bits == {"l0": 4, "l1": 8, "l2": 4}
    assert plan.cost == pytest.approx({"size_mb": 2.0, "gbops": 16.0 + 64.0 + 16.0})
    compared = plan.compare(prior_off=True)
    assert compared["other_bits"] == {"l0": 8, "l1": 4, "l2": 4} and compared["n_different"] == 2
    assert compared["expected_cost"] == plan.omega < compared["other_expected_cost"]
    assert allocate_bits(sens, size_mb=2.0, prior=CurvaturePrior("one")).bits == compared["other_bits"]


def test_ties_fixed_activations_and_several_budgets() -> None:
    sens = table()
    assert allocate_bits(sens, size_mb=2.0).bits == {"l0": 4, "l1": 4, "l2": 8}
    assert allocate_bits(sens, size_mb=2.0, tie=[("l2", "l0")]).bits == {"l0": 4, "l1": 8, "l2": 4}
    plan = allocate_bits(sens, gbops=96.0 + 1e-6, activation_bits=8)
    assert plan.cost["gbops"] == 96.0 and set(plan.bits.values()) == {4}
    both = allocate_bits(sens, size_mb=2.6, gbops=60.0)
    assert set(both.bits.values()) == {4} and both.shadow_price["size_mb"] == 0.0


def test_negative_traces_count_as_zero_and_are_reported() -> None:
    sens = table(curvature=(-5.0, 1.0, 1.0))
    assert sens.layers[0].omega(4) == 0.0
    assert allocate_bits(sens, size_mb=2.5).bits["l0"] == 4
    columns, lines = sens.table()
    assert columns == ("layer", "weights", "curvature", "stderr", "omega at 4 bits", "omega at 8 bits")
    assert lines[0] == ("l0", 2**20, -5.0, 0.1, 0.0, 0.0)


def test_a_random_prior_gives_every_layer_anothers_costs() -> None:
    curvature, error = np.arange(1.0, 6.0), np.ones((5, 2))
    prior = CurvaturePrior("random")
    for seed in range(20):
        moved = prior.omega(curvature, error, np.random.default_rng(seed))[:, 0]
        assert sorted(moved) == curvature.tolist() and (moved != curvature).all()
    assert np.array_equal(CurvaturePrior("one").omega(curvature, error, np.random.default_rng(0)), error)
    assert prior.off() == CurvaturePrior().off() == CurvaturePrior("one")
    sens = table()
    same = [allocate_bits(sens, size_mb=2.0, prior=prior, random_state=3).bits for _ in range(2)]
    assert same[0] == same[1]


def test_random_assignments_fill_the_budget_and_keep_ties() -> None:
    plan = allocate_bits(SENS, fraction={"size_mb": 0.5})
    seen = set()
    for seed in range(20):
        bits = random_bits(plan, np.random.default_rng(seed))
        spent = sum(layer.n_weights * bits[layer.layer] for layer in SENS.layers) / 8 / 2**20
        assert spent <= plan.limits["size_mb"] < spent + 2359296 / 2 / 2**20
        assert all(len({bits[name] for name in group}) == 1 for group in SENS.ties)
        seen.add(tuple(bits.values()))
    assert len(seen) > 10


def test_uniform_bits_are_the_nearest_in_size() -> None:
    assert set(uniform_bits(allocate_bits(SENS, fraction={"size_mb": 0.4})).values()) == {4}
    assert set(uniform_bits(allocate_bits(SENS, fraction={"size_mb": 0.6})).values()) == {8}


def test_budgets_that_make_no_sense_are_refused() -> None:
    sens = table()
    with pytest.raises(InputError, match=r"the least that can be reached is 1\.5"):
        allocate_bits(sens, size_mb=1.0)
    for given, said in (
        ({}, "there is no budget"),
        ({"size_mb": -1.0}, "size_mb"),
        ({"gbops": math.nan}, "gbops"),
        ({"latency": 1.0}, "needs latencies"),
        ({"fraction": {"latency_ms": 0.5}}, "needs latencies"),
        ({"latency": 1.0, "latencies": {"l0": {4: 1.0}}}, "lack milliseconds of 'l0'"),
        ({"fraction": {"speed": 0.5}}, "'speed'"),
        ({"fraction": {"size_mb": 1.5}}, "fraction"),
        ({"size_mb": 2.0, "tie": [("l0", "l9")]}, "unknown layer 'l9'"),
    ):
        with pytest.raises(ConfigError, match=said):
            allocate_bits(sens, **given)


def test_no_rows_and_no_bits_are_refused() -> None:
    loss = nn.functional.cross_entropy
    with pytest.raises(InputError, match="there is no batch"):
        hessian_sensitivity(build("features"), loss, [])
    with pytest.raises(InputError, match="there is no batch"):
        hessian_sensitivity(build("features"), loss, [(rows("features", 0), torch.zeros(0).long())])
    for bits in ((), (1, 8), (4, 16), "48", 4):
        with pytest.raises(ConfigError, match="bits"):
            hessian_sensitivity(build("features"), loss, [(rows("features", 4), torch.zeros(4).long())], bits=bits)
    with pytest.raises(InputError, match="at least one row"):
        quantize(build("features"), {}, [rows("features", 0)])


def test_from_a_network_to_integers_in_four_calls(tmp_path) -> None:
    net, x = build("resnet"), rows("resnet", 40)
    y = torch.arange(40) % 5
    before = {name: t.clone() for name, t in net.state_dict().items()}
    sens = hessian_sensitivity(net, nn.functional.cross_entropy, [(x[:20], y[:20]), (x[20:], y[20:])], probes=8)
    plan = allocate_bits(sens, fraction={"gbops": 0.5})
    assert sens.n_probes == 8 and sens.ties and plan.bits["stem"] == plan.bits["head"] == 8
    graph = quantize(net, plan, x.split(10)).to_integer()
    assert graph.bits == plan.bits
    assert graph.export_onnx(tmp_path / "net.onnx").stat().st_size > 0
    assert all(torch.equal(t, before[name]) for name, t in net.state_dict().items())
    assert plan.picture().labels == list(plan.bits)
    assert SHAPES["resnet"] == graph.row_shape


def test_a_loader_of_pairs_serves_every_call() -> None:
    net, x = build("resnet"), rows("resnet", 40)
    loader = DataLoader(TensorDataset(x, torch.arange(40) % 5), batch_size=10, generator=torch_stream(0))
    sens = hessian_sensitivity(net, nn.functional.cross_entropy, loader, probes=8)
    plan = allocate_bits(sens, fraction={"gbops": 0.5})
    networks = [quantize(net, plan, calib) for calib in (loader, x.split(10))]
    batches = list(loader)
    for network, given in zip(networks, (loader, lambda k: batches[k % 4])):
        finetune(network, given, n_steps=6, lr=1e-3)  # more than a pass
    assert torch.equal(*(network(x[:5]) for network in networks))
    for once in ([], iter(loader)):
        with pytest.raises(InputError, match="no \\(more\\) batch"):
            finetune(networks[0], once, n_steps=6)


def test_the_picture_of_the_prior_holds_the_bits_of_every_budget() -> None:
    picture = CurvaturePrior().picture(3, generator=torch_stream(0))
    ((on, off),) = picture.images
    sensitivity = published_sensitivity()[0]
    for row, share in enumerate((0.75, 0.5, 0.25)):
        for image, prior in ((on, CurvaturePrior()), (off, CurvaturePrior("one"))):
            plan = allocate_bits(sensitivity, fraction={"size_mb": share}, prior=prior)
            np.testing.assert_array_equal(8 * (1 - np.asarray(image)[6 * row]), list(plan.bits.values()))
    assert np.shape(CurvaturePrior("random").picture(1, generator=torch_stream(0)).images[0][0]) == (19, 19)
