"""A user's files: images in folders of classes, arrays in .npz, and networks as exported programs."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foreknow.common.errors import ConfigError, InputError
from foreknow.common.validate import check_known

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def check_options(owner: str, options: Mapping[str, str], known: Sequence[str]) -> None:
    """Refuse unknown options."""
    check_known(owner, options, known, what="option")


def read_rows(owner: str, path: Path, *, labelled: bool) -> tuple[NDArray[Any], NDArray[Any] | None, list[str]]:
    """Rows, labels and names of the rows.

    Args:
        owner: who asks.
        path: folder of images (with a subfolder for each class, if labelled), or .npz with the arrays X and y.
        labelled: whether labels are needed.

    Raises:
        InputError: there is no such thing, it is damaged, or images differ in size.
    """
    if path.is_dir():
        return _read_images(owner, path, labelled)
    if path.suffix.lower() != ".npz" or not path.is_file():
        raise InputError(
            f"{owner}: {str(path)!r} is neither a folder of images nor a file .npz with the arrays X and y.",
            hint="Put the images of each class into a subfolder, or use numpy.savez(file, X=X, y=y).",
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in ("X", "y")}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{owner}: {path} cannot be read: {error}") from error
    missing = [name for name in (("X", "y") if labelled else ("X",)) if name not in found]
    if missing:
        raise InputError(f"{owner}: {path} has no array {missing[0]!r}.")
    return found["X"], found.get("y"), [str(i) for i in range(len(found["X"]))]


def _read_images(owner: str, folder: Path, labelled: bool) -> tuple[NDArray[Any], NDArray[Any] | None, list[str]]:
    from PIL import Image

    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGES)
    if labelled:
        files = [file for file in files if file.parent.parent == folder]
    if not files:
        where = "in a subfolder for each class" if labelled else "in it"
        raise InputError(f"{owner}: the folder {str(folder)!r} has no images {where} ({', '.join(IMAGES)}).")
    images = []
    for file in files:
        try:
            with Image.open(file) as image:
                grey = image.mode in ("1", "L", "I;16", "LA")
                images.append(np.asarray(image.convert("L" if grey else "RGB"), dtype=np.float32) / 255)
        except OSError as error:
            raise InputError(f"{owner}: {file} cannot be read as an image: {error}") from error
        if images[-1].shape != images[0].shape:
            raise InputError(
                f"{owner}: images must have one size and kind; {files[0].name} is {images[0].shape}, "
                f"{file.name} is {images[-1].shape}."
            )
    stacked = np.stack(images)
    X = stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)
    names = [str(file.relative_to(folder)) for file in files]
    return np.ascontiguousarray(X), np.array([file.parent.name for file in files]) if labelled else None, names


def read_model(owner: str, path: Path) -> torch.export.ExportedProgram:
    """A network that `torch.export.save` wrote.

    Raises:
        ConfigError: it is no such file.
    """
    hint = "Write it with torch.export.save(torch.export.export(net.eval(), (x,)), 'net.pt2')."
    if not path.is_file():
        raise ConfigError(f"{owner}: there is no file model={str(path)!r}.", hint=hint)
    log = logging.getLogger("torch.export")
    level = log.level
    try:
        log.setLevel(logging.CRITICAL)  # it would write a traceback beside the message below
        return torch.export.load(path)
    except Exception as error:  # torch raises errors of many kinds for what is no archive of its own
        raise ConfigError(
            f"{owner}: model={str(path)!r} cannot be read as an exported program: {error!s:.200}", hint=hint
        ) from error
    finally:
        log.setLevel(level)
