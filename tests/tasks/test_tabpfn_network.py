"""The published network and its cell form: equations against slow plain versions, what sees what, sizes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from foreknow.common.errors import CheckpointError, ConfigError
from foreknow.core.checkpoint import Checkpoint
from foreknow.core.predictive import Bar
from foreknow.tasks.tabpfn.cells import CellSettings, CellTransformer, Columns
from foreknow.tasks.tabpfn.network import (
    RowSettings,
    RowTransformer,
    TableNetwork,
    build_network,
    load_network,
    standardise_targets,
)
from foreknow.tasks.tabpfn.training import prior_of

ROWS = RowSettings(width=16, depth=2, n_heads=2, hidden=32, max_features=6, n_classes=4, n_buckets=12)
CELLS = CellSettings(
    width=8, n_summaries=2, n_points=3, column_depth=1, n_rounds=2, depth=2, n_heads=2, n_column_heads=2, n_slots=4,
    n_buckets=12,
)  # fmt: skip
ALL = [replace(sizes, task=task) for sizes in (ROWS, CELLS) for task in ("classification", "regression")]


def awake(sizes: RowSettings | CellSettings) -> TableNetwork:
    """A network whose zero-initialised layers were filled, so that every path counts; double precision."""
    network = build_network(sizes, seed=1).double().eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            if not bool(parameter.any()):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def table(n: int = 12, m: int = 5, d: int = 4, task: str = "classification") -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, n + m, d, generator=generator, dtype=torch.float64)
    y = (x[..., 0] > 0).double() + (x[..., 1] > 0.5) if task == "classification" else x[..., 0] * 2 - x[..., 1]
    x[0, 1, 2] = x[1, n, 0] = torch.nan
    return x[:, :n], y[:, :n].double(), x[:, n:]


# Sizes -------------------------------------------------------------------------------------------------------------


def test_the_published_network_has_its_published_size() -> None:
    with torch.device("meta"):
        network = RowTransformer(RowSettings())
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_821_706


# What sees what ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", ALL, ids=str)
def test_no_query_sees_another_one(sizes: RowSettings | CellSettings) -> None:
    network, (x, y, new) = awake(sizes), table(task=sizes.task)
    whole = network(x, y, new)
    assert torch.allclose(network(x, y, new[:, 1:2]), whole[:, 1:2], atol=1e-10)
    strange = torch.cat([new, 1e3 * torch.ones_like(new[:, :2])], dim=1)
    assert torch.allclose(network(x, y, strange)[:, :5], whole, atol=1e-10)


@pytest.mark.parametrize("sizes", ALL, ids=str)
def test_what_was_encoded_before_gives_the_same(sizes: RowSettings | CellSettings) -> None:
    network, (x, y, new) = awake(sizes), table(task=sizes.task)
    cache = network.encode(x, y, n_classes=3)
    one_by_one = [network.read(cache, row) for row in new.split(1, dim=1)]
    assert torch.allclose(torch.cat(one_by_one, dim=1), network(x, y, new, n_classes=3), atol=1e-10)


@pytest.mark.parametrize("sizes", ALL, ids=str)
def test_the_order_of_context_rows_does_not_matter_but_their_labels_do(sizes: RowSettings | CellSettings) -> None:
    network, (x, y, new) = awake(sizes), table(task=sizes.task)
    expected = network(x, y, new)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
    assert torch.allclose(network(x[:, order], y[:, order], new), expected, atol=1e-10)
    assert not torch.allclose(network(x, y[:, order], new), expected, atol=1e-3)


def test_missing_cells_count_as_the_mean_in_the_row_form_and_as_missing_in_the_cell_form() -> None:
    x, y, new = table()
    filled = new.nan_to_num(0.0)
    rows, cells = awake(ROWS), awake(CELLS)
    assert torch.equal(rows(x, y, new), rows(x, y, filled))
    assert not torch.allclose(cells(x, y, new), cells(x, y, filled), atol=1e-3)


def test_unused_columns_of_the_row_form_are_zeros_and_used_ones_grow() -> None:
    network, (x, y, new) = awake(ROWS), table(d=4)
    wide = [torch.nn.functional.pad(part.nan_to_num(0.0) * 6 / 4, (0, 2)) for part in (x, new)]
    assert torch.allclose(network(x, y, new), network(wide[0], y, wide[1]), atol=1e-10)
    with pytest.raises(ConfigError, match="7 columns, this network takes at most 6"):
        network(*table(d=7))


def test_a_block_of_the_row_form_is_the_masked_attention_of_the_paper() -> None:
    """One block over all rows at once, with the mask written out, gives the same tokens."""
    network, (x, y, new) = awake(replace(ROWS, depth=1)), table()
    assert isinstance(network, RowTransformer)
    block = network.transformer.blocks[0]
    context = network._embed(x) + network.y_encoder(y[..., None])
    tokens = torch.cat([context, network._embed(new)], dim=1)
    attention = block.attention
    heads = [
        layer(tokens).unflatten(-1, (2, 8)).transpose(1, 2)
        for layer in (attention.query, attention.key, attention.value)
    ]
    score = heads[0] @ heads[1].mT / math.sqrt(8)
    score[..., 12:] = -torch.inf  # nobody attends to a query
    gathered = attention.out((score.softmax(-1) @ heads[2]).transpose(1, 2).flatten(2))
    tokens = block.attention_norm(tokens + gathered)
    tokens = block.mlp_norm(tokens + block.mlp(tokens))
    assert torch.allclose(network(x, y, new), network.decoder(tokens)[:, 12:], atol=1e-10)


# The cell form -----------------------------------------------------------------------------------------------------


def test_features_of_cells_against_a_slow_version() -> None:
    x, _, new = table()
    columns = Columns.of(x)
    z, rank, missing = columns.features(new)
    for b, i, j in np.ndindex(*new.shape):
        cell, own = float(new[b, i, j]), x[b, :, j].numpy()
        own = own[np.isfinite(own)]
        assert missing[b, i, j] == math.isnan(cell)
        if math.isnan(cell):
            assert z[b, i, j] == rank[b, i, j] == 0
            continue
        assert float(z[b, i, j]) == pytest.approx(5 * math.tanh((cell - own.mean()) / own.std() / 5))
        assert float(rank[b, i, j]) == pytest.approx(2 * ((own < cell).mean() + (own == cell).mean() / 2) - 1)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([float("nan"), 0.0, 1.0, 1.0 + 1e-9, -1e30, 1e30]), min_size=1, max_size=6))
def test_features_of_cells_are_finite_and_bounded(cells: list[float]) -> None:
    x = torch.tensor(cells, dtype=torch.float32)[None, :, None]
    for part in Columns.of(x).features(torch.cat([x, -x], dim=1)):
        assert part.isfinite().all()
        assert part.abs().max() <= 5


def test_a_missing_column_and_a_single_column_work() -> None:
    network, (x, y, new) = awake(CELLS), table()
    x[..., 1] = torch.nan
    assert network(x, y, new).isfinite().all()
    assert network(x[..., :1], y, new[..., :1]).isfinite().all()
    with pytest.raises(ConfigError, match="at least one row"):
        network(x[:, :0], y[:, :0], new)


def test_the_vote_is_a_weighted_share_of_labels() -> None:
    vote = awake(CELLS).vote
    assert vote is not None
    vote.requires_grad_(False).log_n_scale.zero_()
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(1, 5, 16, generator=generator, dtype=torch.float64)
    new = torch.randn(1, 3, 16, generator=generator, dtype=torch.float64)
    labels = torch.nn.functional.one_hot(torch.tensor([[0, 2, 2, 1, 0]]), 4).double()
    found = vote(new, vote.keys(rows), labels)[0]
    for i in range(3):
        share = torch.zeros(4)
        for head in (slice(0, 8), slice(8, 16)):
            score = [float(vote.query(new[0, i])[head] @ vote.key(row)[head]) / 8**0.5 for row in rows[0]]
            weight = np.exp(score) / np.exp(score).sum()
            for w, code in zip(weight, (0, 2, 2, 1, 0), strict=True):
                share[code] += w / 2
        assert torch.allclose(found[i], (share.clamp_min(1e-5) + 3e-5).log(), atol=1e-5)
    assert torch.equal(vote.query.weight, vote.key.weight)


def test_signs_tell_columns_apart_and_are_part_of_the_file() -> None:
    network, (x, y, new) = awake(CELLS), table()
    assert not torch.allclose(network(x.flip(2), y, new.flip(2)), network(x, y, new), atol=1e-3)
    assert "signs" in network.state_dict()
    small, wide = awake(replace(CELLS, max_features=2)), torch.cat([x, x], dim=2)
    assert small(wide, y, torch.cat([new, new], dim=2)).isfinite().all()


def test_an_untrained_cell_network_is_a_smoother_over_near_rows() -> None:
    generator = torch.Generator().manual_seed(6)
    y = torch.arange(60).expand(4, -1) % 3
    centre = 3 * torch.randn(4, 3, 5, generator=generator)
    x = centre.gather(1, y[..., None].expand(-1, -1, 5)) + torch.randn(4, 60, 5, generator=generator)
    network = build_network(CellSettings(), seed=0).eval()
    found = network(x[:, :40], y[:, :40].float(), x[:, 40:]).argmax(-1)
    assert (found == y[:, 40:]).float().mean() > 0.8


def test_renaming_the_classes_and_their_slots_renames_the_votes() -> None:
    network, (x, y, new) = awake(CELLS), table()
    order = torch.tensor([2, 0, 1, 3])
    expected = network(x, y, new, n_classes=4)
    renamed = network(x, order[y.long()].double(), new, n_classes=4, slots=order.argsort()[None].expand(2, -1))
    assert torch.allclose(renamed[..., order], expected, atol=1e-10)


def test_more_classes_than_slots_are_voted_for() -> None:
    network, (x, _, new) = awake(CELLS), table()
    y = torch.arange(12).expand(2, -1).double()
    logits = network(x, y, new)
    assert logits.shape == (2, 5, 12)
    assert torch.allclose(logits.exp().sum(-1), torch.ones(2, 5), atol=1e-3)


@pytest.mark.parametrize("sizes", ALL, ids=str)
def test_gradients_reach_every_parameter(sizes: RowSettings | CellSettings) -> None:
    network, (x, y, new) = awake(sizes), table(task=sizes.task)
    network.nll(network(x, y, new), torch.zeros(2, 5, dtype=torch.float64)).mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


# Files and targets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", ALL, ids=str)
def test_a_file_gives_the_network_back_in_half_precision(sizes: RowSettings | CellSettings, tmp_path) -> None:
    network = build_network(sizes, seed=3).eval()
    if network.bar is not None:
        network.bar.set_borders(torch.linspace(-2, 3, 13).square().cumsum(0))
    prior = prior_of("cells", sizes.task)
    network.save(tmp_path / "n.safetensors", prior, {"seed": 3})
    found, fitted_to = load_network(tmp_path / "n.safetensors")
    assert fitted_to == prior
    assert found.settings == sizes
    for name, tensor in network.state_dict().items():
        expected = tensor if name.endswith("borders") else tensor.half().float()
        assert torch.equal(found.state_dict()[name], expected)
    x, y, new = (part.float() for part in table(task=sizes.task))
    logits = found(x, y, new)
    assert isinstance(found.distribution(logits), Bar) == (sizes.task == "regression")
    assert found.nll(logits, torch.zeros(2, 5)).shape == (2, 5)


def test_files_of_something_else_are_refused(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="lacks 'settings'"):
        load_network(Checkpoint(kind="TableNetwork", config={}, tensors={}, training={}))
    config = {"settings": 3, "prior": None}
    with pytest.raises(CheckpointError, match="not that of a network of tables"):
        load_network(Checkpoint(kind="TableNetwork", config=config, tensors={}, training={}))


def test_targets_are_standardised_by_the_context() -> None:
    shift, scale = standardise_targets(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    assert torch.equal(shift, torch.tensor([[2.0], [5.0]]))
    assert torch.equal(scale, torch.tensor([[1.0], [1.0]]))
    assert torch.equal(standardise_targets(torch.empty(2, 0))[1], torch.ones(2, 1))


@pytest.mark.parametrize("bad", [{"task": "ranking"}, {"width": 0}, {"depth": 0}, {"n_buckets": 2}])
@pytest.mark.parametrize("kind", [RowSettings, CellSettings])
def test_bad_sizes_are_refused(kind: type, bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"{kind.__name__}.*{next(iter(bad))}"):
        kind(**bad)


def test_names_of_the_room_are_these_classes() -> None:
    from foreknow import tasks

    assert tasks.CellTransformer is CellTransformer
    assert tasks.RowTransformer is RowTransformer
