"""Gaussian, Student-t, mixture, draws, classes against scipy and slow plain versions."""

import math

import numpy as np
import pytest
import torch
from predictive_cases import normals
from scipy import stats

from foreknow.common.errors import InputError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import Categorical, Empirical, Gaussian, GaussianMixture, StudentT

F64 = torch.float64
Y = np.array([-30.0, -4.0, -0.3, 0.0, 0.9, 2.2, 80.0])
P = np.array([1e-12, 0.01, 0.3, 0.5, 0.77, 0.999, 1 - 1e-9])


@pytest.mark.parametrize(
    ("dist", "oracle"),
    [
        (Gaussian(torch.tensor(0.4, dtype=F64), 1.7), stats.norm(0.4, 1.7)),
        (StudentT(torch.tensor(2.5, dtype=F64), -1.0, 0.3), stats.t(2.5, -1.0, 0.3)),
        (StudentT(torch.tensor(40.0, dtype=F64), 0.0, 2.0), stats.t(40.0, 0.0, 2.0)),
        (GaussianMixture(torch.zeros(1, dtype=F64), torch.tensor([0.4]), torch.tensor([1.7])), stats.norm(0.4, 1.7)),
    ],
)
def test_against_scipy(dist, oracle):
    # parameters that are decimals in float32 differ from scipy's in the eighth digit
    np.testing.assert_allclose(dist.log_prob(torch.tensor(Y)), oracle.logpdf(Y), rtol=1e-6)
    np.testing.assert_allclose(dist.cdf(torch.tensor(Y)), oracle.cdf(Y), rtol=1e-5, atol=1e-14)
    np.testing.assert_allclose(dist.pi(torch.tensor(Y)), oracle.sf(Y), rtol=2e-4, atol=1e-300)
    np.testing.assert_allclose(dist.quantile(torch.tensor(P)), oracle.ppf(P), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dist.mean(), oracle.mean(), atol=1e-6)
    np.testing.assert_allclose(dist.variance(), oracle.var(), rtol=1e-6)


def test_student_t_becomes_normal_and_stays_sharp_for_many_degrees():
    y = torch.linspace(-4, 4, 9)
    for df in (1e5, 1e8):
        wide = StudentT(df, torch.tensor(0.0), 1.0)
        normal = Gaussian(torch.tensor(0.0), 1.0)
        assert torch.allclose(wide.log_prob(y), normal.log_prob(y), atol=2e-3)
        assert torch.allclose(wide.ei(y[:, None].squeeze(1)), normal.ei(y), atol=1e-4)


def test_student_t_without_moments():
    dist = StudentT(torch.tensor([0.8, 1.5, 3.0]), 0.0, 1.0)
    assert dist.mean().isnan().tolist() == [True, False, False]
    variance = dist.variance()
    assert bool(variance[0].isnan()) and variance[1] == math.inf and variance[2] == 3.0
    assert dist.ei(0.0)[0] == math.inf and bool(dist.ei(0.0)[1:].isfinite().all())


def test_student_t_gradients_reach_loc_and_scale():
    loc, scale = torch.tensor(0.2, dtype=F64, requires_grad=True), torch.tensor(1.3, dtype=F64, requires_grad=True)
    y = torch.tensor([-1.0, 0.5, 2.0], dtype=F64)
    for name in ("cdf", "log_prob", "ei"):
        call = lambda a, b, name=name: getattr(StudentT(4.0, a, b), name)(y)  # noqa: E731
        assert torch.autograd.gradcheck(call, (loc, scale), atol=1e-6)
    assert torch.autograd.gradcheck(lambda a, b: StudentT(4.0, a, b).quantile(0.9), (loc, scale))


