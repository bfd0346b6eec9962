"""What only `sequential-cl` has: densities, arms, exact updates, prototypes, replay, no leak."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.functions import ProtoCL, ProtoSettings, PrototypeLearner, PrototypePrior, SequentialBayes
from foreknow.functions.sequential_cl.densities import MixtureDensity, RealNVP
from foreknow.functions.sequential_cl.misspecified import NormalMean, logistic_modes
from foreknow.functions.sequential_cl.proof import SIZES
from foreknow.functions.sequential_cl.prototypes import Prototypes, make_encoder
from foreknow.functions.sequential_cl.sequential import HMCSettings
from foreknow.functions.sequential_cl.streaming import StreamingLDA
from foreknow.functions.sequential_cl.streams import split_by_class, toy_stream
from foreknow.functions.sequential_cl.variational import VariationalClassifier, kl_normal
from foreknow.nn.bayes import mlp

TINY = ProtoSettings(n_epochs=2, hidden=(16, 8), memory=20, batch_size=16, lr=3e-3)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_stream(seed, "sequential"))


def clusters(n: int = 120, n_classes: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(n) % n_classes
    return 3 * np.eye(n_classes)[y] + 0.3 * normal(n, n_classes, seed=seed).double().numpy(), y


# Exact inference ---------------------------------------------------------------------------------------------------


def test_sequence_and_batch_agree_exactly():
    rng = np.random.default_rng(0)
    tasks = [rng.normal(number, 2, 50) for number in range(4)]
    belief = NormalMean(0.5, 3.0, 4.0)
    last, batch = belief.sequence(tasks)[-1], belief.update(np.concatenate(tasks))
    assert last.mean == pytest.approx(batch.mean, abs=1e-10)
    assert last.variance == pytest.approx(batch.variance, abs=1e-10)
    with pytest.raises(ConfigError, match="variance"):
        NormalMean(0.0, 0.0)


def test_the_mean_of_two_tasks_lies_between_them_and_near_the_larger():
    belief = NormalMean(0.0, 1e6, 1.0)
    assert belief.update([-1.0] * 50 + [1.0] * 50).mean == pytest.approx(0, abs=1e-6)
    assert belief.update([-1.0] * 90 + [1.0] * 10).mean == pytest.approx(-0.8, abs=1e-4)
    x = np.linspace(-3, 3, 200)
    modes = logistic_modes([(x, (x > -1).astype(float)), (x, (x > 1).astype(float))])
    boundary = -modes[:, 1] / modes[:, 0]
    assert boundary[0] == pytest.approx(-1, abs=0.1)
    assert boundary[1] == pytest.approx(0, abs=0.1)


# Streams and densities ---------------------------------------------------------------------------------------------


def test_streams():
    tasks = toy_stream(n_tasks=5, n_rows=4000)
    X, y = tasks[2]
    assert X[y == 0].mean(0) == pytest.approx([1.3, 0.4], abs=0.02)
    assert X[y == 0].std(0) == pytest.approx([0.04, 0.2], rel=0.1)
    circle = np.concatenate([X for X, _ in toy_stream("circle", n_rows=2000)])
    assert np.linalg.norm(circle, axis=1).mean() == pytest.approx(2, abs=0.02)
    assert split_by_class([7, 3, 3, 5, 9]).tolist() == [1, 0, 0, 0, 1]
    with pytest.raises(ConfigError, match="n_tasks"):
        toy_stream(n_tasks=6)


def test_the_mixture_density_is_the_one_that_was_fitted():
    draws = torch.cat([normal(300, 3), 4 + 0.5 * normal(300, 3, seed=1)])
    density = MixtureDensity(draws, n_components=(1, 2), generator=torch_stream(0))
    assert density.n_components == 2
    slow = GaussianMixture(2, reg_covar=1e-6, random_state=0).fit(draws.numpy())
    assert density.held_out == pytest.approx(slow.score(draws.numpy()), abs=0.3)
    sampled = density.sample(4000, torch_stream(2))
    assert torch.allclose(sampled.mean(0), draws.mean(0), atol=0.15)
    assert torch.allclose(torch.cov(sampled.T), torch.cov(draws.T), atol=0.4)
    one = MixtureDensity(draws[:300], n_components=(1,), generator=torch_stream(0))
    exact = torch.distributions.MultivariateNormal(one._means[0], torch.cov(normal(300, 3).T, correction=0))
    assert torch.allclose(one.log_prob(normal(5, 3)), exact.log_prob(normal(5, 3)), atol=0.4)


def test_the_flow_is_a_density():
    draws = torch.stack([normal(800), normal(800, seed=1)], 1)
    draws[:, 1] = draws[:, 0] ** 2 + 0.3 * draws[:, 1]  # a banana
    flow = RealNVP(draws, width=24, n_steps=250, generator=torch_stream(0))
    one = MixtureDensity(draws, n_components=(1,), generator=torch_stream(0))
    assert flow.held_out > one.held_out
    grid = torch.linspace(-9, 12, 400)
    points = torch.cartesian_prod(grid, grid)
    assert float(flow.log_prob(points).exp().sum() * (grid[1] - grid[0]) ** 2) == pytest.approx(1, abs=0.03)
    u = normal(6, 2)
    for part in flow._flow:
        assert torch.allclose(part.from_base(part.to_base(u)[0]), u, atol=1e-4)
    assert flow.sample(2000, torch_stream(1)).mean(0).tolist() == pytest.approx(draws.mean(0).tolist(), abs=0.25)
    with pytest.raises(InputError, match="8 draws"):
        RealNVP(draws[:3], generator=torch_stream(0))


def test_kl_of_normals():
    mean, sd = normal(4), normal(4, seed=1).exp()
    other = normal(4, seed=2), normal(4, seed=3).exp()
    slow = torch.distributions.kl_divergence(torch.distributions.Normal(mean, sd), torch.distributions.Normal(*other))
    assert float(kl_normal(mean, sd, *other)) == pytest.approx(float(slow.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("arm", "density"),
    [
        ("sequential", "gmm"),
        ("sequential", "flow"),
        ("joint", "gmm"),
        ("reset", "gmm"),
        ("fine-tune", "gmm"),
        ("vcl", "gmm"),
    ],
)
def test_every_arm_runs_and_reports(arm, density):
    tasks = toy_stream(n_tasks=2, n_rows=60)
    options = {"n_components": (1, 2)} if density == "gmm" else {"n_steps": 5, "width": 8}
    experiment = SequentialBayes(
        mlp(2, 1, (4,), "relu"),
        arm=arm,
        density=density,
        sampler=HMCSettings(2, 20, 20, 4),
        density_options=options,
        n_steps=60,
    ).run(tasks)
    assert experiment.accuracy_matrix_.shape == (2, 2)
    report = experiment.report()[-1]
    assert math.isfinite(report["density_ll"]) == (arm == "sequential")
    assert math.isfinite(report["rhat"]) == (arm in ("sequential", "joint", "reset"))


def test_joint_learns_both_tasks_and_fine_tuning_forgets():
    tasks = toy_stream("circle", n_tasks=3, n_rows=120)
    kept = SequentialBayes(mlp(2, 1, (8,), "relu"), arm="fine-tune", n_steps=300).run(tasks).accuracy_matrix_
    assert kept[0, 0] > 0.9 and kept[-1, -1] > 0.9
    assert kept[-1, 0] < kept[0, 0]


def test_bad_experiments_are_refused():
    tasks = toy_stream(n_tasks=1, n_rows=20)
    with pytest.raises(ConfigError, match="arm"):
        SequentialBayes(mlp(2, 1, (4,)), arm="ewc").run(tasks)
    with pytest.raises(ConfigError, match="3 classes"):
        SequentialBayes(mlp(2, 1, (4,))).run([(tasks[0][0], np.arange(20) % 3)])
    with pytest.raises(InputError, match="no task"):
        SequentialBayes(mlp(2, 1, (4,))).run([])


@pytest.mark.parametrize(
    "y", [np.tile([-1, 1], 10), np.full(20, 0.5), np.array(["a", "b"] * 10), np.arange(19) % 2, np.zeros((20, 1), int)]
)
def test_labels_that_are_no_codes_are_refused(y):
    X = toy_stream(n_tasks=1, n_rows=20)[0][0]
    with pytest.raises(InputError, match="code"):
        SequentialBayes(mlp(2, 1, (4,))).run([(X, y)])
    with pytest.raises(InputError, match="code"):
        PrototypeLearner(make_encoder(2, (4,)), 2, settings=TINY).fit_task(X, y)


# Plain baselines ---------------------------------------------------------------------------------------------------


def test_streaming_lda_is_the_lda_of_all_rows_at_once_whatever_the_order():
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    X, y = clusters(seed=3)
    X = X + normal(*X.shape, seed=4).double().numpy()
    streamed = StreamingLDA(0, shrinkage=1e-9).fit(X, y)
    whole = LinearDiscriminantAnalysis(solver="lsqr").fit(streamed.scale_(X), y)
    assert np.allclose(streamed.predict_proba(X), whole.predict_proba(streamed.scale_(X)), atol=1e-4)
    pieces = StreamingLDA(30, random_state=1).partial_fit(X[:40], y[:40])
    other = StreamingLDA(30, random_state=1).partial_fit(X[:40], y[:40])
    for start in (40, 80):
        pieces.partial_fit(X[start : start + 40], y[start : start + 40])
    for start in (80, 40):
        other.partial_fit(X[start : start + 40], y[start : start + 40])
    assert np.allclose(pieces.predict_proba(X), other.predict_proba(X))
    assert not any(getattr(value, "shape", ())[:1] == (120,) for value in vars(pieces).values())  # no row is kept
    with pytest.raises(InputError, match="label"):
        StreamingLDA().partial_fit(X, y[:-1])


def test_streaming_lda_learns_names_that_come_later():
    X, y = clusters(n_classes=4)
    names = np.array(["d", "a", "ccc", "bb"])[y]
    model = StreamingLDA(random_state=0)
    for name in ("ccc", "a", "d", "bb"):
        model.partial_fit(X[names == name], names[names == name])
    assert model.classes_.tolist() == ["a", "bb", "ccc", "d"]
    assert (model.predict(X) == names).mean() > 0.95
    assert "streaming LDA, frozen features" in ProtoCL().plain_baselines()


def test_a_coreset_keeps_what_variational_inference_with_one_head_forgets():
    """The two tasks have the same rows and other names for them, so that one head must choose."""
    X, y = clusters(120, 2)
    X, y = np.concatenate([X, X]), np.concatenate([y, y + 2])
    plain, kept = (
        VariationalClassifier((8,), memory, n_steps=100, lr=3e-2).fit(X, y).predict_proba(X) for memory in (0, 20)
    )
    old = [found[:, :2].sum(1).mean() for found in (plain, kept)]
    assert old[0] < 0.2  # the later names only
    assert old[1] > old[0] + 0.2  # a coreset has as many rows of either


def test_the_placebo_is_one_that_no_scale_of_the_encoder_undoes():
    X, y = clusters(240)
    models = {name: ProtoCL(name, training=replace(TINY, n_epochs=6), random_state=0) for name in ("paper", "wrong")}
    loss = {
        name: -np.log(model.fit(X, y).predict_proba(X)[np.arange(len(y)), y]).mean() for name, model in models.items()
    }
    assert loss["paper"] < 0.5 * loss["wrong"]
    assert loss["wrong"] > 1


# Prototypes --------------------------------------------------------------------------------------------------------


def test_updates_are_those_of_a_normal_with_known_noise():
    phi, y = normal(30, 4), torch.arange(30) % 3
    state = Prototypes(PrototypePrior(precision=2.0, concentration=1.5), 3, 4, noise=0.1)
    for start in range(0, 30, 7):  # in pieces, a batch of one row too
        state.update(phi[start : start + 7], y[start : start + 7])
    own = phi[y == 1]
    precision = 2 + 10 / 0.1
    assert torch.allclose(state.means[1], own.sum(0) / 0.1 / precision, atol=1e-5)
    assert float(state.precision[1]) == pytest.approx(precision)
    assert state.concentration.tolist() == [11.5] * 3
    new = normal(5, 4, seed=2)
    slow = torch.distributions.Normal(state.means[1], (1 / precision + 0.1) ** 0.5).log_prob(new).sum(1) + math.log(
        1 / 3
    )
    assert torch.allclose(state.log_joint(new)[:, 1], slow, atol=1e-4)
    nearest = Prototypes(PrototypePrior(head="nearest"), 3, 4, noise=0.1)
    nearest.update(phi, y)
    means = torch.stack([phi[y == c].mean(0) for c in range(3)])
    assert torch.equal(nearest.log_joint(new).argmax(1), torch.cdist(new, means).argmin(1))


def test_prediction_never_updates():
    X, y = clusters()
    model = ProtoCL(training=TINY, random_state=0).fit(X, y)
    before = {
        name: getattr(model.learner_.prototypes, name).clone() for name in ("weighted", "precision", "concentration")
    }
    one_by_one = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(10)])
    assert np.allclose(one_by_one, model.predict_proba(X[:10]), atol=1e-5)
    for name, value in before.items():
        assert torch.equal(value, getattr(model.learner_.prototypes, name))


def test_counts_do_not_grow_with_epochs():
    X, y = clusters()
    precisions = []
    for n_epochs in (1, 4):
        settings = ProtoSettings(n_epochs=n_epochs, hidden=(8,), memory=20)
        learner = ProtoCL(training=settings, random_state=0, classes_per_task=6).fit(X, y).learner_
        precisions.append(learner.prototypes.precision)
        assert learner.prototypes.concentration.tolist() == pytest.approx([20 + math.exp(0.78)] * 6)
    assert torch.equal(*precisions)
    assert float(precisions[0][0]) == pytest.approx(1 + 20 / 0.05)


def test_classes_come_later_and_return():
    X, y = clusters()
    learner = PrototypeLearner(make_encoder(6, (16, 8)), 6, settings=TINY)
    learner.fit_task(X[y < 2], y[y < 2])
    proba = learner.predict_proba(X)
    assert (proba[:, 2:] == 0).all()  # never seen: probability 0
    assert np.allclose(proba.sum(1), 1)
    learner.fit_task(X[y == 2], y[y == 2])  # one class alone
    counts = learner.prototypes.concentration.clone()
    learner.fit_task(X[y == 0], y[y == 0])  # an old class again: an update, no reset
    assert float(learner.prototypes.concentration[0] - counts[0]) == 20
    assert float(learner.prototypes.concentration[1]) == float(counts[1])
    learner.fit_task(X[:1], y[:1])  # a batch of one row
    assert (learner.predict_proba(X[y < 3]).argmax(1) == y[y < 3]).mean() > 0.9
    with pytest.raises(InputError, match="code"):
        learner.fit_task(X, y + 1)


def test_replay_keeps_what_fine_tuning_forgets():
    digits = load_digits()
    X, y = digits.data.reshape(-1, 1, 8, 8)[digits.target < 6][:400], digits.target[digits.target < 6][:400]
    settings = ProtoSettings(n_epochs=8, hidden=(32, 16), memory=40, batch_size=32, lr=3e-3)
    arms = {
        "on": ProtoCL(training=settings, random_state=0),
        "no replay": ProtoCL("off", training=replace(settings, memory=0), random_state=0),
    }
    accuracy = {name: (model.fit(X, y).predict(X) == y).mean() for name, model in arms.items()}
    assert accuracy["on"] > 0.9
    assert accuracy["no replay"] < 0.7
    assert set(arms["on"].pictures()) == {"accuracy"}


def test_tasks_by_name_and_a_test_set():
    X, y = clusters()
    when = np.where(y % 2 == 0, "a", "b")
    model = ProtoCL(training=TINY, random_state=0).fit(X, y, tasks=when, test=(X, y, when))
    assert model.task_names_ == ["a", "b"]
    assert model.accuracy_matrix_.shape == (2, 2)
    assert model.accuracy_matrix_[0, 1] == 0  # classes of the second task are not known after the first
    for bad in (when[:-1], np.stack([when, when], 1)):
        with pytest.raises(InputError, match="tasks"):
            ProtoCL(training=TINY).fit(X, y, tasks=bad)
    with pytest.raises(InputError, match="test"):
        ProtoCL(training=TINY).fit(X, y, test=(X, y))


def test_an_encoder_of_ones_own_on_images():
    X, y = normal(40, 1, 4, 4).numpy(), np.arange(40) % 4
    encoder = make_encoder(16, (8,))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = ProtoCL(training=TINY, random_state=0).fit(X, y, encoder=encoder)
    assert model.predict_proba(X).shape == (40, 4)
    assert all(torch.equal(value, encoder.state_dict()[name]) for name, value in before.items())
    with pytest.raises(CapabilityError, match="encoder"):
        model.save("never.safetensors")


def test_the_paper_preset_builds_and_takes_a_step():
    sizes = SIZES["paper"]
    assert sizes.training.hidden == (256, 128) and sizes.sampler.thin == 5
    settings = ProtoSettings(n_epochs=1, hidden=sizes.training.hidden, dropout=0.1, lr=sizes.training.lr)
    X, y = clusters(24)
    assert ProtoCL(training=settings, random_state=0).fit(X, y).n_tasks_ == 3
    with pytest.raises(ConfigError, match="lr"):
        ProtoSettings(lr=0.0)
    with pytest.raises(ConfigError, match="head"):
        PrototypePrior(head="linear")
