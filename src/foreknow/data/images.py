"""Images from a user's files as arrays (n, C, H, W) with values in [0, 1], and back to files.

Pillow reads them. Integers are divided by the largest value of their type; floating images (tif) must be in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foreknow.common.deps import require
from foreknow.common.errors import InputError, ResourceError
from foreknow.common.rng import numpy_stream
from foreknow.common.validate import check_int, check_option, check_real

ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")
FITS = ("crop", "patches", "resize", "whole")
_LARGEST_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Images:
    """Images of one size.

    Args:
        pixels: shape (n, C, H, W), float32 in [0, 1].
        sources: number of the file each comes from, shape (n,).
        files: the files.
    """

    pixels: NDArray[np.float32]
    sources: NDArray[np.int64]
    files: tuple[Path, ...]

    def split(self, share: float, seed: int) -> tuple[Images, Images]:
        """Two parts, of which the second holds about `share` of the files; a file's images stay together.

        Raises:
            InputError: there are fewer than two files.
        """
        check_real("Images.split", "share", share, low=0.0, high=1.0)
        if len(self.files) < 2:
            raise InputError("Images.split: at least two files are needed.")
        order = numpy_stream(seed, "images", "split").permutation(len(self.files))
        n_second = min(max(1, round(share * len(order))), len(order) - 1)
        second = np.isin(self.sources, order[:n_second])
        return self._take(~second), self._take(second)

    def _take(self, chosen: NDArray[np.bool_]) -> Images:
        return Images(self.pixels[chosen], self.sources[chosen], self.files)


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The image files among `paths`, folders replaced by the images in them (in order of name, not deeper).

    Raises:
        InputError: a path does not exist or is no image, a folder holds none, or there is no path.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
            if not inside:
                raise InputError(f"the folder {str(path)!r} holds no image ({', '.join(ENDINGS)}).")
            found += inside
        elif not path.is_file():
            raise InputError(f"there is no file {str(path)!r}.")
        elif path.suffix.lower() not in ENDINGS:
            raise InputError(f"{path.name!r} is no image; these are read: {', '.join(ENDINGS)}.")
        else:
            found.append(path)
    if not found:
        raise InputError("no image was given.", hint="Name image files, or a folder of them.")
    return found


def read_image(path: str | Path, *, channels: int | None = None) -> NDArray[np.float32]:
    """One image, shape (C, H, W), values in [0, 1].

    Args:
        path: of the file.
        channels: 1 for grey, 3 for colour; by default as in the file (palettes and transparency become colour).

    Raises:
        InputError: it cannot be read, or holds values outside [0, 1].
        MissingExtraError: Pillow is not installed.
    """
    pil = require("PIL.Image", "Reading images")
    try:
        with pil.open(path) as image:
            wide = image.mode.startswith("I") or image.mode == "F"
            if not wide:
                grey = image.mode in ("1", "L", "LA") if channels is None else channels == 1
                image = image.convert("L" if grey else "RGB")
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
        raise InputError(f"{str(path)!r} cannot be read as an image: {error}") from error
    if pixels.dtype.kind in "iu":
        top = 255.0 if pixels.dtype == np.uint8 else 65535.0
        pixels = pixels.astype(np.float32) / np.float32(top)
    pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
        raise InputError(
            f"{str(path)!r}: values must be in [0, 1], got {pixels.min():g} to {pixels.max():g}.",
            hint="Rescale floating images to [0, 1].",
        )
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if channels is not None and len(pixels) != channels:
        pixels = np.repeat(pixels, channels, axis=0)
    return np.ascontiguousarray(pixels)


def read_images(
    paths: Sequence[str | Path],
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str = "whole",
    stride: int | None = None,
) -> Images:
    """Images of one size from files and folders.

    Args:
        paths: files and folders.
        size: (height, width); by default that of the first image.
        channels: 1 or 3; by default 3 if the first image has colours.
        fit: "whole" refuses images of another size; "resize" stretches them; "crop" resizes them to cover and cuts
            the middle; "patches" cuts them into pieces, a border narrower than a piece left out.
        stride: pixels between pieces, by default their size.

    Raises:
        InputError: a file cannot be read, or has the wrong size.
        ResourceError: the images would need more than 8 GiB.
    """
    check_option("read_images", "fit", fit, FITS)
    if channels is not None and channels not in (1, 3):
        raise InputError(f"read_images: channels must be 1 or 3, got {channels!r}.")
    files = image_files(paths)
    pieces: list[NDArray[np.float32]] = []
    sources: list[int] = []
    needed = 0
    for number, file in enumerate(files):
        image = read_image(file, channels=channels)
        channels = len(image)
        size = size or (image.shape[1], image.shape[2])
        for piece in _fitted(image, size, fit, stride, file):
            needed += piece.nbytes
            if needed > _LARGEST_BYTES:
                raise ResourceError(
                    f"these images need more than {_LARGEST_BYTES / 2**30:g} GiB.",
                    hint="Give fewer files, or a larger stride.",
                )
            pieces.append(piece)
            sources.append(number)
    if not pieces:
        raise InputError(f"no image has a piece of {size} pixels.", hint="Use a smaller size.")
    return Images(np.stack(pieces), np.array(sources), tuple(files))


def write_image(path: str | Path, image: NDArray[Any]) -> Path:
    """Write an image (C, H, W) as 8-bit png; values outside [0, 1] are clipped."""
    pil = require("PIL.Image", "Writing images")
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    file = Path(path)
    pil.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(file, "PNG")
    return file


def patches(image: NDArray[Any], size: tuple[int, int], stride: int | None = None) -> list[NDArray[Any]]:
    """Pieces of an image (C, H, W), each (C, *size)."""
    (h, w), step = size, (stride, stride) if stride else size
    check_int("patches", "stride", min(step), low=1)
    _, height, width = image.shape
    return [
        image[:, top : top + h, left : left + w]
        for top in range(0, height - h + 1, step[0])
        for left in range(0, width - w + 1, step[1])
    ]


def _fitted(
    image: NDArray[np.float32], size: tuple[int, int], fit: str, stride: int | None, file: Path
) -> list[NDArray[np.float32]]:
    if fit == "patches":
        return patches(image, size, stride)
    if image.shape[1:] == size:
        return [image]
    if fit == "whole":
        raise InputError(
            f"{file.name!r} has {image.shape[1]} x {image.shape[2]} pixels, {size[0]} x {size[1]} are needed.",
            hint="Resize, crop or cut the images into patches.",
        )
    if fit == "crop":
        factor = max(size[0] / image.shape[1], size[1] / image.shape[2])
        height, width = (max(round(n * factor), s) for n, s in zip(image.shape[1:], size, strict=True))
        large = _resized(image, (height, width))
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        return [large[:, top : top + size[0], left : left + size[1]]]
    return [_resized(image, size)]


def _resized(image: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    pil = require("PIL.Image", "Resizing images")
    planes = [pil.fromarray(plane).resize(size[::-1], pil.Resampling.BILINEAR) for plane in image]
    return np.clip(np.stack([np.asarray(plane, dtype=np.float32) for plane in planes]), 0, 1)
