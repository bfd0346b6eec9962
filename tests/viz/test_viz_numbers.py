"""Pictures of predicted numbers show what they are given; odd cases draw too."""

import numpy as np
import pytest

from foreknow.viz import (
    coverage_by_width,
    learning_curve,
    number_histogram,
    predicted_and_true,
    residuals,
    to_png,
)


def test_rows_outside_their_interval_are_told_apart():
    predicted, truth = np.array([1.0, 2.0, 3.0]), np.array([1.1, 5.0, 2.9])
    figure = predicted_and_true(predicted, truth, np.stack([predicted - 1, predicted + 1], axis=1))
    points = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].get_lines()}
    assert points["inside its interval"] == [[1.0, 1.1], [3.0, 2.9]] and points["outside"] == [[2.0, 5.0]]
    assert to_png(figure)
    assert figure.axes[0].get_legend() is not None
    assert predicted_and_true(predicted, truth).axes[0].get_legend() is None


def test_many_rows_are_thinned():
    values = np.arange(5000.0)
    drawn = max(len(line.get_xdata()) for line in predicted_and_true(values, values).axes[0].get_lines())
    assert drawn == 500


def test_residuals_count_every_row():
    predicted = np.arange(2500.0)
    axes, beside = residuals(predicted, predicted + 1).axes
    assert set(axes.get_lines()[1].get_ydata()) == {1.0}
    assert sum(patch.get_data().values.sum() for patch in beside.patches) == 2500


def test_coverage_shows_each_group_and_what_was_stated():
    ends = np.array([[0.7, 0.99], [0.4, 0.8]])
    axes = coverage_by_width([1.0, 2.5], [0.9, 0.6], ends, 0.9).axes[0]
    points = next(c for c in axes.containers if c.get_label().startswith("measured"))
    assert points.lines[0].get_ydata().tolist() == [0.9, 0.6]
    assert axes.get_lines()[0].get_ydata()[0] == 0.9 and axes.get_ylim()[0] == pytest.approx(0.37)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2.5"]


def test_histograms_are_shares_on_common_bins():
    axes = number_histogram([("predicted", np.array([1.0, 1.0])), ("known", np.array([0.0, 1.0, 2.0, 3.0]))], "y").axes[
        0
    ]
    steps = [patch.get_data() for patch in axes.patches]
    assert [step.values.sum() for step in steps] == [1.0, 1.0] and (steps[0].edges == steps[1].edges).all()
    assert to_png(number_histogram([("predicted", np.ones(3)), ("known", np.ones(2))], "y"))


def test_a_learning_curve():
    axes = learning_curve([10, 20], [0.5, 0.4], np.array([[0.4, 0.6], [np.nan, np.nan]]), "log-loss").axes[0]
    assert axes.get_lines()[0].get_xydata().tolist() == [[10, 0.5], [20, 0.4]]
