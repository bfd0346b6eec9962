"""Fitting the published networks: what a step draws, one step of every preset, resuming, the files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foreknow.common.errors import ConfigError
from foreknow.common.rng import numpy_stream
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.system import PRESETS
from foreknow.tasks import RowTransformer, SCMPrior, SmoothPrior, TabPFN
from foreknow.tasks.tabpfn.network import TASKS, load_network
from foreknow.tasks.tabpfn.training import (
    FORMS,
    NAMES,
    TableBatches,
    TableShapes,
    pretrain_network,
    pretrain_published,
    prior_of,
    recipe_of,
    table_loss,
    untrained,
)


def test_sizes_of_tables_follow_the_released_sampler() -> None:
    shapes = TableShapes(n_rows=(50, 100), n_features=(1, 100), uniform_features=True, context_share=(0.0, 1.0))
    draws = [shapes.draw(numpy_stream(0, str(step))) for step in range(2000)]
    features, classes = [draw[3] for draw in draws], [draw[4] for draw in draws]
    assert abs(sum(features) / 2000 - 50.5) < 2.5
    # N uniform on 2..10, then 2 with probability 1/2, else uniform on 2..N.
    expected = 0.5 + 0.5 * sum(1 / (n - 1) for n in range(2, 11)) / 9
    assert abs(classes.count(2) / 2000 - expected) < 0.04
    assert max(classes) <= 10
    for n_tables, n_context, n_query, d, _ in draws:
        assert 50 <= n_context + n_query <= 100
        assert n_query >= 1
        assert n_tables == max(100_000 // ((n_context + n_query) * (d + 24)), 1)


def test_the_row_form_takes_the_published_bag() -> None:
    prior = prior_of("rows")
    networks, process = prior.members
    assert isinstance(networks, SCMPrior)
    assert isinstance(process, SmoothPrior)
    assert process.exact_published
    assert networks == replace(SCMPrior.published(), n_features=10, n_classes=10)
    u = torch.linspace(2, 10, 100_001, dtype=torch.float64)
    share = (math.e / (math.e + u.exp())).mean()  # mean of softmax([1, u]) at the process
    assert prior.weights[1] == pytest.approx(float(share), abs=1e-5)
    assert prior_of("rows", "regression").target == "regression"
    assert len(prior_of("cells", variant="linear").members) == 1


def test_a_step_depends_on_its_number_only_and_all_tables_share_a_shape() -> None:
    batches = TableBatches(prior_of("cells"), recipe_of("cells", preset="quick").shapes, 0, "cpu", 16)
    first, again, other = batches(3), batches(3), batches(4)
    assert torch.equal(first.context_y, again.context_y)
    assert torch.equal(first.info["slots"], again.info["slots"])
    assert torch.equal(first.info["slots"].sort(dim=1).values[0], torch.arange(16))
    assert first.context_x.shape != other.context_x.shape or not torch.equal(first.context_x, other.context_x)
    assert int(first.context_y.max()) < first.info["n_classes"]


def test_targets_of_regression_are_standardised_by_the_context() -> None:
    batch = TableBatches(prior_of("rows", "regression"), recipe_of("rows", preset="quick").shapes, 0, "cpu")(0)
    assert torch.allclose(batch.context_y.mean(dim=1), torch.zeros(batch.n_tasks), atol=1e-5)
    assert torch.allclose(batch.context_y.std(dim=1, correction=0), torch.ones(batch.n_tasks), atol=1e-4)


def test_borders_hold_equal_shares_of_the_prior() -> None:
    recipe, prior = recipe_of("rows", "regression", "quick"), prior_of("rows", "regression")
    network = untrained(recipe, prior)
    assert network.bar is not None
    batches = TableBatches(prior, replace(recipe.shapes, n_tables=100), 77, "cpu")
    y = torch.cat([batches(step).query_y.flatten() for step in range(2)])
    share = torch.histogram(y, network.bar.borders.cpu())[0][1:-1] / len(y)
    assert share.max() < 3 / network.bar.n_buckets


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_takes_a_step(preset: str, form: str, task: str) -> None:
    """Sizes of the network as they are, tables few and short enough for the suite."""
    recipe = recipe_of(form, task, preset)
    shapes = replace(recipe.shapes, n_rows=(20, 20), n_features=(3, 3), n_tables=2)
    few = replace(recipe.settings, n_buckets=8) if task == "regression" else recipe.settings
    network, result = pretrain_network(
        replace(recipe, settings=few, shapes=shapes, n_steps=1, accumulate=1), prior_of("rows", task), device="cpu"
    )
    assert result.steps == 1
    assert result.n_skipped == 0
    assert math.isfinite(result.last_loss or math.nan)
    assert sum(parameter.numel() for parameter in network.parameters()) < (26e6 if form == "rows" else 5e6)


def test_the_paper_preset_of_the_row_form_is_the_published_run() -> None:
    recipe = recipe_of("rows", preset="paper")
    assert recipe.n_steps * recipe.accumulate * (recipe.shapes.n_tables or 0) == 18_000 * 512
    assert (recipe.optimizer, recipe.lr, recipe.ema_decay) == ("adamw", 1e-4, None)
    draws = [recipe.shapes.draw(numpy_stream(1, str(step))) for step in range(500)]
    assert {n + m for _, n, m, _, _ in draws} == {1152}
    assert min(draw[1] for draw in draws) < 30
    assert 970 < max(draw[1] for draw in draws) <= 1000


def test_training_lowers_the_loss_on_tables_it_has_not_seen() -> None:
    recipe = recipe_of("rows", preset="quick")
    recipe = replace(recipe, n_steps=25, shapes=replace(recipe.shapes, n_tables=8))
    prior = prior_of("rows")
    batches = TableBatches(prior, recipe.shapes, 999, "cpu")
    fresh, held_out = untrained(recipe, prior), [batches(step) for step in range(5)]
    trained, _ = pretrain_network(recipe, prior, device="cpu")
    with torch.inference_mode():
        before, after = (sum(float(table_loss(n, b)) for b in held_out) / 5 for n in (fresh, trained))
    assert after < before - 0.3  # ten logits learn at least that there are two or three classes


def test_a_run_is_resumed_and_its_file_says_how_it_was_made(tmp_path: Path) -> None:
    options = {"preset": "quick", "device": "cpu", "out": tmp_path}
    first = TabPFN.pretrain_shipped("tabpfn-rows", n_steps=2, **options)
    with pytest.raises(ConfigError, match="minutes or steps"):
        pretrain_published("tabpfn-rows", n_steps=2, minutes=1.0, out=tmp_path)
    before, _ = load_network(first["weights"])
    again = TabPFN.pretrain_shipped("tabpfn-rows", n_steps=2, resume=True, **options)
    assert first["steps"] == again["steps"] == 2
    checkpoint = Checkpoint.load(again["weights"])
    assert checkpoint.training["command"] == (
        "foreknow pretrain tabpfn --weights tabpfn-rows --preset quick --steps 2 --seed 0"
    )
    network, prior = load_network(checkpoint)
    assert isinstance(network, RowTransformer)
    # The budget was used up before, so resuming changes nothing.
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), network.parameters(), strict=True))
    assert prior == prior_of("rows")


def test_names_of_all_networks_of_the_paper_are_known_and_others_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tabpfn-classifier"):
        TabPFN.pretrain_shipped("tabpfn", out=tmp_path)
    made = TabPFN.pretrain_shipped(n_steps=1, preset="quick", device="cpu", out=tmp_path)
    assert Checkpoint.load(made["weights"]).kind == "StackNetwork"
    assert len(set(NAMES.values())) == 4


def test_a_prior_for_another_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="draws regression tasks"):
        pretrain_network(recipe_of("rows", preset="quick"), prior_of("rows", "regression"))
    with pytest.raises(ConfigError, match="form"):
        recipe_of("tokens")
