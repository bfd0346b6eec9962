"""Filters: motions in closed form, missing observations, anchors, two hundred steps; volatility of returns; files."""

import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from foreknow.common.errors import ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import torch_stream
from foreknow.core.predictive import MultivariateMixture
from foreknow.tasks import (
    Belief,
    DistributionSettings,
    DistributionTransformer,
    DTFilter,
    LinearMotion,
    NonlinearMotion,
)
from foreknow.tasks.distribution_transformer.baselines import (
    GaussianSumFilter,
    KalmanTracker,
    ParticleFilter,
    plane_sensors,
    range_sensors,
)
from foreknow.tasks.distribution_transformer.filtering import fit_mixture, without_light
from foreknow.tasks.distribution_transformer.observing import GPData, RangeBearing, RangeFinder, TwoLevel, Volatility
from foreknow.tasks.distribution_transformer.oracles import GPPosterior, GridPosterior
from foreknow.tasks.distribution_transformer.presets import EXPERIMENTS
from foreknow.tasks.distribution_transformer.proof import conjugate, others
from foreknow.tasks.distribution_transformer.proof.common import mean_claim
from foreknow.tasks.distribution_transformer.proof.filters import simulate, start_belief, swing
from foreknow.tasks.distribution_transformer.proof.programs import WHAT
from foreknow.tasks.distribution_transformer.volatility import (
    StochasticVolatility,
    filter_returns,
    kalman_beliefs,
    predictive_log_density,
)

A, Q = [[1.0, 0.5], [0.0, 0.9]], [[0.1, 0.02], [0.02, 0.2]]
START = Belief.mixture([0.5, 0.5], [[9.0, 0.0], [11.0, 0.5]], [[[1.0, 0.2], [0.2, 0.3]]] * 2)


@pytest.fixture(scope="module")
def ranges() -> DistributionTransformer:
    return DistributionTransformer(task="range").fit(None)


@pytest.fixture(scope="module")
def returns() -> DistributionTransformer:
    return DistributionTransformer(task="volatility").fit(None)


def test_a_linear_motion_is_exact():
    mix = START.as_mixture()
    moved = LinearMotion(A, Q, [1.0, -1.0]).predict(mix)
    a, q = np.array(A), np.array(Q)
    assert np.allclose(moved.means.numpy(), mix.means.numpy() @ a.T + [1.0, -1.0])
    assert np.allclose(moved.covariances.numpy(), a @ mix.covariances.numpy() @ a.T + q, atol=1e-5)
    assert torch.equal(moved.log_weights, mix.log_weights)
    states = mix.sample(20_000, generator=torch_stream(0, "x"))
    cloud = LinearMotion(A, Q, [1.0, -1.0]).move(states, torch_stream(0, "move"))
    assert torch.allclose(cloud.mean(0), moved.mean(), atol=0.05)


@pytest.mark.parametrize(("method", "tolerance"), [("unscented", 1e-4), ("sample", 0.25)])
def test_nonlinear_motions_are_right_where_they_are_linear(method, tolerance):
    a = torch.tensor(A, dtype=torch.float64)
    motion = NonlinearMotion(lambda x: x @ a.T, Q, method=method, n_samples=2000)
    moved = motion.predict(START.as_mixture(), torch_stream(0, "draws"))
    exact = LinearMotion(A, Q).predict(START.as_mixture())
    assert torch.allclose(moved.means, exact.means, atol=tolerance)
    assert torch.allclose(moved.covariances, exact.covariances, atol=tolerance)


def test_unscented_points_bend_with_the_motion():
    motion = NonlinearMotion(lambda x: x.square(), [[1e-9]])
    moved = motion.predict(Belief.normal(1.0, 0.25).as_mixture())
    assert float(moved.mean()) == pytest.approx(1.25, abs=1e-4)  # E x^2 = 1 + 0.25
    assert float(moved.covariance()) == pytest.approx(4 * 0.25 + 2 * 0.25**2, rel=1e-3)


def test_nothing_seen_is_a_prediction(ranges):
    motion = LinearMotion(A, Q)
    for nothing in (None, math.nan, {"range": math.nan}, []):
        flt = DTFilter(ranges, motion, start=START)
        before = motion.predict(flt.belief)
        after = flt.step(nothing)
        assert torch.equal(after.means, before.means) and flt.n_steps == 1


