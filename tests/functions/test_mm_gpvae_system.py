"""The system: blocks, arms, unequal trials, units, bad input, files, the simple method, price, proof."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from foreknow.cli.main import app
from foreknow.common.errors import CapabilityError, ConfigError, ConvergenceError, ForeknowWarning, InputError
from foreknow.core.evidence import KEYS
from foreknow.core.source import Sample
from foreknow.core.system import load
from foreknow.functions import MMGPVAE, FourierGP, rotating_digits
from foreknow.functions.mm_gpvae import proof
from foreknow.functions.mm_gpvae.baselines import GPFA, DigitSource, FactorsAndComponents
from foreknow.functions.mm_gpvae.measures import bits_per_spike, identification, linear_r2, relative_error
from foreknow.functions.mm_gpvae.training import Fitting, fit_network
from foreknow.functions.mm_gpvae.trials import Units, read_trials

TINY = {
    "hidden_neural": (6, 4), "hidden_behavior": (8, 4), "behavior_variance": 1.0, "epochs": 2, "batch_size": 4,
    "lengthscale": 5.0, "min_lengthscale": 2.0, "random_state": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return rotating_digits(8, 4, n_bins=12, n_neurons=5, size=6)


@pytest.fixture(scope="module")
def fitted(digits):
    return MMGPVAE(**TINY).fit(digits[0].spikes, digits[0].images)


def unequal(trials: np.ndarray) -> list[np.ndarray]:
    return [trial[: 12 - i] for i, trial in enumerate(trials)]


# Learning ----------------------------------------------------------------------------------------------------------


def test_a_latent_that_neurons_follow_is_found() -> None:
    """A slow wave drives every neuron; from other trials it is found, and better than independent bins find it."""
    rng = np.random.default_rng(0)
    time = np.arange(40)
    phase = rng.uniform(0, 2 * np.pi, 40)
    wave = np.sin(2 * np.pi * time / 40 + phase[:, None])
    spikes = rng.poisson(np.exp(wave[..., None] * np.linspace(-1, 1, 8)))
    settings = {"modality": "neural", "n_neural": 1, "n_shared": 0, "hidden_neural": (16,), "lr_neural": 5e-3,
                "epochs": 60, "batch_size": 8, "random_state": 0}  # fmt: skip
    found = {}
    for prior in ("paper", "off"):
        model = MMGPVAE(prior, **settings).fit(spikes[:30])
        z = model.transform(spikes)
        found[prior] = linear_r2((z[:30], wave[:30]), (z[30:], wave[30:]))
        assert model.course_.bounds[-1] > model.course_.bounds[0]
    assert found["paper"] > 0.85 and found["paper"] > found["off"]


def test_arms_differ_in_their_prior_alone(digits) -> None:
    on = MMGPVAE(**TINY)
    arms = on.arms()
    assert set(arms) == {"off", "wrong", "time domain", "no sharing", "neural alone", "behavior alone"}
    assert arms["off"].prior == "off" and arms["wrong"].prior == "wrong"
    assert arms["time domain"].prior == FourierGP(5.0, 2.0, domain="time")
    assert (arms["no sharing"].n_neural, arms["no sharing"].n_shared, arms["no sharing"].n_behavior) == (2, 0, 2)
    sizes = set()
    for name in ("off", "wrong", "time domain"):
        arms[name].fit(digits[0].spikes, digits[0].images)
        sizes.add((sum(p.numel() for p in arms[name].network_.parameters()), arms[name].course_.n_steps))
    on.fit(digits[0].spikes, digits[0].images)
    assert sizes == {(sum(p.numel() for p in on.network_.parameters()), on.course_.n_steps)}


def test_without_shared_latents_spikes_say_nothing_of_behaviour(digits) -> None:
    model = MMGPVAE(**TINY).arms()["no sharing"].fit(digits[0].spikes, digits[0].images)
    predicted = model.predict_behavior(digits[1].spikes)
    np.testing.assert_allclose(predicted, np.broadcast_to(predicted[:1], predicted.shape), atol=1e-5)
    assert model.latents(digits[1].spikes)["shared"].shape == (4, 12, 0)


def test_lengthscales_are_learnt_logged_and_bounded(fitted) -> None:
    course = fitted.course_
    assert len(course.lengthscales) == 2 and len(course.lengthscales[0]) == 3
    assert min(min(row) for row in course.lengthscales) >= 2.0
    assert course.lengthscales[0] != course.lengthscales[1]
    assert {name: len(values) for name, values in fitted.lengthscales_.items()} == {
        "neural": 1,
        "shared": 1,
        "behavior": 1,
    }


def test_a_lengthscale_that_runs_away_is_told(digits) -> None:
    """Far beyond the trial and where it started; a long start in a short trial is nobody's fault."""
    model = MMGPVAE(**{**TINY, "lengthscale": 40.0}).fit(digits[0].spikes, digits[0].images)
    with torch.no_grad():
        model.network_.raw_lengthscale.fill_(6.0)
    fitting = Fitting(1, 4, 1e-3, 1e-3, 1e-3)
    with pytest.warns(ForeknowWarning, match="nearly constant"):
        fit_network(
            model.network_, torch.tensor(digits[0].spikes), None, torch.ones(8, 12), fitting, seed=0,
            device=torch.device("cpu"),
        )  # fmt: skip


