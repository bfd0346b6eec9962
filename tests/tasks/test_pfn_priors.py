import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foreknow.common.errors import ConfigError, ConvergenceError
from foreknow.common.rng import torch_stream
from foreknow.common.timing import Stopwatch
from foreknow.core.batch import Batch
from foreknow.core.prior import Simulator
from foreknow.core.records import from_json, to_json
from foreknow.tasks import (
    BetaInt,
    BNNPrior,
    Fixed,
    Gamma,
    GPPrior,
    MixturePrior,
    StrokePrior,
    TabularBNNPrior,
    TabularGPPrior,
)
from foreknow.tasks.pfn.priors import tabular
from foreknow.tasks.pfn.priors.hyper import gamma, redraw_non_finite
from foreknow.tasks.pfn.priors.strokes import ink

CPU = torch.device("cpu")
CLASSES = (GPPrior, BNNPrior, MixturePrior, StrokePrior, TabularBNNPrior, TabularGPPrior)
PRIORS = [example for cls in CLASSES for example in cls.examples()] + [
    GPPrior.published_fixed(),
    GPPrior.published_mix(),
    GPPrior.small_fixed(),
    GPPrior.small_mix(),
    BNNPrior.small(),
    BNNPrior.big("linear"),
    TabularBNNPrior(),
    TabularGPPrior(),
    StrokePrior(),
]


def rng(seed: int = 0) -> torch.Generator:
    return torch_stream(seed, "test")


# What all of them have in common


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_draws_have_the_declared_shape_and_repeat(prior: Simulator) -> None:
    state = torch.get_rng_state()
    batch = prior.sample(5, n_context=4, n_query=3, generator=rng())
    assert batch.context_x.shape == (5, 4, prior.n_features)
    assert batch.query_y is not None and batch.query_y.shape == (5, 3)
    x, y = torch.cat([batch.context_x, batch.query_x], 1), torch.cat([batch.context_y, batch.query_y], 1)
    assert x.isfinite().all() and y.isfinite().all() and x.dtype == y.dtype == torch.float32
    assert all(len(value) == 5 for value in batch.info.values())
    again = prior.sample(5, n_context=4, n_query=3, generator=rng())
    other = prior.sample(5, n_context=4, n_query=3, generator=rng(1))
    assert torch.equal(batch.context_x, again.context_x) and torch.equal(batch.query_y, again.query_y)
    assert not torch.equal(batch.context_x, other.context_x)
    assert torch.equal(state, torch.get_rng_state())
    if prior.target == "classification":
        assert torch.equal(y, y.round()) and y.min() >= 0 and y.max() < prior.n_classes
        assert batch.info["n_classes"].shape == batch.info["n_features"].shape == (5,)


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_one_row_without_context_in_double_precision(prior: Simulator) -> None:
    batch = prior.sample(3, n_context=0, n_query=1, generator=rng(), dtype=torch.float64)
    assert batch.context_x.shape == (3, 0, prior.n_features)
    assert batch.query_x.dtype == batch.query_y.dtype == torch.float64
    assert batch.query_x.isfinite().all() and batch.query_y.isfinite().all()


@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_settings_survive_a_file_and_describe_themselves(prior: Simulator) -> None:
    assert from_json(to_json(prior)) == prior
    assert prior.view in {"curves", "table", "images"}
    assert "\n" not in prior.describe() and len(prior.describe()) > 20
    assert prior.card.slug == "pfn" and "samples" in prior.capabilities()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_on_a_gpu_whichever_device_the_generator_is_on() -> None:
    for prior in [*PRIORS, TabularBNNPrior.for_tables(n_features=5)]:
        for generator in (rng(), torch_stream(0, device="cuda")):
            batch = prior.sample(5, n_context=4, n_query=3, generator=generator, device="cuda")
            assert batch.query_x.device.type == batch.query_y.device.type == "cuda"
            assert all(value.device.type == "cuda" for value in batch.info.values())
    batch = GPPrior.small_mix().sample(3, generator=rng(), device="cuda")
    assert GPPrior.small_mix().mixture_oracle(batch, 5, generator=rng()).mean().device.type == "cuda"


