"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017; MIT): 60000 + 10000 images of clothes, 28 x 28, ten classes.

Read from its four IDX files, where they are: Debian's package dataset-fashion-mnist brings them, and so does the data
set's own page.
"""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foreknow.common.errors import InputError

FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package puts the files."""
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@dataclass(frozen=True)
class Images:
    """Grey images with classes.

    Args:
        x, x_test: uint8, shape (n, height, width).
        y, y_test: class codes, shape (n,), an index of `classes`.
        classes: their names.
    """

    x: NDArray[np.uint8]
    y: NDArray[np.int64]
    x_test: NDArray[np.uint8]
    y_test: NDArray[np.int64]
    classes: tuple[str, ...] = CLASSES


def fashion_mnist(folder: str | Path | None = None) -> Images:
    """All of Fashion-MNIST.

    Args:
        folder: with the four files `train-images-idx3-ubyte.gz`, `train-labels-idx1-ubyte.gz`, and `t10k-...` (or
            without the ".gz"); by default Debian's.

    Raises:
        InputError: a file is missing or damaged.
    """
    place = FOLDER if folder is None else Path(folder)
    parts = {
        part: (_read(place, f"{part}-images-idx3-ubyte", 3), _read(place, f"{part}-labels-idx1-ubyte", 1))
        for part in ("train", "t10k")
    }
    for part, (images, labels) in parts.items():
        if len(images) != len(labels):
            raise InputError(f"fashion_mnist: {part} has {len(images)} images and {len(labels)} labels in {place}.")
        if labels.max(initial=0) >= len(CLASSES):
            raise InputError(f"fashion_mnist: {part} has a label {labels.max()}; they must be below {len(CLASSES)}.")
    (x, y), (x_test, y_test) = parts["train"], parts["t10k"]
    return Images(x, y.astype(np.int64), x_test, y_test.astype(np.int64))


def _read(folder: Path, name: str, n_axes: int) -> NDArray[np.uint8]:
    """One IDX file of bytes: two zeros, type 8, the number of axes, their lengths (big-endian), the values."""
    packed, plain = folder / f"{name}.gz", folder / name
    try:
        raw = gzip.decompress(packed.read_bytes()) if packed.is_file() else plain.read_bytes()
    except FileNotFoundError as error:
        raise InputError(
            f"fashion_mnist: {packed} is not there.",
            hint="Install Debian's package dataset-fashion-mnist, or name the folder that holds the four IDX files.",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"fashion_mnist: {packed} cannot be read: {error}.") from error
    shape = tuple(int(size) for size in np.frombuffer(raw[4 : 4 + 4 * n_axes], dtype=">u4"))
    start = 4 + 4 * n_axes
    if raw[:4] != bytes([0, 0, 8, n_axes]) or len(shape) != n_axes or len(raw) - start != int(np.prod(shape)):
        raise InputError(
            f"fashion_mnist: {name} in {folder} is no IDX file of bytes with {n_axes} axes, or is cut short."
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
