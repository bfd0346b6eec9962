"""Pictures of predicted numbers, of their intervals and errors; learning curves, and which columns matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foreknow.viz.style import MUTED, OURS, WRONG, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 500
"""More points than this make a page slow; every so-manieth is drawn."""


@styled
def predicted_and_true(
    predicted: NDArray[np.float64], truth: NDArray[np.float64], interval: NDArray[np.float64] | None = None
) -> Figure:
    """Truth against prediction, with the interval of each row.

    Args:
        predicted: shape (n,).
        truth: shape (n,).
        interval: its ends, shape (n, 2). Rows whose truth lies outside are drawn in another colour.
    """
    chosen = _thinned(len(truth))
    x, y = predicted[chosen], truth[chosen]
    figure = new_figure(4.6, 4.6)
    axes = figure.subplots()
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle="--")
    if interval is None:
        axes.plot(x, y, "o", color=OURS, markersize=3, alpha=0.6)
    else:
        low, high = interval[chosen].T
        inside = (low <= y) & (y <= high)
        axes.vlines(x, low, high, color=OURS, linewidth=0.6, alpha=0.25)
        axes.plot(x[inside], y[inside], "o", color=OURS, markersize=3, alpha=0.7, label="inside its interval")
        axes.plot(x[~inside], y[~inside], "s", color=WRONG, markersize=3.5, label="outside")
        axes.legend(loc="upper left")
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(True)
    axes.locator_params(nbins=5)
    return figure


@styled
def residuals(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> Figure:
    """Errors against predictions, and their histogram.

    Args:
        predicted: shape (n,).
        truth: shape (n,).
    """
    error = truth - predicted
    chosen = _thinned(len(error))
    figure = new_figure(5.6, 4.0)
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(4, 1))
    axes.axhline(0, color=MUTED, linewidth=1, linestyle="--")
    axes.plot(predicted[chosen], error[chosen], "o", color=OURS, markersize=3, alpha=0.6)
    axes.set(xlabel="predicted", ylabel="true minus predicted")
    axes.grid(True)
    axes.locator_params(axis="x", nbins=5)
    counts, edges = np.histogram(error, bins=25)
    beside.stairs(counts, edges, orientation="horizontal", fill=True, color=OURS, alpha=0.6)
    beside.set(xlabel="rows")
    beside.locator_params(axis="x", nbins=2)
    return figure


@styled
def coverage_by_width(
    widths: Sequence[float], shares: Sequence[float], ends: NDArray[np.float64], nominal: float
) -> Figure:
    """Share of rows whose interval held the truth, for rows with narrow to wide intervals.

    Args:
        widths: mean width of each group.
        shares: shape (g,).
        ends: 95% intervals of the shares, shape (g, 2).
        nominal: the share that the intervals promise.
    """
    figure = new_figure(5.2, 3.0)
    axes = figure.subplots()
    place = np.arange(len(shares))
    low, high = np.maximum(shares - ends[:, 0], 0), np.maximum(ends[:, 1] - shares, 0)
    axes.axhline(nominal, color=MUTED, linewidth=1, linestyle="--", label=f"stated: {nominal:.0%}")
    axes.errorbar(
        place, shares, yerr=[low, high], fmt="o", color=OURS, markersize=5, capsize=2, elinewidth=1,
        label="measured, 95% interval",
    )  # fmt: skip
    axes.set_xticks(place, [f"{width:.4g}" for width in widths])
    axes.set(xlabel="mean width of the intervals in the group", ylabel="share that held the truth")
    axes.set_ylim(min(0.5, float(ends[:, 0].min()) - 0.03), 1.02)
    axes.grid(True, axis="y")
    axes.legend(loc="lower right")
    return figure


@styled
def number_histogram(groups: Sequence[tuple[str, NDArray[np.float64]]], label: str) -> Figure:
    """Shares of rows by value, one outline per group.

    Args:
        groups: name and numbers of each, for instance predicted and known ones.
        label: of the axis.
    """
    figure = new_figure(5.2, 2.8)
    axes = figure.subplots()
    together = np.concatenate([values for _, values in groups])
    edges = np.linspace(together.min(), together.max() if np.ptp(together) > 0 else together.min() + 1, 26)
    for (name, values), colour in zip(groups, (OURS, MUTED), strict=False):
        share = np.histogram(values, bins=edges)[0] / max(len(values), 1)
        axes.stairs(share, edges, fill=colour == OURS, color=colour, alpha=0.6 if colour == OURS else 1, label=name)
    axes.set(xlabel=label, ylabel="share of the rows")
    axes.grid(True, axis="y")
    axes.locator_params(axis="x", nbins=6)
    axes.legend()
    return figure


@styled
def learning_curve(n_rows: Sequence[int], values: Sequence[float], ends: NDArray[np.float64], measure: str) -> Figure:
    """A measure against the number of rows learnt from.

    Args:
        n_rows: shape (p,), increasing.
        values: shape (p,).
        ends: 95% intervals, shape (p, 2).
        measure: what it is.
    """
    figure = new_figure(5.2, 3.0)
    axes = figure.subplots()
    axes.fill_between(n_rows, ends[:, 0], ends[:, 1], color=OURS, alpha=0.18, linewidth=0)
    axes.plot(n_rows, values, "o-", color=OURS, markersize=5)
    axes.set_xticks(n_rows)
    axes.set(xlabel="rows learnt from", ylabel=measure)
    axes.grid(True)
    return figure


def _thinned(n: int) -> slice:
    return slice(None, None, -(-n // MAX_POINTS))
