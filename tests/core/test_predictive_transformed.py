"""Distributions seen through a map: exact through Affine, Jacobian and quadrature through Log."""

import math

import numpy as np
import pytest
import torch
from predictive_cases import NUMERIC, normals
from scipy import stats

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import (
    Affine,
    Categorical,
    Empirical,
    Gaussian,
    GaussianMixture,
    Log,
    Logistic,
    StudentT,
    Transformed,
)

F64 = torch.float64
SHIFT, SCALE = torch.tensor([10.0, -3.0], dtype=F64), torch.tensor([2.5, 0.1], dtype=F64)


def test_affine_of_a_normal_is_the_shifted_normal():
    base = Gaussian(torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([0.7, 1.5], dtype=F64))
    seen, by_hand = Transformed(base, Affine(SHIFT, SCALE)), Gaussian(SHIFT + SCALE * base.loc, SCALE * base.sd)
    y = by_hand.quantile(torch.tensor([1e-9, 0.1, 0.5, 0.999], dtype=F64)).T
    for name in ("log_prob", "cdf", "ei", "pi"):
        assert torch.allclose(getattr(seen, name)(y), getattr(by_hand, name)(y), rtol=1e-9, atol=1e-14), name
    for name in ("mean", "variance"):
        assert torch.allclose(getattr(seen, name)(), getattr(by_hand, name)(), rtol=1e-12)
    assert torch.allclose(seen.ei(y, maximize=False), by_hand.ei(y, maximize=False), rtol=1e-9, atol=1e-14)
    q = torch.tensor([0.0, 0.2, 0.9, 1.0])
    assert torch.allclose(seen.quantile(q), by_hand.quantile(q))
    assert torch.allclose(seen.sample(4, generator=torch_stream(0)), by_hand.sample(4, generator=torch_stream(0)))


@pytest.mark.parametrize("kind", NUMERIC)
def test_affine_there_and_back_changes_nothing(kind):
    base = NUMERIC[kind](F64)
    back = Transformed(Transformed(base, Affine(SHIFT, SCALE)), Affine(-SHIFT / SCALE, 1 / SCALE))
    y = base.quantile(torch.tensor([0.07, 0.52, 0.88], dtype=F64)).T + 1e-3
    assert torch.allclose(back.log_prob(y), base.log_prob(y), rtol=1e-8, atol=1e-8)
    assert torch.allclose(back.cdf(y), base.cdf(y), atol=1e-9)
    assert torch.allclose(back.ei(y), base.ei(y), atol=1e-9)
    assert torch.allclose(back.mean(), base.mean()) and torch.allclose(back.variance(), base.variance())


