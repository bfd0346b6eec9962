"""One look for all pictures: colours that colour-blind readers can tell apart, and no global plotting state.

Figures are `matplotlib.figure.Figure` objects drawn by the Agg or SVG back end; `pyplot` is never imported, so no
window, no list of open figures and no setting outlives a call.
"""

from __future__ import annotations

import functools
import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from foreknow.common.errors import ConfigError
from foreknow.common.files import atomic_path
from foreknow.common.wording import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
R = TypeVar("R")

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#999999")
"""Okabe and Ito's palette (yellow, too faint on white, replaced by a violet); the last one means "all others"."""
INK, MUTED, GRID = "#1b2733", "#5f6b7a", "#d7dde4"
OURS, THEIRS, WRONG = COLOURS[0], MUTED, COLOURS[5]
LINES = ("-", "--", "-.", ":")

_ON_PAGE = {INK: "currentColor", MUTED: "var(--muted, #5f6b7a)", GRID: "var(--grid, #d7dde4)"}
_RC: Any = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a column called "$x$" is text
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "foreknow",
}
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: run with our settings and put the caller's back afterwards."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        with matplotlib.rc_context(_RC), warnings.catch_warnings():
            # A class name in a script that the font lacks is drawn as boxes in PNG and as text in SVG.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            return function(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches, laid out without overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def grid_axes(figure: Figure, n: int, n_columns: int) -> list[Axes]:
    """`n` axes on a grid of `n_columns`; cells left over stay empty."""
    n_rows = -(-n // n_columns)
    return [figure.add_subplot(n_rows, n_columns, index + 1) for index in range(n)]


def shorten(text: object, width: int = 18) -> str:
    """One line of at most `width` characters."""
    line = printable(str(text))
    return line if len(line) <= width else line[: width - 1] + "…"


@styled
def to_png(figure: Figure, *, dpi: int = 144) -> bytes:
    """The figure as PNG bytes, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@styled
def to_svg(figure: Figure, *, name: str, label: str) -> str:
    """The figure as an `<svg>` element to stand inside an HTML page.

    Text stays text, the page's colours are followed (dark mode), identifiers start with `name` so that several
    pictures fit on a page, and nothing refers to anything outside.

    Args:
        figure: what to draw.
        name: unique on the page; letters and hyphens.
        label: what the picture shows, for readers who do not see it.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style") or not child.tag.startswith(_SVG):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {key.removeprefix(_XLINK): _on_page(value, name) for key, value in element.attrib.items()}
        if "id" in element.attrib:
            element.set("id", f"{name}-{element.attrib['id']}")
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.attrib.pop("version", None)
    root.set("style", f"max-width: {figure.get_figwidth() * 72 * 1.35:.0f}px")
    root.set("stroke-linejoin", "round")
    root.set("font-family", "sans-serif")
    root.set("role", "img")
    root.set("aria-label", label)
    return ElementTree.tostring(root, encoding="unicode")


def _on_page(value: str, name: str) -> str:
    """An attribute with local references renamed and the neutral colours taken from the page."""
    if value.startswith("#") and value not in _ON_PAGE and len(value) != 7:
        return f"#{name}-{value[1:]}"
    value = re.sub(r"font-family: [^;]*; ?", "", value.replace("url(#", f"url(#{name}-"))
    for colour, page in _ON_PAGE.items():
        value = value.replace(colour, page)
    return value


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure as .png, .svg or .pdf, in one step.

    Raises:
        ConfigError: another ending.
        InputError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    kind = target.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ConfigError(
            f"pictures are written as .png, .svg or .pdf, got {target.name!r}.", hint=f"Try {target.stem}.png"
        )
    with atomic_path(target) as temporary:
        styled(figure.savefig)(temporary, format=kind, dpi=144, facecolor="white")
    return target
