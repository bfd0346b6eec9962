"""Pictures of a price: learning curves of all arms, what the system is worth against each, calibration, and cost.

Every function takes the record that `Price.to_dict()` of `foreknow.pricing.records` gives, as it is or read from JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError
from foreknow.common.wording import figure as in_figures
from foreknow.common.wording import known
from foreknow.viz.style import COLOURS, MUTED, OURS, THEIRS, new_figure, shorten, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    # How to draw one arm: keywords of `Axes.plot`.
    Look = dict[str, Any]

LINE_OF_ROLE: dict[str, Any] = {
    "on": "-",
    "off": "--",
    "wrong": "-.",
    "plain": ":",
    "reference": (0, (6, 1, 1, 1, 1, 1)),
}
MARKERS = "osXD^v<>PphH*8d"
OTHERS = tuple(COLOURS[index] for index in (5, 2, 6, 3, 1, 4, 7))
"""Colours of the arms beside "on", those that stand out on light and dark pages first."""

NAMES = {
    "log_loss": "log-loss",
    "log_loss_as_is": "log-loss as stated",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "nll": "negative log density",
    "crps": "CRPS",
    "auc": "AUC",
    "auc_loss": "1 - AUC",
    "error": "share of errors",
    "brier": "Brier score",
    "ece_15": "calibration error",
    "coverage_90": "share inside the 90% intervals",
}
WIDTH = 4.4
"""Of a figure in inches: letters can be read on a phone, and two figures stand side by side on a desk."""
WIDE = 20.0
"""Losses that differ by more than this factor are drawn on a log scale."""


def measure_name(measure: str) -> str:
    """A measure's key as people call it."""
    return NAMES.get(measure, measure.replace("_", " "))


def role_name(role: str) -> str:
    """A role as people call it."""
    return "placebo" if role == "wrong" else role


@styled
def learning_curves(record: Mapping[str, Any], measure: str) -> Figure:
    """A measure of every arm against the size of the training data, with its interval as a band.

    Args:
        record: of a price.
        measure: a key of the curves. Arms without any value of it are left out.

    Raises:
        InputError: no arm has a value of this measure.
    """
    sizes = np.array(record["sizes"], dtype=float)
    looks = _looks(record["arms"])
    drawn = [arm for arm in record["arms"] if _has_values(arm, measure)]
    if not drawn:
        raise InputError(f"no arm of this price has a value of {measure!r}.", hint="Choose a key of its curves.")
    figure, axes = _with_room_for_legend(drawn)
    spread = np.linspace(-0.25, 0.25, len(drawn)) if len(sizes) == 1 and len(drawn) > 1 else np.zeros(len(drawn))
    for arm, shift in zip(drawn, spread, strict=True):
        curve, look = arm["curves"][measure], looks[arm["name"]]
        mean, low, high = (_numbers(curve[key]) for key in ("mean", "low", "high"))
        x = sizes * np.exp(shift)
        axes.plot(x, mean, **look, label=_label(arm))
        if len(sizes) == 1:
            axes.vlines(x, low, high, color=look["color"], linewidth=1.5)
        else:
            axes.fill_between(x, low, high, color=look["color"], alpha=0.14 if len(drawn) < 5 else 0.09, linewidth=0)
    axes.set_xscale("log")
    if len(sizes) == 1:
        axes.set_xlim(sizes[0] / 1.6, sizes[0] * 1.6)
    _plain_ticks(axes, sizes)
    _loss_axis(axes, [arm["curves"][measure] for arm in drawn], _with_unit(record, measure))
    axes.set_xlabel(f"{record['unit_of_data']} learnt from (log scale)")
    axes.grid(True)
    _legend(figure, axes)
    return figure


@styled
def cost(record: Mapping[str, Any]) -> Figure:
    """The main loss against the seconds it took, one line an arm from the smallest to the largest size.

    Raises:
        InputError: no arm has both.
    """
    measure, looks = record["measure"], _looks(record["arms"])
    paths = []
    for arm in record["arms"]:
        if _has_values(arm, measure):
            seconds, loss = _numbers(arm["seconds"]), _numbers(arm["curves"][measure]["mean"])
            there = (seconds > 0) & np.isfinite(loss)
            if there.any():
                paths.append((arm, seconds[there], loss[there]))
    if not paths:
        raise InputError("no arm of this price has both a time and a main loss.")
    figure, axes = _with_room_for_legend([arm for arm, _, _ in paths])
    for arm, seconds, loss in paths:
        axes.plot(seconds, loss, **looks[arm["name"]], label=_label(arm))
    axes.set_xscale("log")
    every = np.concatenate([seconds for _, seconds, _ in paths])
    if every.max() < 3 * every.min():
        axes.set_xlim(every.min() / 2, every.max() * 2)
    low, high = (np.log10(end) for end in axes.get_xlim())
    _plain_ticks(axes, _round_places(low, high))
    _loss_axis(axes, [{"mean": loss.tolist()} for _, _, loss in paths], _with_unit(record, measure))
    axes.set_xlabel("seconds of learning and predicting (log scale)")
    axes.grid(True)
    _legend(figure, axes)
    return figure


