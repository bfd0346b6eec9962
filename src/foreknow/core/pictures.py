"""Pictures as records: what is to be seen, without a word on how. `foreknow.viz` draws them, rooms only make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import as_array


@dataclass(frozen=True)
class ImageGrid:
    """Images in rows and columns, for instance before and after.

    Args:
        images: rows of images, each (h, w) or (h, w, 3); values in [0, 1] unless `limits` says otherwise. None
            leaves a place empty.
        column_titles: over the columns.
        row_titles: beside the rows.
        title: over all.
        limits: (low, high) that are drawn black and white; None takes each row's own smallest and largest value.
    """

    images: Sequence[Sequence[ArrayLike | None]]
    column_titles: Sequence[str] = ()
    row_titles: Sequence[str] = ()
    title: str = ""
    limits: tuple[float, float] | None = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not self.images or not any(len(row) for row in self.images):
            raise InputError("ImageGrid: there is no image.")
        for row in self.images:
            for image in row:
                shape = (2,) if image is None else np.shape(image)
                if image is not None and not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
                    raise InputError(f"ImageGrid: an image must be (h, w) or (h, w, 3), got shape {shape}.")


@dataclass(frozen=True)
class Lines:
    """Lines over a common axis, with bands where they are uncertain.

    Args:
        x: the axis, shape (n,); or one axis a line, by its name.
        lines: name -> values, shape (n,); NaN leaves a gap.
        x_label, y_label: of the axes, with units.
        title: over all.
        bands: name of a line -> its lower and upper values.
        dots: names of lines that are points, which nothing joins.
        log_x, log_y: logarithmic axes.
    """

    x: ArrayLike | Mapping[str, ArrayLike]
    lines: Mapping[str, ArrayLike]
    x_label: str
    y_label: str
    title: str = ""
    bands: Mapping[str, tuple[ArrayLike, ArrayLike]] = field(default_factory=dict)
    dots: Sequence[str] = ()
    log_x: bool = False
    log_y: bool = False

    def __post_init__(self) -> None:
        if not self.lines:
            raise InputError("Lines: there is no line.")
        for what, names in {"bands": self.bands, "dots": self.dots}.items():
            unknown = [name for name in names if name not in self.lines]
            if unknown:
                raise ConfigError(f"Lines: {what} of unknown lines {unknown}; the lines are {list(self.lines)}.")
        for name, values in self.lines.items():
            if np.shape(values) != np.shape(self.x_of(name)):
                raise InputError(f"Lines: {name!r} has shape {np.shape(values)}, its axis {np.shape(self.x_of(name))}.")

    def x_of(self, name: str) -> NDArray[Any]:
        """The axis of the line `name`."""
        return np.asarray(self.x[name] if isinstance(self.x, Mapping) else self.x)


@dataclass(frozen=True)
class Bars:
    """Grouped bars: one group a label, one bar in it a series.

    Args:
        labels: of the groups.
        values: name of the series -> one number a group.
        y_label: of the axis, with its unit.
        title: over all.
        log_y: logarithmic axis.
    """

    labels: Sequence[str]
    values: Mapping[str, ArrayLike]
    y_label: str
    title: str = ""
    log_y: bool = False

    def __post_init__(self) -> None:
        if not self.labels or not self.values:
            raise InputError("Bars: there is no bar.")
        for name, values in self.values.items():
            if np.shape(values) != (len(self.labels),):
                raise InputError(f"Bars: {name!r} has shape {np.shape(values)} for {len(self.labels)} labels.")


@dataclass(frozen=True)
class Animation:
    """A moving picture.

    Args:
        frames: shape (n, h, w, 3), 0 to 255.
        fps: frames a second.
        title: not drawn; a program's description.
    """

    frames: NDArray[np.uint8]
    fps: float = 25.0
    title: str = ""

    def __post_init__(self) -> None:
        as_array("Animation", self.frames, name="frames", axes=(4,))
        if self.frames.dtype != np.uint8 or self.frames.shape[3] != 3:
            raise InputError(
                f"Animation: frames must be uint8 of shape (n, h, w, 3), got {self.frames.dtype} {self.frames.shape}."
            )
        if not self.fps > 0:
            raise ConfigError(f"Animation: fps must be greater than 0, got {self.fps!r}.")


Picture = ImageGrid | Lines | Bars | Animation
