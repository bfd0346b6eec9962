"""Few-shot regression: units, contexts, collections, files, arms."""

import warnings

import numpy as np
import pytest
import torch

import foreknow
from foreknow.common.deps import available
from foreknow.common.errors import CapabilityError, CheckpointError, ConfigError, ForeknowWarning, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.core.source import Sample
from foreknow.data.images import write_image
from foreknow.data.readers import read_table, write_csv
from foreknow.tasks import DigitTasks, GPPrior, GPTasks, MartingaleNP, MartingalePrior, NPSettings
from foreknow.tasks.martingale_np.real import JointNormal, OtherYears, PlainGP, PlainMean, YearSource, sea_temperatures

TINY = NPSettings(
    width=16, encoder_depth=2, decoder_depth=2, n_heads=2, n_pseudo=4, n_samples=3, batch_size=4, n_steps=8, lr=1e-3
)
X = np.linspace(0.0, 10.0, 12)[:, None]
Y = np.sin(X[:, 0])
NEW = np.array([[1.5], [4.2], [8.8]])


def tiny(prior="paper", **changes) -> MartingaleNP:
    given = {"settings": TINY, "weights": "fit", "n_samples": 6, "random_state": 0, **changes}
    return MartingaleNP(prior, **given)


@pytest.fixture(scope="module")
def trained() -> MartingaleNP:
    return tiny().pretrain()


# Contexts and units ---------------------------------------------------------------------------------------


def test_fit_and_condition_agree(trained):
    fitted = tiny().fit(X, Y)
    dist, posterior = fitted.predict_dist(NEW), trained.condition(X, Y)
    assert torch.equal(dist.mean(), posterior.predict(NEW).mean())
    assert posterior.mean(NEW) == pytest.approx(fitted.predict(NEW))


def test_units_of_the_user_do_not_matter(trained):
    plain, other = trained.condition(X, Y), trained.condition(100 + 3 * X, 40 * Y - 7)
    assert other.mean(100 + 3 * NEW) == pytest.approx(40 * plain.mean(NEW) - 7, abs=1e-3)
    sd = other.predict(100 + 3 * NEW).variance().sqrt().numpy()
    assert sd == pytest.approx(40 * plain.predict(NEW).variance().sqrt().numpy(), rel=1e-4)


def test_too_few_rows_are_not_standardised(trained):
    posterior = trained.condition(X[:2], Y[:2])
    assert posterior.scaling.y_scale == 1.0 and posterior.scaling.y_shift == 0.0
    assert trained.condition(X[:3], Y[:3]).scaling.y_scale != 1.0
    plain = tiny(standardize=False).pretrain().condition(X / 5 - 1, Y)
    assert plain.scaling.y_scale == 1.0 and (plain.scaling.x_scale == 1).all()


def test_the_range_of_the_inputs_may_be_told(trained):
    given = tiny(x_range=(0.0, 20.0)).pretrain()
    scaling = given.condition(X[:2], Y[:2]).scaling
    low, high = (float(end[0]) for end in (given.network_.x_low, given.network_.x_high))
    assert scaling.x(np.array([[0.0], [20.0]]))[:, 0] == pytest.approx(
        [(low + high) / 2 - (high - low) / 4, (low + high) / 2 + (high - low) / 4]
    )
    assert scaling.y_scale == 1.0
    with pytest.raises(ConfigError, match="x_range"):
        tiny(x_range=(2.0, 1.0)).fit(X, Y)


def test_no_context_is_the_prior(trained):
    posterior = trained.condition(np.empty((0, 1)), np.empty(0))
    assert posterior.sample(np.array([[0.0], [1.0]]), 5).shape == (5, 2)
    assert posterior.predict(np.array([[0.0]])).variance().isfinite().all()


def test_far_rows_are_told(trained):
    posterior = trained.condition(X, Y)
    with pytest.warns(ForeknowWarning, match="outside the range"):
        assert np.isfinite(posterior.mean(np.array([[1e9]]))).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior.mean(np.array([[12.0]]))