def nearest_agreement(batch: Batch) -> float:
    """How much more alike the targets of nearest rows are than those of any two rows; 0 without dependence."""
    x, y = batch.query_x, batch.query_y
    distance = torch.cdist(x, x)
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    beside = y.gather(1, distance.argmin(dim=2))
    centred, spread = y - y.mean(dim=1, keepdim=True), y.var(dim=1, correction=0).clamp_min(1e-6)
    own = centred * (beside - y.mean(dim=1, keepdim=True))
    # Without dependence the expected product of two different rows is -variance / (rows - 1).
    return float((own.mean(dim=1) / spread).mean() + 1 / (y.shape[1] - 1))


@pytest.mark.parametrize(
    "prior",
    [
        GPPrior(),
        BNNPrior(),
        TabularBNNPrior(n_features=4),
        TabularGPPrior(n_features=4),
        StrokePrior(n_classes=2, n_shot=0, size=12),
    ],
    ids=repr,
)
def test_off_keeps_the_tables_and_their_targets_but_not_what_joins_them(prior: Simulator) -> None:
    on = prior.sample(400, n_context=0, n_query=30, generator=rng())
    off = prior.off().sample(400, n_context=0, n_query=30, generator=rng())
    assert torch.equal(on.query_x, off.query_x)
    assert torch.equal(on.query_y.sort(dim=1).values, off.query_y.sort(dim=1).values)
    assert nearest_agreement(on) > 0.1
    assert abs(nearest_agreement(off)) < 0.04


def test_every_prior_is_quick() -> None:
    for prior in (GPPrior(), BNNPrior(), TabularBNNPrior(), TabularGPPrior(), StrokePrior()):
        with Stopwatch() as watch:
            prior.sample(32, n_context=20, n_query=20, generator=rng())
        assert watch.seconds < 2, prior


@pytest.mark.parametrize(
    "build",
    [
        lambda: GPPrior(n_features=0),
        lambda: GPPrior(kernel="rfb"),
        lambda: GPPrior(lengthscale=0.0),
        lambda: GPPrior(noise=-1.0),
        lambda: GPPrior(outputscale=math.nan),
        lambda: GPPrior(x="grid"),
        lambda: BNNPrior(activation="relu"),
        lambda: BNNPrior(n_classes=1),
        lambda: TabularBNNPrior(p_missing=0.6),
        lambda: TabularBNNPrior(weight_sd=0.0),
        lambda: TabularGPPrior(noise=-1.0),
        lambda: StrokePrior(size=3),
        lambda: Gamma(0.0, 1.0),
        lambda: BetaInt(1.0, 1.0, 3, 2),
        lambda: MixturePrior((), ()),
        lambda: MixturePrior((BNNPrior(),), (0.0,)),
        lambda: MixturePrior((BNNPrior(), BNNPrior(n_features=4)), (1.0, 1.0)),
    ],
)
def test_bad_settings_are_refused(build) -> None:
    with pytest.raises(ConfigError):
        build()


# Hyper-parameters


@pytest.mark.parametrize("concentration", [0.2, 0.5, 1.0, 1.1, 3.0, 50.0])
def test_gamma_draws_follow_scipys_gamma(concentration: float) -> None:
    draws = Gamma(concentration, 6.0).sample((20_000,), rng(), CPU, torch.float64).numpy()
    assert scipy.stats.kstest(draws, scipy.stats.gamma(concentration, scale=1 / 6).cdf).pvalue > 1e-3


def test_gamma_of_tiny_shape_stays_positive() -> None:
    assert (gamma(1e-3, (1000,), rng(), CPU, torch.float32) > 0).all()


def test_beta_steps_have_the_mass_of_the_beta_distribution() -> None:
    draws = BetaInt(1.0, 1.6, 2, 9).sample((20_000,), rng(), CPU)
    counts = torch.bincount(draws, minlength=10)[2:].numpy()
    expected = np.diff(scipy.stats.beta(1.0, 1.6).cdf(np.linspace(0, 1, 9))) * 20_000
    assert counts.sum() == 20_000
    assert scipy.stats.chisquare(counts, expected).pvalue > 1e-3


