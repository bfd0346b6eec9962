"""Pictures of how good class probabilities are: calibration, ranking, confusion, confidence, quality of all arms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from foreknow.viz.style import COLOURS, LINES, MUTED, OURS, THEIRS, WRONG, new_figure, shorten, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_CURVES = 8
"""More one-vs-rest curves than this cannot be told apart; the largest classes are drawn."""
ON_SHADE = "#1b2734"
"""Ink on the light end of a shade, which stays light on a dark page; `INK` would follow the page."""


@styled
def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_], *, n_bins: int = 10) -> Figure:
    """How often the predicted class was right, against how sure the prediction was.

    Args:
        confidence: probability of the predicted class, shape (n,).
        correct: whether it was the true class, shape (n,).
        n_bins: bins of equal width on [0, 1]; bars at a point are 95% Wilson intervals.
    """
    figure = new_figure(4.6, 4.6)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    which = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    counts = np.bincount(which, minlength=n_bins)
    used = counts > 0
    mean = np.bincount(which, confidence, n_bins)[used] / counts[used]
    share = np.bincount(which, correct.astype(float), n_bins)[used] / counts[used]
    low, high = wilson(share, counts[used])
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--", label="perfectly calibrated")
    axes.errorbar(
        mean, share, yerr=[np.maximum(share - low, 0), np.maximum(high - share, 0)],
        color=OURS, marker="o", markersize=5, capsize=2, elinewidth=1, label="observed, 95% interval",
    )  # fmt: skip
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), ylabel="share that was right")
    axes.grid(True)
    axes.legend(loc="upper left")
    below.bar((np.arange(n_bins) + 0.5) / n_bins, counts, width=0.9 / n_bins, color=OURS, alpha=0.6)
    below.set(xlabel="stated confidence", ylabel="rows")
    return figure


@styled
def roc(probabilities: NDArray[np.float64], truth: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Each class against the rest: share of it found against false alarms.

    Args:
        probabilities: shape (n, k).
        truth: class codes, shape (n,).
        classes: k names. With two classes one curve is drawn (of the second), as the other is its mirror image.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    counts = np.bincount(truth, minlength=len(classes))
    possible = [code for code in np.argsort(-counts, kind="stable") if 0 < counts[code] < len(truth)]
    chosen = [1] if len(classes) == 2 and possible else sorted(possible[:MAX_CURVES])
    figure = new_figure(4.6, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    for index, code in enumerate(chosen):
        wanted = truth == code
        false_alarms, found, _ = roc_curve(wanted, probabilities[:, code])
        area = roc_auc_score(wanted, probabilities[:, code])
        axes.plot(
            false_alarms, found, color=COLOURS[index % len(COLOURS)], linestyle=LINES[index % len(LINES)],
            label=f"{shorten(classes[code])}: AUC {area:.3f}",
        )  # fmt: skip
    axes.set(
        xlim=(-0.01, 1),
        ylim=(0, 1.01),
        xlabel="false alarms, share of the other rows",
        ylabel="found, share of the class",
    )
    axes.grid(True)
    if chosen:
        axes.legend(loc="lower right")
    return figure


@styled
def confusion(counts: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Rows of each true class by predicted class; shade is the share of the true class.

    Args:
        counts: shape (k, k), true class down, predicted class across.
        classes: k names.
    """
    k = len(classes)
    size = min(2.4 + 0.5 * k, 9.0)
    figure = new_figure(size + 0.6, size)
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    if k <= 15:
        for (row, column), value in np.ndenumerate(counts):
            colour = "white" if share[row, column] > 0.55 else ON_SHADE
            axes.text(column, row, f"{value}", ha="center", va="center", color=colour)
    names = [shorten(name, 14) for name in classes]
    axes.set_xticks(range(k), names, rotation=0 if k <= 4 else 60, ha="center" if k <= 4 else "right")
    axes.set_yticks(range(k), names)
    if k > 4:
        axes.tick_params(axis="x", labelrotation=60)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@styled
def confidence_histogram(counts: Sequence[tuple[str, NDArray[np.int64]]]) -> Figure:
    """How sure the single predictions are.

    Args:
        counts: name and rows per equal-width bin on [0, 1] of each stacked group, for instance right and wrong.
    """
    figure = new_figure(5.2, 2.8)
    axes = figure.subplots()
    colours = (OURS, WRONG, *COLOURS[1:])
    bottom = np.zeros(len(counts[0][1]))
    for (name, height), colour in zip(counts, colours, strict=False):
        edges = np.linspace(0, 1, len(height) + 1)
        width = 0.92 * np.diff(edges)
        axes.bar(edges[:-1], height, width=width, align="edge", bottom=bottom, color=colour, label=name)
        bottom = bottom + height
    axes.set(xlim=(0, 1), xlabel="confidence: probability of the predicted class", ylabel="rows")
    axes.grid(True, axis="y")
    if len(counts) > 1:
        axes.legend(loc="upper left")
    return figure


@styled
def quality_intervals(
    arms: Sequence[str], panels: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]]
) -> Figure:
    """All arms side by side: one panel per measure, a point and its 95% interval per arm.

    Args:
        arms: names; the first is ours.
        panels: measure, values of shape (n_arms,), intervals of shape (n_arms, 2).
    """
    figure = new_figure(2.9 * len(panels) + 1.2, 0.9 + 0.36 * len(arms))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    place = np.arange(len(arms))[::-1]
    for axes, (title, values, intervals) in zip(all_axes, panels, strict=True):
        for index in range(len(arms)):
            colour = OURS if index == 0 else THEIRS
            axes.plot(intervals[index], [place[index]] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
            axes.plot(values[index], place[index], "o" if index == 0 else "s", color=colour, markersize=6)
        axes.axvline(values[0], color=OURS, linewidth=0.8, linestyle=":")
        axes.set_title(title)
        axes.grid(True, axis="x")
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.6, len(arms) - 0.4)
    all_axes[0].set_yticks(place, [shorten(name, 26) for name in arms])
    return figure


def wilson(share: NDArray[np.float64], n: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's 95% interval of a share observed in n rows; stays inside [0, 1] and works at 0 and 1."""
    z2 = 1.959963984540054**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
