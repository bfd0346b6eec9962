"""What every predictive distribution promises, checked on each kind."""

import math

import numpy as np
import pytest
import torch
from predictive_cases import CONTINUOUS, NUMERIC, SMOOTH, integrate, normals

from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import Affine, Bar, Categorical, Gaussian, GaussianMixture, Predictive, Transformed

F32, F64 = torch.float32, torch.float64
RANGE = {
    "log": (1e-9, 40.0),
    "bar": (-30.0, 30.0),
    "bar_bounded": (-3.0, 2.5),
    "bar_affine": (-60.0, 60.0),
    "empirical": (-9.0, 9.0),
}
QS = torch.tensor([0.001, 0.05, 0.3, 0.5, 0.8, 0.99, 0.9999], dtype=F64)


@pytest.mark.parametrize("kind", NUMERIC)
def test_density_integrates_to_one(kind):
    dist = NUMERIC[kind](F64)
    total = integrate(dist, torch.ones_like, *RANGE.get(kind, (-60.0, 60.0)), points=60_001)
    assert torch.allclose(total, torch.ones(2, dtype=F64), atol=1e-3)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_slope_of_cdf_is_the_density(kind):
    dist = CONTINUOUS[kind](F64)
    y = dist.quantile(torch.tensor([0.013, 0.21, 0.47, 0.66, 0.951], dtype=F64)).T
    step = 1e-6
    slope = (dist.cdf(y + step) - dist.cdf(y - step)) / (2 * step)
    assert torch.allclose(slope, dist.log_prob(y).exp(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_gradient_of_cdf_is_the_density(kind):
    dist = CONTINUOUS[kind](F64)
    y = dist.quantile(torch.tensor([0.013, 0.21, 0.47, 0.66, 0.951], dtype=F64)).T.detach().requires_grad_()
    (slope,) = torch.autograd.grad(dist.cdf(y).sum(), y)
    assert torch.allclose(slope, dist.log_prob(y).exp(), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "atol"), [(F32, 1e-5), (F64, 1e-9)])
@pytest.mark.parametrize("kind", CONTINUOUS)
def test_quantile_and_cdf_invert_each_other(kind, dtype, atol):
    dist = CONTINUOUS[kind](dtype)
    values = dist.quantile(QS)
    assert values.shape == (2, len(QS)) and values.dtype == dtype
    assert bool((values.diff(dim=-1) > 0).all())
    assert torch.allclose(dist.cdf(values.T).T, QS.to(dtype).expand(2, -1), atol=atol)
    inner = values[:, 1:-2].T  # (levels, 2)
    back = torch.stack([dist.quantile(float(p)) for p in dist.cdf(inner)[:, 0]])[:, 0]
    assert torch.allclose(back, inner[:, 0], atol=100 * atol, rtol=1e-5)


@pytest.mark.parametrize("kind", NUMERIC)
def test_mean_and_variance_are_those_of_the_draws(kind):
    dist = NUMERIC[kind](F64)
    draws = dist.sample(40_000, generator=torch_stream(1, kind))
    error = dist.variance().sqrt() / 200
    assert bool(((draws.mean(0) - dist.mean()).abs() < 4.5 * error).all())
    assert torch.allclose(draws.var(0), dist.variance(), rtol=0.08)


@pytest.mark.parametrize("kind", NUMERIC)
def test_draws_follow_the_cdf(kind):
    dist = NUMERIC[kind](F64)
    draws = dist.sample(20_000, generator=torch_stream(2, kind))
    y = dist.quantile(torch.tensor([0.02, 0.3, 0.6, 0.97], dtype=F64)).T  # (4, 2)
    seen = (draws[:, None] <= y).double().mean(0)
    assert torch.allclose(seen, dist.cdf(y), atol=4.5 * 0.5 / math.sqrt(20_000))


@pytest.mark.parametrize("kind", [*NUMERIC, "categorical"])
def test_draws_depend_on_the_generator_only(kind):
    dist = Categorical(normals(2, 4)) if kind == "categorical" else NUMERIC[kind](F32)
    before = torch.random.get_rng_state()
    first = dist.sample(50, generator=torch_stream(3, "a"))
    torch.rand(7, generator=torch_stream(9))
    assert first.shape == (50, 2)
    assert torch.equal(first, dist.sample(50, generator=torch_stream(3, "a")))
    assert not torch.equal(first, dist.sample(50, generator=torch_stream(3, "b")))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("kind", [*CONTINUOUS, "empirical"])
def test_expected_improvement_is_the_integral(kind, maximize):
    dist = NUMERIC[kind](F64)
    for best in (-1.7, -0.2, 0.1, 0.6, 3.1):
        sign = 1.0 if maximize else -1.0
        if kind == "empirical":
            expected = (dist.weights * (sign * (dist.samples - best)).clamp(min=0)).sum(0)
        else:
            low, high = RANGE.get(kind, (-150.0, 150.0))
            expected = integrate(dist, lambda y, s=sign, b=best: (s * (y - b)).clamp(min=0), low, high)
        got = dist.ei(best, maximize=maximize)
        assert got.shape == (2,)
        assert torch.allclose(got, expected, atol=2e-4, rtol=2e-4), (best, got, expected)


@pytest.mark.parametrize("kind", NUMERIC)
def test_improvement_on_sample_axes_and_probability_of_it(kind):
    dist = NUMERIC[kind](F64)
    best = normals(3, 2, seed=5)
    together = dist.ei(best, maximize=False)
    assert together.shape == (3, 2)
    assert torch.allclose(together[1], dist.ei(best[1], maximize=False), rtol=1e-12)
    assert torch.allclose(dist.pi(best), 1 - dist.cdf(best), atol=1e-9)
    assert torch.allclose(dist.pi(best, maximize=False), dist.cdf(best), atol=1e-9)


@pytest.mark.parametrize("kind", [*NUMERIC, "categorical"])
def test_gradients_of_log_prob_are_finite(kind):
    dist = Categorical(normals(2, 4)) if kind == "categorical" else NUMERIC[kind](F32)
    tensors = [t.clone().requires_grad_() for t in dist._tensors()]
    again = dist._with(tensors)
    y = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    if kind == "bar_bounded":
        y = torch.tensor([[0.0, 1.0], [-2.9, 2.4]])
    if kind not in ("categorical", "bar_bounded"):
        y = torch.cat([y, torch.full((1, 2), 1e6)])
    if kind == "log":
        y = y.clamp(min=1e-6)
    again.log_prob(y).sum().backward()
    for tensor in tensors:
        assert tensor.grad is None or bool(tensor.grad.isfinite().all())
    assert any(tensor.grad is not None and bool((tensor.grad != 0).any()) for tensor in tensors)


@pytest.mark.parametrize("kind", NUMERIC)
def test_no_nan_far_outside(kind):
    dist = NUMERIC[kind](F32)
    y = torch.tensor([-math.inf, -3e38, -1e20, -1e5, 1e5, 1e20, 3e38, math.inf])[:, None]
    density, share = dist.log_prob(y), dist.cdf(y)
    assert density.shape == share.shape == (8, 2)
    assert not bool(density.isnan().any()) and bool((density < 0).all())
    assert torch.equal(share[[0, -1]], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert bool((share.diff(dim=0) >= 0).all())


@pytest.mark.parametrize("kind", NUMERIC)
def test_float32_agrees_with_float64(kind):
    single, double = NUMERIC[kind](F32), NUMERIC[kind](F64).to(dtype=F32).to(dtype=F64)
    if kind != "empirical":  # its draws differ between precisions, and so do the cases
        if kind.startswith("bar"):
            single = double.to(dtype=F32)
        y = double.quantile(torch.tensor([0.03, 0.4, 0.9], dtype=F64)).T
        for name in ("log_prob", "cdf", "ei"):
            narrow, wide = getattr(single, name)(y.float()), getattr(double, name)(y)
            assert narrow.dtype == F32 and wide.dtype == F64
            assert torch.allclose(narrow.double(), wide, atol=3e-5, rtol=1e-4), name
    assert single.to(dtype=F64).mean().dtype == F64
    assert single.variance().dtype == F32 and single.sample(2, generator=torch_stream(0)).dtype == F32


@pytest.mark.parametrize("kind", [*NUMERIC, "categorical"])
def test_index_and_cat_are_inverse(kind):
    dist = Categorical(normals(2, 4)) if kind == "categorical" else NUMERIC[kind](F64)
    y = torch.ones(2, dtype=F64)
    parts = [dist[:1], dist[torch.tensor([False, True])]]
    assert parts[0].batch_shape == (1,) and dist[1].batch_shape == () and dist[None].batch_shape == (1, 2)
    assert dist[..., 0].batch_shape == () and dist[...].batch_shape == (2,) and dist[[1, 0, 1]].batch_shape == (3,)
    assert torch.equal(dist[1].log_prob(1.0), dist.log_prob(y)[1])
    joined = Predictive.cat(parts)
    assert type(joined) is type(dist) and torch.equal(joined.log_prob(y), dist.log_prob(y))
    assert Predictive.cat([dist[None], dist[None]], axis=-1).batch_shape == (1, 4)
    assert "batch_shape=(2,)" in repr(dist)


def test_two_batch_axes():
    dist = Gaussian(normals(3, 1), normals(4).exp())
    assert dist.batch_shape == (3, 4) and dist[:, 1:3].batch_shape == (3, 2) and dist[..., -1].batch_shape == (3,)
    assert dist[np.array([True, False, True])].batch_shape == (2, 4)
    assert dist[dist.mean() > 0].batch_shape == (int((dist.mean() > 0).sum()),)
    assert dist.quantile(0.3).shape == (3, 4) and dist.quantile(QS).shape == (3, 4, len(QS))
    assert dist.sample(6, generator=torch_stream(0)).shape == (6, 3, 4)
    assert dist.log_prob(normals(5, 2, 3, 4)).shape == (5, 2, 3, 4)
    bar = Bar(normals(3, 2, 4), torch.arange(5.0))
    y = normals(5, 3, 2)
    plain = torch.stack([bar[i, j].log_prob(y[:, i, j]) for i in range(3) for j in range(2)], -1).reshape(5, 3, 2)
    assert torch.allclose(bar.log_prob(y), plain) and bar.cdf(y).shape == (5, 3, 2)


@pytest.mark.parametrize("kind", NUMERIC)
def test_an_empty_batch_and_a_single_distribution(kind):
    dist = NUMERIC[kind](F64)
    none = dist[:0]
    assert none.log_prob(torch.zeros(0)).shape == none.cdf(torch.zeros(0)).shape == (0,)
    assert none.quantile(QS).shape == (0, len(QS)) and none.mean().shape == none.variance().shape == (0,)
    one = dist[0]
    assert one.quantile(0.5).shape == one.mean().shape == one.ei(0.0).shape == ()
    assert one.log_prob(torch.ones(3)).shape == (3,) and one.sample(4, generator=torch_stream(0)).shape == (4,)


@pytest.mark.parametrize("kind", NUMERIC)
def test_intervals_are_central(kind):
    dist = NUMERIC[kind](F64)
    low, high = dist.interval(0.8)
    assert torch.allclose(low, dist.quantile(0.1), atol=1e-12) and torch.allclose(high, dist.quantile(0.9), atol=1e-12)


@pytest.mark.parametrize("kind", NUMERIC)
def test_quantiles_at_the_ends(kind):
    ends = NUMERIC[kind](F64).quantile(torch.tensor([0.0, 1.0]))
    assert not bool(ends.isnan().any())
    if kind in SMOOTH or kind in ("bar", "bar_affine"):
        assert bool(ends[:, 1].isposinf().all())
        assert bool((ends[:, 0] == (0.0 if kind == "log" else -math.inf)).all())


@pytest.mark.parametrize("kind", NUMERIC)
@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda d: d.log_prob(torch.zeros(3)), InputError, "shape"),
        (lambda d: d.log_prob(math.nan), InputError, "NaN"),
        (lambda d: d.cdf("text"), InputError, "numbers"),
        (lambda d: d[:1].log_prob(torch.zeros(5)), InputError, "shape"),
        (lambda d: d.quantile(1.5), ConfigError, "0, 1"),
        (lambda d: d.quantile(math.nan), ConfigError, "0, 1"),
        (lambda d: d.quantile(torch.zeros(2, 2)), ConfigError, "1-D"),
        (lambda d: d.interval(1.0), ConfigError, "less than 1"),
        (lambda d: d.interval(0), ConfigError, "greater than 0"),
        (lambda d: d.ei(math.inf), InputError, "finite"),
        (lambda d: d.ei(0.0, maximize=1), ConfigError, "True or False"),
        (lambda d: d.sample(0, generator=torch_stream(0)), ConfigError, ">= 1"),
        (lambda d: d.sample(3, generator=7), ConfigError, "Generator"),
        (lambda d: d.to(dtype=torch.float16), ConfigError, "float32"),
        (lambda d: d[0, 0], InputError, "1"),
        (lambda d: Predictive.cat([]), InputError, "at least one"),
        (lambda d: Predictive.cat([d, Categorical(torch.zeros(2, 3))]), InputError, "cannot join"),
        (lambda d: Predictive.cat([d[0], d[1]]), ConfigError, "axis"),
    ],
)
def test_bad_arguments_meet_a_named_error(kind, call, error, words):
    with pytest.raises(error, match=words):
        call(NUMERIC[kind](F64))


def test_cat_refuses_what_does_not_fit():
    one, other = (Bar(torch.zeros(2, 2), torch.tensor([0.0, 1.0, high])) for high in (2.0, 3.0))
    with pytest.raises(InputError, match="same borders"):
        Predictive.cat([one, other])
    with pytest.raises(InputError, match="do not fit"):
        Predictive.cat([GaussianMixture(*torch.ones(3, 2, 3)), GaussianMixture(*torch.ones(3, 2, 4))])
    affine = [Transformed(base, Affine(0.0, 1.0)) for base in (one, other)]
    with pytest.raises(InputError, match="cannot join"):
        Predictive.cat(affine)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.mean(),
        lambda d: d.variance(),
        lambda d: d.cdf(1),
        lambda d: d.quantile(0.5),
        lambda d: d.interval(0.5),
        lambda d: d.ei(0.0),
        lambda d: d.pi(0.0),
    ],
)
def test_classes_have_no_order(call):
    with pytest.raises(CapabilityError, match="no order"):
        call(Categorical(torch.zeros(2, 3)))
