"""Task priors of neural processes: formulas, ranges, oracles."""

import math

import numpy as np
import pytest
import torch

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.tasks import BNNPrior, DigitTasks, GPTasks, LotkaVolterraTasks, MartingalePrior
from foreknow.tasks.martingale_np.tasks import pixel_places


def test_covariances_are_the_formulas():
    a, b = torch.tensor([[[0.3], [-1.0]]]), torch.tensor([[[0.5], [0.3], [1.5]]])
    info = {"lengthscale": torch.tensor([0.4]), "amplitude": torch.tensor([0.7]), "period": torch.tensor([0.3])}
    for kernel in ("rbf", "matern52", "periodic"):
        found = GPTasks(kernel).covariance(a, b, info)[0]
        for i in range(2):
            for j in range(3):
                d = abs(float(a[0, i, 0] - b[0, j, 0]))
                r = math.sqrt(5) * d / 0.4
                expected = {
                    "rbf": math.exp(-0.5 * (d / 0.4) ** 2),
                    "matern52": (1 + r + r**2 / 3) * math.exp(-r),
                    "periodic": math.exp(-2 * (math.sin(math.pi * d / 0.3) / 0.4) ** 2),
                }[kernel]
                assert float(found[i, j]) == pytest.approx(0.49 * expected, abs=1e-5)


def test_hyper_parameters_lie_in_the_published_ranges():
    batch = GPTasks().sample(400, n_context=3, n_query=3, generator=torch_stream(0, "tests"))
    for name, (low, high) in {"lengthscale": (0.1, 0.6), "amplitude": (0.1, 1.0), "period": (0.1, 0.5)}.items():
        values = batch.info[name]
        assert values.min() >= low and values.max() <= high and values.std() > 0.2 * (high - low)
    assert batch.query_x.min() >= -2 and batch.query_x.max() <= 2


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "periodic"])
def test_the_exact_posterior_is_that_of_dense_algebra(kernel):
    tasks = GPTasks(kernel)
    batch = tasks.sample(2, n_context=5, n_query=3, generator=torch_stream(1, "tests"), dtype=torch.float64)
    found = tasks.exact(batch)
    for t in range(2):
        info = {name: value[t : t + 1].double() for name, value in batch.info.items()}
        x, q = batch.context_x[t : t + 1], batch.query_x[t : t + 1]
        k = tasks.covariance(x, x, info)[0].numpy() + 0.02**2 * np.eye(5)
        cross, own = tasks.covariance(x, q, info)[0].numpy(), tasks.covariance(q, q, info)[0].numpy()
        solved = np.linalg.solve(k, cross)
        assert found.mean()[t].numpy() == pytest.approx(solved.T @ batch.context_y[t].numpy(), abs=1e-6)
        variance = np.diag(own) - (cross * solved).sum(0) + 0.02**2
        assert found.variance()[t].numpy() == pytest.approx(variance, abs=1e-6)


def test_the_exact_posterior_of_nothing_is_the_prior():
    tasks = GPTasks()
    batch = tasks.sample(3, n_context=0, n_query=2, generator=torch_stream(1, "tests"))
    found = tasks.exact(batch)
    assert (found.mean() == 0).all()
    assert found.variance()[:, 0].numpy() == pytest.approx(batch.info["amplitude"].numpy() ** 2 + 0.0004, rel=1e-4)


def test_heavy_noise_has_heavy_tails():
    def draw(tasks):
        y = tasks.sample(300, n_context=0, n_query=40, generator=torch_stream(2, "tests")).query_y
        y = y - y.mean(dim=1, keepdim=True)
        return float((y.abs() > 4).double().mean())

    assert draw(GPTasks.named("t-noise")) > draw(GPTasks.named("rbf")) == 0


def test_a_wrong_lengthscale_is_five_times_as_long():
    assert GPTasks().misspecified().lengthscale == (0.5, 3.0)
    assert GPTasks.named("periodic").kernel == "periodic"


@pytest.mark.parametrize(
    "bad",
    [
        {"kernel": "linear"},
        {"lengthscale": (0.6, 0.1)},
        {"lengthscale": 0.5},
        {"amplitude": (0.0, 1.0)},
        {"kernel": "periodic", "n_features": 2},
        {"jitter": -1.0},
        {"x_range": (1.0, 1.0)},
    ],
)
def test_bad_functions_are_refused(bad):
    with pytest.raises(ConfigError):
        GPTasks(**bad)