def test_side_by_side_is_one_by_one(ranges):
    motion = LinearMotion(A, Q)
    batch = MultivariateMixture(*(t.expand(3, *t.shape) for t in START.as_mixture()._tensors()))
    together = DTFilter(ranges, motion, start=batch)
    alone = [DTFilter(ranges, motion, start=START) for _ in range(3)]
    for z in ([9.0, 12.0, math.nan], [9.5, 3.0, 10.0]):
        whole = together.step(z)
        parts = [flt.step(value) for flt, value in zip(alone, z)]
        for i, part in enumerate(parts):
            assert torch.allclose(whole.means[i], part.means, atol=1e-3)


def test_a_series_that_sees_nothing_keeps_its_light_components(ranges):
    motion = LinearMotion(A, Q)
    weights = [0.998, 0.001, 0.0005, 0.0005]
    one = Belief.mixture(weights, [[9.0, 0.0], [11.0, 0.5], [12.0, 0.0], [8.0, 0.0]], [[[1.0, 0.2], [0.2, 0.3]]] * 4)
    batch = MultivariateMixture(*(t.expand(2, *t.shape) for t in one.as_mixture()._tensors()))
    after = DTFilter(ranges, motion, start=batch).step([math.nan, 9.5])
    alone = DTFilter(ranges, motion, start=one).step(None)
    assert torch.allclose(after.log_weights[0].exp(), torch.tensor(weights).double(), atol=1e-6)
    assert torch.allclose(after.means[0], alone.means) and float(after.log_weights[1].exp().min()) > 3e-3


def test_more_tokens_than_in_training_warn_in_filters_too(ranges):
    flt = DTFilter(ranges, LinearMotion(A, Q), start=START)
    with pytest.warns(ForeknowWarning, match="2 tokens of channel 'range'"):
        flt.step([9.5, 9.7])


def test_two_hundred_steps_stay_on_the_track(ranges):
    motion, finder = swing(), RangeFinder()
    states, seen = simulate(motion, finder, start_belief(10), 200, seed=5)
    flt = DTFilter(ranges, motion, start=start_belief(10))
    errors = []
    for truth, z in zip(states, seen):
        belief = flt.step(z)
        errors.append((belief.mean()[:, 0] - truth[:, 0]).abs())
        assert bool(belief.covariance().isfinite().all())
    error = torch.stack(errors)
    assert float(error[-50:].mean()) < 1.5 and float(error.max()) < 12
    assert float(error[-50:].mean()) < 3 * float(error[:50].mean()) + 0.3  # errors do not grow


def test_light_components_are_given_up_and_heavy_ones_split():
    logits = torch.tensor([[0.0, -20.0, -30.0], [0.0, 0.1, -0.1]], dtype=torch.float64)
    means = torch.tensor([[[1.0, 2.0], [1e9, 0.0], [0.0, -1e9]], [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]]).double()
    mix = MultivariateMixture(logits, means, torch.tensor([[0.5, 0.0], [0.2, 0.3]]).double().expand(2, 3, 2, 2))
    tidy = without_light(mix, 1e-3)
    assert float(tidy.log_weights.exp().min()) > 0.1 and float(tidy.means.abs().max()) < 4
    assert torch.allclose(tidy.mean()[0], torch.tensor([1.0, 2.0]).double(), atol=1e-9)
    assert torch.allclose(tidy.covariance()[0], mix.covariances[0, 0], atol=1e-9)
    assert torch.allclose(tidy.log_weights[1], mix.log_weights[1]) and torch.equal(tidy.means[1], mix.means[1])


@pytest.mark.parametrize("anchor", ["moments", "resample"])
def test_anchors_bring_a_lost_belief_back(ranges, anchor, monkeypatch):
    """A network whose every update is four units off: importance sampling sees it, and puts the belief right."""
    motion, finder, right = swing(), RangeFinder(), ranges._posterior

    def lost(*inputs):
        found = right(*inputs)
        return MultivariateMixture(found.log_weights, found.means + torch.tensor([4.0, 0.0]), found.scale_tril)

    monkeypatch.setattr(ranges, "_posterior", lost)
    found = {}
    for kind in ("none", anchor):
        flt = DTFilter(ranges, motion, start=START, anchor=kind, model=finder, n_draws=4000)
        found[kind] = flt.step(9.6)
    assert flt.n_anchored == 1 and found[anchor].n_components == 4
    assert abs(float(found["none"].mean()[0]) - 9.6) > 3 and abs(float(found[anchor].mean()[0]) - 9.6) < 1


