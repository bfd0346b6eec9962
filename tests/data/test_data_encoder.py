from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from foreknow.common.errors import CheckpointError, ConfigError, ForeknowWarning, InputError, NotFittedError
from foreknow.data import EncoderSettings, EncodingNote, Standardizer, Table, TableEncoder, as_table

NAN = float("nan")
BOTH = pytest.mark.parametrize("categories", ["ordinal", "onehot"])


def table(**columns: object) -> Table:
    return as_table(pd.DataFrame(columns), owner="test")


def context() -> Table:
    return table(
        size=[1.0, 2.0, None, 4.0],
        colour=["red", "blue", None, "red"],
        flag=[True, False, None, True],
        day=pd.to_datetime(["1970-01-02", None, "1970-01-03", "1970-01-04"]),
        same=["x"] * 4,
        nothing=[None] * 4,
    )


def test_ordinal_encoding():
    encoder = TableEncoder().fit(context())
    encoded = encoder.transform(context())
    assert encoded.names == encoder.names_ == ("size", "colour", "flag", "day")
    assert encoded.is_categorical.tolist() == [False, True, False, False]
    expected = [[1, 1, 1, 86400], [2, 0, 0, NAN], [NAN, NAN, NAN, 2 * 86400], [4, 1, 1, 3 * 86400]]
    np.testing.assert_array_equal(encoded.x, expected)
    np.testing.assert_array_equal(encoded.missing, np.isnan(expected))
    np.testing.assert_allclose(encoder.medians_, [2, NAN, 1, 2 * 86400])
    np.testing.assert_allclose(encoder.means_, [7 / 3, NAN, 2 / 3, 2 * 86400])
    np.testing.assert_allclose(encoder.scales_, [np.std([1, 2, 4]), NAN, np.std([1, 0, 1]), 86400 * np.sqrt(2 / 3)])
    assert encoder.notes_ == [
        EncodingNote("size", "kept", "numbers as they are"),
        EncodingNote("colour", "encoded", "2 levels as codes"),
        EncodingNote("flag", "encoded", "booleans as 0 and 1"),
        EncodingNote("day", "encoded", "dates as seconds"),
        EncodingNote("same", "dropped", "constant"),
        EncodingNote("nothing", "dropped", "all missing"),
    ]


def test_onehot_encoding():
    encoder = TableEncoder(EncoderSettings("onehot")).fit(context())
    encoded = encoder.transform(context())
    assert encoded.names == ("size", "colour=blue", "colour=red", "flag", "day")
    assert not encoded.is_categorical.any() and encoder.notes_[1].reason == "2 levels as 0/1 columns"
    np.testing.assert_array_equal(encoded.x[:, 1:3], [[0, 1], [1, 0], [NAN, NAN], [0, 1]])
    assert not np.isnan(encoder.means_).any()


@BOTH
def test_rare_levels_are_pooled_and_unknown_ones_are_missing(categories):
    cells = ["d"] * 3 + ["b"] * 3 + ["a", "c", "e"]
    encoder = TableEncoder(EncoderSettings(categories, max_levels=3)).fit(table(c=cells))
    x = encoder.transform(table(c=["a", "b", "c", "d", "e", "new", None])).x
    if categories == "ordinal":
        np.testing.assert_array_equal(x[:, 0], [0, 1, 3, 2, 3, NAN, NAN])
        assert encoder.notes_[0].reason == "3 levels as codes, 2 rarer ones pooled"
    else:
        assert encoder.names_ == ("c=a", "c=b", "c=d", "c=(other)")
        np.testing.assert_array_equal(x[2], [0, 0, 0, 1])
        assert np.isnan(x[5:]).all()


def test_identifiers_are_dropped_only_from_fifty_rows_on():
    numbers = np.arange(51.0)
    texts = [f"row {i}" for i in range(51)]
    encoder = TableEncoder().fit(table(id=texts, v=numbers))
    assert encoder.notes_[0] == EncodingNote("id", "dropped", "identifier: 51 different texts in 51 rows")
    assert TableEncoder().fit(table(id=texts, v=numbers).rows(slice(50))).notes_[0].action == "encoded"
    assert TableEncoder().fit(table(id=[*texts[:50], texts[0]], v=numbers)).notes_[0].action == "encoded"
    assert TableEncoder().fit(table(v=numbers)).notes_[0].action == "kept"


def test_one_value_and_missing_cells_is_not_constant():
    assert TableEncoder().fit(table(a=["x", None], b=[1.0, None])).names_ == ("a", "b")


def test_nothing_left_is_an_error():
    with pytest.raises(InputError, match=r"Owner: no usable column is left in X \(n_samples=1\): 'a': constant"):
        TableEncoder(owner="Owner").fit(table(a=[1.0], b=[None]))


