"""The bar distribution: tails, exact improvement, the loss, the borders."""

import itertools
import math

import numpy as np
import pytest
import torch
from predictive_cases import BORDERS, normals
from scipy import stats

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import Bar, Gaussian, bar_nll, borders_from_samples

F64 = torch.float64


def bar(**options):
    return Bar(normals(2, 6), torch.tensor(BORDERS, dtype=F64), **options)


def oracle(logits, borders):
    """Weights and frozen scipy distributions of the parts: half-normals outside, uniforms inside."""
    half = stats.halfnorm.ppf(0.5)
    left, right = (borders[1] - borders[0]) / half, (borders[-1] - borders[-2]) / half
    inner = [stats.uniform(low, high - low) for low, high in itertools.pairwise(borders[1:-1])]
    weights = np.exp(logits - logits.max())
    return weights / weights.sum(), [
        (stats.halfnorm(0, left), -1, borders[1]),
        *[(part, 1, 0.0) for part in inner],
        (stats.halfnorm(0, right), 1, borders[-2]),
    ]


def test_matches_a_scipy_mixture_of_its_parts():
    dist = bar()
    y = np.array([-9.0, -3.2, -2.0, -1.0, -0.1, 0.1, 0.7, 1.5, 2.6, 7.0])
    for row in range(2):
        weights, parts = oracle(dist.logits[row].numpy(), np.array(BORDERS))
        density = sum(w * part.pdf(sign * (y - at)) for w, (part, sign, at) in zip(weights, parts))
        below = sum(
            w * (part.cdf(y - at) if sign > 0 else part.sf(at - y)) for w, (part, sign, at) in zip(weights, parts)
        )
        means = [at + sign * part.mean() for part, sign, at in parts]
        mean = np.dot(weights, means)
        variance = np.dot(weights, [part.var() + (m - mean) ** 2 for (part, _, _), m in zip(parts, means)])
        np.testing.assert_allclose(dist[row].log_prob(torch.tensor(y)).exp(), density, rtol=1e-9)
        np.testing.assert_allclose(dist[row].cdf(torch.tensor(y)), below, rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(dist[row].mean(), mean, rtol=1e-12)
        np.testing.assert_allclose(dist[row].variance(), variance, rtol=1e-12)


def test_half_of_a_tail_falls_inside_its_bucket():
    dist = Bar(torch.tensor([0.0, -math.inf, -math.inf], dtype=F64), torch.tensor([-2.0, 0.0, 1.0, 5.0], dtype=F64))
    assert torch.allclose(dist.cdf(-2.0), torch.tensor(0.5, dtype=F64))
    assert torch.allclose(dist.quantile(0.5), torch.tensor(-2.0, dtype=F64))
    assert dist.cdf(0.0) == 1 and dist.log_prob(0.5) == -math.inf and dist.quantile(1.0) == 0.0


@pytest.mark.parametrize("maximize", [True, False])
def test_published_improvement_is_the_limit_and_a_bound(maximize):
    # published: sum_k p_k max((b_{k+1} + max(b_k, f)) / 2 - f, 0), without tails
    def published(dist, f):
        b, p = (dist.borders, dist.probs) if maximize else (-dist.borders.flip(0), dist.probs.flip(-1))
        g = f if maximize else -f
        return (p * ((b[1:] + b[:-1].clamp(min=g)) / 2 - g).clamp(min=0)).sum(-1)

    gaps = []
    for n_buckets in (5, 50, 500):
        borders = torch.linspace(-4, 4, n_buckets + 1, dtype=F64)
        centres = 0.5 * (borders[:-1] + borders[1:])
        dist = Bar(-0.5 * centres.square(), borders, bounded=True)
        f = 0.123
        gap = published(dist, f) - dist.ei(f, maximize=maximize)
        largest = float(dist.probs.max()) * float(borders[1] - borders[0]) / 8
        assert 0 <= float(gap) <= largest + 1e-15
        gaps.append(float(gap))
        # at a border no bucket is cut, and the two agree exactly
        k = n_buckets // 2
        on_border = float(borders[k])
        assert torch.allclose(published(dist, on_border), dist.ei(on_border, maximize=maximize), atol=1e-14)
    assert gaps[2] < 1e-4 and gaps[2] < gaps[0] / 100


@pytest.mark.parametrize(("n_buckets", "atol"), [(200, 2e-2), (4000, 1e-3)])
def test_many_buckets_converge_to_the_normal(n_buckets, atol):
    target = Gaussian(torch.tensor(0.3, dtype=F64), 1.2)
    q = torch.arange(1, n_buckets, dtype=F64) / n_buckets
    inner = target.quantile(q)
    borders = torch.cat([2 * inner[:1] - inner[1:2], inner, 2 * inner[-1:] - inner[-2:-1]])
    dist = Bar(torch.zeros(n_buckets, dtype=F64), borders)
    y = target.quantile(torch.linspace(0.02, 0.98, 25, dtype=F64))
    assert torch.allclose(dist.log_prob(y), target.log_prob(y), atol=atol * 8)
    assert torch.allclose(dist.cdf(y), target.cdf(y), atol=atol / 10)
    assert torch.allclose(dist.mean(), target.mean(), atol=atol)
    assert torch.allclose(dist.variance(), target.variance(), atol=atol * 2)
    assert torch.allclose(dist.ei(1.0), target.ei(1.0), atol=atol)


def test_bounded_has_no_mass_outside():
    dist = bar(bounded=True)
    assert bool(dist.log_prob(torch.tensor([[-3.01], [2.51], [-1e30], [1e30]], dtype=F64)).isneginf().all())
    assert torch.equal(dist.quantile(torch.tensor([0.0, 1.0])), torch.tensor([[-3.0, 2.5]] * 2, dtype=F64))
    assert torch.allclose(dist.log_prob(-3.0), dist.logits.log_softmax(-1)[:, 0] - math.log(1.5))
    single = Bar(torch.zeros(1), torch.tensor([2.0, 4.0]), bounded=True)
    assert single.mean() == 3 and single.quantile(0.25) == 2.5 and single.log_prob(3.0) == -math.log(2)


def test_loss_has_the_numbers_of_log_prob_and_a_gradient():
    borders = torch.tensor(BORDERS)
    logits = normals(3, 5, 6, dtype=torch.float32).requires_grad_()
    y = 4 * normals(3, 5, dtype=torch.float32, seed=2)
    y[0, :2] = torch.tensor([1e7, BORDERS[2]])  # far out, and exactly on a border
    loss = bar_nll(logits, borders, y)
    assert loss.shape == (3, 5)
    assert torch.allclose(loss, -Bar(logits, borders).log_prob(y), rtol=1e-6, atol=1e-6)
    loss.mean().backward()
    bucket = (torch.bucketize(y, borders) - 1).clamp(0, 5)
    expected = (logits.detach().softmax(-1) - torch.nn.functional.one_hot(bucket, 6)) / 15
    assert torch.allclose(logits.grad, expected, atol=1e-6)
    y.requires_grad_()
    (slope,) = torch.autograd.grad(bar_nll(logits.detach(), borders, y).sum(), y)
    assert bool(slope.isfinite().all())


def test_label_smoothing_mixes_in_the_mean_over_buckets():
    borders, logits, y = torch.tensor(BORDERS, dtype=F64), normals(4, 6), normals(4, seed=1)
    scaled = logits.log_softmax(-1) - borders.diff().log()
    expected = 0.9 * bar_nll(logits, borders, y) - 0.1 * scaled.mean(-1)
    assert torch.allclose(bar_nll(logits, borders, y, label_smoothing=0.1), expected)


def test_tiny_and_huge_widths_stay_finite_in_float32():
    steps = torch.tensor([1e-38, 1e-30, 1e-12, 1e-3, 1.0, 1e12, 1e30])
    borders = torch.cat([torch.zeros(1), steps])
    dist = Bar(normals(7, dtype=torch.float32), borders)
    y = torch.tensor([-1e-20, 0.0, 5e-31, 1e-5, 0.5, 1e11, 1e29, 1e31])
    assert bool(dist.log_prob(y[1:]).isfinite().all()) and not bool(dist.log_prob(y).isnan().any())
    close = Bar(torch.zeros(3), torch.tensor([1.0, 1.0 + 2**-23, 1.0 + 2**-22, 2.0]))
    loss = bar_nll(torch.zeros(4, 3), close.borders, torch.tensor([1.0, 1.0 + 2**-23, 1.5, -100.0]))
    assert bool(loss.isfinite().all())


def test_half_precision_logits_are_widened():
    logits = normals(5, 6, dtype=torch.float32).half()
    loss = bar_nll(logits, torch.tensor(BORDERS), torch.zeros(5))
    assert loss.dtype == torch.float32 and Bar(logits, torch.tensor(BORDERS)).dtype == torch.float32


def test_cdf_and_quantile_agree_with_very_many_buckets_in_float32():
    borders = torch.linspace(-5, 5, 10_001)
    dist = Bar(normals(3, 10_000, dtype=torch.float32), borders)
    q = torch.linspace(1e-4, 1 - 1e-4, 301, dtype=F64)
    assert float((dist.cdf(dist.quantile(q).T).T - q).abs().max()) < 1e-5


def test_borders_are_the_quantiles_of_the_draws():
    draws = torch.randn(40, 500, generator=torch_stream(0))
    borders = borders_from_samples(draws, 100)
    assert borders.shape == (101,) and borders.dtype == torch.float32
    counts = torch.histc(torch.bucketize(draws.reshape(-1), borders[1:-1]).float(), 100, 0, 99)
    assert bool((counts == 200).all())
    ordered = draws.reshape(-1).sort().values
    assert borders[0] == ordered[0] and borders[-1] == ordered[-1]
    assert torch.isclose(borders[37], (ordered[37 * 200 - 1] + ordered[37 * 200]) / 2)
    assert borders_from_samples(draws.double(), 10).dtype == F64
    Bar(torch.zeros(100), borders)


def test_borders_warn_of_few_draws_and_of_ties():
    with pytest.warns(ForeknowWarning, match="at least 1000"):
        assert len(borders_from_samples(torch.arange(50.0), 10)) == 11
    ties = torch.cat([torch.zeros(900), torch.linspace(0, 1, 1100)])
    with pytest.warns(ForeknowWarning, match="ties"):
        borders = borders_from_samples(ties, 20)
    assert 3 <= len(borders) < 21 and bool((borders.diff() > 0).all())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Bar(torch.zeros(3), torch.arange(3.0)), InputError, "borders of shape"),
        (lambda: Bar(torch.zeros(2), torch.tensor([0.0, 1.0, 1.0])), InputError, "increase strictly"),
        (lambda: Bar(torch.zeros(2), torch.tensor([0.0, 1.0, math.inf])), InputError, "finite"),
        (lambda: Bar(torch.zeros(2), torch.tensor([-3e38, 3e38, 3.1e38])), InputError, "widths"),
        (lambda: Bar(torch.zeros(1), torch.arange(2.0)), InputError, "bounded=True"),
        (lambda: Bar(torch.tensor([0.0, math.nan]), torch.arange(3.0)), InputError, "NaN"),
        (lambda: Bar(torch.full((2,), -math.inf), torch.arange(3.0)), InputError, "finite largest"),
        (lambda: Bar(torch.zeros(2), torch.arange(3.0), bounded="no"), ConfigError, "bounded"),
        (lambda: Bar(torch.zeros(2, dtype=F64), torch.tensor([0, 1, 1 + 1e-12], dtype=F64)).to(dtype=torch.float32),
         InputError, "float32"),
        (lambda: bar_nll(torch.zeros(3, 4), torch.arange(5.0), torch.zeros(4)), InputError, "bar_nll"),
        (lambda: bar_nll(torch.zeros(3, 4), torch.arange(4.0), torch.zeros(3)), InputError, "bar_nll"),
        (lambda: bar_nll(torch.zeros(3, 4), torch.arange(5.0), torch.zeros(3), 1.0), ConfigError, "less than 1"),
        (lambda: borders_from_samples(torch.zeros(1000), 5), InputError, "equal"),
        (lambda: borders_from_samples(torch.zeros(3), 5), InputError, "at least as many"),
        (lambda: borders_from_samples(torch.tensor([math.inf] * 900), 5), InputError, "finite"),
        (lambda: borders_from_samples(torch.zeros(10), 1), ConfigError, "n_buckets"),
    ],
)  # fmt: skip
def test_bad_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