def test_a_check_of_a_right_update_finds_nothing(ranges):
    finder = RangeFinder()
    flt = DTFilter(ranges, LinearMotion(A, Q), start=START, anchor="moments", model=finder, n_draws=4000)
    before = flt.predict()
    batch = MultivariateMixture(*(t.unsqueeze(0) for t in before._tensors()))
    z = {"range": torch.tensor([[[9.6]]], dtype=torch.float64)}
    from foreknow.tasks.distribution_transformer.oracles import range_posterior

    found = flt.check(batch, range_posterior(batch, finder, z), z)
    assert not bool(found.wrong) and float(found.distance) < 0.2 and float(found.effective) > 100


def test_mixtures_fitted_to_draws_find_two_bumps():
    draws = torch.cat([torch.full((100, 1, 1), -2.0), torch.full((300, 1, 1), 3.0)]).double()
    draws = draws + 0.1 * torch.randn(draws.shape, generator=torch_stream(0, "d"), dtype=torch.float64)
    weights = torch.full((400, 1), 1 / 400, dtype=torch.float64)
    start = MultivariateMixture(torch.zeros(1, 2), torch.tensor([[[-0.5], [0.5]]]), torch.ones(1, 2, 1, 1)).to(
        dtype=torch.float64
    )
    found = fit_mixture(draws, weights, start, n_rounds=30)
    assert sorted(round(float(m)) for m in found.means.flatten()) == [-2, 3]
    assert sorted(found.log_weights.exp().flatten().tolist()) == pytest.approx([0.25, 0.75], abs=0.02)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda dt: DTFilter(dt, LinearMotion([[1.0]], [[1.0]]), start=START), InputError, "the motion has 1"),
        (lambda dt: DTFilter(dt, swing(), start=Belief.normal(0.0, 1.0)), InputError, "over"),
        (lambda dt: DTFilter(dt, swing(), start=START, anchor="moments"), ConfigError, "log_likelihood"),
        (lambda dt: DTFilter(dt, swing(), start=START, anchor="heavy"), ConfigError, "anchor"),
        (lambda dt: DTFilter(dt, swing(), start=START).step(math.inf), InputError, "infinity"),
        (lambda dt: DTFilter(dt, swing(), start=START).step({"bearing": 1.0}), InputError, "unknown channel"),
        (lambda dt: DTFilter(dt, swing(), start=start_belief(3)).step([1.0]), InputError, "3 series"),
        (lambda dt: LinearMotion([[1.0]], [[-1.0]]), InputError, "semi-definite"),
        (lambda dt: LinearMotion([1.0, 2.0], [[1.0]]), InputError, "square"),
        (lambda dt: NonlinearMotion(lambda x: x, [[1.0]], method="guess"), ConfigError, "method"),
    ],
)
def test_bad_filters_are_refused(ranges, call, kind, words):
    with pytest.raises(kind, match=words):
        call(ranges)


def test_filters_need_a_network_of_mixtures():
    tiny = DistributionSettings(width=8, depth=1, n_heads=2, hidden=8, embed_hidden=8, batch_size=8, n_steps=1)
    dt = DistributionTransformer(weights="fit", settings=tiny, random_state=0).fit(None)
    with pytest.raises(ConfigError, match="beliefs are mixtures"):
        DTFilter(dt, LinearMotion([[1.0]], [[1.0]]), start=Belief.normal(0.0, 1.0))


# Plain filters ----------------------------------------------------------------------------------------------


def test_particles_and_the_gaussian_sum_agree():
    motion, finder = swing(), RangeFinder()
    states, seen = simulate(motion, finder, start_belief(3), 8, seed=1)
    flt = ParticleFilter(motion, finder, 5000, torch_stream(0, "pf")).start(start_belief(3))
    belief = start_belief(3).to(dtype=torch.float64)
    summed = GaussianSumFilter(motion, finder, 16)
    for z in seen:
        flt.step(z)
        belief = summed.step(belief, z)
    mean, cov = flt.moments()
    assert torch.allclose(mean, belief.mean(), atol=0.1)
    assert torch.allclose(cov, belief.covariance(), atol=0.1)
    normal, kernel = flt.log_density(states[-1])
    assert torch.allclose(torch.maximum(normal, kernel), belief.log_prob(states[-1]), atol=0.7)