def test_mixture_quantile_between_far_modes_and_in_the_tails():
    dist = GaussianMixture(torch.zeros(2, dtype=F64), torch.tensor([-1e3, 1e3]), torch.tensor([1e-2, 1.0]))
    q = torch.tensor([1e-15, 0.25, 0.4999, 0.5001, 0.75, 1 - 1e-12], dtype=F64)
    values = dist.quantile(q)
    assert bool((values.diff() > 0).all())
    assert torch.allclose(values[1], torch.tensor(-1e3, dtype=F64)) and torch.allclose(values[4], -values[1])
    assert torch.allclose(dist.pi(values[-1]), 1 - q[-1], rtol=1e-6)
    off = GaussianMixture(torch.tensor([0.0, -math.inf]), torch.tensor([1.0, 50.0]), torch.tensor([1.0, 1.0]))
    assert torch.allclose(off.quantile(0.5), torch.tensor(1.0)) and off.mean() == 1.0


def test_improvement_far_below_the_best_is_small_not_negative():
    dist = Gaussian(torch.tensor(0.0), 1.0)
    far = dist.ei(torch.tensor([4.0, 6.0, 12.0, 40.0]))
    exact = [stats.norm.pdf(z) - z * stats.norm.sf(z) for z in (4.0, 6.0)]
    np.testing.assert_allclose(far[:2], exact, rtol=1e-3)
    assert bool((far >= 0).all())


def test_draws_are_step_functions():
    samples = torch.tensor([[3.0, 0.0], [1.0, 5.0], [2.0, 5.0], [10.0, -1.0]], dtype=F64)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    dist = Empirical(samples, weights)
    assert torch.equal(dist.samples, samples) and torch.allclose(dist.weights[:, 0], weights / 10)
    assert torch.allclose(dist.mean(), torch.tensor([5.1, 2.1], dtype=F64))
    assert torch.allclose(dist.cdf(torch.tensor([2.0, 5.0])), torch.tensor([0.5, 1.0], dtype=F64))
    assert torch.allclose(dist.cdf(torch.tensor([1.999, 4.9])), torch.tensor([0.2, 0.5], dtype=F64))
    q = torch.tensor([0.0, 0.2, 0.2001, 0.5, 0.55, 1.0], dtype=F64)
    assert dist.quantile(q)[0].tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 10.0]
    assert torch.allclose(dist.pi(torch.tensor([2.0, 5.0])), torch.tensor([0.5, 0.0], dtype=F64))
    assert torch.allclose(dist.pi(torch.tensor([2.0, 5.0]), maximize=False), torch.tensor([0.2, 0.5], dtype=F64))


def test_equal_weights_reach_every_decile_exactly():
    dist = Empirical(torch.arange(1.0, 11.0))
    assert dist.quantile(torch.arange(1, 11, dtype=F64) / 10).tolist() == list(range(1, 11))
    np.testing.assert_allclose(
        dist.quantile(torch.linspace(0, 1, 7, dtype=F64)),
        np.quantile(np.arange(1, 11), np.linspace(0, 1, 7), method="inverted_cdf"),
    )


def test_kernel_density_of_draws():
    draws = normals(200)
    dist = Empirical(draws)
    x = draws.numpy()
    q1, q3 = np.quantile(x, [0.25, 0.75], method="inverted_cdf")
    h = 0.9 * min(x.std(), (q3 - q1) / 1.34) * 200**-0.2
    y = np.linspace(-4, 4, 11)
    expected = stats.norm.pdf((y[:, None] - x) / h).mean(1) / h
    np.testing.assert_allclose(dist.log_prob(torch.tensor(y)).exp(), expected, rtol=1e-9)
    same = Empirical(torch.full((5,), 3.0, requires_grad=True))
    density = same.log_prob(3.0)
    density.backward()
    assert bool(density.isfinite()) and same.mean() == 3 and same.variance() == 0


def test_weighted_draws_equal_repeated_draws():
    values, counts = torch.tensor([1.0, 4.0, 6.0]), torch.tensor([2.0, 1.0, 3.0])
    weighted, repeated = Empirical(values, counts), Empirical(values.repeat_interleave(counts.long()))
    for name in ("mean", "variance"):
        assert torch.allclose(getattr(weighted, name)(), getattr(repeated, name)())
    assert torch.allclose(weighted.ei(2.0), repeated.ei(2.0))
    assert torch.equal(
        weighted.quantile(torch.linspace(0, 1, 13).double()), repeated.quantile(torch.linspace(0, 1, 13).double())
    )