@pytest.mark.parametrize("sd", [0.1, 0.5, 1.0])
def test_log_of_a_normal_is_lognormal(sd):
    seen = Transformed(Gaussian(torch.tensor(0.3, dtype=F64), torch.tensor(sd, dtype=F64)), Log())
    oracle = stats.lognorm(sd, scale=math.exp(0.3))
    y = np.array([0.05, 0.7, 1.3, 2.0, 9.0])
    np.testing.assert_allclose(seen.mean(), oracle.mean(), rtol=1e-5)
    np.testing.assert_allclose(seen.variance(), oracle.var(), rtol=1e-4)
    np.testing.assert_allclose(seen.log_prob(torch.tensor(y)), oracle.logpdf(y), rtol=1e-6)
    np.testing.assert_allclose(seen.cdf(torch.tensor(y)), oracle.cdf(y), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(seen.quantile(torch.tensor([0.1, 0.9])), oracle.ppf([0.1, 0.9]), rtol=1e-6)
    for best in (0.5, 1.4, 4.0):
        gain = oracle.expect(lambda v, b=best: v - b, lb=best)
        np.testing.assert_allclose(seen.ei(best), gain, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(seen.ei(best, maximize=False), gain - oracle.mean() + best, rtol=1e-3, atol=1e-5)


def test_quadrature_keeps_its_promise_for_other_bases():
    weights, means, sds = torch.tensor([[0.0, 1.0]], dtype=F64), torch.tensor([[-1.0, 0.5]]), torch.tensor([[0.3, 0.2]])
    mixture = GaussianMixture(weights, means, sds)
    exact = (mixture.weights * (mixture.means + mixture.sds.square() / 2).exp()).sum(-1)
    assert torch.allclose(Transformed(mixture, Log()).mean(), exact, rtol=1e-5)
    draws = normals(500)
    assert torch.allclose(Transformed(Empirical(draws), Log()).mean(), draws.exp().mean(), rtol=1e-3)


def test_outside_the_range_there_is_nothing():
    seen = Transformed(Gaussian(torch.zeros(2), 1.0), Log())
    y = torch.tensor([-1.0, 0.0], requires_grad=True)
    assert bool(seen.log_prob(y).isneginf().all()) and not bool(seen.cdf(y).any())
    assert torch.equal(seen.pi(y), torch.ones(2)) and not bool(seen.pi(y, maximize=False).any())
    mixed = seen.log_prob(torch.stack([y, y + 2]))
    (slope,) = torch.autograd.grad(mixed[1].sum() + seen.cdf(y).sum(), y)
    assert bool(slope.isfinite().all())


def test_student_t_through_log_has_no_mean():
    base = StudentT(torch.tensor(5.0), 0.0, 0.1)
    for seen in (Transformed(base, Log()), Transformed(Transformed(base, Affine(1.0, 2.0)), Log())):
        assert seen.mean() == seen.variance() == seen.ei(1.0) == math.inf
        assert seen.ei(1.0, maximize=False) < 1
    assert Transformed(Transformed(base, Log()), Affine(0.0, 2.0)).mean() == math.inf


def test_affine_parameters_follow_index_cat_and_precision():
    seen = Transformed(Gaussian(torch.zeros(2), 1.0), Affine(SHIFT, SCALE))
    assert seen.dtype == torch.float32 and torch.allclose(seen[1].mean(), torch.tensor(-3.0))
    joined = Transformed.cat([seen, seen[:1]])
    assert torch.allclose(joined.mean(), torch.tensor([10.0, -3.0, 10.0]))
    assert Transformed(Gaussian(torch.zeros(3, 2), 1.0), Affine(SHIFT, 1.0))[2].batch_shape == (2,)
    assert seen.to(dtype=F64).log_prob(0.0).dtype == F64


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Affine(0.0, 0.0), InputError, "greater than 0"),
        (lambda: Affine(0.0, -2.0), InputError, "greater than 0"),
        (lambda: Affine(math.inf, 1.0), InputError, "shift"),
        (lambda: Transformed(Categorical(torch.zeros(3)), Log()), ConfigError, "over numbers"),
        (lambda: Transformed(Gaussian(0.0, 1.0), "log"), ConfigError, "Transform"),
        (lambda: Transformed(Gaussian(torch.zeros(2), 1.0), Affine(torch.zeros(3), 1.0)), InputError, "broadcast"),
    ],
)
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_logistic_carries_its_jacobian_and_knows_both_ends():
    dist = Transformed(Gaussian(torch.tensor([0.3, -1.0], dtype=torch.float64), 0.8), Logistic())
    y = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    density = dist.log_prob(y[:, None]).exp()
    assert torch.allclose(density.mean(0), torch.ones(2, dtype=torch.float64), atol=1e-6)
    assert torch.allclose((density * y[:, None]).mean(0), dist.mean(), atol=1e-5)
    for level in (0.05, 0.5, 0.95):
        assert torch.allclose(dist.cdf(dist.quantile(level)), torch.full((2,), level, dtype=torch.float64))
    assert dist.log_prob(torch.tensor([1.0, -0.5])).tolist() == [-torch.inf] * 2
    assert dist.cdf(2.0).tolist() == [1.0, 1.0]
    assert dist.cdf(-1.0).tolist() == [0.0, 0.0]
    assert dist.pi(1.5).tolist() == [0.0, 0.0]
    assert dist.pi(1.5, maximize=False).tolist() == [1.0, 1.0]