@pytest.mark.parametrize("kind", ["extended", "unscented"])
def test_kalman_filters_follow_clean_ranges(kind):
    pytest.importorskip("filterpy")
    finder = RangeFinder(p_short=0.0, p_uniform=0.0, p_most=0.0)
    motion = LinearMotion([[1.0, 1.0], [-0.02, 0.9]], [[1e-4, 0.0], [0.0, 0.04]])
    states, seen = simulate(motion, finder, start_belief(1), 30, seed=0)
    distances = np.array([float(z["range"]) for z in seen])
    flt = KalmanTracker(motion, range_sensors(finder, 4.0), kind)
    mean, _ = flt.run(np.array([10.0, 0.0]), np.diag([9.0, 0.25]), {"range": distances})
    assert np.abs(mean[5:, 0] - states[5:, 0, 0].numpy()).mean() < 0.5


@pytest.mark.parametrize("kind", ["extended", "unscented"])
def test_kalman_filters_turn_corners_in_the_plane(kind):
    """Bearings wrap behind the sensor; one reading is far off and left out, some are missing."""
    pytest.importorskip("filterpy")
    sensors = plane_sensors(RangeBearing(), 3.0)
    motion = LinearMotion(np.eye(4) + np.eye(4, k=2), 1e-4 * np.eye(4))
    truth = np.array([[-6.0, 1.0 - 0.25 * t] for t in range(1, 13)])  # the angle goes from below pi to above -pi
    seen = {"range": np.hypot(*truth.T), "bearing": np.arctan2(truth[:, 1], truth[:, 0])}
    seen["range"][6], seen["range"][3], seen["bearing"][8] = 25.0, math.nan, math.nan
    start = np.array([-6.0, 1.0, 0.0, -0.25]), np.diag([0.5, 0.5, 0.02, 0.02])
    mean, cov = KalmanTracker(motion, sensors, kind).run(*start, seen)
    assert np.abs(mean[:, :2] - truth).max() < 0.3
    assert np.isfinite(cov).all() and (np.linalg.eigvalsh(cov) > 0).all()
    state = np.array([3.0, -2.0, 0.0, 0.0])
    for sensor in sensors.values():
        slope = [(sensor.off(state + h, 0.1) - sensor.off(state - h, 0.1)) / 2e-5 for h in 1e-5 * np.eye(4)]
        assert np.allclose(sensor.jacobian(state), slope, atol=1e-6)


# Volatility -------------------------------------------------------------------------------------------------


