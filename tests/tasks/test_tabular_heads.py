"""Features, closed-form heads and the network that reads them: slow plain versions, invariances, known limits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foreknow.common.rng import seeded_init, torch_stream
from foreknow.tasks.tabular.features import CLIP, FeatureMap, drop_empty
from foreknow.tasks.tabular.heads import FittedHeads, HeadSettings
from foreknow.tasks.tabular.network import StackNetwork, StackSettings
from foreknow.tasks.tabular.priors import paper_prior
from foreknow.tasks.tabular.training import SHIPPED, StackBatches, TaskShapes, pretrain_shipped, stack_loss

SMALL = StackSettings(heads=HeadSettings(n_trees=6), width=16, depth=2, n_heads=2)


def table(n: int = 14, m: int = 6, p: int = 3, c: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch_stream(0, "table")
    context, query = (torch.randn(2, rows, p, generator=generator, dtype=torch.float64) for rows in (n, m))
    codes = torch.randint(c, (2, n), generator=generator)
    return context, query, torch.nn.functional.one_hot(codes, c).double()


def lively() -> StackNetwork:
    with seeded_init(0):
        network = StackNetwork(SMALL).double().eval()
    generator = torch_stream(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def test_left_out_scores_are_those_of_a_fit_without_the_row() -> None:
    context, _, labels = table(p=4)
    settings = HeadSettings(linear_ridges=(0.5,), ridges=(0.5,), rbf=(1.0,), laplace=(), n_trees=0, votes=(1.0,))
    heads = FittedHeads.fit(context, labels, settings, torch_stream(2))
    # The linear kernel and its ridge do not depend on the data's scale alone: fix both from the whole context.
    gram = context @ context.mT / 4
    ridge = 0.5 * gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    for row in range(3):
        keep = [i for i in range(14) if i != row]
        rest = labels[:, keep]
        centred = rest - labels.mean(dim=1, keepdim=True)  # residuals are taken from the mean of all rows
        alpha = torch.linalg.solve(gram[:, keep][:, :, keep] + ridge[:, None, None] * torch.eye(13), centred)
        expected = gram[:, row, keep][:, None] @ alpha + rest.mean(dim=1, keepdim=True)
        assert torch.allclose(heads.left_out[:, row, :, 0], expected[:, 0], atol=1e-8)


def test_a_query_equal_to_a_context_row_gets_the_ridge_prediction() -> None:
    context, _, labels = table()
    settings = HeadSettings(linear_ridges=(), ridges=(0.1,), rbf=(1.0,), laplace=(), n_trees=0, votes=())
    heads = FittedHeads.fit(context, labels, settings, torch_stream(2))
    distances = torch.cdist(context, context).square()
    median = distances.flatten(1).median(dim=1).values[:, None, None]
    gram = torch.exp(-distances / median)
    mean = labels.mean(dim=1, keepdim=True)
    fitted = gram @ torch.linalg.solve(gram + 0.1 * torch.eye(14), labels - mean) + mean
    assert torch.allclose(heads.predict(context)[..., 1], fitted, atol=1e-6)


def test_a_vote_leaves_the_row_itself_out() -> None:
    context, _, labels = table(n=2)
    heads = FittedHeads.fit(context, labels, HeadSettings(n_trees=0), torch_stream(0))
    assert torch.allclose(heads.left_out[..., -1], labels.flip(1))


def test_rows_in_the_same_leaves_of_all_trees_are_fully_alike() -> None:
    context, _, labels = table()
    heads = FittedHeads.fit(context, labels, HeadSettings(n_trees=12), torch_stream(3))
    assert heads.trees is not None
    leaves = heads.trees.leaves
    kernel = leaves @ leaves.mT
    assert torch.allclose(kernel.diagonal(dim1=1, dim2=2), torch.ones(2, 14).double(), atol=1e-6)
    assert ((kernel >= 0) & (kernel <= 1 + 1e-6)).all()


def test_rows_read_in_double_fall_into_the_leaves_of_the_same_rows_in_single() -> None:
    context, _, labels = table()
    heads = FittedHeads.fit(context.float(), labels.float(), HeadSettings(n_trees=12), torch_stream(3))
    precise = heads.to(torch.float64)
    assert heads.trees is not None and precise.trees is not None
    assert torch.equal(precise.trees.leaves_of(context).float(), heads.trees.leaves)
    assert torch.allclose(precise.predict(context).float(), heads.predict(context.float()), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_awkward_tables_give_finite_scores(dtype: torch.dtype) -> None:
    n = 12
    same = torch.zeros(1, n, 2, dtype=dtype)
    twins = torch.arange(n // 2, dtype=dtype).repeat(2)[None, :, None].expand(1, n, 2).contiguous()
    labels = torch.nn.functional.one_hot(torch.arange(n) % 2, 2).to(dtype)[None]
    for context in (same, twins, 1e-12 * twins, 1e6 * twins):
        heads = FittedHeads.fit(context, labels, HeadSettings(), torch_stream(4))
        assert heads.left_out.isfinite().all()
        assert heads.predict(context).isfinite().all()


def test_features_come_from_context_rows_only_and_know_missing_cells() -> None:
    x = torch.tensor([[[1.0, 0.0], [2.0, 1.0], [3.0, 0.0], [torch.nan, 1.0]]]).repeat(1, 4, 1)
    x[0, :, 0] += torch.arange(16) * 0.01
    features = FeatureMap.of(x)
    own = features(x)
    assert own.isfinite().all()
    assert torch.equal(features(torch.cat([x, 1e9 + x], dim=1))[:, :16], own)
    assert features.is_level.tolist() == [[False, True]]
    assert features.has_missing.tolist() == [[True, False]]
    far = features(torch.full((1, 1, 2), 1e30))
    assert float(far.max()) <= CLIP / math.sqrt(2) + 1e-6


def test_categorical_columns_become_one_indicator_per_level() -> None:
    x = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]]])
    features = FeatureMap.of(x, torch.tensor([[True]]))(x)
    context, _ = drop_empty(features, features)
    assert context.shape[-1] == 6
    assert torch.allclose(torch.cdist(context, context)[0][~torch.eye(6, dtype=torch.bool)], torch.tensor(1.4))


def test_the_network_is_equivariant_to_rows_and_classes() -> None:
    network = lively()
    context, query, labels = table()
    heads = FittedHeads.fit(context, labels, SMALL.heads, torch_stream(5))
    own, new = heads.left_out, heads.predict(query)
    logits = network(own, new, labels)
    rows, classes = torch.randperm(14, generator=torch_stream(6)), torch.tensor([2, 0, 1])
    assert torch.allclose(network(own[:, rows], new, labels[:, rows]), logits, atol=1e-8)
    assert torch.allclose(network(own[:, :, classes], new[:, :, classes], labels[..., classes]), logits[..., classes])
    assert torch.allclose(network(own, new[:, :2], labels), logits[:, :2], atol=1e-8)


def test_before_training_it_is_the_average_of_the_heads() -> None:
    with seeded_init(0):
        network = StackNetwork(SMALL).double()
    context, query, labels = table()
    heads = FittedHeads.fit(context, labels, SMALL.heads, torch_stream(5))
    new = heads.predict(query)
    frequency = (labels.sum(dim=1) + 0.5) / (14 + 1.5)
    expected = SMALL.initial_temperature * new.mean(dim=-1) + 0.5 * frequency.log()[:, None]
    assert torch.allclose(network(heads.left_out, new, labels), expected, atol=1e-6)
    awake = lively()
    awake.silence()
    assert torch.allclose(awake(heads.left_out, new, labels), expected, atol=1e-6)


def test_training_batches_depend_on_the_step_only_and_teach() -> None:
    prior = paper_prior()
    shapes = TaskShapes(n_rows=(24, 40), n_features=(2, 4), n_classes=(2, 4), tokens=300)
    batches = StackBatches(tuple(prior.members), tuple(prior.weights), shapes, SMALL.heads, 0, "cpu")
    one, again, other = batches(3), batches(3), batches(4)
    assert torch.equal(one.context_scores, again.context_scores)
    assert one.context_scores.shape != other.context_scores.shape or not torch.equal(
        one.context_scores, other.context_scores
    )
    assert one.labels.sum(dim=1).min() > 0  # every class is in every context
    with seeded_init(0):
        network = StackNetwork(SMALL)
    loss = stack_loss(network, one)
    loss.backward()
    assert torch.isfinite(loss)
    assert network.temperature.grad is not None


def test_pretrain_shipped_writes_a_network_that_loads(tmp_path: Path) -> None:
    record = pretrain_shipped(preset="quick", n_steps=2, device="cpu", out=tmp_path)
    assert StackNetwork.from_checkpoint(record["weights"]).settings.width == 16
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{SHIPPED}.{end}" for end in ("safetensors", "state.safetensors", "log.jsonl")
    }
