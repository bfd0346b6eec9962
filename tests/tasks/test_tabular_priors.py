import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from foreknow.common.errors import ConfigError
from foreknow.common.rng import torch_stream
from foreknow.core.records import from_json, to_json
from foreknow.tasks.pfn.priors.hyper import gamma
from foreknow.tasks.tabular.priors import (
    GraphPrior,
    RulePrior,
    SCMPrior,
    SmoothPrior,
    TablePrior,
    TreeSCMPrior,
    base,
    graph,
    members_and_weights,
    paper_prior,
    scm,
    source,
    trees,
)
from foreknow.tasks.tabular.priors.rules import RULES

MEMBERS = (SCMPrior, TreeSCMPrior, RulePrior, SmoothPrior, GraphPrior)


def rng(seed: int = 0) -> torch.Generator:
    return torch_stream(seed, "test")


def src(seed: int = 0, dtype: torch.dtype = torch.float32) -> source.Source:
    return source.Source(rng(seed), torch.device("cpu"), dtype)


def whole(prior: TablePrior, n: int, rows: int = 64, seed: int = 0, **options):
    batch = prior.sample(n, n_context=rows // 2, n_query=rows - rows // 2, generator=rng(seed), **options)
    return torch.cat([batch.context_x, batch.query_x], 1), torch.cat([batch.context_y, batch.query_y], 1), batch.info


def auc(score: torch.Tensor, y: torch.Tensor) -> float:
    rank = score.argsort().argsort().double() + 1
    n1 = int(y.sum())
    return float((rank[y > 0].sum() - n1 * (n1 + 1) / 2) / (n1 * (len(y) - n1)))


# Random numbers ---------------------------------------------------------------------------------------------------


def test_gamma_takes_one_shape_per_draw() -> None:
    shapes = torch.tensor([0.3, 1.0, 7.0])
    x = gamma(shapes, (20_000, 3), rng(), torch.device("cpu"), torch.float64)
    assert torch.allclose(x.mean(0), shapes.double(), rtol=0.05)
    assert torch.allclose(x.var(0), shapes.double(), rtol=0.1)


def test_two_step_draws_have_their_published_moments() -> None:
    s = src()
    assert s.meta_gamma(3.0, 100.0, 40_000).mean() == pytest.approx(50.0, rel=0.03)
    drop = s.meta_beta(0.6, 0.1, 5.0, 20_000)
    assert drop.mean() == pytest.approx(0.3, rel=0.05) and drop.min() >= 0 and drop.max() <= 0.6
    sd = s.trunc_norm_log(0.01, 10.0, 40_000)
    assert sd.min() > 0
    # The outer mean is log-uniform, so the median is near the geometric mean of the bounds.
    assert sd.median() == pytest.approx(math.sqrt(0.01 * 10.0), rel=0.15)
    # softmax([1, u]) for u uniform on [-3, 5]: the logit difference is symmetric about 0.
    assert s.meta_coin(20_000).float().mean() == pytest.approx(0.5, abs=0.02)


def test_pick_follows_its_weights_and_shuffled_orders_are_permutations() -> None:
    s = src()
    drawn = s.pick(torch.tensor([[1.0, 0.0, 3.0]]), 20_000)
    assert torch.bincount(drawn[0], minlength=3).double().div(20_000).tolist() == pytest.approx(
        [0.25, 0, 0.75], abs=0.02
    )
    order = s.shuffled(torch.tensor([2, 4]), 4)
    assert sorted(order[0, :2].tolist()) == [0, 1] and sorted(order[1].tolist()) == [0, 1, 2, 3]


def test_root_causes_are_normal_or_discrete_and_stop_at_their_number() -> None:
    counts = torch.tensor([3, 6] * 40)
    plain = source.root_causes(src(), 200, counts, torch.zeros(80, dtype=torch.bool))
    assert plain.shape == (80, 200, 6) and (plain[::2, :, 3:] == 0).all()
    distinct = torch.tensor([len(c.unique()) for c in plain[1::2].transpose(1, 2).flatten(0, 1)])
    assert distinct.min() > 100
    mixed = source.root_causes(src(), 200, counts, torch.ones(80, dtype=torch.bool))
    distinct = torch.tensor([len(c.unique()) for c in mixed[1::2].transpose(1, 2).flatten(0, 1)])
    assert 0.2 < (distinct <= 10).float().mean() < 0.5  # U(0, .66) on average .33


# Networks ---------------------------------------------------------------------------------------------------------


def _noiseless(prior: SCMPrior, n: int = 24, rows: int = 80) -> tuple[torch.Tensor, scm._Hyper]:
    s = src(1, torch.float64)
    hyper = prior._hyper(n, s)
    hyper = hyper.of(hyper.n_layers.argsort(descending=True))
    hyper = replace(hyper, noise_sd=torch.zeros_like(hyper.noise_sd))
    return prior._nodes(hyper, rows, s), hyper


def _unexplained(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Share of y's variance that no linear function of x reaches, one per table."""
    x = torch.cat([x, torch.ones_like(x[..., :1])], 2)
    x = x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    centred = y - y.mean(dim=1, keepdim=True)
    left = centred - x @ torch.linalg.pinv(x, rtol=1e-9) @ centred
    return left.square().sum((1, 2)) / centred.square().sum((1, 2)).clamp_min(1e-12)


def test_identity_networks_are_linear_and_others_are_not() -> None:
    linear, _ = _noiseless(SCMPrior(n_features=4, linear_only=True, bnn_only=True))
    assert _unexplained(linear[..., :4], linear[..., 4:5]).max() < 1e-9
    bent, _ = _noiseless(SCMPrior(n_features=4, activations=("bump",), bnn_only=True))
    assert _unexplained(bent[..., :4], bent[..., 4:5]).median() > 0.2


def test_causal_linear_nodes_span_no_more_than_their_causes() -> None:
    nodes, hyper = _noiseless(SCMPrior(n_features=8, linear_only=True), n=48)
    centred = nodes - nodes.mean(dim=1, keepdim=True)
    size = centred.norm(dim=1, keepdim=True).maximum(1e-6 * nodes.norm(dim=1, keepdim=True)).clamp_min(1e-12)
    spread = torch.linalg.svdvals(centred / size)
    rank = (spread > 1e-8 * spread[:, :1]).sum(dim=1)
    causal = hyper.is_causal
    assert causal.any() and (rank[causal] <= hyper.n_causes[causal]).all()
    assert rank[causal].float().mean() > 2


def test_switches_of_networks() -> None:
    hyper = SCMPrior(n_features=6)._hyper(4000, src())
    assert 0.4 < hyper.is_causal.float().mean() < 0.6
    assert (hyper.width[hyper.is_causal] >= 13).all() and (hyper.n_causes[~hyper.is_causal] == 6).all()
    assert hyper.n_layers[hyper.is_causal].min() == 2 and hyper.n_layers[~hyper.is_causal].min() == 3
    assert not SCMPrior(bnn_only=True)._hyper(50, src()).is_causal.any()
    published = SCMPrior.published()
    assert published.activations == scm.PUBLISHED and not published.missing_values and published.min_signal == 0


def test_columns_and_scores_are_different_nodes_inside_the_network() -> None:
    prior = SCMPrior(n_features=7)
    s = src(2)
    hyper = prior._hyper(500, s)
    layer, unit = prior._places(hyper, s)
    causal = hyper.is_causal
    assert (unit < hyper.width[:, None]).all() and (unit >= 0).all()
    assert (layer >= 1).all() and (layer < hyper.n_layers[:, None])[causal].all()
    flat = (layer * 10_000 + unit)[causal].sort(dim=1).values
    assert (flat.diff(dim=1) > 0).all()
    effect = causal & hyper.y_is_effect
    assert (layer[effect, 7] == hyper.n_layers[effect] - 1).all()
    place = ((layer - 1) * hyper.width[:, None] + unit)[causal & hyper.in_clique & ~hyper.y_is_effect]
    assert (place.amax(1) - place.amin(1) == place.shape[1] - 1).all()  # a window holds nothing else


def test_dropped_edges_and_blocks() -> None:
    hyper = SCMPrior(n_features=5)._hyper(64, src())
    h = int(hyper.width.max())
    hyper = replace(hyper, p_drop=torch.full_like(hyper.p_drop, 0.6), weight_sd=torch.ones_like(hyper.weight_sd))
    free = replace(hyper, block_wise=torch.zeros_like(hyper.block_wise))
    weights = scm._weights(free, free.width, (h, h), src(3), drop=True)
    inside = (torch.arange(h) < free.width[:, None])[:, :, None] & (torch.arange(h) < free.width[:, None])[:, None]
    assert (weights[~inside] == 0).all()
    assert (weights[inside] != 0).float().mean() == pytest.approx(0.4, abs=0.02)
    kept = weights[inside & (weights != 0)]
    assert kept.std() == pytest.approx(1 / (1 - math.sqrt(0.6)), rel=0.05)
    first = scm._weights(free, free.width, (h, h), src(3), drop=False)
    assert (first[inside] != 0).all()
    blocks = scm._weights(replace(free, block_wise=~free.block_wise), free.width, (h, h), src(3), drop=True)
    assert (blocks[~inside] == 0).all() and (blocks[inside] != 0).float().mean() < 0.6


@pytest.mark.parametrize("name", scm.EXTENDED)
def test_activations_are_finite_at_any_scale(name: str) -> None:
    value = src().normal(2, 30, 4) * torch.tensor([1e-8, 1.0, 1e4, 1e8])
    assert scm.activate(name, value).isfinite().all()


# Trees ------------------------------------------------------------------------------------------------------------


def test_route_is_the_plain_walk_down_each_tree() -> None:
    s = src()
    x = s.normal(3, 20, 4)
    column, threshold = trees.random_trees(x, torch.ones(3, 4, dtype=torch.bool), 5, 3, s)
    leaf = trees.route(x, column, threshold)
    for b, row, tree in itertools.product(range(3), range(20), range(5)):
        node = 0
        for _ in range(3):
            went_right = x[b, row, column[b, tree, node]] > threshold[b, tree, node]
            node = 2 * node + 1 + int(went_right)
        assert leaf[b, row, tree] == node - 7
    assert leaf.unique().numel() > 4


def test_trees_read_their_inputs_only_and_split_at_values() -> None:
    s = src(1)
    x = s.normal(40, 30, 5)
    inputs = torch.tensor([True, False, True, False, False]).expand(40, 5)
    column, threshold = trees.random_trees(x, inputs, 6, 4, s)
    assert set(column.unique().tolist()) == {0, 2}
    assert all(bool((t[:, None] == x[b].flatten()).any(1).all()) for b, t in enumerate(threshold.flatten(1)))
    one_split_per_level = (column[:, :, 1] == column[:, :, 2]) & (threshold[:, :, 1] == threshold[:, :, 2])
    assert 0.25 < one_split_per_level.all(dim=1).float().mean() < 0.75


def test_one_tree_gives_few_values_and_noise_free_tables_are_learnt_by_a_tree() -> None:
    s = src()
    x = s.normal(6, 100, 3)
    out = trees.forest(x, torch.ones(6, 3, dtype=torch.bool), torch.ones(6, dtype=torch.long), 3, 2, s)
    assert all(len(column.unique()) <= 8 for column in out.transpose(1, 2).flatten(0, 1))
    assert out.std(dim=1).min() > 0


# Rules ------------------------------------------------------------------------------------------------------------


def clean_rules(rule: str, n_classes: int = 2, n: int = 12, rows: int = 400, n_features: int = 5):
    prior = RulePrior(n_features=n_features, n_classes=n_classes, min_classes=n_classes, rule=rule)
    return whole(replace(prior, imbalance=0.0).plain(), n, rows)


@pytest.mark.parametrize(("rule", "most"), [("xor", 2), ("parity", 4)])
def test_xor_and_parity_are_the_sum_of_halves_and_no_column_tells(rule: str, most: int) -> None:
    x, y, _ = clean_rules(rule)
    for table, label in zip(x, y, strict=True):
        rank = table.argsort(dim=0, stable=True).argsort(dim=0)
        values = [len(column.unique()) for column in table.T]
        halves = [
            (column > column.mean()).long() if few == 2 else (2 * r >= len(label)).long()
            for column, r, few in zip(table.T, rank.T, values, strict=True)
        ]
        found = [
            columns
            for size in range(2, most + 1)
            for columns in itertools.combinations(range(5), size)
            if float(((sum(halves[c] for c in columns) % 2) == label).float().mean()) in (0.0, 1.0)
        ]
        assert found, "no set of columns reproduces the class"
        assert max(abs(auc(column, label) - 0.5) for column in table.T) < 0.12


def test_lookup_and_tree_classes_are_functions_of_few_cells() -> None:
    for rule in ("lookup", "tree"):
        x, y, info = clean_rules(rule, n_classes=4, n=10, n_features=3)
        assert (info["n_classes"] == 4).all()
        from sklearn.tree import DecisionTreeClassifier

        fitted = [DecisionTreeClassifier(random_state=0).fit(a, b) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
        assert np.mean([tree.get_n_leaves() for tree in fitted]) < 60  # noise would need some 300


def test_and_rules_are_even_and_boxes() -> None:
    x, y, _ = clean_rules("and_or", n_features=4)
    share = y.mean(dim=1)
    assert ((share > 0.3) & (share < 0.7)).all()
    for table, label in zip(x, y, strict=True):
        # One of the classes is a box: no row of the other class inside its bounds.
        boxed = []
        for value in (0.0, 1.0):
            inside, others = table[label == value], table[label != value]
            boxed.append(not ((others >= inside.amin(0)) & (others <= inside.amax(0))).all(dim=1).any())
        assert any(boxed)


def test_products_and_counts_have_scores_that_cuts_turn_into_classes() -> None:
    for rule in ("product", "count"):
        _, y, _ = clean_rules(rule, n_classes=3)
        assert all(set(label.unique().tolist()) == {0.0, 1.0, 2.0} for label in y)


def test_rules_come_in_the_published_shares() -> None:
    kind = RulePrior()._kinds(torch.full((20_000,), 2), src())
    share = torch.bincount(kind, minlength=len(RULES)).double() / 20_000
    assert share.tolist() == pytest.approx([p / sum(RULES.values()) for p in RULES.values()], abs=0.015)
    many = RulePrior()._kinds(torch.full((2_000,), 6), src())
    assert not (many < 2).any()


def test_rule_labels_are_noisy_up_to_the_stated_share() -> None:
    prior = replace(RulePrior(n_features=2, rule="xor").plain(), label_noise=0.4)
    x, y, _ = whole(prior, 200, 200)
    hidden = torch.stack([((t.argsort(0).argsort(0) * 2 >= 200).sum(1) % 2).float() for t in x])
    shown = torch.tensor([[len(c.unique()) == 2 for c in t.T] for t in x]).any(dim=1)
    wrong = (hidden != y).float().mean(dim=1)
    wrong = wrong.minimum(1 - wrong)[~shown]  # half of the redrawn labels are right again
    assert 0.06 < wrong.mean() < 0.14 and wrong.max() < 0.3


# Smooth functions and graphs -------------------------------------------------------------------------------------


def test_smooth_targets_are_smooth_and_additive_where_asked() -> None:
    prior = SmoothPrior(n_features=1, task="regression", min_signal=0.0).plain()
    x, y, _ = whole(prior, 60, 200)
    order = x[..., 0].argsort(dim=1)
    step = y.gather(1, order).diff(dim=1).square().mean(dim=1)
    assert step.median() < 0.5  # for shuffled rows the mean is 2
    assert SmoothPrior(exact_published=True).plain().sample(2, generator=rng()).n_tasks == 2
    assert SmoothPrior.published().sample(2, generator=rng()).context_x.isfinite().all()


def test_graphs_are_acyclic_with_few_parents() -> None:
    n_nodes = torch.tensor([12, 5, 2])
    edges = torch.stack([graph.random_graph(n_nodes, src(seed)) for seed in range(30)])
    assert not edges.triu().any() and edges.sum(dim=3).max() <= 4 and edges.any()
    assert not edges[:, 1, 5:].any() and not edges[:, 2, 2:].any()


def test_target_nodes_share_an_ancestor_with_another() -> None:
    edges = torch.zeros(1, 4, 4, dtype=torch.bool)
    edges[0, 2, 1] = True  # 1 -> 2; 0 and 3 are alone
    weight = graph._related(edges, torch.tensor([4]))[0]
    assert weight[1] > 0.9 and weight[2] > 0.9 and weight[0] < 1e-3 and weight[3] < 1e-3


@pytest.mark.parametrize("name", graph._KINDS)
def test_graph_mechanisms_are_functions_of_their_inputs(name: str) -> None:
    s = src()
    x = s.normal(3, 40, 16)
    inputs = torch.arange(16) < torch.tensor([[1], [5], [16]])
    out = graph.mechanism(name, x, inputs, src(4))
    other = torch.where(inputs[:, None], x, s.normal(3, 40, 16))  # what is not an input changes
    assert out.shape == (3, 40, 8) and out.isfinite().all() and out.std(dim=1).amax() > 0
    assert torch.allclose(graph.mechanism(name, other, inputs, src(4)), out, atol=1e-4)


# From scores to classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MEMBERS)
def test_every_class_is_there_and_their_number_is_exact(kind: type[TablePrior]) -> None:
    for n_classes, rows in ((2, 16), (10, 64)):
        prior = kind(n_features=3, n_classes=n_classes, min_classes=n_classes)
        _, y, info = whole(prior, 16, rows)
        counts = torch.nn.functional.one_hot(y.long(), n_classes).sum(dim=1)
        assert (info["n_classes"] == n_classes).all() and counts.min() >= 1
    _, y, info = whole(kind(n_features=3, n_classes=6, min_classes=3), 32, 23)
    assert torch.equal(torch.tensor([len(t.unique()) for t in y]), info["n_classes"])
    assert set(info["n_classes"].tolist()) == {3, 4, 5, 6}


def test_cuts_by_rank_give_the_asked_sizes_and_keep_equal_scores_together() -> None:
    ordered = torch.linspace(-1, 1, 100)[None]
    share = torch.tensor([[0.5, 0.3, 0.2, 0.0]])
    sizes = torch.bincount(base._by_rank(ordered, torch.tensor([3]), share)[0], minlength=4)
    assert abs(sizes - torch.tensor([5 + 42.5, 5 + 25.5, 5 + 17, 0])).max() <= 2 and sizes.sum() == 100
    ties = torch.repeat_interleave(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([55, 25, 20]))[None]
    code = base._by_rank(ties, torch.tensor([3]), share)[0]
    assert [int(c) for c in torch.bincount(code)] == [55, 25, 20]
    constant = base._by_rank(torch.zeros(1, 100), torch.tensor([2]), share)  # nowhere to move to: cut all the same
    assert constant.unique().numel() == 2


def test_classes_by_centre_take_about_their_shares() -> None:
    share = torch.tensor([[0.6, 0.3, 0.1]]).expand(30, 3)
    code = base._by_centre(src().normal(30, 500, 3), share, src(1))
    sizes = torch.nn.functional.one_hot(code, 3).float().mean(dim=1)
    assert (sizes.mean(dim=0) - share[0]).abs().max() < 0.12


def test_imbalance_changes_the_largest_class() -> None:
    even, uneven = (
        base.class_shares(torch.full((2000,), 4), 4, imbalance, src()).amax(dim=1).mean() for imbalance in (0.0, 1.0)
    )
    assert even < 0.35 and uneven > 0.45
    zero = base.class_shares(torch.tensor([2]), 4, 1.0, src())
    assert (zero[:, 2:] == 0).all() and zero.sum() == pytest.approx(1.0)


def test_label_noise_redraws_the_share_and_empties_no_class() -> None:
    code = torch.arange(3).repeat(100)[None].repeat(20, 1)
    share = torch.full((20, 1), 0.3)
    noisy = base.with_label_noise(code, torch.full((20,), 3), share, src())
    assert (noisy != code).float().mean() == pytest.approx(0.2, abs=0.03)  # a third stays by chance
    rare = torch.zeros(20, 50, dtype=torch.long)
    rare[:, 0] = 1
    kept = base.with_label_noise(rare, torch.full((20,), 2), torch.ones(20, 1) * 0.05, src())
    assert (kept.amax(dim=1) == 1).all()


def test_targets_of_regression_are_standardised_numbers() -> None:
    for kind in MEMBERS:
        prior = kind(n_features=3, task="regression")
        _, y, _ = whole(prior, 20, 20)
        assert prior.target == "regression" and y.mean(dim=1).abs().max() < 1e-4
        spread = y.std(dim=1, correction=0)
        assert ((spread - 1).abs() < 1e-3).all()


def test_signal_tells_functions_from_noise() -> None:
    s = src()
    x = s.normal(20, 96, 6)
    linear, bent, noise = x[..., :1] + x[..., 1:2], x[..., :1].abs() + 0 * x[..., :1], s.normal(20, 96, 1)
    assert base.signal(x, linear).min() > 0.7
    assert base.signal(x[..., :2], bent).median() > 0.4
    assert base.signal(x, noise).median() < 0.03


def test_filter_leaves_fewer_tables_without_signal() -> None:
    rates = []
    for least in (0.0, 0.08):
        prior = replace(SCMPrior(n_features=5, task="regression").plain(), min_signal=least)
        x, y, _ = whole(prior, 80, 48)
        rates.append(float((base.signal(x, y[..., None]) < 0.05).float().mean()))
    assert rates[0] > 0.2 and rates[1] < 0.6 * rates[0]


# Columns as people have them -------------------------------------------------------------------------------------


def test_soft_clamp_is_the_identity_inside_and_logarithmic_outside() -> None:
    x = base.robust_standardise(src().normal(1, 400, 1))
    assert torch.equal(base.soft_clamp(x), x)
    x[0, 0, 0] = 1000.0
    out = base.soft_clamp(x)
    assert 4 < out[0, 0, 0] < 4.5 + math.log(1001)
    assert torch.equal(out[0, 1:], x[0, 1:])


def test_standardise_works_at_any_scale() -> None:
    z = src().normal(1, 50, 1)
    for scale in (1e-25, 1.0, 1e25):
        x = base.robust_standardise(z * scale)
        assert x.mean().abs() < 1e-5 and x.std(correction=0) == pytest.approx(1.0, abs=1e-4)
    assert (base.robust_standardise(torch.full((1, 5, 1), 3.0)) == 0).all()


def test_categorical_columns_have_levels_and_say_so() -> None:
    x = src().normal(300, 200, 4)
    out, declared = base.categorise(x, 1.0, src(1))
    distinct = torch.tensor([[len(c.unique()) for c in t.T] for t in out])
    is_code = distinct < 150
    assert 0.4 < is_code.float().mean() < 0.6 and not (declared & ~is_code).any()
    assert declared[is_code].float().mean() == pytest.approx(0.85, abs=0.06)  # .7 + .3 / 2
    assert distinct[is_code].min() == 2 and distinct[is_code].max() <= 64
    assert distinct[is_code].float().mean() == pytest.approx(10.3, abs=1.5)
    assert torch.equal(out[~is_code.any(dim=1)], x[~is_code.any(dim=1)])
    none = base.categorise(x, 0.0, src(1))
    assert torch.equal(none[0], x) and not none[1].any()


def test_missing_cells_come_in_the_stated_share_of_tables_and_columns_stay_readable() -> None:
    x = src().normal(400, 100, 5)
    out = base.with_missing(x, 0.25, src(1))
    share = out.isnan().float().mean(dim=1)
    assert (share.sum(dim=1) > 0).float().mean() == pytest.approx(0.25, abs=0.08)
    assert share.max() < 0.8 and 0.01 < share.mean() < 0.1
    assert torch.equal(out[~out.isnan()], x[~out.isnan()])
    # Somewhere what is lost depends on the value itself.
    lost = out.isnan()
    shift = torch.stack([(x * lost).sum(1) / lost.sum(1).clamp_min(1), (x * ~lost).sum(1) / (~lost).sum(1)])
    gap = (shift[0] - shift[1]).abs()[lost.sum(dim=1) > 15]
    assert 0.1 < (gap > 0.8).float().mean() < 0.5


def test_bends_keep_the_order_and_outliers_are_few() -> None:
    x = base.robust_standardise(src().normal(50, 80, 3))
    bent = base.bend(x, 1.0, src(1))
    order = x.argsort(dim=1)
    assert (bent.gather(1, order).diff(dim=1) >= -1e-5).all() and not torch.equal(bent, x)
    assert torch.equal(base.bend(x, 0.0, src(1)), x)
    wild = base.with_outliers(x, 1.0, src(1))
    far = wild.abs() > 5
    assert 0 < far.float().mean() < 0.01


def test_column_order_is_random() -> None:
    prior = RulePrior(n_features=6, rule="product").plain()
    x, y, _ = whole(prior, 300, 120)
    product_of_first = base.robust_standardise(x)[..., :2].prod(dim=2)
    related = torch.tensor([abs(auc(p, label) - 0.5) for p, label in zip(product_of_first, (y > 0), strict=True)])
    assert (related > 0.35).float().mean() < 0.3  # drivers are not always the first columns


# As training and the command line use them ------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("kind", MEMBERS)
def test_replace_then_sample(kind: type[TablePrior], task: str) -> None:
    prior = replace(kind(task=task), n_features=2, n_classes=5, min_classes=5)
    batch = prior.sample(3, n_context=40, n_query=7, generator=rng(), dtype=torch.float64)
    assert batch.context_x.shape == (3, 40, 2) and batch.query_y.shape == (3, 7)
    assert batch.context_x.dtype == torch.float64 and batch.info["is_categorical"].shape == (3, 2)
    assert batch.info["is_categorical"].dtype == torch.bool
    again = prior.sample(3, n_context=40, n_query=7, generator=rng(), dtype=torch.float64)
    assert torch.equal(batch.query_y, again.query_y)
    assert torch.equal(batch.context_x.nan_to_num(), again.context_x.nan_to_num())
    other = prior.sample(3, n_context=40, n_query=7, generator=rng(1), dtype=torch.float64)
    assert not torch.equal(batch.context_x.nan_to_num(), other.context_x.nan_to_num())
    assert from_json(to_json(prior)) == prior
    assert kind.__name__ in type(prior).__name__ and "columns" in prior.describe()


@pytest.mark.parametrize("kind", MEMBERS)
def test_tiny_tables(kind: type[TablePrior]) -> None:
    for n_context, n_query, d in ((0, 1, 1), (1, 1, 1), (3, 2, 40)):
        batch = kind(n_features=d, n_classes=4).sample(3, n_context=n_context, n_query=n_query, generator=rng())
        assert batch.query_y.isfinite().all() and not batch.query_x.isinf().any()


def test_mixture_holds_all_members_and_passes_their_info_on() -> None:
    prior = paper_prior(n_features=4, n_classes=3)
    batch = prior.sample(120, n_context=14, n_query=4, generator=rng())
    share = torch.bincount(batch.info["member"], minlength=5).double() / 120
    assert share.tolist() == pytest.approx([0.45, 0.25, 0.1, 0.1, 0.1], abs=0.12)
    assert batch.info["is_categorical"].shape == (120, 4) and batch.info["n_classes"].max() == 3
    off = prior.off()
    assert off.sample(2, generator=rng()).context_x.shape[2] == 4 and off.off() == off


def test_variants() -> None:
    (linear,), _ = members_and_weights(variant="linear")
    assert isinstance(linear, SCMPrior) and linear.linear_only and not linear.bnn_only
    (bnn,), _ = members_and_weights("regression", variant="bnn")
    assert bnn.bnn_only and bnn.target == "regression"
    (published,), _ = members_and_weights(variant="published", n_features=3)
    assert published == replace(SCMPrior.published(), n_features=3)
    with pytest.raises(ConfigError, match="linear"):
        members_and_weights(variant="lineer")


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (SCMPrior, {"activations": ("tahn",)}),
        (SCMPrior, {"activations": ()}),
        (SCMPrior, {"n_classes": 2, "min_classes": 3}),
        (SCMPrior, {"p_missing": 1.5}),
        (TreeSCMPrior, {"max_depth": 0}),
        (RulePrior, {"rule": "nand"}),
        (SmoothPrior, {"n_frequencies": 0}),
        (GraphPrior, {"max_nodes": 1}),
        (GraphPrior, {"task": "ranking"}),
    ],
)
def test_bad_settings_are_refused(kind: type[TablePrior], bad: dict) -> None:
    with pytest.raises(ConfigError, match=kind.__name__):
        kind(**bad)
