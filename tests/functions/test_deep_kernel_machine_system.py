"""Chains of Gram matrices: limits with known answers, the published objective, Langevin, and the system's inputs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from foreknow.common.errors import ConfigError, ConvergenceError, InputError, ResourceError
from foreknow.common.rng import torch_stream
from foreknow.functions import DeepKernelMachine, DeepKernelNetwork, DeepKernelPrior, GramChain
from foreknow.functions.deep_kernel_machine.kernels import apply_kernel
from foreknow.functions.deep_kernel_machine.langevin import LangevinSettings, optimal_grams, sample_grams
from foreknow.functions.deep_kernel_machine.machine import input_blocks
from foreknow.functions.deep_kernel_machine.proof import prove, tables
from foreknow.nn.inducing import collapsed_bound, kl_of_gram, stable_cholesky
from foreknow.nn.infinite.dense import Gram


def rows(n: int, d: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch_stream(seed, "rows"), dtype=torch.float64)


def geometric(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Point on the geodesic from a to b: a^1/2 (a^-1/2 b a^-1/2)^share a^1/2."""

    def power(m: Tensor, p: float) -> Tensor:
        values, vectors = torch.linalg.eigh(m)
        return (vectors * values**p) @ vectors.T

    half, inverse = power(a, 0.5), power(a, -0.5)
    return half @ power(inverse @ b @ inverse, share) @ half


# Kernels ------------------------------------------------------------------------------------------------------------