def test_scaled_distributions_scale_their_draws() -> None:
    for hyper in (Fixed(2.0), Gamma(3.0, 6.0)):
        draws = hyper.sample((100,), rng(), CPU, torch.float64)
        assert torch.allclose(hyper.scaled(5.0).sample((100,), rng(), CPU, torch.float64), 5 * draws)


def test_tasks_that_are_not_finite_are_drawn_again_or_given_up() -> None:
    rounds = []

    def draw(n: int):
        rounds.append(n)
        x = torch.zeros(n, 2, 1)
        if len(rounds) == 1:
            x[[1, 3], 0] = torch.nan
        return x, torch.zeros(n, 2), {"round": torch.full((n,), len(rounds))}

    x, _, info = redraw_non_finite("Test", draw, 5)
    assert rounds == [5, 2] and x.isfinite().all() and info["round"].tolist() == [1, 2, 1, 2, 1]
    with pytest.raises(ConvergenceError, match="3 of 3"):
        redraw_non_finite("Test", lambda n: (torch.zeros(n, 2, 1), torch.full((n, 2), torch.inf), {}), 3)


# Two-layer network


def test_logits_of_the_linear_network_of_width_one_have_the_known_variance() -> None:
    batch = BNNPrior(n_features=1, width=1, activation="linear").sample(40_000, n_context=0, n_query=1, generator=rng())
    logits = batch.info["logits"][:, 0]
    # v (w x + b) + c: variance (1 + 1) + 1 per class; the difference of two classes has twice that.
    assert logits.var(dim=0).tolist() == pytest.approx([3.0, 3.0], rel=0.06)
    assert (logits[:, 1] - logits[:, 0]).var().item() == pytest.approx(6.0, rel=0.06)
    difference = logits[:, 1] - logits[:, 0]
    for error in ((batch.query_y[:, 0] - difference.sigmoid()) * weight for weight in (1.0, difference)):
        assert abs(error.mean().item()) < 4 * error.std().item() / 200
    assert batch.query_y.mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("activation", "is_linear"), [("linear", True), ("tanh", False)])
def test_only_the_released_code_separates_by_planes(activation: str, is_linear: bool) -> None:
    batch = BNNPrior.small(activation).sample(20, n_context=0, n_query=40, generator=rng(), dtype=torch.float64)
    design = torch.cat([batch.query_x, torch.ones(20, 40, 1, dtype=torch.float64)], dim=-1)
    logits = batch.info["logits"]
    residual = logits - design @ torch.linalg.lstsq(design, logits).solution
    assert (residual.abs().max().item() < 1e-9) is is_linear


# Tables


def test_published_tables_are_balanced_and_pad_with_zeros() -> None:
    batch = TabularBNNPrior(n_features=10).sample(300, n_context=0, n_query=40, generator=rng())
    assert torch.equal(batch.query_y.sum(dim=1), torch.full((300,), 20.0))
    used = batch.info["n_features"]
    assert used.min() == 2 and used.max() == 10 and set(batch.info["n_classes"].tolist()) == {2}
    is_used = torch.arange(10) < used[:, None]
    assert torch.equal((batch.query_x != 0).any(dim=1), is_used)
    assert batch.query_x.mean(dim=1).abs().max() < 1e-5
    assert torch.allclose(batch.query_x.std(dim=1)[is_used], torch.tensor(1.0), atol=1e-4)


def test_used_columns_can_be_scaled_by_their_share() -> None:
    batch = TabularGPPrior(n_features=6).sample(50, n_context=0, n_query=30, generator=rng())
    first = batch.query_x[:, :, 0].std(dim=1)
    assert torch.allclose(first, 6 / batch.info["n_features"], rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(2, 6), st.integers(0, 1000))