def test_classes():
    logits = torch.tensor([[0.0, 1.0, -math.inf], [2.0, 0.0, 1.0]], dtype=F64)
    dist = Categorical(logits)
    p = torch.tensor(stats.entropy([1, math.e, 0])), stats.entropy(np.exp([2, 0, 1]))
    assert torch.allclose(dist.entropy(), torch.tensor(p, dtype=F64))
    assert dist.mode().tolist() == [1, 0] and dist.n_classes == 3
    assert torch.allclose(dist.probs.sum(-1), torch.ones(2, dtype=F64))
    codes = torch.tensor([[1, 0], [0, 2]])
    assert torch.allclose(dist.log_prob(codes), logits.log_softmax(-1).gather(1, codes.T).T)
    assert torch.equal(dist.log_prob(codes), dist.log_prob(codes.double()))
    assert dist.log_prob(2)[0] == -math.inf
    draws = dist.sample(20_000, generator=torch_stream(0))
    assert draws.dtype == torch.int64 and draws.shape == (20_000, 2)
    seen = torch.stack([(draws == code).double().mean(0) for code in range(3)], -1)
    assert torch.allclose(seen, dist.probs, atol=0.02) and not bool((draws[:, 0] == 2).any())
    grid = Categorical(torch.zeros(2, 3, 4)).sample(5, generator=torch_stream(0))
    assert grid.shape == (5, 2, 3)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Gaussian(0.0, 0.0), "greater than 0"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([1.0, -1.0])), "sd must be greater than 0"),
        (lambda: Gaussian(math.nan, 1.0), "NaN"),
        (lambda: Gaussian(math.inf, 1.0), "finite"),
        (lambda: Gaussian(torch.zeros(2), torch.ones(3)), "broadcast"),
        (lambda: Gaussian("a", 1.0), "numbers"),
        (lambda: Gaussian(torch.zeros(2, dtype=torch.complex64), 1.0), "real numbers"),
        (lambda: StudentT(0.0, 0.0, 1.0), "df must be"),
        (lambda: StudentT(3.0, 0.0, -1.0), "scale must be"),
        (lambda: GaussianMixture(torch.zeros(2), torch.zeros(2), torch.zeros(2)), "sds must be"),
        (lambda: GaussianMixture(torch.zeros(2), torch.zeros(3), torch.ones(3)), "broadcast"),
        (lambda: GaussianMixture(0.0, 0.0, 1.0), "last axis"),
        (lambda: Categorical(torch.zeros(2, 0)), "last axis"),
        (lambda: Categorical(torch.tensor([math.inf, 0.0])), "finite largest"),
        (lambda: Categorical(torch.zeros(3)).log_prob(3), "codes 0..2"),
        (lambda: Categorical(torch.zeros(3)).log_prob(0.5), "codes 0..2"),
        (lambda: Empirical(torch.zeros(0)), "at least one draw"),
        (lambda: Empirical(torch.tensor([1.0, math.inf])), "finite"),
        (lambda: Empirical(torch.zeros(3, 2), torch.ones(2)), "weights must have shape"),
        (lambda: Empirical(torch.zeros(3, 2), torch.ones(3, 4)), "do not fit"),
        (lambda: Empirical(torch.zeros(3), torch.tensor([1.0, -1.0, 1.0])), ">= 0"),
        (lambda: Empirical(torch.zeros(3), torch.zeros(3)), "positive sum"),
    ],
)
def test_bad_parameters(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_read_only_arrays_integers_and_halves_are_welcome():
    frozen = np.array([1.0, 2.0])
    frozen.flags.writeable = False
    assert Gaussian(frozen, 1).dtype == F64 and Gaussian(torch.tensor([1, 2]), 1).dtype == torch.float32
    assert Gaussian(torch.zeros(2).bfloat16(), 1.0).dtype == torch.float32
    assert Gaussian(frozen, 1.0).log_prob(frozen[::-1]).shape == (2,)