def simulated_returns(n: int, model: StochasticVolatility, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    h, found = 0.0, []
    for _ in range(n):
        h = model.persistence * h + model.sd * rng.standard_normal()
        found.append(h)
    log_variance = np.array(found) + model.level
    return model.mean + np.exp(0.5 * log_variance) * rng.standard_normal(n), log_variance


def test_parameters_are_found_in_long_series():
    truth = StochasticVolatility(0.1, 0.5, 0.95, 0.3)
    values, _ = simulated_returns(4000, truth)
    found = StochasticVolatility.estimate(values)
    assert found.persistence == pytest.approx(0.95, abs=0.03)
    assert found.sd == pytest.approx(0.3, abs=0.12)
    assert found.level == pytest.approx(0.5, abs=0.3)
    assert found.mean == pytest.approx(0.1, abs=0.1)


def test_the_kalman_likelihood_is_that_of_the_joint_normal():
    y = np.array([0.3, -1.0, np.nan, 0.5])
    _, _, density = kalman_beliefs(y, 0.9, 0.4)
    from scipy import stats

    p = 0.16 / (1 - 0.81)
    at = np.array([0, 1, 3])
    cov = p * 0.9 ** np.abs(at[:, None] - at[None]) + np.eye(3) * math.pi**2 / 2
    assert density.sum() == pytest.approx(stats.multivariate_normal(np.zeros(3), cov).logpdf(y[at]))
    assert density[2] == 0


def test_predictive_density_of_a_return_integrates_to_one():
    belief = MultivariateMixture(torch.zeros(1, 2), torch.tensor([[[0.0], [1.0]]]), 0.5 * torch.ones(1, 2, 1, 1)).to(
        dtype=torch.float64
    )
    z = torch.linspace(-40, 40, 8001, dtype=torch.float64)
    many = MultivariateMixture(*(t.expand(8001, *t.shape[1:]) for t in belief._tensors()))
    density = predictive_log_density(many.marginal(0), z).exp()
    assert float(torch.trapezoid(density, z)) == pytest.approx(1.0, abs=1e-3)


def test_filtered_volatility_follows_the_true_one(returns):
    truth = StochasticVolatility(0.0, -0.7, 0.97, 0.25)
    values, log_variance = simulated_returns(250, truth, seed=3)
    values[100:103] = np.nan
    found = filter_returns(returns, values, truth)
    assert found.median.shape == (250,) and (found.low < found.median).all() and (found.median < found.high).all()
    inside = (found.low < np.exp(0.5 * log_variance)) & (np.exp(0.5 * log_variance) < found.high)
    assert inside.mean() > 0.75
    assert (
        np.isnan(found.log_density[100:103]).all() and np.isfinite(np.delete(found.log_density, [100, 101, 102])).all()
    )
    assert np.corrcoef(np.log(found.median), log_variance)[0, 1] > 0.4
    assert isinstance(Volatility(), Volatility)


@pytest.mark.parametrize("values", [np.ones(50), np.arange(10.0), [["a"]], np.full(50, np.nan)])
def test_returns_that_say_nothing_are_refused(values):
    with pytest.raises(InputError):
        StochasticVolatility.estimate(values)


# Files ------------------------------------------------------------------------------------------------------


def write_csv(path, head, rows):
    path.write_text("\n".join([",".join(head), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def test_a_file_of_returns_or_prices(returns, tmp_path):
    values, _ = simulated_returns(120, StochasticVolatility(0.0, -9.0, 0.95, 0.3))
    days = [f"2024-01-{1 + i % 28:02d}" for i in range(120)]
    file = write_csv(tmp_path / "r.csv", ["date", "r"], zip(days, values))
    applied = returns.apply_files([file], tmp_path, {})
    assert applied.record["n_returns"] == 120 and set(applied.pictures) == {"volatility"}
    lines = applied.files[0].read_text().splitlines()
    assert lines[0] == "row,return,low,median,high,log_density" and len(lines) == 121
    prices = 100 * np.exp(np.cumsum(values))
    file = write_csv(tmp_path / "p.csv", ["close"], prices[:, None])
    again = returns.apply_files([file], tmp_path, {"kind": "prices", "persistence": "0.95", "sd": "0.3"})
    assert again.record["n_returns"] == 119 and again.record["persistence"] == 0.95
    json.dumps(again.record)
    early = returns.apply_files([file], tmp_path, {"kind": "prices", "first": "60"})
    assert (
        early.record["level"] == StochasticVolatility.estimate(np.array([np.nan, *np.diff(np.log(prices[:60]))])).level
    )
    assert "the first 60" in early.pictures["volatility"].title and "all days" in again.pictures["volatility"].title
    bad = {
        "as prices are": {},
        "kind must be": {"kind": "cents"},
        "no column": {"column": "open"},
        "whole number": {"first": "40.5", "kind": "prices"},
        "greater than 0": {"sd": "-1", "kind": "prices"},
        "unknown option": {"speed": "1"},
    }
    for words, options in bad.items():
        with pytest.raises((InputError, ConfigError), match=words):
            returns.apply_files([file], tmp_path, options)
    with pytest.raises(InputError, match="one table"):
        returns.apply_files([], tmp_path, {})


def test_a_file_of_ranges(ranges, tmp_path):
    _, seen = simulate(swing(), RangeFinder(), start_belief(1), 30, seed=2)
    values = [min(max(float(z["range"]), 0.0), 20.0) for z in seen]
    file = write_csv(tmp_path / "z.csv", ["range"], [[v] if i != 4 else [""] for i, v in enumerate(values)])
    applied = ranges.apply_files([file], tmp_path, {})
    head = applied.files[0].read_text().splitlines()[0]
    assert head.startswith("row,range,position_low,position_median") and set(applied.pictures) == {"position"}
    far = write_csv(tmp_path / "far.csv", ["range"], [[v + 100] for v in values])
    with pytest.raises(InputError, match=r"0\.\.20"):
        ranges.apply_files([far], tmp_path, {})


def test_a_file_of_questions_and_nothing_to_fit(tmp_path):
    dt = DistributionTransformer().fit(None)
    file = write_csv(tmp_path / "q.csv", ["concentration", "rate", "z_1"], [[2.0, 1.0, 0.5], [3.0, 1.0, ""]])
    applied = dt.apply_files([file], tmp_path, {})
    assert applied.record == {"n_rows": 2} and len(applied.table[1]) == 2
    bad = write_csv(tmp_path / "bad.csv", ["concentration", "z_1"], [[2.0, 1.0]])
    with pytest.raises(InputError, match="lacks rate"):
        dt.apply_files([bad], tmp_path, {})
    odd = write_csv(tmp_path / "odd.csv", ["concentration", "rate", "w"], [[2.0, 1.0, 1.0]])
    with pytest.raises(InputError, match="unknown columns w"):
        dt.apply_files([odd], tmp_path, {})
    assert DistributionTransformer.read_files([], {}).X is None
    with pytest.raises(InputError, match="reads no files"):
        DistributionTransformer.read_files([tmp_path / "q.csv"], {})


# The proof --------------------------------------------------------------------------------------------------


def test_the_whole_proof_in_quick():
    from foreknow.tasks.distribution_transformer.proof import prove

    told = []
    evidence = prove(preset="quick", seeds=1, progress=told.append)
    assert [claim.name[0] for claim in evidence.claims][:6] == ["V", "V", "V", "M", "F", "F"]
    assert {row["proof"] for row in evidence.arms} == set("VMFQGBS") and told
    assert all(math.isfinite(claim.measured) for claim in evidence.claims)
    assert {row["arm"] for row in evidence.arms if row["proof"] == "B"} >= {"extended Kalman", "unscented Kalman"}
    for letter in "VQG":
        few = {row["arm"]: row for row in evidence.arms if row["proof"] == letter and row.get("what") == WHAT}
        assert set(few) == {"ours", "SVI", "NUTS"}
        for row in few.values():
            assert math.isfinite(row["kl"]) and math.isfinite(row["log_density"]) and row["ms_a_task"] > 0
    for letter in "VMQG":
        assert any(row["proof"] == letter and row.get("what") == "milliseconds" for row in evidence.arms)
    for letter in "FBS":
        alone = [row for row in evidence.arms if row["proof"] == letter and row.get("what") == "one series alone"]
        assert [row["arm"] for row in alone] == ["ours", "particles, 100"]
    assert sum("series side by side" in claim.name for claim in evidence.claims) == 3


def test_claims_that_hold_but_are_not_settled_say_so():
    unsettled = mean_claim("a mean", [np.array([1.0, -1.2]), np.array([-0.9, 2.0])], low=0.0)
    assert unsettled.verdict == "held" and "1 of 2 seeds" in unsettled.note
    assert mean_claim("a mean", [np.array([1.0, 1.2])], low=0.0).note == ""
    assert mean_claim("a mean", [np.array([-1.0, -1.2])], low=0.0).note == ""


def test_programs_have_the_posteriors_of_the_oracles():
    """What SVI and NUTS are given differs from the exact log density by a constant."""
    tasks = conjugate.tasks_of("quantum", TwoLevel(10), 3, 1000)
    family = EXPERIMENTS["quantum"].meta.family
    seen = {name: value.double() for name, value in tasks.tokens.items()}
    grid = GridPosterior.of(family, tasks.exact, TwoLevel(10), seen)
    question = others._quantum_question(family, tasks, grid, 1)
    gap = [float(question.log_density(question.t[j : j + 1]) - question.log_exact[j]) for j in (200, 400, 600)]
    assert gap == pytest.approx([gap[0]] * 3, abs=1e-6) and float(question.weights.sum()) == pytest.approx(1, abs=1e-3)
    model = GPData(10)
    tasks = conjugate.tasks_of("gp", model, 3, 1000)
    exact = GPPosterior(model, tasks.exact, {name: value.double() for name, value in tasks.tokens.items()})
    question = others._function_question(model, tasks, exact, 1, 0)
    gap = []
    for y, j in ((0.1, 100), (-0.4, 150), (0.7, 200)):
        length = exact.log_lengths[j]
        both = exact.log_weights[:, 1][j] + Normal(exact.means[j, 1], exact.sds[j, 1]).log_prob(torch.tensor(y))
        gap.append(float(question.log_density(torch.stack([torch.tensor(y).double(), length[1]])) - both))
    assert gap == pytest.approx([gap[0]] * 3, abs=1e-5)