def test_no_class_is_empty_and_labels_follow_ranks(n_rows: int, n_classes: int, seed: int) -> None:
    score = torch.randn(20, n_rows, generator=rng(seed))
    y, counts = tabular.labels_by_rank(score, n_classes, rng(seed))
    for task in range(20):
        ranked = y[task][score[task].argsort()]
        if n_classes > 2 and n_rows > 1:
            assert sorted(set(ranked.tolist())) == list(range(int(counts[task])))
        assert int((ranked.diff() != 0).sum()) == len(set(ranked.tolist())) - 1
        assert 2 <= counts[task] <= max(2, min(n_classes, n_rows))


def test_number_of_classes_and_the_code_of_the_top_rows_are_uniform() -> None:
    score = torch.randn(3000, 12, generator=rng())
    y, counts = tabular.labels_by_rank(score, 4, rng(1))
    assert scipy.stats.chisquare(torch.bincount(counts)[2:].numpy()).pvalue > 1e-3
    top = y.gather(1, score.argmax(dim=1, keepdim=True)).long().flatten()
    for n_classes in (2, 3, 4):
        assert scipy.stats.chisquare(torch.bincount(top[counts == n_classes]).numpy()).pvalue > 1e-3


def test_units_beyond_the_width_of_a_table_do_nothing() -> None:
    # Weights this large saturate the units, so a score has variance sd^2 (width + 1).
    prior = TabularBNNPrior(n_features=5, weight_sd=1000.0, noise_sd=0.0)
    used = torch.full((16,), 5)
    generator = rng()
    squares = [prior._scores(used, 8, generator, CPU, torch.float32)[1].square().mean() for _ in range(60)]
    width = BetaInt(2.0, 4.0, 2, 150).sample((20_000,), rng(1), CPU).double().mean()
    assert torch.stack(squares).mean().item() / 1e6 == pytest.approx(float(width) + 1, rel=0.2)


def test_the_published_lengthscale_read_as_a_length_gives_noise() -> None:
    sensible = TabularGPPrior(n_features=1)
    literal = replace(sensible, raw_lengthscale=math.log(math.expm1(sensible.raw_lengthscale)))
    agreement = [
        nearest_agreement(prior.sample(300, n_context=0, n_query=30, generator=rng())) for prior in (sensible, literal)
    ]
    assert agreement[0] > 0.5 and abs(agreement[1]) < 0.05
    wide = TabularGPPrior(n_features=40).sample(300, n_context=0, n_query=60, generator=rng())
    assert nearest_agreement(wide) > 0.1


def test_extensions_do_what_they_say() -> None:
    base = TabularBNNPrior(n_features=6, max_width=8)

    def draw(**options: float) -> tuple[torch.Tensor, torch.Tensor]:
        batch = replace(base, **options).sample(200, n_context=0, n_query=50, generator=rng())
        return batch.query_x, (torch.arange(6) < batch.info["n_features"][:, None])

    x, used = draw(p_categorical=1.0)
    levels = torch.tensor([[len(table[:, j].unique()) for j in range(6)] for table in x])
    assert levels[used].max() <= 10 and levels[used].double().mean() > 3 and (levels[~used] == 1).all()
    x, used = draw(p_missing=0.1)
    missing = x.isnan().double().mean(dim=1)
    assert missing[used].mean().item() == pytest.approx(0.1, abs=0.01) and (missing[~used] == 0).all()
    assert missing[used].std() > 0.05
    x, used = draw(p_warped=1.0)
    skew = (x**3).mean(dim=1).abs()[used].mean()
    plain, used = draw()
    assert skew > 2 * (plain**3).mean(dim=1).abs()[used].mean()


def test_warping_keeps_the_order_of_a_column() -> None:
    x = torch.randn(50, 30, 4, generator=rng())
    warped = tabular._warp(x, 1.0, rng())
    assert torch.equal(warped.argsort(dim=1), x.argsort(dim=1)) and (warped - x).abs().mean() > 0.1


def test_the_training_prior_turns_all_extensions_on() -> None:
    prior = TabularBNNPrior.for_tables(n_features=5, n_classes=3)
    batch = prior.sample(50, n_context=10, n_query=10, generator=rng())
    assert batch.context_x.isnan().any() and batch.query_y.isfinite().all() and batch.info["n_classes"].max() == 3
    assert "missing" in prior.describe()