def test_prey_alone_grow_exponentially():
    """With all other rates next to nothing, E[prey(t)] = prey(0) exp(rate t)."""
    tasks = LotkaVolterraTasks(rates=(1e-9, 1e-9, 0.7, 1e-9), spread=0.0, horizon=1.5, n_times=4)
    runs = tasks.runs(300, generator=torch_stream(0, "tests"))
    assert runs.shape == (300, 4, 2)
    assert (runs[:, 0, 0] >= 50).all() and (runs[:, 0, 1] >= 100).all() and (runs[:, 0, 1] <= 150).all()
    assert (runs[:, :, 0] == runs[:, :1, 0]).all()  # predators neither come nor go
    growth = (runs[:, :, 1] / runs[:, :1, 1]).mean(axis=0)
    assert growth == pytest.approx(np.exp(0.7 * np.linspace(0, 1.5, 4)), rel=0.03)


def test_populations_are_rows_of_time_and_species():
    tasks = LotkaVolterraTasks(horizon=2.0, n_times=6)
    batch = tasks.sample(3, n_context=20, n_query=4, generator=torch_stream(0, "tests"))
    assert set(batch.context_x[..., 1].flatten().tolist()) == {-1.0, 1.0}
    assert batch.context_x[..., 0].min() == -2 and batch.context_x[..., 0].max() == 2
    assert (batch.context_y > 0).all()
    with pytest.raises(ConfigError):
        LotkaVolterraTasks(rates=(1.0, 2.0))


def test_runs_may_be_kept():
    tasks = LotkaVolterraTasks(horizon=1.0, n_times=5, n_kept=3)
    batch = tasks.sample(200, n_context=30, n_query=30, generator=torch_stream(0, "tests"))
    start = torch.cat([batch.context_x, batch.query_x], dim=1)[..., 0] == -2  # the first numbers tell runs apart
    assert len(set(torch.cat([batch.context_y, batch.query_y], dim=1)[start].tolist())) <= 6


def test_a_digit_is_its_pixels_and_parts_share_no_image():
    train, test = DigitTasks(), DigitTasks(part="test")
    assert len(train.images()) + len(test.images()) == 1797
    seen = {image.tobytes() for image in train.images()}
    assert sum(image.tobytes() in seen for image in test.images()) == 0
    batch = test.sample(2, n_context=40, n_query=24, generator=torch_stream(0, "tests"))
    places = pixel_places(8, 8)
    for t in range(2):
        image = torch.as_tensor(test.images()[int(batch.info["image"][t])]).flatten()
        for x, y in zip(batch.context_x[t], batch.context_y[t], strict=True):
            where = int((places - x).abs().sum(dim=1).argmin())
            assert float(y) == float(image[where])
    with pytest.raises(ConfigError, match="64 pixels"):
        test.sample(1, n_context=40, n_query=25, generator=torch_stream(0, "tests"))


def test_mnist_is_a_source_too(monkeypatch):
    from foreknow.common import deps
    from foreknow.tasks.martingale_np import tasks as module

    class Stub:  # the real one takes seconds to read
        @staticmethod
        def mnist_data():
            return np.arange(10 * 784).reshape(10, 784) % 256.0, None

    monkeypatch.setattr(deps, "require", lambda *names: Stub)
    module._digits.cache_clear()
    images = DigitTasks("mnist", part="test").images()
    module._digits.cache_clear()
    assert images.shape == (2, 28, 28) and images.max() <= 1
    with pytest.raises(ConfigError, match="source"):
        DigitTasks("letters")


def test_the_prior_of_the_system_wraps_tasks():
    prior = MartingalePrior(GPTasks("matern52"))
    assert prior.off() == MartingalePrior(GPTasks("matern52"), rule="none") == prior.off().off()
    assert prior.n_features == 1 and prior.view == "curves" and MartingalePrior(DigitTasks()).own_units
    for bad in ({"tasks": prior}, {"tasks": 3}, {"tasks": BNNPrior()}, {"rule": "magic"}):
        with pytest.raises(ConfigError):
            MartingalePrior(**bad)
