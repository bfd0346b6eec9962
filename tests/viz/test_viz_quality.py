"""Pictures show the numbers they are given; odd cases draw too."""

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from foreknow.viz import confidence_histogram, confusion, data_summary, quality_intervals, reliability, roc, to_png
from foreknow.viz.data import EMPTY


def drawn_heights(axes):
    """Rows drawn in each colour of a stacked histogram."""
    return [(steps.get_data().values - steps.get_data().baseline).sum() for steps in axes.patches]


def test_reliability_shows_the_share_that_was_right():
    confidence = np.array([0.55, 0.55, 0.55, 0.55, 1.0])
    figure = reliability(confidence, np.array([True, True, True, False, True]))
    axes, below = figure.axes
    points = next(c for c in axes.containers if c.get_label().startswith("observed"))
    assert points.lines[0].get_xydata().tolist() == [[pytest.approx(0.55), 0.75], [1.0, 1.0]]
    assert [bar.get_height() for bar in below.patches] == [0, 0, 0, 0, 0, 4, 0, 0, 0, 1]
    assert to_png(figure)


def test_roc_draws_one_curve_of_two_classes_and_one_each_of_more():
    truth = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
    axes = roc(p, truth, ["no", "yes"]).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["yes: AUC 0.750"]
    many = np.random.default_rng(0).dirichlet(np.ones(12), 200)
    axes = roc(many, np.arange(200) % 11, [f"c{i}" for i in range(12)]).axes[0]  # class 11 never occurs
    assert len(axes.get_legend().get_texts()) == 8
    assert to_png(roc(p, np.zeros(4, dtype=int), ["no", "yes"]))  # no curve is possible


def test_confusion_writes_the_counts_unless_there_are_too_many():
    counts = np.array([[5, 1], [0, 7]])
    assert sorted(text.get_text() for text in confusion(counts, ["a", "b"]).axes[0].texts) == ["0", "1", "5", "7"]
    assert not confusion(np.eye(16, dtype=int), [str(i) for i in range(16)]).axes[0].texts
    assert to_png(confusion(np.zeros((2, 2), dtype=int), ["a", "b"]))  # a class without rows


def test_confidence_is_stacked():
    figure = confidence_histogram([("right", np.array([0, 3, 5])), ("wrong", np.array([1, 2, 0]))])
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [0, 3, 5, 1, 2, 0]
    assert [bar.get_y() for bar in bars] == [0, 0, 0, 0, 3, 5]


def test_quality_has_a_panel_per_measure_with_ours_on_top():
    values = np.array([0.9, 0.8])
    ends = np.array([[0.85, 0.95], [0.7, np.nan]])
    figure = quality_intervals(["ours", "theirs"], [("accuracy", values, ends), ("log-loss", 1 - values, 1 - ends)])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["accuracy", "log-loss"]
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() in ("o", "s")]
    assert [tuple(line.get_xydata()[0]) for line in points] == [(0.9, 1), (0.8, 0)]
    assert to_png(figure)


def test_columns_of_every_kind():
    n = 40
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=n)
    numbers[:3] = np.nan
    words = np.array([None, *"abcdefgh"], dtype=object)[rng.integers(0, 9, n)]
    columns = [
        ("numbers", numbers),
        ("words", words),
        ("constant", np.ones(n)),
        ("empty", np.full(n, np.nan)),
        ("no words", np.full(n, None)),
        ("far apart", np.where(rng.random(n) < 0.5, 1.7e308, -1.7e308)),
        ("alike", 1e9 + 1e-7 * np.arange(n)),
    ]
    codes = rng.integers(-1, 2, n)
    figure = data_summary(columns, codes, ["$no$", "yes"])
    said = {axes.get_title(loc="left"): [text.get_text() for text in axes.texts] for axes in figure.axes}
    assert said["constant"] == ["constant: 1"] and said["empty"] == said["no words"] == ["all missing"]
    assert said["far apart"] == ["numbers too large to draw"]
    assert sum(drawn_heights(figure.axes[0])) == n - 3
    assert figure.axes[1].get_xlabel() == "and 2 more"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["$no$", "yes", "(target empty)"]
    assert to_png(figure)


def test_the_smallest_of_many_classes_share_a_colour():
    codes = np.concatenate([np.repeat(np.arange(10), np.arange(10, 0, -1)), [-1]])
    figure = data_summary([("x", np.arange(56.0))], codes, [f"c{i}" for i in range(10)])
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [*(f"c{i}" for i in range(7)), "3 other classes", "(target empty)"]
    drawn = dict(zip([steps.get_facecolor() for steps in figure.axes[0].patches], drawn_heights(figure.axes[0])))
    assert len(drawn) == 9 and drawn[to_rgba(EMPTY)] == 1 and drawn[to_rgba("#999999")] == 3 + 2 + 1
