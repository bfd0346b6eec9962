"""Draws from a simulator as a picture: look at what a prior believes before you trust it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import CapabilityError
from foreknow.common.validate import check_int, check_option
from foreknow.viz.style import COLOURS, INK, MUTED, OURS, grid_axes, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from foreknow.core.batch import Batch

VIEWS = ("curves", "table", "images")
_SHAPES = "os^Dv<>Ph*"


@styled
def draw_batch(batch: Batch, title: str, *, view: str = "table", n_tasks: int = 12) -> Figure:
    """A page of tasks drawn from a prior.

    Args:
        batch: the draws.
        title: over the page.
        view: "curves" (functions of the first column, context points marked), "table" (the first two columns,
            coloured by target), "images" (every row is a square picture; context pictures above, queries below).
        n_tasks: draw at most this many tasks.

    Raises:
        ConfigError: another view.
        CapabilityError: the draws cannot be shown in this view.
    """
    check_option("draw_batch", "view", view, VIEWS)
    n = min(check_int("draw_batch", "n_tasks", n_tasks, low=1), batch.n_tasks)
    side = round(batch.n_features**0.5)
    if view == "images" and side * side != batch.n_features:
        raise CapabilityError(
            f"draw_batch: rows of {batch.n_features} columns are not square pictures.", hint="Use view='table'."
        )
    n_columns = min(n, 2 if view == "images" else 3 if n <= 9 else 4)
    width, height = (4.6, 1.35) if view == "images" else (2.5, 2.2)
    figure = new_figure(width * n_columns + 0.2, height * -(-n // n_columns) + 0.5)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", color=INK)
    for task, axes in enumerate(grid_axes(figure, n, n_columns)):
        arrays = [_array(values, task) for values in (batch.context_x, batch.context_y, batch.query_x, batch.query_y)]
        {"curves": _curves, "table": _table, "images": _images}[view](axes, *arrays)
        axes.tick_params(labelsize=7, length=2)
        axes.margins(0.06)
    return figure


def _array(values: Any, task: int) -> NDArray[np.float64] | None:
    return None if values is None else values[task].detach().cpu().double().numpy()


def _curves(axes: Axes, context_x: Any, context_y: Any, query_x: Any, query_y: Any) -> None:
    x, y = context_x[:, 0], context_y
    if query_y is not None:
        x, y = np.concatenate([x, query_x[:, 0]]), np.concatenate([y, query_y])
    order = np.argsort(x, kind="stable")
    axes.plot(x[order], y[order], color=COLOURS[4], linewidth=1.3)
    axes.plot(context_x[:, 0], context_y, "o", color=OURS, markersize=3.5)


def _table(axes: Axes, context_x: Any, context_y: Any, query_x: Any, query_y: Any) -> None:
    x, y = context_x, context_y
    if query_y is not None:
        x, y = np.concatenate([x, query_x]), np.concatenate([y, query_y])
    if x.shape[1] == 1:
        axes.scatter(x[:, 0], y, s=7, color=OURS, linewidths=0)
        axes.set(xlabel="column 1", ylabel="target")
        return
    levels = np.unique(y[np.isfinite(y)])
    if len(levels) <= len(_SHAPES) and (levels == np.round(levels)).all():
        for index, level in enumerate(levels):
            rows = y == level
            axes.scatter(
                x[rows, 0], x[rows, 1], s=9, marker=_SHAPES[index], color=COLOURS[index % len(COLOURS)], linewidths=0
            )
    else:
        axes.scatter(x[:, 0], x[:, 1], s=9, c=y, cmap="viridis", linewidths=0)
    axes.set_xlabel("column 1", fontsize=7, color=MUTED)
    axes.set_ylabel("column 2", fontsize=7, color=MUTED)


def _images(axes: Axes, context_x: Any, context_y: Any, query_x: Any, query_y: Any) -> None:
    """A strip of context pictures ordered by class, and under it a strip of query pictures."""
    side, n = round(context_x.shape[1] ** 0.5), 10
    strips: list[NDArray[np.float64]] = []
    for pictures, labels in ((context_x, context_y), (query_x, query_y)):
        order = np.argsort(labels, kind="stable") if labels is not None else np.arange(len(pictures))
        chosen = order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(int)] if len(order) else order
        strip = np.full((side + 2, n * (side + 2)), np.nan)
        for place, row in enumerate(chosen):
            strip[1:-1, place * (side + 2) + 1 : (place + 1) * (side + 2) - 1] = pictures[row].reshape(side, side)
            if labels is not None:
                axes.text(
                    (place + 0.5) * (side + 2), (len(strips) + 1) * (side + 2) * 1.35 - 0.32 * side, f"{labels[row]:g}",
                    ha="center", va="top", fontsize=7, color=MUTED,
                )  # fmt: skip
        strips.append(strip)
    height = side + 2
    for index, strip in enumerate(strips):
        top = index * 1.35 * height
        axes.imshow(strip, cmap="gray_r", extent=(0, strip.shape[1], top + height, top))
    axes.set(xlim=(0, strips[0].shape[1]), ylim=(2 * 1.35 * height, 0), xticks=[])
    axes.set_yticks([height / 2, 1.85 * height], ["context", "query"], rotation=90, va="center")
    axes.spines[:].set_visible(False)
