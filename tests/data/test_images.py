"""Images from files: values, sizes, pieces, splits by file, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from foreknow.common.errors import ConfigError, InputError
from foreknow.data.images import image_files, patches, read_image, read_images, write_image
from foreknow.data.photos import PHOTOGRAPHS, handwritten_digits, photographs


@pytest.fixture
def picture():
    return (np.arange(3 * 20 * 30) % 256).astype(np.uint8).reshape(20, 30, 3)


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_colours_survive_being_written_and_read(tmp_path, picture, ending) -> None:
    Image.fromarray(picture).save(tmp_path / f"one.{ending}")
    found = read_image(tmp_path / f"one.{ending}")
    assert found.shape == (3, 20, 30) and found.dtype == np.float32
    assert np.array_equal((found * 255).round().astype(np.uint8), picture.transpose(2, 0, 1))
    again = read_image(write_image(tmp_path / "two.png", found))
    assert np.array_equal(again, found)
    assert read_image(tmp_path / f"one.{ending}", channels=1).shape == (1, 20, 30)


def test_jpeg_grey_sixteen_bit_floating_and_transparent_images_are_read(tmp_path, picture) -> None:
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.jpg")
    assert read_image(tmp_path / "grey.jpg").shape == (1, 20, 30)
    assert read_image(tmp_path / "grey.jpg", channels=3).shape == (3, 20, 30)
    deep = np.array([[0, 65535], [32768, 1]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png")[0] == pytest.approx(deep / 65535)
    Image.fromarray(np.array([[0.25, 1.0]], dtype=np.float32)).save(tmp_path / "float.tif")
    assert read_image(tmp_path / "float.tif").tolist() == [[[0.25, 1.0]]]
    Image.fromarray(picture).convert("RGBA").save(tmp_path / "clear.png")
    assert read_image(tmp_path / "clear.png").shape == (3, 20, 30)


def test_floating_images_must_lie_in_the_unit_range(tmp_path) -> None:
    Image.fromarray(np.array([[0.5, 200.0]], dtype=np.float32)).save(tmp_path / "large.tif")
    with pytest.raises(InputError, match=r"in \[0, 1\], got 0.5 to 200"):
        read_image(tmp_path / "large.tif")


def test_a_folder_gives_its_images_in_order_and_nothing_else(tmp_path, picture) -> None:
    for name in ("b.png", "a.PNG"):
        Image.fromarray(picture).save(tmp_path / name, "PNG")
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    assert [file.name for file in image_files([tmp_path])] == ["a.PNG", "b.png"]
    (tmp_path / "empty").mkdir()
    for bad, match in ((tmp_path / "empty", "no image"), (tmp_path / "none.png", "no file"),
                       (tmp_path / "notes.txt", "is no image")):  # fmt: skip
        with pytest.raises(InputError, match=match):
            image_files([bad])
    with pytest.raises(InputError, match="no image was given"):
        image_files([])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n rubbish")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "broken.png")


def test_sizes_are_made_to_fit_as_asked(tmp_path, picture) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[:, :20]).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"'b.png' has 20 x 20 pixels, 20 x 30 are needed"):
        read_images([tmp_path])
    for fit in ("crop", "resize"):
        found = read_images([tmp_path], size=(10, 12), fit=fit).pixels
        assert found.shape == (2, 3, 10, 12) and found.min() >= 0 and found.max() <= 1
    cut = read_images([tmp_path], size=(10, 10), fit="patches", channels=1)
    assert cut.pixels.shape == (6 + 4, 1, 10, 10) and cut.sources.tolist() == [0] * 6 + [1] * 4
    assert np.array_equal(cut.pixels[1], read_image(tmp_path / "a.png", channels=1)[:, :10, 10:20])
    with pytest.raises(InputError, match="no image has a piece"):
        read_images([tmp_path], size=(99, 99), fit="patches")
    with pytest.raises(ConfigError, match="fit must be one of"):
        read_images([tmp_path], fit="squeeze")
    with pytest.raises(InputError, match="1 or 3"):
        read_images([tmp_path], channels=2)


def test_pieces_overlap_by_the_stride() -> None:
    image = np.arange(25.0).reshape(1, 5, 5)
    found = patches(image, (3, 3), 2)
    assert [piece[0, 0, 0] for piece in found] == [0, 2, 10, 12]


def test_a_split_keeps_the_pieces_of_a_file_together(tmp_path, picture) -> None:
    for number in range(5):
        Image.fromarray(np.roll(picture, number, 0)).save(tmp_path / f"{number}.png")
    images = read_images([tmp_path], size=(10, 10), fit="patches")
    first, second = images.split(0.4, seed=0)
    assert set(first.sources) | set(second.sources) == set(range(5)) and len(set(second.sources)) == 2
    assert not set(first.sources) & set(second.sources)
    with pytest.raises(InputError, match="two files"):
        read_images([tmp_path / "0.png"]).split(0.5, seed=0)


def test_photographs_and_digits_come_with_their_packages() -> None:
    grey = photographs()
    assert tuple(grey) == PHOTOGRAPHS
    for image in grey.values():
        assert image.ndim == 3 and len(image) == 1 and 0 <= image.min() < image.max() <= 1
    assert photographs(grey=False)["coffee"].shape[0] == 3
    images, labels = handwritten_digits()
    assert images.shape == (5000, 1, 28, 28) and images.dtype == np.float32 and (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [500] * 10
    assert not images.flags.writeable
