"""Features, closed-form heads and the network that reads them: slow plain versions, invariances, known limits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from foreknow.common.errors import CheckpointError
from foreknow.common.rng import seeded_init, torch_stream
from foreknow.core.batch import Batch
from foreknow.core.predictive import Bar
from foreknow.tasks.tabular.features import CLIP, FeatureMap, drop_empty
from foreknow.tasks.tabular.heads import FittedHeads, HeadSettings, Scores, combination
from foreknow.tasks.tabular.network import ClassifierStack, RegressorStack, StackNetwork, StackSettings
from foreknow.tasks.tabular.priors import paper_prior
from foreknow.tasks.tabular.training import SHIPPED, StackBatches, TaskShapes, pretrain_shipped, scored, stack_loss

SMALL = StackSettings(heads=HeadSettings(n_trees=6, n_forest=8), width=16, depth=2, n_heads=2)


def table(n: int = 14, m: int = 6, p: int = 3, c: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch_stream(0, "table")
    context, query = (torch.randn(2, rows, p, generator=generator, dtype=torch.float64) for rows in (n, m))
    codes = torch.randint(c, (2, n), generator=generator)
    return context, query, torch.nn.functional.one_hot(codes, c).double()


def lively(task: str = "classification") -> ClassifierStack | RegressorStack:
    with seeded_init(0):
        network = StackNetwork.of(replace(SMALL, task=task)).double().eval()
    generator = torch_stream(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def test_left_out_scores_are_those_of_a_fit_without_the_row() -> None:
    context, _, labels = table(p=4)
    settings = HeadSettings(
        linear_ridges=(0.5,), ridges=(0.5,), rbf=(1.0,), laplace=(), n_trees=0, votes=(1.0,), n_forest=0
    )
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
        assert torch.allclose(heads.left_out.heads[:, row, :, 0], expected[:, 0], atol=1e-8)


def test_a_query_equal_to_a_context_row_gets_the_ridge_prediction() -> None:
    context, _, labels = table()
    settings = HeadSettings(
        linear_ridges=(), ridges=(0.1,), rbf=(1.0,), laplace=(), n_trees=0, votes=(1.0,), n_forest=0
    )
    heads = FittedHeads.fit(context, labels, settings, torch_stream(2))
    distances = torch.cdist(context, context).square()
    median = distances.flatten(1).median(dim=1).values[:, None, None]
    gram = torch.exp(-distances / median)
    mean = labels.mean(dim=1, keepdim=True)
    fitted = gram @ torch.linalg.solve(gram + 0.1 * torch.eye(14), labels - mean) + mean
    assert torch.allclose(heads.predict(context).heads[..., 1], fitted, atol=1e-6)


def test_a_vote_leaves_the_row_itself_out() -> None:
    context, _, labels = table(n=2)
    heads = FittedHeads.fit(context, labels, HeadSettings(n_trees=0, n_forest=0), torch_stream(0))
    assert torch.allclose(heads.left_out.heads[..., -2], labels.flip(1))


def test_predicting_by_features_gives_the_products_of_kernels_with_dual_weights() -> None:
    context, query, labels = table(n=20)
    settings = HeadSettings(n_trees=12)
    heads = FittedHeads.fit(context, labels, settings, torch_stream(4)).to(torch.float64)
    assert heads.trees is not None
    centre = labels.mean(dim=1, keepdim=True)
    found = heads.predict(query).heads
    linear = query @ context.mT / 3
    alike = heads.trees.leaves_of(query) @ heads.trees.leaves.mT
    for gram, first, alphas in ((linear, 0, heads.alphas[:2]), (alike, len(heads.alphas) - 2, heads.alphas[-2:])):
        for offset, alpha in enumerate(alphas):
            assert torch.allclose(found[..., first + offset], gram @ alpha + centre, atol=1e-10)


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
    assert torch.allclose(precise.predict(context).heads.float(), heads.predict(context.float()).heads, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_awkward_tables_give_finite_scores(dtype: torch.dtype) -> None:
    n = 12
    same = torch.zeros(1, n, 2, dtype=dtype)
    twins = torch.arange(n // 2, dtype=dtype).repeat(2)[None, :, None].expand(1, n, 2).contiguous()
    labels = torch.nn.functional.one_hot(torch.arange(n) % 2, 2).to(dtype)[None]
    for context in (same, twins, 1e-12 * twins, 1e6 * twins):
        heads = FittedHeads.fit(context, labels, HeadSettings(), torch_stream(4))
        for found in (heads.left_out, heads.predict(context)):
            assert all(value.isfinite().all() for value in vars(found).values())


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


def test_the_combination_is_non_negative_least_squares() -> None:
    generator = torch_stream(7)
    scores = torch.randn(3, 4000, 2, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 4000, 2, generator=generator, dtype=torch.float64)
    targets = 0.7 * scores[..., 0] - 0.4 * scores[..., 1] + 0.2 * scores[..., 2] + 0.1 * noise
    weights = combination(scores, targets)
    for table_weights, x, y in zip(weights, scores, targets):
        centre = y.mean(dim=0)
        expected, _ = nnls((x - centre[:, None]).flatten(0, 1).numpy(), (y - centre).flatten().numpy())
        assert torch.allclose(table_weights, torch.as_tensor(expected), atol=5e-3)
    few = combination(scores[:, :3], targets[:, :3])
    assert (few - 0.2).abs().mean() < (weights - 0.2).abs().mean()  # a few rows leave the weights nearly equal


def test_surroundings_of_a_row_say_how_far_and_how_wrong() -> None:
    generator = torch_stream(8)
    x = torch.randn(1, 200, 2, generator=generator, dtype=torch.float64)
    noisy = x[..., :1] > 0
    y = x.sum(dim=2, keepdim=True) + noisy * 2 * torch.randn(1, 200, 1, generator=generator, dtype=torch.float64)
    heads = FittedHeads.fit(x, y, HeadSettings(n_trees=0), torch_stream(9))
    found = heads.predict(torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [-9.0, 0.0]]], dtype=torch.float64))
    assert found.error[0, 0, 0] > 3 * found.error[0, 1, 0]
    assert found.distance[0, 2] > found.distance[0, 1] + 2


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_networks_are_equivariant_to_rows_and_classes(task: str) -> None:
    network = lively(task)
    context, query, labels = table()
    targets = labels if task == "classification" else labels[..., :1] + context[..., :1]
    heads = FittedHeads.fit(context, targets, SMALL.heads, torch_stream(5))
    own, new = heads.left_out, heads.predict(query)

    def part(scores: Scores, index: tuple[slice | Tensor, ...]) -> Scores:
        return Scores(scores.heads[index], scores.error[index], scores.distance[index[:2]])

    def outputs(*given: Scores | Tensor) -> Tensor:
        found = network(*given)
        return found if task == "classification" else torch.cat([found[0][..., None], found[1]], dim=-1)

    expected = outputs(own, new, targets)
    rows, every = torch.randperm(14, generator=torch_stream(6)), slice(None)
    assert torch.allclose(outputs(part(own, (every, rows)), new, targets[:, rows]), expected, atol=1e-8)
    assert torch.allclose(outputs(own, part(new, (every, slice(2))), targets), expected[:, :2], atol=1e-8)
    if task == "classification":
        order = (every, every, torch.tensor([2, 0, 1]))
        mixed = outputs(part(own, order), part(new, order), targets[order])
        assert torch.allclose(mixed, expected[order], atol=1e-8)


def test_before_training_it_is_the_combination_of_the_heads() -> None:
    context, query, labels = table()
    heads = FittedHeads.fit(context, labels, SMALL.heads, torch_stream(5))
    new = heads.predict(query)
    frequency = (labels.sum(dim=1) + 0.5) / (14 + 1.5)
    expected = 6 * new.heads[..., -1] + 0.5 * frequency.log()[:, None]
    awake = lively()
    assert not torch.allclose(awake(heads.left_out, new, labels), expected, atol=1e-2)
    awake.silence()
    assert torch.allclose(awake(heads.left_out, new, labels), expected, atol=1e-6)


def test_before_training_a_regression_has_the_spread_of_its_own_errors() -> None:
    network = lively("regression")
    assert isinstance(network, RegressorStack)
    network.silence()
    context, query, _ = table(n=40)
    targets = context[..., :1].abs()
    heads = FittedHeads.fit(context, targets, SMALL.heads, torch_stream(5))
    new = heads.predict(query)
    location, logits, scale = network(heads.left_out, new, targets)
    assert torch.allclose(location, new.heads[:, :, 0, -1])
    error = (heads.left_out.heads[..., 0, -1] - targets[..., 0]).square().mean(dim=1, keepdim=True).sqrt()
    assert torch.allclose(scale, error)
    start = Bar(logits, network.borders.double())
    assert torch.allclose(start.variance(), torch.ones(2, 6).double(), atol=0.1)
    student = torch.distributions.StudentT(4.0)
    at = torch.tensor([-1.5, 0.3, 2.0])[:, None, None].expand(3, 2, 6).double()
    expected = student.log_prob(at * 2**0.5) + 0.5 * math.log(2)
    assert torch.allclose(start.log_prob(at), expected, atol=0.05)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_training_batches_depend_on_the_step_only_and_teach(task: str) -> None:
    prior = paper_prior(task)
    shapes = TaskShapes(n_rows=(24, 40), n_features=(2, 4), n_classes=(2, 4), tokens=300)
    batches = StackBatches(tuple(prior.members), tuple(prior.weights), shapes, SMALL.heads, 0, "cpu")
    one, again, other = batches(3), batches(3), batches(4)
    assert torch.equal(one.context.heads, again.context.heads)
    assert one.context.heads.shape != other.context.heads.shape or not torch.equal(
        one.context.heads, other.context.heads
    )
    if task == "classification":
        assert one.targets.sum(dim=1).min() > 0  # every class is in every context
    else:
        assert torch.allclose(one.targets.mean(dim=1), torch.zeros(()), atol=1e-5)
    with seeded_init(0):
        network = StackNetwork.of(replace(SMALL, task=task))
    loss = stack_loss(network, one)
    loss.backward()
    assert torch.isfinite(loss)
    gradient = network.head.weight.grad
    assert gradient is not None
    # In a regression the weight on the difference of the combination from itself acts on nothing.
    assert int((gradient.abs().sum(dim=1) == 0).sum()) == (task == "regression")


def test_a_constant_target_is_scored_without_a_fault() -> None:
    generator = torch_stream(10)
    x, y = torch.randn(1, 20, 2, generator=generator), torch.ones(1, 20)
    batch = scored(Batch(x, y, x, y), None, SMALL.heads, generator)
    assert torch.allclose(batch.query.heads, torch.zeros(()), atol=1e-5)


@pytest.mark.parametrize("name", SHIPPED.values())
def test_pretrain_shipped_writes_a_network_that_loads_and_goes_on(tmp_path: Path, name: str) -> None:
    task = next(task for task, shipped in SHIPPED.items() if shipped == name)
    record = pretrain_shipped(name, preset="quick", n_steps=2, device="cpu", out=tmp_path)
    assert StackNetwork.from_checkpoint(record["weights"], task).settings.width == 16
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{end}" for end in ("safetensors", "state.safetensors", "log.jsonl")
    }
    further = pretrain_shipped(name, n_steps=1, device="cpu", out=tmp_path / "further", resume=True)
    assert further["steps"] == further["continued_from"]["steps"] + 1
    other = "regression" if task == "classification" else "classification"
    with pytest.raises(CheckpointError, match=f"for {task}, not for {other}"):
        StackNetwork.from_checkpoint(record["weights"], other)
