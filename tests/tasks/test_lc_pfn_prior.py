"""The prior over learning curves: formulas, acceptance, moments, densities."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.rng import torch_stream
from foreknow.core.pictures import Lines
from foreknow.tasks import CurvePrior
from foreknow.tasks.lc_pfn.families import FAMILIES

T = np.arange(1.0, 101.0)
PLAIN = {  # as printed, with natural parameters
    "pow3": lambda t, a, c, al: c - a * t**-al,
    "ilog2": lambda t, a, c: c - a / np.log(t + 1),
    "janoschek": lambda t, a, b, k, d: a - (a - b) * np.exp(-k * t**d),
    "log_power": lambda t, a, b, c: a / (1 + (t / np.exp(b)) ** c),
    "weibull": lambda t, al, be, k, d: al - (al - be) * np.exp(-((k * t) ** d)),
    "mmf": lambda t, al, be, k, d: al - (al - be) / (1 + (k * t) ** d),
    "vap": lambda t, a, b, c: np.exp(a + b / t + c * np.log(t)),
    "loglog": lambda t, a, b: np.log(a * np.log(t) + b),
    "exp4": lambda t, c, a, al, b: c - np.exp(-a * t**al + b),
    "pow4": lambda t, c, a, al, b: c - (a * t + b) ** -al,
    "hill": lambda t, th, e, k: th * t**e / (k**e + t**e),
}


def test_accepted_share_and_moments_are_those_of_the_released_prior():
    drawn = CurvePrior().sample(20_000, generator=torch_stream(0, "moments"))
    clean = drawn.info["clean"]
    assert drawn.info["acceptance"] == pytest.approx(0.206, abs=0.01)
    assert clean[:, [0, 9, 99]].mean(0).tolist() == pytest.approx([0.42, 0.58, 0.61], abs=0.01)
    assert clean.std(0)[[0, 9, 99]].tolist() == pytest.approx([0.23] * 3, abs=0.02)
    assert (clean[:, 99] > clean[:, 0]).all() and clean.min() >= 0 and clean.max() <= 1
    noise = (drawn.value - clean) / drawn.info["theta"][:, -1:].exp()
    assert float(noise.std()) == pytest.approx(1.0, abs=0.01)
    assert float(drawn.info["theta"][:, -1].mean()) == pytest.approx(-4.0, abs=0.05)
    assert (drawn.value > 1).any() and (drawn.value < 0).any()  # noise may leave [0, 1]


def test_rejection_favours_small_weights():
    prior = CurvePrior()
    theta = prior.sample(5000, generator=torch_stream(1, "weights")).info["theta"]
    assert (theta[:, :3].mean(0) < 0.47).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_its_printed_formula(name):
    prior = CurvePrior(families=(name,))
    drawn = prior.sample(20, generator=torch_stream(2, name), dtype=torch.float64)
    for theta, curve in zip(drawn.info["theta"], drawn.info["clean"]):
        weight, *raw, _ = theta.numpy()
        natural = [
            value if p.scale == "same" else math.exp(value) if p.scale == "exp" else 1 - math.exp(value)
            for p, value in zip(FAMILIES[name].parameters, raw)
        ]
        assert curve.numpy() == pytest.approx(weight * PLAIN[name](T, *natural), rel=1e-6, abs=1e-9)


def test_log_density_is_the_sum_of_the_priors_of_what_is_kept():
    prior = CurvePrior()
    theta = prior.sample(5, generator=torch_stream(3, "density"), dtype=torch.float64).info["theta"]
    uniform = stats.uniform.logpdf
    w, (a, c, la, a2, c2, a3, b3, lk, ld, ls) = theta[:, :3].numpy(), theta[:, 3:].numpy().T
    expected = (
        uniform(w).sum(1) + uniform(a, -0.6, 1.2) + uniform(c, 0, 1.25) + stats.norm.logpdf(la, 0, 2)
        + uniform(a2, -0.5, 1) + uniform(c2) + uniform(a3) + uniform(b3, 0, 2)
        + stats.norm.logpdf(lk, -2, 1) + stats.norm.logpdf(ld, 0, 0.5) + stats.norm.logpdf(ls, -4, 1)
    )  # fmt: skip
    assert prior.log_density(theta).numpy() == pytest.approx(expected)
    outside, falling = theta[:1].clone(), theta[:1].clone()
    outside[0, 0] = 1.5
    falling[0, :11] = torch.tensor([1, 0, 0, -0.5, 0.2, 0, 0, 0, 0, 0, 0])  # 0.2 + 0.5 / t
    assert prior.log_density(torch.cat([outside, falling])).tolist() == [-math.inf, -math.inf]
    with pytest.raises(InputError, match="has 13 entries"):
        prior.log_density(theta[:, 1:])


def test_log_likelihood_is_gaussian_noise_around_the_curve():
    prior = CurvePrior()
    drawn = prior.sample(3, generator=torch_stream(4, "likelihood"), dtype=torch.float64)
    theta, epochs = drawn.info["theta"], torch.tensor([2.0, 5.0, 30.0])
    values = drawn.value[0, [1, 4, 29]]
    clean = drawn.info["clean"][:, [1, 4, 29]].numpy()
    expected = stats.norm.logpdf(values.numpy(), clean, np.exp(theta[:, -1:].numpy())).sum(1)
    assert prior.log_likelihood(theta, epochs, values).numpy() == pytest.approx(expected)


def test_the_placebo_keeps_values_and_loses_time():
    shuffled = CurvePrior(shuffled=True).sample(2000, generator=torch_stream(5, "shuffled"))
    plain = CurvePrior().sample(2000, generator=torch_stream(5, "shuffled"))
    assert torch.equal(shuffled.value.sort(1).values, plain.value.sort(1).values)
    clean = shuffled.info["clean"]
    assert (
        abs(float((clean[:, -1] - clean[:, 0]).mean())) < 0.02 < float((plain.value[:, -1] - plain.value[:, 0]).mean())
    )


def test_the_uniform_variant_differs_and_is_defined_for_the_papers_families():
    off = CurvePrior(families=("mmf",)).off()
    assert off == CurvePrior(variant="uniform")
    first = off.sample(4000, generator=torch_stream(6, "uniform")).info["clean"][:, 0].mean()
    assert float(first) < 0.40  # 0.42 under the paper's
    with pytest.raises(ConfigError, match="defined for pow3, ilog2, janoschek only"):
        CurvePrior(families=("mmf",), variant="uniform")


@pytest.mark.parametrize(
    "bad",
    [{"families": ()}, {"families": ("pow3", "pow3")}, {"families": ("pow5",)}, {"variant": "wide"}, {"n_epochs": 1}],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ConfigError, match="CurvePrior"):
        CurvePrior(**bad)


def test_picture_and_words():
    prior = replace(CurvePrior(), n_epochs=30)
    picture = prior.picture(3, generator=torch_stream(0, "picture"))
    assert isinstance(picture, Lines) and len(picture.lines) == 3
    assert "pow3 + ilog2 + janoschek" in prior.describe()
