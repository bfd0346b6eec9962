"""`foreknow.core.pictures` drawn: one function a record, one that writes any of them to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foreknow.common.errors import ConfigError
from foreknow.common.files import atomic_path
from foreknow.core.pictures import Animation, Bars, ImageGrid, Lines, Picture
from foreknow.viz.style import COLOURS, INK, new_figure, save_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_picture(picture: Picture, path: str | Path) -> Path:
    """Write a picture: .png, .svg or .pdf, and .gif for what moves; without an ending, the one that fits.

    Raises:
        ConfigError: the ending does not fit the picture.
        InputError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    allowed = (".gif",) if isinstance(picture, Animation) else (".png", ".svg", ".pdf")
    if not target.suffix:
        target = target.with_name(target.name + allowed[0])
    if target.suffix.lower() not in allowed:
        raise ConfigError(f"a {type(picture).__name__} is written to {' or '.join(allowed)}, got {target.name!r}.")
    if not isinstance(picture, Animation):
        return save_figure(draw_picture(picture), target)
    with atomic_path(target) as temporary:
        _save_animation(picture, temporary)
    return target


@styled
def draw_picture(picture: ImageGrid | Lines | Bars) -> Figure:
    """The picture as a figure."""
    if isinstance(picture, ImageGrid):
        return _draw_images(picture)
    return _draw_lines(picture) if isinstance(picture, Lines) else _draw_bars(picture)


def _draw_images(grid: ImageGrid) -> Figure:
    n_rows, n_columns = len(grid.images), max(len(row) for row in grid.images)
    tall = [np.shape(image)[0] / np.shape(image)[1] for row in grid.images for image in row if image is not None]
    height = 1.7 * float(np.clip(np.median(tall), 0.3, 3.0))
    figure = new_figure(1.7 * n_columns + 0.6, height * n_rows + 0.4 + 0.3 * bool(grid.title))
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    for r, row in enumerate(grid.images):
        shown = [np.asarray(image, dtype=np.float64) for image in row if image is not None]
        low, high = grid.limits or (min(map(np.min, shown)), max(map(np.max, shown)))
        for c, place in enumerate(axes[r]):
            place.set(xticks=[], yticks=[])
            for spine in place.spines.values():
                spine.set_visible(False)
            image = row[c] if c < len(row) else None
            if image is not None:
                values = np.asarray(image, dtype=np.float64)
                span = max(high - low, 1e-12)
                shades = np.clip((values - low) / span, 0, 1)
                place.imshow(shades, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if r == 0 and c < len(grid.column_titles):
                place.set_title(grid.column_titles[c], fontsize=9)
            if c == 0 and r < len(grid.row_titles):
                place.set_ylabel(grid.row_titles[r], fontsize=9)
    if grid.title:
        figure.suptitle(grid.title, fontsize=11, color=INK)
    return figure


def _draw_lines(picture: Lines) -> Figure:
    figure = new_figure(7.0, 4.2)
    place = figure.subplots()
    for (name, values), colour in zip(picture.lines.items(), _colours(len(picture.lines)), strict=True):
        x = picture.x_of(name)
        style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5} if name in picture.dots else {}
        place.plot(x, np.asarray(values, dtype=np.float64), color=colour, label=name, **style)
        if name in picture.bands:
            low, high = (np.asarray(edge, dtype=np.float64) for edge in picture.bands[name])
            place.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    place.set(xlabel=picture.x_label, ylabel=picture.y_label, title=picture.title)
    place.set(xscale="log" if picture.log_x else "linear", yscale="log" if picture.log_y else "linear")
    if len(picture.lines) > 1:
        place.legend()
    return figure


def _draw_bars(picture: Bars) -> Figure:
    n = len(picture.labels)
    figure = new_figure(min(14.0, max(6.0, 0.32 * n * len(picture.values) + 2)), 4.2)
    place = figure.subplots()
    width = 0.8 / len(picture.values)
    for k, (name, colour) in enumerate(zip(picture.values, _colours(len(picture.values)), strict=True)):
        at = np.arange(n) + (k - (len(picture.values) - 1) / 2) * width
        place.bar(at, np.asarray(picture.values[name], dtype=np.float64), width, color=colour, label=name)
    place.set_xticks(np.arange(n), picture.labels, rotation=60 if n > 6 else 0, ha="right" if n > 6 else "center")
    place.set(ylabel=picture.y_label, title=picture.title, yscale="log" if picture.log_y else "linear")
    if len(picture.values) > 1:
        place.legend()
    return figure


def _colours(n: int) -> list[str]:
    return [COLOURS[k % len(COLOURS)] for k in range(n)]


def _save_animation(picture: Animation, path: Path) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(frame) for frame in picture.frames)
    milliseconds = max(20, round(1000 / picture.fps / 10) * 10)  # the format counts hundredths of a second
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
