"""Deep kernels on the sphere in logarithms, against the plain recursion, exact arithmetic and dense kernels."""

import math
from fractions import Fraction

import pytest
import torch

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.nn.infinite import (
    DeepKernelTable,
    FullyConnected,
    Hermite,
    PolynomialDual,
    SphereDual,
    WideNetwork,
    as_activation,
    deep_kernels,
    dual_on_sphere,
    empirical_ntk,
    layerwise_ntk,
)

EDGE = 2**-0.75  # the cubic of dimension 3
CUBIC = Hermite((0.0, EDGE, math.sqrt(1 - 2 * EDGE**2), EDGE))
NAMES = ("relu", "erf", "gelu", "tanh")
FUNCTIONS = [CUBIC, Hermite((0.0, 0.0, 1.0)), Hermite((0.5,) * 4), *(as_activation("test", name) for name in NAMES)]


@pytest.fixture(params=FUNCTIONS, ids=str)
def dual(request: pytest.FixtureRequest) -> SphereDual:
    return dual_on_sphere(request.param)


@pytest.mark.parametrize("depth", [0, 1, 3, 12])
def test_plain_recursion(dual: SphereDual, depth: int) -> None:
    xi = torch.linspace(-1, 1, 41, dtype=torch.float64)
    s, k = xi.clone(), xi.clone()
    for _ in range(depth):
        new = s**dual.order * dual.quotient(s)
        s, k = new, new + k * dual.slope(s)
    found = deep_kernels(dual, 1 - xi, depth)
    assert torch.allclose(found.sign_nngp * found.log_nngp.exp(), s, atol=1e-12)
    assert torch.allclose(found.sign_ntk * found.log_ntk.exp(), k, rtol=1e-9, atol=1e-12)
    assert found.log_ntk_diagonal == pytest.approx(math.log(float(k[-1])), abs=1e-9)


def test_dense_kernels_of_rows_on_the_sphere() -> None:
    x = torch.randn(6, 4, generator=torch_stream(0, "rows"), dtype=torch.float64)
    x = x / x.norm(dim=1, keepdim=True)
    for phi in (CUBIC, as_activation("test", "erf")):
        moment = phi.second_moment(torch.ones((), dtype=torch.float64))
        nngp, ntk = FullyConnected(1, phi).ntk(2 * x)  # x.x' is divided by the 4 columns
        found = deep_kernels(dual_on_sphere(phi), 1 - x @ x.T, 1)
        assert torch.allclose(found.sign_nngp * found.log_nngp.exp(), nngp / moment, atol=1e-7)
        assert torch.allclose(found.sign_ntk * found.log_ntk.exp(), ntk / moment, atol=1e-7)


def test_complement_keeps_its_digits(dual: SphereDual) -> None:
    delta = torch.tensor([1e-15, 1e-10, 1e-5], dtype=torch.float64)
    assert torch.allclose(dual.complement(delta) / delta, torch.full_like(delta, dual.slope_at_one), rtol=5e-3)
    wide = torch.linspace(0.01, 0.7, 20, dtype=torch.float64)
    plain = 1 - (1 - wide) ** dual.order * dual.quotient(1 - wide)
    assert torch.allclose(dual.complement(wide), plain, atol=1e-12)


def test_close_points_and_many_layers_against_exact_fractions() -> None:
    """delta = 2^-70, 60 layers of xi/2 + xi^3/2, where plain arithmetic sees no difference at all."""
    half, depth = Fraction(1, 2), 12
    s = k = 1 - Fraction(1, 2**24)
    for _ in range(depth):
        new, slope = half * s + half * s**3, half + 3 * half * s**2
        s, k = new.limit_denominator(10**60), (new + k * slope).limit_denominator(10**60)
    found = deep_kernels(PolynomialDual((0.0, 0.5, 0.0, 0.5)), torch.tensor([2.0**-24], dtype=torch.float64), depth)
    assert found.log_ntk.item() == pytest.approx(math.log(k), abs=1e-12)
    assert math.expm1(found.log_nngp.item()) == pytest.approx(float(s - 1), rel=1e-9)