def test_a_bound_that_is_not_finite_is_given_up(digits) -> None:
    with pytest.raises(ConvergenceError, match="not finite"):
        MMGPVAE(**{**TINY, "lr_behavior": 1e30, "epochs": 20}).fit(digits[0].spikes, digits[0].images)


# Results -----------------------------------------------------------------------------------------------------------


def test_latents_of_either_recording_or_both(digits, fitted) -> None:
    spikes, images = digits[1].spikes, digits[1].images
    both, sd = fitted.latents(spikes, images, return_sd=True)
    neural, behavior = fitted.latents(spikes), fitted.latents(behavior=images)
    assert {name: values.shape for name, values in both.items()} == dict.fromkeys(
        ("neural", "shared", "behavior"), (4, 12, 1)
    )
    assert all((values > 0).all() for values in sd.values())
    np.testing.assert_allclose(both["neural"], neural["neural"], atol=1e-6)
    np.testing.assert_allclose(both["behavior"], behavior["behavior"], atol=1e-6)
    np.testing.assert_allclose(both["shared"], (neural["shared"] + behavior["shared"]) / 2, atol=1e-5)
    assert not neural["behavior"].any() and not behavior["neural"].any()
    seen = fitted.transform(spikes)
    np.testing.assert_allclose(seen, np.concatenate([neural["neural"], neural["shared"]], -1), atol=1e-6)


def test_rates_are_the_means_of_the_posterior(digits, fitted) -> None:
    """E[exp(C z + d)] by many draws of the coefficients."""
    spikes, network = digits[1].spikes[:1], fitted.network_
    with torch.no_grad():
        q = network.encode(torch.tensor(spikes), None, torch.ones(1, 12))
        noise = torch.randn(20_000, *q.mean.shape[1:], generator=torch.Generator().manual_seed(0))
        z = network.at_bins(q.mean + q.log_sd.exp() * noise)
        slow = network.neural_decoder(z[..., network.of_neurons]).exp().mean(0)
    np.testing.assert_allclose(fitted.rates(spikes)[0], slow.numpy(), rtol=0.05)


def test_score_and_losses_agree_with_the_measures(digits, fitted) -> None:
    test = digits[1]
    scores = fitted.score(test.spikes, test.images)
    assert set(scores) == {"behavior_from_spikes", "behavior", "bits_per_spike"}
    losses = fitted.losses(fitted, Sample(test.spikes, test.images, {"latents": test.latents}))
    assert next(iter(losses)) == "shared_latent" and 0 <= losses["shared_latent"] <= 1
    assert losses["behavior_from_spikes"] == pytest.approx(1 - scores["behavior_from_spikes"])
    assert losses["minus_bits_per_spike"] == pytest.approx(-scores["bits_per_spike"])
    on_calcium = MMGPVAE(**TINY, likelihood="gaussian").fit(test.rates, test.images)
    assert set(on_calcium.score(test.rates, test.images)) == {"behavior_from_spikes", "behavior", "neural"}
    alone = MMGPVAE(**TINY, modality="behavior").fit(test.images)
    assert set(alone.score(test.images)) == {"behavior"}
    assert set(alone.losses(alone, Sample(test.images))) == {"behavior"}


