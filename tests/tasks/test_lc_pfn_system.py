"""Extrapolating learning curves: units, inputs of every kind, arms."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate

import foreknow
from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.core.predictive import Bar
from foreknow.core.source import Sample
from foreknow.data.curves import Curve
from foreknow.tasks import CurveExtrapolator, CurveForecast, CurvePrior, CurveSettings, should_stop
from foreknow.tasks.lc_pfn.baselines import LastValue, PowerLaw
from foreknow.tasks.lc_pfn.normalizer import Normalizer, within_unit

RISE = 0.85 - 0.5 * np.arange(1.0, 51.0) ** -0.6
LOSS = {"minimize": True, "bounds": (0.0, math.inf), "soft_bounds": (0.0, 2.5)}
TINY = CurveSettings(width=16, depth=1, n_heads=2, hidden=32, n_buckets=20, batch_size=8, n_steps=5)


# Units ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"bounds": (0, 100)},
        {"bounds": (0, 1), "minimize": True},
        LOSS,
        {"bounds": (-math.inf, math.inf), "soft_bounds": (-3, 5)},
        {"bounds": (-1e9, 1.0), "soft_bounds": (0.0, 1.0)},  # so far away that it counts as infinite
    ],
)
def test_units_have_an_inverse_and_densities_integrate_to_one(given):
    normalizer = Normalizer(**{"bounds": (0.0, 1.0), **given})
    low, high = normalizer.soft_bounds or normalizer.bounds
    values = np.linspace(low, high, 11)
    g = normalizer.normalize(values)
    assert (np.diff(g) > 0).all() and g.min() >= 0 and g.max() <= 1
    assert normalizer.transform.forward(torch.as_tensor(g)).numpy() == pytest.approx(values, abs=1e-6)
    assert normalizer.to_prior(values) == pytest.approx(1 - g if normalizer.minimize else g)
    generator = torch.Generator().manual_seed(0)
    bar = Bar(torch.randn(12, generator=generator, dtype=torch.float64), torch.linspace(-0.2, 1.2, 13).double())
    dist = normalizer.to_user(bar)
    ends = dist.quantile(torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64)).tolist()
    cuts = dist.quantile(torch.linspace(0.04, 0.96, 24).double()).tolist()
    density = lambda y: math.exp(float(dist.log_prob(y)))  # noqa: E731
    points = [ends[0], *cuts, ends[1]]
    mass = sum(integrate.quad(density, a, b, limit=100)[0] for a, b in itertools.pairwise(points))
    assert mass == pytest.approx(1.0, abs=1e-3)
    assert points[0] >= normalizer.bounds[0] - 1e-9 and points[-1] <= normalizer.bounds[1] + 1e-9
    middle = float(dist.quantile(0.3))
    assert float(dist.cdf(middle)) == pytest.approx(0.3, abs=1e-6)


def test_conditioning_on_the_unit_interval_is_that_of_the_distribution_function():
    borders = torch.tensor([-0.4, -0.1, 0.03, 0.2, 0.7, 0.95, 1.3, 1.5]).double()
    bar = Bar(torch.randn(4, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64), borders)
    inside = within_unit(bar)
    low, high = bar.cdf(torch.zeros(4)), bar.cdf(torch.ones(4))
    for y in (0.01, 0.1, 0.5, 0.97):
        at = torch.full((4,), y)
        assert inside.cdf(at).tolist() == pytest.approx(((bar.cdf(at) - low) / (high - low)).tolist(), abs=1e-9)
    wide = Bar(bar.logits[:, :3], torch.tensor([0.2, 0.4, 0.6, 0.9]).double())  # both ends within the tails
    narrow = within_unit(wide)
    assert narrow.borders.tolist() == pytest.approx([0, 0.4, 0.6, 1])
    low, high = wide.cdf(torch.zeros(4)), wide.cdf(torch.ones(4))
    at = torch.full((4,), 0.5)
    assert narrow.cdf(at).tolist() == pytest.approx(((wide.cdf(at) - low) / (high - low)).tolist(), abs=1e-9)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"bounds": (1, 0)}, "increasing"),
        ({"bounds": (0, math.inf)}, "soft_bounds must be given"),
        ({"soft_bounds": (0, math.inf)}, "must be finite"),
        ({"soft_bounds": (50, 51)}, "nothing can be told apart"),
        ({"network": "small", "prior": CurvePrior(n_epochs=50)}, "another prior needs its own"),
        ({"network": "no-such-file"}, "no file"),
    ],
)
def test_bad_settings_are_refused(bad, said):
    with pytest.raises((ConfigError, InputError), match=said):
        CurveExtrapolator(**bad).extrapolate([0.1, 0.2], 10)


# Curves of every kind --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def system():
    return CurveExtrapolator()


def test_one_curve_gives_a_forecast_and_many_a_list(system):
    one = system.extrapolate(RISE[:10], 50)
    assert isinstance(one, CurveForecast) and one.epochs.tolist() == list(range(11, 51))
    assert one.quantile(0.5).shape == (40,) and one.quantile([0.05, 0.5, 0.95]).shape == (3, 40)
    assert (np.diff(one.quantile([0.05, 0.5, 0.95]), axis=0) > 0).all()
    assert one.mean.shape == one.log_prob(RISE[10:]).shape == one.prob_beats(0.8).shape == (40,)
    many = system.extrapolate([RISE[:10], Curve(RISE[:25], name="b"), [0.3, 0.4]], 50)
    assert [len(forecast) for forecast in many] == [40, 25, 48] and many[1].curve.name == "b"
    assert many[0].mean == pytest.approx(one.mean, abs=1e-4)
    assert isinstance(system.extrapolate(RISE[None, :10], 50), list)
    assert foreknow.CurveExtrapolator is CurveExtrapolator


def test_batches_of_mixed_lengths_equal_one_by_one(system):
    rng = np.random.default_rng(0)
    curves = [np.clip(RISE[: rng.integers(1, 40)] + 0.02 * rng.standard_normal(), 0, 1) for _ in range(30)]
    together = system.extrapolate(curves, 50)
    for curve, found in zip(curves[::7], together[::7]):
        alone = system.extrapolate(curve, 50)
        assert found.quantile(0.9) == pytest.approx(alone.quantile(0.9), abs=1e-3)


def test_the_future_does_not_leak_and_gaps_keep_their_epochs(system):
    curve = Curve(RISE)
    assert system.extrapolate(curve.until(12), 50).mean == pytest.approx(system.extrapolate(RISE[:12], 50).mean)
    gappy = RISE[:12].copy()
    gappy[3:6] = np.nan
    found = system.extrapolate(gappy, 50)
    explicit = Curve(np.delete(RISE[:12], [3, 4, 5]), np.delete(np.arange(1.0, 13), [3, 4, 5]))
    assert found.mean == pytest.approx(system.extrapolate(explicit, 50).mean)
    assert found.epochs[0] == 13


def test_nothing_known_is_the_prior_and_one_point_moves_it(system):
    prior = system.extrapolate([], 50)
    empty = system.extrapolate([[math.nan, math.nan], [0.9]], 50)
    assert len(prior) == 50 and empty[0].mean == pytest.approx(prior.mean, abs=1e-4)
    assert prior.mean[-1] == pytest.approx(0.61, abs=0.06)  # the prior's mean at epoch 50 is 0.61
    assert empty[1].mean[-1] > prior.mean[-1] + 0.1


def test_horizon_in_the_past_values_out_of_bounds_and_bad_epochs(system):
    with pytest.raises(InputError, match="known up to epoch 10; nothing is left"):
        system.extrapolate(RISE[:10], 10)
    with pytest.raises(InputError, match="curve 'a' has the value 71 outside bounds"):
        system.extrapolate(Curve([71.0, 73.0], name="a"), 50)
    with pytest.raises(InputError, match=r"numbers in 1\.\.50"):
        system.extrapolate(RISE[:10], 50, epochs=[60])
    known = system.extrapolate(RISE[:10], 50, epochs=[5, 50])
    assert known.epochs.tolist() == [5, 50] and known.mean[0] == pytest.approx(RISE[4], abs=0.1)


def test_falling_curves_point_to_the_direction(system):
    with pytest.raises(InputError, match="1 of 1 curves get steadily worse") as caught:
        system.extrapolate(1 - RISE[:10], 50)
    assert "minimize=True" in caught.value.hint
    assert len(system.extrapolate(1 - RISE[:10], 50, falling="allow")) == 40
    assert len(system.extrapolate([1 - RISE[:10], RISE[:10], RISE[:9]], 50)) == 3  # one run that goes wrong
    assert len(CurveExtrapolator(minimize=True).extrapolate(1 - RISE[:10], 50)) == 40
    constant = system.extrapolate(np.full(20, 0.5), 50)
    assert constant.mean[-1] == pytest.approx(0.5, abs=0.1)


def test_long_curves_are_mapped_with_a_warning(system):
    long = 0.85 - 0.5 * np.arange(1.0, 301.0) ** -0.6
    with pytest.warns(ForeknowWarning, match=r"mapped to 1\.\.100"):
        found = system.extrapolate(long[:250], 500)
    assert found.epochs[[0, -1]].tolist() == [251, 500] and found.mean[-1] == pytest.approx(0.85, abs=0.1)


def test_direction_and_units_change_nothing_but_the_units(system):
    known = RISE[:15]
    plain = system.extrapolate(known, 50)
    mirrored = CurveExtrapolator(minimize=True).extrapolate(1 - known, 50)
    percent = CurveExtrapolator(bounds=(0, 100)).extrapolate(100 * known, 50)
    assert mirrored.quantile(0.1) == pytest.approx(1 - plain.quantile(0.9), abs=1e-4)
    assert percent.quantile(0.9) == pytest.approx(100 * plain.quantile(0.9), abs=1e-2)
    assert percent.log_prob(100 * RISE[15:]) == pytest.approx(plain.log_prob(RISE[15:]) - math.log(100), abs=1e-3)
    assert mirrored.prob_beats(0.2) == pytest.approx(plain.prob_beats(0.8), abs=1e-4)
    loss = CurveExtrapolator(**LOSS).extrapolate(2.3 * (1 - known), 50)
    assert (loss.quantile(0.5) > 0).all() and loss.prob_beats(2.2).min() > loss.prob_beats(0.1).max()


def test_chances_fall_with_the_level_and_decide(system):
    found = system.extrapolate(RISE[:20], 50)
    chances = [found.prob_beats(best).max() for best in (0.3, 0.8, 0.99)]
    assert chances == sorted(chances, reverse=True) and chances[0] > 0.9
    assert should_stop(found.prob_beats(0.999)) and not should_stop(found.prob_beats(0.3))
    assert should_stop([]) and should_stop([0.04]) and not should_stop([0.01, 0.06]) and should_stop([0.5], delta=0.4)
    with pytest.raises(InputError, match="probabilities"):
        should_stop([1.5])
    for bad in (0.0, [0.5, 1.0]):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            found.quantile(bad)
    with pytest.raises(InputError, match="values of shape"):
        found.log_prob([0.5])


def test_without_noise_predictions_are_no_wider():
    rng = np.random.default_rng(3)
    noisy = np.clip(RISE[:30] + 0.08 * rng.standard_normal(30), 0, 1)
    width = {
        flag: float(
            np.diff(CurveExtrapolator(noiseless=flag).extrapolate(noisy, 50).quantile([0.1, 0.9]), axis=0).mean()
        )
        for flag in (False, True)
    }
    assert width[True] < 0.95 * width[False]


# The estimator, its networks and its price -----------------------------------------------------------------


def test_as_an_estimator_of_one_curve(system, tmp_path):
    X = np.arange(1.0, 51.0)[:, None]
    fitted = CurveExtrapolator().fit(X[:20], RISE[:20])
    assert fitted.predict(X[20:]) == pytest.approx(system.extrapolate(RISE[:20], 50).mean, abs=1e-4)
    again = CurveExtrapolator.load(fitted.save(tmp_path / "curve.safetensors"))
    assert again.predict(X[20:]) == pytest.approx(fitted.predict(X[20:]))
    with pytest.raises(InputError, match=r"1\.\.100"):
        fitted.predict([[120.0]])
    with pytest.raises(InputError, match="one column"):
        CurveExtrapolator().fit(np.ones((5, 2)), RISE[:5])


def test_a_prior_of_ones_own_trains_a_network_that_can_be_kept(tmp_path):
    prior = CurvePrior(families=("mmf",))
    system = CurveExtrapolator(prior, network=TINY, random_state=0).pretrain(n_steps=3)
    path = system.save_network(tmp_path / "mine.safetensors")
    kept = CurveExtrapolator(network=str(path))
    assert kept.extrapolate(RISE[:5], 20).mean == pytest.approx(system.extrapolate(RISE[:5], 20).mean, abs=1e-4)
    with pytest.raises(ConfigError, match="another prior"):
        CurveExtrapolator(CurvePrior(), network=str(path)).extrapolate(RISE[:5], 20)
    with pytest.raises(ConfigError, match="trained already"):
        kept.pretrain(n_steps=1)


def test_arms_and_plain_baselines_are_measured_alike(system):
    X = np.arange(1.0, 51.0)[:, None]
    test = Sample(X[20:], RISE[20:])
    on = CurveExtrapolator.priced_as("regression")
    models = [on, on.without_prior(), on.with_wrong_prior(), *(make(0) for make in on.plain_baselines().values())]
    losses = [on.losses(model.fit(X[:20], RISE[:20]), test) for model in models]
    assert all(math.isfinite(value) for found in losses for value in found.values())
    assert losses[0]["negative log density"] < losses[2]["negative log density"]


def test_plain_baselines():
    X = np.arange(1.0, 31.0)[:, None]
    exact = PowerLaw().fit(X[:10], RISE[:10]).predict_dist(X[10:])
    assert exact.mean().numpy() == pytest.approx(RISE[10:30], abs=1e-3)
    last = LastValue().fit(X[:3][::-1], [0.4, 0.3, 0.1]).predict_dist(X[10:])
    assert last.mean().unique().tolist() == [0.4] and float(last.variance()[0]) == pytest.approx(0.025)
    assert PowerLaw().fit(X[:2], RISE[:2]).predict_dist(X[:1]).mean().tolist() == [RISE[1]]