@dataclass(frozen=True)
class _Panel:
    key: str
    title: str
    neutral: float
    better: str
    log: bool = False


_PANELS = (
    _Panel("difference", "difference", 0.0, "left"),
    _Panel("sample_ratio", "sample ratio", 1.0, "right", log=True),
    _Panel("code_bits", "code bits", 0.0, "right"),
    _Panel("matched_bits", "matched bits", 0.0, "right"),
)


@styled
def price_forest(record: Mapping[str, Any]) -> Figure:
    """On against every other arm: one panel a quantity, a point and its interval an arm; an arrow where censored.

    Raises:
        InputError: nothing was compared, or no number was found.
    """
    rows = record["comparisons"]
    panels = [panel for panel in _PANELS if any(known(row[panel.key]["value"]) for row in rows)]
    if not panels:
        raise InputError("this price holds no comparison of arms with a number.")
    figure = new_figure(WIDTH, len(panels) * (0.85 + 0.25 * len(rows)))
    places = np.arange(len(rows))[::-1]
    for axes, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        _one_panel(axes, panel, rows, places)
        title = f"difference in {_with_unit(record, record['measure'])}" if panel.key == "difference" else panel.title
        axes.set_title(title)
        axes.set_yticks(places, [_short(row["arm"], 24) for row in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(f"{panel.better} of the line: on is better")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(True, axis="x")
    return figure


def _one_panel(axes: Axes, panel: _Panel, rows: Sequence[Mapping[str, Any]], places: NDArray[np.int64]) -> None:
    axes.axvline(panel.neutral, color=MUTED, linewidth=1, linestyle="--")
    ends = []
    for row, place in zip(rows, places, strict=True):
        estimate = row[panel.key]
        value, low, high = (estimate[key] for key in ("value", "low", "high"))
        if panel.key == "difference" and known(estimate["margin"]):
            m = estimate["margin"]
            axes.fill_betweenx([place - 0.38, place + 0.38], -m, m, color=MUTED, alpha=0.22, linewidth=0)
        if not known(value) or (panel.log and value <= 0):
            axes.annotate("unknown", (panel.neutral, place), xytext=(6, 0), textcoords="offset points", va="center")
            continue
        colour = OURS if row["role"] == "off" else THEIRS
        if known(low) and known(high) and not (panel.log and low <= 0):
            axes.plot([low, high], [place] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
            ends += [low, high]
        marker = {"=": "o" if row["role"] == "off" else "s", ">=": ">", "<=": "<"}[estimate["sign"]]
        face = colour if estimate["sign"] == "=" else "none"
        axes.plot(value, place, marker=marker, color=colour, markerfacecolor=face, markersize=7)
        if estimate["sign"] != "=":
            side = 26 if estimate["sign"] == ">=" else -26
            axes.annotate(
                "", (value, place), xytext=(side, 0), textcoords="offset points",
                arrowprops={"arrowstyle": "<-", "color": colour, "shrinkA": 0, "shrinkB": 4},
            )  # fmt: skip
        ends.append(value)
    if panel.log:
        axes.set_xscale("log")
        low, high = np.log10(min(1.0, *ends)), np.log10(max(1.0, *ends))
        room = max(0.12 * (high - low), 0.1)
        axes.set_xlim(10 ** (low - room), 10 ** (high + room))
        _plain_ticks(axes, _round_places(low - room, high + room))
    else:
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=5)


@styled
def reliability(record: Mapping[str, Any]) -> Figure:
    """Stated against measured shares of "on" and "off" at the largest size, before and after recalibration.

    For classes larger points stand for more rows.

    Raises:
        InputError: neither arm has probabilities.
    """
    looks = _looks(record["arms"])
    arms = calibrated(record)
    if not arms:
        raise InputError("no arm of this price has probabilities, so there is no reliability to draw.")
    figure, (left, right) = _figure_with(1, 2, width=WIDTH, height=2.75)
    for axes, when in ((left, "before"), (right, "after")):
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="as stated")
        for arm in arms:
            bins = np.array([_numbers(row) for row in arm["calibration"][f"reliability_{when}"]]).reshape(-1, 3)
            bins = bins[np.isfinite(bins[:, :2]).all(axis=1)]
            look = {**looks[arm["name"]], "linewidth": 1.2, "markersize": 0.0}
            axes.plot(bins[:, 0], bins[:, 1], **look)
            area = np.where(np.isfinite(bins[:, 2]), 12 + 160 * bins[:, 2], 26)
            axes.scatter(bins[:, 0], bins[:, 1], s=area, color=look["color"], marker=look["marker"], alpha=0.75)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=f"{when} recalibration", aspect="equal")
        axes.set_xlabel("stated share" if record["task"] == "regression" else "stated confidence")
        axes.grid(True)
        axes.locator_params(nbins=5)
    left.set_ylabel("measured share" if record["task"] == "regression" else "share that was right")
    handles = [left.plot([], [], **looks[arm["name"]], label=_label(arm))[0] for arm in arms]
    figure.legend(handles=[left.get_lines()[0], *handles], loc="outside lower left", ncols=3, handlelength=3)
    return figure


