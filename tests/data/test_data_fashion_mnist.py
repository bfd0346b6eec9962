"""Reading IDX files, whole and damaged."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from foreknow.common.errors import InputError
from foreknow.data.fashion_mnist import fashion_mnist


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, n in (("train", 5), ("t10k", 3)):
        images = rng.integers(0, 256, (n, 4, 6)).astype(np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.arange(n).astype(np.uint8))))
    return tmp_path


def test_reads_what_was_written(folder: Path) -> None:
    data = fashion_mnist(folder)
    expected = np.random.default_rng(0).integers(0, 256, (5, 4, 6)).astype(np.uint8)
    assert np.array_equal(data.x, expected)
    assert data.x_test.shape == (3, 4, 6) and data.y_test.tolist() == [0, 1, 2] and len(data.classes) == 10


def test_plain_files_are_read_too(folder: Path) -> None:
    for file in folder.glob("*.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert len(fashion_mnist(folder).x) == 5


def test_missing_files_say_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0\0\x08\x01\0\0\0\x05", idx(np.arange(5).astype(np.uint8))[:-1], idx(np.zeros((5, 1), np.uint8))],
)
def test_damaged_files_are_named(folder: Path, raw: bytes) -> None:
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(raw))
    with pytest.raises(InputError, match="train-labels-idx1-ubyte"):
        fashion_mnist(folder)


def test_no_gzip_labels_out_of_range_and_unequal_numbers(folder: Path) -> None:
    labels = folder / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(b"no gzip")
    with pytest.raises(InputError, match="cannot be read"):
        fashion_mnist(folder)
    labels.write_bytes(gzip.compress(idx(np.full(5, 10, np.uint8))))
    with pytest.raises(InputError, match="label 10"):
        fashion_mnist(folder)
    labels.write_bytes(gzip.compress(idx(np.arange(4).astype(np.uint8))))
    with pytest.raises(InputError, match="5 images and 4 labels"):
        fashion_mnist(folder)