def test_functions_are_whole_and_seeded(trained):
    posterior = trained.condition(X, Y)
    one, again = posterior.sample(NEW, 4), posterior.sample(NEW, 4)
    assert np.array_equal(one, again) and not np.array_equal(one, posterior.sample(NEW, 4, name="other"))
    alone = posterior.sample(NEW[1:2], 4, with_noise=False)
    whole = posterior.sample(NEW, 4, with_noise=False)
    assert whole[:, 1:2] == pytest.approx(alone, abs=1e-5)  # the same function, whichever rows are asked
    means, sds = posterior.functions(NEW)
    assert means.shape == sds.shape == (6, 3)
    assert posterior.mean(NEW) == pytest.approx(means.mean(axis=0))


def test_joint_and_marginal_densities(trained):
    posterior, y = trained.condition(X, Y), np.array([0.9, -0.8, 0.5])
    means, sds = posterior.functions(NEW)
    each = torch.distributions.Normal(torch.as_tensor(means), torch.as_tensor(sds)).log_prob(torch.as_tensor(y))
    joint = float(torch.logsumexp(each.sum(1), 0) - np.log(6))
    assert posterior.log_prob(NEW, y) == pytest.approx(joint)
    marginal = posterior.log_prob(NEW, y, joint=False)
    assert marginal == pytest.approx(posterior.predict(NEW).log_prob(torch.as_tensor(y)).numpy())


def test_columns_must_be_those_of_the_tasks(trained):
    with pytest.raises(InputError, match="2 columns"):
        trained.condition(np.ones((4, 2)), np.ones(4))
    with pytest.raises(InputError, match="2 columns"):
        trained.condition(X, Y).mean(np.ones((4, 2)))


# Arms -----------------------------------------------------------------------------------------------------


def test_no_pseudo_rows_is_the_control_arm():
    off, none = tiny("off").fit(X, Y), tiny(n_pseudo=0).fit(X, Y)
    assert np.array_equal(off.predict(NEW), none.predict(NEW))
    assert off.posterior_.functions(NEW)[0].shape == (1, 3)


def test_the_placebo_takes_rows_of_other_tasks():
    placebo = tiny("wrong").fit(X, Y)
    assert placebo.prior_ == MartingalePrior(rule="shuffled")
    assert placebo.posterior_.functions(NEW)[0].std(axis=0).min() > 0
    assert not np.array_equal(placebo.predict(NEW), tiny().fit(X, Y).predict(NEW))


@pytest.mark.parametrize("rule", ["latent", "residual", "resampled", "dirichlet"])
def test_other_rules(rule):
    system = tiny(MartingalePrior(rule=rule)).fit(X, Y)
    assert system.posterior_.functions(NEW)[0].std(axis=0).min() > 0


def test_any_simulator_is_a_task_prior():
    system = tiny(GPPrior(n_features=2)).fit(np.ones((4, 2)) * np.arange(4)[:, None], np.arange(4.0))
    assert system.prior_ == MartingalePrior(GPPrior(n_features=2))
    with pytest.raises(ConfigError, match="Simulator"):
        from foreknow.tasks import CurvePrior

        tiny(CurvePrior()).fit(X, Y)


def test_more_pseudo_rows_may_be_asked_of_a_trained_network(tmp_path, trained):
    trained.save_network(tmp_path / "mine.safetensors")
    system = MartingaleNP(weights=str(tmp_path / "mine.safetensors"), n_pseudo=9, n_samples=5, random_state=0)
    assert system.condition(X, Y).rows.values.shape[:2] == (5, 12 + 9)
    with pytest.raises(ConfigError, match="attentive"):
        system.set_params(attentive=True).condition(X, Y)
    with pytest.raises(ConfigError, match="another prior"):
        MartingaleNP(GPTasks("periodic"), weights=str(tmp_path / "mine.safetensors")).condition(X, Y)