def calibrated(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The arms "on" and "off" that have a calibration with bins."""
    return [
        arm
        for arm in record["arms"]
        if arm["role"] in ("on", "off") and arm["calibration"] and arm["calibration"]["reliability_before"]
    ]


# Parts -------------------------------------------------------------------------------------------------------------


def _looks(arms: Sequence[Mapping[str, Any]]) -> dict[str, Look]:
    """Colour and marker by place, line by role: two arms never share all three."""
    looks: dict[str, Look] = {}
    for index, arm in enumerate(arms):
        colour = OURS if index == 0 else OTHERS[(index - 1) % len(OTHERS)]
        line, marker = LINE_OF_ROLE[arm["role"]], MARKERS[index % len(MARKERS)]
        width = 2.2 if arm["role"] == "on" else 1.6
        looks[arm["name"]] = {
            "color": colour, "linestyle": line, "marker": marker, "markersize": 5, "linewidth": width,
        }  # fmt: skip
    return looks


def _label(arm: Mapping[str, Any]) -> str:
    name = _short(arm["name"], 30)
    return name if name == role_name(arm["role"]) else f"{name} ({role_name(arm['role'])})"


def _short(name: str, width: int) -> str:
    """One line of at most `width` characters, cut in the middle: names often differ at their ends."""
    line = shorten(name, 10_000)
    return line if len(line) <= width else f"{line[: width // 2]}…{line[-(width - width // 2 - 1) :]}"


def _figure_with(rows: int, columns: int, *, width: float, height: float) -> tuple[Figure, Any]:
    figure = new_figure(width, height)
    return figure, figure.subplots(rows, columns)


def _legend_columns(labels: Sequence[str]) -> int:
    return 1 if max(map(len, labels)) > 24 else 2


def _with_room_for_legend(arms: Sequence[Mapping[str, Any]]) -> tuple[Figure, Axes]:
    labels = [_label(arm) for arm in arms]
    rows = -(-len(labels) // _legend_columns(labels))
    return _figure_with(1, 1, width=WIDTH, height=2.9 + 0.17 * rows)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=_legend_columns(labels), handlelength=3.4)


def _has_values(arm: Mapping[str, Any], measure: str) -> bool:
    return measure in arm["curves"] and any(known(value) for value in arm["curves"][measure]["mean"])


def _numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _with_unit(record: Mapping[str, Any], measure: str) -> str:
    unit = record["unit"] if measure == record["measure"] else ""
    return shorten(measure_name(measure), 40) + (f", {shorten(unit)}" if unit else "")


def _loss_axis(axes: Axes, curves: Sequence[Mapping[str, Any]], label: str) -> None:
    """Scale and label of the loss, logarithmic where it spans more than `WIDE`."""
    values = np.concatenate([_numbers(curve["mean"]) for curve in curves])
    values = values[np.isfinite(values)]
    if values.min() > 0 and values.max() > WIDE * values.min():
        axes.set_yscale("log")
        low, high = np.log10(values.min()) - 0.2, np.log10(values.max()) + 0.2
        axes.set_ylim(10**low, 10**high)  # a band may reach below zero, where the scale ends
        _plain_ticks(axes, _round_places(low, high), axis="y")
        label += " (log scale)"
    axes.set_ylabel(label)


def _round_places(low: float, high: float) -> NDArray[np.float64]:
    """Round numbers between 10^low and 10^high: powers of ten, with 2 and 5 between them where there is room."""
    tens = np.arange(np.floor(low), np.ceil(high) + 1)
    steps = (1.0, 2.0, 5.0) if high - low < 3 else (1.0,)
    places = np.array([step * 10.0**ten for ten in tens for step in steps])
    inside = places[(places >= 10**low) & (places <= 10**high)]
    return inside if len(inside) > 1 else np.array([10**low, 10**high])


def _plain_ticks(axes: Axes, places: NDArray[np.float64], axis: str = "x") -> None:
    """Ticks of a log axis at `places`, less those that would touch their neighbour, in plain numbers."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    span = np.log(places[-1] / places[0])
    kept = [places[-1]]
    for place in places[-2::-1]:
        if np.log(kept[-1] / place) >= span / 8:
            kept.append(place)
    kept.reverse()
    chosen = axes.xaxis if axis == "x" else axes.yaxis
    chosen.set_major_locator(FixedLocator(kept))
    chosen.set_minor_locator(NullLocator())
    chosen.set_minor_formatter(NullFormatter())
    chosen.set_major_formatter(_whole_or_short)


def _whole_or_short(value: float, _: object = None) -> str:
    """Sizes as they are, other numbers in two or three digits."""
    return f"{value:.0f}" if value >= 1 and value == round(value) else in_figures(value)
