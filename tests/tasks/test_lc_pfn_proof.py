"""The parts of the small proof: posteriors, real runs, stopping, and the whole path in quick."""

import math

import numpy as np
import pytest
import torch

from foreknow.common.deps import available
from foreknow.common.errors import InputError
from foreknow.core.predictive import Gaussian
from foreknow.data.fashion_mnist import Images, fashion_mnist
from foreknow.tasks import CurvePrior
from foreknow.tasks.lc_pfn import proof, runs
from foreknow.tasks.lc_pfn.baselines import MCMCSettings, sample_posterior
from foreknow.tasks.lc_pfn.forecast import CurveForecast


@pytest.mark.skipif(not available("emcee"), reason="emcee is not installed")
def test_the_posterior_finds_the_curve_and_its_noise():
    rng = np.random.default_rng(0)
    epochs = np.arange(1.0, 41.0)
    clean = 0.5 * (0.9 - 0.4 * epochs**-1.0) + 0.2
    values = clean + 0.02 * rng.standard_normal(40)
    prior = CurvePrior()
    theta = sample_posterior(prior, epochs, values, settings=MCMCSettings(n_steps=400, burn_in=200), seed=1)
    assert torch.isfinite(prior.log_density(theta)).all()
    later = torch.tensor([60.0, 100.0])
    assert prior.curve(theta, later).mean(0).tolist() == pytest.approx([0.647, 0.648], abs=0.05)
    assert float(theta[:, -1].exp().mean()) == pytest.approx(0.02, abs=0.008)
    again = sample_posterior(prior, epochs, values, settings=MCMCSettings(n_steps=400, burn_in=200), seed=1)
    assert torch.equal(theta, again)


def test_mixtures_on_buckets_have_their_masses():
    borders = torch.linspace(-0.5, 1.5, 201)
    mean, sd = torch.tensor([[0.2], [0.7]]).double(), torch.tensor([[0.1], [0.05]]).double()
    bar = proof.on_buckets(mean, sd, borders)
    for y in (0.1, 0.5, 0.7):
        both = 0.5 * (Gaussian(mean[0], sd[0]).cdf(y) + Gaussian(mean[1], sd[1]).cdf(y))
        assert float(bar.cdf(y)) == pytest.approx(float(both), abs=2e-3)
    assert float(bar.mean()) == pytest.approx(0.45, abs=1e-3)


class Sure:
    """A forecast that is sure of one value."""

    def __new__(cls, value: float, n: int) -> CurveForecast:
        dist = Gaussian(torch.full((n,), value), torch.full((n,), 1e-4))
        return CurveForecast(None, np.arange(1.0, n + 1), dist)  # type: ignore[arg-type]


def test_replay_stops_the_hopeless_and_runs_the_rest():
    values = np.array([[0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.1, 0.1, 0.1, 0.1], [0.2, 0.3, 0.4, 0.5, 0.6]])
    sure = [[Sure(row[-1], 5 - cut) for cut in range(proof.FROM_EPOCH, 5)] for row in values]
    assert proof.replay(values, sure) == (5 + proof.FROM_EPOCH + 5, 0.6)
    assert proof.replay(values[::-1], sure[::-1]) == (5 + proof.FROM_EPOCH + proof.FROM_EPOCH, 0.6)


def test_successive_halving_by_hand():
    values = np.array([[0.1 * k] * 9 for k in range(9)])
    values[0] = np.linspace(0, 1, 9)  # starts last, ends first: halving misses it
    cost, best = proof.successive_halving(values)
    assert (cost, best) == (9 * 1 + 3 * 2 + 1 * 6, pytest.approx(0.8))


def test_runs_repeat_and_rise():
    found = runs.trained_runs(1, 4)
    again = runs.trained_runs(1, 4)
    assert found.values.shape == (10, 4) and np.array_equal(found.values, again.values)
    assert found.values.min() >= 0 and found.values.max() <= 1
    assert (found.values[:, -1] - found.values[:, 0]).mean() > 0


def test_runs_are_kept_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(runs, "_train", lambda job: np.full(job[2], runs.TASKS.index(job[0]) / 10))
    first = runs.trained_runs(2, 3, keep=True)
    monkeypatch.setattr(runs, "_train", None)
    assert np.array_equal(runs.trained_runs(2, 3, keep=True).values, first.values)
    assert [path.name for path in (tmp_path / "foreknow").iterdir()] == ["lc-pfn-runs-1-2-3.npz"]


def tiny_clothes() -> Images:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (1200, 4, 4)).astype(np.uint8), rng.integers(0, 10, 1200)
    return Images(x, y, x, y)


def test_runs_on_clothes_need_their_files(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "fashion_mnist", tiny_clothes)
    found = runs.trained_runs(1, 2, tasks=runs.CLOTHES)
    assert found.tasks == runs.CLOTHES and found.values.shape == (2, 2)
    assert {len(runs._task(name)[0]) for name in runs.CLOTHES} == {600, 150}
    monkeypatch.setattr(runs, "fashion_mnist", lambda: fashion_mnist(tmp_path))
    claims, arms, notes = proof._clothes(proof.SIZES["quick"])
    assert not claims and not arms and "is not there" in notes[0]


def test_source_of_runs_splits_by_time():
    source = runs.CurveSource("digits", n_epochs=6)
    split = source.split(4, seed=0)
    assert split.train.X[:, 0].tolist() == [1, 2, 3, 4] and split.test.X[:, 0].tolist() == [5, 6]
    assert np.array_equal(source.split(3, 0).train.y, split.train.y[:3])
    with pytest.raises(InputError, match=r"2\.\.4"):
        source.split(5, 0)
    assert source.describe()["unit"] == "epochs"


def test_sample_size_curves_are_means_by_rank(tmp_path, monkeypatch):
    path = tmp_path / "database-accuracy.csv"
    rows = [
        "1,svm,16,9,0,0,1,0.9,0.5,0.5",
        "1,svm,16,9,0,1,1,0.9,0.7,0.5",
        "1,svm,32,9,0,0,1,0.9,0.8,0.5",
        "2,svm,16,9,0,0,1,0.9,0.1,0.5",
    ]
    head = "openmlid,learner,size_train,size_test,outer_seed,inner_seed,traintime,score_train,score_valid,score_test"
    path.write_text("\n".join([head, *rows]) + "\n")
    monkeypatch.setenv("FOREKNOW_LCDB", str(path))
    assert runs.database_file() == path
    assert [curve.tolist() for curve in runs.database_curves(path, least=2)] == [[pytest.approx(0.6), 0.8]]
    monkeypatch.setenv("FOREKNOW_LCDB", str(tmp_path / "none.csv"))
    assert runs.database_file() is None


def test_the_whole_proof_in_quick(monkeypatch):
    monkeypatch.setenv("FOREKNOW_LCDB", "/no-such-file")
    monkeypatch.setattr(runs, "fashion_mnist", tiny_clothes)
    told = []
    evidence = proof.prove(preset="quick", seeds=1, progress=told.append)
    names = [claim.name[0] for claim in evidence.claims]
    assert names == (["P", "P"] if available("emcee") else []) + ["R", "R", "R", "S", "S"]
    assert {row["proof"] for row in evidence.arms} == {"P", "R", "S"} and told
    assert all(math.isfinite(claim.measured) for claim in evidence.claims)
    assert "LCDB was not found" in " ".join(evidence.notes)