def test_no_underflow_at_a_million_layers() -> None:
    dual = dual_on_sphere(CUBIC)
    angle = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)
    delta = 2 * (angle / 2).sin().square()
    found = deep_kernels(dual, delta, 10**6)
    slopes = found.log_ntk.diff() / (2 * delta).sqrt().log().diff()
    assert torch.allclose(slopes, torch.full_like(slopes, -3.0), atol=0.05)
    normed = found.log_ntk - 10**6 * math.log(EDGE**2) - math.log(10**6)
    assert normed.isfinite().all() and normed.abs().max() < 20


def test_shortcut_of_the_last_layers_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    dual = dual_on_sphere(CUBIC)
    delta = torch.tensor([0.0, 1e-12, 0.1, 0.9, 1.0, 1.7, 2.0], dtype=torch.float64)
    short = deep_kernels(dual, delta, 300)
    slow = PolynomialDual(dual.weights)
    parts = [deep_kernels(slow, delta[i : i + 1], 300) for i in range(len(delta))]
    assert torch.equal(short.sign_ntk, torch.cat([p.sign_ntk for p in parts]))
    finite = short.log_ntk.isfinite()
    assert torch.allclose(short.log_ntk[finite], torch.cat([p.log_ntk for p in parts])[finite])
    assert short.log_ntk[0] == short.log_ntk_diagonal


def test_opposite_rows_end_at_once() -> None:
    odd = PolynomialDual((0.0, 0.5, 0.0, 0.5))
    found = deep_kernels(odd, torch.tensor([2.0], dtype=torch.float64), 10**6)
    assert found.sign_ntk.item() == -1 and found.log_ntk.item() == found.log_ntk_diagonal


@pytest.mark.parametrize("depth", [1, 20])
def test_table_is_close_to_the_recursion(dual: SphereDual, depth: int) -> None:
    """Everywhere, and close to the poles and to right angles, where the sign changes."""
    u = torch.rand(400, generator=torch_stream(0, "delta"), dtype=torch.float64)
    delta = torch.cat([2 * u, 1 + 0.01 * (u - 0.5), 10 ** (-17 * u), 2 - 10 ** (-9 * u)])
    found = deep_kernels(dual, delta, depth)
    table = DeepKernelTable(dual, depth)
    log_k, sign = table(delta)
    top = found.log_ntk_diagonal
    gap = sign * (log_k - top).exp() - found.sign_ntk * (found.log_ntk - top).exp()
    assert float(gap.abs().max()) < 2e-7
    ends = torch.tensor([0.0, 2.0], dtype=torch.float64)
    exact = deep_kernels(dual, ends, depth)
    assert table(ends)[0][0].item() == found.log_ntk_diagonal
    assert table(ends)[0][1].item() == max(exact.log_ntk[1].item(), -1e300)


def test_an_even_dual_has_no_nan_at_any_depth() -> None:
    """The ratio of the two kernels doubles each layer, beyond the largest number at 1024."""
    found = deep_kernels(PolynomialDual((0.0, 0.0, 1.0)), torch.tensor([0.0, 1e-3, 1.0, 1.5]), 3000)
    assert not bool(found.log_ntk.isnan().any())
    assert found.log_ntk[0] == found.log_ntk_diagonal and (found.log_ntk[1:] < -1e299).all()


def test_constants_of_the_duals() -> None:
    for name in ("relu", "erf"):
        exact, general = dual_on_sphere(name), dual_on_sphere(as_activation("test", name))
        assert exact == general
    cubic = dual_on_sphere(CUBIC)
    assert cubic.slope_at_one == pytest.approx(2.0) and cubic.slope_at_zero == pytest.approx(EDGE**2)
    with pytest.raises(ConfigError, match="sum to 1"):
        PolynomialDual((0.5, 0.2))


def test_layerwise_kernel_of_a_finite_network() -> None:
    x = torch.randn(4, 3, generator=torch_stream(0, "rows"), dtype=torch.float64)
    for residual in (False, True):
        kernel = FullyConnected(3, "gelu", 1.2, 0.1, 0.7, 0.3, residual=residual)
        net = WideNetwork(kernel, 3, 20, generator=torch_stream(0, "net"))
        assert torch.allclose(layerwise_ntk(net, x), empirical_ntk(net, x).detach(), atol=1e-10)
