"""Hessian products and traces against the whole matrix."""

import pytest
import torch
from torch import nn

from foreknow.common.errors import ConvergenceError, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.nn.curvature import hessian_traces, hessian_vector_product


def small_network() -> tuple[nn.Module, dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    with seeded_init(0):
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        x, y = torch.randn(20, 3).double(), torch.randint(0, 2, (20,))
    return net, {"0": net[0].weight, "2": net[2].weight}, (x, y)


def loss_of(net):
    return lambda batch: nn.functional.cross_entropy(net(batch[0]), batch[1])


def exact_trace(net, name, batch) -> float:
    parameters = dict(net.named_parameters())

    def loss(weight):
        scores = torch.func.functional_call(net, {**parameters, f"{name}.weight": weight}, batch[0])
        return nn.functional.cross_entropy(scores, batch[1])

    weight = parameters[f"{name}.weight"].detach()
    hessian = torch.autograd.functional.hessian(loss, weight)
    return float(hessian.reshape(weight.numel(), -1).diagonal().sum())


def test_products_of_a_quadratic_form() -> None:
    a = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).double()
    x, v = torch.ones(5, dtype=torch.float64, requires_grad=True), torch.arange(5.0, dtype=torch.float64)
    (product,) = hessian_vector_product(0.5 * x @ a @ x, [x], [v])
    assert torch.allclose(product, 0.5 * (a + a.T) @ v)


def test_a_diagonal_hessian_is_exact_with_any_probe() -> None:
    x = torch.ones(4, requires_grad=True)
    d = torch.tensor([1.0, 2.0, 3.0, -1.0])
    found = hessian_traces(lambda _: 0.5 * (d * x**2).sum(), {"x": x}, [None], generator=torch_stream(0), n_probes=3)
    assert found["x"].trace == pytest.approx(5.0) and found["x"].stderr == pytest.approx(0.0, abs=1e-6)


def test_traces_of_a_network_lie_within_their_standard_errors() -> None:
    net, weights, batch = small_network()
    found = hessian_traces(loss_of(net), weights, [batch], generator=torch_stream(1), n_probes=600, tolerance=0.0)
    for name, estimate in found.items():
        exact = exact_trace(net, name, batch)
        assert estimate.n_probes == 600
        assert 0 < estimate.stderr < 0.1 * exact
        assert abs(estimate.trace - exact) < 4 * estimate.stderr
    fewer = hessian_traces(loss_of(net), weights, [batch], generator=torch_stream(1), n_probes=60, tolerance=0.0)
    assert fewer["0"].stderr > 2 * found["0"].stderr


def test_batches_share_the_probes() -> None:
    net, weights, (x, y) = small_network()
    halves = [(x[:10], y[:10]), (x[10:], y[10:])]
    found = hessian_traces(loss_of(net), weights, halves, generator=torch_stream(0), n_probes=401, tolerance=0.0)
    exact = exact_trace(net, "0", (x, y))
    assert found["0"].n_probes == 401
    assert abs(found["0"].trace - exact) < 4 * found["0"].stderr + 0.02 * exact


def test_stops_once_the_means_settle_and_not_before_50() -> None:
    x = torch.ones(3, requires_grad=True)
    found = hessian_traces(lambda _: (x**2).sum(), {"x": x}, [0], generator=torch_stream(0), n_probes=500)
    assert found["x"].n_probes == 51


def test_no_stop_before_every_batch_was_used_and_none_weighs_more() -> None:
    x = torch.ones(3, requires_grad=True)
    found = hessian_traces(
        lambda c: 0.5 * c * (x**2).sum(), {"x": x}, [1.0, 3.0], generator=torch_stream(0), n_probes=200
    )
    assert 50 < found["x"].n_probes <= 200 and found["x"].stderr > 0
    assert found["x"].trace == pytest.approx(6.0, rel=0.02)


def test_a_linear_loss_has_no_curvature() -> None:
    x = torch.ones(3, requires_grad=True)
    found = hessian_traces(lambda _: x.sum(), {"x": x}, [0], generator=torch_stream(0), n_probes=2)
    assert found["x"].trace == 0.0


def test_no_batch_and_no_number_are_refused() -> None:
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(InputError, match="at least one"):
        hessian_traces(lambda _: x.sum(), {"x": x}, [], generator=torch_stream(0))
    with pytest.raises(ConvergenceError, match="not finite"):
        hessian_traces(lambda _: (x**1.5).sum(), {"x": x}, [0], generator=torch_stream(0))
