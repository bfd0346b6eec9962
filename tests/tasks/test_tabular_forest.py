"""The forest among the heads: slow plain versions, and scores that the row itself has no part in."""

from __future__ import annotations

import torch
from torch import Tensor

from foreknow.common.rng import torch_stream
from foreknow.tasks.tabular.forest import DEPTHS, Forest, _grow


def table(n: int = 60) -> tuple[Tensor, Tensor]:
    generator = torch_stream(0, "forest")
    x = torch.randn(2, n, 3, generator=generator)
    return x, torch.stack([(x[..., 0] > 0).float(), (x[..., 1] * x[..., 2] > 0).float()], dim=-1)


def test_rows_fall_into_leaves_that_hold_the_mean_of_the_rows_seen() -> None:
    x, y = table()
    seen = torch.rand(2, 4, 60, generator=torch_stream(1)) < 0.6
    used = torch.ones(2, 3)
    (feature, threshold, values), fitted = _grow(x, y, seen, used, torch_stream(2))
    for b in range(2):
        for t in range(4):
            leaf = torch.zeros(60, dtype=torch.long)
            for level in range(max(DEPTHS)):
                asked = x[b, torch.arange(60), feature[level][b, t][leaf]]
                leaf = 2 * leaf + (asked > threshold[level][b, t][leaf])
                if level + 1 not in DEPTHS:
                    continue
                which = DEPTHS.index(level + 1)
                for one in leaf.unique():
                    own = (leaf == one) & seen[b, t]
                    mean = y[b].mean(dim=0)
                    expected = ((y[b][own] - mean).sum(dim=0)) / (own.sum() + 1) + mean
                    assert torch.allclose(values[which][b, t, one], expected, atol=1e-5)
                assert torch.allclose(fitted[b, t, :, :, which], values[which][b, t][leaf])


def test_every_leaf_takes_the_best_of_the_questions_its_tree_may_ask() -> None:
    x, y = table(200)
    seen = torch.ones(2, 8, 200, dtype=torch.bool)
    (feature, threshold, _), _ = _grow(x, y[..., :1], seen, torch.ones(2, 3), torch_stream(3))
    # The target is the sign of the first column: with 16 questions a tree's first is nearly always about it.
    assert (feature[0] == 0).float().mean() > 0.9
    assert threshold[0].abs().mean() < 0.4


def test_a_context_row_is_scored_by_trees_that_have_not_seen_it() -> None:
    x, y = table()
    forest = Forest.grow(x, y, 40, torch_stream(4))
    changed = y.clone()
    changed[:, 7] = 50.0
    again = Forest.grow(x, changed, 40, torch_stream(4))
    # A tree that has not seen row 7 leaves it at the mean at worst; one that has would give it most of 50.
    assert float((again.left_out[:, 7] - forest.left_out[:, 7]).abs().max()) < 5
    assert float((again.predict(x)[:, 7] - forest.predict(x)[:, 7]).abs().max()) > 5


def test_left_out_and_new_rows_are_equally_wrong() -> None:
    generator = torch_stream(5)
    x = torch.randn(4, 400, 4, generator=generator)
    y = (x[..., :1] + x[..., 1:2].abs() + 0.5 * torch.randn(4, 400, 1, generator=generator)) / 1.5
    forest = Forest.grow(x[:, :200], y[:, :200], 64, torch_stream(6))
    own = (forest.left_out - y[:, :200, :, None]).square().mean(dim=(0, 1, 2))
    new = (forest.predict(x[:, 200:]) - y[:, 200:, :, None]).square().mean(dim=(0, 1, 2))
    assert torch.allclose(own, new, rtol=0.15)
    assert bool((new < 0.5 * y.var()).all())


def test_many_trees_are_grown_in_parts_and_precision_follows() -> None:
    x, y = table(30)
    forest = Forest.grow(x, y, 5, torch_stream(7))
    assert forest.feature[2].shape == (2, 5, 4)
    precise = forest.to(torch.float64)
    assert precise.predict(x.double()).dtype == torch.float64
    assert torch.allclose(precise.predict(x.double()).float(), forest.predict(x), atol=1e-6)


def test_a_table_without_anything_to_ask_is_scored_by_its_mean() -> None:
    y = torch.tensor([0.0, 1.0, 1.0, 0.0])[None, :, None]
    forest = Forest.grow(torch.zeros(1, 4, 2), y, 3, torch_stream(8))
    assert forest.left_out.isfinite().all()
    assert torch.allclose(forest.predict(torch.zeros(1, 1, 2)), torch.tensor(0.5), atol=0.3)