def test_measures_on_known_answers() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=(3, 5, 2))
    assert relative_error(y, y) == 0
    assert relative_error(y, np.broadcast_to(y.mean((0, 1)), y.shape)) == pytest.approx(1)
    assert relative_error(list(y), [trial + 0 for trial in y]) == 0
    with pytest.raises(InputError, match="relative_error"):
        relative_error(y, y[:2])
    spikes = rng.poisson(2.0, (4, 6, 3))
    assert bits_per_spike(spikes, np.full(spikes.shape, 2.0), [2.0, 2.0, 2.0]) == 0
    assert bits_per_spike(np.zeros((1, 2, 1)), np.ones((1, 2, 1)), [1.0]) == 0
    z = rng.normal(size=(6, 50, 3))
    blocks = {
        "neural": 3 * z[..., :1] + 1,
        "shared": -z[..., 1:2],
        "behavior": z[..., :1],
    }  # behaviour found the neural one
    found = identification(blocks, z, blocks, z)
    assert found["r2_neural"] == pytest.approx(1) and found["r2_shared"] == pytest.approx(1)
    assert found["r2_behavior"] < 0.05 and found["leakage"] == pytest.approx(1) and found["shared_in_neural"] < 0.05
    empty = {**blocks, "shared": np.zeros((6, 50, 0))}
    assert identification(empty, z, empty, z)["r2_shared"] == 0


def test_pictures(digits, fitted) -> None:
    assert set(fitted.pictures()) == {"bound", "lengthscales"}
    shown = fitted.show(digits[1].spikes, digits[1].images, trial=1)
    assert set(shown["latents"].lines) == {"neural 1", "shared 1", "behavior 1"}
    assert shown["frames"].row_titles == ["recorded", "rebuilt", "from spikes alone"]
    assert set(fitted.show(behavior=digits[1].images)) == {"latents", "frames"}


# Trials ------------------------------------------------------------------------------------------------------------


def test_trials_of_unequal_length(digits) -> None:
    """Lists go in and come out; a trial alone gives what it gives among others; padding is not looked at."""
    spikes, images = (unequal(part) for part in (digits[0].spikes, digits[0].images))
    model = MMGPVAE(**TINY).fit(spikes, images)
    assert model.n_bins_ == 12
    z = model.latents(spikes, images)["shared"]
    assert [part.shape for part in z] == [(12 - i, 1) for i in range(8)]
    alone = model.latents(spikes[3][None], images[3][None])["shared"]
    np.testing.assert_allclose(alone[0], z[3], atol=1e-5)
    assert [part.shape for part in model.predict(spikes)] == [(12 - i, 6, 6) for i in range(8)]
    assert [part.shape for part in model.rates(spikes)] == [(12 - i, 5) for i in range(8)]
    assert np.isfinite(list(model.score(spikes, images).values())).all()
    with pytest.raises(InputError, match="14 bins"):
        model.transform(np.zeros((1, 14, 5)))


def test_reading_trials() -> None:
    trials = read_trials("t", [np.ones((3, 2)), np.ones((1, 2))], name="X", axes=(3,))
    assert trials.values.shape == (2, 3, 2) and trials.lengths.tolist() == [3, 1] and trials.listed
    assert trials.seen.tolist() == [[True, True, True], [True, False, False]]
    assert not read_trials("t", [np.ones((3, 2)), np.ones((3, 2))], name="X", axes=(3,)).listed
    with pytest.raises(InputError, match=r"X\[1\] have shape \(3,\)"):
        read_trials("t", [np.ones((3, 2)), np.ones((1, 3))], name="X", axes=(3,))
    with pytest.raises(InputError, match=r"X\[1\]"):
        read_trials("t", [np.ones((3, 2)), np.full((1, 2), np.nan)], name="X", axes=(3,))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_units_have_an_inverse(scale: float) -> None:
    values = scale * np.random.default_rng(0).normal(3.0, 2.0, (4, 5, 3))
    values[..., 1] = 0.0
    for one_scale in (True, False):
        units = Units.learn(read_trials("t", values, name="y"), one_scale=one_scale)
        flat = values.reshape(4, 5, 3)
        np.testing.assert_allclose(units.back(units.to(flat)), values, rtol=1e-9, atol=1e-9 * scale)
        assert np.isfinite(units.to(flat)).all() and units.to(flat).std() == pytest.approx(0.8, abs=0.3)


def test_units_do_not_matter(digits) -> None:
    """Behaviour in other units gives the same latents, and predictions in these units."""
    one, other = (MMGPVAE(**TINY).fit(digits[0].spikes, c * digits[0].latents[..., 1:] + c) for c in (1.0, 1000.0))
    np.testing.assert_allclose(
        other.predict(digits[1].spikes), 1000 * one.predict(digits[1].spikes), rtol=1e-3, atol=0.5
    )