@BOTH
def test_query_rows_never_change_the_encoding(categories):
    encoder = TableEncoder(EncoderSettings(categories)).fit(context())
    before = copy.deepcopy(encoder.state())
    alone = encoder.transform(context().rows([1])).x
    others = table(
        size=[1e300, -1e300],
        colour=["green", "red"],
        flag=[False, False],
        day=pd.to_datetime(["2300-01-01", "1700-01-01"]),
        same=["y", "z"],
        nothing=[5.0, 6.0],
    )
    nothing = others.drop(["nothing"]).concat_rows(context().drop(["nothing"]).rows([1]))
    np.testing.assert_array_equal(encoder.transform(nothing).x[2:], alone)
    np.testing.assert_equal(encoder.state(), before)


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(12)),
    numbers=hnp.arrays(np.float64, 12, elements=st.floats(allow_infinity=False)),
    texts=st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=12, max_size=12),
)
def test_order_of_the_context_rows_does_not_matter(order, numbers, texts):
    rows = table(n=numbers, c=texts, v=np.arange(12.0))
    plain = TableEncoder(EncoderSettings(max_levels=2)).fit(rows)
    shuffled = TableEncoder(EncoderSettings(max_levels=2)).fit(rows.rows(order))
    np.testing.assert_equal(shuffled.state(), plain.state())
    assert np.isfinite(plain.scales_[~plain.transform(rows).is_categorical]).all()


def test_columns_are_found_by_name_if_there_are_names():
    encoder = TableEncoder(owner="Owner").fit(context())
    expected = encoder.transform(context()).x
    turned = context().select(context().names[::-1])
    np.testing.assert_array_equal(encoder.transform(turned).x, expected)
    np.testing.assert_array_equal(encoder.transform(context().drop(["same", "nothing"])).x, expected)
    with pytest.warns(
        ForeknowWarning, match=r"Owner: 1 column\(s\) of X were not there at fit and are ignored: 'more'"
    ):
        more = Table((*context().columns, table(more=[1.0] * 4).columns[0]))
        np.testing.assert_array_equal(encoder.transform(more).x, expected)
    renamed = Table(tuple(table(**{c.name.replace("colour", "color"): c.values}).columns[0] for c in context().columns))
    with pytest.raises(InputError, match=r"Owner: X lacks 1 column\(s\).*'colour'(.|\n)*Did you mean 'color'"):
        encoder.transform(renamed)


def test_columns_are_found_by_position_if_there_are_no_names():
    X = np.array([[1, 2, 0], [3, 4, 0.0]])
    encoder = TableEncoder(owner="Owner").fit(as_table(X, owner="o"))
    named = as_table(X, owner="o", names=["b", "a", "c"])
    np.testing.assert_array_equal(encoder.transform(named).x, X[:, :2])
    by_name = TableEncoder().fit(named)
    np.testing.assert_array_equal(by_name.transform(as_table(X, owner="o")).x, X[:, :2])
    with pytest.raises(InputError, match="X has 1 features, but Owner is expecting 3 features as input"):
        encoder.transform(as_table(X[:, [1]], owner="o"))


def test_a_column_of_another_kind_at_transform():
    encoder = TableEncoder(owner="Owner").fit(table(n=[1.0, 2.0, 3.0], c=["1", "2", "x"], b=[True, False, True]))
    with pytest.warns(ForeknowWarning, match="'n' was numeric at fit, but 1 of 3 cells are not, first at row 1: 'two'"):
        encoded = encoder.transform(table(n=["1", "two", "3"], c=[2.0, 1.0, 5.0], b=["yes", "no", None]))
    np.testing.assert_array_equal(encoded.x, [[1, 1, 1], [NAN, 0, 0], [3, NAN, NAN]])
    with pytest.raises(
        InputError, match="Owner: column 'n' was numeric at fit, but 2 of 3 cells are not, first at row 0: 'one'"
    ):
        encoder.transform(table(n=["one", "two", "3"], c=["1"] * 3, b=[True] * 3))
    nothing = encoder.transform(table(n=[None] * 3, c=[None] * 3, b=[None] * 3))
    assert nothing.missing.all()


def test_booleans_meet_the_words_of_a_category():
    encoder = TableEncoder().fit(table(c=["Yes", "no", "maybe"]))
    np.testing.assert_array_equal(encoder.transform(table(c=[True, False, None])).x[:, 0], [0, 2, NAN])