def test_nothing_ships_for_other_priors():
    with pytest.raises(ConfigError, match="no network ships"):
        MartingaleNP(GPTasks("matern52"), weights="shipped").fit(X, Y)
    with pytest.raises(ConfigError, match="no network yet"):
        tiny().save_network("never.safetensors")


def test_an_untrained_network_is_an_arm(trained):
    raw = tiny().untrained().condition(X, Y)
    assert not np.array_equal(raw.mean(NEW), trained.condition(X, Y).mean(NEW))


# Collections ----------------------------------------------------------------------------------------------


def collection(n_tasks=12, rows=8):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 100, (n_tasks * rows, 1))
    tasks = np.repeat([f"site {i}" for i in range(n_tasks)], rows)
    level = np.repeat(rng.normal(50, 10, n_tasks), rows)
    return x, level + 5 * np.sin(x[:, 0] / 15), tasks


def test_a_collection_of_tasks_teaches_the_network(tmp_path):
    x, y, tasks = collection()
    system = tiny().fit(x, y, tasks=tasks)
    assert system.network_.settings.n_points == 8
    few = system.condition(x[:3], y[:3])
    assert few.scaling == system.posterior_.scaling or few.scaling.y_scale == system.posterior_.scaling.y_scale
    assert few.sample(x[:5], 3).shape == (3, 5)
    path = system.save(tmp_path / "sites.safetensors", include_rows=False)  # there are no rows in it
    again = foreknow.load(path)
    assert np.array_equal(again.condition(x[:3], y[:3]).mean(x[:5]), few.mean(x[:5]))
    with pytest.raises(ConfigError, match="collection"):
        system.save_network(tmp_path / "never.safetensors")
    system.fit(x[:8, :1], y[:8])  # a second fit forgets the collection
    assert system.posterior_.context[1].shape == (8,) and system.network_.settings.n_points == 50


def test_the_placebo_of_a_collection_needs_it(tmp_path):
    x, y, tasks = collection()
    system = tiny("wrong").fit(x, y, tasks=tasks)
    assert system.condition(x[:3], y[:3]).mean(x[:2]).shape == (2,)
    path = system.save(tmp_path / "placebo.safetensors")
    with pytest.raises((CapabilityError, CheckpointError)):
        foreknow.load(path)


def test_bad_collections_are_refused():
    x, y, tasks = collection()
    for bad in (tasks[:-1], np.repeat("one", len(y)), np.arange(len(y))):
        with pytest.raises(InputError):
            tiny().fit(x, y, tasks=bad)


# Files ----------------------------------------------------------------------------------------------------


def test_a_table_of_tasks_is_learnt_and_its_gaps_are_told(tmp_path):
    x, y, tasks = collection()
    path = tmp_path / "sites.csv"
    write_csv(path, {"site": tasks.tolist(), "depth": x[:, 0].tolist(), "heat": y.tolist()})
    sample = MartingaleNP.read_files([path], {"task": "site"})
    assert sample.X.shape == (96, 1) and set(sample.named) == {"tasks"}
    system = tiny().fit(sample.X, sample.y, **sample.named)
    new = tmp_path / "new.csv"
    heat = [*y[:6].tolist(), None, None, *y[8:12].tolist(), None]
    write_csv(new, {"site": ["a"] * 8 + ["b"] * 5, "depth": x[:13, 0].tolist(), "heat": heat})
    applied = system.apply_files([str(new)], tmp_path, {"task": "site"})
    assert applied.record["n_told"] == 3 and len(applied.pictures) == 2
    told = read_table(tmp_path / "predictions.csv")
    mean, low, high = (told.column(f"heat_{part}").values for part in ("mean", "low", "high"))
    asked = np.array([6, 7, 12])
    assert (low[asked] < mean[asked]).all() and (mean[asked] < high[asked]).all()
    assert np.isnan(np.delete(mean, asked)).all()
    expected = system.condition(x[:6], y[:6]).mean(x[6:8])
    assert mean[6:8] == pytest.approx(expected, rel=1e-5)