# Bad input ---------------------------------------------------------------------------------------------------------


def test_what_are_no_counts_is_refused_with_its_place(digits) -> None:
    spikes, images = digits[0].spikes.copy(), digits[0].images
    for value, at in ((0.5, (2, 3, 1)), (-1.0, (0, 0, 4)), (2e6, (7, 11, 0))):
        wrong = spikes.copy()
        wrong[at] = value
        with pytest.raises(InputError, match=f"trial {at[0]}, bin {at[1]}, neuron {at[2]}") as caught:
            MMGPVAE(**TINY).fit(wrong, images)
        assert "gaussian" in str(caught.value)
    MMGPVAE(**TINY, likelihood="gaussian").fit(spikes + 0.5, images)


def test_recordings_that_do_not_fit_together_are_refused(digits, fitted) -> None:
    spikes, images = digits[0].spikes, digits[0].images
    with pytest.raises(InputError, match="12 bins of neurons and 11 of behaviour"):
        MMGPVAE(**TINY).fit(spikes, images[:, :11])
    with pytest.raises(InputError, match="8 trials of neurons, y has 7"):
        MMGPVAE(**TINY).fit(spikes, images[:7])
    with pytest.raises(InputError, match="give spikes, behavior or both"):
        fitted.latents()
    with pytest.raises(InputError, match="4 neurons came"):
        fitted.latents(spikes[..., :4])
    with pytest.raises(InputError, match=r"\(5, 6\) a bin came"):
        fitted.latents(behavior=images[:, :, :5])
    with pytest.raises(InputError, match="trials of neurons and"):
        fitted.latents(spikes, images[:2])


def test_images_beyond_one_are_told(digits) -> None:
    with pytest.warns(ForeknowWarning, match=r"not in \[0, 1\]"):
        MMGPVAE(**TINY).fit(digits[0].spikes, 255 * digits[0].images)


def test_bad_settings_are_refused(digits) -> None:
    X, y = digits[0].spikes, digits[0].images
    for changes, words in (
        ({"n_neural": 0, "n_shared": 0}, "no latent for neural"),
        ({"n_shared": 0, "n_behavior": 0}, "no latent for behavior"),
        ({"hidden_neural": ()}, "at least one layer"),
        ({"hidden_behavior": (3, 0)}, "hidden_behavior"),
        ({"fusion": "sum"}, "fusion"),
        ({"p_alone": 1.5}, "p_alone"),
    ):
        with pytest.raises(ConfigError, match=words):
            MMGPVAE(**{**TINY, **changes}).fit(X, y)


def test_one_recording_cannot_tell_of_the_other(digits) -> None:
    alone = MMGPVAE(**TINY, modality="neural").fit(digits[0].spikes)
    with pytest.raises(CapabilityError):
        alone.predict(digits[1].spikes)
    with pytest.raises(CapabilityError):
        alone.latents(behavior=digits[1].images)
    with pytest.raises(CapabilityError):
        MMGPVAE(**TINY, modality="behavior").fit(digits[0].images).rates(digits[1].spikes)


# Files -------------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_files_from_the_command_line(digits, tmp_path: Path) -> None:
    lengths = np.array([12, 11, 10, 12, 12, 9, 12, 12])
    np.savez(tmp_path / "train.npz", counts=digits[0].spikes, video=digits[0].images, n=lengths)
    np.savez(tmp_path / "new.npz", spikes=digits[1].spikes, behavior=digits[1].images)
    np.save(tmp_path / "spikes.npy", digits[1].spikes)
    model = tmp_path / "m.safetensors"
    run("fit", "mm-gpvae", tmp_path / "train.npz", "-o", model, "--with", "spikes=counts", "--with", "behavior=video",
        "--with", "lengths=n", "--set", "epochs=2", "--set", "hidden_neural=(6,)", "--set", "hidden_behavior=(8, 4)",
        "--pictures", tmp_path / "drawn")  # fmt: skip
    assert (tmp_path / "drawn" / "bound.png").is_file()
    done = json.loads(run("apply", model, tmp_path / "new.npz", "-o", tmp_path / "out", "--json"))
    assert set(done["scores"]) == {"behavior_from_spikes", "behavior", "bits_per_spike"}
    with np.load(tmp_path / "out" / "latents.npz") as found:
        assert found["shared"].shape == (4, 12, 1) and found["behavior_from_spikes"].shape == (4, 12, 6, 6)
        assert found["rates"].shape == (4, 12, 5) and (found["shared_sd"] > 0).all()
        np.testing.assert_allclose(
            found["shared"], load(model).latents(digits[1].spikes, digits[1].images)["shared"], atol=1e-6
        )
    assert (tmp_path / "out" / "frames.png").is_file()
    run("apply", model, tmp_path / "spikes.npy", "-o", tmp_path / "alone")
    with np.load(tmp_path / "alone" / "latents.npz") as found:
        assert "behavior_from_spikes" not in found and found["behavior_rebuilt"].shape == (4, 12, 6, 6)