@BOTH
def test_state_round_trip(categories):
    encoder = TableEncoder(EncoderSettings(categories, max_levels=2), owner="Owner").fit(context())
    tensors, meta = encoder.state()
    again = TableEncoder.from_state(tensors, json.loads(json.dumps(meta)))
    np.testing.assert_equal(again.state(), encoder.state())
    np.testing.assert_array_equal(again.transform(context()).x, encoder.transform(context()).x)
    assert again.notes_ == encoder.notes_ and again.owner == "Owner" and again.settings == encoder.settings


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensors, meta: tensors.pop("means"), "KeyError"),
        (lambda tensors, meta: tensors.update(means=np.ones(99)), r"means of shape \(99,\), expected \(4,\)"),
        (lambda tensors, meta: meta.pop("plans"), "KeyError"),
        (lambda tensors, meta: meta.update(plans=[]), "no columns"),
        (lambda tensors, meta: meta.update(plans=5), "TypeError"),
        (lambda tensors, meta: meta["plans"][0].update(kind="weird"), "must be one of"),
        (lambda tensors, meta: meta.update(settings={"record": "Evil", "fields": {}}), "unknown kind"),
        (lambda tensors, meta: meta.update(settings="ordinal"), "settings of kind str"),
        (lambda tensors, meta: meta.update(notes=[["a"]]), "ValueError"),
    ],
)
def test_spoilt_state(spoil, message):
    tensors, meta = TableEncoder().fit(context()).state()
    spoil(tensors, meta)
    with pytest.raises(CheckpointError, match=message):
        TableEncoder.from_state(tensors, meta)


def test_before_fit_and_bad_settings():
    with pytest.raises(NotFittedError, match="transform was called before fit"):
        TableEncoder().transform(context())
    with pytest.raises(NotFittedError, match="state was called before fit"):
        TableEncoder().state()
    with pytest.raises(ConfigError, match="'onehot'"):
        EncoderSettings("one-hot")
    with pytest.raises(ConfigError, match="max_levels"):
        EncoderSettings(max_levels=1)


def test_standardizer_uses_the_context_only():
    x = np.array([[1.0, NAN], [3.0, 5.0], [5.0, 7.0]])
    query = np.array([[3.0, 6.0], [1e300, NAN]])
    scaler = Standardizer.fit(x)
    np.testing.assert_allclose(scaler.transform(x)[:, 0], (x[:, 0] - 3) / np.std(x[:, 0]))
    np.testing.assert_array_equal(scaler.transform(query), [[0, 0], [10, NAN]])
    np.testing.assert_array_equal(scaler.transform(query)[:1], scaler.transform(query[:1]))


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_standardizer_at_any_scale(scale, shift):
    x = np.array([[-1.0, 2.0], [0.5, 2.0], [1.5, 2.0]]) + shift
    z = Standardizer.fit(x * scale).transform(x * scale)
    np.testing.assert_allclose(z[:, 0], Standardizer.fit(x).transform(x)[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(z[:, 1], 0)


def test_standardizer_bounds_smoothly():
    scaler = Standardizer(np.zeros(1), np.ones(1), clip=4.0)
    grid = np.linspace(-50, 50, 20001)[:, None]
    z = scaler.transform(grid)[:, 0]
    assert np.abs(z).max() == 4.0 and (np.diff(z) >= 0).all()
    np.testing.assert_array_equal(z[np.abs(grid[:, 0]) <= 2], grid[np.abs(grid) <= 2])
    slope = np.diff(z) / np.diff(grid[:, 0])
    assert np.abs(np.diff(slope[np.abs(grid[1:, 0]) < 8])).max() < 0.01
    np.testing.assert_allclose(scaler.transform(np.array([[3.0]])), 2 + np.log(2))


def test_standardizer_degenerate_columns():
    scaler = Standardizer.fit(np.array([[0.0, 5.0, NAN], [0.0, 5.0, NAN]]))
    np.testing.assert_array_equal(
        scaler.transform(np.array([[0.0, 5.0, 0.5], [1.0, 6.0, NAN]])), [[0, 0, 0.5], [1, 0.2, NAN]]
    )
    assert Standardizer.fit(np.empty((0, 2))).transform(np.ones((1, 2))).tolist() == [[1, 1]]
    extremes = np.array([[-1.7e308], [1.7e308]])
    np.testing.assert_allclose(Standardizer.fit(extremes).transform(extremes), [[-1], [1]])


def test_standardizer_refuses():
    with pytest.raises(ConfigError, match="clip"):
        Standardizer.fit(np.ones((2, 1)), clip=0)
    with pytest.raises(InputError, match="no infinity"):
        Standardizer.fit(np.array([[np.inf]]))
    with pytest.raises(InputError, match=r"shape \(m, 1\), got \(2, 2\)"):
        Standardizer.fit(np.ones((2, 1))).transform(np.ones((2, 2)))
