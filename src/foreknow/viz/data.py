"""The columns of a table as small multiples, coloured by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.viz.style import COLOURS, MUTED, grid_axes, new_figure, shorten, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 7
"""Colours that can be told apart; the smallest classes beyond it share the last colour."""
MAX_LEVELS = 6
EMPTY = "#c9ced6"


@styled
def data_summary(
    columns: Sequence[tuple[str, NDArray[Any]]], codes: NDArray[np.int64], classes: Sequence[str]
) -> Figure:
    """One small picture per column: a histogram of numbers, bars of the most frequent words, stacked by class.

    Args:
        columns: name and values of each column, shape (n,); floats (NaN where missing) are numbers, anything
            else is words (None where missing).
        codes: class of each row, shape (n,); -1 where the target is empty.
        classes: names of the classes.
    """
    group_of, names = _groups(codes, classes)
    colours = [COLOURS[min(group, len(COLOURS) - 1)] for group in range(len(names))]
    if (codes < 0).any():
        colours[-1] = EMPTY
    n_columns = min(4, max(len(columns), 1))
    n_rows = -(-len(columns) // n_columns)
    figure = new_figure(2.5 * n_columns + 0.3, 1.75 * n_rows + 0.5)
    for axes, (name, values) in zip(grid_axes(figure, len(columns), n_columns), columns, strict=True):
        axes.set_title(shorten(name, 26))
        if values.dtype.kind == "f":
            _histogram(axes, values, group_of, colours)
        else:
            _bars(axes, values, group_of, colours)
        axes.tick_params(labelsize=7.5, length=2)
    handles = [_patch(colour, shorten(name)) for colour, name in zip(colours, names, strict=True)]
    if columns:
        figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 8))
    return figure


def _groups(codes: NDArray[np.int64], classes: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Colour group of each row, and the groups' names."""
    k = len(classes)
    if k <= MAX_CLASSES:
        group_of, names = codes.copy(), list(classes)
    else:
        order = np.argsort(-np.bincount(codes[codes >= 0], minlength=k), kind="stable")
        rank = np.empty(k, dtype=np.int64)
        rank[order] = np.minimum(np.arange(k), MAX_CLASSES)
        group_of = np.where(codes >= 0, rank[codes], -1)
        names = [*(classes[code] for code in order[:MAX_CLASSES]), f"{k - MAX_CLASSES} other classes"]
    if (codes < 0).any():
        group_of = np.where(codes >= 0, group_of, len(names))
        names = [*names, "(target empty)"]
    return group_of, names


def _histogram(axes: Axes, values: NDArray[np.float64], group_of: NDArray[np.int64], colours: Sequence[str]) -> None:
    finite = np.isfinite(values)
    if not finite.any():
        _say(axes, "all missing")
        return
    low, high = values[finite].min(), values[finite].max()
    if low == high:
        _say(axes, f"constant: {low:g}")
        return
    with np.errstate(over="ignore"):
        if not np.isfinite(high - low):
            _say(axes, "numbers too large to draw")
            return
    edges = np.linspace(low, high, 19)
    bottom = np.zeros(18)
    for group, colour in enumerate(colours):
        height, _ = np.histogram(values[finite & (group_of == group)], bins=edges)
        axes.stairs(bottom + height, edges, baseline=bottom, fill=True, color=colour)
        bottom = bottom + height
    axes.locator_params(axis="both", nbins=4)


def _bars(axes: Axes, values: NDArray[Any], group_of: NDArray[np.int64], colours: Sequence[str]) -> None:
    present = np.array([value is not None and value == value for value in values], dtype=bool)
    if not present.any():
        _say(axes, "all missing")
        return
    words, word_of, counts = np.unique(values[present].astype(str), return_inverse=True, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:MAX_LEVELS]
    left = np.zeros(len(top))
    for group, colour in enumerate(colours):
        height = np.bincount(word_of[group_of[present] == group], minlength=len(words))[top]
        axes.barh(np.arange(len(top))[::-1], height, left=left, color=colour)
        left += height
    axes.set_yticks(np.arange(len(top))[::-1], [shorten(words[index], 12) for index in top])
    axes.locator_params(axis="x", nbins=4)
    if len(words) > len(top):
        axes.set_xlabel(f"and {len(words) - len(top)} more", fontsize=7.5, color=MUTED)


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color=MUTED)
    axes.set(xticks=[], yticks=[])


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)