def test_a_table_of_one_task(tmp_path):
    path = tmp_path / "one.csv"
    write_csv(path, {"x": X[:, 0].tolist(), "note": ["text"] * 12, "y": [*Y[:10].tolist(), None, None]})
    sample = MartingaleNP.read_files([path], {})
    assert sample.X.shape == (10, 1) and not sample.named
    system = tiny().fit(sample.X, sample.y)
    assert system.apply_files([str(path)], tmp_path, {}).record["n_told"] == 2
    only = tmp_path / "only.csv"
    write_csv(only, {"x": [1.0, 2.0], "y": [None, None]})  # no row is known: what fit saw is
    system.apply_files([str(only)], tmp_path, {})
    found = read_table(tmp_path / "predictions.csv").column("y_mean").values
    assert found == pytest.approx(system.predict(np.array([[1.0], [2.0]])), rel=1e-5)


def test_bad_tables_are_refused(tmp_path):
    path = tmp_path / "one.csv"
    write_csv(path, {"x": [1.0, 2.0], "word": ["a", "b"], "y": [3.0, 4.0]})
    for options, error in (
        ({"target": "z"}, InputError),
        ({"columns": "word"}, InputError),
        ({"columns": "x,y"}, ConfigError),
        ({"colour": "red"}, ConfigError),
    ):
        with pytest.raises(error):
            MartingaleNP.read_files([path], options)
    with pytest.raises(InputError):
        MartingaleNP.read_files([], {})
    system = tiny().fit(X, Y)
    with pytest.raises(InputError, match="nothing to tell"):
        system.apply_files([str(path)], tmp_path, {"columns": "x"})


