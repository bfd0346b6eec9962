"""What makes the network a proximal map, how it is trained, and how its prior is read."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.autograd.functional import jvp, vjp

from foreknow.common.errors import CapabilityError, ConfigError, InputError
from foreknow.common.rng import numpy_stream, seed_of, seeded_init, torch_stream
from foreknow.core.checks import priors as prior_checks
from foreknow.signals import LearnedPrior, ProximalPrior
from foreknow.signals.learned_proximal import proof
from foreknow.signals.learned_proximal.network import LARGE, SMALL, VECTOR, Architecture, build_network
from foreknow.signals.learned_proximal.reading import invert
from foreknow.signals.learned_proximal.training import Stage, denoising_loss, schedule, train_denoiser, warm_up

SMALL_SIZES = {
    "mlp": Architecture("mlp", (3,), **{**VECTOR, "hidden": 8}),
    "small": Architecture("conv", (2, 9, 7), **{**SMALL, "hidden": 4}),
    "large": Architecture("conv", (1, 16, 16), **{**LARGE, "hidden": 3, "beta": 10.0, "alpha": 0.01}),
}
every = pytest.mark.parametrize("architecture", SMALL_SIZES.values(), ids=list(SMALL_SIZES))


def network_of(architecture: Architecture, *, convex: bool = True, seed: int = 0) -> Any:
    with seeded_init(seed):
        return ProximalPrior(convex=convex).wire(build_network(architecture)).double()


def rows(architecture: Architecture, n: int = 3, *, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, *architecture.shape, generator=torch_stream(seed, "rows"), dtype=torch.float64)


def trained(architecture: Architecture, **options: Any) -> Any:
    network = network_of(architecture).float()
    clean = rows(architecture, 20).float()
    train_denoiser(network, clean, [Stage("l1", 8, 1e-2), Stage("matching", 8, 1e-2, 2.0)], sigma=0.3, batch_size=5,
                   seed=0, device="cpu", **options)  # fmt: skip
    return network.double()


# A proximal map ----------------------------------------------------------------------------------------------------


@every
def test_the_derivative_is_symmetric_and_positive_after_training(architecture) -> None:
    network = trained(architecture)
    for seed in range(3):
        x, v, w = (rows(architecture, 1, seed=3 * seed + k) for k in range(3))
        moved_v, moved_w = jvp(network, x, v)[1], jvp(network, x, w)[1]
        assert torch.allclose((w * moved_v).sum(), (v * moved_w).sum(), rtol=1e-8)
        assert torch.allclose(moved_v, vjp(network, x, v)[1], atol=1e-10)
        assert float((v * moved_v).sum()) >= 2 * architecture.alpha * float((v * v).sum()) > 0


@every
def test_the_output_is_the_slope_of_a_convex_potential(architecture) -> None:
    network, one, other = trained(architecture), rows(architecture, 8), rows(architecture, 8, seed=1)
    with torch.no_grad():
        middle = network.psi((one + other) / 2)
        assert bool((middle < (network.psi(one) + network.psi(other)) / 2).all())
        way = rows(architecture, 8, seed=2)
        change = (network.psi(one + 1e-5 * way) - network.psi(one - 1e-5 * way)) / 2e-5
        assert torch.allclose(change, (network(one) * way).flatten(1).sum(1), rtol=1e-5, atol=1e-7)


@every
def test_only_the_weights_of_hidden_units_are_kept_from_being_negative(architecture) -> None:
    network = trained(architecture)
    assert all(float(weight.detach().min()) >= 0 for weight in network.constrained())
    names = {id(weight) for weight in network.constrained()}
    free = [p for p in network.parameters() if id(p) not in names and p.ndim > 1]
    assert free and all(float(p.detach().min()) < 0 for p in free)


def test_without_the_clamp_training_leaves_convexity() -> None:
    network = trained(SMALL_SIZES["mlp"], project=False)
    with torch.no_grad():
        for weight in network.constrained():
            weight.sub_(0.2)  # what an unlucky step may do
        negative = [float((jvp(network, x, v)[1] * v).sum()) for seed in range(40)
                    for x, v in [(3 * rows(SMALL_SIZES["mlp"], 1, seed=seed), rows(SMALL_SIZES["mlp"], 1, seed=99 + seed))]]  # fmt: skip  # noqa: E501
    assert min(negative) < 0
    network.project()
    assert all(float(weight.detach().min()) >= 0 for weight in network.constrained())


def test_the_potential_is_twice_differentiable_everywhere() -> None:
    network, x, v = network_of(SMALL_SIZES["mlp"]), rows(SMALL_SIZES["mlp"], 1), rows(SMALL_SIZES["mlp"], 1, seed=1)
    curvature = [float((jvp(network, x + t * v, v)[1] * v).sum()) for t in np.linspace(-1, 1, 501)]
    jumps = np.abs(np.diff(curvature))
    assert jumps.max() < 0.05 * (max(curvature) - min(curvature))


@every
def test_the_wired_network_starts_as_a_mean_of_its_units(architecture) -> None:
    for weight in network_of(architecture).constrained():
        assert float(weight.detach().min()) > 0
        assert torch.allclose(weight.flatten(1).sum(1), torch.ones(len(weight)).double(), rtol=0.1)


def test_unconstrained_wiring_keeps_the_signs() -> None:
    network = network_of(SMALL_SIZES["mlp"], convex=False)
    assert min(float(weight.detach().min()) for weight in network.constrained()) < 0
    with pytest.raises(ConfigError, match="GradientOfConvex"):
        ProximalPrior().wire(torch.nn.Identity())


def test_the_network_works_where_gradients_are_off_and_refuses_other_sizes() -> None:
    network = network_of(SMALL_SIZES["small"])
    x = rows(SMALL_SIZES["small"])
    with torch.no_grad():
        found = network(x)
    assert not found.requires_grad and torch.equal(found, network(x).detach())
    with pytest.raises(InputError, match="PatchAverage"):
        network(x[..., :6])


# Published sizes ---------------------------------------------------------------------------------------------------


def test_published_shapes_of_the_small_network() -> None:
    network = network_of(Architecture("conv", (1, 28, 28), **SMALL))
    assert network.sizes == [(28, 28), (14, 14), (14, 14), (7, 7)]
    assert network.head[1].weight.shape == (64, 64 * 49) and network.last.weight.shape == (1, 64)
    assert [tuple(layer.stride) for layer in network.inner] == [(2, 2), (1, 1), (2, 2)]


@pytest.mark.parametrize("sizes", [{**SMALL}, {**LARGE}], ids=["28", "128"])
def test_the_published_networks_take_a_step(sizes) -> None:
    shape = (1, 28, 28) if not sizes["valid_head"] else (3, 128, 128)
    architecture = Architecture("conv", shape, **sizes)
    network = network_of(architecture).float()
    before = network.last.weight.detach().clone()
    if sizes["valid_head"]:
        assert network.head.weight.shape == (64, 256, 16, 16)
    clean = rows(architecture, 2).float().sigmoid()
    train_denoiser(network, clean, [Stage("matching", 1, 1e-3, 50.0)], sigma=0.1, batch_size=1, seed=0, device="cpu")
    assert not torch.equal(before, network.last.weight)
    assert bool(torch.isfinite(network(clean[:1])).all())


def test_the_published_schedules() -> None:
    images = schedule("matching", for_images=True, n_steps=40_000, n_values=784, sigma=0.1)
    assert images[0] == Stage("l1", 20_000, 1e-3)
    assert [stage.n_steps for stage in images[1:]] == [5000] * 4
    assert [stage.gamma for stage in images[1:]] == pytest.approx([0.08 * 28 * 2**k for k in (3, 2, 1, 0)])
    assert {stage.lr for stage in images[1:]} == {1e-4}
    vectors = schedule("matching", for_images=False, n_steps=44_000, n_values=1, sigma=1.0)
    assert [stage.n_steps for stage in vectors] == [10_000, 10_000, 2000, 2000, 4000, 4000, 4000, 4000, 4000]
    assert [stage.gamma for stage in vectors[2:]] == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    assert [stage.lr for stage in vectors] == pytest.approx([1e-3, 1e-4, 1e-3, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6])
    assert warm_up(vectors) == 2 and warm_up(images) == 1
    short = schedule("l2", for_images=True, n_steps=5, n_values=784, sigma=0.1)
    assert sum(stage.n_steps for stage in short) == 5 and all(stage.n_steps for stage in short)


# The loss ----------------------------------------------------------------------------------------------------------


def test_proximal_matching_takes_the_norm_over_the_whole_image() -> None:
    found, clean = rows(SMALL_SIZES["small"]), rows(SMALL_SIZES["small"], seed=1)
    slow = np.mean([1 - math.exp(-float(((f - x) ** 2).sum()) / 4.0) for f, x in zip(found, clean, strict=True)])
    assert float(denoising_loss("matching", found, clean, 2.0)) == pytest.approx(slow)
    by_pixel = float((1 - torch.exp(-((found - clean) ** 2) / 4.0)).mean())
    assert abs(by_pixel - slow) > 0.1


def test_a_wide_loss_is_the_squared_error_and_a_narrow_one_has_no_slope() -> None:
    clean = rows(SMALL_SIZES["mlp"], 6)
    found = (clean + 0.1 * rows(SMALL_SIZES["mlp"], 6, seed=1)).requires_grad_(True)
    wide = denoising_loss("matching", found, clean, 1e3) * 1e6
    assert float(wide.detach()) == pytest.approx(3 * float(denoising_loss("l2", found.detach(), clean, 1.0)), rel=1e-4)
    (slope,) = torch.autograd.grad(denoising_loss("matching", found, clean, 1e-3), found)
    assert float(slope.abs().max()) < 1e-12


def test_matching_tends_to_the_soft_threshold_as_its_width_falls() -> None:
    for y in (0.0, 0.8, 1.0, 1.5, 3.0):
        gaps = [abs(proof.matching_minimiser(y, gamma) - max(y - 1, 0)) for gamma in (0.4, 0.1, 0.02)]
        assert gaps[0] >= gaps[1] >= gaps[2] and gaps[2] < 0.04
    assert proof.matching_minimiser(1.0, 0.1) == pytest.approx(0.112, abs=0.002)


def test_laplacian_draws_have_its_quantiles() -> None:
    draws = proof.draw_laplacian(torch_stream(0), 20_000)[:, 0].abs()
    assert float(draws.mean()) == pytest.approx(1, abs=0.03)
    assert float((draws > 2).double().mean()) == pytest.approx(math.exp(-2), abs=0.01)


def test_arms_share_their_warm_up_and_batches_depend_on_their_number_alone() -> None:
    architecture = Architecture("mlp", (1,), **{**VECTOR, "hidden": 6})
    options: dict[str, Any] = {"n_steps": 44, "sigma": 1.0, "batch_size": 20, "seed": 3}
    told: list[tuple[int, int]] = []
    both = proof.arms_from_one_warm_up(architecture, ("matching", "l2"), proof.draw_laplacian, **options,
                                       tell=lambda done, total: told.append((done, total)))  # fmt: skip
    alone = proof.arms_from_one_warm_up(architecture, ("l2",), proof.draw_laplacian, **options)
    x = torch.linspace(-2, 2, 9)[:, None]
    assert torch.equal(both["l2"][0](x), alone["l2"][0](x))
    assert not torch.equal(both["matching"][0](x), alone["l2"][0](x))
    assert [done for done, _ in told] == list(range(1, 69)) and {total for _, total in told} == {68}
    with seeded_init(seed_of(3, "network")):
        whole = ProximalPrior().wire(build_network(architecture))
    train_denoiser(whole, proof.draw_laplacian, schedule("l2", for_images=False, n_steps=44, n_values=1, sigma=1.0),
                   sigma=1.0, batch_size=20, seed=3, device="cpu")  # fmt: skip
    assert torch.equal(whole(x), alone["l2"][0](x))


# Reading -----------------------------------------------------------------------------------------------------------


@every
def test_the_inverse_is_one_and_r_is_what_the_map_is_proximal_of(architecture) -> None:
    network = trained(architecture)
    y = rows(architecture, 5)
    with torch.no_grad():
        x = network(y)
    read = invert(network, x)
    assert float(read.residual.max()) < 1e-5
    with torch.no_grad():
        assert torch.allclose(network(read.y), x, atol=1e-4)
    # f(y) minimises R(z) + |z - y|^2 / 2 over z in the range of f, for instance over f(y + d)
    best = read.penalty + 0.5 * ((x - y) ** 2).flatten(1).sum(1)
    for seed in range(6):
        with torch.no_grad():
            other = network(y + 0.3 * rows(architecture, 5, seed=seed + 1))
        cost = invert(network, other).penalty + 0.5 * ((other - y) ** 2).flatten(1).sum(1)
        assert bool((cost >= best - 1e-6).all())


def test_r_of_a_quadratic_potential_is_known() -> None:
    class Quadratic(torch.nn.Module):
        def psi(self, x: torch.Tensor) -> torch.Tensor:
            return 0.25 * (x * x).sum(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0.5 * x

    x = rows(SMALL_SIZES["mlp"])
    read = invert(Quadratic(), x)  # type: ignore[arg-type]
    assert torch.allclose(read.y, 2 * x)
    assert torch.allclose(read.penalty, 0.5 * (x * x).sum(1))  # f is the proximal map of |x|^2 / 2


def test_a_point_outside_the_range_is_told_by_its_residual() -> None:
    architecture = Architecture("mlp", (1,), **{**VECTOR, "hidden": 6, "alpha": 0.0})
    read = invert(network_of(architecture), torch.tensor([[0.0], [1e6]]))
    assert float(read.residual[1]) > 0.1


@pytest.mark.parametrize("step", [0.2, 0.7, 1.0])
def test_the_proximal_map_of_other_steps_is_optimal(step) -> None:
    architecture = Architecture("mlp", (1,), **{**VECTOR, "hidden": 8, "alpha": 0.05})
    prior = LearnedPrior(network_of(architecture))
    for value in (-1.0, 0.4, 2.0):
        v = torch.tensor([[value]], dtype=torch.float64)

        def cost(z: Any, v: torch.Tensor = v) -> float:
            z = torch.tensor(np.atleast_1d(z), dtype=torch.float64)[:, None]
            return float(step * prior.fn(z) + 0.5 * ((z - v) ** 2).sum())

        reached = prior.prox(v, gamma=step).detach()
        best = optimize.minimize_scalar(cost, bounds=(float(reached) - 1, float(reached) + 1), method="bounded")
        assert cost(reached.numpy()[0]) <= best.fun + 1e-7


def test_the_prior_passes_the_shared_checks_of_penalties() -> None:
    prior: Any = LearnedPrior(network_of(Architecture("mlp", (5,), **{**VECTOR, "hidden": 8, "alpha": 0.05})))
    prior.capabilities = lambda: frozenset({"penalty"})
    prior_checks.check_one_number_per_value(prior)
    prior_checks.check_gradient_matches_differences(prior)


def test_steps_that_have_no_known_map_are_refused() -> None:
    prior = LearnedPrior(network_of(SMALL_SIZES["mlp"]))
    x = rows(SMALL_SIZES["mlp"])
    for step in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="greater than 0"):
            prior.prox(x, step)
    with pytest.raises(CapabilityError, match="up to 1"):
        prior.prox(x, gamma=2.0)
    assert torch.equal(prior.prox(x, 0.05, gamma=1.0), prior.network(x))  # deepinv passes its sigma too
    assert torch.equal(prior(x), prior.penalty(x))


def test_reading_does_not_clip_what_it_is_given() -> None:
    network = network_of(SMALL_SIZES["small"])
    x = torch.as_tensor(numpy_stream(0, "x").normal(2.0, 3.0, size=(2, 2, 9, 7)))
    assert torch.allclose(network(invert(network, x).y), x, atol=1e-3)


def test_the_picture_of_the_prior_shows_what_its_loss_leads_to() -> None:
    picture = ProximalPrior().picture(5, generator=torch_stream(0))
    y = np.asarray(picture.x)
    names = list(picture.lines)
    assert names[0].startswith("the proximal map") and len(names) == 4
    np.testing.assert_allclose(picture.lines[names[0]], np.sign(y) * np.maximum(np.abs(y) - 1, 0))
    mean, median = picture.lines["the posterior mean"], picture.lines["the posterior median"]
    up, down = np.exp(-y) * stats.norm.cdf(y - 1), np.exp(y) * stats.norm.cdf(-y - 1)  # of the two halves
    np.testing.assert_allclose(mean, ((y - 1) * up + (y + 1) * down) / (up + down), atol=2e-3)
    assert (np.abs(median) <= np.abs(mean) + 0.01).all()  # nearer to the peak at zero
    low, high = picture.bands[names[-1]]
    for edge in (low, picture.lines[names[-1]], high):
        assert (np.diff(edge) > 0).all()  # every first network rises, so their quantiles do
    off = ProximalPrior(loss="l2").picture(1, generator=torch_stream(0))
    assert next(iter(off.lines)).startswith("the posterior mean")
