"""Bits against the loss that is asked for: steeper is harder, lower is a better prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from foreknow.common.errors import InputError
from foreknow.viz.style import COLOURS, LINES, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from foreknow.audit.inductive_bias.bits import BitsCurve


@styled
def bits_curve(curves: Mapping[str, BitsCurve], *, unit: str = "") -> Figure:
    """Bits that each arm needs to reach a loss.

    A filled point is an estimate, an open one is extrapolated, a triangle is a bound; bars are 95% intervals.

    Args:
        curves: by arm, the arm of interest first.
        unit: of the loss.

    Raises:
        InputError: there is no curve.
    """
    if not curves:
        raise InputError("bits_curve: there is no curve to draw.")
    figure = new_figure(5.2, 3.6)
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        order = np.argsort(curve.eps, kind="stable")
        eps, bits = np.array(curve.eps)[order], [curve.bits[i] for i in order]
        values = np.array([item.value for item in bits])
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(eps, values, color=colour, linestyle=LINES[index % len(LINES)], label=name)
        for x, item in zip(eps, bits, strict=True):
            marker = "o" if item.sign == "=" else "^" if item.sign == ">=" else "v"
            axes.plot(
                x, item.value, marker, color=colour, markersize=5, fillstyle="none" if item.extrapolated else "full"
            )
            if math.isfinite(item.low) and math.isfinite(item.high) and item.high > item.low:
                axes.plot([x, x], [item.low, item.high], color=colour, linewidth=1)
    axes.axhline(1, color="#999999", linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"loss to reach{f', {unit}' if unit else ''}", ylabel="bits")
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(True)
    axes.legend(loc="upper right")
    return figure
