"""Pictures of a price show the numbers of the record, tell all arms apart, and bear records with gaps."""

import dataclasses
import math
import re

import numpy as np
import pytest
from price_records import SIZES, make_arm, make_calibration, make_comparison, make_curve, make_estimate, make_price

from foreknow.common.errors import InputError
from foreknow.pricing.records import Curve
from foreknow.viz import to_svg
from foreknow.viz.priced import cost, learning_curves, measure_name, price_forest, reliability


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_arm_has_its_means_and_its_band():
    record = make_price().to_dict()
    figure = learning_curves(record, "log_loss")
    (axes,) = figure.axes
    drawn = lines(axes)
    for arm, label in zip(record["arms"], legend(figure), strict=True):
        points = drawn[label].get_xydata()
        assert points[:, 0].tolist() == list(SIZES) and points[:, 1].tolist() == arm["curves"]["log_loss"]["mean"]
    assert legend(figure)[:3] == ["on", "off", "shuffled labels (placebo)"]
    edges = axes.collections[1].get_paths()[0].vertices[:, 1]
    off = record["arms"][1]["curves"]["log_loss"]
    assert edges.min() == min(off["low"]) and edges.max() == max(off["high"])
    assert axes.get_xscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == [str(n) for n in SIZES]
    assert axes.get_ylabel() == "log-loss, nats"


def test_twelve_arms_differ_in_more_than_colour():
    roles = ("wrong", "plain", "reference")
    arms = [make_arm("on"), make_arm("off"), *(make_arm(f"{'x' * 60} {i}", roles[i % 3]) for i in range(10))]
    figure = learning_curves(make_price(arms=tuple(arms)).to_dict(), "log_loss")
    drawn = lines(figure.axes[0])
    assert len(drawn) == 12 and len(set(legend(figure))) == 12
    assert len({line.get_marker() for line in drawn.values()}) == 12
    style = {label.rpartition("(")[2]: line.get_linestyle() for label, line in drawn.items()}
    assert len(set(style.values())) == 5 - 1  # matplotlib calls a line of its own dashes "--", as it does that of off
    assert len({line._dash_pattern[1] and tuple(line._dash_pattern[1]) for line in drawn.values()}) == 5


def test_gaps_are_left_and_arms_without_values_are_left_out():
    nan = math.nan
    gap = Curve((nan, *make_curve().mean[1:]), (nan,) * 5, (nan,) * 5)
    none = Curve((nan,) * 5, (nan,) * 5, (nan,) * 5)
    arms = (make_arm("on", curves={"log_loss": gap}), make_arm("off", curves={"log_loss": none}))
    record = make_price(arms=arms).to_dict()
    figure = learning_curves(record, "log_loss")
    assert legend(figure) == ["on"] and np.isnan(lines(figure.axes[0])["on"].get_ydata()[0])
    assert not re.search(r"\b(nan|None)\b", to_svg(figure, name="a", label="b"))
    with pytest.raises(InputError, match="'auc'"):
        learning_curves(record, "auc")


def test_one_size_draws_arms_beside_each_other():
    axes = learning_curves(make_price(sizes=(640,)).to_dict(), "log_loss").axes[0]
    places = [line.get_xdata()[0] for line in axes.get_lines()]
    assert places == sorted(set(places)) and 400 < places[0] < 640 < places[-1] < 1000
    assert [text.get_text() for text in axes.get_xticklabels()] == ["640"]
    assert len(axes.collections) == 5


def test_losses_far_apart_are_drawn_on_a_log_scale_whatever_the_bands():
    far = make_curve(100.0)
    far = dataclasses.replace(far, low=(-5.0,) * 5)
    arms = (make_arm("on"), make_arm("off", curves={"log_loss": far}))
    axes = learning_curves(make_price(arms=arms).to_dict(), "log_loss").axes[0]
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "log-loss, nats (log scale)"
    assert axes.get_ylim()[0] > 0.05 and all("$" not in text.get_text() for text in axes.get_yticklabels())
    assert learning_curves(make_price().to_dict(), "log_loss").axes[0].get_yscale() == "linear"