def test_files_that_cannot_be_used_are_refused(digits, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", a=digits[0].spikes)
    np.savez(tmp_path / "lengths.npz", spikes=digits[0].spikes, lengths=np.full(8, 13))
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    np.save(tmp_path / "one.npy", digits[0].spikes)
    for names, options, words in (
        (["other.npz"], {}, "named spikes and behavior"),
        (["other.npz"], {"spikes": "b"}, "no array 'b'"),
        (["lengths.npz"], {}, "from 1 to 12"),
        (["broken.npz"], {}, "cannot be read"),
        (["missing.npz"], {}, "there is no file"),
        (["one.csv"], {}, ".npz and .npy"),
        ([], {}, "0 files"),
        (["one.npy", "other.npz"], {}, "must be a .npy"),
    ):
        with pytest.raises(InputError, match=words):
            MMGPVAE.read_files([tmp_path / name for name in names], options)
    with pytest.raises(ConfigError, match="unknown option"):
        MMGPVAE.read_files([tmp_path / "other.npz"], {"spike": "a"})
    with pytest.raises(ConfigError, match="no names"):
        MMGPVAE.read_files([tmp_path / "one.npy"], {"spikes": "a"})
    sample = MMGPVAE.read_files([tmp_path / "one.npy"], {})
    assert sample.y is None and sample.X.shape == (8, 12, 5)


# The simple method, price and proof --------------------------------------------------------------------------------


def test_gpfa_finds_smooth_factors_and_its_lengthscale() -> None:
    """Its posterior is that of the joint normal distribution, and the likelihood finds the lengthscale."""
    rng = np.random.default_rng(0)
    t = np.arange(50)
    root = np.linalg.cholesky(np.exp(-0.5 * ((t[:, None] - t) / 6.0) ** 2) + 1e-3 * np.eye(50))
    z = np.einsum("ts,nsp->ntp", root, rng.normal(size=(30, 50, 2)))
    y = z @ rng.normal(size=(2, 9)) + 1.0 + 0.5 * rng.normal(size=(30, 50, 9))
    model = GPFA(2).fit(list(y[:20]))
    assert model.lengthscale_ == 6.0
    found = np.array(model.transform(list(y)))
    assert min(linear_r2((found[:20], z[:20, :, i]), (found[20:], z[20:, :, i])) for i in (0, 1)) > 0.95
    short = y[0, :7]
    kernel = np.exp(-0.5 * ((t[:7, None] - t[:7]) / 6.0) ** 2) + 1e-3 * np.eye(7)
    c, prior = np.kron(np.eye(7), model.loadings_), np.kron(kernel, np.eye(2))
    evidence = c @ prior @ c.T + np.kron(np.eye(7), np.diag(model.noise_))
    slow = prior @ c.T @ np.linalg.solve(evidence, (short - model.offset_).ravel())
    np.testing.assert_allclose(model.transform([short])[0].ravel(), slow, atol=1e-6)


def test_the_simple_method_shares_what_both_have() -> None:
    rng = np.random.default_rng(1)
    z = np.cumsum(rng.normal(size=(40, 30, 3)), 1)
    z /= z.std()
    spikes = rng.poisson(np.exp(0.5 + 0.6 * z[..., :2] @ rng.normal(size=(2, 20))).clip(max=50))
    moves = z[..., 1:] @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(40, 30, 6))
    model = FactorsAndComponents().fit(spikes[:30], moves[:30])
    train, test = (model.latents(spikes[part], moves[part]) for part in (slice(0, 30), slice(30, 40)))
    found = identification(train, z[:30], test, z[30:])
    assert found["r2_shared"] > 0.85 and found["r2_behavior"] > 0.6
    assert relative_error(moves[30:], model.reconstruct(spikes[30:], moves[30:])["behavior"]) < 0.2
    assert bits_per_spike(spikes[30:], model.rates(spikes[30:]), model.mean_rates_) > 0.1
    with pytest.raises(InputError, match="3 trials of neurons and 2"):
        FactorsAndComponents().fit(spikes[:3], moves[:2])