def test_kernels_against_their_formulas() -> None:
    x = rows(4)
    gram = x @ x.T / 3
    distance = torch.cdist(x, x).square() / 3
    torch.testing.assert_close(apply_kernel("sqexp", Gram.square(gram)).cross, torch.exp(-0.5 * distance))
    size = gram.diagonal().sqrt()
    angle = (gram / size[:, None] / size).clamp(-1, 1).arccos()
    relu = size[:, None] * size / math.pi * (angle.sin() + (math.pi - angle) * angle.cos())
    found = apply_kernel("arccos", Gram.square(gram)).cross
    torch.testing.assert_close(found, (relu + 0.1) / 1.1, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(apply_kernel("linear", Gram.square(gram)).cross, gram)


# The chain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["sqexp", "arccos"])
def test_infinite_nu_is_exactly_the_wide_network(kernel: str) -> None:
    """The same as `DeepKernelPrior.covariance`, and the same path as a finite nu at its start."""
    x, z = rows(6), rows(9, seed=1)
    settings = {"layers": 2, "kernel": kernel, "normalize": False, "jitter": 0.0}
    exact = DeepKernelPrior(3, layers=2, kernel=kernel).covariance(torch.cat([x, z]))
    for nu in (math.inf, 3.0):
        passed = GramChain(6, nu=nu, **settings)(input_blocks(x, z))
        torch.testing.assert_close(passed.factor @ passed.factor.T, exact[:6, :6])
        torch.testing.assert_close(passed.a @ passed.factor.T, exact[6:, :6])
        torch.testing.assert_close(passed.tt, exact.diagonal()[6:])
        assert float(passed.divergences.detach().abs().max()) < 1e-12


def test_objective_against_the_published_one() -> None:
    """G = V V' / P, KL = 1/2 [tr K^-1 G - log det K^-1 G - P] and log N(y; 0, K(G_L) + s2 I), all dense."""
    p, nu, noise = 5, 2.5, 0.3
    x, y = rows(p), rows(p, 1, seed=2)
    chain = GramChain(p, layers=2, kernel="sqexp", nu=nu, factor="square", normalize=False, jitter=1e-9)
    with torch.no_grad():
        for root in chain.roots:
            root += 0.3 * torch.randn(p, p, generator=torch_stream(4, "root"), dtype=torch.float64)
    passed = chain(input_blocks(x, x))
    found = collapsed_bound(passed.a, passed.tt, y, torch.tensor(noise).double()) - chain.penalty(passed, 1)
    gram, total = x @ x.T / 3, torch.zeros(()).double()
    for root in chain.roots:
        k = apply_kernel("sqexp", Gram.square(gram)).cross
        v = torch.linalg.cholesky(k) @ root * math.sqrt(p)
        gram = v @ v.T / p
        ratio = torch.linalg.solve(k, gram)
        total = total + nu * 0.5 * (ratio.trace() - torch.logdet(ratio) - p)
    last = apply_kernel("sqexp", Gram.square(gram)).cross + noise * torch.eye(p).double()
    likelihood = torch.distributions.MultivariateNormal(torch.zeros(p).double(), last).log_prob(y[:, 0])
    torch.testing.assert_close(found, likelihood - total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_linear_kernels_interpolate_geometrically_to_the_targets(layers: int) -> None:
    """With nu = 1 and no noise the optimum lies on the geodesic from G_0 to Y Y' / C, at l / (L + 1)."""
    p = 4
    x, y = rows(p, 6), rows(p, 7, seed=3)
    found = optimal_grams(x, y, layers=layers, kernel="linear", noise=1e-3)
    first, last = x @ x.T / 6, y @ y.T / 7
    for index, gram in enumerate(found):
        torch.testing.assert_close(gram, geometric(first, last, (index + 1) / (layers + 1)), rtol=2e-2, atol=2e-2)


def test_larger_nu_moves_the_grams_less_and_zero_most() -> None:
    x = rows(10)
    y = torch.sin(3 * x[:, :1])
    wide = torch.stack(optimal_grams(x, y, layers=2, kernel="sqexp", noise=0.1, nu=math.inf))
    gaps = [
        float((torch.stack(optimal_grams(x, y, layers=2, kernel="sqexp", noise=0.1, nu=nu, n_steps=60)) - wide).norm())
        for nu in (0.0, 1.0, 100.0)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.05 * float(wide.norm())


def test_taylor_form_agrees_near_the_prior() -> None:
    x = rows(5)
    found = []
    for divergence in ("exact", "taylor"):
        chain = GramChain(5, layers=1, kernel="sqexp", nu=1.0, divergence=divergence)
        with torch.no_grad():
            chain.roots[0] += 0.01 * torch.randn(5, 5, generator=torch_stream(0, "r"), dtype=torch.float64)
        found.append(float(chain(input_blocks(x, x)).divergences.detach()))
    assert found[0] == pytest.approx(found[1], rel=0.1)


def test_the_placebo_is_far_from_the_prior_of_its_own_points() -> None:
    x = rows(6)
    chain = GramChain(6, layers=1, kernel="sqexp", nu=1.0, turn=torch.tensor([3, 4, 5, 0, 1, 2]), jitter=1e-9)
    passed = chain(input_blocks(x, x))
    k = passed.kernels[0]
    expected = kl_of_gram(k, torch.linalg.cholesky(k[chain.turn][:, chain.turn]))
    torch.testing.assert_close(passed.divergences[0], expected, rtol=1e-3, atol=1e-3)
    assert float(expected.detach()) > 0.1


def test_stabilisers_do_what_they_say() -> None:
    x = rows(5)
    plain, noisy = (GramChain(5, layers=1, nu=1.0, gram_noise=noise)(input_blocks(x, x)) for noise in (0.0, 0.1))
    extra = 0.1 * plain.grams[0].diagonal().mean()
    torch.testing.assert_close(noisy.grams[0], plain.grams[0] + extra * torch.eye(5).double())
    blocks = input_blocks(x, x).normalized()
    assert float(blocks.ii.diagonal().mean()) == pytest.approx(1)


def test_batches_of_the_variational_bound_average_to_the_whole() -> None:
    x, y = rows(8), rows(8, 1, seed=5)
    network = DeepKernelNetwork(rows(3, seed=6), GramChain(3, layers=1, nu=2.0), collapsed=False)
    whole = network.objective(x, y, 8)
    parts = [network.objective(x[i : i + 4], y[i : i + 4], 8) for i in (0, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_log_probabilities_of_classes_are_normalised() -> None:
    network = DeepKernelNetwork(
        rows(4), GramChain(4, layers=1), n_outputs=3, classes=True, generator=torch_stream(0, "draws")
    )
    with torch.no_grad():
        total = network(rows(6, seed=7)).exp().sum(dim=1)
    torch.testing.assert_close(total, torch.ones(6).double())


# Langevin -----------------------------------------------------------------------------------------------------------


def test_wide_processes_come_to_the_optimum_and_narrow_ones_do_not() -> None:
    x = rows(6)
    y = torch.sin(2 * x[:, 0])
    settings = {"layers": 1, "kernel": "sqexp", "noise": 0.1}
    best = optimal_grams(x, y[:, None], **settings)[0]
    wide = optimal_grams(x, y[:, None], nu=math.inf, **settings)[0]
    errors = []
    for width in (16, 256):
        drawn = sample_grams(
            x, y, width, settings=LangevinSettings(500, 150, thin=10), generator=torch_stream(0, str(width)), **settings
        ).grams
        errors.append(float(((drawn[:, 0] - best).norm(dim=(1, 2)) / best.norm()).mean()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.5 * float((wide - best).norm() / best.norm())


def test_without_data_the_dynamics_keep_to_the_prior() -> None:
    """A noise so large that the target says nothing: the mean Gram matrix is the kernel's."""
    x = rows(4)
    drawn = sample_grams(
        x, torch.zeros(4).double(), 200, layers=1, kernel="sqexp", noise=1e6,
        settings=LangevinSettings(600, 100, thin=5), generator=torch_stream(0, "prior"),
    ).grams  # fmt: skip
    expected = apply_kernel("sqexp", Gram.square(x @ x.T / 3)).cross
    torch.testing.assert_close(drawn[:, 0].mean(dim=0), expected, atol=0.06, rtol=0)


# The prior and the system -------------------------------------------------------------------------------------------


def test_draws_have_the_covariance_of_the_wide_network() -> None:
    prior = DeepKernelPrior(n_features=2, layers=1, noise=0.0)
    batch = prior.sample(4000, n_context=2, n_query=1, generator=torch_stream(0, "draws"), dtype=torch.float64)
    covariance = prior.covariance(batch.context_x)
    products = batch.context_y[:, 0] * batch.context_y[:, 1]
    assert float(products.mean()) == pytest.approx(float(covariance[:, 0, 1].mean()), abs=0.06)


def test_off_is_nu_infinity_and_learns_no_representation() -> None:
    x = rows(60).numpy()
    y = np.sin(2 * x[:, 0])
    settings = {"nu": 5.0, "layers": 2, "inducing": 15, "n_warm": 20, "n_steps": 20, "random_state": 0}
    on, off = DeepKernelMachine(**settings).fit(x, y), DeepKernelMachine("off", **settings).fit(x, y)
    assert off.nu_ == math.inf
    assert not off.representation_shift_().any()
    assert (on.representation_shift_() > 0).all()
    same = DeepKernelMachine(**{**settings, "nu": math.inf}).fit(x, y)
    np.testing.assert_array_equal(same.predict(x), off.predict(x))
    names = {"divergence", "effective_rank", "alignment"}
    assert all(set(layer) == names and 0 <= layer["alignment"] <= 1 for layer in on.layers_(x, y))
    assert len(on.grams_) == 2
    assert on.grams_[0].shape == (15, 15)


def test_auto_chooses_from_what_it_was_given() -> None:
    x = rows(50).numpy()
    model = DeepKernelMachine(nus=(10.0, 1e4), layers=1, inducing=10, n_warm=2, n_steps=10, random_state=0).fit(
        x, x[:, 0]
    )
    assert model.nu_ in (10.0, 1e4)
    assert {entry["nu"] for entry in model.chosen_from_} == {math.inf, 10.0, 1e4}
    best = min((e for e in model.chosen_from_ if e["nu"] < math.inf), key=lambda entry: entry["loss"])
    assert (model.nu_, model.steps_) == (best["nu"], best["steps"])


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_all_rows_and_sparse_agree_when_the_inducing_points_are_the_rows(optimizer: str) -> None:
    x = rows(20).numpy()
    y = np.sin(x[:, 0])
    settings = {
        "nu": 20.0,
        "layers": 1,
        "n_steps": 20,
        "optimizer": optimizer,
        "early_stopping": False,
        "random_state": 0,
    }
    full = DeepKernelMachine(inducing="full", **settings).fit(x, y)
    sparse = DeepKernelMachine(inducing=20, learn_inducing=False, **settings).fit(x, y)
    np.testing.assert_allclose(full.predict(x), sparse.predict(x), atol=1e-2)  # the rows stand in another order
    assert full.holds_rows_


def test_classes_are_learnt() -> None:
    x = rows(120).numpy()
    label = np.array(["a", "b", "c"])[(x[:, 0] > 0).astype(int) + (x[:, 0] > 0.8)]
    model = DeepKernelMachine(
        task="classification", nu=100.0, layers=1, inducing=20, n_warm=60, n_steps=20, folds=1, random_state=0
    ).fit(x[:90], label[:90])
    assert np.mean(model.predict(x[90:]) == label[90:]) > 0.8


def test_fewer_different_rows_than_inducing_points_and_duplicates() -> None:
    x = np.repeat(rows(4).numpy(), 6, axis=0)
    model = DeepKernelMachine(nu=10.0, layers=1, inducing=50, n_warm=2, n_steps=5, random_state=0).fit(x, x[:, 0])
    assert len(model.network_.inducing) == 4
    full = DeepKernelMachine(nu=10.0, layers=1, inducing="full", n_warm=2, n_steps=5, random_state=0).fit(x, x[:, 0])
    assert np.isfinite(full.predict(x)).all()
    assert max(full.network_.chain.jitters) > 0


def test_constant_columns_do_not_matter() -> None:
    x = rows(30).numpy()
    wide = np.column_stack([x, np.full(30, 7.0)])
    model = DeepKernelMachine(nu=10.0, layers=1, inducing=8, n_warm=2, n_steps=5, random_state=0).fit(wide, x[:, 0])
    assert np.isfinite(model.predict(wide)).all()


def test_too_many_rows_at_once_are_refused() -> None:
    with pytest.raises(ResourceError, match="inducing=200"):
        DeepKernelMachine(inducing="full").fit(np.zeros((3001, 1)), np.zeros(3001))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nu": -1.0}, "nu"),
        ({"nu": float("nan")}, "nu"),
        ({"nus": ()}, "nus"),
        ({"nus": ("auto",)}, "nus"),
        ({"inducing": 0}, "inducing"),
        ({"optimizer": "lbfgs", "batch_size": 4}, "lbfgs"),
        ({"kernel": "cubic"}, "kernel"),
        ({"jitter": 1.0}, "jitter"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DeepKernelMachine(**settings).fit(np.eye(3), np.arange(3.0))


def test_layers_wants_as_many_targets_as_rows() -> None:
    x = rows(25).numpy()
    model = DeepKernelMachine(nu=10.0, layers=1, inducing=5, n_warm=2, n_steps=2, random_state=0).fit(x, x[:, 0])
    with pytest.raises(InputError, match="25 rows and 3 targets"):
        model.layers_(x, np.zeros(3))


def test_comparisons_fit_and_say_how_sure_they_are() -> None:
    from foreknow.functions.deep_kernel_machine.arms import MLP, SparseGP

    x = rows(80).numpy()
    y = 3 + np.sin(x[:, 0])
    for learner in (MLP(20, random_state=0), SparseGP(10, 60, random_state=0)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dist = learner.fit(x[:60], y[:60]).predict_dist(x[60:])
        assert float((dist.mean() - torch.as_tensor(y[60:])).abs().mean()) < 1
        assert float(dist.variance().min()) > 0


def test_the_proof_runs_in_small() -> None:
    evidence = prove(preset="quick", seeds=2)
    assert {record["proof"] for record in evidence.arms} == {"T", "S"}
    assert len(tables(100)) >= 2


def test_the_paper_preset_takes_a_step() -> None:
    """300 inducing points, three layers: one step of the optimiser."""
    x = rows(320).numpy()
    model = DeepKernelMachine(nu=10.0, inducing=300, n_warm=2, n_steps=1, early_stopping=False, random_state=0).fit(
        x, x[:, 0]
    )
    assert model.grams_[0].shape == (300, 300)


def test_gram_matrices_can_be_looked_at() -> None:
    x = rows(25).numpy()
    model = DeepKernelMachine(nu=10.0, layers=2, inducing=5, n_warm=2, n_steps=2, random_state=0).fit(x, x[:, 0])
    assert len(model.pictures()["grams"].images[0]) == 2


def test_stored_factor_of_the_output_is_the_best() -> None:
    x, y = rows(12), rows(12, 1, seed=8)
    network = DeepKernelNetwork(x, GramChain(12, layers=1, nu=math.inf, jitter=1e-10), noise=0.2)
    network.settle(x, y)
    mean, variance = network.moments(x)
    k = network.chain(input_blocks(x, x))
    dense = k.factor @ k.factor.T
    inverse = torch.linalg.inv(dense + 0.2 * torch.eye(12).double())
    torch.testing.assert_close(mean, dense @ inverse @ y, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(variance[:, 0], (dense - dense @ inverse @ dense).diagonal(), atol=1e-5, rtol=1e-5)
    assert stable_cholesky(dense)[1] < 1e-3


def test_samples_are_as_far_from_the_optimum_as_independent_ones() -> None:
    """Wishart samples of mean G are sqrt((tr(G)^2 + |G|^2) / N) away; a step that is too long is refused."""
    x = rows(6)
    y = torch.sin(2 * x[:, 0])
    settings = {"layers": 1, "kernel": "sqexp", "noise": 0.05}
    best = optimal_grams(x, y[:, None], **settings)[0]
    chain = sample_grams(
        x, y, 256, settings=LangevinSettings(1000, 300, thin=10), generator=torch_stream(1, "exact"), **settings
    )
    found = float((chain.grams[:, 0] - best).square().sum(dim=(1, 2)).mean().sqrt())
    expected = float(((best.trace().square() + best.square().sum()) / 256).sqrt())
    assert found == pytest.approx(expected, rel=0.4)
    assert chain.acceptance > 0.9
    with pytest.raises(ConvergenceError, match="too long"):
        sample_grams(
            x, y, 256, settings=LangevinSettings(100, 30, step=0.5), generator=torch_stream(1, "long"), **settings
        )


def test_the_wide_network_comes_first_and_is_a_choice() -> None:
    """Held, every nu is inf; and it is what "auto" compares all others with."""
    x, y = rows(8), rows(8, 1, seed=5)
    held, wide = GramChain(4, layers=1, nu=3.0), GramChain(4, layers=1, nu=math.inf)
    with torch.no_grad():
        held.roots[0] += 0.1
    held.held = True
    found = [DeepKernelNetwork(x[:4], chain).objective(x, y, 8) for chain in (held, wide)]
    torch.testing.assert_close(*found)
    held.held = False
    assert not torch.isclose(DeepKernelNetwork(x[:4], held).objective(x, y, 8), found[1])
    noise = rows(60, 1, seed=9).numpy()[:, 0]
    model = DeepKernelMachine(nus=(0.0, math.inf), layers=1, inducing=20, n_warm=60, n_steps=20, random_state=2)
    model.fit(rows(60).numpy(), noise)
    assert model.chosen_from_[0]["nu"] == math.inf
    tried = [entry for entry in model.chosen_from_ if entry["steps"] > 0]
    assert {entry["nu"] for entry in tried} == {0.0, math.inf}
    assert model.nu_ == min(tried, key=lambda entry: entry["loss"])["nu"]
    assert model.representation_shift_().any() == (model.nu_ < math.inf)


def test_infinite_nu_is_stopped_like_any_other() -> None:
    """What is fitted is what was scored: after as many steps, and never after none."""
    x, noise = rows(60).numpy(), rows(60, 1, seed=9).numpy()[:, 0]
    settings = {"layers": 1, "inducing": 20, "n_warm": 5, "n_steps": 20, "folds": 1, "random_state": 2}
    off = DeepKernelMachine("off", **settings).fit(x, noise)
    tried = [entry for entry in off.chosen_from_ if entry["steps"] > 0]
    assert {entry["nu"] for entry in tried} == {math.inf}
    assert off.steps_ == min(tried, key=lambda entry: entry["loss"])["steps"]
    auto = DeepKernelMachine(nus=(1e6, math.inf), **settings).fit(x, noise)
    curves = {
        nu: {entry["steps"]: entry["loss"] for entry in auto.chosen_from_ if entry["nu"] == nu and entry["steps"] > 0}
        for nu in (1e6, math.inf)
    }
    assert curves[math.inf] == {entry["steps"]: entry["loss"] for entry in tried}
    assert auto.steps_ == min(curves[auto.nu_], key=curves[auto.nu_].__getitem__)
    whole = DeepKernelMachine(nus=(10.0, math.inf), early_stopping=False, **settings).fit(x, noise)
    assert {entry["steps"] for entry in whole.chosen_from_} == {0.0, 20.0}
    assert whole.steps_ == 20


def test_the_sparse_process_has_converged() -> None:
    """With all rows as inducing points its bound is the likelihood of the exact process, whose noise it must find."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    from foreknow.functions.deep_kernel_machine.arms import SparseGP

    pytest.importorskip("gpytorch")
    x = rows(60, 2).numpy()
    y = np.sin(2 * x[:, 0]) + 0.1 * rows(60, 1, seed=4).numpy()[:, 0]
    exact = GaussianProcessRegressor(ConstantKernel() * RBF([1.0, 1.0]) + WhiteKernel(0.1), normalize_y=True)
    noise = float(np.exp(exact.fit(x, y).kernel_.theta[-1]))
    found = float(SparseGP(60, random_state=0).fit(x, y).likelihood_.noise.detach())
    assert found == pytest.approx(noise, rel=0.35)


def test_scales_and_noise_are_learnt_before_the_grams_move() -> None:
    """With a target of pure noise the noise must reach its variance, whatever nu is."""
    model = DeepKernelMachine(nu=1000.0, layers=2, inducing=20, early_stopping=False, random_state=0)
    model.fit(rows(120).numpy(), rows(120, 1, seed=9).numpy()[:, 0])
    assert float(model.network_.log_noise.detach().exp()) > 0.8