def test_the_forest_shows_values_bounds_and_what_is_unknown():
    record = make_price().to_dict()
    figure = price_forest(record)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["difference in log-loss, nats", "sample ratio", "code bits", "matched bits"]
    marks = {line.get_marker(): line for line in panels["sample ratio"].get_lines()}
    assert marks["o"].get_xdata()[0] == 6.2 and marks[">"].get_xdata()[0] == 16.0
    assert marks[">"].get_markerfacecolor() == "none"
    assert [text.get_text() for text in panels["matched bits"].texts] == ["unknown"]
    assert panels["code bits"].get_yticklabels()[0].get_text() == "off"
    assert all("on is better" in axes.get_xlabel() for axes in figure.axes)
    ends = [
        line.get_xdata() for line in panels["difference in log-loss, nats"].get_lines() if len(line.get_xdata()) == 2
    ]
    assert any(np.allclose(pair, [-0.155, -0.093]) for pair in ends)


def test_the_forest_leaves_out_what_nobody_knows():
    unknown = make_estimate(math.nan)
    rows = (make_comparison(code_bits=unknown, matched_bits=unknown, sample_ratio=make_estimate(0.2, sign="<=")),)
    figure = price_forest(make_price(comparisons=rows).to_dict())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["difference in log-loss, nats", "sample ratio"]
    assert "<" in [line.get_marker() for line in figure.axes[1].get_lines()]
    assert figure.axes[1].get_xlim()[0] < 0.2 and figure.axes[1].get_xlim()[1] > 1.0
    with pytest.raises(InputError, match="no comparison"):
        price_forest(make_price(comparisons=()).to_dict())


def test_reliability_before_and_after():
    record = make_price().to_dict()
    before, after = reliability(record).axes
    bins = make_calibration(1.6)
    for axes, wanted in ((before, bins.reliability_before), (after, bins.reliability_after)):
        ours = next(line for line in axes.get_lines() if line.get_marker() == "o" and len(line.get_xdata()))
        assert ours.get_xydata().tolist() == [[stated, right] for stated, right, _ in wanted]
    area = before.collections[0].get_sizes()
    assert area[-1] > area[0] and before.get_ylabel() == "share that was right"
    with pytest.raises(InputError, match="no arm of this price has probabilities"):
        reliability(make_price(arms=(make_arm("on", calibration=None),)).to_dict())


def test_reliability_of_numbers_has_no_shares_of_rows():
    pairs = tuple((q, q, math.nan) for q in (0.1, 0.5, 0.9))
    found = dataclasses.replace(make_calibration(), reliability_before=pairs, reliability_after=())
    price = make_price(task="regression", arms=(make_arm("on", calibration=found),))
    before, after = reliability(price.to_dict()).axes
    assert len(set(before.collections[0].get_sizes())) == 1 and before.get_xlabel() == "stated share"
    assert not len(after.collections[0].get_offsets())


def test_cost_draws_what_took_time():
    arms = (make_arm("on"), make_arm("off", seconds=(0.0, math.nan, 1.0, 2.0, 4.0)))
    figure = cost(make_price(arms=arms).to_dict())
    drawn = lines(figure.axes[0])
    assert drawn["off"].get_xdata().tolist() == [1.0, 2.0, 4.0]
    assert drawn["on"].get_ydata().tolist() == list(arms[0].curves["log_loss"].mean)
    assert all("$" not in text.get_text() for text in figure.axes[0].get_xticklabels())
    with pytest.raises(InputError, match="time"):
        cost(make_price(arms=(make_arm("on", seconds=(0.0,) * 5),)).to_dict())


def test_measures_have_names():
    assert [measure_name(key) for key in ("log_loss", "ece_15", "my_own")] == [
        "log-loss",
        "calibration error",
        "my own",
    ]
