"""Surrogates as models of BoTorch, and acquisition over them."""

from __future__ import annotations

import pytest
import torch

from foreknow.common.deps import available
from foreknow.common.errors import ForeknowWarning, InputError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.functions import botorch_model
from foreknow.functions.bnn_bo.acquisition import SearchSettings, propose
from foreknow.functions.bnn_bo.extra import bo
from foreknow.functions.bnn_bo.model import sampler_of, standardise
from foreknow.functions.bnn_bo.space import Choice, Integer, Space
from foreknow.functions.bnn_bo.surrogates import SURROGATES

pytestmark = pytest.mark.skipif(not available("botorch"), reason="botorch is not installed")
NAMES = tuple(SURROGATES)


def trials(n: int = 9, m: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(n, 2, generator=torch_stream(0, "trials"), dtype=torch.float64)
    return x, torch.stack([100 * (k + 1) + 7 * torch.cos(4 * x[:, 0]) + x[:, 1] for k in range(m)], 1)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_gradients_and_units(name: str) -> None:
    x, y = trials(m=2)
    model = botorch_model(name, x, y, preset="quick")
    assert (model.num_outputs, tuple(model.batch_shape)) == (2, ())
    batch = torch.rand(3, 4, 2, generator=torch_stream(1, "batch"), dtype=torch.float64, requires_grad=True)
    posterior = model.posterior(batch)
    assert posterior.mean.shape == posterior.variance.shape == (3, 4, 2)
    bo("botorch.sampling")
    samples = sampler_of(model, 6, 0)(posterior)
    assert samples.shape[1:] == (3, 4, 2)
    (slope,) = torch.autograd.grad(samples.sum(), batch)
    assert bool(slope.isfinite().all())
    assert bool((slope != 0).any())
    assert (
        float((model.posterior(x).mean.detach() - y).abs().mean(0).max()) < 30
    )  # the outcomes' own units, not standardised ones
    assert model.posterior(x, output_indices=[1]).mean.shape == (9, 1)


@pytest.mark.parametrize("name", ["hmc", "laplace", "ensemble"])
def test_a_draw_is_one_function(name: str) -> None:
    """The same point asked for twice in a batch, or in two batches, has the same value in every draw."""
    x, y = trials()
    model = botorch_model(name, x, y, preset="quick")
    point = x[:1]
    values = model.posterior(torch.stack([point.repeat(2, 1), torch.cat([x[1:2], point])])).values[..., 0]  # (b, s, q)
    torch.testing.assert_close(values[0, :, 0], values[0, :, 1])
    torch.testing.assert_close(values[0, :, 0], values[1, :, 1])
    assert float(values[0, :, 0].std()) > 0


def test_mean_and_variance_are_those_of_the_draws() -> None:
    x, y = trials()
    model = botorch_model("hmc", x, y, preset="quick")
    posterior = model.posterior(x)
    torch.testing.assert_close(posterior.mean, posterior.values.mean(-3))
    torch.testing.assert_close(posterior.variance, posterior.values.var(-3))
    assert len(sampler_of(model, 3, 0)(posterior)) == posterior.values.shape[-3]


def test_noise_of_observations_is_added_on_request() -> None:
    x, y = trials()
    model = botorch_model("ibnn", x, y)
    gap = model.posterior(x, observation_noise=True).variance - model.posterior(x).variance
    want = model.fitted.noise * model.scale.square()
    torch.testing.assert_close(gap, want.expand(9, 1), atol=1e-9, rtol=1e-6)


def test_models_serve_loops_of_their_own() -> None:
    x, y = trials()
    ei = bo("botorch.acquisition.logei").qLogExpectedImprovement
    for name in ("ibnn", "ensemble"):
        model = botorch_model(name, x, y, preset="quick")
        value = ei(model, float(y.max()), sampler=sampler_of(model, 16, 0))(x[:3, None])
        assert value.shape == (3,)
        assert bool(value.isfinite().all())


@pytest.mark.parametrize("name", ["ibnn", "ensemble", "dkl", "gp"])
def test_queries_in_single_precision(name: str) -> None:
    x, y = trials()
    model = botorch_model(name, x, y, preset="quick")
    single = x[:4].float().requires_grad_(True)
    posterior = model.posterior(single)
    torch.testing.assert_close(posterior.mean, model.posterior(x[:4]).mean, atol=1e-3, rtol=1e-3)
    posterior.mean.sum().backward()
    assert single.grad is not None
    with seeded_init(0):
        assert posterior.rsample(torch.Size([2])).shape == (2, 4, 1)


def test_bad_data() -> None:
    x, y = trials()
    for args in ((x, y[:, 0]), (x[:3], y), (x, y * torch.nan), (x[:0], y[:0])):
        with pytest.raises(InputError):
            botorch_model("ibnn", *args)
    with pytest.raises(InputError):
        botorch_model("sobol", x, y)
    shift, scale = standardise(torch.full((4, 1), 3.0, dtype=torch.float64))
    assert (float(shift), float(scale)) == (3.0, 1.0)


def test_proposals_are_new_points_of_the_space_and_repeat_with_the_seed() -> None:
    space = Space.of({"k": Integer(1, 3), "c": Choice(("a", "b"))})
    seen = space.codes([{"k": 1, "c": "a"}, {"k": 2, "c": "b"}, {"k": 3, "c": "a"}])
    x, y = space.encode(seen), torch.tensor([[0.0], [1.0], [0.5]], dtype=torch.float64)
    model = botorch_model("ibnn", x, y)

    def ask(q: int, seed: int = 0):
        return propose(model, space, "qei", x=x, y=y, q=q, seen=seen, settings=SearchSettings(), seed=seed)

    found = ask(3)
    assert sorted(map(tuple, found)) == [(1.0, 1.0), (2.0, 0.0), (3.0, 1.0)]  # what is left
    assert (found == ask(3)).all()
    with pytest.warns(ForeknowWarning, match="come again"):
        assert len(ask(4)) == 4


def test_rounding_is_seen_by_the_surrogate_and_lets_gradients_pass() -> None:
    space = Space.of({"k": Integer(0, 3)})
    x = torch.tensor([[0.1], [0.2], [0.9]], dtype=torch.float64, requires_grad=True)
    there = space.snap(x)
    torch.testing.assert_close(there.detach()[0], there.detach()[1])
    (slope,) = torch.autograd.grad(there.sum(), x)
    assert slope.tolist() == [[1.0], [1.0], [1.0]]
