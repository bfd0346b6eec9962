"""The rungs of the ladder against known answers, and what each refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from foreknow.audit import (
    KernelLaw,
    counting_bits,
    median_matched_bits,
    parametric_bits,
    price_bits,
    saddlepoint_bits,
    sankaran_bits,
    splitting_bits,
)
from foreknow.audit.inductive_bias.bits import Bits
from foreknow.audit.inductive_bias.parametric import _log_gammainc, _log_ive, _ncx2_cost, fit_ncx2
from foreknow.audit.inductive_bias.proof import known_law
from foreknow.common.errors import CapabilityError, ConfigError, ConvergenceError, InputError
from foreknow.common.rng import torch_stream
from foreknow.common.timing import Stopwatch


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gamma_losses(rng, n=400, shape=20.0):
    return rng.gamma(shape, 1 / shape, n)


# Counting ------------------------------------------------------------------------------------------------------------


def test_an_eighth_is_three_bits_and_its_interval_is_that_of_clopper_and_pearson():
    bits = counting_bits(np.arange(800.0), 99.0)
    assert bits.value == pytest.approx(3.0)
    exact = stats.binomtest(100, 800).proportion_ci(0.95, "exact")
    assert (bits.low, bits.high) == pytest.approx((-math.log2(exact.high), -math.log2(exact.low)))
    assert (bits.rung, bits.sign, bits.extrapolated) == ("counting", "=", False)


def test_nothing_counted_is_a_bound_and_never_infinite():
    bits = counting_bits(np.arange(1.0, 301.0), 0.5)
    assert (bits.sign, bits.value) == (">=", pytest.approx(math.log2(100)))
    assert math.isnan(bits.high)
    assert counting_bits([1.0, 2.0], 0.5).value == 0


def test_everything_counted_is_zero_bits_and_uninformative():
    bits = counting_bits([1.0, 2.0, 3.0], 5.0)
    assert (bits.value, bits.low) == (0, 0)
    assert "uninformative" in bits.note
    assert bits.high > 0


# The noncentral chi-square -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("df", "nc"), [(5, 20), (1.5, 3), (100, 300)])
def test_the_fit_is_at_least_as_likely_as_the_truth_and_quick(rng, df, nc):
    losses = 0.3 * stats.ncx2.rvs(df, nc, size=10_000, random_state=rng)
    with Stopwatch() as watch:
        found = fit_ncx2(losses)
    assert min(watch.seconds, _again(losses)) < 1.0
    assert _ncx2_cost(losses, np.ones(10_000), *found) <= _ncx2_cost(losses, np.ones(10_000), df, nc, 0.3) + 0.5
    assert found[2] * (found[0] + found[1]) == pytest.approx(losses.mean(), rel=1e-3)


def _again(losses):
    with Stopwatch() as watch:
        fit_ncx2(losses)
    return watch.seconds


@pytest.mark.parametrize(("df", "nc"), [(3.0, 2.0), (29.0, 4.0), (40.0, 60.0), (900.0, 50.0), (60.0, 0.0)])
def test_its_likelihood_is_that_of_scipy(df, nc):
    x = np.linspace(0.5, 2.0, 7) * (df + nc)
    expected = -(stats.ncx2.logpdf(x / 0.7, df, nc) if nc else stats.chi2.logpdf(x / 0.7, df)).sum() + 7 * math.log(0.7)
    assert _ncx2_cost(x, np.ones(7), df, nc, 0.7) == pytest.approx(expected, rel=1e-6)


def test_debyes_expansion_meets_the_function_where_it_takes_over():
    z = np.array([0.1, 5.0, 50.0, 500.0])
    from scipy.special import ive

    assert _log_ive(15.0, z)[1:] == pytest.approx(np.log(ive(15.0, z))[1:], abs=1e-6)


def test_sankaran_is_close_in_the_body_and_finite_where_the_exact_function_underflows():
    assert sankaran_bits(100, 100, 300) == pytest.approx(-stats.ncx2.logcdf(100, 100, 300) / math.log(2), rel=0.02)
    assert sankaran_bits(30.0, 40, 20) == pytest.approx(-stats.ncx2.logcdf(30, 40, 20) / math.log(2), rel=0.02)
    deep = sankaran_bits(400.0, 2000, 0.0)
    assert stats.ncx2.cdf(200.0, 2000, 1e-9) < 1e-290
    assert 800 < deep < math.inf


def test_deep_gamma_tails_are_exact():
    import scipy.special

    assert _log_gammainc(20.0, 3.0) == pytest.approx(math.log(scipy.special.gammainc(20.0, 3.0)))
    leading = 1000 * math.log(1.0) - 1.0 - scipy.special.gammaln(1001) + math.log1p(1 / 1001)
    assert _log_gammainc(1000.0, 1.0) == pytest.approx(leading, abs=1e-5)


def test_laws_agree_inside_the_sample_and_part_below_it(rng):
    losses = gamma_losses(rng, 2000)
    inside = parametric_bits(losses, float(np.quantile(losses, 0.03)), rng=rng)
    assert inside.value == pytest.approx(-math.log2(0.03), abs=0.4)
    assert not inside.extrapolated
    assert all(inside.low <= value <= inside.high for value in inside.spread.values())
    below = parametric_bits(losses, 0.25 * losses.min(), rng=rng)
    assert below.extrapolated
    assert "extrapolated" in below.note
    assert below.spread["lognormal"] > 1.3 * below.value
    assert below.high >= below.spread["lognormal"]
    exact = -stats.gamma.logcdf(0.5, 20, scale=1 / 20) / math.log(2)
    fitted = parametric_bits(losses, 0.5, rng=rng)
    assert fitted.low < exact < fitted.high


def test_bits_do_not_depend_on_the_unit(rng):
    losses = gamma_losses(rng, 100)
    one, other = (parametric_bits(losses * unit, 0.4 * unit, n_boot=5, rng=rng) for unit in (1.0, 1e-20))
    assert other.value == pytest.approx(one.value, rel=1e-3)
    assert other.spread == pytest.approx(one.spread, rel=1e-3)


def test_a_law_that_rules_eps_out_says_so(rng):
    losses = 1.0 + rng.uniform(size=500)  # a hard floor at 1
    bits = parametric_bits(losses, 0.3, n_boot=5, rng=rng)
    assert bits.spread["gpd"] == math.inf
    assert "gpd rules eps out" in bits.note
    assert math.isfinite(bits.high)
    assert bits.to_dict()["spread"]["gpd"] is None


# The saddlepoint -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99, 1.0, 1.01, 1.3, 2.0])
@pytest.mark.parametrize("k", [1, 4])
def test_equal_weights_give_the_noncentral_chi_square(rng, share, k):
    mu = rng.normal(0, 0.7, (50, k))
    nc = float(np.square(mu).sum())
    eps = share * 2.5 * (50 * k + nc)
    exact = -stats.ncx2.logcdf(eps / 2.5, 50 * k, nc) / math.log(2)
    assert saddlepoint_bits(np.full(50, 2.5), mu, eps) == pytest.approx(exact, rel=2e-3, abs=1e-6)


def test_decaying_weights_agree_with_imhofs_integral():
    weights, mu = 0.5 ** np.arange(6), np.linspace(-1, 1.5, 6)
    eps = 1.2

    def integrand(u):
        angle = 0.5 * (np.arctan(weights * u) + mu**2 * weights * u / (1 + (weights * u) ** 2)).sum() - 0.5 * eps * u
        size = np.prod((1 + (weights * u) ** 2) ** 0.25) * math.exp(
            0.5 * (mu**2 * (weights * u) ** 2 / (1 + (weights * u) ** 2)).sum()
        )
        return math.sin(angle) / (u * size)

    tail = 0.5 + integrate.quad(integrand, 0, 400, limit=2000)[0] / math.pi
    assert saddlepoint_bits(weights, mu, eps) == pytest.approx(-math.log2(1 - tail), rel=0.02)


def test_it_is_smooth_through_the_mean_and_takes_arrays():
    law = known_law()
    l, mu = law.weights.numpy(), law.means.numpy()
    eps = law.mean * (1 + np.array([-1e-3, -1e-5, -1e-7, 0.0, 1e-7, 1e-5, 1e-3]))
    bits = saddlepoint_bits(l, mu, eps)
    assert bits.shape == (7,)
    assert np.abs(np.diff(bits)).max() < 5e-3
    assert (np.diff(bits) < 1e-4).all()
    assert float(bits[3]) == saddlepoint_bits(l, mu, law.mean)


def test_constants_shift_scales_cancel_and_zero_weights_drop():
    l, mu = np.array([1.0, 0.3, 0.0]), np.array([0.5, -1.0, np.inf])
    bits = saddlepoint_bits(l, mu, 0.4)
    assert saddlepoint_bits(l, mu, 2.4, constant=2.0) == pytest.approx(bits)
    assert saddlepoint_bits(1e-20 * l, mu, 0.4e-20) == pytest.approx(bits)
    assert saddlepoint_bits(1e20 * l, mu, 0.4e20) == pytest.approx(bits)


def test_far_tails_keep_their_slope():
    law = known_law()
    l, mu = law.weights.numpy(), law.means.numpy()
    near, far = saddlepoint_bits(l, mu, law.mean * np.array([1e-9, 1e-10]))
    assert far - near == pytest.approx(100 * math.log2(10), rel=1e-3)  # 200 directions: Pr falls with eps^100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0, -1.0], [0.0, 0.0], 0.5), ">= 0"),
        (([0.0], [0.0], 0.5), "not all 0"),
        (([1.0], [np.nan], 0.5), "finite"),
        (([1.0, 2.0], [0.0], 0.5), "shape"),
        (([1.0], [0.0], 0.0), "no hypothesis can go below"),
        (([1.0], [0.0], math.nan), "finite number"),
    ],
)
def test_the_saddlepoint_refuses(arguments, words):
    with pytest.raises(InputError, match=words):
        saddlepoint_bits(*arguments)


def test_an_eps_below_the_irreducible_part_is_refused():
    with pytest.raises(InputError, match="infinitely many bits"):
        saddlepoint_bits([1.0], [0.0], 1.9, constant=2.0)


# Splitting -----------------------------------------------------------------------------------------------------------


def test_splitting_finds_the_exact_bits_of_a_rare_event():
    mu = torch.linspace(-1, 1, 20, dtype=torch.float64)
    found = splitting_bits(
        lambda z: (z + mu).square().sum(1), 20, 1.0, n_particles=200, n_moves=15, generator=torch_stream(0, "split")
    )
    exact = -stats.ncx2.logcdf(1.0, 20, float(mu.square().sum())) / math.log(2)
    assert exact > 25
    assert found.value == pytest.approx(exact, rel=0.06)
    assert found.low < exact < found.high
    assert (found.rung, found.extrapolated) == ("splitting", False)


def test_splitting_is_seeded_and_says_when_it_cannot_go_on():
    def loss(z):
        return z.square().sum(1)

    one, same = (splitting_bits(loss, 3, 0.1, n_runs=1, generator=torch_stream(3, "s")) for _ in range(2))
    assert one == same or (one.value == same.value and math.isnan(one.low))
    with pytest.raises(ConvergenceError, match="do not get below"):
        splitting_bits(lambda z: (z[:, 0] > 0).double() + 1.0, 2, 0.5, generator=torch_stream(0, "s"))
    with pytest.raises(InputError, match="one finite number per latent"):
        splitting_bits(lambda z: z, 2, 0.5, generator=torch_stream(0, "s"))
    with pytest.raises(ConfigError, match="p0"):
        splitting_bits(loss, 2, 0.5, p0=1.5, generator=torch_stream(0, "s"))


# The ladder ----------------------------------------------------------------------------------------------------------


def test_the_regime_chooses_the_rung(rng):
    losses = gamma_losses(rng)
    many, few, none = price_bits(losses, [0.8, float(np.sort(losses)[3]), 0.1], rng=rng)
    assert [many.rung, few.rung, none.rung] == ["counting", "parametric", "parametric"]
    assert [many.extrapolated, few.extrapolated, none.extrapolated] == [False, False, True]
    (short,) = price_bits(losses[:19], 0.1, rng=rng)
    assert (short.rung, short.sign) == ("counting", ">=")
    assert "only counted" in short.note
    law = known_law()
    assert price_bits(law, 0.5 * law.mean, rng=rng)[0].rung == "saddlepoint"
    assert price_bits(law, law.mean, method="counting", rng=rng)[0].rung == "counting"


def test_error_rates_are_counted(rng):
    rates = rng.binomial(50, 0.3, 500) / 50
    (bits,) = price_bits(rates, 0.02, rng=rng)
    assert bits.rung == "counting"
    assert "tied" in bits.note
    with pytest.raises(InputError, match="no continuous law"):
        parametric_bits(rates + 1e-3, 0.02, rng=rng)


def test_a_latent_law_is_split(rng):
    class Latent:
        n_latent = 4

        def loss(self, z):
            return z.square().sum(1)

    (bits,) = price_bits(Latent(), 0.05, rng=rng)
    assert bits.rung == "splitting"
    assert bits.value == pytest.approx(-stats.chi2.logcdf(0.05, 4) / math.log(2), abs=1.0)
    with pytest.raises(CapabilityError, match="saddlepoint"):
        price_bits(Latent(), 0.05, method="saddlepoint", rng=rng)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (np.ones(30), "all 30 losses(_on)? are 1"),
        ([1.0, 2.0, np.nan, 3.0], "draw 2 is nan"),
        ([1.0, np.inf], "draw 1 is inf"),
        ([], "n_draws >= 1"),
        ([[1.0, 2.0]], "shape"),
        (["a"], "numbers"),
    ],
)
def test_bad_losses_are_refused_by_name(losses, words, rng):
    for estimate in (
        lambda: counting_bits(losses, 0.5),
        lambda: parametric_bits(losses, 0.5, rng=rng),
        lambda: price_bits(losses, 0.5, rng=rng),
        lambda: median_matched_bits(losses, [1.0, 2.0], rng=rng),
    ):
        with pytest.raises(InputError, match=words):
            estimate()


def test_targets_and_draws_that_cannot_be_priced_are_refused(rng):
    losses = gamma_losses(rng, 30)
    with pytest.raises(InputError, match="infinitely many bits"):
        price_bits(losses, 0.2, noise=0.25, rng=rng)
    with pytest.raises(InputError, match="infinitely many bits"):
        median_matched_bits(0.1 * losses, losses, noise=0.25, rng=rng)
    with pytest.raises(InputError, match="20 losses"):
        parametric_bits(losses[:19], 0.5, rng=rng)
    with pytest.raises(InputError, match="above 0"):
        parametric_bits(losses - losses.min(), 0.5, rng=rng)
    with pytest.raises(ConfigError, match="ncx2"):
        parametric_bits(losses, 0.5, laws=("ncx3",), rng=rng)
    with pytest.raises(CapabilityError, match="law of the hypotheses"):
        price_bits(losses, 0.5, method="splitting", rng=rng)
    with pytest.raises(ConfigError, match="sign"):
        Bits(1.0, 0.0, 2.0, "counting", sign="<")


# The price -----------------------------------------------------------------------------------------------------------


def test_equal_arms_cost_nothing_and_a_known_shift_costs_its_bits(rng):
    on, off = gamma_losses(rng, 4000), gamma_losses(rng, 4000)
    same = median_matched_bits(on, off, rng=rng)
    assert same.low < 0 < same.high
    assert same.value == pytest.approx(0, abs=0.15)
    better = median_matched_bits(0.7 * on, off, rng=rng)
    exact = -stats.gamma.logcdf(0.7 * np.median(on), 20, scale=1 / 20) / math.log(2) - 1
    assert better.value == pytest.approx(exact, abs=0.3)
    assert better.low < exact < better.high
    worse = median_matched_bits(off, 0.7 * on, rng=rng)
    assert worse.value == pytest.approx(-better.value)
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    assert "swapped" in worse.note


def test_a_price_beyond_the_draws_is_a_bound_beside_extrapolated_figures(rng):
    on, off = 0.3 * gamma_losses(rng, 100), gamma_losses(rng, 100)
    up, down = median_matched_bits(on, off, rng=rng), median_matched_bits(off, on, rng=rng)
    assert (up.sign, up.value) == (">=", pytest.approx(math.log2(100 / 3) - 1))
    assert math.isnan(up.high)
    assert "extrapolated" in up.note
    assert up.spread["ncx2"] > up.value
    assert (down.sign, down.value) == ("<=", pytest.approx(-up.value))
    few = median_matched_bits(on[:5], off[:5], rng=rng)
    assert (few.sign, few.rung, dict(few.spread)) == (">=", "counting", {})


def test_the_law_of_the_off_arm_replaces_the_bound(rng):
    law = KernelLaw(torch.full((30,), 1 / 30).double(), torch.zeros(30, 1).double(), 0.0)
    off = law.sample_losses(200, torch_stream(0, "off"))
    price = median_matched_bits(0.2 * off, off, hypotheses_off=law, rng=rng)
    exact = -stats.chi2.logcdf(30 * 0.2 * np.median(off), 30) / math.log(2) - 1
    assert (price.rung, price.sign) == ("saddlepoint", "=")
    assert price.value == pytest.approx(exact, rel=1e-3)
    assert price.low < exact < price.high
