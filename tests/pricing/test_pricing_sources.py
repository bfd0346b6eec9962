"""Splits of tables: nested, paired, by group, and what cannot be split."""

import numpy as np
import pandas as pd
import pytest

from foreknow.common.errors import ConfigError, InputError
from foreknow.pricing.sources import TableSource, as_sources, builtin_tables


def table(n=200, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    return {"a": X[:, 0], "b": X[:, 1], "who": np.repeat(np.arange(n // 4), 4).astype(str)}, np.array(
        [f"c{code}" for code in rng.integers(0, classes, n)]
    )


def frame(**changes):
    columns, y = table(**changes)
    return pd.DataFrame({**columns, "y": y})


def identity(rows):
    return {tuple(row) for row in rows.matrix[:, :2].tolist()}


def test_training_sets_are_nested_and_apart_from_the_test_set():
    source = TableSource(frame(), "y")
    small, large = source.split(20, 0, following=20), source.split(40, 0)
    assert identity(small.train) | identity(small.following) == identity(large.train)
    assert identity(small.test) == identity(large.test)
    assert not identity(large.train) & identity(large.test)
    assert len(small.test.y) == 80 and len(large.train.y) == 40 and large.following is None


def test_seeds_differ_and_repeat():
    source = TableSource(frame(), "y")
    assert identity(source.split(20, 0).train) == identity(TableSource(frame(), "y").split(20, 0).train)
    assert identity(source.split(20, 0).train) != identity(source.split(20, 1).train)


@pytest.mark.parametrize("seed", range(5))
def test_every_class_is_learnt_from_at_the_smallest_size(seed):
    columns, y = table(300)
    y[:6] = "rare"
    y[6:] = np.where(y[6:] == "rare", "c0", y[6:])
    source = TableSource(pd.DataFrame({**columns, "y": y}), "y")
    split = source.split(source.n_min, seed)
    assert set(split.train.y) == set(range(split.n_classes)) == set(split.test.y)


def test_classes_of_one_or_two_rows_are_left_out_and_counted():
    columns, y = table()
    y[3] = "single"
    source = TableSource(pd.DataFrame({**columns, "y": y}), "y")
    assert source.n_left_out == 1 and "single" not in source.classes and len(source.classes) == 3
    assert source.split(20, 0).train.y.max() == 2


@pytest.mark.parametrize("seed", range(4))
def test_groups_stay_on_one_side_and_are_not_learnt_from(seed):
    source = TableSource(frame(), "y", groups="who")
    split = source.split(40, seed)
    columns, _ = table()
    who = dict(zip(zip(columns["a"].tolist(), columns["b"].tolist()), columns["who"].tolist()))
    sides = [{who[row] for row in identity(rows)} for rows in (split.train, split.test)]
    assert not sides[0] & sides[1]
    assert split.train.matrix.shape[1] == 2 and "who" not in split.train.table.names


def test_the_hash_follows_the_contents_and_nothing_else():
    first = TableSource(frame(), "y", name="one")
    assert first.content_hash == TableSource(frame(), "y", name="two").content_hash
    changed = frame()
    changed.loc[7, "a"] += 1e-9
    others = [
        TableSource(changed, "y"), TableSource(frame(), "y", groups="who"), TableSource(frame(), "y", test_share=0.3),
        TableSource(frame().drop(columns="b"), "y"), TableSource(frame(), "who", task="classification"),
    ]  # fmt: skip
    assert len({first.content_hash, *(other.content_hash for other in others)}) == 6


def test_numbers_are_told_in_units_of_their_spread():
    columns, _ = table()
    source = TableSource(pd.DataFrame({**columns, "y": 1000 * columns["a"] + 5}), "y")
    assert source.task == "regression" and source.classes == ()
    assert source.split(20, 0).scale == pytest.approx(1000 * columns["a"].std())


def test_what_a_caller_may_give_as_data():
    columns, y = table()
    X = np.column_stack([columns["a"], columns["b"]])
    (pair,) = as_sources((X, y), target=None, task="auto")
    assert pair.task == "classification" and pair.split(20, 0).train.matrix.shape == (20, 2)
    both = as_sources({"first": (X, y), "second": (X, X[:, 0])}, target=None, task="auto")
    assert [source.name for source in both] == ["first", "second"]
    (kept,) = as_sources(pair, target=None, task="auto")
    assert kept is pair
    (renamed,) = as_sources({"new": pair}, target=None, task="auto")
    assert (renamed.name, pair.name) == ("new", "table")
    for task in ("classification", "regression"):
        assert all(as_sources(one, target=None, task="auto")[0].task == task for one in builtin_tables(task).values())


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda: as_sources(frame(), target=None, task="auto"), "which column"),
        (lambda: as_sources({}, target="y", task="auto"), "empty"),
        (lambda: as_sources((np.zeros((4, 2)), np.zeros(3)), target=None, task="auto"), "X has 4 rows, y has 3"),
        (lambda: TableSource(frame(n=12), "y"), "usable rows leave|fewer than"),
        (lambda: TableSource(frame(), "y", groups="nobody"), "nobody"),
        (lambda: TableSource(frame().assign(who="same"), "y", groups="who"), "one group only"),
        (lambda: TableSource(frame(), "y").split(1000, 0), "not test rows"),
    ],
)
def test_bad_data_meet_a_clear_error(give, message):
    with pytest.raises(InputError, match=message):
        give()


def test_a_constant_number_cannot_be_priced():
    columns, _ = table()
    with pytest.raises(InputError):
        TableSource(pd.DataFrame({**columns, "y": np.full(200, 2.5)}), "y", task="regression")


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2])
def test_the_test_share_is_a_share(share):
    with pytest.raises(ConfigError, match="test_share"):
        TableSource(frame(), "y", test_share=share)
