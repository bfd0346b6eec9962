"""Scale mixtures against slow plain versions, their Gaussian limit, quadrature, finite networks and bad input."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import numpy_stream, torch_stream
from foreknow.core.predictive import Gaussian, GaussianMixture, StudentT
from foreknow.functions import NNGP, BurrXII, FixedScale, InverseGamma, LogNormal, NNGPClassifier
from foreknow.functions.scale_mixture_nngp.ensembles import finite_ensemble, trained_law, trained_moments
from foreknow.functions.scale_mixture_nngp.prior import ScalePrior
from foreknow.functions.scale_mixture_nngp.process import NNGPSettings, Process, WideArchitecture, fit_hyper, grid_hyper
from foreknow.functions.scale_mixture_nngp.svtp import SparseProcess, choose_inducing
from foreknow.nn.infinite import FullyConnected

SAMPLED = [BurrXII(2.0, 1.0), BurrXII(3.0, 0.5), LogNormal(2.0, 0.7)]


def table(n: int = 12, d: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch_stream(seed, "table")
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.sin(x[:, 0]) + 0.1 * torch.randn(n, generator=generator, dtype=torch.float64)


def process(prior: ScalePrior, n: int = 12, **named: object) -> Process:
    return Process(WideArchitecture(2), NNGPSettings(1.5, 0.2, 1.3, 0.1, prior), *table(n), **named)  # type: ignore[arg-type]


# The t process ----------------------------------------------------------------------------------------------------


def test_marginal_likelihood_is_that_of_a_multivariate_t() -> None:
    p = process(InverseGamma(1.7, 2.3))
    c = (p.factor @ p.factor.T).numpy()
    expected = stats.multivariate_t(np.zeros(12), 2.3 / 1.7 * c, df=3.4).logpdf(p.y.numpy())
    assert p.log_marginal == pytest.approx(expected, rel=1e-10)


def test_predictive_is_the_ratio_of_joint_and_marginal_densities() -> None:
    """p(y* | y) = p(y, y*) / p(y), both multivariate t."""
    p = process(InverseGamma(1.7, 2.3))
    x_new, y_new = torch.tensor([[0.3, -0.8]], dtype=torch.float64), 0.4
    joint = Process(
        p.architecture, p.hyper, torch.cat([p.x, x_new]), torch.cat([p.y, torch.tensor([y_new], dtype=torch.float64)])
    )
    found = p.predict(x_new)
    assert isinstance(found, StudentT) and float(found.df) == pytest.approx(3.4 + 12)
    assert float(found.log_prob(y_new)) == pytest.approx(joint.log_marginal - p.log_marginal, rel=1e-9)


def test_great_a_and_b_are_the_plain_gaussian_process() -> None:
    t, plain = process(InverseGamma(1e6, 1e6)), process(FixedScale(1.0))
    x_new = table(5, seed=3)[0]
    one, other = t.predict(x_new), plain.predict(x_new)
    assert isinstance(other, Gaussian)
    assert torch.allclose(
        one.quantile(torch.tensor([0.05, 0.5, 0.95])), other.quantile(torch.tensor([0.05, 0.5, 0.95])), rtol=1e-4
    )
    assert t.log_marginal == pytest.approx(plain.log_marginal, abs=1e-3)
    assert InverseGamma(1e6, 1e6).off() == FixedScale(1.0)


def test_mean_does_not_depend_on_the_prior_but_the_width_does() -> None:
    x_new = table(5, seed=3)[0]
    found = [process(prior).predict(x_new) for prior in (InverseGamma(2, 2), FixedScale(), BurrXII())]
    for dist in found[1:]:
        assert torch.allclose(dist.mean(), found[0].mean())
    far = Process(
        WideArchitecture(2), NNGPSettings(1.5, 0.2, 1.3, 0.1, InverseGamma(2, 2)), table()[0], 10 * table()[1]
    )
    assert float((far.predict(x_new).scale / found[0].scale).min()) > 3  # the data's own scale widens the intervals


# Importance sampling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", SAMPLED, ids=repr)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_sampled_likelihood_against_quadrature(prior: ScalePrior, n: int) -> None:
    q, log_det = torch.tensor(1.4 * n, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)

    def integrand(log_s2: float) -> float:
        s2 = torch.tensor(math.exp(log_s2), dtype=torch.float64)
        log_likelihood = -0.5 * (n * math.log(2 * math.pi * float(s2)) + 0.3 + 1.4 * n / float(s2))
        return math.exp(float(prior.log_density(s2)) + log_likelihood + log_s2 + n)

    expected = math.log(integrate.quad(integrand, -12, 12, limit=200)[0]) - n
    assert float(prior.log_marginal(q, log_det, n, n_draws=4000)) == pytest.approx(expected, abs=2e-2)
    assert prior.effective_draws(q, log_det, n, n_draws=1000) > 100


def test_sampling_the_inverse_gamma_agrees_with_its_closed_form() -> None:
    exact, sampled = process(InverseGamma(2, 3)), process(InverseGamma(2, 3), n_draws=4000, importance=True)
    assert sampled.log_marginal == pytest.approx(exact.log_marginal, abs=1e-2)
    x_new = table(4, seed=3)[0]
    levels = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64)
    found = sampled.predict(x_new)
    assert isinstance(found, GaussianMixture)
    assert torch.allclose(found.quantile(levels), exact.predict(x_new).quantile(levels), atol=2e-2)


@pytest.mark.parametrize("prior", [InverseGamma(2.0, 3.0), *SAMPLED], ids=repr)
def test_densities_and_draws_of_the_scales(prior: ScalePrior) -> None:
    grid = torch.linspace(-25, 25, 20_001, dtype=torch.float64)
    density = (prior.log_density(grid.exp()) + grid).exp()
    cumulative = torch.cumulative_trapezoid(density, grid)
    assert float(cumulative[-1]) == pytest.approx(1, abs=1e-3)
    draws = prior.sample_scales(4000, generator=torch_stream(0, "scales"))
    u = np.interp(draws.log().numpy(), grid[1:].numpy(), cumulative.numpy())
    assert stats.kstest(u, "uniform").pvalue > 1e-3


# Settings ---------------------------------------------------------------------------------------------------------


def test_gradient_search_raises_the_likelihood() -> None:
    x, y = table(20)
    start = NNGPSettings(prior=FixedScale())
    before = Process(WideArchitecture(2), start, x, y).log_marginal
    found, value, n_calls = fit_hyper(WideArchitecture(2), start, x, y, fit_prior=True, max_iterations=30, n_draws=100)
    after = Process(WideArchitecture(2), found, x, y).log_marginal
    assert after == pytest.approx(20 * value, abs=1e-6) and after > before and n_calls > 5


def test_fitting_the_prior_too_switches_it_off() -> None:
    """The likelihood of a mixture is at most that of its best component: a grows to its bound."""
    x, y = table(25)
    found, _, _ = fit_hyper(WideArchitecture(2), NNGPSettings(), x, y, fit_prior=True, max_iterations=60, n_draws=100)
    assert isinstance(found.prior, InverseGamma) and found.prior.a > 50
    kept, _, _ = fit_hyper(WideArchitecture(2), NNGPSettings(), x, y, fit_prior=False, max_iterations=60, n_draws=100)
    assert kept.prior == InverseGamma()


def test_a_known_prior_keeps_the_size_of_the_last_layer() -> None:
    x, y = table()
    for prior in (InverseGamma(3, 3, known=True), FixedScale(2.0, known=True)):
        found, _, _ = fit_hyper(
            WideArchitecture(2), NNGPSettings(prior=prior), x, y, fit_prior=True, max_iterations=10, n_draws=10
        )
        assert found.readout_var == 1.0 and found.prior == prior
    assert InverseGamma(3, 3, known=True).off() == FixedScale(1.0, known=True)


def test_grid_values_are_those_of_the_process() -> None:
    x, y = table()
    found, value, _ = grid_hyper(WideArchitecture(2), NNGPSettings(), x, y, fit_prior=True, n_draws=10)
    assert 12 * value == pytest.approx(Process(WideArchitecture(2), found, x, y).log_marginal, abs=1e-6)
    assert isinstance(found.prior, InverseGamma) and found.prior.a in (1, 2, 3)


# The system -------------------------------------------------------------------------------------------------------


def test_units_of_the_target_come_back() -> None:
    x, y = (part.numpy() for part in table(15))
    one = NNGP(depth=1, max_iterations=10).fit(x, y)
    other = NNGP(depth=1, max_iterations=10).fit(x, 1000 * y - 7)
    assert np.allclose(1000 * one.predict(x) - 7, other.predict(x), atol=1e-3)
    assert other.log_marginal_ == pytest.approx(one.log_marginal_ - 15 * math.log(1000), abs=1e-4)
    given = torch.from_numpy(y)
    gap = one.predict_dist(x).log_prob(given) - other.predict_dist(x).log_prob(1000 * given - 7)
    assert torch.allclose(gap, torch.full_like(gap, math.log(1000)), atol=1e-4)


def test_rows_of_norm_zero_and_twins() -> None:
    x = np.vstack([np.zeros((2, 2)), np.eye(2), np.eye(2)])
    dist = NNGP(depth=3, max_iterations=10).fit(x, [0.0, 0.1, 1.0, 2.0, 1.1, 1.9]).predict_dist(x)
    assert bool(dist.quantile(0.9).isfinite().all())


def test_bad_input_of_its_own() -> None:
    x, y = (part.numpy() for part in table(6))
    with pytest.raises(InputError, match="images of shape"):
        NNGP(image_shape=(1, 2, 2)).fit(x, y)
    with pytest.raises(InputError, match="at most 5000"):
        NNGP().fit(np.random.default_rng(0).normal(size=(5001, 1)), np.arange(5001.0))
    with pytest.raises(ConfigError, match="closed form"):
        NNGP(BurrXII(), inference="exact").fit(x, y)
    with pytest.raises(ConfigError, match="fixed scale"):
        NNGP("off", inference="importance").fit(x, y)
    with pytest.raises(ConfigError, match="last layer"):
        from foreknow.functions import SingularActivation

        NNGP(SingularActivation()).fit(x, y)
    with pytest.raises(ConfigError, match="InverseGamma: a"):
        InverseGamma(0.0, 1.0)
    with pytest.raises(ConfigError, match="no density"):
        FixedScale().log_density(torch.ones(1))


def test_curve_of_one_column() -> None:
    x, y = (part.numpy() for part in table(8, d=1))
    assert set(NNGP(depth=1, max_iterations=5).fit(x, y).pictures()) == {"curve"}


# Ensembles --------------------------------------------------------------------------------------------------------

KERNEL = FullyConnected(2, "relu", 2.0, 0.1, 1.0, 0.0)


@pytest.mark.parametrize("training", ["none", "readout"])
def test_finite_networks_follow_the_student_t(training: str) -> None:
    x, y = table(3)
    x_new = torch.tensor([[0.4, -1.0]], dtype=torch.float64)
    f = finite_ensemble(
        KERNEL, InverseGamma(2, 2), x_new, n=800, width=256, generator=torch_stream(0, "ensemble"),
        targets=None if training == "none" else (x, y),
    )  # fmt: skip
    law = trained_law(KERNEL, InverseGamma(2, 2), x, y, x_new, training=training)
    assert isinstance(law, StudentT) and float(law.df) == 4
    u = law.cdf(f)[:, 0].numpy()
    assert stats.kstest(u, "uniform").pvalue > 1e-3


def test_trained_networks_fit_and_their_spread_vanishes_at_the_rows() -> None:
    x, y = table(4)
    for training in ("readout", "all"):
        mean, covariance = trained_moments(KERNEL, x, y, x, training=training)
        assert torch.allclose(mean, y, atol=1e-6)
        assert float(covariance.abs().max()) < 1e-6
    far = trained_moments(KERNEL, x, y, 3 * x + 1, training="all")[1]
    assert float(torch.linalg.eigvalsh(far)[0]) > -1e-8 and float(far.diagonal().min()) > 1e-3


def test_readout_training_is_gaussian_process_regression_without_noise() -> None:
    x, y = table(4)
    x_new = table(3, seed=1)[0]
    mean, covariance = trained_moments(KERNEL, x, y, x_new, training="readout")
    k, cross = KERNEL(x), KERNEL(x_new, x)
    assert torch.allclose(mean, cross @ torch.linalg.solve(k, y))
    assert torch.allclose(covariance, KERNEL(x_new) - cross @ torch.linalg.solve(k, cross.T))


# The sparse process -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("prior", [InverseGamma(2.0, 3.0), FixedScale(1.5), LogNormal()], ids=repr)
def test_divergence_against_sampling(prior: ScalePrior, whiten: bool) -> None:
    """E_q log q(u, s2) - log p(u, s2), by draws."""
    x, _ = table(4)
    net = SparseProcess(WideArchitecture(1), prior, x, 2, whiten=whiten)
    generator = torch_stream(0, "kl")
    with torch.no_grad():
        for value in (net.mean, net.log_sd):
            value.copy_(0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
        net.log_a.fill_(math.log(4.0)), net.log_size.fill_(math.log(5.0 / 4.0))
        n = 40_000
        s2 = net.draw_scales(n, generator)
        _, _, factor = net.latent(net.kernels(x))
        z = torch.randn(n, *net.mean.shape, generator=generator, dtype=torch.float64)
        u = net.mean + s2.sqrt()[:, None, None] * net.log_sd.exp() * z
        root = torch.eye(4, dtype=torch.float64) if whiten else factor
        white = torch.linalg.solve_triangular(root, u, upper=False)
        log_q = (-0.5 * z.square() - net.log_sd).sum((1, 2))
        log_p = -0.5 * (white.square() / s2[:, None, None]).sum((1, 2)) - 2 * root.diagonal().log().sum()
        if not isinstance(prior, FixedScale):
            own = stats.invgamma(4.0, scale=5.0).logpdf(s2.numpy())
            log_q, log_p = log_q + torch.from_numpy(own), log_p + prior.log_density(s2)
        expected = (log_q - log_p).mean()
        assert float(net.divergence(factor, s2)) == pytest.approx(float(expected), rel=0.02, abs=0.15)


def small_sparse(prior: ScalePrior, *, whiten: bool) -> tuple[SparseProcess, torch.Tensor, torch.Tensor]:
    """Four inducing points, two classes, some posterior; rows and codes."""
    x, _ = table(10)
    net = SparseProcess(WideArchitecture(1), prior, x[:4], 2, whiten=whiten)
    generator = torch_stream(0, "sparse")
    with torch.no_grad():
        for value in (net.mean, net.log_sd, net.log_readout_var):
            value.copy_(0.5 * torch.randn(value.shape, generator=generator, dtype=torch.float64))
    return net, x, torch.arange(10) % 2


@pytest.mark.parametrize("whiten", [False, True])
def test_bound_against_quadrature_over_the_scale(whiten: bool) -> None:
    """Every expectation by sums on grids of s2 and of the difference of the two latents, without draws."""
    net, x, codes = small_sparse(InverseGamma(2.0, 3.0), whiten=whiten)
    with torch.no_grad():
        net.log_a.fill_(math.log(3.0)), net.log_size.fill_(math.log(1.4))
        draws = {"generator": torch_stream(1, "z"), "scales": torch_stream(1, "s2")}
        found = float(net.loss(net.kernels(x), codes, 10, n_samples=100_000, **draws))
        mean, variance, factor = (part.numpy() for part in net.latent(net.kernels(x)))
    a, b = 3.0, 1.4 * 3.0
    s2 = stats.invgamma.ppf((np.arange(4000) + 0.5) / 4000, a, scale=b)  # midpoints of equal probability
    sign = np.where(codes.numpy() == 0, 1.0, -1.0)
    gap, spread = sign * (mean[:, 0] - mean[:, 1]), variance.sum(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    difference = gap[:, None, None] + np.sqrt(s2[:, None] * spread[:, None, None]) * nodes  # (rows, s2, nodes)
    expected = -(np.logaddexp(0, -difference) @ weights / weights.sum()).mean()

    k = np.eye(4) if whiten else factor @ factor.T  # of the inducing values, or of the white ones
    mu, sd = net.mean.detach().numpy(), net.log_sd.detach().exp().numpy()
    own, prior = stats.invgamma(a, scale=b), stats.invgamma(2.0, scale=3.0)
    divergence = (own.logpdf(s2) - prior.logpdf(s2)).mean()
    for c in range(2):
        mahalanobis = mu[:, c] @ np.linalg.solve(k, mu[:, c])
        given = [
            np.linalg.slogdet(k)[1] - np.log(sd[:, c] ** 2).sum() - 4,
            np.trace(np.linalg.solve(k, np.diag(sd[:, c] ** 2))),
        ]
        divergence += 0.5 * (sum(given) + mahalanobis * (1 / s2).mean())
    assert found == pytest.approx(divergence / 10 - expected, rel=2e-3)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_certain_scale_is_the_sparse_gaussian_process(whiten: bool) -> None:
    """In the limit of a narrow q and prior the loss, its gradients and the predictions are those of the control."""
    found = []
    for prior in (InverseGamma(1e10, 1e10), FixedScale(1.0)):
        net, x, codes = small_sparse(prior, whiten=whiten)
        with torch.no_grad():
            net.log_a.fill_(math.log(1e10))
        draws = {"generator": torch_stream(1, "z"), "scales": torch_stream(1, "s2")}
        loss = net.loss(net.kernels(x), codes, 10, n_samples=50, **draws)
        gradients = torch.autograd.grad(loss, [net.mean, net.log_sd, net.log_readout_var, net.log_w_var])
        z = torch.randn(50, 2, generator=torch_stream(2, "z"), dtype=torch.float64)
        log_p = net.log_proba(x, z, net.draw_scales(50, torch_stream(2, "s2")).detach())
        found.append((loss, *gradients, log_p))
    for random, fixed in zip(*found):
        assert torch.allclose(random, fixed, atol=1e-5), (random - fixed).abs().max()


def test_training_with_a_certain_scale_is_that_of_the_control() -> None:
    """The same batches and draws: a narrow scale ends where the fixed one does."""
    x = numpy_stream(0, "certain").normal(size=(30, 2))
    settings = {"depth": 1, "n_inducing": 6, "n_epochs": 12, "batch_size": 15, "n_test_samples": 200, "random_state": 0}
    on, off = (NNGPClassifier(p, **settings).fit(x, x[:, 0] > 0) for p in (InverseGamma(1e4, 1e4), "off"))
    assert np.allclose(on.predict_proba(x), off.predict_proba(x), atol=0.02)
    assert on.bound_ == pytest.approx(off.bound_, abs=1)


def test_latents_at_the_inducing_points_are_the_variational_ones() -> None:
    x = 3 * torch.eye(4, dtype=torch.float64)
    net = SparseProcess(WideArchitecture(1, "erf"), InverseGamma(), x, 3)
    with torch.no_grad():
        net.mean.copy_(torch.arange(12.0).reshape(4, 3))
        mean, variance, _ = net.latent(net.kernels(x))
    assert torch.allclose(mean, net.mean, atol=0.01)
    assert torch.allclose(variance, (2 * net.log_sd).exp(), atol=0.01)


def test_inducing_points_come_evenly_from_the_classes() -> None:
    codes = torch.tensor([0] * 50 + [1] * 5 + [2] * 20)
    chosen = codes[choose_inducing(codes, 12, torch_stream(0, "inducing"))]
    assert torch.bincount(chosen).tolist() == [4, 4, 4]
    assert len(choose_inducing(codes, 500, torch_stream(0, "inducing"))) == 75


def test_classifier_learns_and_its_control_has_no_random_scale() -> None:
    rng = numpy_stream(0, "moons")
    x = rng.normal(size=(80, 2))
    y = np.where(x[:, 0] * x[:, 1] > 0, "same", "other")
    settings = {
        "depth": 2,
        "n_inducing": 40,
        "n_epochs": 40,
        "batch_size": 40,
        "n_test_samples": 200,
        "random_state": 0,
    }
    on, off = NNGPClassifier(**settings).fit(x, y), NNGPClassifier("off", **settings).fit(x, y)
    assert (on.predict(x) == y).mean() > 0.85 and (off.predict(x) == y).mean() > 0.85
    start = 2 + 0.5 * 40 * 2
    assert float(on.network_.log_a) != math.log(start) and float(off.network_.log_a) == math.log(start)
    assert on.bound_ == pytest.approx(off.bound_, abs=5) and -80 * math.log(2) < on.bound_ < 0  # both are trained
    assert NNGPClassifier.published().n_epochs == 300
    one_step = NNGPClassifier.published(n_epochs=1, n_inducing=5, n_test_samples=10, depth=1, random_state=0)
    assert one_step.fit(x[:20], y[:20]).predict_proba(x[:3]).shape == (3, 2)


# The proof --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_proof_runs_and_its_claims_can_fail() -> None:
    evidence = NNGP.prove(preset="quick", seeds=1)
    assert len(evidence.claims) == 17
    assert {row["arm"] for row in evidence.arms} >= {"nngp", "t", "burr", "t-fitted", "sklearn-gp", "svtp", "svgp"}
    assert all(claim.low is not None or claim.high is not None for claim in evidence.claims)


def test_real_sets_have_rows_and_numbers() -> None:
    from foreknow.functions.scale_mixture_nngp.sets import REGRESSION, SMALL

    for name, load in REGRESSION.items():
        X, y = load()
        assert len(X) == len(y) > 40 and X.shape[1] >= 1, name
        assert np.isfinite(X).all() and np.isfinite(y).all() and y.std() > 0, name
        assert (len(y) < 100) == (name in SMALL), name


def test_outliers_and_shift_are_what_they_say() -> None:
    from foreknow.functions.scale_mixture_nngp import proof

    y = np.zeros(40)
    y[::2] = 1.0
    moved = y.copy()
    proof._add_outliers(moved, numpy_stream(0, "outliers"))
    assert np.sum(moved != y) == 4 and np.allclose(np.abs(moved - y)[moved != y], 2.5)
    X = np.linspace(0, 1, 60)[:, None]
    train, test = proof._split(X, "shift", 30, numpy_stream(0, "split"))
    assert not set(train) & set(test) and len(train) == 30
    assert X[train].max() < X[test].min() or X[train].min() > X[test].max()


def test_intervals_over_sets_of_two_splits_are_of_student_t() -> None:
    from foreknow.functions.scale_mixture_nngp.proof import _over_sets

    one = np.array([0.1, 0.3])
    mean, interval = _over_sets({"a": one})
    assert interval is not None and mean == pytest.approx(0.2)
    assert interval == pytest.approx(stats.t.interval(0.95, 1, 0.2, stats.sem(one)))
    _, both = _over_sets({"a": one, "b": one})  # two equal variances of one degree each have two
    assert both == pytest.approx(stats.t.interval(0.95, 2, 0.2, stats.sem(one) / math.sqrt(2)))
    assert _over_sets({"a": np.array([0.2, 0.2])}) == (0.2, (0.2, 0.2))
