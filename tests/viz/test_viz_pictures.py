import numpy as np
import pytest
from PIL import Image

from foreknow.common.errors import ConfigError, InputError
from foreknow.core.pictures import Animation, Bars, ImageGrid, Lines
from foreknow.viz.pictures import draw_picture, save_picture

SQUARE = np.linspace(0, 1, 16).reshape(4, 4)
X = np.arange(1.0, 6.0)


def test_every_kind_is_written(tmp_path):
    frames = np.stack([np.full((8, 6, 3), 40 * k, dtype=np.uint8) for k in range(4)])
    kinds = {
        "images": ImageGrid([[SQUARE, None], [np.ones((4, 4, 3))]], ["before", "after"], ["one", "two"], "title"),
        "lines": Lines({"a": X, "b": X[:3]}, {"a": X**2, "b": X[:3]}, "x", "y", bands={"a": (X, X**3)}, log_y=True),
        "bars": Bars(["one", "two"], {"on": [1, 2], "off": [2, 1]}, "error"),
        "motion": Animation(frames, fps=20),
    }
    for name, picture in kinds.items():
        with Image.open(save_picture(picture, tmp_path / name)) as image:
            assert image.format == ("GIF" if name == "motion" else "PNG")
            if name == "motion":
                assert (image.n_frames, image.size, image.info["duration"]) == (4, (6, 8), 50)


def test_shades_are_those_of_the_limits():
    shown = draw_picture(ImageGrid([[SQUARE]])).axes[0].images[0].get_array()
    assert np.allclose(shown, SQUARE)
    stretched = draw_picture(ImageGrid([[3 * SQUARE - 1, np.zeros((4, 4))]], limits=None)).axes[0].images[0].get_array()
    assert np.allclose(stretched, SQUARE)


def test_lines_and_bars_show_the_numbers():
    place = draw_picture(Lines(X, {"a": X**2}, "x (s)", "y")).axes[0]
    assert np.allclose(place.lines[0].get_ydata(), X**2)
    assert place.get_xlabel() == "x (s)" and place.lines[0].get_marker() == "None"
    dots = draw_picture(Lines(X, {"a": X, "seen": X}, "x", "y", dots=["seen"])).axes[0].lines
    assert [(line.get_linestyle(), line.get_marker()) for line in dots] == [("-", "None"), ("None", "o")]
    bars = draw_picture(Bars(["one", "two"], {"on": [1, 2]}, "error")).axes[0].patches
    assert [bar.get_height() for bar in bars] == [1, 2]


def test_an_ending_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"written to \.png"):
        save_picture(Bars(["one"], {"on": [1]}, "y"), tmp_path / "bars.gif")


@pytest.mark.parametrize(
    "make",
    [
        lambda: ImageGrid([]),
        lambda: ImageGrid([[np.zeros((2, 2, 2))]]),
        lambda: Lines(X, {}, "x", "y"),
        lambda: Lines(X, {"a": X[:2]}, "x", "y"),
        lambda: Bars(["one"], {"on": [1, 2]}, "y"),
        lambda: Animation(np.zeros((2, 4, 4, 3))),
        lambda: Animation(np.zeros((0, 4, 4, 3), dtype=np.uint8)),
    ],
)
def test_records_that_show_nothing_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_bands_of_unknown_lines_are_refused():
    with pytest.raises(ConfigError, match="unknown lines"):
        Lines(X, {"a": X}, "x", "y", bands={"b": (X, X)})
    with pytest.raises(ConfigError, match="dots of unknown lines"):
        Lines(X, {"a": X}, "x", "y", dots=["b"])