# Mixtures


def test_mixture_draws_members_by_weight_and_keeps_tables_whole() -> None:
    prior = MixturePrior((TabularBNNPrior(n_features=5, max_width=8), TabularGPPrior(n_features=5)), (3.0, 1.0))
    batch = prior.sample(1000, n_context=0, n_query=20, generator=rng())
    member = batch.info["member"]
    assert member.double().mean().item() == pytest.approx(0.25, abs=0.05)
    assert (member.diff() != 0).sum() > 100  # not in the order of the members
    assert torch.equal((batch.query_x != 0).any(dim=1).sum(dim=1), batch.info["n_features"])
    scale = batch.query_x[:, :, 0].std(dim=1)
    assert torch.allclose(scale[member == 0], torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(scale[member == 1], 5 / batch.info["n_features"][member == 1], rtol=1e-3)


def test_mixture_of_regressions() -> None:
    prior = MixturePrior((GPPrior.published_mix(1), GPPrior.small_mix()), (1.0, 1.0))
    assert prior.target == "regression" and prior.n_classes == 0 and prior.view == "curves"
    assert set(prior.sample(8, generator=rng()).info) == {"member"}


# Strokes


def test_first_rows_hold_every_class_equally_often_and_later_ones_are_free() -> None:
    prior = StrokePrior(n_classes=3, n_shot=2, size=8)
    batch = prior.sample(600, n_context=prior.n_support, n_query=2, generator=rng())
    assert torch.equal(batch.context_y.sort(dim=1).values, torch.tensor([0.0, 0, 1, 1, 2, 2]).expand(600, 6))
    for y in (batch.context_y[:, 0], batch.context_y[:, 5], batch.query_y[:, 0]):
        assert scipy.stats.chisquare(torch.bincount(y.long()).numpy()).pvalue > 1e-3
    assert (batch.query_y[:, 0] == batch.query_y[:, 1]).double().mean().item() == pytest.approx(1 / 3, abs=0.08)


def test_images_are_ink_on_an_empty_page() -> None:
    x = StrokePrior().sample(20, n_context=25, n_query=1, generator=rng()).context_x
    assert x.min() == 0 and 0.6 < x.max() <= 1
    share = (x > 0.5).float().mean(dim=-1)
    assert 0.02 < share.mean() < 0.2 and (share > 0).float().mean() > 0.99


def test_strokes_of_a_class_end_inside_the_image() -> None:
    prior = StrokePrior()
    start, step = prior._strokes(500, rng(), CPU, torch.float32)
    end = start + step
    assert start.min() >= 2 and start.max() <= 25 and end.min() >= 0 and end.max() <= 27
    length = step.norm(dim=-1)
    assert length.min() > 4.99 and length.max() < 20.01 and length.std() > 2


def test_ink_is_what_lies_within_half_a_width() -> None:
    generator = rng()
    start, end = (torch.randint(0, 12, (30, 3, 2), generator=generator).float() for _ in range(2))
    width = torch.randint(1, 5, (30,), generator=generator)
    n_strokes = torch.randint(1, 4, (30,), generator=generator)
    drawn = ink(start, end, width, n_strokes, 12)
    for image in range(30):
        slow = torch.zeros(12, 12, dtype=torch.bool)
        shift = 0.5 * (1 - int(width[image]) % 2)
        for stroke in range(int(n_strokes[image])):
            a, b = start[image, stroke].numpy() + shift, end[image, stroke].numpy() + shift
            for row in range(12):
                for column in range(12):
                    p, way = np.array([column, row]), b - a
                    t = np.clip((p - a) @ way / max(way @ way, 1e-6), 0, 1)
                    slow[row, column] |= bool(np.sum((p - a - t * way) ** 2) <= (int(width[image]) / 2) ** 2)
        assert torch.equal(drawn[image], slow)
    level = ink(torch.tensor([[[3.0, 5.0]]]), torch.tensor([[[8.0, 5.0]]]), torch.tensor([1]), torch.tensor([1]), 12)
    assert level.nonzero().tolist() == [[0, 5, column] for column in range(3, 9)]