@pytest.mark.skipif(not available("PIL"), reason="Pillow is not installed")
def test_images_are_learnt_and_completed(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(DigitTasks().images()[:4]):
        write_image(folder / f"{i}.png", image[None])
    sample = MartingaleNP.read_files([folder], {})
    assert sample.X.shape == (256, 2) and len(np.unique(sample.named["tasks"])) == 4
    system = tiny().fit(sample.X, sample.y, **sample.named)
    applied = system.apply_files([str(folder / "0.png")], tmp_path, {"keep": "0.4"})
    assert applied.files[0].is_file() and set(applied.pictures) == {"completed"}
    write_image(tmp_path / "mask.png", np.eye(8, dtype=np.float32)[None])
    applied = system.apply_files([str(folder / "0.png")], tmp_path, {"mask": str(tmp_path / "mask.png")})
    assert applied.table[1][0][1] == 8
    write_image(tmp_path / "small.png", np.ones((1, 4, 4), dtype=np.float32))
    for options, error in (
        ({}, ConfigError),
        ({"keep": "all"}, ConfigError),
        ({"mask": str(tmp_path / "small.png")}, InputError),
    ):
        with pytest.raises(error):
            system.apply_files([str(folder / "0.png")], tmp_path, options)
    with pytest.raises(CapabilityError, match="pixels have two"):
        tiny().fit(X, Y).apply_files([str(folder / "0.png")], tmp_path, {"keep": "0.5"})
    assert set(system.pictures()) == {"functions"}


def test_pictures_show_prior_and_posterior():
    found = tiny().fit(X, Y).pictures()
    assert set(found) == {"prior", "posterior"}
    assert "known" in found["posterior"].lines and "known" not in found["prior"].lines


# Prices ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not available("statsmodels"), reason="statsmodels is not installed")
def test_years_are_priced():
    source = MartingaleNP.priced_on("regression")["sea temperatures"]
    assert MartingaleNP.priced_on("classification") == {}
    small, large = source.split(3, 5), source.split(8, 5)
    assert np.array_equal(small.test.X, large.test.X) and np.array_equal(small.train.X, large.train.X[:3])
    assert not set(large.train.X[:, 0]) & set(large.test.X[:, 0])
    assert sea_temperatures().shape == (61, 12)
    with pytest.raises(InputError):
        YearSource().split(2, 0)
    system = tiny()
    for make in (
        lambda: tiny(x_range=(1.0, 12.0)),
        *(lambda make=make: make(0) for make in system.plain_baselines().values()),
    ):
        model = make()
        model.fit(small.train.X, small.train.y)
        losses = system.losses(model, small.test)
        assert list(losses) == ["negative log density", "root mean square error"]
        assert all(np.isfinite(value) for value in losses.values())


def test_a_joint_normal_is_conditioned_on_the_known_months():
    """Two months that are one: the second is told as the first, nearly without doubt; a third one by itself."""
    rng = np.random.default_rng(1000)
    years = rng.normal(20, 2, (4000, 12))
    years[:, 1] = years[:, 0] + 3 + rng.normal(0, 0.1, 4000)
    dist = JointNormal(years).given(np.array([0]), np.array([25.0]), np.array([1, 2]))
    sd = dist.variance().sqrt().numpy()
    assert dist.mean().numpy() == pytest.approx([28.0, 20.0], abs=0.3)
    assert sd[0] < 0.6 and sd[1] == pytest.approx(2.0, rel=0.05)  # the covariance is shrunk


@pytest.mark.skipif(not available("statsmodels"), reason="statsmodels is not installed")
def test_the_other_years_leave_out_the_one_that_is_told():
    years, known, asked = sea_temperatures(), np.array([0, 4, 11]), np.array([2, 7])
    found = OtherYears().fit(known[:, None] + 1.0, years[30, known]).predict_dist(asked[:, None] + 1.0)
    want = JointNormal(np.delete(years, 30, axis=0)).given(known, years[30, known], asked)
    assert torch.allclose(found.mean(), want.mean()) and torch.allclose(found.variance(), want.variance())
    with_it = JointNormal(years).given(known, years[30, known], asked)
    assert not torch.allclose(found.mean(), with_it.mean())
    with pytest.warns(ForeknowWarning, match="no year of the record"):
        other = OtherYears().fit(X, Y)
    assert other.predict(NEW) == pytest.approx(np.full(3, Y.mean()))


def test_training_at_first_use_is_told(monkeypatch):
    def pretrain(self, **options):
        self.network_, self._source = trained_now.network_, trained_now._source
        return self

    trained_now = tiny(attentive=True).pretrain()
    monkeypatch.setattr(MartingaleNP, "pretrain", pretrain)
    with pytest.warns(ForeknowWarning, match="trained now, for 1500 steps"):
        MartingaleNP(attentive=True, random_state=0).condition(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MartingaleNP(attentive=True, weights="fit", random_state=0).condition(X, Y)  # asked for


def test_plain_methods_do_what_they_say():
    gp = PlainGP().fit(X, Y)
    assert gp.predict(NEW) == pytest.approx(np.sin(NEW[:, 0]), abs=0.15)
    line = PlainGP().fit(X[:4], X[:4, 0]).predict_dist(X[:4]).variance().sqrt().numpy()
    assert (line > 0.05 * X[:4, 0].std()).all()  # noise has a floor: three rows are no proof of exactness
    mean = PlainMean().fit(X, Y).predict_dist(NEW)
    assert mean.mean().numpy() == pytest.approx(np.full(3, Y.mean()))
    assert MartingaleNP().losses(PlainMean().fit(X, Y), Sample(NEW, np.sin(NEW[:, 0])))


def test_no_global_randomness_in_condition(trained):
    with seeded_init(0):
        before = torch.random.get_rng_state()
        trained.condition(X, Y).sample(NEW, 2)
        assert torch.equal(before, torch.random.get_rng_state())
    assert torch_stream(0, "x").initial_seed() == torch_stream(0, "x").initial_seed()
