"""Infinite-width kernels against quadrature, known closed forms, wide finite networks, and their own limits."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.nn.infinite import (
    GELU,
    Activation,
    Convolutional,
    Elementwise,
    Erf,
    FullyConnected,
    Gram,
    Hermite,
    Identity,
    ReLU,
    Tanh,
    WideNetwork,
    as_activation,
    empirical_ntk,
    layer,
    layer_ntk,
)

CUBIC = Hermite((0.0, 0.6, 0.5, 0.4))
ACTIVATIONS = [Identity(), ReLU(), Erf(), GELU(), CUBIC, Tanh(), Elementwise(torch.sin)]
COVARIANCES = [(1.0, 1.0, 0.3), (2.0, 0.5, -0.7), (0.3, 4.0, 1.0), (1.0, 1.0, 1.0), (1.0, 2.0, 0.0), (1.0, 1.0, -1.0)]


def numbers(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def rows(n: int, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch_stream(seed, "rows"), dtype=torch.float64)


def expectation(function, a: float, b: float, c: float) -> float:
    """E function(u) function(v) by a product rule of 150 by 150 nodes."""
    x, w = np.polynomial.hermite_e.hermegauss(150)
    w = w / w.sum()
    u = torch.from_numpy(math.sqrt(a) * x)[:, None].expand(150, 150)
    v = torch.from_numpy(c / math.sqrt(a) * x)[:, None] + math.sqrt(max(b - c * c / a, 0.0)) * torch.from_numpy(x)
    return float((torch.from_numpy(np.outer(w, w)) * function(u) * function(v)).sum())


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda phi: type(phi).__name__)
@pytest.mark.parametrize("case", COVARIANCES)
def test_dual_is_the_expectation(phi: Activation, case: tuple[float, float, float]) -> None:
    a, b, c = numbers(*case)
    tolerance = 5e-3 if isinstance(phi, ReLU) else 1e-6  # the product rule is bad at kinks
    assert phi.dual(a, b, c).item() == pytest.approx(expectation(phi, *case), abs=tolerance)
    assert phi.second_moment(a).item() == pytest.approx(expectation(phi, case[0], case[0], case[0]), abs=tolerance)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda phi: type(phi).__name__)
@pytest.mark.parametrize("case", COVARIANCES[:3] + COVARIANCES[4:5])
def test_derivative_of_the_dual(phi: Activation, case: tuple[float, float, float]) -> None:
    a, b, c = numbers(*case)
    (slope,) = torch.autograd.grad(phi.dual(a, b, c), c)
    assert phi.dual_derivative(a, b, c).item() == pytest.approx(slope.item(), abs=1e-6)


def expect_gradients(function, *values: Tensor, step: float = 1e-5) -> None:
    """Gradients of the sum of `function` against central differences, number by number."""
    values = tuple(value.detach().requires_grad_() for value in values)
    found = torch.autograd.grad(function(*values).sum(), values)
    for place, (value, gradient) in enumerate(zip(values, found)):
        for index in range(value.numel()):
            moved = []
            for sign in (1, -1):
                other = [v.detach().clone() for v in values]
                other[place].view(-1)[index] += sign * step
                moved.append(function(*other).sum().detach())
            expected = (moved[0] - moved[1]) / (2 * step)
            assert torch.allclose(gradient.reshape(-1)[index], expected, rtol=1e-5, atol=1e-8), (place, index)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda phi: type(phi).__name__)
def test_gradients_agree_with_differences(phi: Activation) -> None:
    values = [torch.tensor(v, dtype=torch.float64) for v in ([1.0, 2.0], [3.0], [0.5, -1.0])]
    expect_gradients(phi.dual, *values)
    if isinstance(phi, Identity):
        return  # its further derivatives are 0
    expect_gradients(phi.dual_derivative, *values)

    def slopes(a: Tensor, b: Tensor, c: Tensor) -> Tensor:  # second derivatives
        a, b, c = (v if v.requires_grad else v.requires_grad_() for v in (a, b, c))
        return sum(g.sum() for g in torch.autograd.grad(phi.dual(a, b, c).sum(), (a, b, c), create_graph=True))

    expect_gradients(slopes, *values)


@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda phi: type(phi).__name__)
@pytest.mark.parametrize(
    "case", [(1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0), (1e-30, 1.0, 0.0)]
)
def test_corners_are_finite_with_their_gradients(phi: Activation, case: tuple[float, float, float]) -> None:
    a, b, c = numbers(*case)
    for function in (phi.dual, phi.dual_derivative):
        value = function(a, b, c)
        gradient = torch.autograd.grad(value, (a, b, c), allow_unused=True, materialize_grads=True)
        assert all(part.isfinite() for part in (value, *gradient)), (function, value, gradient)


def second_moment(function, variance: float) -> float:
    """E function(u)^2 by the trapezoidal rule, which is exact to rounding for functions as smooth as these."""
    z = torch.arange(-13, 13, 0.01, dtype=torch.float64)
    weights = torch.exp(-0.5 * z.square())
    return float((function(math.sqrt(variance) * z).square() * weights).sum() / weights.sum())


@pytest.mark.parametrize("variance", [0.01, 1.0, 5.0, 10.0])
@pytest.mark.parametrize("phi", [Tanh(), Elementwise(torch.sin), Elementwise(softplus)], ids=str)
def test_second_moments_up_to_the_stated_variance(phi: Activation, variance: float) -> None:
    a = torch.tensor(variance, dtype=torch.float64)
    for found in (phi.second_moment(a), phi.dual(a, a, a)):
        assert float(found) == pytest.approx(second_moment(phi, variance), abs=1e-7)


def test_tanh_is_accurate_at_any_variance() -> None:
    a = torch.tensor([20.0, 100.0, 1000.0], dtype=torch.float64)
    for function, dual in ((torch.tanh, Tanh().dual), (lambda u: 1 - torch.tanh(u).square(), Tanh().dual_derivative)):
        expected = torch.tensor([second_moment(function, float(value)) for value in a], dtype=torch.float64)
        assert torch.allclose(dual(a, a, a), expected, atol=1e-7)
    kernel = FullyConnected(3, "tanh", 10.0, 1.6)
    x = rows(6)
    assert torch.allclose(kernel(x).diagonal(), kernel.diag(x), rtol=1e-9)


@pytest.mark.parametrize("phi", [Erf(), GELU(), Tanh()], ids=str)
def test_rows_of_any_norm_have_finite_kernels(phi: Activation) -> None:
    direction = rows(3, 4)
    for norm in (1e4, 1e8, 1e12, 1e30):
        x = norm * torch.cat([direction, direction[:1], -direction[:1]])
        kernel = FullyConnected(2, phi, 1.3, 0.1)
        for found in (*kernel.ntk(x), kernel.ntk_diag(x)):
            assert bool(found.isfinite().all())
    a = torch.tensor(1e16, dtype=torch.float64)
    assert float(Erf().dual(a, a, a)) == pytest.approx(1.0, abs=1e-7)
    assert float(Erf().dual_derivative(a, a, a)) == pytest.approx(2e-8 / math.pi, rel=1e-6)  # 4 / (pi sqrt(1 + 4a))
    assert float(GELU().dual(a, a, a)) == pytest.approx(a.item() / 2, rel=1e-6)  # that of ReLU
    assert float(GELU().dual_derivative(a, a, a)) == pytest.approx(0.5, abs=1e-6)


def test_arc_cosine_against_cho_and_saul() -> None:
    angle = torch.linspace(0, math.pi, 50, dtype=torch.float64)
    one = torch.ones_like(angle)
    expected = (angle.sin() + (math.pi - angle) * angle.cos()) / (2 * math.pi)
    assert torch.allclose(ReLU().dual(one, 4 * one, 2 * angle.cos()), 2 * expected, atol=1e-12)
    assert torch.allclose(
        ReLU().dual_derivative(one, 4 * one, 2 * angle.cos()), (math.pi - angle) / (2 * math.pi), atol=1e-8
    )


def test_relu_by_coefficients_comes_near_its_closed_form() -> None:
    general = Elementwise(torch.relu, n_terms=120, n_nodes=180)
    a, b, c = (torch.tensor(v, dtype=torch.float64) for v in (1.0, 2.0, 0.4))
    assert float(general.dual(a, b, c)) == pytest.approx(float(ReLU().dual(a, b, c)), abs=1e-2)


def test_hermite_dual_at_variance_one_is_its_polynomial() -> None:
    rho = torch.linspace(-1, 1, 11, dtype=torch.float64)
    one = torch.ones_like(rho)
    expected = sum(c * c * rho**k for k, c in enumerate(CUBIC.coefficients))
    assert torch.allclose(CUBIC.dual(one, one, rho), expected, atol=1e-13)
    slope = sum(k * c * c * rho ** (k - 1) for k, c in enumerate(CUBIC.coefficients) if k)
    assert torch.allclose(CUBIC.dual_derivative(one, one, rho), slope, atol=1e-13)
    assert CUBIC.moment == pytest.approx(sum(CUBIC.dual_coefficients()))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "tanh", CUBIC], ids=str)
def test_wide_networks_approach_both_kernels(activation: str | Activation, residual: bool) -> None:
    """Mean over networks of f(x) f(x') and of gradients' products; the error shrinks as the width grows."""
    depth = 1 if activation is CUBIC else 2  # deep cubic networks have tails too heavy for averages
    kernel = FullyConnected(depth, activation, 1.3, 0.2, readout_w_var=0.8, readout_b_var=0.1, residual=residual)
    x = rows(4)
    nngp, ntk = kernel.ntk(x)
    assert torch.equal(nngp, kernel(x))
    errors = []
    for width, n in ((16, 16), (256, 10)):
        found = torch.zeros_like(ntk)
        for seed in range(n):
            net = WideNetwork(kernel, 3, width, generator=torch_stream(seed, "net"))
            found += empirical_ntk(net, x).detach() / n
        errors.append(float((found - ntk).norm() / ntk.norm()))
    assert errors[1] < (0.2 if activation is CUBIC else 0.1), errors
    generator = torch_stream(1, "net")
    f = torch.cat([WideNetwork(kernel, 3, 128, n_out=200, generator=generator)(x).detach() for _ in range(40)], dim=1)
    assert float((f @ f.T / f.shape[1] - nngp).norm() / nngp.norm()) < 0.08


@pytest.mark.parametrize("readout", ["flatten", "pool"])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("residual", [False, True])
def test_wide_convolutions_approach_both_kernels(readout: str, padding: str, residual: bool) -> None:
    kernel = Convolutional(2, "relu", 1.5, 0.1, readout=readout, padding=padding, residual=residual)
    x = torch.randn(3, 2, 4, 5, generator=torch_stream(0, "images"), dtype=torch.float64)
    nngp, ntk = kernel.ntk(x)
    generator = torch_stream(2, "net")
    outputs, found = [], torch.zeros_like(ntk)
    for _ in range(8):
        net = WideNetwork(kernel, 2, 96, generator=generator, shape=(4, 5))
        found += empirical_ntk(net, x).detach() / 8
    for _ in range(30):
        outputs.append(WideNetwork(kernel, 2, 64, generator=generator, n_out=60, shape=(4, 5))(x).detach())
    f = torch.cat(outputs, dim=1)
    assert float((found - ntk).norm() / ntk.norm()) < 0.12
    assert float((f @ f.T / f.shape[1] - nngp).norm() / nngp.norm()) < 0.12


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_convolution_of_one_position_is_dense(readout: str) -> None:
    x = rows(4)
    dense = FullyConnected(3, "erf", 1.2, 0.3)
    conv = Convolutional(3, "erf", 1.2, 0.3, kernel_size=1, readout=readout)
    for one, other in zip(dense.ntk(x), conv.ntk(x[:, :, None, None])):
        assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("readout", ["flatten", "pool"])
def test_convolution_blocks_and_diagonals(readout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Convolutional(2, "gelu", 1.5, 0.1, readout=readout)
    x = torch.randn(5, 1, 3, 3, generator=torch_stream(0, "images"), dtype=torch.float64)
    whole = kernel.ntk(x, x[:3])
    assert torch.allclose(kernel.diag(x), kernel(x).diagonal(), atol=1e-12)
    assert torch.allclose(kernel.ntk_diag(x), kernel.ntk(x)[1].diagonal(), atol=1e-12)
    monkeypatch.setattr("foreknow.nn.infinite.conv._CELLS", 200)
    for one, other in zip(whole, kernel.ntk(x, x[:3])):
        assert torch.allclose(one, other, atol=1e-12)


def test_pooling_is_blind_to_circular_shifts() -> None:
    x = torch.randn(2, 1, 4, 4, generator=torch_stream(0, "images"), dtype=torch.float64)
    kernel = Convolutional(2, padding="circular", readout="pool", b_var=0.1)
    assert torch.allclose(kernel(x), kernel(x, x.roll((1, 2), dims=(2, 3))), atol=1e-12)
    flat = Convolutional(2, padding="circular", b_var=0.1)
    assert not torch.allclose(flat(x), flat(x, x.roll((1, 2), dims=(2, 3))), atol=1e-3)


@pytest.mark.parametrize("kernel", [FullyConnected(5, phi, 1.2, 0.05) for phi in ACTIVATIONS], ids=str)
def test_kernels_are_positive(kernel: FullyConnected) -> None:
    x = torch.cat([rows(12), rows(3), torch.zeros(1, 3, dtype=torch.float64)])  # three rows twice, one of norm 0
    for k in kernel.ntk(x):
        assert torch.allclose(k, k.T, atol=1e-12)
        values = torch.linalg.eigvalsh(k)
        assert float(values[0]) > -1e-9 * float(values[-1])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("phi", ACTIVATIONS, ids=lambda phi: type(phi).__name__)
def test_cross_diagonal_and_gram_forms_agree(phi: Activation, residual: bool) -> None:
    kernel = FullyConnected(3, phi, 1.1, 0.2, residual=residual)
    x, z = rows(5), rows(4, seed=1)
    both, tangent = kernel.ntk(torch.cat([x, z]))
    assert torch.allclose(kernel(x, z), both[:5, 5:], atol=1e-10)
    assert torch.allclose(kernel.ntk(x, z)[1], tangent[:5, 5:], atol=1e-7)
    assert torch.allclose(kernel.diag(x), both.diagonal()[:5], atol=1e-10)
    assert torch.allclose(kernel.ntk_diag(x), tangent.diagonal()[:5], atol=1e-6)
    assert torch.allclose(kernel.of_gram(Gram.of(x, z)).cross, both[:5, 5:], atol=1e-10)


def test_a_grid_of_variances_in_one_call() -> None:
    w = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    b = torch.tensor([0.1, 0.0, 0.3], dtype=torch.float64)
    x = rows(4)
    grid = FullyConnected(2, "relu", w, b)
    nngp, ntk = grid.ntk(x)
    assert nngp.shape == (3, 4, 4) and grid.diag(x).shape == grid.ntk_diag(x).shape == (3, 4)
    for number in range(3):
        one = FullyConnected(2, "relu", float(w[number]), float(b[number]))
        assert torch.allclose(nngp[number], one(x), atol=1e-14)
        assert torch.allclose(ntk[number], one.ntk(x)[1], atol=1e-14)
        assert torch.allclose(grid.ntk_diag(x)[number], one.ntk_diag(x), atol=1e-14)


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", CUBIC], ids=str)
def test_gradients_reach_the_variances(activation: str | Activation) -> None:
    """Also with a row of norm 0, a row twice, and a row and its opposite."""
    x = torch.cat([rows(3), rows(1), -rows(1), torch.zeros(1, 3, dtype=torch.float64)])

    def total(w: Tensor, b: Tensor) -> Tensor:
        return FullyConnected(3, activation, w, b)(x).sum()

    expect_gradients(total, *numbers(1.2, 0.3))
    w, b = numbers(1.2, 0.0)
    nngp, ntk = FullyConnected(3, activation, w, b).ntk(x)
    for value in torch.autograd.grad(nngp.sum() + ntk.sum(), (w, b)):
        assert value.isfinite()


def test_gradient_reaches_a_gram_matrix() -> None:
    """What deep kernel machines need: a free Gram matrix, its diagonal included."""
    root = rows(4, 4)

    def total(root: Tensor) -> Tensor:
        gram = layer(Gram.square(root @ root.T / 4), "relu", 2.0)
        return (layer(gram, "relu", 2.0).cross * torch.arange(16, dtype=torch.float64).reshape(4, 4)).sum()

    expect_gradients(total, root)


def test_layers_by_hand_are_the_deep_kernel() -> None:
    x = rows(4)
    gram = Gram.of(x)
    gram = Gram(1.3 * gram.rows + 0.1, 1.3 * gram.columns + 0.1, 1.3 * gram.cross + 0.1)
    ntk = gram.cross
    for _ in range(2):
        gram, ntk = layer_ntk(gram, ntk, "gelu", 1.3, 0.1)
    for one, other in zip((gram.cross, ntk), FullyConnected(2, "gelu", 1.3, 0.1).ntk(x)):
        assert torch.allclose(one, other, atol=1e-13)


def test_relu_is_homogeneous_and_zero_depth_is_linear() -> None:
    x = rows(4)
    assert torch.allclose(FullyConnected(3, "relu", 2.0)(3 * x), 9 * FullyConnected(3, "relu", 2.0)(x))
    assert torch.allclose(FullyConnected(0, "relu", 2.0, 0.5)(x), 2 * x @ x.T / 3 + 0.5)
    assert torch.allclose(FullyConnected(4, "linear")(x), x @ x.T / 3)


def test_single_precision_follows_the_input() -> None:
    x = rows(4).float()
    for phi in ACTIVATIONS:
        kernel = FullyConnected(2, phi, 1.0, 0.1)
        assert kernel(x).dtype == torch.float32
        assert torch.allclose(kernel(x).double(), kernel(x.double()), atol=1e-4)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="activation"):
        as_activation("kernel", "rely")
    with pytest.raises(ConfigError, match="w_var"):
        FullyConnected(w_var=-1.0)
    with pytest.raises(ConfigError, match="b_var"):
        FullyConnected(b_var=torch.tensor([1.0, -2.0]))
    with pytest.raises(ConfigError, match="odd"):
        Convolutional(kernel_size=2)
    with pytest.raises(InputError, match="columns"):
        FullyConnected()(rows(2), rows(2, 4))
    with pytest.raises(InputError, match="images"):
        Convolutional()(rows(2))
