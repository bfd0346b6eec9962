"""Importance and shares are drawn as they are, the largest on top."""

import numpy as np
import pytest

from foreknow.common.errors import ConfigError
from foreknow.tasks.tabular.explain import Importance, Shapley
from foreknow.viz import draw_importance, draw_shares, to_png

RAW = np.array([[0.0, 0.0], [0.4, 0.6], [-0.1, 0.0]])
IMPORTANCE = Importance(("same", "$size$", "noise"), RAW.mean(axis=1), RAW.std(axis=1), RAW, "increase, nats", 0.3)
NUMBER = Shapley(("a", "b"), np.array([[0.5, -2.0]]), np.float64(3.0), np.full((1, 2), 0.1), None)
CLASSES = Shapley(
    ("a", "b"),
    np.array([[[0.1, -0.1], [-0.3, 0.3]]]),
    np.array([0.4, 0.6]),
    np.zeros((1, 2, 2)),
    ("no", "yes"),
)


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def labels(axes):
    return [text.get_text() for text in axes.get_yticklabels()]


def test_importance_shows_means_and_every_repeat():
    axes = draw_importance(IMPORTANCE).axes[0]
    assert labels(axes) == ["$size$", "same", "noise"]
    assert widths(axes) == pytest.approx([0.5, 0.0, -0.05])
    points = np.concatenate([line.get_xydata() for line in axes.get_lines() if line.get_marker() == "|"])
    assert sorted(map(tuple, points)) == [(-0.1, 0), (0.0, 0), (0.0, 1), (0.0, 1), (0.4, 2), (0.6, 2)]
    assert to_png(draw_importance(IMPORTANCE))


def test_columns_left_out_are_counted():
    axes = draw_importance(IMPORTANCE, n_columns=1).axes[0]
    assert labels(axes) == ["$size$"] and "2 smaller" in axes.get_xlabel()


def test_shares_of_a_number_and_of_a_class():
    axes = draw_shares(NUMBER, 0).axes[0]
    assert labels(axes) == ["b", "a"] and widths(axes) == [-2.0, 0.5]
    assert axes.get_title(loc="left") == "prediction: 1.5, of which base 3"
    axes = draw_shares(CLASSES, 0).axes[0]
    assert widths(axes) == [0.3, -0.1] and axes.get_title(loc="left").startswith("P(yes): 0.8")
    assert widths(draw_shares(CLASSES, 0, label="no").axes[0]) == [-0.3, 0.1]
    assert to_png(draw_shares(CLASSES, 0))


def test_no_such_row_or_class():
    with pytest.raises(ConfigError, match="row"):
        draw_shares(NUMBER, 1)
    with pytest.raises(ConfigError, match="'no', 'yes'"):
        draw_shares(CLASSES, 0, label="maybe")
