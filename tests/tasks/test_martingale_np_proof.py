"""The scores behind the proof against plain versions, and the path of the proof itself."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from foreknow.common.deps import available
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.tasks import GPTasks, MartingaleNP, NPSettings
from foreknow.tasks.martingale_np.network import Normals, make_network
from foreknow.tasks.martingale_np.presets import NETWORKS, shipped_network
from foreknow.tasks.martingale_np.scores import martingale_gap, mixture_cdf, score, slope
from foreknow.trained import shipped

TINY = NPSettings(width=16, encoder_depth=2, decoder_depth=2, n_heads=2, n_pseudo=4, n_samples=3)


def network(rule="martingale"):
    with seeded_init(2):
        return make_network(rule, 1, TINY).eval()


def batch(tasks=5):
    return GPTasks().sample(tasks, n_context=6, n_query=4, generator=torch_stream(3, "tests"))


def test_scores_are_of_target_rows_and_of_so_many_draws():
    net, task = network(), batch()
    found = score(net, task, draws=7)
    noise = net.noise(5, 6, 7, torch_stream(0, "martingale-np", "scores", "0"))
    with torch.inference_mode():
        normals = net(task.context_x, task.context_y, task.query_x, noise)
    for t in range(5):
        mean, sd = normals.mean[t].double().numpy(), normals.sd[t].double().numpy()
        each = stats.norm.logpdf(task.query_y[t].double().numpy(), mean, sd)  # (k, m): no context row is among them
        assert each.shape == (7, 4)
        assert found.marginal[t] == pytest.approx(np.log(np.exp(each).mean(axis=0)).mean(), abs=1e-5)
        assert found.joint[t] == pytest.approx(np.log(np.exp(each.sum(axis=1)).mean()) / 4, abs=1e-5)
        assert found.spread[t] == pytest.approx(mean.std(axis=0).mean(), abs=1e-5)
    split = score(net, batch(3), draws=7)
    assert split.marginal.shape == (3,)


def test_coverage_is_that_of_the_mixture():
    normals = Normals(torch.tensor([[[0.0], [4.0]]]), torch.ones(1, 2, 1))
    assert float(mixture_cdf(normals, torch.tensor([[2.0]]))) == pytest.approx(0.5)


def test_the_gap_is_zero_where_pseudo_rows_say_nothing_and_positive_elsewhere():
    silent = martingale_gap(network("none"), batch())
    assert float(np.abs(silent.mean).max()) < 1e-6 and float(silent.variation.max()) < 1e-6
    assert silent.sd_ratio == pytest.approx(np.ones(5), abs=1e-4)
    loud = martingale_gap(network(), batch())
    assert (loud.mean > 0).all() and ((loud.variation > 0) & (loud.variation < 1)).all()


def test_the_gap_of_a_shift_is_the_distance_of_two_normals():
    """Pseudo data that move every predictive by one deviation: total variation 2 Phi(1/2) - 1."""
    net = network()

    class Shifted:
        rule = "martingale"
        noise = staticmethod(net.noise)

        def __call__(self, x, y, query, noise=None):
            at = 0.0 if noise is None else 1.0
            ones = torch.ones(len(x), 1, query.shape[1])
            return Normals(at * ones, ones)

    gap = martingale_gap(Shifted(), batch())
    assert gap.mean == pytest.approx(np.ones(5))
    assert gap.variation == pytest.approx(np.full(5, 2 * stats.norm.cdf(0.5) - 1), abs=2e-3)


def test_the_slope_of_a_power_law_is_its_exponent():
    n = np.array([5.0, 10.0, 20.0, 40.0])
    assert slope(n, 3 * n**-0.5) == pytest.approx(-1.0)


def test_the_quick_proof_runs_and_says_what_it_measured():
    found = MartingaleNP.prove(preset="quick", seeds=1)
    arms = {(arm["arm"], arm.get("tasks")) for arm in found.arms}
    for name in ("MPNP", "CNP", "NP", "BNP", "placebo"):
        assert {(name, kind) for kind in ("rbf", "matern52", "t-noise", "periodic")} <= arms
    assert {(name, "rbf") for name in ("MPANP", "CANP", "ANP", "BANP")} <= arms
    assert ("exact GP", "rbf") in arms and ("exact GP", "t-noise") not in arms
    parts = {claim.name[0] for claim in found.claims}
    assert {"F", "G", "D"} <= parts
    names = {claim.name for claim in found.claims}
    assert {f"F: MPNP - placebo, marginal, {kind}" for kind in ("RBF", "matern52", "t-noise", "periodic")} <= names
    assert {f"D: MPNP - {arm}, marginal, real digits" for arm in ("NP", "BNP", "placebo")} <= names
    assert {(name, "rbf") for name in ("MPNP that ships", "CNP that ships", "placebo that ships")} <= arms
    assert {arm["n"] for arm in found.arms if arm["part"] == "G" and arm["arm"] == "MPNP that ships" and "n" in arm}
    if available("statsmodels"):
        years = {arm["arm"]: arm for arm in found.arms if arm["part"] == "Y"}
        assert {"NP, years", "BNP, years", "placebo, years", "MPANP, years", "ANP, years"} <= set(years)
        assert len({arm["tasks"] for arm in years.values()}) == 1  # the same tasks for all
        assert years["conditional normal"]["log_likelihood_marginal"] > years["climatology"]["log_likelihood_marginal"]
        assert {"Y: MPNP - conditional normal, log-likelihood a month"} <= names
    assert all(math.isfinite(claim.measured) for claim in found.claims)


@pytest.mark.parametrize("name", sorted(name for name in NETWORKS if name in shipped()))
def test_networks_that_ship_know_their_functions(name):
    """Half precision and all: near its training likelihood on tasks it never saw, and surer with more context."""
    network, prior = shipped_network(name)
    assert prior == NETWORKS[name].prior and network.rule == prior.rule
    n_query = 10
    few, many = (
        score(network, prior.sample(60, n_context=n, n_query=n_query, generator=torch_stream(9, "ship", str(n))))
        for n in (5, 30)
    )
    assert many.marginal.mean() > few.marginal.mean() + 0.2
    assert 0.8 < many.covered.mean() < 0.99
    assert many.sd.mean() < few.sd.mean()
    if prior.rule != "none":
        assert few.spread.mean() > 0.001
    if prior.rule == "martingale":
        assert many.spread.mean() < few.spread.mean()
