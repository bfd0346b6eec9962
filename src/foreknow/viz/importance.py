"""Pictures of what a predictor relies on: importance of columns, and the shares of the columns in one prediction.

The records of `foreknow.tasks.tabular.explain` go in, by the fields that are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError
from foreknow.common.validate import check_int
from foreknow.viz.style import MUTED, OURS, WRONG, new_figure, shorten, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ImportanceLike(Protocol):
    """What `draw_importance` needs of a record."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def mean(self) -> NDArray[np.float64]: ...
    @property
    def raw(self) -> NDArray[np.float64]: ...
    @property
    def measure(self) -> str: ...


class ShapleyLike(Protocol):
    """What `draw_shares` needs of a record."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    base: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    classes: tuple[Any, ...] | None


@styled
def draw_importance(importance: ImportanceLike, *, n_columns: int = 20) -> Figure:
    """The columns that matter most, the most important on top: mean as a bar, every repeat as a point.

    Args:
        importance: from `permutation_importance`.
        n_columns: most columns drawn; how many were left out is said.
    """
    check_int("draw_importance", "n_columns", n_columns, low=1)
    chosen = np.argsort(-importance.mean, kind="stable")[:n_columns]
    figure = new_figure(5.4, 0.9 + 0.28 * len(chosen))
    axes = figure.subplots()
    place = np.arange(len(chosen))[::-1]
    axes.barh(place, importance.mean[chosen], height=0.7, color=OURS, alpha=0.6)
    repeats = importance.raw[chosen]
    axes.plot(repeats.T, np.broadcast_to(place, repeats.T.shape), "|", color=OURS, markersize=7)
    axes.axvline(0, color=MUTED, linewidth=1)
    _name_rows(axes, [importance.names[j] for j in chosen], importance.measure, len(importance.names) - len(chosen))
    return figure


@styled
def draw_shares(shapley: ShapleyLike, row: int, *, label: object = None, n_columns: int = 12) -> Figure:
    """How one prediction comes about: the shares of the columns, the largest on top, with 95% intervals.

    Args:
        shapley: from `shapley_values`.
        row: which of its rows.
        label: which class; default the one that is predicted. None for a number.
        n_columns: most columns drawn; how many were left out is said.

    Raises:
        ConfigError: no such row or class.
    """
    owner = "draw_shares"
    check_int(owner, "n_columns", n_columns, low=1)
    check_int(owner, "row", row, low=0, high=len(shapley.values) - 1)
    values, errors, base, what = shapley.values[row], shapley.standard_errors[row], shapley.base, "prediction"
    if shapley.classes is not None:
        if label is not None and label not in shapley.classes:
            raise ConfigError(f"{owner}: label must be one of {', '.join(map(repr, shapley.classes))}, got {label!r}.")
        predicted = int((base + values.sum(axis=0)).argmax())
        code = predicted if label is None else shapley.classes.index(label)
        values, errors, base, what = values[:, code], errors[:, code], base[code], f"P({shapley.classes[code]})"
    chosen = np.argsort(-np.abs(values), kind="stable")[:n_columns]
    figure = new_figure(5.4, 1.1 + 0.28 * len(chosen))
    axes = figure.subplots()
    place = np.arange(len(chosen))[::-1]
    colours = [OURS if values[j] >= 0 else WRONG for j in chosen]
    axes.barh(place, values[chosen], height=0.7, color=colours, alpha=0.6)
    axes.errorbar(values[chosen], place, xerr=1.96 * errors[chosen], fmt="none", ecolor=MUTED, elinewidth=1)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_title(f"{shorten(what, 30)}: {float(base + values.sum()):.4g}, of which base {float(base):.4g}")
    _name_rows(axes, [shapley.names[j] for j in chosen], "share in the prediction", len(shapley.names) - len(chosen))
    return figure


def _name_rows(axes: Any, names: list[str], title: str, n_left_out: int) -> None:
    axes.set_yticks(np.arange(len(names))[::-1], [shorten(name, 26) for name in names])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(title + (f" ({n_left_out} smaller column(s) not shown)" if n_left_out else ""))
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(True, axis="x")