def test_the_simple_method_is_not_spoilt_by_a_noisy_recording() -> None:
    """Both canonical variates are in the shared block; their average would lose what neurons tell well."""
    rng = np.random.default_rng(3)
    time = np.arange(30)
    cov = np.exp(-0.5 * ((time[:, None] - time) / 6) ** 2) + 1e-3 * np.eye(30)
    z = rng.normal(size=(40, 3, 30)) @ np.linalg.cholesky(cov).T
    z = z.transpose(0, 2, 1)
    spikes = rng.poisson(np.exp(1 + 0.6 * z[..., :2] @ rng.normal(size=(2, 40))).clip(max=50))
    moves = z[..., 1:] @ rng.normal(size=(2, 6)) + 3.0 * rng.normal(size=(40, 30, 6))
    model = FactorsAndComponents().fit(spikes[:30], moves[:30])
    both = [model.latents(spikes[part], moves[part])["shared"] for part in (slice(0, 30), slice(30, 40))]
    alone = [model.latents(spikes[part])["shared"] for part in (slice(0, 30), slice(30, 40))]
    assert both[0].shape[-1] == 2 and alone[0].shape[-1] == 1
    r2_both, r2_alone = (linear_r2((a, z[:30, :, 1]), (b, z[30:, :, 1])) for a, b in (both, alone))
    assert r2_both > r2_alone - 0.01 and r2_alone > 0.9


@pytest.mark.parametrize("n_bins", [5, 8])
def test_short_trials_whose_latents_can_only_be_constant_give_a_warning(n_bins: int) -> None:
    train, _ = rotating_digits(4, 1, n_bins=n_bins, n_neurons=4, size=5)
    model = MMGPVAE(**{**TINY, "lengthscale": 30.0, "min_lengthscale": 10.0})
    with pytest.warns(ForeknowWarning, match="min_lengthscale=10: all latents are constant"):
        model.fit(train.spikes, train.images)
    assert MMGPVAE(**TINY).fit(train.spikes, train.images).network_.basis.shape[0] > 1


def test_the_source_of_a_price_nests_and_knows_its_latents() -> None:
    source = DigitSource("digits", n_test=3, n_max=8, n_bins=9, n_neurons=4, size=6)
    small, large = source.split(5, 2), source.split(8, 2)
    np.testing.assert_array_equal(small.train.X, large.train.X[:5])
    np.testing.assert_array_equal(small.test.X, large.test.X)
    assert small.test.named["latents"].shape == (3, 9, 3) and not small.train.named
    assert not np.array_equal(source.split(5, 3).train.X, small.train.X)
    assert source.content_hash != DigitSource("digits", n_test=4).content_hash


def test_quick_proof_and_presets(tmp_path: Path) -> None:
    evidence = MMGPVAE.prove(preset="quick", seeds=2)
    stored = json.loads(evidence.write(tmp_path).read_text())
    assert set(KEYS) <= set(stored) and len(stored["claims"]) == 11
    assert {arm["arm"] for arm in stored["arms"]} == set(proof.ARMS)
    assert any("There is no warm-up here" in note for note in stored["notes"])
    assert any("first 10% of the epochs" in note for note in proof._notes(proof.SIZES["paper"]))
    seen = next(arm for arm in stored["arms"] if arm["arm"] == "behavior alone")
    assert {"r2_shared", "r2_behavior", "image_error"} <= set(seen) and "bits_per_spike" not in seen
    assert len(stored["arms"]) == 2 * (len(proof.ARMS) + len(proof.FEW))
    with pytest.raises(ConfigError, match="preset"):
        MMGPVAE.prove(preset="huge")


def test_the_published_sizes_take_a_step() -> None:
    train, _ = rotating_digits(2, 1)
    assert train.images.shape == (2, 60, 36, 36) and train.spikes.shape == (2, 60, 100)
    model = MMGPVAE(epochs=1, random_state=0, **proof.SIZES["paper"].system).fit(train.spikes, train.images)
    assert model.network_.behavior_encoder.body[0].weight.shape == (784, 1296)
    assert model.network_.basis.shape == (13, 60) and model.course_.n_steps == 1
